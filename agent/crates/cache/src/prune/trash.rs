//! The trash: units in `trash/<stamp of the run>/…`, in their original directories, which are deleted after
//! the grace period. Until then, a build on any machine that has just found an object can still read it, and
//! a user can restore it.
//!
//! The tiers of pull requests have a separate trash, `pr/trash/…`: on EFS, `pr/` may be mounted through
//! another access point, and a rename across mounts is not possible.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::names;
use crate::stamp;
use agent_fs::dir::{DirHandle, Kind, errno, is_gone};
use agent_fs::pool::{self, Ended, Output};
use agent_fs::remove;
use agent_fs::walk::{Listing, Seen, Walk};

/// The directories of the trashes, relative to the share.
pub const HOMES: [&str; 2] = [SHARED, PULL_REQUESTS];

pub const SHARED: &str = "trash";
const PULL_REQUESTS: &str = "pr/trash";

/// Only the pruner reads the trash.
const PRIVATE: Mode = Mode::S_IRWXU;

/// How many directories are held open: one release of shared state has as many.
const HELD: usize = 256;

/// The trashes of one run, for all units of a share.
pub struct Trashes<'a> {
    share: &'a DirHandle,
    now: SystemTime,
    shared: Trash,
    /// Created on first use.
    pull_requests: OnceLock<Result<Trash, String>>,
}

impl<'a> Trashes<'a> {
    /// # Errors
    /// See [`Trash::begin`].
    pub fn begin(share: &'a DirHandle, now: SystemTime) -> io::Result<Trashes<'a>> {
        let shared = Trash::begin(share, now)?;
        Ok(Trashes { share, now, shared, pull_requests: OnceLock::new() })
    }

    /// The trash for units in `place`, relative to the share.
    ///
    /// # Errors
    /// See [`Trash::begin`].
    pub fn of(&self, place: &Path) -> io::Result<&Trash> {
        if !place.starts_with("pr") {
            return Ok(&self.shared);
        }
        let begin =
            || Trash::begin_in(self.share, PULL_REQUESTS, self.now).map_err(|error| error.to_string());
        let trash = self.pull_requests.get_or_init(begin);
        trash
            .as_ref()
            .map_err(|why| io::Error::other(format!("cannot move files to `{PULL_REQUESTS}`: {why}")))
    }
}

/// The trash of one run.
pub struct Trash {
    /// The directory of the run.
    run: DirHandle,
    /// Directories in it, by what they are for.
    held: Mutex<HashMap<PathBuf, DirHandle>>,
}

impl Trash {
    /// Creates the directory of a run that begins at `now`, for units that do not belong to pull requests.
    ///
    /// # Errors
    /// If the share is read-only or full.
    pub fn begin(share: &DirHandle, now: SystemTime) -> io::Result<Trash> {
        Trash::begin_in(share, SHARED, now)
    }

    fn begin_in(share: &DirHandle, home: &str, now: SystemTime) -> io::Result<Trash> {
        let home = Path::new(home);
        if let (Some(above), Some(name)) = (home.parent(), home.file_name()) {
            // Not by path, because another user could have replaced it by a link.
            share.open_dir(above)?.create_dir(name, PRIVATE)?;
        }
        let trash = share.open_dir(home)?;
        let run = stamp::stamp(now);
        trash.create_dir(&run, PRIVATE)?;
        Ok(Trash { run: trash.open_dir(&run)?, held: Mutex::default() })
    }

    /// Moves `name` from an open directory into the trash; `place` is that directory relative to the share.
    /// Returns whether it existed.
    ///
    /// # Errors
    /// Those of `rename(2)` and `unlink(2)`.
    pub fn take(&self, from: &DirHandle, place: &Path, name: &OsStr) -> io::Result<bool> {
        // Skip `YY` of `XX/YY`, which would make 65,536 directories; the hash in the name begins with it
        // anyway.
        let place = match place.file_name().and_then(OsStr::to_str) {
            Some(last) if names::is_two_digits(last) => place.parent().unwrap_or(place),
            _ => place,
        };
        let to = self.prepare(place)?;
        // The kernel allows one rename between directories per file system at a time, and on a share it waits
        // for the answer. Link and unlink are two operations, but run in parallel. Directories, and files
        // that cannot be linked, are few.
        match from.hard_link(name, &to, name) {
            Ok(()) => return from.remove_file(name),
            // No other process writes there, so an existing name means that a request was repeated. The
            // process that unlinks the file has taken it; another prune may have linked it into its trash,
            // too.
            Err(error) if errno(&error) == Errno::EEXIST => return from.remove_file(name),
            Err(_) => {}
        }
        let rename = || from.rename(name, &to, name);
        let done = match rename() {
            // The owner can rename a directory without write permission, but not into another directory.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let writable = from.open_dir(name).and_then(|directory| directory.set_mode(PRIVATE));
                if writable.is_ok() { rename() } else { Err(error) }
            }
            done => done,
        };
        match done {
            Ok(()) => Ok(true),
            // A repeated request may fail after the first succeeded, so the final location counts.
            Err(error) if is_gone(&error) => match from.metadata(name) {
                Err(error) if is_gone(&error) => Ok(to.metadata(name).is_ok()),
                Err(error) => Err(error),
                Ok(_) => Err(io::Error::other("the trash vanished")),
            },
            Err(error) => Err(error),
        }
    }

