//! What a definition means.

use std::path::PathBuf;

use super::super::project_root::ProjectRoot;
use super::super::tree::Node;
use super::build;
use super::lock::Locks;

/// A definition as a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    pub project_root: ProjectRoot,
    pub tree: Node,
    /// The texts of its files.
    pub text: Vec<u8>,
    pub notices: Vec<String>,
    /// Its files in the checkout, with those that they include.
    pub files: Vec<PathBuf>,
    pub locks: Locks,
}

impl Eq for Translated {}

impl Translated {
    /// The same with a release, unless a flag names one.
    #[must_use]
    pub fn with_release(mut self, release: &str) -> Translated {
        if !self.has_release() {
            let node = build::text(release, &self.tree.place);
            self.tree.insert("release", node);
        }
        self
    }

    pub fn has_release(&self) -> bool {
        self.tree.child("release").is_some()
    }
}
