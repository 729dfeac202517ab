//! Which files of a build are artifacts, and where they go.

use std::path::PathBuf;

/// Where artifacts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Absolute.
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
    /// A required rule that matches nothing is a failure.
    pub required: bool,
}
