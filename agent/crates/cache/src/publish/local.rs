//! Lists the objects in the local directories: new ones, and those that BitBake used from the share.
//!
//! Layer code writes both trees. This code reads only names and groups them into objects. It opens only
//! directories, and never follows links.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::names::{self, DownloadKind, DownloadPart, Role};
use agent_fs::dir::{Kind, is_absent};
use agent_fs::tree::Tree;

/// One of the two local directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Area {
    Sstate,
    Downloads,
}

impl Area {
    /// Its directory in a tier.
    pub fn part(self, release: &str) -> PathBuf {
        match self {
            Area::Sstate => Path::new("sstate").join(release),
            Area::Downloads => "downloads".into(),
        }
    }
}

/// An object: files that are useful only together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub area: Area,
    /// Directory in the local tree, relative.
    pub from: PathBuf,
    /// Directory in the same area of a share, relative. It may differ from the local one, see [`Local`].
    pub to: PathBuf,
    /// The primary file, which readers look for. If it exists, the whole object exists.
    pub primary: String,
    /// The other files of the object.
    pub sidecars: Vec<String>,
    /// The file whose time says when BitBake last verified the primary file.
    pub stamp: Option<String>,
    /// Whether BitBake used it from a mirror: its files are symbolic links.
    pub linked: bool,
}

impl Object {
    /// Whether different content under its name should be reported.
    pub fn is_alarming(&self) -> bool {
        self.area == Area::Downloads
            && names::download(Path::new(&self.primary)).is_some_and(|file| file.kind == DownloadKind::File)
    }
}

/// Iterates over the objects of the local directories.
///
/// - Shared state: the archive with `.siginfo` and `.sig`. A `.siginfo` alone is an object, too: BitBake
///   reads those of tasks that have no archive. A `.sig` alone is not an object.
/// - Downloads: files with a `.done` stamp, which BitBake writes after it verified the checksum
///   (`update_stamp` in `fetch2/__init__.py`, the same from dunfell to master), and mirror tarballs, which get
///   an empty stamp when they are complete (`fetch2/git.py`). Stamps are never published: a stamp is a pickle
///   that the next build would load.
///
/// Files in `npm2/` are published to the top of the share's downloads, because BitBake asks a mirror only for
/// the last part of the path (`uri_replace` in `fetch2/__init__.py`). It asks for `uninative/<hash>/<file>`
/// with the whole path, because `uninative.bbclass` adds its own mirror line.
#[derive(Debug)]
pub struct Local<'a> {
    sstate: Option<&'a Tree>,
    downloads: Option<&'a Tree>,
    /// Directories to read.
    pending: Vec<(Area, PathBuf)>,
    ready: Vec<Object>,
    odd: Skipped,
}

