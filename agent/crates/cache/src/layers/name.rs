//! Derives the directory name of a repository from its URL.

use sha2::{Digest, Sha256};
use url::Url;

use agent_git::display_url;
use agent_types::words::hexadecimal;

/// A repository's name in a store: only letters, digits, `.`, `_` and `-`.
///
/// URLs that differ only in credentials, query, trailing slash or `.git` have the same name. Another protocol
/// or port gives another name, because another server may answer there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoName {
    directory: String,
    short: String,
}

/// Maximum length of the readable part; the digest distinguishes shortened names.
const LONGEST: usize = 80;

/// Number of hexadecimal digits of the digest.
const DIGEST: usize = 10;

impl RepoName {
    pub fn of(url: &Url) -> RepoName {
        let shown = display_url(url);
        let address = shown.trim_end_matches('/');
        let address = address.strip_suffix(".git").unwrap_or(address).trim_end_matches('/');
        let digest = hexadecimal(&Sha256::digest(address.as_bytes())[..DIGEST / 2]);
        let place = address.split_once("://").map_or(address, |(_, place)| place);
        // The user of an SSH URL is part of the digest, but not of the readable part.
        let place = match place.split_once('/') {
            Some((host, path)) => format!("{}/{path}", host.rsplit('@').next().unwrap_or(host)),
            None => place.to_owned(),
        };
        let readable = plain(&place);
        // The end of a path is more specific than its start.
        let cut = readable.len().saturating_sub(LONGEST);
        let readable = readable[cut..].trim_matches(['.', '-']);
        let short = plain(address.rsplit('/').next().unwrap_or_default());
        let short: String = short.trim_matches(['.', '-']).chars().take(LONGEST).collect();
        RepoName {
            directory: format!("{readable}-{digest}").trim_start_matches('-').to_owned(),
            short: if short.is_empty() { "repo".into() } else { short },
        }
    }

    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The last part of the URL, e.g. `meta-openembedded`.
    pub fn short(&self) -> &str {
        &self.short
    }
}

fn plain(text: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.chars().map(|c| if good(c) { c } else { '-' }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn of(address: &str) -> RepoName {
        RepoName::of(&Url::parse(address).unwrap())
    }

    #[test]
    fn same_repository_has_one_name_for_all_forms_of_its_url() {
        let plain = of("https://github.com/agherzan/meta-raspberrypi");
        assert!(plain.directory().starts_with("github.com-agherzan-meta-raspberrypi-"), "{plain:?}");
        assert_eq!(plain.short(), "meta-raspberrypi");
        for same in [
            "https://github.com/agherzan/meta-raspberrypi/",
            "https://github.com/agherzan/meta-raspberrypi.git",
            "https://github.com/agherzan/meta-raspberrypi.git/",
            "https://GitHub.com/agherzan/meta-raspberrypi",
            "https://user:secret@github.com/agherzan/meta-raspberrypi",
            "https://token@github.com/agherzan/meta-raspberrypi.git?private_token=x#y",
        ] {
            assert_eq!(of(same), plain, "{same}");
        }
    }

    #[test]
    fn other_repositories_have_other_names() {
        let mut names: Vec<String> = [
            "https://github.com/a/b",
            "http://github.com/a/b",
            "https://github.com:8443/a/b",
            "ssh://git@github.com/a/b",
            "ssh://other@github.com/a/b",
            "https://github.com/a-b",
            "https://github.com/a/B",
            "https://github.com/a%2Fb",
            "file:///github.com/a/b",
        ]
        .map(|address| of(address).directory().to_owned())
        .into();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
    }

    #[test]
    fn names_are_safe_in_paths_and_in_bitbake_configuration() {
        let long = format!("https://h/{}/x", "very/deep/".repeat(60));
        for address in [
            "https://h",
            "file:///",
            "https://h/..",
            "https://h/-rf",
            "https://h/a b+c~d/$e",
            "https://h/ü/日本",
            &long,
        ] {
            let name = of(address);
            for part in [name.directory(), name.short()] {
                let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                assert!(
                    !part.is_empty() && part.chars().all(good) && part.len() <= 100,
                    "{address}: {part:?}"
                );
                assert!(!part.starts_with(['.', '-']), "{address}: {part:?}");
            }
        }
        // Secrets are not part of the name, not even of the digest.
        assert_eq!(of("https://u:one@h/r"), of("https://u:two@h/r"));
    }
}
