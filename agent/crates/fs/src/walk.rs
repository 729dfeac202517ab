//! A tree read side by side: one listing for each directory, one look at each file, never through a
//! symbolic link.
//!
//! Directories are opened by their name below their parent, which is held open: whoever swaps one for
//! a link leads nobody out of the tree. What cannot be read is told and the walk goes on. What waits to
//! be read is names and open parents; the entries of a directory live until its visit is over.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::pool::{self, Ended, Output};

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Entries of one directory that are looked at by one thread.
const CHUNK: usize = 32;

/// No directory of a share has as many. Strangers may fill theirs; what is above it is not looked at.
pub const MOST_ENTRIES: usize = 200_000;

/// A directory that is held open: the tree below it is reached without links.
#[derive(Clone, Debug)]
pub struct DirHandle {
    fd: Arc<OwnedFd>,
}

impl DirHandle {
    /// Opens the directory that a person has named; links on the way there are their own.
    pub fn open(root: &Path) -> io::Result<DirHandle> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(DirHandle { fd: Arc::new(open(root, flags, Mode::empty())?) })
    }

    /// Opens a directory below; a link anywhere on the way is an error, and so is `..`.
    pub fn directory(&self, relative: &Path) -> io::Result<DirHandle> {
        if relative.as_os_str().is_empty() {
            return Ok(self.clone());
        }
        let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
        if !relative.components().all(plain) {
            return Err(Errno::EINVAL.into());
        }
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        match openat2(&*self.fd, relative, OpenHow::new().flags(DIRECTORY).resolve(resolve)) {
            // Kernels before 5.6, and sandboxes that do not know the call: one name after another.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EAGAIN) => self.step_by_step(relative),
            opened => Ok(DirHandle { fd: Arc::new(opened?) }),
        }
    }

    fn step_by_step(&self, relative: &Path) -> io::Result<DirHandle> {
        let mut at = self.clone();
        for component in relative.components() {
            at = at.child(component.as_os_str())?;
        }
        Ok(at)
    }

    fn child(&self, name: &OsStr) -> io::Result<DirHandle> {
        Ok(DirHandle { fd: Arc::new(openat(&*self.fd, name, DIRECTORY, Mode::empty())?) })
    }

    /// What lies there, itself and not what it may lead to. One name, no path.
    pub fn look(&self, name: &OsStr) -> io::Result<(Kind, FileMeta)> {
        let stat = fstatat(&*self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok((kind_of_mode(&stat), FileMeta::of(&stat)))
    }
}

impl AsFd for DirHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// A socket, a fifo, a device.
    Special,
}

/// What the file system says about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970; before it negative.
    pub modified: i64,
    /// Likewise the time of the last change of the inode, which nobody can set.
    pub changed: i64,
    pub inode: u64,
    pub mode: u32,
    pub owner: u32,
    pub links: u64,
}

impl FileMeta {
    pub fn of(stat: &FileStat) -> FileMeta {
        FileMeta {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
            mode: stat.st_mode,
            owner: stat.st_uid,
            links: stat.st_nlink,
        }
    }

    /// When the file was used last, nanoseconds since 1970: its mtime, which a use sets (never the atime,
    /// which EFS does not keep). Strangers may set it to any time, but not the ctime, and no honest
    /// mtime is later than that.
    pub fn used(&self) -> i64 {
        self.modified.min(self.changed)
    }

    pub fn modified_at(&self) -> SystemTime {
        let distance = Duration::from_nanos(self.modified.unsigned_abs());
        let at = if self.modified < 0 {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        };
        at.unwrap_or(UNIX_EPOCH)
    }
}

fn nanoseconds(seconds: i64, more: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(more)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    pub kind: Kind,
    /// `None` when they were not wanted, and of directories.
    pub facts: Option<FileMeta>,
}

/// A directory that was read.
pub struct Listing {
    /// Relative to the root; empty for the root itself.
    pub path: PathBuf,
    pub directory: DirHandle,
    pub entries: Vec<Entry>,
}

/// What could not be read.
#[derive(Debug)]
pub struct Trouble {
    /// Relative to the root.
    pub path: PathBuf,
    pub error: io::Error,
}

/// How a tree is read.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// Directories in work at a time.
    pub width: usize,
    /// Whether files are looked at, or only named.
    pub facts: bool,
    /// Counts the operations on the file system.
    pub operations: &'a AtomicU64,
    /// Asked before each directory.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// What the caller of a walk gets to see in its own thread.
pub enum Seen<R> {
    /// What the visit of a directory made of it.
    Directory(R),
    Trouble(Trouble),
}

