//! What lies in the local directories: what is new there, and what BitBake used from the share.
//!
//! Both trees are written by layer code. Here only names are read and sorted into objects; nothing is
//! opened but directories, and those never through a link.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::names::{self, DownloadKind, DownloadPart, Role};
use agent_fs::dir::{Kind, is_absent};
use agent_fs::tree::Tree;

/// Which of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Area {
    Sstate,
    Downloads,
}

/// An object: the files that are of use only together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub area: Area,
    /// The directory in the local tree, relative.
    pub from: PathBuf,
    /// The directory in the same part of a share, relative. Not always the local one, see [`Local`].
    pub to: PathBuf,
    /// The file for which readers look. Where it is, all of the object is.
    pub primary: String,
    /// What belongs to it.
    pub sidecars: Vec<String>,
    /// The file whose time says when BitBake last found the lead to be whole.
    pub stamp: Option<String>,
    /// BitBake has used it from a mirror: its files are symbolic links.
    pub linked: bool,
}

/// The objects of the local directories, one after another.
///
/// - Shared state: the archive with `.siginfo` and `.sig`. A `.siginfo` alone is an object, too: BitBake
///   looks at those of tasks that have no archive. A `.sig` alone is nothing.
/// - Downloads: files beside which BitBake has put a `.done` stamp, its word that the checksum was right
///   (`update_stamp` in `fetch2/__init__.py`, the same from dunfell to master), and mirror tarballs,
///   which get an empty one when they are whole (`fetch2/git.py`). The stamp itself is a pickle that
///   the next build would load; it stays here.
///
/// What is in `npm2/` goes to the top of the share's downloads: BitBake asks a mirror for the last part
/// of the path alone (`uri_replace` in `fetch2/__init__.py`). It asks for `uninative/<hash>/<file>` by
/// the whole path, because `uninative.bbclass` makes a mirror line of its own.
#[derive(Debug)]
pub struct Local<'a> {
    sstate: Option<&'a Tree>,
    downloads: Option<&'a Tree>,
    /// Directories that are still to be read.
    pending: Vec<(Area, PathBuf)>,
    ready: Vec<Object>,
    odd: Oddities,
}

/// What was not taken.
#[derive(Debug, Default)]
pub struct Oddities {
    /// Of an object's name, and neither a file nor a link.
    pub no_files: Vec<PathBuf>,
    /// Directories that could not be read, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl<'a> Local<'a> {
    /// A tree that is not there holds nothing.
    pub fn new(sstate: Option<&'a Tree>, downloads: Option<&'a Tree>) -> Local<'a> {
        // The last first: what took hours to build before what can be fetched again.
        let pending = vec![(Area::Downloads, PathBuf::new()), (Area::Sstate, PathBuf::new())];
        Local { sstate, downloads, pending, ready: Vec::new(), odd: Oddities::default() }
    }

    /// What was not taken so far.
    pub fn oddities(self) -> Oddities {
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
        // A name that is no text is none of BitBake's.
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
            // The CVE database and other directories of this place are nothing that was fetched.
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

/// `XX/YY`, or that below a directory with the host's name.
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
