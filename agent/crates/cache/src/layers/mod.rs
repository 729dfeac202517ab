//! Immutable checkouts of layers, by repository and commit. The share has them for all machines, and the work
//! directory for this one.
//!
//! BitBake's parse cache identifies a file by its path, time, size and inode. So the files of a commit have
//! one location, are written once under a temporary name, and never change. They are read-only from before
//! the rename that makes them an entry until the rename that removes them.
//!
//! The commit's id proves the content ([`tree`]); [`check`] verifies the structure. This module never starts
//! git; the callers that make entries do.

pub mod archive;
mod check;
mod copy;
mod damage;
mod expire;
mod membership;
mod name;
mod ownership;
mod record;
mod staging_entry;
mod tree;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;

use agent_types::error::Result;

pub use check::{Witness, verify};
pub use copy::{Added, add};
pub use damage::Damage;
pub use expire::expire;
pub use membership::BranchMembership;
pub use name::RepoName;
pub use ownership::{OwnershipCheck, check_ownership};
pub use record::{Listed, Record};
pub use staging_entry::StagingEntry;
pub use tree::Content;

/// A directory that contains only entries.
///
/// ```text
/// <root>/<repo>/<commit>/         an entry, completely read-only
///   entry.json                    its description: see [`Record`]
///   <name>/                       the work tree with its `.git`
/// <root>/<repo>/<commit>.json     branches that contain the commit: see [`BranchMembership`]
/// <root>/<repo>/<commit>.used     its time is the time of the last use
/// <root>/<repo>/.build-agent.*.part   unfinished, or being removed
/// ```
///
/// The work tree has the repository's name, because BitBake shows layers by their directory's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStore {
    root: PathBuf,
}

impl LayerStore {
    /// Does not access the disk.
    pub fn new(root: impl Into<PathBuf>) -> LayerStore {
        LayerStore { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The entry of a commit, whether it exists or not.
    pub fn entry(&self, repo: &RepoName, commit: &str) -> Entry {
        Entry { root: self.root.clone(), repo: repo.clone(), commit: commit.to_owned() }
    }

    /// The last used entry of the repository. Unreadable entries are skipped.
    pub fn newest(&self, repo: &RepoName) -> Option<Entry> {
        let commits = fs::read_dir(self.root.join(repo.directory())).ok()?.flatten();
        let entries = commits.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            is_commit(&name).then(|| self.entry(repo, &name))
        });
        entries.max_by_key(|entry| entry.last_used().unwrap_or(SystemTime::UNIX_EPOCH))
    }
}

/// One checkout of a store, which may not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    root: PathBuf,
    pub repo: RepoName,
    pub commit: String,
}

/// Minimum time between two marks of a use: on a share each one takes milliseconds.
const NOTE_EVERY: Duration = Duration::from_secs(24 * 3600);

impl Entry {
    /// `<repo>/<commit>`: the entry's name in leases.
    pub fn key(&self) -> String {
        format!("{}/{}", self.repo.directory(), self.commit)
    }

    /// The directory of the entry.
    pub fn directory(&self) -> PathBuf {
        self.home().join(&self.commit)
    }

    /// The work tree.
    pub fn tree(&self) -> PathBuf {
        self.directory().join(self.repo.short())
    }

    /// The directory of the repository's entries.
    fn home(&self) -> PathBuf {
        self.root.join(self.repo.directory())
    }

    /// The path of a file next to the entry.
    fn beside(&self, suffix: &str) -> PathBuf {
        self.home().join(format!("{}{suffix}", self.commit))
    }

    /// # Errors
    /// If the store cannot be read.
    pub fn is_there(&self) -> Result<bool> {
        match fs::symlink_metadata(self.directory()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The time of the last use, or else of its creation.
    fn last_used(&self) -> Option<SystemTime> {
        let time = |path: PathBuf| fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
        time(self.beside(USED)).or_else(|| time(self.directory()))
    }

    /// Marks the entry as used, for pruning.
    ///
    /// # Errors
    /// If the file system fails; the entry can still be used.
    pub fn mark_used(&self) -> Result<()> {
        let path = self.beside(USED);
        let noted = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
        let now = SystemTime::now();
        // A time in the future would keep the entry forever.
        if noted.is_ok_and(|noted| now.duration_since(noted).is_ok_and(|age| age < NOTE_EVERY)) {
            return Ok(());
        }
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path)?;
        file.set_modified(now)?;
        Ok(())
    }

    /// Removes the entry. It is renamed first, so that no reader sees a part of it.
    ///
    /// # Errors
    /// If it cannot be renamed or deleted.
    pub fn remove(&self) -> Result<()> {
        let aside = staging_entry::fresh_path(&self.home(), &self.commit);
        match fs::rename(self.directory(), &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        agent_fs::remove::remove_tree(&aside, &self.root)
    }
}

const USED: &str = ".used";

/// Whether it is a full commit id in git's form.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
