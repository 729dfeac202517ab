//! Deletes a directory tree of any depth with a bounded number of open files.
//!
//! Only names in directories that are held open are used, so that no link is followed and nothing
//! outside of the tree is touched, whatever is renamed or exchanged meanwhile. The last levels are held
//! open; on the way back to the others `..` is opened and must be the directory that it was before.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat};
use nix::unistd::{UnlinkatFlags, dup, geteuid, unlinkat};

/// Directories that are held open at once.
const OPEN: usize = 32;

/// Names of subdirectories that are held in memory for one directory; the rest is read again.
const NAMES: usize = 4096;

/// How often the same is tried again while somebody else writes into the tree.
const TRIES: u32 = 8;

/// The longest path in a message, in bytes; a tree may be deeper than any path can say.
const LONGEST_PATH: usize = 300;

/// The first thing that could not be deleted, and why.
#[derive(Debug)]
pub(super) struct Left {
    /// Begins with the name of the tree. Cut when it is long.
    pub path: PathBuf,
    pub why: Errno,
}

/// Deletes `name` in `parent` with all below it; missing is fine. Goes on after a failure, so that as
/// little as possible is left. A file system that is mounted in the tree is not entered.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Left> {
    let root = CString::new(name.as_bytes()).map_err(|_| Left { path: name.into(), why: Errno::EINVAL })?;
    for _ in 0..TRIES {
        let mut walk = Walk { parent, levels: Vec::new(), left: None };
        if walk.run(&root) {
            return walk.left.map_or(Ok(()), Err);
        }
    }
    Err(Left { path: name.into(), why: Errno::EBUSY })
}

struct Walk<'a> {
    parent: BorrowedFd<'a>,
    /// From the top of the tree down to the directory that is being emptied.
    levels: Vec<Level>,
    left: Option<Left>,
}

/// A directory that is being emptied.
struct Level {
    /// In the directory above.
    name: CString,
    /// `None` while it is further up than [`OPEN`] levels.
    open: Option<OwnedFd>,
    /// Device and inode.
    identity: (u64, u64),
    /// Subdirectories that are still to be deleted.
    names: Vec<CString>,
    /// Not all subdirectories are in `names`.
    more: bool,
    /// Something was deleted since it was last read.
    progress: bool,
    /// Something in it cannot be deleted.
    failed: bool,
    /// How often something had turned up in it when it should have been empty.
    refilled: u32,
}

impl Walk<'_> {
    /// `false` when somebody moved the directory that was being emptied: all is to be done again.
    fn run(&mut self, root: &CStr) -> bool {
        self.enter(root);
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.names.pop() {
                self.enter(&name);
            } else if level.more && level.progress {
                self.read();
            } else if !self.leave() {
                return false;
            }
        }
        true
    }

    /// Begins with a directory of the last level. What is none is deleted at once.
    fn enter(&mut self, name: &CStr) {
        let opened = self.here().and_then(|here| open_directory(here, name));
        match opened.and_then(|open| Ok((prepare(&open)?, open))) {
            Ok((identity, open)) => {
                self.levels.push(Level {
                    name: name.to_owned(),
                    open: Some(open),
                    identity,
                    names: Vec::new(),
                    more: false,
                    progress: false,
                    failed: false,
                    refilled: 0,
                });
                if let Some(far) = self.levels.len().checked_sub(OPEN + 1) {
                    self.levels[far].open = None;
                }
                self.read();
            }
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                let deleted = self.here().and_then(|here| unlink(here, name, UnlinkatFlags::NoRemoveDir));
                self.done(name, deleted);
            }
            Err(errno) if is_gone(errno) => self.done(name, Ok(())),
            Err(errno) => self.done(name, Err(errno)),
        }
    }

    /// Deletes all in the last level that is no directory, and takes note of the directories.
    fn read(&mut self) {
        let listed = self.here().and_then(|here| Ok((dup(here)?, dup(here)?)));
        let listed = listed.and_then(|(here, list)| Ok((here, Dir::from_fd(list)?)));
        let (here, mut list) = match listed {
            Ok(listed) => listed,
            Err(errno) => return self.failed(c".", errno),
        };
        let mut names = Vec::new();
        let mut more = false;
        // Files that are deleted count for this reading.
        if let Some(level) = self.levels.last_mut() {
            level.progress = false;
        }
        for entry in list.iter() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) if is_gone(errno) => break,
                Err(errno) => return self.failed(c".", errno),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() != Some(Type::Directory) {
                match unlink(here.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
                    // Not every file system tells what is a directory.
                    Err(Errno::EISDIR) => {}
                    deleted => {
                        self.done(name, deleted);
                        continue;
                    }
                }
            }
            names.push(name.to_owned());
            if names.len() == NAMES {
                more = true;
                break;
            }
        }
        if let Some(level) = self.levels.last_mut() {
            level.more = more;
            level.names = names;
        }
    }

    /// Deletes the last level, which has been emptied, from the one above. `false` when that is no longer
    /// the directory above.
    fn leave(&mut self) -> bool {
        let Some(mut level) = self.levels.pop() else { return true };
        if let Some(above) = self.levels.last_mut().filter(|above| above.open.is_none()) {
            match reopen(level.open.as_ref(), above.identity) {
                Some(open) => above.open = Some(open),
                None => return false,
            }
        }
        if level.failed {
            // What is in it has been told.
            if let Some(above) = self.levels.last_mut() {
                above.failed = true;
            }
            return true;
        }
        let deleted = self.here().and_then(|here| unlink(here, &level.name, UnlinkatFlags::RemoveDir));
        match deleted {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if level.refilled < TRIES => {
                level.refilled += 1;
                self.levels.push(level);
                self.read();
            }
            // Somebody put something else in its place.
            Err(Errno::ENOTDIR) => {
                let name = std::mem::take(&mut level.name);
                self.enter(&name);
            }
            deleted => self.done(&level.name, deleted),
        }
        true
    }

    /// The directory whose entries are being deleted.
    fn here(&self) -> nix::Result<BorrowedFd<'_>> {
        match self.levels.last() {
            Some(level) => level.open.as_ref().map(OwnedFd::as_fd).ok_or(Errno::EBADF),
            None => Ok(self.parent),
        }
    }

    fn done(&mut self, name: &CStr, deleted: nix::Result<()>) {
        match (deleted, self.levels.last_mut()) {
            (Ok(()), Some(level)) => level.progress = true,
            (Ok(()), None) => {}
            (Err(errno), _) => self.failed(name, errno),
        }
    }

    fn failed(&mut self, name: &CStr, why: Errno) {
        if let Some(level) = self.levels.last_mut() {
            level.failed = true;
        }
        if self.left.is_none() {
            self.left = Some(Left { path: self.path_of(name), why });
        }
    }

    fn path_of(&self, name: &CStr) -> PathBuf {
        let mut path = PathBuf::new();
        let names = self.levels.iter().map(|level| &*level.name).chain([name]);
        for name in names.filter(|name| *name != c".") {
            if path.as_os_str().len() > LONGEST_PATH {
                path.push("…");
                break;
            }
            path.push(OsStr::from_bytes(name.to_bytes()));
        }
        path
    }
}

