//! The areas of a share: one for the shared state of each release, one for downloads, one for layers. The
//! share itself has them, and the tier of each pull request.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::names;
use super::units::{self, Contents, Unit};
use agent_fs::dir::{DirHandle, Kind};
use agent_fs::walk::{Entry, Listing, Seen, Trouble, Walk};

/// The directories of a tier. The layer check manages `signatures`, the configure stage `buildtools`.
const KNOWN: [&str; 11] = [
    "sstate",
    "downloads",
    "layers",
    "signatures",
    "hashserv",
    "results",
    "usage",
    "leases",
    "trash",
    "pr",
    BUILDTOOLS,
];

/// The locks of local caches: the first is held by jobs of untrusted sources, the second by jobs of trusted sources.
pub const LOCKS: [&str; 2] = ["untrusted.lock", "trusted.lock"];

/// The caches of trusted sources, in local caches.
pub const TRUSTED: &str = "trusted";

/// The installed buildtools, in local caches.
pub const BUILDTOOLS: &str = "buildtools";

/// The lock in the work directory of a job, which may be in the directory of the local caches.
pub const JOB_LOCK: &str = "lock";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Area {
    /// The pull request whose tier contains it; `None` for the share itself.
    pub pull_request: Option<u64>,
    pub kind: AreaKind,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AreaKind {
    /// Shared state of this release.
    Sstate(String),
    Downloads,
    Layers,
    /// Only in a bucket: in a directory, the layer check manages these.
    Signatures,
    /// Results of jobs by commit.
    Results,
}

/// The areas and tiers of a share.
#[derive(Debug, Default)]
pub struct Layout {
    pub areas: Vec<Area>,
    /// The tiers of pull requests.
    pub pull_requests: Vec<u64>,
    /// Work directories of jobs, in the directory of the local caches.
    pub jobs: Vec<OsString>,
    /// Unknown entries, relative to the share.
    pub unknown: Vec<PathBuf>,
    pub trouble: Vec<Trouble>,
}

impl Layout {
    /// Reads the upper directories of a share.
    pub fn read(share: &DirHandle, walk: &Walk<'_>) -> Layout {
        let mut layout = Layout::default();
        layout.read_tier(share, None, walk);
        for entry in layout.list(share, Path::new("pr"), walk) {
            if entry.name == "trash" && entry.kind == Kind::Directory {
                continue;
            }
            let number = entry.name.to_str().and_then(pull_request);
            match number.filter(|_| entry.kind == Kind::Directory) {
                Some(number) => layout.pull_requests.push(number),
                None => layout.unknown.push(Path::new("pr").join(entry.name)),
            }
        }
        layout
    }

    /// The areas of one tier.
    pub fn read_tier(&mut self, share: &DirHandle, pull_request: Option<u64>, walk: &Walk<'_>) {
        let top = tier(pull_request);
        let area = |kind| Area { pull_request, kind };
        for entry in self.list(share, &top, walk) {
            let directory = entry.kind == Kind::Directory;
            match entry.name.to_str() {
                Some("downloads") if directory => self.areas.push(area(AreaKind::Downloads)),
                Some("layers") if directory => self.areas.push(area(AreaKind::Layers)),
                Some("results") if directory => self.areas.push(area(AreaKind::Results)),
                Some("pr") if pull_request.is_some() => self.unknown.push(top.join("pr")),
                Some(name) if directory && KNOWN.contains(&name) => {}
                Some(TRUSTED) if directory && pull_request.is_none() => {}
                Some(name) if pull_request.is_none() && LOCKS.contains(&name) => {}
                Some(_) if directory && pull_request.is_none() && is_work_dir(share, &entry.name) => {
                    self.jobs.push(entry.name);
                }
                _ => self.unknown.push(top.join(entry.name)),
            }
        }
        let sstate = top.join("sstate");
        for entry in self.list(share, &sstate, walk) {
            match entry.name.to_str().filter(|name| names::is_release(name)) {
                Some(release) if entry.kind == Kind::Directory => {
                    self.areas.push(area(AreaKind::Sstate(release.into())));
                }
                _ => self.unknown.push(sstate.join(entry.name)),
            }
        }
        self.areas.sort();
    }

    /// Lists one directory, sorted. A missing directory is empty.
    fn list(&mut self, share: &DirHandle, path: &Path, walk: &Walk<'_>) -> Vec<Entry> {
        let directory = match share.open_dir(path) {
            Ok(directory) => directory,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.trouble.push(Trouble { path: path.into(), error });
                }
                return Vec::new();
            }
        };
        let walk = Walk { facts: false, ..*walk };
        let mut entries = Vec::new();
        let each = |seen| match seen {
            Seen::Directory(listed) => entries = listed,
            Seen::Trouble(Trouble { error, .. }) => self.trouble.push(Trouble { path: path.into(), error }),
        };
        let _ = walk.run(&directory, |_| false, |listing| listing.entries, each);
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        entries
    }
}

/// Whether this is the work directory of a job.
fn is_work_dir(share: &DirHandle, name: &OsStr) -> bool {
    let lock = share.open_dir(name).and_then(|directory| directory.metadata(JOB_LOCK));
    lock.is_ok_and(|lock| lock.kind() == Kind::File)
}

impl Area {
    /// The path relative to the share.
    pub fn path(&self) -> PathBuf {
        let tier = tier(self.pull_request);
        match &self.kind {
            AreaKind::Sstate(release) => tier.join("sstate").join(release),
            AreaKind::Downloads => tier.join("downloads"),
            AreaKind::Layers => tier.join("layers"),
            AreaKind::Signatures => tier.join("signatures"),
            AreaKind::Results => tier.join("results"),
        }
    }

