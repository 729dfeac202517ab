//! A directory that is held open: what lies below it is reached without links.
//!
//! The agent may be root while layer code writes in the same tree, and may plant a link or swap a
//! directory for one at any moment. So nothing below is named by its whole path from `/`: paths are
//! resolved below the open directory, a symbolic link anywhere on the way is an error, and so is `..`.
//! All other operations take one name in the directory and never follow a link of that name.

mod metadata;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, open, openat, openat2, readlinkat, renameat,
    renameat2,
};
use nix::sys::stat::{
    FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, Whence, linkat, lseek, symlinkat, unlinkat};

use super::names;
use super::read::bounded;

pub use metadata::{FileMeta, Identity, Kind, errno, is_absent, is_gone};

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opening neither follows a link, nor waits for the other end of a pipe, nor takes a terminal.
const FILE: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// What a handle is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its entries can be listed.
    Read,
    /// Only what lies below can be reached (`O_PATH`): needs no right to read the directory, and on NFS is a
    /// lookup without an open.
    PathOnly,
}

impl Access {
    fn flags(self) -> OFlag {
        match self {
            Access::Read => DIRECTORY | OFlag::O_RDONLY,
            Access::PathOnly => DIRECTORY | OFlag::O_PATH,
        }
    }
}

/// Whether a symbolic link may be the last component of the path to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    Follow,
    Refuse,
}

/// A directory that is held open. Cloning shares it.
#[derive(Clone, Debug)]
pub struct DirHandle {
    fd: Arc<OwnedFd>,
}

impl DirHandle {
    /// Opens the directory that a person has named; links on the way there are their own.
    pub fn open(path: &Path) -> io::Result<DirHandle> {
        DirHandle::open_with(path, Links::Follow, Access::Read)
    }

    /// Opens the directory that a person has named. `links` is about the last component; links before it
    /// are followed.
    pub fn open_with(path: &Path, links: Links, access: Access) -> io::Result<DirHandle> {
        let flags = match links {
            Links::Follow => access.flags() & !OFlag::O_NOFOLLOW,
            Links::Refuse => access.flags(),
        };
        Ok(DirHandle::of(open(path, flags, Mode::empty())?))
    }

    fn of(fd: OwnedFd) -> DirHandle {
        DirHandle { fd: Arc::new(fd) }
    }

