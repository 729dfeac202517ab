//! URLs of repositories, with and without the credentials in them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

/// The URL for people: without credentials and without a query, which may contain a token.
pub fn display_url(url: &Url) -> String {
    let mut shown = bare(url);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// The URL without credentials, for git's command line. The user of an SSH URL is not a secret, and git needs
/// it.
pub fn bare(url: &Url) -> Url {
    let mut bare = url.clone();
    // Both fail only for URLs without a host, which have no credentials.
    let _ = bare.set_password(None);
    if is_http(url) {
        let _ = bare.set_username("");
    }
    bare
}

/// The value of the `Authorization` header for the credentials in the URL.
pub fn authorization(url: &Url) -> Option<String> {
    if !is_http(url) || (url.username().is_empty() && url.password().is_none()) {
        return None;
    }
    let user: Vec<u8> = percent_decode_str(url.username()).collect();
    let password: Vec<u8> = percent_decode_str(url.password().unwrap_or_default()).collect();
    Some(basic(&user, &password))
}

/// Encodes credentials for HTTP's basic scheme (RFC 7617).
pub fn basic(user: &[u8], password: &[u8]) -> String {
    format!("Basic {}", STANDARD.encode([user, b":", password].concat()))
}

pub fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// Whether the URL is the combined `poky` repository or a mirror of it.
pub fn is_poky(url: &Url) -> bool {
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.trim_end_matches(".git") == "poky"
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn removes_credentials_from_urls() {
        let table = [
            ("https://git.yoctoproject.org/poky", "https://git.yoctoproject.org/poky", None),
            // `printf user:pass | base64`
            ("https://user:pass@h.example/r.git", "https://h.example/r.git", Some("Basic dXNlcjpwYXNz")),
            ("https://user:pass@h.example:8443/r", "https://h.example:8443/r", Some("Basic dXNlcjpwYXNz")),
            // A token as the user is a secret, too: `printf tok: | base64`.
            ("https://tok@github.com/a/b", "https://github.com/a/b", Some("Basic dG9rOg==")),
            // `printf 'a@b:c/d' | base64`
            ("http://a%40b:c%2Fd@h.example/r", "http://h.example/r", Some("Basic YUBiOmMvZA==")),
            ("ssh://git@github.com/a/b", "ssh://git@github.com/a/b", None),
            ("ssh://git:secret@github.com/a/b", "ssh://git@github.com/a/b", None),
            ("file:///srv/git/r.git", "file:///srv/git/r.git", None),
        ];
        for (given, wanted, header) in table {
            let url = Url::parse(given).unwrap();
            assert_eq!(bare(&url).as_str(), wanted, "{given}");
            assert_eq!(display_url(&url), wanted, "{given}");
            assert_eq!(authorization(&url).as_deref(), header, "{given}");
        }
        let url = Url::parse("https://h.example/r?private_token=secret#frag").unwrap();
        assert_eq!(display_url(&url), "https://h.example/r");
    }

    #[test]
    fn recognizes_poky_by_its_name() {
        for (given, wanted) in [
            ("https://git.yoctoproject.org/poky", true),
            ("https://git.yoctoproject.org/git/poky.git/", true),
            ("https://github.com/yoctoproject/poky-contrib", false),
            ("https://git.openembedded.org/bitbake", false),
        ] {
            assert_eq!(is_poky(&Url::parse(given).unwrap()), wanted, "{given}");
        }
    }
}
