//! Finds damaged files on a share: objects in the wrong directory, links and other entries in place of files,
//! incomplete archives, files that other users cannot read.

pub(crate) mod whole;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use nix::sys::stat::Mode;
use serde::Serialize;

use self::whole::Wrong;
use super::areas::{Area, AreaKind, Layout};
use super::layers::{self, Witness};
use super::names::{self, DownloadKind};
use super::prune::{Names, Trash, open};
use super::units::{self, Class, Contents, SUFFIXES, Unit, shown};
use agent_fs::dir::{DirHandle, Kind, is_gone};
use agent_fs::pool::{self, Ended, Output};
use agent_fs::walk::{Listing, Seen, Walk};
use agent_process::Interrupt;
use agent_types::error::{Error, Result};
use agent_types::share::Share;

pub struct Options {
    /// Decompress every archive.
    pub full: bool,
    /// Move bad files to the trash.
    pub remove_bad: bool,
    pub width: usize,
}

pub(crate) const MISPLACED: &str = "in a directory that is not that of its hash";
const NO_FILE: &str = "a link, directory or pipe in the place of a file";
pub(crate) const EMPTY: &str = "empty";
pub(crate) const TRUNCATED: &str = "not whole";
pub(crate) const DAMAGED: &str = "damaged";
const LAYER: &str = "damaged layer checkout";
/// Only the mode of the file is wrong: builds run as another user than the one who published it.
pub const CLOSED: &str = "not readable for everybody";

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    pub files: u64,
    /// Decompressed archives.
    pub unpacked: u64,
    /// Bad files by problem, with paths relative to the share.
    pub bad: BTreeMap<&'static str, Names>,
    /// `.siginfo` files of tasks without an archive, which are correct.
    pub siginfo_only: u64,
    pub without_siginfo: u64,
    pub unknown: Names,
    /// Paths that could not be read.
    pub trouble: Names,
    /// Units that were moved to the trash.
    pub moved: u64,
    pub failures: Vec<String>,
    /// Whether everything was checked.
    pub complete: bool,
    pub operations: u64,
    pub seconds: f64,
}

impl Verified {
    /// Whether no bad file remains and everything was readable.
    pub fn is_good(&self) -> bool {
        let mended = |found: &str| found != CLOSED && self.moved > 0 && self.failures.is_empty();
        self.trouble.count == 0 && self.failures.is_empty() && self.bad.keys().all(|found| mended(found))
    }

    /// Whether `--remove-bad` would fix something.
    pub fn can_be_removed(&self) -> bool {
        self.moved == 0 && self.bad.keys().any(|found| *found != CLOSED)
    }
}

/// Verifies a share. Blocks; an interrupt ends it with what was checked so far.
///
/// # Errors
/// Machine, if the share cannot be opened, or files cannot be moved to the trash.
pub fn verify(share: &Share, options: &Options, interrupt: &Interrupt, now: SystemTime) -> Result<Verified> {
    let begun = Instant::now();
    let operations = AtomicU64::new(0);
    let stop = || interrupt.state().is_some();
    let walk = Walk { width: options.width, facts: true, operations: &operations, stop: &stop };
    let root = open(share)?;
    let layout = Layout::read(&root, &walk);
    let mut verified = Verified { complete: true, ..Verified::default() };
    layout.unknown.iter().for_each(|path| verified.unknown.add(|| shown(path)));
    for trouble in &layout.trouble {
        verified.trouble.add(|| format!("{}: {}", shown(&trouble.path), trouble.error));
    }
    let mut removal = Removal { trash: None, share: &root, now };
    for area in &layout.areas {
        let checking = Checking { area: area.path(), options, walk, share };
        let mut tell = |finding| verified.add(finding, options.remove_bad.then_some(&mut removal));
        if checking.area(&root, area, &mut tell)? == Ended::Early {
            verified.complete = false;
        }
    }
    verified.failures.sort();
    verified.complete &= !stop();
    verified.operations = operations.into_inner();
    verified.seconds = begun.elapsed().as_secs_f64();
    Ok(verified)
}

/// Results for a directory or a unit.
#[derive(Default)]
struct Finding {
    files: u64,
    unpacked: u64,
    siginfo_only: u64,
    without_siginfo: u64,
    bad: Vec<Bad>,
    unknown: Vec<PathBuf>,
    trouble: Vec<String>,
}

struct Bad {
    what: &'static str,
    /// The directory, relative to the share, and the names to remove in it.
    directory: PathBuf,
    names: Vec<String>,
    /// The text for people.
    detail: Option<String>,
}

