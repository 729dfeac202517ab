//! Deletes the work directories of jobs that did not run for a long time. The build directories in them are the largest
//! part of all local files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::job::DirLock;
use crate::stages::configure::Workspace;
use agent_cache::areas::JOB_LOCK;
use agent_fs::remove::remove_tree;
use agent_types::error::Result;

/// The start of the name of a work directory that is being deleted.
const DELETED: &str = ".deleted-";

pub struct WorkDirs {
    /// Holds the work directories of all jobs.
    pub directory: PathBuf,
    pub max_age: Duration,
    pub dry_run: bool,
    pub now: SystemTime,
}

/// The names of work directories.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PrunedWorkDirs {
    pub deleted: Vec<String>,
    /// Those with a workspace of devtool, whose sources may be nowhere else.
    pub kept: Vec<String>,
    /// What could not be deleted.
    pub failures: Vec<String>,
}

impl WorkDirs {
    /// Deletes those that are old, except those of running jobs and those with a workspace of devtool.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn run(&self) -> Result<PrunedWorkDirs> {
        let mut pruned = PrunedWorkDirs::default();
        let entries = match fs_err::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(pruned),
            Err(error) => return Err(error.into()),
        };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            let (work, name) = (self.directory.join(&name), name.to_string_lossy().into_owned());
            if name.starts_with(DELETED) && !self.dry_run {
                pruned
                    .failures
                    .extend(remove_tree(&work, &self.directory).err().map(|error| error.to_string()));
                continue;
            }
            // A running job holds its lock. To take it would look like a new job.
            if !self.is_old(&work) || DirLock::holder(&work).is_some() {
                continue;
            }
            if Workspace::is_in(&work) {
                pruned.kept.push(name);
                continue;
            }
            match if self.dry_run { Ok(()) } else { self.remove(&work, &name) } {
                Ok(()) => pruned.deleted.push(name),
                Err(error) => pruned.failures.push(error.to_string()),
            }
        }
        Ok(pruned)
    }

    /// Renames it first: a job that starts now makes a new one, and does not lose it.
    fn remove(&self, work: &Path, name: &str) -> Result<()> {
        let _lock = DirLock::work(work)?;
        let deleted = self.directory.join(format!("{DELETED}{name}"));
        remove_tree(&deleted, &self.directory)?;
        fs_err::rename(work, &deleted)?;
        remove_tree(&deleted, &self.directory)
    }

    /// Whether this is the work directory of a job that did not run lately. A job writes its lock when it starts.
    fn is_old(&self, work: &Path) -> bool {
        let is_directory = work.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let Ok(lock) = work.join(JOB_LOCK).symlink_metadata() else { return false };
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
        for (name, days) in [("a-scarthgap", 9), ("b-scarthgap", 9), ("c-scarthgap", 1), ("d-scarthgap", 9)] {
            fs_err::create_dir_all(top.path().join(name).join("build")).unwrap();
            let lock = fs_err::File::create(top.path().join(name).join("lock")).unwrap();
            lock.set_modified(now - days * day).unwrap();
        }
        fs_err::create_dir_all(top.path().join("d-scarthgap/build/workspace/sources/x")).unwrap();
        // A prune was killed.
        fs_err::create_dir_all(top.path().join(".deleted-a-scarthgap/build")).unwrap();
        // None of a job.
        fs_err::create_dir_all(top.path().join("downloads/lock")).unwrap();
        fs_err::create_dir_all(top.path().join("sstate")).unwrap();
        std::os::unix::fs::symlink(top.path().join("a-scarthgap"), top.path().join("link")).unwrap();
        let prune = |dry_run| WorkDirs { directory: top.path().to_owned(), max_age: 5 * day, dry_run, now };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(prune(true).run().unwrap().deleted, names(&["a-scarthgap", "b-scarthgap"]));
        let job = fs_err::File::open(top.path().join("b-scarthgap/lock")).unwrap();
        job.file().lock().unwrap();
        let PrunedWorkDirs { deleted, kept, failures } = prune(false).run().unwrap();
        assert_eq!((deleted, kept, failures), (names(&["a-scarthgap"]), names(&["d-scarthgap"]), Vec::new()));
        assert!(top.path().join("d-scarthgap/build/workspace/sources/x").exists());
        assert!(!top.path().join(".deleted-a-scarthgap").exists());
        assert!(top.path().join("b-scarthgap/build").exists() && top.path().join("c-scarthgap").exists());
        assert!(top.path().join("downloads/lock").exists() && !top.path().join("a-scarthgap").exists());
        let missing = WorkDirs { directory: top.path().join("missing"), ..prune(false) };
        assert_eq!(missing.run().unwrap(), PrunedWorkDirs::default());
    }
}