/// Whether an error says that there is nothing (more) to delete. Of a file server an answer that came
/// late is repeated: what is gone is gone.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ESTALE)
}

fn unlink(here: BorrowedFd<'_>, name: &CStr, flags: UnlinkatFlags) -> nix::Result<()> {
    match unlinkat(here, name, flags) {
        Err(errno) if is_gone(errno) => Ok(()),
        done => done,
    }
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opens a subdirectory for reading, also one that its owner closed to himself.
fn open_directory(here: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let open = |flags| open_below(here, name, DIRECTORY | flags);
    match open(OFlag::O_RDONLY) {
        Err(Errno::EACCES) => {
            let closed = open(OFlag::O_PATH)?;
            // By its own handle, so that no link can lead this astray.
            let way = PathBuf::from(format!("/proc/self/fd/{}", closed.as_raw_fd()));
            fchmodat(AT_FDCWD, &way, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            open(OFlag::O_RDONLY)
        }
        opened => opened,
    }
}

/// Opens a subdirectory on the same mount.
fn open_below(here: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let how =
        OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(here, name, how) {
        // A kernel before 5.6, or a container's filter of calls.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let open = openat(here, name, flags, Mode::empty())?;
            if fstat(&open)?.st_dev != fstat(here)?.st_dev {
                return Err(Errno::EXDEV);
            }
            Ok(open)
        }
        opened => opened,
    }
}

/// Makes an open directory writable for its owner; gives its identity.
fn prepare(open: &OwnedFd) -> nix::Result<(u64, u64)> {
    let facts = fstat(open)?;
    let wanted = Mode::S_IWUSR | Mode::S_IXUSR;
    let user = geteuid();
    if !user.is_root()
        && user.as_raw() == facts.st_uid
        && !Mode::from_bits_truncate(facts.st_mode).contains(wanted)
    {
        fchmod(open, Mode::S_IRWXU)?;
    }
    Ok(identity(&facts))
}

/// The directory above an open one, if it is the right one.
fn reopen(open: Option<&OwnedFd>, above: (u64, u64)) -> Option<OwnedFd> {
    let reopened = openat(open?, c"..", DIRECTORY | OFlag::O_RDONLY, Mode::empty()).ok()?;
    let facts = fstat(&reopened).ok()?;
    (identity(&facts) == above).then_some(reopened)
}

fn identity(facts: &FileStat) -> (u64, u64) {
    (facts.st_dev, facts.st_ino)
}
