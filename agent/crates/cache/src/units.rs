//! Groups the files of a tier into units, with their size and last use. Units are pruned and counted as a
//! whole. Pure, except for lazy data in a [`Listing`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::names::{self, Beside, DownloadKind, DownloadPart, Role};
use agent_fs::dir::{DirHandle, Kind};
use agent_fs::walk::{Entry, Listing};

/// The suffixes of a unit's parts, in the order in which a prune removes them: no reader may find an archive
/// whose sidecar files are gone.
pub const SUFFIXES: [&str; 10] = [
    "",
    ".tar.zst",
    ".sig",
    ".siginfo",
    ".resolved",
    ".json",
    ".sig.done",
    ".siginfo.done",
    ".done",
    ".used",
];

/// Files that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The directory, relative to the root of the walk.
    pub directory: PathBuf,
    pub name: String,
    pub class: Class,
    /// Never empty, in the order of [`SUFFIXES`].
    pub parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A shared state object of this `SSTATE_VERSION`.
    Object {
        version: u8,
    },
    Download(DownloadKind),
    /// A checkout in the layer store, with the files next to it.
    Layer,
    /// An object of the signature cache in a bucket.
    Signature,
    /// All results of one commit; in a bucket, one file of them.
    Result,
    /// An unfinished file.
    Temporary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index in [`SUFFIXES`].
    pub suffix: u8,
    pub kind: Kind,
    /// Bytes; 0 for a directory, whose content is not read here.
    pub size: u64,
    /// Distinguishes it from a later file with its name.
    pub inode: u64,
    /// See [`FileMeta::used`](agent_fs::dir::FileMeta::used).
    pub used: i64,
}

impl Unit {
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }

    /// The time of the part that was used last.
    pub fn used(&self) -> i64 {
        self.parts.iter().map(|part| part.used).max().unwrap_or(i64::MIN)
    }

    pub fn has(&self, suffix: &str) -> bool {
        self.parts.iter().any(|part| SUFFIXES[usize::from(part.suffix)] == suffix)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.parts.iter().any(|part| part.kind == Kind::Directory)
    }
}

/// The content of a directory.
#[derive(Debug, Default)]
pub struct Contents {
    pub units: Vec<Unit>,
    /// Unknown entries, relative to the root of the walk. They are kept and reported.
    pub unknown: Vec<PathBuf>,
    /// Lock files, which are kept.
    pub locks: u64,
}

/// Which directories of an `SSTATE_DIR` contain objects.
pub fn enter_sstate(path: &Path) -> bool {
    let names: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    match names.as_deref() {
        Some([one]) => names::is_two_digits(one) || names::is_host(one),
        Some([one, two]) => (names::is_two_digits(one) || names::is_host(one)) && names::is_two_digits(two),
        Some([host, one, two]) => {
            names::is_host(host) && names::is_two_digits(one) && names::is_two_digits(two)
        }
        _ => false,
    }
}

/// Which directories of a `DL_DIR` contain units.
pub fn enter_downloads(path: &Path) -> bool {
    let names: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    match names.as_deref() {
        Some([one]) => names::holds_downloads(one),
        Some(["uninative", hash]) => names::is_hash(hash),
        _ => false,
    }
}

/// The units in a directory of an `SSTATE_DIR`.
pub fn sstate(listing: Listing) -> Contents {
    sstate_in(&Folder::of(&listing))
}

/// The units in a folder of shared state.
pub fn sstate_in(folder: &Folder<'_>) -> Contents {
    let mut gathering = Gathering::new(folder);
    for entry in folder.entries {
        let path = folder.path.join(&entry.name);
        if entry.kind == Kind::Directory && enter_sstate(&path) {
            continue;
        }
        match (names::sstate(&path), names::sstate_beside(&path)) {
            (Some(file), _) if entry.kind == Kind::File => {
                let suffix = match file.role {
                    Role::Archive => "",
                    Role::Siginfo => ".siginfo",
                    Role::Signature => ".sig",
                };
                gathering.add(file.unit, suffix, Class::Object { version: file.version }, entry);
            }
            (None, Some(Beside::Temporary)) if entry.kind != Kind::Link => gathering.temporary(entry),
            (None, Some(Beside::Lock)) if entry.kind == Kind::File => gathering.contents.locks += 1,
            (None, Some(Beside::Stamp)) if entry.kind == Kind::File => gathering.stamp(entry),
            _ => gathering.contents.unknown.push(path),
        }
    }
    gathering.end()
}

/// The units in a directory of a `DL_DIR`. The content of clones is not read.
pub fn downloads(listing: Listing) -> Contents {
    downloads_in(&Folder::of(&listing))
}

