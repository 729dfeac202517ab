//! Addresses of repositories in the notations of other tools.

use url::Url;

use super::super::lock;
use super::super::tree::Node;
use super::build;

/// `git@host:path` and `/path` become URLs; the manifest's rules judge everything else.
pub fn from_kas(node: &Node) -> Node {
    build::text(url(node.as_text().unwrap_or_default()), &node.place)
}

pub fn url(text: &str) -> String {
    if text.contains("://") {
        return text.to_owned();
    }
    if text.starts_with('/') {
        return format!("file://{text}");
    }
    match text.split_once(':') {
        // As git decides: a colon before the first slash.
        Some((host, path)) if !host.contains('/') && !path.starts_with('/') => format!("ssh://{host}/{path}"),
        Some((host, path)) if !host.contains('/') => format!("ssh://{host}{path}"),
        _ => text.to_owned(),
    }
}

/// The URL of an address that no file of the user has, such as that of a clone: a credential in it must not get into a
/// manifest. `None`, if it is no URL.
pub fn without_credentials(text: &str) -> Option<Url> {
    let url = Url::parse(&url(text)).ok()?;
    Url::parse(&lock::without_credentials(&url)).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_of_a_clone_are_removed() {
        for (text, wanted) in [
            ("https://ci:secret@host/a.git", Some("https://host/a.git")),
            ("https://token@host/a.git", Some("https://host/a.git")),
            ("git@host:a.git", Some("ssh://git@host/a.git")),
            ("ssh://git:secret@host/a.git", Some("ssh://git@host/a.git")),
            ("../a.git", None),
        ] {
            let found = super::without_credentials(text).map(String::from);
            assert_eq!(found.as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn short_forms_become_urls() {
        for (text, wanted) in [
            ("https://github.com/a/b.git", "https://github.com/a/b.git"),
            ("git@github.com:a/b.git", "ssh://git@github.com/a/b.git"),
            ("host:/srv/b.git", "ssh://host/srv/b.git"),
            ("/srv/git/b", "file:///srv/git/b"),
            ("../b", "../b"),
        ] {
            assert_eq!(super::url(text), wanted);
        }
    }
}
