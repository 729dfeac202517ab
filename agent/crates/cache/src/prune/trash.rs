//! The trash: units in `trash/<stamp of the run>/…`, in their original directories, which are deleted after
//! the grace period. Until then, a build on any machine that has just found an object can still read it, and
//! a user can restore it.
//!
//! The tiers of pull requests have a separate trash, `pr/trash/…`: on EFS, `pr/` may be mounted through
//! another access point, and a rename across mounts is not possible.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::linkat;

use crate::names;
use crate::stamp;
use agent_fs::pool::{self, Ended, Output};
use agent_fs::remove;
use agent_fs::walk::{DirHandle, Kind, Listing, Seen, Walk, is_gone};

/// The directories of the trashes, relative to the share.
pub const HOMES: [&str; 2] = [SHARED, PULL_REQUESTS];

pub const SHARED: &str = "trash";
const PULL_REQUESTS: &str = "pr/trash";

/// Only the pruner reads the trash.
const PRIVATE: Mode = Mode::S_IRWXU;

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
    made: Mutex<HashSet<PathBuf>>,
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
            make_directory(&share.directory(above)?, Path::new(name))?;
        }
        let trash = share.directory(home)?;
        let run = stamp::stamp(now);
        make_directory(&trash, Path::new(&run))?;
        Ok(Trash { run: trash.directory(Path::new(&run))?, made: Mutex::new(HashSet::new()) })
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
        self.prepare(place)?;
        let to = place.join(name);
        // The kernel allows one rename between directories per file system at a time, and on a share it waits
        // for the answer. Link and unlink are two operations, but run in parallel. Directories, and files
        // that cannot be linked, are few.
        match linkat(from, name, &self.run, &to, AtFlags::empty()) {
            // No other process writes there, so an existing name means that a request was repeated. The
            // process that unlinks the file has taken it; another prune may have linked it into its trash,
            // too.
            Ok(()) | Err(Errno::EEXIST) => return remove::file_at(from, name),
            Err(_) => {}
        }
        let rename = || renameat(from, name, &self.run, &to);
        let done = match rename() {
            // The owner can rename a directory without write permission, but not into another directory.
            Err(errno @ (Errno::EACCES | Errno::EPERM)) => {
                let writable =
                    from.directory(Path::new(name)).map(|directory| fchmod(directory.as_fd(), PRIVATE));
                if writable.is_ok() { rename() } else { Err(errno) }
            }
            done => done,
        };
        match done {
            Ok(()) => Ok(true),
            // A repeated request may fail after the first succeeded, so the final location counts.
            Err(Errno::ENOENT | Errno::ESTALE) => match from.look(name) {
                Err(error) if is_gone(&error) => Ok(self.run.directory(place)?.look(name).is_ok()),
                Err(error) => Err(error),
                Ok(_) => Err(io::Error::other("the trash vanished")),
            },
            Err(errno) => Err(errno.into()),
        }
    }

    /// Two threads may create the same directory; a lock would take longer.
    fn prepare(&self, place: &Path) -> io::Result<()> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ancestors: Vec<&Path> =
            place.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        let known = made();
        ancestors.retain(|path| !known.contains(*path));
        drop(known);
        for path in ancestors.into_iter().rev() {
            make_directory(&self.run, path)?;
            made().insert(path.to_owned());
        }
        Ok(())
    }
}

fn make_directory(below: &DirHandle, path: &Path) -> io::Result<()> {
    match mkdirat(below, path, PRIVATE) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
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
        let trash = match share.directory(Path::new(home)) {
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
    let root = match share.directory(&place) {
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
                && let Ok(parent) = root.directory(parent)
            {
                walk.operations.fetch_add(2, Ordering::Relaxed);
                let _ = remove::directory_at(&parent, name);
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
        match remove::file_at(directory, name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let _ = fchmod(directory.as_fd(), PRIVATE);
                remove::file_at(directory, name)
            }
            done => done,
        }
    };
    files.filter(|entry| !(walk.stop)() && delete(&entry.name).unwrap_or(false)).count() as u64
}
