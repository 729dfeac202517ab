//! Immutable checkouts of layers, by repository and commit: on the share for all machines, and in
//! the work directory for this one.
//!
//! BitBake's parse cache knows a file by its path, time, size and inode. So a commit's files lie at
//! one place, are written once, under a temporary name, and never change: they are read-only from
//! before the rename that makes them an entry until the rename that takes them away.
//!
//! Content is proven by the commit's id ([`tree`]), structure by being exactly what [`check`] expects.
//! Git itself is started by who makes entries, never here.

mod check;
mod copy;
mod damage;
mod expire;
mod membership;
mod name;
mod ownership;
mod part;
mod record;
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
pub use part::Part;
pub use record::{Listed, Record};
pub use tree::Content;

/// A directory that holds entries, and nothing else.
///
/// ```text
/// <root>/<repo>/<commit>/         an entry, all of it read-only
///   entry.json                    what it is: see [`Record`]
///   <name>/                       the work tree with its `.git`
/// <root>/<repo>/<commit>.json     on which branches the commit is known to lie: see [`BranchMembership`]
/// <root>/<repo>/<commit>.used     its time is that of the last use
/// <root>/<repo>/.build-agent.*.part   in the making, or on its way out
/// ```
///
/// The work tree has the repository's name, because BitBake shows layers by their directory's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStore {
    root: PathBuf,
}

impl LayerStore {
    /// Nothing is asked of the disk.
    pub fn new(root: impl Into<PathBuf>) -> LayerStore {
        LayerStore { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the checkout of a commit lies, if it is there.
    pub fn entry(&self, repo: &RepoName, commit: &str) -> Entry {
        Entry { root: self.root.clone(), repo: repo.clone(), commit: commit.to_owned() }
    }

    /// The entry of the repository that was used last. What cannot be read is none.
    pub fn newest(&self, repo: &RepoName) -> Option<Entry> {
        let commits = fs::read_dir(self.root.join(repo.directory())).ok()?.flatten();
        let entries = commits.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            is_commit(&name).then(|| self.entry(repo, &name))
        });
        entries.max_by_key(|entry| entry.last_used().unwrap_or(SystemTime::UNIX_EPOCH))
    }
}

/// One checkout of a store, present or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    root: PathBuf,
    pub repo: RepoName,
    pub commit: String,
}

/// Uses are noted at most this often: on a share each note costs milliseconds.
const NOTE_EVERY: Duration = Duration::from_secs(24 * 3600);

impl Entry {
    /// `<repo>/<commit>`: how leases name it.
    pub fn key(&self) -> String {
        format!("{}/{}", self.repo.directory(), self.commit)
    }

    /// All of it.
    pub fn directory(&self) -> PathBuf {
        self.home().join(&self.commit)
    }

    /// The work tree.
    pub fn tree(&self) -> PathBuf {
        self.directory().join(self.repo.short())
    }

    /// What holds the repository's entries.
    fn home(&self) -> PathBuf {
        self.root.join(self.repo.directory())
    }

    /// A file beside the entry.
    fn beside(&self, suffix: &str) -> PathBuf {
        self.home().join(format!("{}{suffix}", self.commit))
    }

    /// # Errors
    /// When the store cannot be asked.
    pub fn is_there(&self) -> Result<bool> {
        match fs::symlink_metadata(self.directory()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// When it was used, else when it was made.
    fn last_used(&self) -> Option<SystemTime> {
        let time = |path: PathBuf| fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
        time(self.beside(USED)).or_else(|| time(self.directory()))
    }

    /// Notes that it is used: what pruning goes by.
    ///
    /// # Errors
    /// Of the file system; the entry is of use all the same.
    pub fn mark_used(&self) -> Result<()> {
        let path = self.beside(USED);
        let noted = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
        let now = SystemTime::now();
        // A time in the future would keep the entry for ever.
        if noted.is_ok_and(|noted| now.duration_since(noted).is_ok_and(|age| age < NOTE_EVERY)) {
            return Ok(());
        }
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path)?;
        file.set_modified(now)?;
        Ok(())
    }

    /// Takes the entry away: under another name first, so that nobody meets half of it.
    ///
    /// # Errors
    /// When it cannot be renamed or deleted.
    pub fn remove(&self) -> Result<()> {
        let aside = part::fresh_path(&self.home(), &self.commit);
        match fs::rename(self.directory(), &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        agent_fs::remove::remove_tree(&aside, &self.root)
    }
}

const USED: &str = ".used";

/// A whole commit id, as git writes it.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
