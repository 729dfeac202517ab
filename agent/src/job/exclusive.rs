//! One job at a time in one work directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use fs_err as fs;

use crate::error::{Error, Result};
use crate::exec;

/// Holds the work directory until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Exclusive {
    _lock: File,
    /// What a killed agent had left running here, and what was ended.
    pub ended: Vec<String>,
}

impl Exclusive {
    /// Takes the work directory, which is made when it is missing.
    ///
    /// # Errors
    /// When another job holds it: two jobs would delete each other's build directories.
    pub fn take(work: &Path) -> Result<Exclusive> {
        fs::create_dir_all(work)?;
        let path = work.join("lock");
        let mut options = fs::OpenOptions::new();
        let (mut file, _) =
            options.read(true).write(true).create(true).truncate(false).open(&path)?.into_parts();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.lines().next().unwrap_or_default().trim();
                let who =
                    if holder.is_empty() { "another job".into() } else { format!("another job ({holder})") };
                return Err(Error::machine(format!("{who} works in `{}`", work.display()))
                    .hint("wait for it, or give this job a place of its own with --work-dir"));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::machine(format!("cannot lock `{}`", path.display())).because(&error));
            }
        }
        // The last holder's children die with it unless it was killed; then they still write here.
        let mut last = String::new();
        let _ = (&mut file).take(1024).read_to_string(&mut last);
        let ended = last.lines().nth(1).map(exec::end_left_behind).unwrap_or_default();
        // For the message above and for the next holder; the lock itself does not depend on it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "pid {}\n{}\n", std::process::id(), exec::sign()));
        Ok(Exclusive { _lock: file, ended })
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
        let first = Exclusive::take(&work).unwrap();
        let error = Exclusive::take(&work).unwrap_err();
        assert!(error.message.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(!error.message.contains('\n'), "{error}");
        drop(first);
        Exclusive::take(&work).unwrap();
    }

    #[test]
    fn children_of_a_killed_holder_are_ended_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = |marker: &str| {
            let mut sleep = std::process::Command::new("sleep");
            sleep.arg("1000").env("BUILD_AGENT_COMMAND", marker).spawn().unwrap()
        };
        let mut left = sleep("987654321-12345-7-0x1");
        let mut other = sleep("987654321-123456-7-0x1");
        for (sign, ended) in [("", 0), ("BUILD_AGENT_COMMAND=", 0), ("BUILD_AGENT_COMMAND=987654321-", 0)] {
            fs::write(dir.path().join("lock"), format!("pid 987654321\n{sign}\n")).unwrap();
            assert_eq!(Exclusive::take(dir.path()).unwrap().ended.len(), ended, "{sign}");
        }
        fs::write(dir.path().join("lock"), "pid 987654321\nBUILD_AGENT_COMMAND=987654321-12345-\n").unwrap();
        let ended = Exclusive::take(dir.path()).unwrap().ended;
        assert_eq!(ended, [format!("sleep (pid {})", left.id())]);
        left.wait().unwrap();
        assert!(other.try_wait().unwrap().is_none(), "another agent's child");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
