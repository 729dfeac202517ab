//! Parses file names in a share or a local cache. Pure: does not access the disk.
//!
//! The names come from BitBake and OE-Core (`generate_sstatefn` and `sstate_create_and_sign_package` of
//! `sstate.bbclass`, `fetch2/*.py`; read in dunfell, kirkstone, scarthgap and master). Names decide what is
//! published and deleted, so a name that is not clearly one of theirs is unknown: `None`, never a guess.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Prefix and suffix of the agent's unfinished files.
const PART: (&str, &str) = (".build-agent.", ".part");

/// The temporary name of a file; `random` makes it unique.
pub fn part(random: &str) -> String {
    format!("{}{random}{}", PART.0, PART.1)
}

/// Whether the name is a temporary name made by [`part`].
pub fn is_part(name: &OsStr) -> bool {
    let (begin, end) = (PART.0.as_bytes(), PART.1.as_bytes());
    let name = name.as_bytes();
    name.len() > begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
}

/// A file of a shared state object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SstateFile<'a> {
    /// The file name of the archive, whether it exists or not. Files with the same unit in the same directory
    /// are one object.
    pub unit: &'a str,
    pub role: Role,
    /// Lower-case hexadecimal digits.
    pub hash: &'a str,
    /// Without `do_`, e.g. `populate_sysroot`.
    pub task: &'a str,
    /// `SSTATE_VERSION`.
    pub version: u8,
    /// `PN`, or `None` if the field is empty.
    pub recipe: Option<&'a str>,
}

/// The role of a file in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Archive,
    /// `.siginfo`: the input of the hash. Tasks without an archive (fetch, unpack, patch) have only this
    /// file.
    Siginfo,
    /// `.sig`: the archive's GPG signature.
    Signature,
}

impl Role {
    /// The suffix that its name adds to the archive's.
    pub const fn suffix(self) -> &'static str {
        match self {
            Role::Archive => "",
            Role::Siginfo => ".siginfo",
            Role::Signature => ".sig",
        }
    }
}

/// Files that BitBake keeps for itself next to its objects. Never published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beside {
    /// `.done`: a pickle that the next build would load.
    Stamp,
    /// `.lock`: must not be deleted while it is held, because a second process could then take the lock.
    Lock,
    /// Temporary: its writer has renamed it or has ended.
    Temporary,
}

/// Parses a path in an `SSTATE_DIR`: `XX/YY/NAME`, or `<NATIVELSBSTRING>/XX/YY/NAME` for native objects.
/// `XXYY` is the start of the hash.
pub fn sstate(relative: &Path) -> Option<SstateFile<'_>> {
    let (first, second, name) = places(relative)?;
    let file = sstate_name(name)?;
    (file.hash[..2] == *first && file.hash[2..4] == *second).then_some(file)
}

/// Parses the file name of an object, in any directory.
///
/// `sstate:PN:arch-vendor-os:PV:PR:PKGARCH:VERSION:HASH_TASK.tar.zst`. Names are shortened to 254 bytes in
/// the third to fifth field, and `SSTATE_SWSPEC` leaves two of them empty. So the name is parsed from the
/// right.
pub fn sstate_name(name: &str) -> Option<SstateFile<'_>> {
    let (unit, role) = [Role::Siginfo, Role::Signature]
        .into_iter()
        .find_map(|role| Some((name.strip_suffix(role.suffix())?, role)))
        .unwrap_or((name, Role::Archive));
    let (stem, versions) = [(".tar.zst", 8..=99), (".tgz", 1..=9)]
        .into_iter()
        .find_map(|(suffix, versions)| Some((unit.strip_suffix(suffix)?, versions)))?;
    if !plain(stem) || name.len() > 255 {
        return None;
    }
    let mut from_right = stem.rsplitn(3, ':');
    let (hash, task) = from_right.next()?.split_once('_')?;
    let version = number(from_right.next()?).filter(|version| versions.contains(version))?;
    let mut fields = from_right.next()?.strip_prefix("sstate:")?.split(':');
    let recipe = fields.next().filter(|recipe| !recipe.is_empty());
    let complete = fields.count() >= 4;
    let task_fits =
        !task.is_empty() && task.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-+.".contains(&b));
    (complete && is_hash(hash) && task_fits).then_some(SstateFile { unit, role, hash, task, version, recipe })
}

