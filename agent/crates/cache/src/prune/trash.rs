//! Units that were moved aside: `trash/<stamp of the run>/…`, with the directories that they had, and
//! deleted when the grace period is over. A build that has found an object a moment ago still reads it
//! on this machine or another; and a person may take it back.
//!
//! The parts of pull requests have a trash of their own, `pr/trash/…`: on EFS all of `pr/` may be mounted
//! through another access point, and nothing moves from one mount to another.

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

/// Where a trash lies, relative to the share.
pub const HOMES: [&str; 2] = [SHARED, PULL_REQUESTS];

pub const SHARED: &str = "trash";
const PULL_REQUESTS: &str = "pr/trash";

/// Only the pruner looks into the trash.
const PRIVATE: Mode = Mode::S_IRWXU;

/// Directories that are held open: as many as one release of shared state has.
const HELD: usize = 256;

/// The trash of one run for all that lies on a share.
pub struct Trashes<'a> {
    share: &'a DirHandle,
    now: SystemTime,
    shared: Trash,
    /// Made when it is needed first.
    pull_requests: OnceLock<Result<Trash, String>>,
}

impl<'a> Trashes<'a> {
    /// # Errors
    /// As [`Trash::begin`].
    pub fn begin(share: &'a DirHandle, now: SystemTime) -> io::Result<Trashes<'a>> {
        let shared = Trash::begin(share, now)?;
        Ok(Trashes { share, now, shared, pull_requests: OnceLock::new() })
    }

    /// The one for what lies in `place`, relative to the share.
    ///
    /// # Errors
    /// As [`Trash::begin`].
    pub fn of(&self, place: &Path) -> io::Result<&Trash> {
        if !place.starts_with("pr") {
            return Ok(&self.shared);
        }
        let begin =
            || Trash::begin_in(self.share, PULL_REQUESTS, self.now).map_err(|error| error.to_string());
        let trash = self.pull_requests.get_or_init(begin);
        trash
            .as_ref()
            .map_err(|why| io::Error::other(format!("nothing can be moved to `{PULL_REQUESTS}`: {why}")))
    }
}

/// Where the units of one run go.
pub struct Trash {
    /// The directory of the run.
    run: DirHandle,
    /// Directories in it, by what they are for.
    held: Mutex<HashMap<PathBuf, DirHandle>>,
}

impl Trash {
    /// Makes the directory of a run that begins `now`, for what is not of pull requests.
    ///
    /// # Errors
    /// When the share is read-only or full.
    pub fn begin(share: &DirHandle, now: SystemTime) -> io::Result<Trash> {
        Trash::begin_in(share, SHARED, now)
    }

    fn begin_in(share: &DirHandle, home: &str, now: SystemTime) -> io::Result<Trash> {
        let home = Path::new(home);
        if let (Some(above), Some(name)) = (home.parent(), home.file_name()) {
            // Not by way of the path, which a stranger could have made a link.
            share.open_dir(above)?.create_dir(name, PRIVATE)?;
        }
        let trash = share.open_dir(home)?;
        let run = stamp::stamp(now);
        trash.create_dir(&run, PRIVATE)?;
        Ok(Trash { run: trash.open_dir(&run)?, held: Mutex::default() })
    }

    /// Moves `name` of an open directory aside; `place` is where that directory is, relative to the
    /// share. Says whether it was there.
    ///
    /// # Errors
    /// Those of `rename(2)` and `unlink(2)`.
    pub fn take(&self, from: &DirHandle, place: &Path, name: &OsStr) -> io::Result<bool> {
        // `YY` of `XX/YY` would be 65,536 directories; the name begins its hash with it anyway.
        let place = match place.file_name().and_then(OsStr::to_str) {
            Some(last) if names::is_two_digits(last) => place.parent().unwrap_or(place),
            _ => place,
        };
        let to = self.prepare(place)?;
        // The kernel does one rename from directory to directory at a time on each file system, and on a
        // share waits for the answer meanwhile. A second name, and then no more the first, is two
        // operations that many do side by side. Directories, and files that may not be linked, are few.
        match from.hard_link(name, &to, name) {
            Ok(()) => return from.remove_file(name),
            // Nobody else writes there: a request that was answered late was repeated. Who unlinks it has
            // taken it; another prune may have linked it as well, into a trash of its own.
            Err(error) if errno(&error) == Errno::EEXIST => return from.remove_file(name),
            Err(_) => {}
        }
        let rename = || from.rename(name, &to, name);
        let done = match rename() {
            // A directory without write permission can be renamed by its owner, but not into another.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let writable = from.open_dir(name).and_then(|directory| directory.set_mode(PRIVATE));
                if writable.is_ok() { rename() } else { Err(error) }
            }
            done => done,
        };
        match done {
            Ok(()) => Ok(true),
            // An answer of a file server that came late is repeated: where it is in the end counts.
            Err(error) if is_gone(&error) => match from.metadata(name) {
                Err(error) if is_gone(&error) => Ok(to.metadata(name).is_ok()),
                Err(error) => Err(error),
                Ok(_) => Err(io::Error::other("the trash vanished")),
            },
            Err(error) => Err(error),
        }
    }

    /// The directory of the run for this place. Two threads may make the same one; waiting for one another
    /// would take longer.
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

/// What lies in the trash.
#[derive(Debug, Default)]
pub struct Lying {
    /// Directories of runs whose grace period is over, oldest first.
    pub over: Vec<OsString>,
    /// How many are still to wait.
    pub waiting: u64,
    /// No directories of runs.
    pub unknown: Vec<OsString>,
}

impl Lying {
    /// # Errors
    /// When the trash cannot be read; missing is empty.
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

/// What emptying did.
#[derive(Debug, Default)]
pub struct Emptied {
    pub files: u64,
    pub failed: Vec<String>,
}

/// Deletes what one run left, in `<home>/<run>`. `share_path` is where the share is.
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
    // Directories by their depth: the deepest are deleted first.
    let mut directories: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    let names_only = Walk { facts: false, ..*walk };
    let ended = names_only.run(
        &root,
        |_| true,
        |listing| (delete_files(&listing, walk), listing.path),
        |seen| {
            // What cannot be read or deleted this way is tried again below, and told there.
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

/// Deletes all but directories; says how many.
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
