//! How this site reaches git servers: mirrors instead of addresses, credentials by address, and a key for ssh.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use agent_types::secret::Secret;

use super::address;

/// The settings of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    pub mirrors: Vec<Mirror>,
    pub credentials: Vec<Credential>,
    /// The file of the private key that ssh uses, absolute.
    pub ssh_key: Option<PathBuf>,
    /// The file with the public keys of ssh servers, absolute.
    pub ssh_known_hosts: Option<PathBuf>,
}

/// Addresses that begin with `from` are used as if they began with `to`. Both end with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub from: String,
    /// Without credentials.
    pub to: Url,
}

/// What an http server gets if the address begins with `prefix`, which ends with `/`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub prefix: String,
    pub user: String,
    pub password: Secret,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Sites {
    /// The address that git uses instead: that of the longest prefix, as git itself chooses.
    pub fn mirrored(&self, url: &Url) -> Option<Url> {
        let text = address::bare(url).to_string();
        let fitting = self.mirrors.iter().filter(|mirror| text.starts_with(&mirror.from));
        let mirror = fitting.max_by_key(|mirror| mirror.from.len())?;
        Url::parse(&format!("{}{}", mirror.to, &text[mirror.from.len()..])).ok()
    }

    /// The `Authorization` header for an address, by the longest prefix.
    pub(super) fn authorization(&self, url: &Url) -> Option<String> {
        let text = address::bare(url).to_string();
        let fitting = self.credentials.iter().filter(|one| text.starts_with(&one.prefix));
        let found = fitting.max_by_key(|one| one.prefix.len())?;
        Some(address::basic(found.user.as_bytes(), found.password.value.as_bytes()))
    }

    /// Git's settings for the mirrors.
    pub(super) fn configuration(&self) -> impl Iterator<Item = (String, String)> {
        self.mirrors.iter().map(|mirror| (format!("url.{}.insteadOf", mirror.to), mirror.from.clone()))
    }

    /// The options of ssh, each after a blank.
    pub(super) fn ssh_options(&self) -> String {
        let quoted = |path: &PathBuf| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
        let key = self.ssh_key.iter().map(|path| format!(" -o IdentitiesOnly=yes -i {}", quoted(path)));
        let hosts = self.ssh_known_hosts.iter();
        // ssh itself removes the quotes in a value.
        let hosts = hosts.map(|path| format!(" -o UserKnownHostsFile={}", quoted(path)));
        key.chain(hosts).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sites() -> Sites {
        let mirror = |from: &str, to: &str| Mirror { from: from.into(), to: Url::parse(to).unwrap() };
        let credential = |prefix: &str, password: &str| Credential {
            prefix: prefix.into(),
            user: "u".into(),
            password: Secret { origin: String::new(), value: password.into() },
        };
        Sites {
            mirrors: vec![
                mirror("https://github.com/", "https://mirror.example/gh/"),
                mirror("https://github.com/group/", "file:///srv/group/"),
            ],
            credentials: vec![
                credential("https://gitlab.example/", "all"),
                credential("https://gitlab.example/group/", "group"),
            ],
            ssh_key: Some("/k/it's".into()),
            ssh_known_hosts: None,
        }
    }

    #[test]
    fn the_longest_prefix_counts() {
        for (url, wanted) in [
            ("https://github.com/a/b.git", Some("https://mirror.example/gh/a/b.git")),
            ("https://u:secret@github.com/a/b", Some("https://mirror.example/gh/a/b")),
            ("https://github.com/group/b", Some("file:///srv/group/b")),
            ("https://github.com.evil.example/a", None),
            ("http://github.com/a", None),
        ] {
            let found = sites().mirrored(&Url::parse(url).unwrap());
            assert_eq!(found.map(|url| url.to_string()).as_deref(), wanted, "{url}");
        }
        // `printf u:all | base64`
        for (url, wanted) in [
            ("https://gitlab.example/x", Some("Basic dTphbGw=")),
            ("https://gitlab.example/group/x", Some("Basic dTpncm91cA==")),
            ("https://gitlab.example.evil/x", None),
            ("http://gitlab.example/x", None),
        ] {
            assert_eq!(sites().authorization(&Url::parse(url).unwrap()).as_deref(), wanted, "{url}");
        }
    }

    #[test]
    fn the_key_is_quoted_and_no_password_is_shown() {
        assert_eq!(sites().ssh_options(), " -o IdentitiesOnly=yes -i '/k/it'\\''s'");
        assert!(
            !format!("{:?}", sites()).contains("group\")")
                && !format!("{:?}", sites().credentials).contains("all")
        );
    }
}