/// Recognizes files in an `SSTATE_DIR` that are not objects: stamps and locks of objects from mirrors, and
/// temporary files of killed tasks. Works for directories and their content, too.
pub fn sstate_beside(relative: &Path) -> Option<Beside> {
    if relative.file_name().is_some_and(is_part) {
        return Some(Beside::Temporary);
    }
    let mut parents = relative.parent()?.components();
    let in_temporary = parents.next_back().is_some_and(|last| text(last).is_some_and(is_python_temporary));
    // The content of a `tmpXXXXXXXX/` belongs to it.
    let place = if in_temporary { relative.parent()? } else { relative };
    let (_, _, name) = places(place)?;
    if in_temporary || is_python_temporary(name) || name.starts_with("sigtask.") {
        return Some(Beside::Temporary);
    }
    let of_object = |suffix| name.strip_suffix(suffix).is_some_and(|object| sstate_name(object).is_some());
    if of_object(".done") {
        Some(Beside::Stamp)
    } else if of_object(".lock") {
        Some(Beside::Lock)
    } else {
        is_unfinished_object(name).then_some(Beside::Temporary)
    }
}

/// `NAME.XXXXXXXX` of mktemp up to kirkstone; later `NAMEXXXXXXXX` of Python's `NamedTemporaryFile`.
fn is_unfinished_object(name: &str) -> bool {
    let Some((object, random)) = name.len().checked_sub(8).and_then(|at| name.split_at_checked(at)) else {
        return false;
    };
    let object = object.strip_suffix('.').unwrap_or(object);
    is_random(random) && sstate_name(object).is_some_and(|file| file.role == Role::Archive)
}

/// The names of the two hash directories, below the host's directory if there is one, and the file's name.
fn places(relative: &Path) -> Option<(&str, &str, &str)> {
    let mut names = relative.components().map(text);
    let parts: [Option<&str>; 4] =
        [names.next()?, names.next()?, names.next()?, names.next().unwrap_or(None)];
    if names.next().is_some() {
        return None;
    }
    let (first, second, name) = match parts {
        [Some(first), Some(second), Some(name), None] if relative.components().count() == 3 => {
            (first, second, name)
        }
        [Some(host), Some(first), Some(second), Some(name)] if is_host(host) => (first, second, name),
        _ => return None,
    };
    (is_two_digits(first) && is_two_digits(second)).then_some((first, second, name))
}

/// Whether it may be a `NATIVELSBSTRING`, such as `universal`, `universal-4.8` or `ubuntu-22.04`.
pub fn is_host(name: &str) -> bool {
    name.len() > 2
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b))
        && !name.starts_with('.')
}

/// Whether it is the name of a hash directory in an `SSTATE_DIR`.
pub fn is_two_digits(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(is_hex)
}

/// Whether it may be the hash of a task, or the checksum of uninative.
pub fn is_hash(text: &str) -> bool {
    // SHA-256 since zeus, MD5 before.
    matches!(text.len(), 32 | 64) && text.bytes().all(is_hex)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Parses a version of one or two digits.
fn number(text: &str) -> Option<u8> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

fn text(component: Component<'_>) -> Option<&str> {
    match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    }
}

/// Whether the name has only printable characters.
fn plain(name: &str) -> bool {
    !name.chars().any(char::is_control)
}

fn is_random(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `tmpXXXXXXXX`, as Python's `tempfile` names files and directories.
fn is_python_temporary(name: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    name.strip_prefix("tmp").is_some_and(|random| random.len() == 8 && random.bytes().all(lower))
}

/// Whether it may be the name of a repository in a layer store.
pub fn is_layer_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(fits)
}

/// Whether it is a full commit id.
pub fn is_commit(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(is_hex)
}

/// Whether it may be the code name of a release.
pub fn is_release(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(fits)
}

/// The meaning of a path in a `DL_DIR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Download<'a> {
    /// Files with the same unit belong together. The unit is the path of the file or clone, and a prefix of
    /// the given path. So stamps and locks have the unit of their file, and each file of a clone has the
    /// clone's.
    pub unit: &'a Path,
    pub kind: DownloadKind,
    pub part: DownloadPart,
}

/// The kind of a unit in a `DL_DIR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DownloadKind {
    /// A source archive or any other file.
    File,
    /// `git2_*.tar.gz`: a complete bare clone.
    GitTarball,
    /// `gitshallow_*.tar.gz`, `gitsmshallow_*`: a clone of some revisions.
    ShallowTarball,
    /// `git2/<repo>`, `hg/<repo>`, `svn/<host>` and similar: a directory that is one unit.
    Clone,
    /// `*_bad-checksum_<hash>`: BitBake renamed it and never uses it.
    BadChecksum,
}

