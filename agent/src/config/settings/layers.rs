//! Patches and signers of repositories, and the order of layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A patch of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// As in the manifest.
    pub name: String,
    pub source: PatchSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchSource {
    /// It is at `path` in the checkout under test.
    Checkout { path: PathBuf, texts: Vec<Vec<u8>> },
    /// A file or directory of another repository.
    Repo { repo: String, path: PathBuf },
}

/// A public key that may have signed a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// As in the manifest.
    pub name: String,
    pub source: KeySource,
    pub fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// It is at `path` in the checkout under test.
    Checkout { path: PathBuf, bytes: Vec<u8> },
    /// A file of another repository.
    Repo { repo: String, path: PathBuf },
}

/// The order of BBLAYERS: by descending priority, then as the manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerOrder {
    /// Among layers of one priority: by the name of the repository and the path of the layer.
    pub by_name: bool,
    /// The name of the checkout under test in that order.
    pub checkout: String,
    /// Other priorities than 0, by the name of the repository and the path of the layer in it.
    pub priorities: BTreeMap<(String, PathBuf), i64>,
    /// Likewise of the layers under test, absolute.
    pub under_test: BTreeMap<PathBuf, i64>,
}

impl LayerOrder {
    /// The sort key of a layer of a repository, whose path in it is `inner`.
    pub fn of_repo(&self, repo: &str, inner: &Path) -> LayerRank {
        let priority = self.priorities.get(&(repo.to_owned(), inner.to_owned()));
        self.rank(priority, repo, inner)
    }

    /// The sort key of a layer under test, whose path in the checkout is `inner`.
    pub fn of_checkout(&self, layer: &Path, inner: &Path) -> LayerRank {
        self.rank(self.under_test.get(layer), &self.checkout, inner)
    }

    fn rank(&self, priority: Option<&i64>, repo: &str, inner: &Path) -> LayerRank {
        // As text: kas compares no parts of paths.
        let name = (repo.to_owned(), inner.display().to_string());
        LayerRank(-priority.copied().unwrap_or(0), self.by_name.then_some(name))
    }
}

/// The sort key of a layer in [`LayerOrder`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerRank(i64, Option<(String, String)>);

impl LayerRank {
    /// The layer's priority.
    pub fn priority(&self) -> i64 {
        -self.0
    }
}
