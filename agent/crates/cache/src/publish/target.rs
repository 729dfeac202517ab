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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, openat, renameat, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::linkat;

use crate::names;
use agent_fs::remove;
use agent_fs::walk::FileMeta;
use agent_types::tiers::{Tier, TierKind};

/// `O_PATH` opens a directory without access to its entries: on NFS that is one lookup and no open.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Maximum number of cached directory handles. The 256 of the first level matter most.
const HELD: usize = 512;

/// A directory of the share.
pub type Directory = Arc<OwnedFd>;

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
    root: Directory,
    held: Mutex<HashMap<PathBuf, Directory>>,
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
            TierKind::Shared => open(root, PLACE & !OFlag::O_NOFOLLOW, Mode::empty())?,
            TierKind::PullRequest => match open(root, PLACE, Mode::empty()) {
                Err(Errno::ENOENT) if make => make_root(root)?,
                opened => opened?,
            },
        };
        Ok(Target {
            root: Arc::new(root),
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
    pub fn directory(&self, path: &Path) -> io::Result<Directory> {
        Ok(self.reach(path, false)?.0)
    }

    /// Opens the directory, and creates it and missing parents, readable for all users. Returns whether it
    /// was created and so is empty.
    pub fn make_directory(&self, path: &Path) -> io::Result<(Directory, bool)> {
        self.reach(path, true)
    }

    fn reach(&self, path: &Path, make: bool) -> io::Result<(Directory, bool)> {
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

    fn child(&self, parent: &Directory, name: &OsStr, make: bool) -> io::Result<(Directory, bool)> {
        self.count(1);
        match openat(parent, name, PLACE, Mode::empty()) {
            Err(Errno::ENOENT) if make => {
                self.count(2);
                let made = match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) => true,
                    Err(Errno::EEXIST) => false,
                    Err(errno) => return Err(errno.into()),
                };
                Ok((Arc::new(openat(parent, name, PLACE, Mode::empty())?), made))
            }
            opened => Ok((Arc::new(opened?), false)),
        }
    }

    /// Drops the cached handles, because they may belong to deleted directories.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Stats this name without following a link.
    pub fn look(&self, directory: &Directory, name: &str) -> io::Result<Option<FileMeta>> {
        self.count(1);
        match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileMeta::of(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a file for reading.
    pub fn read(&self, directory: &Directory, name: &str) -> io::Result<File> {
        self.count(1);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(directory, name, flags, Mode::empty())?))
    }

    /// Creates a file with a temporary name, which readers ignore.
    pub fn create(&self, directory: &Directory) -> io::Result<(String, File)> {
        self.count(1);
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let name = names::part(&format!("{:016x}-{number}", self.random));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(directory, name.as_str(), flags, Mode::from_bits_truncate(0o644))?;
        Ok((name, File::from(fd)))
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
        directory: &Directory,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        if self.no_links.load(Ordering::Relaxed) {
            return self.rename_new(directory, temporary, name, bytes);
        }
        self.count(1);
        match linkat(directory, temporary, directory, name, AtFlags::empty()) {
            Ok(()) => Ok(ClaimOutcome::Claimed),
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) => {
                self.no_links.store(true, Ordering::Relaxed);
                self.rename_new(directory, temporary, name, bytes)
            }
            Err(errno) => {
                let ours = self.look(directory, temporary)?.map(|facts| facts.inode);
                match self.look(directory, name)? {
                    Some(there) if ours == Some(there.inode) => Ok(ClaimOutcome::Claimed),
                    Some(_) if errno == Errno::EEXIST => Ok(ClaimOutcome::Exists),
                    _ => Err(errno.into()),
                }
            }
        }
    }

    /// Claims a name by a rename, for file systems without hard links. On those that cannot refuse to replace
    /// a file, two processes may both rename equal objects between the check and the rename.
    fn rename_new(
        &self,
        directory: &Directory,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        if self.look(directory, name)?.is_some() {
            return Ok(ClaimOutcome::Exists);
        }
        self.count(1);
        let careful = renameat2(directory, temporary, directory, name, RenameFlags::RENAME_NOREPLACE);
        match careful {
            Ok(()) => Ok(ClaimOutcome::Claimed),
            Err(Errno::EINVAL | Errno::ENOSYS) => self.replace(directory, temporary, name, bytes),
            Err(errno) => self.after_rename(errno, directory, temporary, name, bytes),
        }
    }

    /// Gives a finished file its name, and replaces an existing file.
    pub fn replace(
        &self,
        directory: &Directory,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        self.count(1);
        match renameat(directory, temporary, directory, name) {
            Ok(()) => Ok(ClaimOutcome::Claimed),
            Err(errno) => self.after_rename(errno, directory, temporary, name, bytes),
        }
    }

    fn after_rename(
        &self,
        errno: Errno,
        directory: &Directory,
        temporary: &str,
        name: &str,
        bytes: u64,
    ) -> io::Result<ClaimOutcome> {
        let waiting = self.look(directory, temporary)?.is_some();
        match self.look(directory, name)? {
            Some(_) if errno == Errno::EEXIST && waiting => Ok(ClaimOutcome::Exists),
            Some(there) if !waiting && there.size == bytes => Ok(ClaimOutcome::Claimed),
            _ => Err(errno.into()),
        }
    }

    /// Deletes a temporary file. If that fails, a prune deletes it.
    pub fn discard(&self, directory: &Directory, temporary: &str) {
        self.count(1);
        let _ = remove::file_at(directory, OsStr::new(temporary));
    }

    /// Sets the file's time to now, to mark it as used.
    pub fn touch(&self, directory: &Directory, name: &str) -> io::Result<()> {
        self.count(1);
        let link = UtimensatFlags::NoFollowSymlink;
        Ok(utimensat(directory, name, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW, link)?)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Directory>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates `pr/<number>` in the share.
fn make_root(root: &Path) -> io::Result<OwnedFd> {
    let missing = || io::Error::from(Errno::ENOENT);
    let (parent, number) = (root.parent().ok_or_else(missing)?, root.file_name().ok_or_else(missing)?);
    let (share, pr) = (parent.parent().ok_or_else(missing)?, parent.file_name().ok_or_else(missing)?);
    let mut at = open(share, PLACE & !OFlag::O_NOFOLLOW, Mode::empty())?;
    for name in [pr, number] {
        match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        at = openat(&at, name, PLACE, Mode::empty())?;
    }
    Ok(at)
}