/// The units in a folder of downloads.
pub fn downloads_in(folder: &Folder<'_>) -> Contents {
    let mut gathering = Gathering::new(folder);
    for entry in folder.entries {
        let path = folder.path.join(&entry.name);
        if entry.kind == Kind::Directory && enter_downloads(&path) {
            continue;
        }
        if names::is_part(&entry.name) && entry.kind == Kind::File {
            gathering.temporary(entry);
            continue;
        }
        let Some(download) = names::download(&path).filter(|_| entry.kind != Kind::Link) else {
            gathering.contents.unknown.push(path);
            continue;
        };
        let unit = download.unit.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let is_clone = download.kind == DownloadKind::Clone;
        let class = Class::Download(download.kind);
        match (download.part, entry.kind) {
            (DownloadPart::Whole, Kind::Directory) if is_clone => gathering.add(unit, "", class, entry),
            (DownloadPart::Whole, Kind::File) if !is_clone => gathering.add(unit, "", class, entry),
            (DownloadPart::Resolved, Kind::File) => gathering.add(unit, ".resolved", class, entry),
            (DownloadPart::Beside(Beside::Stamp), Kind::File) => gathering.add(unit, ".done", class, entry),
            (DownloadPart::Beside(Beside::Lock), Kind::File) => gathering.contents.locks += 1,
            (DownloadPart::Beside(Beside::Temporary), Kind::File | Kind::Directory) => {
                gathering.temporary(entry);
            }
            _ => gathering.contents.unknown.push(path),
        }
    }
    gathering.end()
}

/// Which directories of a layer store contain entries: those of the repositories.
pub fn enter_layers(path: &Path) -> bool {
    let mut names = path.iter();
    let repo = names.next().and_then(OsStr::to_str);
    names.next().is_none() && repo.is_some_and(names::is_layer_name)
}

/// The entries `<commit>/` of a repository in a layer store, each with `<commit>.json` and `<commit>.used`.
/// The time of the latter is that of the last use.
pub fn layers(listing: Listing) -> Contents {
    let folder = Folder::of(&listing);
    let mut gathering = Gathering::new(&folder);
    for entry in &listing.entries {
        let path = listing.path.join(&entry.name);
        if entry.kind == Kind::Directory && enter_layers(&path) {
            continue;
        }
        let name = entry.name.to_str().unwrap_or_default();
        let suffix = [".json", ".used"].into_iter().find(|suffix| name.ends_with(suffix)).unwrap_or("");
        let commit = name.strip_suffix(suffix).unwrap_or_default();
        let is_entry = path.iter().count() == 2 && names::is_commit(commit);
        match (entry.kind, suffix) {
            (Kind::Directory, "") | (Kind::File, ".json" | ".used") if is_entry => {
                gathering.add(commit, suffix, Class::Layer, entry);
            }
            (Kind::File | Kind::Directory, _) if names::is_part(&entry.name) => gathering.temporary(entry),
            _ => gathering.contents.unknown.push(path),
        }
    }
    gathering.end()
}

/// The entries `<commit>.tar.zst` of a repository among the layers of a bucket, each with `<commit>.json`.
pub fn packed_layers_in(folder: &Folder<'_>) -> Contents {
    let mut gathering = Gathering::new(folder);
    let in_repo = enter_layers(folder.path);
    for entry in folder.entries {
        let name = entry.name.to_str().unwrap_or_default();
        let split = [".tar.zst", ".json"].into_iter().find_map(|end| Some((name.strip_suffix(end)?, end)));
        match split.filter(|(commit, _)| in_repo && names::is_commit(commit)) {
            Some((commit, suffix)) => gathering.add(commit, suffix, Class::Layer, entry),
            None => gathering.contents.unknown.push(folder.path.join(name)),
        }
    }
    gathering.end()
}

/// The objects of the signature cache of a bucket. Each of them is a unit: what belongs together is written together,
/// and an incomplete answer is none.
pub fn signatures_in(folder: &Folder<'_>) -> Contents {
    let mut gathering = Gathering::new(folder);
    for entry in folder.entries {
        gathering.add(entry.name.to_str().unwrap_or_default(), "", Class::Signature, entry);
    }
    gathering.end()
}

/// The directory of a commit below the results: `v1/<name>/<release>/<machines>/<commit>`.
const RESULT_DEPTH: usize = 5;

/// Which directories of the results contain those of commits.
pub fn enter_results(path: &Path) -> bool {
    path.starts_with("v1") && path.iter().count() < RESULT_DEPTH
}

