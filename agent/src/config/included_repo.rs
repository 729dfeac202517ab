//! A repository that a manifest includes files from.

use std::path::PathBuf;

use super::settings::RepoSource;

/// A repository of the manifest whose files can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncludedRepo {
    /// Its name in `[repos]`.
    pub name: String,
    /// Its definition, for which it was fetched.
    pub source: RepoSource,
    /// The directory with its files, absolute.
    pub root: PathBuf,
    /// `None` for a local directory.
    pub commit: Option<String>,
}
