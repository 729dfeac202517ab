//! Deletes buildtools that no job used for a long time.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::fcntl::{Flock, FlockArg};

use agent_fs::read::NO_FOLLOW;
use agent_fs::remove::{remove_file, remove_tree};
use agent_types::error::Result;

use super::installation::{COMPLETE, INSTALLER, LOCK, PART};

/// What was deleted, by the checksums of the installers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PrunedBuildtools {
    pub deleted: Vec<String>,
    /// What could not be deleted.
    pub failures: Vec<String>,
}

/// Deletes the installations in the store that are old, except those that jobs use. One that is not complete is old when
/// no job installs it. Blocks.
///
/// # Errors
/// If the store cannot be read.
pub fn prune(store: &Path, max_age: Duration, now: SystemTime, dry_run: bool) -> Result<PrunedBuildtools> {
    let mut pruned = PrunedBuildtools::default();
    let entries = match fs::read_dir(store) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(pruned),
        Err(error) => return Err(error.into()),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(&format!(".{LOCK}"))?.to_owned())).collect();
    names.sort();
    for name in names {
        let file = |extension: &str| store.join(format!("{name}.{extension}"));
        let used = fs::symlink_metadata(file(COMPLETE)).and_then(|complete| complete.modified());
        if used.is_ok_and(|used| now.duration_since(used).unwrap_or_default() < max_age) {
            continue;
        }
        let Ok(lock) = fs::OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(file(LOCK)) else {
            continue;
        };
        let (lock, _): (File, _) = lock.into_parts();
        let files = [COMPLETE, INSTALLER, PART].map(file);
        let is_there = files.iter().chain([&store.join(&name)]).any(|path| path.exists());
        if !is_there {
            continue;
        }
        let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else { continue };
        // The lock file stays: a job that waits for it would hold a deleted one.
        let delete = || -> Result<()> {
            for file in &files {
                remove_file(file, store)?;
            }
            remove_tree(&store.join(&name), store)
        };
        match if dry_run { Ok(()) } else { delete() } {
            Ok(()) => pruned.deleted.push(name),
            Err(error) => pruned.failures.push(error.to_string()),
        }
    }
    Ok(pruned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_old_installations_that_no_job_uses_go() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        for (name, days) in [("a", Some(9)), ("b", Some(9)), ("c", Some(1)), ("d", None)] {
            fs::create_dir_all(at(name).join("bin")).unwrap();
            fs::write(at(&format!("{name}.lock")), "").unwrap();
            if let Some(days) = days {
                let complete = fs::File::create(at(&format!("{name}.complete"))).unwrap();
                complete.set_modified(now - days * day).unwrap();
            }
        }
        // A download that was killed.
        for name in ["e.lock", "e.part"] {
            fs::write(at(name), "").unwrap();
        }
        let lock = File::open(at("b.lock")).unwrap();
        lock.lock_shared().unwrap();
        let prune = |dry_run| prune(top.path(), 5 * day, now, dry_run).unwrap();
        assert_eq!(prune(true).deleted, ["a", "d", "e"]);
        assert_eq!(prune(false).deleted, ["a", "d", "e"]);
        assert!(!at("e.part").exists());
        assert_eq!(["a", "b", "c", "d"].map(|name| at(name).exists()), [false, true, true, false]);
        assert_eq!(prune(false), PrunedBuildtools::default());
        // Also releases the copy that a child has which another test starts now.
        lock.unlock().unwrap();
        assert_eq!(prune(false).deleted, ["b"]);
        assert_eq!(super::prune(&at("none"), day, now, false).unwrap(), PrunedBuildtools::default());
    }
}