impl Verified {
    fn add(&mut self, finding: Finding, mut removal: Option<&mut Removal<'_>>) -> Result<()> {
        self.files += finding.files;
        self.unpacked += finding.unpacked;
        self.siginfo_only += finding.siginfo_only;
        self.without_siginfo += finding.without_siginfo;
        finding.unknown.iter().for_each(|path| self.unknown.add(|| shown(path)));
        finding.trouble.into_iter().for_each(|text| self.trouble.add(|| text));
        for bad in finding.bad {
            let path = bad.directory.join(bad.names.first().map_or("", String::as_str));
            let detail = bad.detail.iter().map(|detail| format!(": {detail}")).collect::<String>();
            self.bad.entry(bad.what).or_default().add(|| shown(&path) + &detail);
            if let Some(removal) = removal.as_deref_mut().filter(|_| bad.what != CLOSED) {
                match removal.take(&bad)? {
                    Ok(()) => self.moved += 1,
                    Err(error) => self.failures.push(format!("{}: {error}", shown(&path))),
                }
            }
        }
        Ok(())
    }
}

/// Moves bad files to the trash.
struct Removal<'a> {
    /// Created with the first bad file.
    trash: Option<Trash>,
    share: &'a DirHandle,
    now: SystemTime,
}

impl Removal<'_> {
    fn take(&mut self, bad: &Bad) -> Result<io::Result<()>> {
        if self.trash.is_none() {
            let begun = Trash::begin(self.share, self.now);
            self.trash = Some(begun.map_err(|error| {
                Error::machine("cannot move files to the trash of the share").because(&error)
            })?);
        }
        let Some(trash) = &self.trash else { return Ok(Ok(())) };
        let take = || {
            let directory = self.share.open_dir(&bad.directory)?;
            for name in &bad.names {
                trash.take(&directory, &bad.directory, OsStr::new(name))?;
            }
            Ok(())
        };
        Ok(take())
    }
}

struct Checking<'a> {
    /// Relative to the share.
    area: PathBuf,
    options: &'a Options,
    walk: Walk<'a>,
    share: &'a Share,
}

