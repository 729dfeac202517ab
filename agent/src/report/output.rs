//! The output directory and the files of reports in it.

use std::io::Write;
use std::path::Path;

use fs_err::OpenOptions;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::fcntl::OFlag;

use crate::error::{Error, Result};

use super::summary::Summary;
use super::{junit, result};

/// Makes the output directory ready for a new job.
///
/// It gets a `.gitignore`, so that the checkout in which it may lie does not become dirty, and
/// reports that say that the job has not ended: those of an earlier job must not be taken for the
/// verdict on this one, should it be killed.
///
/// # Errors
/// When it cannot be written. Also when it, or a file in it, is a symbolic link: a layer could
/// contain one that leads out of the checkout, and the agent may run as root.
pub fn prepare_out(out: &Path) -> Result<()> {
    real_directory(out)?;
    real_directory(&out.join("logs"))?;
    let ignore = out.join(".gitignore");
    if fs_err::symlink_metadata(&ignore).is_err() {
        replace(&ignore, b"# Written by build-agent: nothing in here belongs into git.\n*\n")?;
    }
    write_all(&Summary::default(), out)
}

/// Writes all reports of the summary.
///
/// # Errors
/// When one cannot be written; the others are there then.
pub fn write_all(summary: &Summary, out: &Path) -> Result<()> {
    let json = result::write(summary, out);
    let junit = junit::write(summary, out);
    json.and(junit)
}

fn real_directory(path: &Path) -> Result<()> {
    fs_err::create_dir_all(path)?;
    if fs_err::symlink_metadata(path)?.is_symlink() {
        return Err(Error::machine(format!("the output directory `{}` is a symbolic link", path.display()))
            .hint("name the directory that it leads to with --out, or remove the link"));
    }
    Ok(())
}

/// Writes the file so that a reader sees the old one or the new one, never a part.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs_err::rename(&temporary, path)?;
    Ok(())
}

/// Opens a file for writing, empty, and never through a symbolic link.
pub(super) fn create(path: &Path) -> Result<fs_err::File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(OFlag::O_NOFOLLOW.bits());
    options.open(path).map_err(|error| {
        let linked = error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32);
        match linked {
            true => Error::machine(format!("`{}` is a symbolic link", path.display()))
                .hint("remove it, or name another directory with --out"),
            false => Error::from(error),
        }
    })
}
