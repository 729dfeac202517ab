//! An entry that is being made.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

use crate::names;
use agent_fs::remove::remove_tree;
use agent_types::error::{Error, Result};

use super::check::{self, Witness};
use super::damage::Damage;
use super::tree::Content;
use super::{Entry, LayerStore, Record, RepoName};

/// On file systems without locks, an unfinished entry of this age is abandoned.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// Much longer than it takes to lock a new directory.
const MOMENT: Duration = Duration::from_secs(60);

/// A directory next to the repository's entries that is to become an entry. Drop deletes it; the next job
/// deletes what a killed job left.
#[derive(Debug)]
pub struct StagingEntry {
    root: PathBuf,
    repo: RepoName,
    path: PathBuf,
    /// Lock on the directory itself, held while it is in use.
    _lock: File,
    kept: bool,
}

impl StagingEntry {
    /// Starts an entry of the repository, and deletes unfinished entries of killed jobs.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn begin(store: &LayerStore, repo: &RepoName) -> Result<StagingEntry> {
        let home = store.root().join(repo.directory());
        fs::create_dir_all(&home)?;
        // Failures are ignored: an unfinished entry does no harm, and `expire` reports it.
        let _ = sweep(&home);
        let path = fresh_path(&home, "new");
        fs::create_dir(&path)?;
        let (lock, _) = fs::File::open(&path)?.into_parts();
        // Waits at most for a process that checks whether it is abandoned. Without locks, as on network file
        // systems, the age decides.
        let _ = lock.lock();
        Ok(StagingEntry { root: store.root().to_owned(), repo: repo.clone(), path, _lock: lock, kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the work tree.
    pub fn tree(&self) -> PathBuf {
        self.path.join(self.repo.short())
    }

    /// Makes the work tree read-only and reads it.
    ///
    /// # Errors
    /// If a file cannot be changed or read.
    pub fn make_read_only(&self) -> Result<Content> {
        let tree = self.tree();
        make_read_only(&tree)?;
        let owner = fs::symlink_metadata(&tree)?.uid();
        Content::read(&tree, owner).map_err(unfit)
    }

    /// The directory for second copies of files of the work tree.
    pub fn second(&self) -> PathBuf {
        self.path.join("second")
    }

    /// Compares the second copies, and deletes them. No id proves the content of a file that git converts by
    /// attributes; two equal copies show that it was written correctly.
    ///
    /// # Errors
    /// If they differ.
    pub fn compare_with_second(&self, files: &[PathBuf]) -> Result<()> {
        for file in files {
            let [first, second] = [self.tree().join(file), self.second().join(file)].map(fs::read);
            if first? != second? {
                let shown = file.to_string_lossy().escape_debug().to_string();
                let message = format!("git writes `{shown}` differently each time, or the disk damages it");
                return Err(Error::machine(message).hint("check the site's git filters and the disk"));
            }
        }
        remove_tree(&self.second(), &self.root)
    }

    /// Verifies all files against the record, and makes this the entry of the commit. Returns false if
    /// another process was faster; its entry stays.
    ///
    /// # Errors
    /// If the content does not match the record, or cannot be written.
    pub fn finish(self, record: &Record) -> Result<(Entry, bool)> {
        record.write(&self.path)?;
        make_read_only(&self.path)?;
        let owner = fs::symlink_metadata(&self.path)?.uid();
        check::whole(&self.path, record, owner, Witness::CommitAndRecord).map_err(unfit)?;
        self.become_entry(&record.commit)
    }

    /// Makes what was written here, record included, the entry of the commit, if it is whole by the word of `witness`.
    /// Returns false if another process was faster; its entry stays.
    ///
    /// # Errors
    /// If it is damaged or another checkout, or cannot be renamed.
    pub(super) fn adopt(self, commit: &str, witness: Witness) -> Result<(Entry, bool)> {
        let damaged = |damage: Damage| Error::machine("the stored checkout is damaged").because(&damage);
        let record = Record::read(&self.path).map_err(damaged)?;
        if record.commit != commit || record.name != self.repo.short() {
            return Err(damaged(Damage::new(format!("it has commit {}", record.commit))));
        }
        make_read_only(&self.path)?;
        let owner = fs::symlink_metadata(&self.path)?.uid();
        check::whole(&self.path, &record, owner, witness).map_err(damaged)?;
        self.become_entry(commit)
    }

    /// Renames this to the entry of the commit; false, if another process was faster.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub(super) fn become_entry(mut self, commit: &str) -> Result<(Entry, bool)> {
        let entry = LayerStore::new(&self.root).entry(&self.repo, commit);
        match fs::rename(&self.path, entry.directory()) {
            Ok(()) => {
                self.kept = true;
                Ok((entry, true))
            }
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                Ok((entry, false))
            }
            // A network file system may have done it and lost the answer.
            Err(error) if error.kind() == ErrorKind::NotFound && entry.is_there()? => {
                self.kept = true;
                Ok((entry, true))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for StagingEntry {
    fn drop(&mut self) {
        if !self.kept {
            // The next job tries again.
            let _ = remove_tree(&self.path, &self.root);
        }
    }
}

fn unfit(damage: Damage) -> Error {
    Error::internal("a new checkout does not match the fetched commit").because(&damage)
}

/// Removes write permissions from all files, without following links.
fn make_read_only(tree: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(tree).contents_first(true) {
        let entry = entry.map_err(std::io::Error::from)?;
        let found = entry.metadata().map_err(std::io::Error::from)?;
        let mode = match (found.is_dir(), found.is_file(), found.mode() & 0o100) {
            (true, ..) => 0o555,
            (_, true, 0) => 0o444,
            (_, true, _) => 0o555,
            _ => continue,
        };
        fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// A new unique path.
pub(super) fn fresh_path(home: &Path, what: &str) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Process ids repeat in containers that share a store, times do not.
    home.join(names::part(&format!("{what}-{}-{}-{count}", std::process::id(), now.as_nanos())))
}

/// Deletes abandoned directories.
///
/// # Errors
/// If one cannot be deleted.
pub(super) fn sweep(home: &Path) -> Result<()> {
    for entry in fs::read_dir(home)?.filter_map(|entry| entry.ok()) {
        if names::is_part(&entry.file_name()) && is_abandoned(&entry.path()) {
            remove_tree(&entry.path(), home)?;
        }
    }
    Ok(())
}

fn is_abandoned(path: &Path) -> bool {
    let older_than = |limit| {
        let made = fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
        made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age > limit)
    };
    if !path.is_dir() {
        return older_than(FORGOTTEN);
    }
    match File::open(path).map(|directory| directory.try_lock()) {
        // A new directory is unlocked for a moment after its creation, but it is empty then.
        Ok(Ok(())) => !is_empty(path) || older_than(MOMENT),
        Ok(Err(std::fs::TryLockError::WouldBlock)) => false,
        Ok(Err(std::fs::TryLockError::Error(_))) | Err(_) => older_than(FORGOTTEN),
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
