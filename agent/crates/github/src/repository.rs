//! The name of a repository.

use std::fmt;
use std::str::FromStr;

/// `owner/name`. GitHub ignores case.
#[derive(Clone, Debug, Eq)]
pub struct Repository {
    pub owner: String,
    pub name: String,
}

impl PartialEq for Repository {
    fn eq(&self, other: &Repository) -> bool {
        self.owner.eq_ignore_ascii_case(&other.owner) && self.name.eq_ignore_ascii_case(&other.name)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl FromStr for Repository {
    type Err = String;

    fn from_str(text: &str) -> Result<Repository, String> {
        let good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.len() <= 100
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        match text.split_once('/') {
            Some((owner, name)) if good(owner) && good(name) => {
                Ok(Repository { owner: owner.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("`{text}` is not a repository: write OWNER/NAME")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_nothing_else() {
        let found: Repository = "Owner/meta-x.y".parse().unwrap();
        assert_eq!(found, "owner/Meta-x.y".parse().unwrap());
        assert_eq!(found.to_string(), "Owner/meta-x.y");
        for text in
            ["", "x", "a/", "/b", "a/b/c", "../x", "a/..", "a b/c", "a/b?c", "a/b#c", "a/b%2f", "a/b\n"]
        {
            assert!(text.parse::<Repository>().is_err(), "{text:?}");
        }
    }
}
