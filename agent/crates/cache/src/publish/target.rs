//! One tier of the share, as a place to look at and to write to.
//!
//! Each call of this module is one operation that costs milliseconds on NFS, and is counted. A tier of
//! a pull request is written by strangers: directories are opened below one another and never through
//! a link, and no file is opened for writing that was there before.

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

/// rwxr-xr-x: directories of the share are for all users of all machines.
const PUBLIC: Mode = Mode::from_bits_truncate(0o755);

/// Directories that are held open. The 256 of the first level are what pays.
const HELD: usize = 512;

/// What became of a new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The temporary file has it.
    Claimed,
    /// Another file has it.
    Exists,
}

#[derive(Debug)]
pub struct Target {
    root: DirHandle,
    held: Mutex<HashMap<PathBuf, DirHandle>>,
    operations: AtomicU64,
    /// Begins the temporary names of this run.
    random: u64,
    counter: AtomicU64,
    /// The file system refuses hard links.
    no_links: AtomicBool,
}

impl Target {
    /// The tier's root. That of a pull request is made when something is to be written there; that of
    /// the share is the mount, and a directory in its place would be lost with the machine.
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

    /// How many operations there were so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    pub fn count(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }

    /// The directory at this relative path.
    pub fn directory(&self, path: &Path) -> io::Result<DirHandle> {
        Ok(self.reach(path, false)?.0)
    }

    /// The same; it and those above it are made where they are missing, readable for everybody. Tells
    /// whether it was made, so that nothing can be in it.
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
        // What has directories in it is needed again.
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

    /// Forgets what is held open: it may be a directory that is no more.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// What has this name, itself and not what it may lead to.
    pub fn look(&self, directory: &DirHandle, name: &str) -> io::Result<Option<FileMeta>> {
        self.count(1);
        match directory.metadata(name) {
            Ok(facts) => Ok(Some(facts)),
            Err(error) if errno(&error) == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file to read it.
    pub fn read(&self, directory: &DirHandle, name: &str) -> io::Result<File> {
        self.count(1);
        Ok(directory.open_file(name)?.0)
    }

    /// A new file under a name that no reader takes for anything.
    pub fn create(&self, directory: &DirHandle) -> io::Result<(String, File)> {
        self.count(1);
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let name = names::part(&format!("{:016x}-{number}", self.random));
        let file = directory.create_file(&name, Mode::from_bits_truncate(0o644))?;
        Ok((name, file))
    }

    /// Ends the writing of a file. On NFS a full disk is told here, and not by the writing before.
    pub fn finish(&self, file: File) -> io::Result<()> {
        self.count(2);
        file.sync_all()?;
        Ok(nix::unistd::close(OwnedFd::from(file).into_raw_fd())?)
    }

    /// Gives a finished file of `bytes` its name, unless another has it; the temporary name may stay.
    ///
    /// Over NFS an answer can get lost and the request be sent again, and then it fails because it was
    /// done. So an error is only believed after a look at what has the name now.
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

    /// Without hard links a name is taken by renaming; the file systems that cannot refuse to replace
    /// leave a moment between the look and the rename, in which two equal objects may meet.
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

    /// Gives a finished file its name, whatever had it.
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

    /// Takes a temporary name away. Left behind it is taken by a prune.
    pub fn discard(&self, directory: &DirHandle, temporary: &str) {
        self.count(1);
        let _ = directory.remove_file(temporary);
    }

    /// Says that the file was used just now.
    pub fn touch(&self, directory: &DirHandle, name: &str) -> io::Result<()> {
        self.count(1);
        directory.touch(name)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, DirHandle>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `pr/<number>` in the share.
fn make_root(root: &Path) -> io::Result<DirHandle> {
    let missing = || io::Error::from(Errno::ENOENT);
    let share = root.parent().and_then(Path::parent).ok_or_else(missing)?;
    let below = root.strip_prefix(share).map_err(|_| missing())?;
    DirHandle::open_with(share, Links::Follow, Access::PathOnly)?.create_dirs(below, PUBLIC)
}
