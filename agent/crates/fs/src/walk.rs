//! A tree read side by side: one listing for each directory, one look at each file, never through a
//! symbolic link.
//!
//! Directories are opened by their name below their parent, which is held open: whoever swaps one for
//! a link leads nobody out of the tree. What cannot be read is told and the walk goes on. What waits to
//! be read is names and open parents; the entries of a directory live until its visit is over.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::dir::{DirHandle, FileMeta, Kind, is_gone};
use super::pool::{self, Ended, Output};

/// Entries of one directory that are looked at by one thread.
const CHUNK: usize = 32;

/// No directory of a share has as many. Strangers may fill theirs; what is above it is not looked at.
pub const MOST_ENTRIES: usize = 200_000;

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
        // The root has no name below itself. Opened again, because the place of reading belongs to the
        // open file, which the caller may use as well.
        let directory = match path.file_name() {
            Some(name) => parent.open_dir(name)?,
            None => parent.reopen()?,
        };
        let mut entries = Vec::new();
        for entry in directory.entries_of_own()? {
            let entry = entry?;
            let kind = match entry.kind {
                Some(kind) => kind,
                // Some file systems do not tell.
                None => {
                    self.count(1);
                    match directory.metadata(&entry.name) {
                        Ok(found) => found.kind(),
                        Err(error) if is_gone(&error) => continue,
                        Err(error) => return Err(error),
                    }
                }
            };
            entries.push(Entry { name: entry.name, kind, facts: None });
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
            match reading.directory.metadata(&entry.name) {
                Ok(facts) => {
                    let (name, kind) = (entry.name.clone(), facts.kind());
                    looked.push(Entry { name, kind, facts: Some(facts) });
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

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
