//! Addresses of repositories in the notations of other tools.

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

#[cfg(test)]
mod tests {
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
