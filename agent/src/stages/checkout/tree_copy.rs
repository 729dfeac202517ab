//! Copies of stored checkouts, which never change.

use std::path::Path;

use fs_err as fs;
use walkdir::WalkDir;

use agent_types::error::{Error, Result};

/// Copies a work tree with its repository. Links stay links; the files can be written.
///
/// # Errors
/// If a file cannot be read or written.
pub fn copy_work_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry.map_err(|error| Error::machine("cannot read a checkout").because(&error))?;
        let target = to.join(entry.path().strip_prefix(from).unwrap_or(entry.path()));
        let kind = entry.file_type();
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
