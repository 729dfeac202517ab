//! The sources besides the layer under test.

use std::path::PathBuf;

use url::Url;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepoSource {
    /// A local directory, used without a copy. Absolute.
    Path(PathBuf),
    Git(GitSource),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    pub url: Url,
    pub wanted: Wanted,
    /// The commit that `build-agent.lock` pins; if set, no reference is resolved.
    pub locked: Option<String>,
}

/// The wanted revision of a git repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Branch(String),
    Tag(String),
    Commit(String),
    /// The commit must be on the branch.
    CommitOnBranch {
        commit: String,
        branch: String,
    },
}

/// Whether it is a full commit id: SHA-1 or SHA-256, in lower case.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