/// The part of its unit that a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownloadPart {
    /// The file, or the directory of a clone.
    Whole,
    /// A file in a clone.
    Inner,
    /// `.resolved`: the URL at which an npm package was found.
    Resolved,
    /// Only the time of the stamp has a meaning: it is the time of the last use.
    Beside(Beside),
}

/// Directories of fetchers in which each entry is a clone or a checkout.
const CLONES: [&str; 9] = ["git2", "hg", "svn", "bzr", "cvs", "p4", "repo", "osc", "ccrc"];

/// The mirror tarballs of version control systems.
const TARBALLS: [(&str, DownloadKind); 4] = [
    ("git2_", DownloadKind::GitTarball),
    ("gitshallow_", DownloadKind::ShallowTarball),
    ("gitsmshallow_", DownloadKind::ShallowTarball),
    ("gitannexshallow_", DownloadKind::ShallowTarball),
];

/// Whether it is a directory of a `DL_DIR` that contains units.
pub fn holds_downloads(name: &str) -> bool {
    CLONES.contains(&name) || matches!(name, "npm2" | "uninative")
}

/// Parses a path in a `DL_DIR`: files at the top, in `npm2/` and in `uninative/<hash>/`, and clones. Other
/// directories (the CVE database) and hidden files are unknown.
pub fn download(relative: &Path) -> Option<Download<'_>> {
    let mut names = relative.components().map(text);
    let (first, second, third) = (names.next()??, names.next(), names.next());
    let visible = |name: &str| plain(name) && !name.starts_with('.');
    match (second, third) {
        (None, _) => visible(first).then(|| file(relative, first))?,
        (Some(second), third) if CLONES.contains(&first) => clone(relative, second?, third.is_some()),
        (Some(second), None) if first == "npm2" => {
            second.filter(|name| visible(name)).and_then(|name| file(relative, name))
        }
        (Some(second), Some(third)) if first == "uninative" && names.next().is_none() => {
            let known = second.is_some_and(is_hash);
            third.filter(|name| known && visible(name)).and_then(|name| file(relative, name))
        }
        _ if is_python_temporary(first) => Some(temporary(prefix(relative, first.len()))),
        _ => None,
    }
}

fn file<'a>(relative: &'a Path, name: &str) -> Option<Download<'a>> {
    // mkstemp and mkdtemp of the git fetcher; `.tmp` of wget.
    if is_python_temporary(name) || name.strip_suffix(".tmp").is_some_and(|name| !name.is_empty()) {
        return Some(temporary(relative));
    }
    if holds_downloads(name) {
        return None;
    }
    let (name, unit, part) = beside(relative, name)?;
    let kind = match TARBALLS.iter().find(|(start, _)| name.starts_with(start)) {
        _ if name.contains("_bad-checksum_") => DownloadKind::BadChecksum,
        Some((_, kind)) if name.contains(".tar.") => *kind,
        _ => DownloadKind::File,
    };
    Some(Download { unit, kind, part })
}

fn clone<'a>(relative: &'a Path, name: &str, inner: bool) -> Option<Download<'a>> {
    let kind = DownloadKind::Clone;
    if !plain(name) || name.starts_with('.') {
        return None;
    }
    if inner {
        let directory = relative.components().next()?.as_os_str().len();
        let unit = prefix(relative, directory + 1 + name.len());
        return Some(Download { unit, kind, part: DownloadPart::Inner });
    }
    let (_, unit, part) = beside(relative, name)?;
    Some(Download { unit, kind, part })
}

fn temporary(unit: &Path) -> Download<'_> {
    Download { unit, kind: DownloadKind::File, part: DownloadPart::Beside(Beside::Temporary) }
}

/// Separates the name of a file from the suffix of BitBake's file next to it.
fn beside<'a, 'n>(relative: &'a Path, name: &'n str) -> Option<(&'n str, &'a Path, DownloadPart)> {
    let endings = [
        (".done", DownloadPart::Beside(Beside::Stamp)),
        (".lock", DownloadPart::Beside(Beside::Lock)),
        (".resolved", DownloadPart::Resolved),
    ];
    let ending = endings.into_iter().find(|(ending, _)| name.ends_with(ending));
    let (ending, part) = ending.unwrap_or(("", DownloadPart::Whole));
    let stem = &name[..name.len() - ending.len()];
    let unit = prefix(relative, relative.as_os_str().len().checked_sub(ending.len())?);
    (!stem.is_empty()).then_some((stem, unit, part))
}

/// The first `length` bytes of a path.
fn prefix(path: &Path, length: usize) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    Path::new(OsStr::from_bytes(&bytes[..length.min(bytes.len())]))
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