    /// Two threads may create the same directory; a lock would take longer.
    fn prepare(&self, place: &Path) -> io::Result<DirHandle> {
        let held = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = held().get(place) {
            return Ok(made.clone());
        }
        let made = self.run.create_dirs(place, PRIVATE)?;
        let mut held = held();
        if held.len() < HELD {
            held.insert(place.to_owned(), made.clone());
        }
        Ok(made)
    }
}

/// The content of the trash.
#[derive(Debug, Default)]
pub struct Lying {
    /// Directories of runs whose grace period is over, oldest first.
    pub over: Vec<OsString>,
    /// Number of runs whose grace period is not over.
    pub waiting: u64,
    /// Entries that are not directories of runs.
    pub unknown: Vec<OsString>,
}

impl Lying {
    /// # Errors
    /// If the trash cannot be read; a missing one is empty.
    pub fn read(
        share: &DirHandle,
        home: &str,
        grace: Duration,
        now: SystemTime,
        walk: &Walk<'_>,
    ) -> io::Result<Lying> {
        let mut lying = Lying::default();
        let trash = match share.open_dir(home) {
            Ok(trash) => trash,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lying),
            Err(error) => return Err(error),
        };
        let (mut entries, mut failed) = (Vec::new(), None);
        let _ = Walk { facts: false, ..*walk }.run(
            &trash,
            |_| false,
            |listing| listing.entries,
            |seen| match seen {
                Seen::Directory(listed) => entries = listed,
                Seen::Trouble(trouble) => failed = Some(trouble.error),
            },
        );
        if let Some(error) = failed {
            return Err(error);
        }
        for entry in entries {
            let begun =
                entry.name.to_str().and_then(stamp::time_of).filter(|_| entry.kind == Kind::Directory);
            match begun.map(|begun| begun.checked_add(grace).is_some_and(|over| over <= now)) {
                Some(true) => lying.over.push(entry.name),
                Some(false) => lying.waiting += 1,
                None => lying.unknown.push(entry.name),
            }
        }
        lying.over.sort();
        Ok(lying)
    }
}

/// What was deleted.
#[derive(Debug, Default)]
pub struct Emptied {
    pub files: u64,
    pub failed: Vec<String>,
}

/// Deletes the trash of one run, `<home>/<run>`. `share_path` is the path of the share.
pub fn empty(
    share: &DirHandle,
    share_path: &Path,
    home: &str,
    run: &OsStr,
    walk: &Walk<'_>,
) -> (Emptied, Ended) {
    let mut emptied = Emptied::default();
    let place = Path::new(home).join(run);
    let root = match share.open_dir(&place) {
        Ok(root) => root,
        Err(error) if is_gone(&error) => return (emptied, Ended::Complete),
        Err(error) => {
            emptied.failed.push(format!("{}: {error}", place.display()));
            return (emptied, Ended::Complete);
        }
    };
    // Directories by depth: the deepest are deleted first.
    let mut directories: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    let names_only = Walk { facts: false, ..*walk };
    let ended = names_only.run(
        &root,
        |_| true,
        |listing| (delete_files(&listing, walk), listing.path),
        |seen| {
            // Failures here are tried again below, and reported there.
            if let Seen::Directory((files, path)) = seen {
                emptied.files += files;
                directories.entry(path.components().count()).or_default().push(path);
            }
        },
    );
    if ended == Ended::Early {
        return (emptied, ended);
    }
    for (_, paths) in directories.into_iter().rev() {
        let work = |path: PathBuf, _: &mut Output<'_, PathBuf, ()>| {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
                && let Ok(parent) = root.open_dir(parent)
            {
                walk.operations.fetch_add(2, Ordering::Relaxed);
                let _ = parent.remove_dir(name);
            }
        };
        if pool::run(walk.width, paths, || (walk.stop)(), work, |()| {}) == Ended::Early {
            return (emptied, Ended::Early);
        }
    }
    if let Err(error) = remove::remove_tree(&share_path.join(&place), &share_path.join(home)) {
        emptied.failed.push(error.message);
    }
    (emptied, Ended::Complete)
}

/// Deletes all entries but directories; returns their number.
fn delete_files(listing: &Listing, walk: &Walk<'_>) -> u64 {
    let directory = &listing.directory;
    let files = listing.entries.iter().filter(|entry| entry.kind != Kind::Directory);
    let delete = |name: &OsStr| {
        walk.operations.fetch_add(1, Ordering::Relaxed);
        match directory.remove_file(name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let _ = directory.set_mode(PRIVATE);
                directory.remove_file(name)
            }
            done => done,
        }
    };
    files.filter(|entry| !(walk.stop)() && delete(&entry.name).unwrap_or(false)).count() as u64
}
