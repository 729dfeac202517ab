//! Deletes a directory tree of any depth with a bounded number of open files.
//!
//! Only names in directories that are held open are used, so that no link is followed and nothing
//! outside of the tree is touched, whatever is renamed or exchanged meanwhile. The last levels are held
//! open; on the way back to the others `..` is opened and must be the directory that it was before.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use crate::dir::{Access, DirHandle, Identity, Kind, errno, is_gone};

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
    pub why: io::Error,
}

/// Deletes `name` in `parent` with all below it; missing is fine. Goes on after a failure, so that as
/// little as possible is left. A file system that is mounted in the tree is not entered.
pub(super) fn remove(parent: &DirHandle, name: &OsStr) -> Result<(), Left> {
    for _ in 0..TRIES {
        let mut walk = Walk { parent, levels: Vec::new(), left: None };
        if walk.run(name) {
            return walk.left.map_or(Ok(()), Err);
        }
    }
    Err(Left { path: name.into(), why: Errno::EBUSY.into() })
}

struct Walk<'a> {
    parent: &'a DirHandle,
    /// From the top of the tree down to the directory that is being emptied.
    levels: Vec<Level>,
    left: Option<Left>,
}

/// A directory that is being emptied.
struct Level {
    /// In the directory above.
    name: OsString,
    /// `None` while it is further up than [`OPEN`] levels.
    open: Option<DirHandle>,
    identity: Identity,
    /// Subdirectories that are still to be deleted.
    names: Vec<OsString>,
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
    fn run(&mut self, root: &OsStr) -> bool {
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
    fn enter(&mut self, name: &OsStr) {
        let opened = self.here().and_then(|here| open_directory(&here, name));
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
            Err(error) if matches!(errno(&error), Errno::ENOTDIR | Errno::ELOOP) => {
                let deleted = self.here().and_then(|here| here.remove_file(name));
                self.done(name, deleted);
            }
            Err(error) if is_gone(&error) => self.done(name, Ok(false)),
            Err(error) => self.done(name, Err(error)),
        }
    }

    /// Deletes all in the last level that is no directory, and takes note of the directories.
    fn read(&mut self) {
        let listed = self.here().and_then(|here| Ok((here.entries_of_own()?, here)));
        let (entries, here) = match listed {
            Ok(listed) => listed,
            Err(error) => return self.failed(OsStr::new("."), error),
        };
        let mut names = Vec::new();
        let mut more = false;
        // Files that are deleted count for this reading.
        if let Some(level) = self.levels.last_mut() {
            level.progress = false;
        }
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_gone(&error) => break,
                Err(error) => return self.failed(OsStr::new("."), error),
            };
            if entry.kind != Some(Kind::Directory) {
                match here.remove_file(&entry.name) {
                    // Not every file system tells what is a directory.
                    Err(error) if errno(&error) == Errno::EISDIR => {}
                    deleted => {
                        self.done(&entry.name, deleted);
                        continue;
                    }
                }
            }
            names.push(entry.name);
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
        match self.here().and_then(|here| here.remove_dir(&level.name)) {
            Err(error)
                if matches!(errno(&error), Errno::ENOTEMPTY | Errno::EEXIST) && level.refilled < TRIES =>
            {
                level.refilled += 1;
                self.levels.push(level);
                self.read();
            }
            // Somebody put something else in its place.
            Err(error) if errno(&error) == Errno::ENOTDIR => {
                let name = std::mem::take(&mut level.name);
                self.enter(&name);
            }
            deleted => self.done(&level.name, deleted),
        }
        true
    }

    /// The directory whose entries are being deleted.
    fn here(&self) -> io::Result<DirHandle> {
        match self.levels.last() {
            Some(level) => level.open.clone().ok_or(Errno::EBADF.into()),
            None => Ok(self.parent.clone()),
        }
    }

    fn done(&mut self, name: &OsStr, deleted: io::Result<bool>) {
        match (deleted, self.levels.last_mut()) {
            (Ok(_), Some(level)) => level.progress = true,
            (Ok(_), None) => {}
            (Err(error), _) => self.failed(name, error),
        }
    }

    fn failed(&mut self, name: &OsStr, why: io::Error) {
        if let Some(level) = self.levels.last_mut() {
            level.failed = true;
        }
        if self.left.is_none() {
            self.left = Some(Left { path: self.path_of(name), why });
        }
    }

    fn path_of(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::new();
        let names = self.levels.iter().map(|level| &*level.name).chain([name]);
        for name in names.filter(|name| *name != ".") {
            if path.as_os_str().len() > LONGEST_PATH {
                path.push("…");
                break;
            }
            path.push(name);
        }
        path
    }
}

/// Opens a subdirectory for reading, also one that its owner closed to himself.
fn open_directory(here: &DirHandle, name: &OsStr) -> io::Result<DirHandle> {
    match here.open_dir_same_mount(name, Access::Read) {
        Err(error) if errno(&error) == Errno::EACCES => {
            here.open_dir_same_mount(name, Access::PathOnly)?.set_mode(Mode::S_IRWXU)?;
            here.open_dir_same_mount(name, Access::Read)
        }
        opened => opened,
    }
}

/// Makes an open directory writable for its owner; gives its identity.
fn prepare(open: &DirHandle) -> io::Result<Identity> {
    let facts = open.own_metadata()?;
    let wanted = Mode::S_IWUSR | Mode::S_IXUSR;
    let user = geteuid();
    if !user.is_root()
        && user.as_raw() == facts.owner
        && !Mode::from_bits_truncate(facts.mode).contains(wanted)
    {
        open.set_mode(Mode::S_IRWXU)?;
    }
    Ok(facts.identity())
}

/// The directory above an open one, if it is the right one.
fn reopen(open: Option<&DirHandle>, above: Identity) -> Option<DirHandle> {
    let reopened = open?.open_parent().ok()?;
    (reopened.own_metadata().ok()?.identity() == above).then_some(reopened)
}
