//! One job at a time in one directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::fcntl::OFlag;

use crate::error::{Error, Result};

/// A layer may hold an output directory with a link in it, and the agent may be root.
const NO_LINK: i32 = OFlag::O_NOFOLLOW.bits();

/// Holds a directory until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Exclusive {
    _lock: File,
}

impl Exclusive {
    /// Takes the work directory, which is made when it is missing.
    ///
    /// # Errors
    /// When another job holds it: two jobs would delete each other's build directories.
    pub fn work(directory: &Path) -> Result<Exclusive> {
        fs::create_dir_all(directory)?;
        Exclusive::take(directory, "--work-dir")
    }

    /// Takes the output directory, which has to be there.
    ///
    /// # Errors
    /// When another job holds it: two jobs would write into each other's reports.
    pub fn out(directory: &Path) -> Result<Exclusive> {
        Exclusive::take(directory, "--out")
    }

    fn take(directory: &Path, option: &str) -> Result<Exclusive> {
        let path = directory.join("lock");
        let mut options = fs::OpenOptions::new();
        let (mut file, _) = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(NO_LINK)
            .open(&path)?
            .into_parts();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let who =
                    if holder.is_empty() { "another job".into() } else { format!("another job ({holder})") };
                return Err(Error::machine(format!("{who} works in `{}`", directory.display()))
                    .hint(format!("wait for it, or give this job a place of its own with {option}")));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::machine(format!("cannot lock `{}`", path.display())).because(&error));
            }
        }
        // For the message above; the lock itself does not depend on it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "pid {}", std::process::id()));
        Ok(Exclusive { _lock: file })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_second_job_is_told_who_holds_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("a/b");
        let first = Exclusive::work(&work).unwrap();
        let error = Exclusive::work(&work).unwrap_err();
        assert!(error.message.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        Exclusive::work(&work).unwrap();
    }
}
