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
    /// The commit must be the one that the tag names.
    CommitOfTag {
        commit: String,
        tag: String,
    },
}

impl Wanted {
    /// The commit, if it is named.
    pub fn commit(&self) -> Option<&str> {
        match self {
            Wanted::Commit(commit)
            | Wanted::CommitOnBranch { commit, .. }
            | Wanted::CommitOfTag { commit, .. } => Some(commit),
            Wanted::Branch(_) | Wanted::Tag(_) => None,
        }
    }

    pub fn branch(&self) -> Option<&str> {
        match self {
            Wanted::Branch(branch) | Wanted::CommitOnBranch { branch, .. } => Some(branch),
            _ => None,
        }
    }

    pub fn tag(&self) -> Option<&str> {
        match self {
            Wanted::Tag(tag) | Wanted::CommitOfTag { tag, .. } => Some(tag),
            _ => None,
        }
    }
}

/// Whether it is a full commit id: SHA-1 or SHA-256, in lower case.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
