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
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::dir::{Access, DirHandle, FileMeta, Identity, Kind, Links, is_absent};
use agent_types::error::{Error, Result};

/// Symbolic links that one link may lead through, as in the kernel.
const HOPS: usize = 40;

/// A directory tree, held by its root.
#[derive(Debug)]
pub struct Tree {
    root: DirHandle,
    /// Set when only this user's files and those that everybody may read are to be read.
    reader: Option<u32>,
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
        let failed = |error: io::Error| {
            Error::machine(format!("cannot open the directory `{}`", root.display())).because(&error)
        };
        let root = DirHandle::open_with(root, Links::Refuse, Access::Read).map_err(failed)?;
        let owner = root.own_metadata().map_err(failed)?.owner;
        let reader = (geteuid().is_root() && owner != 0).then_some(owner);
        Ok(Tree { root, reader })
    }

    /// A directory of the tree as a tree of its own, read for the same user.
    pub fn below(&self, path: &Path) -> io::Result<Tree> {
        Ok(Tree { root: self.root.open_dir(path)?, reader: self.reader })
    }

    /// The names in a directory of the tree, sorted, each with what it is.
    pub fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Kind)>> {
        let directory = self.root.open_dir(path)?;
        let mut names = Vec::new();
        for entry in directory.entries()? {
            let entry = entry?;
            let kind = match entry.kind {
                Some(kind) => kind,
                None => directory.metadata(&entry.name)?.kind(),
            };
            names.push((entry.name, kind));
        }
        names.sort();
        Ok(names)
    }

    /// What lies at this path, itself and not what it may lead to.
    pub fn metadata(&self, path: &Path) -> io::Result<FileMeta> {
        let (directory, name) = self.parent(path)?;
        directory.metadata(name)
    }

    /// The text of a symbolic link.
    pub fn link(&self, path: &Path) -> io::Result<OsString> {
        let (directory, name) = self.parent(path)?;
        directory.read_link(name)
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
            match self.metadata(&next).map(|found| found.kind()) {
                Ok(Kind::Directory) => *at = next,
                Ok(Kind::Link) => return Ok(Step::Link(self.link(&next)?)),
                Ok(Kind::File) if ahead.is_empty() => return Ok(Step::Arrived(LinkTarget::File(next))),
                Ok(_) => return Ok(Step::Arrived(LinkTarget::Nowhere)),
                Err(error) if is_absent(&error) => return Ok(Step::Arrived(LinkTarget::Nowhere)),
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Arrived(LinkTarget::Directory(at.clone())))
    }

    /// Opens the regular file that the walk saw there.
    pub fn open_file(&self, path: &Path, seen: Identity) -> io::Result<(File, FileMeta)> {
        let (directory, name) = self.parent(path)?;
        let another = || io::Error::other("another file took its place meanwhile");
        let (file, found) = match directory.open_file(name) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(another()),
            opened => opened?,
        };
        if found.identity() != seen {
            return Err(another());
        }
        if let Some(reader) = self.reader
            && found.owner != reader
            && found.mode & Mode::S_IROTH.bits() == 0
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it belongs to another user than the tree and is not readable by everybody",
            ));
        }
        Ok((file, found))
    }

    /// The directory that holds the path, and the last name.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(DirHandle, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
        let above = path.parent().unwrap_or(Path::new(""));
        Ok((self.root.open_dir_with(above, Access::PathOnly)?, name))
    }
}

enum Step {
    Link(OsString),
    Arrived(LinkTarget),
}
