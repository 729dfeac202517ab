//! Reads and writes one tier of the share.
//!
//! Each call is one operation, which takes milliseconds on NFS and is counted. Other users write in the tier
//! of a pull request, so directories are opened one level at a time without following links, and existing
//! files are never opened for writing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::names;
use agent_fs::dir::{Access, DirHandle, FileMeta, Links, errno};
use agent_types::tiers::{Tier, TierKind};

/// rwxr-xr-x: all users of all machines can list the directories of the share.
const PUBLIC: Mode = Mode::from_bits_truncate(0o755);

/// Maximum number of cached directory handles. The 256 of the first level matter most.
const HELD: usize = 512;

/// The result of claiming a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The temporary file has the name now.
    Claimed,
    /// Another file has the name.
    Exists,
}

#[derive(Debug)]
pub struct Target {
    root: DirHandle,
    held: Mutex<HashMap<PathBuf, DirHandle>>,
    operations: AtomicU64,
    /// Prefix of this run's temporary names.
    random: u64,
    counter: AtomicU64,
    /// Whether the file system rejects hard links.
    no_links: AtomicBool,
}

impl Target {
    /// Opens the root of the tier. The root of a pull request is created if something is to be written. The
    /// root of the share is a mount point, and is never created: a directory in its place would be on the
    /// machine's own disk.
    pub fn open(tier: &Tier, make: bool) -> io::Result<Target> {
        let root = tier.share.root();
        let root = match tier.kind {
            TierKind::Shared => DirHandle::open_with(root, Links::Follow, Access::PathOnly)?,
            TierKind::PullRequest => match DirHandle::open_with(root, Links::Refuse, Access::PathOnly) {
                Err(error) if make && errno(&error) == Errno::ENOENT => make_root(root)?,
                opened => opened?,
            },
        };
        Ok(Target {
            root,
            held: Mutex::default(),
            operations: AtomicU64::new(1),
            random: RandomState::new().hash_one(std::process::id()),
            counter: AtomicU64::new(0),
            no_links: AtomicBool::new(false),
        })
    }

    /// The number of operations so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    pub fn count(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }

    /// Opens the directory at this relative path.
    pub fn directory(&self, path: &Path) -> io::Result<DirHandle> {
        Ok(self.reach(path, false)?.0)
    }

    /// Opens the directory, and creates it and missing parents, readable for all users. Returns whether it
    /// was created and so is empty.
    pub fn make_directory(&self, path: &Path) -> io::Result<(DirHandle, bool)> {
        self.reach(path, true)
    }

    fn reach(&self, path: &Path, make: bool) -> io::Result<(DirHandle, bool)> {
        let Some(name) = path.file_name() else { return Ok((self.root.clone(), false)) };
        if let Some(found) = self.lock().get(path) {
            return Ok((found.clone(), false));
        }
        let above = path.parent().unwrap_or(Path::new(""));
        let parent = self.reach(above, make)?.0;
        // Directories that contain directories are needed again, so keep them open.
        if !above.as_os_str().is_empty() {
            let mut held = self.lock();
            if held.len() < HELD {
                held.insert(above.to_owned(), parent.clone());
            }
        }
        self.child(&parent, name, make)
    }

    fn child(&self, parent: &DirHandle, name: &OsStr, make: bool) -> io::Result<(DirHandle, bool)> {
        self.count(1);
        match parent.open_dir_with(name, Access::PathOnly) {
            Err(error) if make && errno(&error) == Errno::ENOENT => {
                self.count(2);
                let made = parent.create_dir(name, PUBLIC)?;
                Ok((parent.open_dir_with(name, Access::PathOnly)?, made))
            }
            opened => Ok((opened?, false)),
        }
    }