/// What was skipped.
#[derive(Debug, Default)]
pub struct Skipped {
    /// Entries with an object's name that are neither a file nor a link.
    pub no_files: Vec<PathBuf>,
    /// Unreadable directories, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl<'a> Local<'a> {
    /// A missing tree has no objects.
    pub fn new(sstate: Option<&'a Tree>, downloads: Option<&'a Tree>) -> Local<'a> {
        // Last in, first out: shared state, which took hours to build, comes before downloads.
        let pending = vec![(Area::Downloads, PathBuf::new()), (Area::Sstate, PathBuf::new())];
        Local { sstate, downloads, pending, ready: Vec::new(), odd: Skipped::default() }
    }

    /// What was skipped so far.
    pub fn skipped(self) -> Skipped {
        self.odd
    }

    fn read(&mut self, area: Area, directory: &Path) {
        let tree = match area {
            Area::Sstate => self.sstate,
            Area::Downloads => self.downloads,
        };
        let entries = match tree.map(|tree| tree.list(directory)) {
            Some(Ok(entries)) => entries,
            None => return,
            Some(Err(error)) if is_absent(&error) => return,
            Some(Err(error)) => {
                return self.odd.unreadable.push((directory.to_owned(), error.to_string()));
            }
        };
        // A name that is not text is not from BitBake.
        let named: Vec<(&str, Kind)> =
            entries.iter().filter_map(|(name, kind)| Some((name.to_str()?, *kind))).collect();
        let below = |enter: fn(&Path, &str) -> bool| {
            let directories = named.iter().filter(|(_, kind)| *kind == Kind::Directory);
            let entered = directories.filter(move |(name, _)| enter(directory, name));
            entered.map(move |(name, _)| (area, directory.join(name))).rev().collect::<Vec<_>>()
        };
        match area {
            Area::Sstate => {
                self.pending.extend(below(enters_sstate));
                self.sstate(directory, &named);
            }
            Area::Downloads => {
                self.pending.extend(below(enters_downloads));
                self.downloads(directory, &named);
            }
        }
    }

    fn sstate(&mut self, directory: &Path, named: &[(&str, Kind)]) {
        let mut units: BTreeMap<String, BTreeMap<Role, Kind>> = BTreeMap::new();
        for (name, kind) in named {
            let path = directory.join(name);
            let Some(file) = names::sstate(&path) else { continue };
            if self.is_file_or_link(&path, *kind) {
                units.entry(file.unit.to_owned()).or_default().insert(file.role, *kind);
            }
        }
        for (unit, roles) in units {
            for (kind, linked) in [(Kind::File, false), (Kind::Link, true)] {
                let has = |role: &Role| roles.get(role) == Some(&kind);
                let name = |role: Role| format!("{unit}{}", role.suffix());
                let Some(primary) = [Role::Archive, Role::Siginfo].into_iter().find(has) else { continue };
                let others = [Role::Siginfo, Role::Signature].into_iter();
                let sidecars =
                    others.filter(|role| primary == Role::Archive && has(role)).map(name).collect();
                let (area, from, to) = (Area::Sstate, directory.to_owned(), directory.to_owned());
                self.ready.push(Object {
                    area,
                    from,
                    to,
                    primary: name(primary),
                    sidecars,
                    stamp: None,
                    linked,
                });
            }
        }
    }

    fn downloads(&mut self, directory: &Path, named: &[(&str, Kind)]) {
        let stamps: BTreeSet<&str> = named
            .iter()
            .filter(|(_, kind)| *kind == Kind::File)
            .filter_map(|(name, _)| name.strip_suffix(".done"))
            .collect();
        let to = if directory == Path::new("npm2") { PathBuf::new() } else { directory.to_owned() };
        for (name, kind) in named {
            let path = directory.join(name);
            let whole = names::download(&path).is_some_and(|file| {
                let published = matches!(
                    file.kind,
                    DownloadKind::File | DownloadKind::GitTarball | DownloadKind::ShallowTarball
                );
                published && file.part == DownloadPart::Whole
            });
            let stamped = stamps.contains(name);
            let linked = *kind == Kind::Link;
            // The CVE database and other directories here were not fetched.
            if !whole || !(stamped || linked) || !self.is_file_or_link(&path, *kind) {
                continue;
            }
            self.ready.push(Object {
                area: Area::Downloads,
                from: directory.to_owned(),
                to: to.clone(),
                primary: (*name).to_owned(),
                sidecars: Vec::new(),
                stamp: (!linked).then(|| format!("{name}.done")),
                linked,
            });
        }
    }

    fn is_file_or_link(&mut self, path: &Path, kind: Kind) -> bool {
        let fits = matches!(kind, Kind::File | Kind::Link);
        if !fits {
            self.odd.no_files.push(path.to_owned());
        }
        fits
    }
}

impl Iterator for Local<'_> {
    type Item = Object;

    fn next(&mut self) -> Option<Object> {
        loop {
            if let Some(object) = self.ready.pop() {
                return Some(object);
            }
            let (area, directory) = self.pending.pop()?;
            self.read(area, &directory);
        }
    }
}

/// Whether it is `XX/YY`, also below a directory with the host's name.
fn enters_sstate(directory: &Path, name: &str) -> bool {
    match directory.components().count() {
        0 => !name.starts_with('.'),
        1 | 2 => names::is_two_digits(name),
        _ => false,
    }
}

fn enters_downloads(directory: &Path, name: &str) -> bool {
    match directory.parent() {
        None => matches!(name, "npm2" | "uninative"),
        Some(parent) => {
            parent.as_os_str().is_empty() && directory.file_name() == Some(OsStr::new("uninative"))
        }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