impl Walk<'_> {
    /// Reads the tree below `root`. `enter` says by their paths which directories are read, `visit`
    /// makes something of each one, both side by side; `each` gets it in the caller's thread, in no
    /// order.
    ///
    /// A directory that has vanished meanwhile is no trouble.
    pub fn run<R: Send>(
        &self,
        root: &DirHandle,
        enter: impl Fn(&Path) -> bool + Sync,
        visit: impl Fn(Listing) -> R + Sync,
        each: impl FnMut(Seen<R>),
    ) -> Ended {
        let first = Job::Read { parent: root.clone(), path: PathBuf::new() };
        let work = |job, out: &mut Output<'_, Job, Seen<R>>| match job {
            Job::Read { parent, path } => self.read(&parent, path, &enter, &visit, out),
            Job::Look { reading, from } => self.look(&reading, from, &visit, out),
        };
        pool::run(self.width, [first], || (self.stop)(), work, each)
    }

    fn read<R>(
        &self,
        parent: &DirHandle,
        path: PathBuf,
        enter: &impl Fn(&Path) -> bool,
        visit: &impl Fn(Listing) -> R,
        out: &mut Output<'_, Job, Seen<R>>,
    ) {
        let (directory, entries) = match self.list(parent, &path) {
            Ok(listed) => listed,
            Err(error) => return tell(out, path, error),
        };
        if entries.len() >= MOST_ENTRIES {
            let error = io::Error::other("too many entries, the rest was not looked at");
            tell(out, path.clone(), error);
        }
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Directory) {
            let path = path.join(&entry.name);
            if enter(&path) {
                out.add(Job::Read { parent: directory.clone(), path });
            }
        }
        if !self.facts {
            return out.give(Seen::Directory(visit(Listing { path, directory, entries })));
        }
        let chunks = entries.len().div_ceil(CHUNK).max(1);
        let reading = Arc::new(Reading {
            path,
            directory,
            names: entries,
            looked: Mutex::new(Vec::new()),
            left: AtomicUsize::new(chunks),
        });
        for chunk in 1..chunks {
            out.add(Job::Look { reading: reading.clone(), from: chunk * CHUNK });
        }
        self.look(&reading, 0, visit, out);
    }

    /// Opens a directory and reads the names in it.
    fn list(&self, parent: &DirHandle, path: &Path) -> io::Result<(DirHandle, Vec<Entry>)> {
        self.count(2);
        // The root has no name below itself. Opened anew, because the place of reading belongs to the
        // open file, which the caller may use as well.
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let directory = parent.child(name)?;
        let mut listing = Dir::from_fd(directory.fd.try_clone()?)?;
        let mut entries = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                Some(kind) => kind_of_type(kind),
                // Some file systems do not tell.
                None => {
                    self.count(1);
                    match directory.look(name) {
                        Ok((kind, _)) => kind,
                        Err(error) if is_gone(&error) => continue,
                        Err(error) => return Err(error),
                    }
                }
            };
            entries.push(Entry { name: name.to_owned(), kind, facts: None });
            if entries.len() == MOST_ENTRIES {
                break;
            }
        }
        Ok((directory, entries))
    }

    /// Looks at some of the files of a directory; who looks at the last ones visits it.
    fn look<R>(
        &self,
        reading: &Arc<Reading>,
        from: usize,
        visit: &impl Fn(Listing) -> R,
        out: &mut Output<'_, Job, Seen<R>>,
    ) {
        let to = reading.names.len().min(from + CHUNK);
        let mut looked = Vec::with_capacity(to - from);
        for entry in &reading.names[from..to] {
            if entry.kind == Kind::Directory {
                looked.push(entry.clone());
                continue;
            }
            self.count(1);
            match reading.directory.look(&entry.name) {
                Ok((kind, facts)) => {
                    looked.push(Entry { name: entry.name.clone(), kind, facts: Some(facts) });
                }
                Err(error) => tell(out, reading.path.join(&entry.name), error),
            }
        }
        let lock = || reading.looked.lock().unwrap_or_else(PoisonError::into_inner);
        lock().append(&mut looked);
        if reading.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let entries = std::mem::take(&mut *lock());
            let listing =
                Listing { path: reading.path.clone(), directory: reading.directory.clone(), entries };
            out.give(Seen::Directory(visit(listing)));
        }
    }

    fn count(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }
}

enum Job {
    Read { parent: DirHandle, path: PathBuf },
    Look { reading: Arc<Reading>, from: usize },
}

/// A directory whose files are being looked at.
struct Reading {
    path: PathBuf,
    directory: DirHandle,
    names: Vec<Entry>,
    looked: Mutex<Vec<Entry>>,
    /// Jobs that are still to be done.
    left: AtomicUsize,
}

fn tell<R>(out: &mut Output<'_, Job, Seen<R>>, path: PathBuf, error: io::Error) {
    // Below the root things may vanish; the root itself was there a moment ago.
    if !is_gone(&error) || path.as_os_str().is_empty() {
        out.give(Seen::Trouble(Trouble { path, error }));
    }
}

/// Whether somebody has deleted it meanwhile. NFS says so with `ESTALE`.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ESTALE))
}

fn kind_of_type(kind: Type) -> Kind {
    match kind {
        Type::File => Kind::File,
        Type::Directory => Kind::Directory,
        Type::Symlink => Kind::Link,
        _ => Kind::Special,
    }
}

fn kind_of_mode(stat: &FileStat) -> Kind {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Link,
        _ => Kind::Special,
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