/// The directories of commits. All results of a commit are pruned together.
pub fn results(listing: Listing) -> Contents {
    let folder = Folder::of(&listing);
    let mut gathering = Gathering::new(&folder);
    for entry in &listing.entries {
        let path = listing.path.join(&entry.name);
        if entry.kind == Kind::Directory && enter_results(&path) {
            continue;
        }
        let is_commit = path.starts_with("v1") && path.iter().count() == RESULT_DEPTH;
        match entry.name.to_str() {
            Some(name) if entry.kind == Kind::Directory && is_commit => {
                gathering.add(name, "", Class::Result, entry);
            }
            _ => gathering.contents.unknown.push(path),
        }
    }
    gathering.end()
}

/// The files of results in a bucket.
pub fn results_in(folder: &Folder<'_>) -> Contents {
    let mut gathering = Gathering::new(folder);
    for entry in folder.entries {
        let name = entry.name.to_str().unwrap_or_default();
        match folder.path.starts_with("v1") {
            true => gathering.add(name, "", Class::Result, entry),
            false => gathering.contents.unknown.push(folder.path.join(name)),
        }
    }
    gathering.end()
}

/// The entries directly in a directory.
#[derive(Clone, Copy)]
pub struct Folder<'a> {
    /// Relative to the root of the walk.
    pub path: &'a Path,
    pub entries: &'a [Entry],
    /// `None` in a bucket, where all entries are files with known facts.
    directory: Option<&'a DirHandle>,
}

impl<'a> Folder<'a> {
    pub fn in_bucket(path: &'a Path, entries: &'a [Entry]) -> Folder<'a> {
        Folder { path, entries, directory: None }
    }

    fn of(listing: &'a Listing) -> Folder<'a> {
        Folder { path: &listing.path, entries: &listing.entries, directory: Some(&listing.directory) }
    }
}

struct Gathering<'a> {
    folder: Folder<'a>,
    units: BTreeMap<&'a str, Unit>,
    contents: Contents,
}

impl<'a> Gathering<'a> {
    fn new(folder: &Folder<'a>) -> Gathering<'a> {
        Gathering { folder: *folder, units: BTreeMap::new(), contents: Contents::default() }
    }

    fn add(&mut self, unit: &str, suffix: &str, class: Class, entry: &'a Entry) {
        // The key is a part of the entry's name, which lives as long as the listing.
        let Some(name) = entry.name.to_str().and_then(|name| name.get(..unit.len())) else { return };
        let Some(part) = self.part(suffix, entry) else { return };
        let directory = self.folder.path;
        let unit = self.units.entry(name).or_insert_with(|| Unit {
            directory: directory.to_owned(),
            name: name.to_owned(),
            class,
            parts: Vec::new(),
        });
        unit.parts.push(part);
    }

    /// Adds the stamp of an object or of one of its sidecar files.
    fn stamp(&mut self, entry: &'a Entry) {
        let known = entry.name.to_str().and_then(|name| {
            let file = names::sstate_name(name.strip_suffix(".done")?)?;
            Some((file.unit, &name[file.unit.len()..], Class::Object { version: file.version }))
        });
        if let Some((unit, suffix, class)) = known {
            self.add(unit, suffix, class, entry);
        }
    }

    fn temporary(&mut self, entry: &Entry) {
        let Some(part) = self.part("", entry) else { return };
        match entry.name.to_str() {
            Some(name) => self.contents.units.push(Unit {
                directory: self.folder.path.to_owned(),
                name: name.to_owned(),
                class: Class::Temporary,
                parts: vec![part],
            }),
            None => self.contents.unknown.push(self.folder.path.join(&entry.name)),
        }
    }

    /// `None`, if it no longer exists.
    fn part(&self, suffix: &str, entry: &Entry) -> Option<Part> {
        let facts = match entry.facts {
            Some(facts) => facts,
            // The walk does not stat directories, because most are not units.
            None => self.folder.directory?.metadata(&entry.name).ok()?,
        };
        let suffix = SUFFIXES.iter().position(|known| *known == suffix)?;
        let size = if entry.kind == Kind::File { facts.size } else { 0 };
        let suffix = u8::try_from(suffix).ok()?;
        Some(Part { suffix, kind: entry.kind, size, inode: facts.inode, used: facts.used() })
    }

    fn end(mut self) -> Contents {
        for mut unit in self.units.into_values() {
            unit.parts.sort_by_key(|part| part.suffix);
            self.contents.units.push(unit);
        }
        self.contents
    }
}

/// A path of the share for people, without control characters: other users choose the names.
pub fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::AtomicU64;

    use fs_err as fs;

    use super::*;
    use agent_fs::dir::DirHandle;
    use agent_fs::walk::{Seen, Walk};

