//! Paths in configuration files.

use std::path::Path;

use agent_types::error::{Error, Result};

use super::path_rules::{self, PathUse};

/// The path of a directory that builds write, if BitBake supports it.
pub(super) fn plain_path(path: &Path) -> Result<&str> {
    text_of(path, PathUse::Build, "the directory")
}

/// The path as text, if BitBake supports it for this purpose.
pub(super) fn text_of<'a>(path: &'a Path, purpose: PathUse, what: &str) -> Result<&'a str> {
    let fault = path_rules::fault(path, purpose);
    path.to_str().filter(|_| fault.is_none()).ok_or_else(|| {
        let fault = fault.unwrap_or_default();
        Error::usage(format!("BitBake cannot use {what} {:?}: it {fault}", path.display().to_string()))
            .hint("use a path without it")
    })
}