    /// Drops the cached handles, because they may belong to deleted directories.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Stats this name without following a link.
    pub fn look(&self, directory: &DirHandle, name: &str) -> io::Result<Option<FileMeta>> {
        self.count(1);
        match directory.metadata(name) {
            Ok(facts) => Ok(Some(facts)),
            Err(error) if errno(&error) == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file for reading.
    pub fn read(&self, directory: &DirHandle, name: &str) -> io::Result<File> {
        self.count(1);
        Ok(directory.open_file(name)?.0)
    }

    /// Creates a file with a temporary name, which readers ignore.
    pub fn create(&self, directory: &DirHandle) -> io::Result<(String, File)> {
        self.count(1);
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let name = names::part(&format!("{:016x}-{number}", self.random));
        let file = directory.create_file(&name, Mode::from_bits_truncate(0o644))?;
        Ok((name, file))
    }

    /// Finishes writing a file. On NFS, a full disk may be reported only here.
    pub fn finish(&self, file: File) -> io::Result<()> {
        self.count(2);
        file.sync_all()?;
        Ok(nix::unistd::close(OwnedFd::from(file).into_raw_fd())?)
    }

    /// Gives a finished file of `bytes` its name, unless another file has it. The temporary name may remain.
    ///
    /// Over NFS, an answer can get lost and the request is repeated, and then fails because the first one
    /// succeeded. So after an error the file with that name is checked.
    pub fn name(
        &self,
        directory: &DirHandle,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        if self.no_links.load(Ordering::Relaxed) {
            return self.rename_new(directory, temporary, name, bytes);
        }
        self.count(1);
        let Err(error) = directory.hard_link(temporary, directory, name) else {
            return Ok(ClaimOutcome::Claimed);
        };
        let errno = errno(&error);
        if matches!(errno, Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) {
            self.no_links.store(true, Ordering::Relaxed);
            return self.rename_new(directory, temporary, name, bytes);
        }
        let ours = self.look(directory, temporary)?.map(|facts| facts.inode);
        match self.look(directory, name)? {
            Some(there) if ours == Some(there.inode) => Ok(ClaimOutcome::Claimed),
            Some(_) if errno == Errno::EEXIST => Ok(ClaimOutcome::Exists),
            _ => Err(error),
        }
    }

    /// Claims a name by a rename, for file systems without hard links. On those that cannot refuse to replace
    /// a file, two processes may both rename equal objects between the check and the rename.
    fn rename_new(
        &self,
        directory: &DirHandle,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        if self.look(directory, name)?.is_some() {
            return Ok(ClaimOutcome::Exists);
        }
        self.count(1);
        match directory.rename_new(temporary, directory, name) {
            Ok(()) => Ok(ClaimOutcome::Claimed),
            Err(error) if matches!(errno(&error), Errno::EINVAL | Errno::ENOSYS) => {
                self.replace(directory, temporary, name, bytes)
            }
            Err(error) => self.after_rename(error, directory, temporary, name, bytes),
        }
    }

    /// Gives a finished file its name, and replaces an existing file.
    pub fn replace(
        &self,
        directory: &DirHandle,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        self.count(1);
        match directory.rename(temporary, directory, name) {
            Ok(()) => Ok(ClaimOutcome::Claimed),
            Err(error) => self.after_rename(error, directory, temporary, name, bytes),
        }
    }

    fn after_rename(
        &self,
        error: io::Error,
        directory: &DirHandle,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        let waiting = self.look(directory, temporary)?.is_some();
        match self.look(directory, name)? {
            Some(_) if errno(&error) == Errno::EEXIST && waiting => Ok(ClaimOutcome::Exists),
            Some(there) if !waiting && there.size == bytes => Ok(ClaimOutcome::Claimed),
            _ => Err(error),
        }
    }

    /// Deletes a temporary file. If that fails, a prune deletes it.
    pub fn discard(&self, directory: &DirHandle, temporary: &str) {
        self.count(1);
        let _ = directory.remove_file(temporary);
    }

    /// Sets the file's time to now, to mark it as used.
    pub fn touch(&self, directory: &DirHandle, name: &str) -> io::Result<()> {
        self.count(1);
        directory.touch(name)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, DirHandle>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates `pr/<number>` in the share.
fn make_root(root: &Path) -> io::Result<DirHandle> {
    let missing = || io::Error::from(Errno::ENOENT);
    let share = root.parent().and_then(Path::parent).ok_or_else(missing)?;
    let below = root.strip_prefix(share).map_err(|_| missing())?;
    DirHandle::open_with(share, Links::Follow, Access::PathOnly)?.create_dirs(below, PUBLIC)
}
