//! What is wrong with an entry of the layer store.

use std::path::Path;

/// What is wrong with an entry, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(String);

impl Damage {
    pub fn new(what: impl Into<String>) -> Damage {
        Damage(what.into())
    }

    /// Other users choose the names of files, so they are escaped.
    pub(super) fn at(path: &Path, what: impl std::fmt::Display) -> Damage {
        Damage(format!("`{}` {what}", path.to_string_lossy().escape_debug()))
    }
}