    fn contents(
        root: &Path,
        enter: fn(&Path) -> bool,
        visit: fn(Listing) -> Contents,
    ) -> (Vec<String>, Vec<String>, u64) {
        let operations = AtomicU64::new(0);
        let walk = Walk { width: 4, facts: true, operations: &operations, stop: &|| false };
        let (mut units, mut unknown, mut locks) = (Vec::new(), Vec::new(), 0);
        let _ = walk.run(&DirHandle::open(root).unwrap(), enter, visit, |seen| {
            let Seen::Directory(contents) = seen else { panic!() };
            locks += contents.locks;
            unknown.extend(contents.unknown.iter().map(|path| shown(path)));
            units.extend(contents.units.iter().map(|unit| {
                let suffixes = unit.parts.iter().map(|part| SUFFIXES[usize::from(part.suffix)]);
                let path = unit.directory.join(&unit.name);
                let parts = suffixes.collect::<Vec<_>>().join("+");
                format!("{} {:?} {} [{parts}]", path.display(), unit.class, unit.size())
            }));
        });
        units.sort();
        unknown.sort();
        (units, unknown, locks)
    }

    const H: &str = "1a2b3c4d5e6f708192a3b4c5d6e7f80911223344556677889900aabbccddeeff";

    #[test]
    fn groups_shared_state() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("universal/1a/2b");
        fs::create_dir_all(place.join("tmpabcdefgh")).unwrap();
        let object = format!("sstate:z:a:1:r0:a:12:{H}_package.tar.zst");
        for suffix in ["", ".sig", ".siginfo", ".siginfo.done", ".done", ".lock", "abcdefgh", ".bak"] {
            fs::write(place.join(format!("{object}{suffix}")), "xy").unwrap();
        }
        fs::write(place.join(object.replace("_package", "_fetch") + ".siginfo"), "xyz").unwrap();
        symlink("/etc/passwd", place.join(object.replace("_package", "_deploy"))).unwrap();
        fs::create_dir_all(place.join(object.replace("_package", "_image"))).unwrap();
        fs::create_dir_all(base.path().join("not here/1a/2b")).unwrap();
        fs::write(base.path().join("README"), "").unwrap();
        let (units, unknown, locks) = contents(base.path(), enter_sstate, sstate);
        let at = "universal/1a/2b";
        let fetch = object.replace("_package", "_fetch");
        assert_eq!(
            units,
            [
                format!("{at}/{fetch} Object {{ version: 12 }} 3 [.siginfo]"),
                format!("{at}/{object} Object {{ version: 12 }} 10 [+.sig+.siginfo+.siginfo.done+.done]"),
                format!("{at}/{object}abcdefgh Temporary 2 []"),
                format!("{at}/tmpabcdefgh Temporary 0 []"),
            ]
        );
        let left = [
            "README".to_owned(),
            "not here".to_owned(),
            format!("{at}/{}", object.replace("_package", "_deploy")),
            format!("{at}/{}", object.replace("_package", "_image")),
            format!("{at}/{object}.bak"),
        ];
        assert_eq!((unknown, locks), (left.to_vec(), 1));
    }

    #[test]
    fn groups_downloads() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("git2/h.repo/objects")).unwrap();
        fs::create_dir_all(base.path().join("CVE_CHECK2")).unwrap();
        fs::create_dir_all(base.path().join("zlib-2.tar.xz")).unwrap();
        for file in [
            "zlib.tar.xz",
            "zlib.tar.xz.done",
            "zlib.tar.xz.lock",
            "lone.done",
            "git2/h.repo/objects/x",
            "git2/h.repo.done",
            "git2/file",
            ".build-agent.1.part",
            "two\nlines",
        ] {
            fs::write(base.path().join(file), "xy").unwrap();
        }
        symlink("/etc/passwd", base.path().join("link.tar.xz")).unwrap();
        let (units, unknown, locks) = contents(base.path(), enter_downloads, downloads);
        assert_eq!(
            units,
            [
                ".build-agent.1.part Temporary 2 []",
                "git2/h.repo Download(Clone) 2 [+.done]",
                "lone Download(File) 2 [.done]",
                "zlib.tar.xz Download(File) 4 [+.done]",
            ]
        );
        let left = ["CVE_CHECK2", "git2/file", "link.tar.xz", "two\\nlines", "zlib-2.tar.xz"];
        assert_eq!((unknown, locks), (left.map(String::from).to_vec(), 1));
    }

    #[test]
    fn unit_has_the_time_of_its_last_used_part() {
        let part = |suffix, used| Part { suffix, kind: Kind::File, size: 1, inode: 1, used };
        let unit = Unit {
            directory: PathBuf::new(),
            name: "x".into(),
            class: Class::Temporary,
            parts: vec![part(0, 5), part(2, 9)],
        };
        assert_eq!((unit.used(), unit.size()), (9, 2));
    }
}
