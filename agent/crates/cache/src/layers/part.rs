//! An entry in the making.

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

/// Where locks do not work, an unfinished entry that is older than this is nobody's.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// Far longer than it takes to lock what one has just made.
const MOMENT: Duration = Duration::from_secs(60);

/// A directory beside the entries of a repository that is to become one of them. Dropping it deletes
/// it; what a killed job leaves is deleted by the next one.
#[derive(Debug)]
pub struct Part {
    root: PathBuf,
    repo: RepoName,
    path: PathBuf,
    /// Held as long as somebody works here. It lies on the directory itself.
    _lock: File,
    kept: bool,
}

impl Part {
    /// Begins an entry of the repository, and clears away what killed jobs have left of theirs.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn begin(store: &LayerStore, repo: &RepoName) -> Result<Part> {
        let home = store.root().join(repo.directory());
        fs::create_dir_all(&home)?;
        // What cannot be cleared is in nobody's way; `expire` tells it.
        let _ = sweep(&home);
        let path = fresh_path(&home, "new");
        fs::create_dir(&path)?;
        let (lock, _) = fs::File::open(&path)?.into_parts();
        // Waits at most for somebody who looks whether it is abandoned. Without locks, as on network
        // file systems, age decides.
        let _ = lock.lock();
        Ok(Part { root: store.root().to_owned(), repo: repo.clone(), path, _lock: lock, kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the work tree is made.
    pub fn tree(&self) -> PathBuf {
        self.path.join(self.repo.short())
    }

    /// Makes the work tree read-only and reads it.
    ///
    /// # Errors
    /// When something there cannot be changed or read.
    pub fn seal(&self) -> Result<Content> {
        let tree = self.tree();
        seal(&tree)?;
        let owner = fs::symlink_metadata(&tree)?.uid();
        Content::read(&tree, owner).map_err(unfit)
    }

    /// Where files of the work tree are written a second time.
    pub fn second(&self) -> PathBuf {
        self.path.join("second")
    }

    /// Compares what was written twice, and deletes the second. What git makes of a file by its
    /// attributes has no id that would prove it; that it comes out twice shows that it was written well.
    ///
    /// # Errors
    /// When it came out otherwise.
    pub fn compare_with_second(&self, files: &[PathBuf]) -> Result<()> {
        for file in files {
            let [first, second] = [self.tree().join(file), self.second().join(file)].map(fs::read);
            if first? != second? {
                let shown = file.to_string_lossy().escape_debug().to_string();
                let message =
                    format!("git writes `{shown}` otherwise each time, or the disk does not keep it");
                return Err(Error::machine(message).hint("look at the site's git filters and at the disk"));
            }
        }
        remove_tree(&self.second(), &self.root)
    }

    /// Checks all of it, with the record that it gets, and makes it the entry of the commit; false when
    /// somebody else was faster, whose entry stays.
    ///
    /// # Errors
    /// When it is not what the record says, or cannot be written.
    pub fn finish(self, record: &Record) -> Result<(Entry, bool)> {
        record.write(&self.path)?;
        seal(&self.path)?;
        let owner = fs::symlink_metadata(&self.path)?.uid();
        check::whole(&self.path, record, owner, Witness::CommitAndRecord).map_err(unfit)?;
        self.become_entry(&record.commit)
    }

    /// Makes it the entry of the commit; false when somebody else was faster, whose entry stays.
    ///
    /// # Errors
    /// When it cannot be renamed.
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

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // The next job tries again.
            let _ = remove_tree(&self.path, &self.root);
        }
    }
}

fn unfit(damage: Damage) -> Error {
    Error::internal("a new checkout is not what was fetched").because(&damage)
}

/// Takes the right to write from everybody, links left alone.
fn seal(tree: &Path) -> Result<()> {
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

/// A name that nothing has yet.
pub(super) fn fresh_path(home: &Path, what: &str) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Process ids repeat between containers that share a store, times do not.
    home.join(names::part(&format!("{what}-{}-{}-{count}", std::process::id(), now.as_nanos())))
}

/// Deletes what nobody works on any more.
///
/// # Errors
/// When it cannot be deleted.
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
        // Between its making and its lock, a new one looks abandoned for a moment; it is empty then.
        Ok(Ok(())) => !is_empty(path) || older_than(MOMENT),
        Ok(Err(std::fs::TryLockError::WouldBlock)) => false,
        Ok(Err(std::fs::TryLockError::Error(_))) | Err(_) => older_than(FORGOTTEN),
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
