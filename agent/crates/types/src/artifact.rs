//! Describes which files of a build are artifacts, and where they are published.

use std::path::PathBuf;

/// Where artifacts are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An absolute path.
    Directory(PathBuf),
    S3 {
        bucket: String,
        prefix: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactRule {
    /// A glob relative to the build directory.
    pub include: String,
    pub exclude: Vec<String>,
    /// A required rule without a match is a failure.
    pub required: bool,
}
