//! The directories that a manifest is about.

use std::path::{Path, PathBuf};

use super::rules::Rules;

/// The checkout under test and the manifest's directory, both absolute and without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRoot {
    pub checkout: PathBuf,
    /// Relative paths of the manifest start here.
    pub base: PathBuf,
    /// The manifest's file; `None`, if it was downloaded.
    pub manifest: Option<PathBuf>,
    /// The manifest's name in messages.
    pub manifest_name: String,
    /// Where the rules come from.
    pub rules: Rules,
}

impl ProjectRoot {
    /// The file with the rules that a path in the checkout names: the base's, if the rules come from there.
    pub fn rules_file(&self, path: &Path) -> PathBuf {
        match &self.rules {
            Rules::OfBase(base) => base.file(path),
            Rules::OfCheckout | Rules::NoBase { .. } => path.to_owned(),
        }
    }

    /// A path below the checkout, relative to it.
    pub fn in_checkout(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.checkout).unwrap_or(path).to_owned()
    }
}
