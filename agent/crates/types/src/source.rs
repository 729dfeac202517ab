//! Where the sources beside the layer under test come from.

use std::path::PathBuf;

use url::Url;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepoSource {
    /// A local directory, used as it is. Absolute.
    Path(PathBuf),
    Git(GitSource),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    pub url: Url,
    pub wanted: Wanted,
    /// The commit that `build-agent.lock` pins; with it nothing floats.
    pub locked: Option<String>,
}

/// What of a git repository is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Branch(String),
    Tag(String),
    Commit(String),
    /// The commit must lie on the branch.
    CommitOnBranch {
        commit: String,
        branch: String,
    },
}

/// A whole commit id: SHA-1 or SHA-256, in lower case.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
