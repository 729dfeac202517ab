//! Deletes the work directories of jobs that did not run for a long time. The build directories in them are the largest
//! part of all local files.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::job::DirLock;
use agent_fs::remove::remove_tree;
use agent_types::error::Result;

pub struct WorkDirs {
    /// Holds the work directories of all jobs.
    pub directory: PathBuf,
    pub max_age: Duration,
    pub dry_run: bool,
    pub now: SystemTime,
}

impl WorkDirs {
    /// The names of those that were deleted, and what could not be deleted.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn run(&self) -> Result<(Vec<String>, Vec<String>)> {
        let (mut deleted, mut failures) = (Vec::new(), Vec::new());
        let mut entries: Vec<_> =
            fs_err::read_dir(&self.directory)?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for work in entries.iter().filter(|work| self.is_old(work)) {
            // A running job holds its lock. To take it would look like a new job.
            if DirLock::holder(work).is_some() {
                continue;
            }
            let remove = || DirLock::work(work).and_then(|_lock| remove_tree(work, &self.directory));
            match if self.dry_run { Ok(()) } else { remove() } {
                Ok(()) => deleted.push(work.file_name().unwrap_or_default().to_string_lossy().into_owned()),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Ok((deleted, failures))
    }

    /// Whether this is the work directory of a job that did not run lately. A job writes its lock when it starts.
    fn is_old(&self, work: &Path) -> bool {
        let is_directory = work.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let Ok(lock) = work.join("lock").symlink_metadata() else { return false };
        let age = lock.modified().ok().map(|started| self.now.duration_since(started).unwrap_or_default());
        is_directory && lock.is_file() && age.is_some_and(|age| age >= self.max_age)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_old_work_directories_without_a_job_go() {
        let top = tempfile::tempdir().unwrap();
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        for (name, days) in [("a-scarthgap", 9), ("b-scarthgap", 9), ("c-scarthgap", 1)] {
            fs_err::create_dir_all(top.path().join(name).join("build")).unwrap();
            let lock = fs_err::File::create(top.path().join(name).join("lock")).unwrap();
            lock.set_modified(now - days * day).unwrap();
        }
        // None of a job.
        fs_err::create_dir_all(top.path().join("downloads/lock")).unwrap();
        fs_err::create_dir_all(top.path().join("sstate")).unwrap();
        std::os::unix::fs::symlink(top.path().join("a-scarthgap"), top.path().join("link")).unwrap();
        let prune = |dry_run| WorkDirs { directory: top.path().to_owned(), max_age: 5 * day, dry_run, now };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(prune(true).run().unwrap().0, names(&["a-scarthgap", "b-scarthgap"]));
        let job = fs_err::File::open(top.path().join("b-scarthgap/lock")).unwrap();
        job.file().lock().unwrap();
        assert_eq!(prune(false).run().unwrap(), (names(&["a-scarthgap"]), Vec::new()));
        assert!(top.path().join("b-scarthgap/build").exists() && top.path().join("c-scarthgap").exists());
        assert!(top.path().join("downloads/lock").exists() && !top.path().join("a-scarthgap").exists());
    }
}