    /// Opens a directory below, for listing; a link anywhere on the way is an error, and so is `..`. An
    /// empty path is the directory itself.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<DirHandle> {
        self.open_dir_with(path, Access::Read)
    }

    /// [`DirHandle::open_dir`] for the access that is needed.
    pub fn open_dir_with(&self, path: impl AsRef<Path>, access: Access) -> io::Result<DirHandle> {
        let path = path.as_ref();
        match is_below(path)? {
            0 => return Ok(self.clone()),
            1 => return self.step_by_step(path, access),
            _ => {}
        }
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        match openat2(&*self.fd, path, OpenHow::new().flags(access.flags()).resolve(resolve)) {
            // Kernels before 5.6, sandboxes that do not know the call, a directory that is moved at this
            // moment, and trees that are deeper than a path can say: one name after another.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EAGAIN | Errno::ENAMETOOLONG) => {
                self.step_by_step(path, access)
            }
            opened => Ok(DirHandle::of(opened?)),
        }
    }

    fn step_by_step(&self, path: &Path, access: Access) -> io::Result<DirHandle> {
        let mut at = self.clone();
        let mut names = path.components().filter(|component| *component != Component::CurDir).peekable();
        while let Some(name) = names.next() {
            let access = if names.peek().is_some() { Access::PathOnly } else { access };
            at = DirHandle::of(openat(&*at.fd, name.as_os_str(), access.flags(), Mode::empty())?);
        }
        Ok(at)
    }

    /// Opens the same directory again, with a position of its own for listing.
    pub(crate) fn reopen(&self) -> io::Result<DirHandle> {
        Ok(DirHandle::of(openat(&*self.fd, ".", Access::Read.flags(), Mode::empty())?))
    }

    /// Opens the directory above. It may be any directory: whoever asks must compare its identity.
    pub(crate) fn open_parent(&self) -> io::Result<DirHandle> {
        Ok(DirHandle::of(openat(&*self.fd, "..", Access::Read.flags(), Mode::empty())?))
    }

    /// Opens a directory of this one, unless a file system is mounted there (`EXDEV`).
    pub(crate) fn open_dir_same_mount(&self, name: &OsStr, access: Access) -> io::Result<DirHandle> {
        let name = one_name(name)?;
        let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
        match openat2(&*self.fd, name, OpenHow::new().flags(access.flags()).resolve(resolve)) {
            // A kernel before 5.6, or a container's filter of calls.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                let opened = openat(&*self.fd, name, access.flags(), Mode::empty())?;
                match fstat(&opened)?.st_dev == fstat(&*self.fd)?.st_dev {
                    true => Ok(DirHandle::of(opened)),
                    false => Err(Errno::EXDEV.into()),
                }
            }
            opened => Ok(DirHandle::of(opened?)),
        }
    }

    /// The names in the directory, in no order, without `.` and `..`.
    pub fn entries(&self) -> io::Result<Entries> {
        self.reopen()?.entries_of_own()
    }

    /// The same with one operation less. The position of reading belongs to this handle: nobody else may list
    /// through it, or through a clone, at the same time.
    pub(crate) fn entries_of_own(&self) -> io::Result<Entries> {
        lseek(&*self.fd, 0, Whence::SeekSet)?;
        Ok(Entries { entries: Dir::from_fd(self.fd.try_clone()?)?.into_iter() })
    }

    /// What has this name.
    pub fn metadata(&self, name: impl AsRef<OsStr>) -> io::Result<FileMeta> {
        let stat = fstatat(&*self.fd, one_name(name.as_ref())?, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(FileMeta::of(&stat))
    }

    /// The metadata of the directory itself.
    pub fn own_metadata(&self) -> io::Result<FileMeta> {
        FileMeta::of_open(&*self.fd)
    }

    /// The text of a symbolic link.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> io::Result<OsString> {
        Ok(readlinkat(&*self.fd, one_name(name.as_ref())?)?)
    }

    /// Opens a regular file to read it.
    ///
    /// # Errors
    /// Besides those of opening, which for a link are `ELOOP`: [`ErrorKind::InvalidInput`] for what is not a
    /// regular file.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> io::Result<(File, FileMeta)> {
        self.open_regular(name.as_ref(), OFlag::O_RDONLY)
    }

    /// [`DirHandle::open_file`] for a file that is also written or locked.
    pub fn open_file_read_write(&self, name: impl AsRef<OsStr>) -> io::Result<(File, FileMeta)> {
        self.open_regular(name.as_ref(), OFlag::O_RDWR)
    }

    fn open_regular(&self, name: &OsStr, flags: OFlag) -> io::Result<(File, FileMeta)> {
        let file = File::from(openat(&*self.fd, one_name(name)?, FILE | flags, Mode::empty())?);
        let facts = FileMeta::of_open(&file)?;
        match facts.kind() {
            Kind::File => Ok((file, facts)),
            _ => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
        }
    }

    /// The content of a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`DirHandle::open_file`], and [`ErrorKind::FileTooLarge`].
    pub fn read(&self, name: impl AsRef<OsStr>, limit: u64) -> io::Result<Vec<u8>> {
        let too_large =
            || io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes"));
        bounded(self.open_file(name)?.0, limit)?.ok_or_else(too_large)
    }

    /// Creates a file that is not there yet, to write it. `mode` is as in `open(2)`.
    pub fn create_file(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<File> {
        let flags = FILE | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(File::from(openat(&*self.fd, one_name(name.as_ref())?, flags, mode)?))
    }

    /// Creates a directory; `false` when something has its name.
    pub fn create_dir(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<bool> {
        match mkdirat(&*self.fd, one_name(name.as_ref())?, mode) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a directory below, [`Access::PathOnly`]; it and those above it are created where they are missing.
    pub fn create_dirs(&self, path: impl AsRef<Path>, mode: Mode) -> io::Result<DirHandle> {
        let path = path.as_ref();
        is_below(path)?;
        let mut at = self.clone();
        for name in path.components().filter(|component| *component != Component::CurDir) {
            let name = name.as_os_str();
            at = match at.open_dir_with(name, Access::PathOnly) {
                Err(error) if errno(&error) == Errno::ENOENT => {
                    at.create_dir(name, mode)?;
                    at.open_dir_with(name, Access::PathOnly)?
                }
                opened => opened?,
            };
        }
        Ok(at)
    }

    /// Creates a symbolic link with this text, where nothing is yet.
    pub fn symlink(&self, target: &Path, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(symlinkat(target, &*self.fd, one_name(name.as_ref())?)?)
    }

    /// Gives a file a second name, which nothing has yet.
    pub fn hard_link(
        &self,
        name: impl AsRef<OsStr>,
        to: &DirHandle,
        new: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (name, new) = (one_name(name.as_ref())?, one_name(new.as_ref())?);
        Ok(linkat(&*self.fd, name, &*to.fd, new, AtFlags::empty())?)
    }

    /// Renames, and replaces what had the name.
    pub fn rename(&self, name: impl AsRef<OsStr>, to: &DirHandle, new: impl AsRef<OsStr>) -> io::Result<()> {
        let (name, new) = (one_name(name.as_ref())?, one_name(new.as_ref())?);
        Ok(renameat(&*self.fd, name, &*to.fd, new)?)
    }

    /// Renames to a name that nothing has yet. `EINVAL` where the file system cannot.
    pub fn rename_new(
        &self,
        name: impl AsRef<OsStr>,
        to: &DirHandle,
        new: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (name, new) = (one_name(name.as_ref())?, one_name(new.as_ref())?);
        Ok(renameat2(&*self.fd, name, &*to.fd, new, RenameFlags::RENAME_NOREPLACE)?)
    }

    /// Deletes a file or link; says whether it was there. No directory, whatever it is called.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<bool> {
        self.unlink(name.as_ref(), UnlinkatFlags::NoRemoveDir)
    }

    /// Deletes an empty directory; says whether it was there.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> io::Result<bool> {
        self.unlink(name.as_ref(), UnlinkatFlags::RemoveDir)
    }

    fn unlink(&self, name: &OsStr, flags: UnlinkatFlags) -> io::Result<bool> {
        match unlinkat(&*self.fd, one_name(name)?, flags) {
            Ok(()) => Ok(true),
            // An answer of a file server that came late is repeated: what is gone is gone.
            Err(Errno::ENOENT | Errno::ESTALE) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sets the mtime of an entry to now.
    pub fn touch(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let (name, link) = (one_name(name.as_ref())?, UtimensatFlags::NoFollowSymlink);
        Ok(utimensat(&*self.fd, name, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW, link)?)
    }

    /// Sets the permission bits of the directory itself.
    pub fn set_mode(&self, mode: Mode) -> io::Result<()> {
        match fchmod(&*self.fd, mode) {
            // `O_PATH` gives no right to it. By way of the handle, so that no link can lead this astray.
            Err(Errno::EBADF) => {
                let own = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
                Ok(fchmodat(AT_FDCWD, &own, mode, FchmodatFlags::FollowSymlink)?)
            }
            done => Ok(done?),
        }
    }
}

impl AsFd for DirHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The entries of a directory; see [`DirHandle::entries`].
pub struct Entries {
    entries: OwningIter,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: OsString,
    /// `None` on file systems that do not tell.
    pub kind: Option<Kind>,
}

impl Iterator for Entries {
    type Item = io::Result<DirEntry>;

    fn next(&mut self) -> Option<io::Result<DirEntry>> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(errno.into())),
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                let kind = entry.file_type().map(Kind::of_type);
                return Some(Ok(DirEntry { name: name.to_owned(), kind }));
            }
        }
    }
}

/// How many names a path below a directory has.
fn is_below(path: &Path) -> io::Result<usize> {
    let mut names = 0;
    for component in path.components() {
        match component {
            Component::Normal(_) => names += 1,
            Component::CurDir => {}
            _ => return Err(refused(path.as_os_str(), "is not a path below a directory")),
        }
    }
    Ok(names)
}

/// A name, and not a path that leads elsewhere.
fn one_name(name: &OsStr) -> io::Result<&OsStr> {
    if name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/') {
        return Err(refused(name, "is not a name in a directory"));
    }
    Ok(name)
}

fn refused(what: &OsStr, why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("`{}` {why}", names::text(what).0))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
