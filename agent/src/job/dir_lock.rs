//! One job at a time in one directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use agent_cache::areas::JOB_LOCK;
// A layer may hold an output directory with a link or a pipe in it, and the agent may be root.
use agent_fs::read::NO_FOLLOW;
use agent_types::error::{Error, Result};

/// Holds a directory until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct DirLock {
    lock: File,
}

impl DirLock {
    /// Takes the work directory, which is made when it is missing.
    ///
    /// # Errors
    /// When another job holds it: two jobs would delete each other's build directories.
    pub fn work(directory: &Path) -> Result<DirLock> {
        fs::create_dir_all(directory)?;
        DirLock::take(directory, "--work-dir")
    }

    /// Takes the output directory, which has to be there.
    ///
    /// # Errors
    /// When another job holds it: two jobs would write into each other's reports.
    pub fn out(directory: &Path) -> Result<DirLock> {
        DirLock::take(directory, "--out")
    }

    /// Who holds the directory now; `None` also where that cannot be told.
    pub fn holder(directory: &Path) -> Option<String> {
        let mut options = fs::OpenOptions::new();
        let (mut file, _) =
            options.read(true).custom_flags(NO_FOLLOW).open(directory.join(JOB_LOCK)).ok()?.into_parts();
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(named(&mut file)),
            _ => None,
        }
    }

    fn take(directory: &Path, option: &str) -> Result<DirLock> {
        let path = directory.join(JOB_LOCK);
        let mut options = fs::OpenOptions::new();
        let (mut file, _) = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(NO_FOLLOW)
            .open(&path)?
            .into_parts();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::machine(format!(
                    "{} works in `{}`",
                    named(&mut file),
                    directory.display()
                ))
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
        Ok(DirLock { lock: file })
    }
}

impl Drop for DirLock {
    /// A child that starts at this moment has a copy of the descriptor until it executes its program, so closing it
    /// would not release the lock.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

/// The holder of a lock, as its file says.
fn named(lock: &mut File) -> String {
    let mut holder = String::new();
    let _ = lock.take(100).read_to_string(&mut holder);
    match holder.trim() {
        "" => "another job".into(),
        holder => format!("another job ({holder})"),
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
        let first = DirLock::work(&work).unwrap();
        let error = DirLock::work(&work).unwrap_err();
        let pid = format!("pid {}", std::process::id());
        assert!(error.message.contains(&pid), "{error}");
        assert!(DirLock::holder(&work).is_some_and(|holder| holder.contains(&pid)));
        drop(first);
        assert_eq!(DirLock::holder(&work), None);
        fs::remove_file(work.join("lock")).unwrap();
        nix::unistd::mkfifo(&work.join("lock"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(DirLock::holder(&work), None);
        DirLock::work(&work).unwrap();
    }
}
