//! A tree that somebody else writes, read without being led astray.
//!
//! The agent may be root while the tree belongs to the build user, and layer code may plant links
//! or swap a directory for one at any moment. So nothing is opened by its whole path: each component
//! is opened below the one before, and never through a symbolic link. What is opened is then
//! compared with what the walk saw. Two more ways to make root read for others are closed here:
//!
//! - A hard link to somebody else's file (`/etc/shadow`) is a regular file inside the tree. When the
//!   agent is root and the tree is not root's, a file is read only if the tree's owner could read
//!   it: it is their own, or everybody may read it.
//! - A fifo in the place of a file does not block: it is opened without waiting, and refused.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::geteuid;

use super::names;
use agent_types::error::{Error, Result};

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Symbolic links that one link may lead through, as in the kernel.
const HOPS: usize = 40;

/// A directory tree, held by its root.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// Set when only this user's files and those that everybody may read are to be read.
    reader: Option<u32>,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// A socket, a fifo, a device.
    Special,
}

/// Tells a file from one that took its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// Where a symbolic link leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// To this file of the tree.
    File(PathBuf),
    /// To this directory of the tree.
    Directory(PathBuf),
    /// Out of the tree: absolute, or through too many `..`.
    Outside,
    /// To nothing, in a circle, or to a special file.
    Nowhere,
}

impl Tree {
    /// # Errors
    /// Machine, when the root is no directory that can be opened, or a symbolic link.
    pub fn open(root: &Path) -> Result<Tree> {
        let failed = |errno: Errno| {
            Error::machine(format!("cannot open the directory `{}`", root.display())).because(&errno)
        };
        let fd = open(root, DIRECTORY, Mode::empty()).map_err(failed)?;
        let owner = fstat(&fd).map_err(failed)?.st_uid;
        let reader = (geteuid().is_root() && owner != 0).then_some(owner);
        Ok(Tree { root: fd, reader })
    }

    /// A directory of the tree as a tree of its own, read for the same user.
    pub fn below(&self, path: &Path) -> io::Result<Tree> {
        Ok(Tree { root: self.directory(path)?, reader: self.reader })
    }

    /// The names in a directory of the tree, sorted, each with what it is.
    pub fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Kind)>> {
        let mut dir = Dir::from_fd(self.directory(path)?)?;
        let mut names = Vec::new();
        let mut unknown = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match entry.file_type().map(kind_of_type) {
                Some(kind) => names.push((name.to_owned(), kind)),
                // Some file systems do not tell.
                None => unknown.push(name.to_owned()),
            }
        }
        for name in unknown {
            let stat = fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            names.push((name, kind_of_mode(&stat)));
        }
        names.sort();
        Ok(names)
    }

    /// What lies at this path, itself and not what it may lead to.
    pub fn look(&self, path: &Path) -> io::Result<(Kind, Identity)> {
        let (directory, name) = self.parent(path)?;
        let stat = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok((kind_of_mode(&stat), identity(&stat)))
    }

    /// The bytes in the regular file at this path.
    pub fn length(&self, path: &Path) -> io::Result<u64> {
        let (directory, name) = self.parent(path)?;
        let stat = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(u64::try_from(stat.st_size).unwrap_or_default())
    }

    /// The text of a symbolic link.
    pub fn link(&self, path: &Path) -> io::Result<OsString> {
        let (directory, name) = self.parent(path)?;
        Ok(readlinkat(&directory, name)?)
    }

    /// Follows a symbolic link within the tree.
    pub fn follow(&self, path: &Path, text: &OsStr) -> io::Result<LinkTarget> {
        let mut at: PathBuf = path.parent().unwrap_or(Path::new("")).into();
        let mut ahead = VecDeque::new();
        let mut text = text.to_owned();
        for _ in 0..HOPS {
            for component in Path::new(&text).components().rev() {
                ahead.push_front(component.as_os_str().to_owned());
            }
            match self.step(&mut at, &mut ahead)? {
                Step::Link(further) => text = further,
                Step::Arrived(leads) => return Ok(leads),
            }
        }
        Ok(LinkTarget::Nowhere)
    }

    /// Goes ahead until the end or the next link.
    fn step(&self, at: &mut PathBuf, ahead: &mut VecDeque<OsString>) -> io::Result<Step> {
        while let Some(name) = ahead.pop_front() {
            match Path::new(&name).components().next() {
                Some(Component::Normal(_)) => {}
                Some(Component::CurDir) | None => continue,
                Some(Component::ParentDir) => match at.pop() {
                    true => continue,
                    false => return Ok(Step::Arrived(LinkTarget::Outside)),
                },
                Some(Component::RootDir | Component::Prefix(_)) => {
                    return Ok(Step::Arrived(LinkTarget::Outside));
                }
            }
            let next = at.join(&name);
            match self.look(&next) {
                Ok((Kind::Directory, _)) => *at = next,
                Ok((Kind::Link, _)) => return Ok(Step::Link(self.link(&next)?)),
                Ok((Kind::File, _)) if ahead.is_empty() => return Ok(Step::Arrived(LinkTarget::File(next))),
                Ok(_) => return Ok(Step::Arrived(LinkTarget::Nowhere)),
                Err(error) if is_absent(&error) => return Ok(Step::Arrived(LinkTarget::Nowhere)),
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Arrived(LinkTarget::Directory(at.clone())))
    }

    /// Opens the regular file that the walk saw there.
    pub fn open_file(&self, path: &Path, seen: Identity) -> io::Result<(File, FileStat)> {
        let (directory, name) = self.parent(path)?;
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let fd = openat(&directory, name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        if kind_of_mode(&stat) != Kind::File || identity(&stat) != seen {
            return Err(io::Error::other("another file took its place meanwhile"));
        }
        if let Some(reader) = self.reader
            && stat.st_uid != reader
            && stat.st_mode & Mode::S_IROTH.bits() == 0
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it belongs to another user than the tree and is not readable by everybody",
            ));
        }
        Ok((File::from(fd), stat))
    }

    /// The directory that holds the path, and the last name.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut at = None;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(io::Error::other(format!(
                    "`{}` is no path in a tree",
                    names::text(path.as_os_str()).0
                )));
            };
            let below = at.as_ref().unwrap_or(&self.root);
            at = Some(openat(below, name, DIRECTORY, Mode::empty())?);
        }
        // A fresh description and not a copy of the root's: reading a directory moves its offset.
        match at {
            Some(fd) => Ok(fd),
            None => Ok(openat(&self.root, ".", DIRECTORY, Mode::empty())?),
        }
    }
}

enum Step {
    Link(OsString),
    Arrived(LinkTarget),
}

/// Nothing is there: not the name itself, or what should be its directory is none.
pub fn is_absent(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP, Errno::ENAMETOOLONG]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn identity(stat: &FileStat) -> Identity {
    Identity { device: stat.st_dev, inode: stat.st_ino }
}

fn kind_of_mode(stat: &FileStat) -> Kind {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Link,
        _ => Kind::Special,
    }
}

fn kind_of_type(kind: Type) -> Kind {
    match kind {
        Type::File => Kind::File,
        Type::Directory => Kind::Directory,
        Type::Symlink => Kind::Link,
        _ => Kind::Special,
    }
}