    /// Finds the units. Their directories are relative to the area. The content of clones and layers is not
    /// read; see [`measure`].
    pub fn walk(
        &self,
        share: &DirHandle,
        walk: &Walk<'_>,
        mut each: impl FnMut(Seen<Contents>),
    ) -> agent_fs::pool::Ended {
        let root = match share.open_dir(self.path()) {
            Ok(root) => root,
            Err(error) => {
                each(Seen::Trouble(Trouble { path: PathBuf::new(), error }));
                return agent_fs::pool::Ended::Complete;
            }
        };
        match self.kind {
            AreaKind::Sstate(_) => walk.run(&root, units::enter_sstate, units::sstate, each),
            AreaKind::Downloads => walk.run(&root, units::enter_downloads, units::downloads, each),
            AreaKind::Layers => walk.run(&root, units::enter_layers, units::layers, each),
            AreaKind::Signatures => agent_fs::pool::Ended::Complete,
            AreaKind::Results => walk.run(&root, units::enter_results, units::results, each),
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

/// The directory of a tier, relative to the share.
pub fn tier(pull_request: Option<u64>) -> PathBuf {
    pull_request.map_or_else(PathBuf::new, |number| Path::new("pr").join(number.to_string()))
}

/// Parses the number of a pull request in its canonical form.
pub fn pull_request(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number: &u64| number.to_string() == name)
}

/// Size and age of a directory tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Number of entries other than directories.
    pub files: u64,
    pub bytes: u64,
    /// The latest modification time of a file or directory, in nanoseconds since 1970.
    pub used: Option<i64>,
    /// Whether everything was read, except for `closed`.
    pub complete: bool,
    /// Directories that this user may not read.
    pub closed: u64,
}

impl Measure {
    /// Measures a directory below the share.
    pub fn of(share: &DirHandle, path: &Path, walk: &Walk<'_>) -> Measure {
        let mut all = Measure { complete: true, ..Measure::default() };
        let Ok(root) = share.open_dir(path) else { return Measure::default() };
        let visit = |listing: Listing| {
            let own = listing.directory.own_metadata().ok().map(|facts| facts.used());
            let mut part = Measure { used: own, ..Measure::default() };
            for facts in listing.entries.iter().filter_map(|entry| entry.facts) {
                part.files += 1;
                part.bytes = part.bytes.saturating_add(facts.size);
                part.used = part.used.max(Some(facts.used()));
            }
            part
        };
        let ended = walk.run(
            &root,
            |_| true,
            visit,
            |seen| match seen {
                Seen::Directory(part) => {
                    all.files += part.files;
                    all.bytes = all.bytes.saturating_add(part.bytes);
                    all.used = all.used.max(part.used);
                }
                Seen::Trouble(Trouble { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
                    all.closed += 1;
                }
                Seen::Trouble(_) => all.complete = false,
            },
        );
        all.complete &= ended == agent_fs::pool::Ended::Complete;
        all
    }

    /// Measures a unit that is a directory.
    pub fn of_unit(share: &DirHandle, area: &Path, unit: &Unit, walk: &Walk<'_>) -> Measure {
        Measure::of(share, &area.join(&unit.directory).join(&unit.name), walk)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::AtomicU64;

    use fs_err as fs;

    use super::*;

    #[test]
    fn finds_areas_of_the_share_and_of_pull_requests() {
        let base = tempfile::tempdir().unwrap();
        for path in [
            "sstate/scarthgap",
            "sstate/no release",
            "downloads",
            "layers",
            "results/v1",
            "usage",
            "trash",
            "pr/7/sstate/x",
            "pr/007",
            "lost+found",
        ] {
            fs::create_dir_all(base.path().join(path)).unwrap();
        }
        symlink("/", base.path().join("pr/8")).unwrap();
        symlink("/", base.path().join("pr/7/downloads")).unwrap();
        let operations = AtomicU64::new(0);
        let walk = Walk { width: 2, facts: true, operations: &operations, stop: &|| false };
        let share = DirHandle::open(base.path()).unwrap();
        let mut layout = Layout::read(&share, &walk);
        assert_eq!(layout.pull_requests, [7]);
        layout.read_tier(&share, Some(7), &walk);
        let areas: Vec<String> = layout.areas.iter().map(ToString::to_string).collect();
        assert_eq!(areas, ["sstate/scarthgap", "downloads", "layers", "results", "pr/7/sstate/x"]);
        let unknown: Vec<_> = layout.unknown.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(unknown, ["lost+found", "sstate/no release", "pr/007", "pr/8", "pr/7/downloads"]);
        assert!(layout.trouble.is_empty());
    }

    #[test]
    fn measures_a_directory_without_following_links() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("a/b")).unwrap();
        fs::write(base.path().join("a/b/file"), "12345").unwrap();
        fs::write(base.path().join("outside"), "12345").unwrap();
        symlink("..", base.path().join("a/b/up")).unwrap();
        let operations = AtomicU64::new(0);
        let walk = Walk { width: 2, facts: true, operations: &operations, stop: &|| false };
        let share = DirHandle::open(base.path()).unwrap();
        let measure = Measure::of(&share, Path::new("a"), &walk);
        assert_eq!((measure.files, measure.bytes, measure.complete), (2, 5 + 2, true));
        assert!(measure.used.is_some());
        assert!(!Measure::of(&share, Path::new("none"), &walk).complete);
    }
}