impl Checking<'_> {
    fn area(
        &self,
        root: &DirHandle,
        area: &Area,
        tell: &mut impl FnMut(Finding) -> Result<()>,
    ) -> Result<Ended> {
        let root = match root.open_dir(&self.area) {
            Ok(root) => root,
            Err(error) => {
                let trouble = vec![format!("{}: {error}", shown(&self.area))];
                tell(Finding { trouble, ..Finding::default() })?;
                return Ok(Ended::Complete);
            }
        };
        let mut units = Vec::new();
        let mut failed = None;
        let mut each = |seen: Seen<(Finding, Vec<Unit>)>| {
            let finding = match seen {
                Seen::Directory((finding, more)) => {
                    units.extend(more);
                    finding
                }
                Seen::Trouble(trouble) if is_gone(&trouble.error) => return,
                Seen::Trouble(trouble) => {
                    let path = shown(&self.area.join(&trouble.path));
                    Finding { trouble: vec![format!("{path}: {}", trouble.error)], ..Finding::default() }
                }
            };
            if let Err(error) = tell(finding) {
                failed.get_or_insert(error);
            }
        };
        let ended = match area.kind {
            // Its directories are many and small; each reader checks them.
            AreaKind::Sstate(_) => self.walk.run(
                &root,
                units::enter_sstate,
                |listing| (self.sstate(listing), Vec::new()),
                &mut each,
            ),
            AreaKind::Downloads => self.walk.run(
                &root,
                units::enter_downloads,
                |listing| self.later(units::downloads(listing)),
                &mut each,
            ),
            AreaKind::Layers => self.walk.run(
                &root,
                units::enter_layers,
                |listing| self.later(units::layers(listing)),
                &mut each,
            ),
            // Each reader checks them.
            AreaKind::Signatures | AreaKind::Results => Ended::Complete,
        };
        let work = |unit: Unit, out: &mut Output<'_, Unit, Finding>| {
            let mut finding = Finding::default();
            match root.open_dir(&unit.directory) {
                Ok(directory) => self.unit(&directory, &unit, &mut finding),
                Err(error) if is_gone(&error) => {}
                Err(error) => finding.trouble.push(format!("{}: {error}", shown(&unit.directory))),
            }
            out.give(finding);
        };
        let checked = pool::run(
            self.walk.width,
            units,
            || (self.walk.stop)(),
            work,
            |finding| {
                if let Err(error) = tell(finding) {
                    failed.get_or_insert(error);
                }
            },
        );
        match failed {
            Some(error) => Err(error),
            None if checked == Ended::Early => Ok(Ended::Early),
            None => Ok(ended),
        }
    }

    /// Defers a directory with many units, which are checked one by one later.
    fn later(&self, contents: Contents) -> (Finding, Vec<Unit>) {
        let unknown = contents.unknown.iter().map(|path| self.area.join(path)).collect();
        (Finding { unknown, ..Finding::default() }, contents.units)
    }

    fn sstate(&self, listing: Listing) -> Finding {
        let mut finding = Finding::default();
        let directory = listing.directory.clone();
        let place = self.area.join(&listing.path);
        let contents = units::sstate(listing);
        for path in contents.unknown {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let found = directory.metadata(name).map(|facts| facts.kind());
            let what = match (names::sstate_name(name), found) {
                (Some(_), Ok(Kind::File)) => MISPLACED,
                (Some(_), Ok(_)) => NO_FILE,
                _ => {
                    finding.unknown.push(self.area.join(path));
                    continue;
                }
            };
            let names = vec![name.to_owned()];
            finding.bad.push(Bad { what, directory: place.clone(), names, detail: None });
        }
        for unit in contents.units {
            if matches!(unit.class, Class::Object { .. }) {
                finding.siginfo_only += u64::from(!unit.has(""));
                finding.without_siginfo += u64::from(unit.has("") && !unit.has(".siginfo"));
            }
            self.unit(&directory, &unit, &mut finding);
        }
        finding
    }

    /// Checks each part of a unit; one bad part makes the unit bad.
    fn unit(&self, directory: &DirHandle, unit: &Unit, finding: &mut Finding) {
        let place = self.area.join(&unit.directory);
        let all =
            || unit.parts.iter().map(|part| format!("{}{}", unit.name, SUFFIXES[usize::from(part.suffix)]));
        let bad = |what, detail| Bad { what, directory: place.clone(), names: all().collect(), detail };
        if unit.class == Class::Temporary || (unit.is_directory() && unit.class != Class::Layer) {
            return;
        }
        if unit.class == Class::Layer {
            finding.files += 1;
            let path = self.share.root().join(&place).join(&unit.name);
            let wrong = layers::verify(&path, Witness::CommitAndRecord).err();
            finding.bad.extend(wrong.map(|damage| bad(LAYER, Some(damage.to_string()))));
            return;
        }
        for (name, part) in all().zip(&unit.parts) {
            finding.files += 1;
            let what = match self.file(directory, &name, unit.class, finding) {
                Ok(what) => what,
                Err(error) if is_gone(&error) => None,
                Err(error) => {
                    finding.trouble.push(format!("{}: {error}", shown(&place.join(&name))));
                    None
                }
            };
            if part.kind == Kind::File
                && let Some(what) = what
            {
                return finding.bad.push(bad(what, None));
            }
        }
    }

    /// Finds the problem of a file.
    fn file(
        &self,
        directory: &DirHandle,
        name: &str,
        class: Class,
        finding: &mut Finding,
    ) -> io::Result<Option<&'static str>> {
        self.walk.operations.fetch_add(2, Ordering::Relaxed);
        let (file, facts) = match directory.open_file(name) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(Some(NO_FILE)),
            opened => opened?,
        };
        if facts.size == 0 && !name.ends_with(".done") {
            return Ok(Some(EMPTY));
        }
        let packed = packed(&file, name, class)?;
        let mut wrong = match packed {
            Some(Packed::Zstd) => whole::zstd(&file, facts.size)?,
            Some(Packed::Gzip) => whole::gzip(&file, facts.size)?,
            None => None,
        };
        if let (Some(packed), None, true) = (packed, wrong, self.options.full) {
            finding.unpacked += 1;
            wrong = whole::unpacked(file, packed == Packed::Zstd)?;
        }
        Ok(match wrong {
            Some(Wrong::Truncated) => Some(TRUNCATED),
            Some(Wrong::Damaged) => Some(DAMAGED),
            None => (facts.mode & Mode::S_IROTH.bits() == 0).then_some(CLOSED),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packed {
    Zstd,
    Gzip,
}

/// The compression of a file that BitBake compressed itself. An upstream `.tar.gz` may be anything with the
/// right checksum. A `.siginfo` is compressed from BitBake 2.0 on, which its content shows.
fn packed(file: &File, name: &str, class: Class) -> io::Result<Option<Packed>> {
    let mut magic = [0; 4];
    let read = if name.ends_with(".siginfo") { file.read_at(&mut magic, 0)? } else { 0 };
    Ok(packed_by(name, class, magic.get(..read).unwrap_or_default()))
}

/// The same for a file with this beginning. In a bucket, the agent packs layers and answers.
pub(crate) fn packed_by(name: &str, class: Class, begin: &[u8]) -> Option<Packed> {
    let own = match class {
        Class::Object { .. } | Class::Layer | Class::Signature => true,
        Class::Download(kind) => matches!(kind, DownloadKind::GitTarball | DownloadKind::ShallowTarball),
        Class::Temporary | Class::Result => false,
    };
    match name {
        _ if name.ends_with(".siginfo") => {
            begin.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]).then_some(Packed::Zstd)
        }
        _ if !own => None,
        _ if name.ends_with(".tar.zst") => Some(Packed::Zstd),
        _ if name.ends_with(".tgz") || name.ends_with(".tar.gz") => Some(Packed::Gzip),
        _ => None,
    }
}
