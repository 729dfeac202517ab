//! How a file of the output directory is opened and replaced.

use std::io::Write;
use std::path::Path;

use fs_err::OpenOptions;
use fs_err::os::unix::fs::OpenOptionsExt;

use agent_fs::read::NO_FOLLOW;
use agent_fs::remove::remove_file;
use agent_types::error::{Error, Result};

/// Writes the file so that a reader sees the old one or the new one, never a part.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let written = write_whole(&temporary, content).and_then(|()| Ok(fs_err::rename(&temporary, path)?));
    if let (Err(_), Some(directory)) = (&written, temporary.parent()) {
        // A part of a report is of no use, and on a full disk it is in the way.
        let _ = remove_file(&temporary, directory);
    }
    written
}

fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(())
}

/// Opens a file for writing, empty, and never through a symbolic link or into a pipe, whose reader it
/// would wait for.
pub(super) fn create(path: &Path) -> Result<fs_err::File> {
    let refused = |what: &str| {
        Error::machine(format!("`{}` is {what}", path.display()))
            .hint("remove it, or name another directory with --out")
    };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(NO_FOLLOW);
    let file = options.open(path).map_err(|error| match fs_err::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => refused("a symbolic link"),
        Ok(found) if !found.is_file() => refused("not a regular file"),
        _ => Error::from(error),
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused("not a regular file")) }
}
