//! Finds damaged objects on a share in a bucket. See [`crate::verify`].
//!
//! S3 checks what it stores, and an object is written as a whole. So the fault is in what was written. An archive of
//! up to [`SMALL`] bytes is read and followed to its last byte. Of a larger one only the beginning is read: following
//! its blocks would take a request for each. `--full` decompresses all archives.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange};
use tokio::sync::mpsc;

use super::layout::{Layout, contents, failed, is_denied, prefix};
use super::prune::Removed;
use super::walk::{Folders, shown, walk};
use crate::areas::{Area, AreaKind};
use crate::names;
use crate::prune::name_spill::NameSpill;
use crate::units::{self, Class, SUFFIXES, Unit};
use crate::verify::whole::{self, Wrong};
use crate::verify::{DAMAGED, EMPTY, MISPLACED, Options, Packed, TRUNCATED, Verified, packed_by};
use agent_fs::pool::Ended;
use agent_objects::{ListedObject, Objects};
use agent_process::Interrupt;
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};

/// Maximum size of an archive that is read completely without `--full`.
const SMALL: u64 = 1 << 20;

/// Bytes of the beginning of a larger archive.
const BEGIN: u64 = 64;

/// Verifies a share in a bucket. An interrupt ends it with what was checked so far.
///
/// # Errors
/// If the share cannot be listed, or its index cannot be written before bad objects are deleted.
pub async fn verify(
    objects: &Objects,
    share: &BucketShare,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Verified> {
    let begun = Instant::now();
    let stop = || interrupt.state().is_some();
    let layout = Layout::read(objects, share).await?;
    let mut checking = Checking {
        objects,
        share,
        options,
        stop: &stop,
        verified: Verified { complete: true, ..Verified::default() },
        bad: Vec::new(),
    };
    layout.unknown.iter().for_each(|key| checking.verified.unknown.add(|| key.clone()));
    for area in &layout.areas {
        checking.area(area).await?;
    }
    if options.remove_bad {
        checking.remove().await?;
    }
    let mut verified = checking.verified;
    verified.failures.sort();
    verified.complete &= !stop();
    let requests = objects.meter().so_far();
    verified.operations = requests.writes_and_lists + requests.reads + requests.deletes;
    verified.seconds = begun.elapsed().as_secs_f64();
    Ok(verified)
}

struct Checking<'a> {
    objects: &'a Objects,
    share: &'a BucketShare,
    options: &'a Options,
    stop: &'a (dyn Fn() -> bool + Sync),
    verified: Verified,
    /// Units with a problem; their directories are relative to the share.
    bad: Vec<(Area, Unit)>,
}

/// What was found in an object.
enum Checked {
    Good {
        unpacked: bool,
    },
    Bad(&'static str),
    Trouble(String),
    /// It is gone.
    Gone,
}

impl Checking<'_> {
    async fn area(&mut self, area: &Area) -> Result<()> {
        let top = prefix(self.share, area);
        let place = area.path();
        let no_disk = |error: io::Error| {
            Error::machine("cannot write to the directory for temporary files").because(&error)
        };
        let mut spill = NameSpill::new().map_err(no_disk)?;
        let (mut found, mut full_disk) = (Vec::new(), None);
        let (verified, bad) = (&mut self.verified, &mut self.bad);
        let each = |objects: Vec<ListedObject>| {
            let Folders { folders, odd } = Folders::new(&top, objects, |_| None);
            odd.iter().for_each(|key| verified.unknown.add(|| key.clone()));
            for (path, entries) in &folders {
                let contents = contents(&area.kind, path, entries);
                for path in contents.unknown {
                    let path = place.join(path);
                    match misplaced(area, &path) {
                        Some(unit) => {
                            verified.bad.entry(MISPLACED).or_default().add(|| units::shown(&path));
                            bad.push((area.clone(), unit));
                        }
                        None => verified.unknown.add(|| units::shown(&path)),
                    }
                }
                for mut unit in contents.units {
                    if matches!(unit.class, Class::Object { .. }) {
                        verified.siginfo_only += u64::from(!unit.has(""));
                        verified.without_siginfo += u64::from(unit.has("") && !unit.has(".siginfo"));
                    }
                    unit.directory = place.join(&unit.directory);
                    match spill.push(&unit) {
                        Ok(key) => found.push((key, unit.class)),
                        Err(error) => full_disk = Some(error),
                    }
                }
            }
        };
        let walked = walk(self.objects, top.clone(), self.options.width, self.stop, each).await;
        let ended = walked.map_err(|error| failed(format!("cannot list {area}"), &error, "s3:ListBucket"))?;
        self.verified.complete &= ended == Ended::Complete;
        if let Some(error) = full_disk {
            return Err(no_disk(error));
        }
        let spilled = spill.done().map_err(no_disk)?;
        let (objects, share, full, stop) = (self.objects, self.share, self.options.full, self.stop);
        let checks = found.into_iter().filter(|(_, class)| *class != Class::Temporary).map(|(key, class)| {
            let unit = spilled.get(key);
            async move {
                if stop() {
                    return None;
                }
                let unit = unit.ok()?;
                let checked = check_unit(objects, share, &unit, class, full).await;
                Some((unit, checked))
            }
        });
        let mut checks = stream::iter(checks).buffer_unordered(self.options.width.max(1));
        while let Some(checked) = checks.next().await {
            match checked {
                Some((unit, checked)) => add(&mut self.verified, &mut self.bad, area, unit, checked),
                None => self.verified.complete = false,
            }
        }
        Ok(())
    }

    /// Deletes the bad units, which builds create again. The index goes first.
    async fn remove(&mut self) -> Result<()> {
        let mut removed = Removed::default();
        for (area, unit) in &self.bad {
            removed.add(area, &unit.directory, &unit.name);
        }
        if self.bad.is_empty() {
            return Ok(());
        }
        let written = removed.leave_index(self.objects, self.share, self.options.width, self.stop).await?;
        if written == Ended::Early {
            return Ok(());
        }
        for (_, unit) in &self.bad {
            // Archives before sidecar files: the parts are in this order, and a request deletes few of them.
            let keys: Vec<Path> =
                keys(self.share, unit).filter_map(|(_, key)| agent_objects::key::exact(&key).ok()).collect();
            match self.objects.delete_batch(keys).await.first() {
                None => self.verified.moved += 1,
                Some((key, error)) => {
                    let why = match is_denied(error) {
                        true => "access denied: allow s3:DeleteObject on the share to this role".to_owned(),
                        false => shown(&error.to_string()),
                    };
                    self.verified.failures.push(format!("{}: {why}", shown(key.as_ref())));
                }
            }
        }
        Ok(())
    }
}

/// An object of shared state outside of the directory of its hash.
fn misplaced(area: &Area, path: &std::path::Path) -> Option<Unit> {
    let name = path.file_name()?.to_str()?;
    let is_object = matches!(area.kind, AreaKind::Sstate(_)) && names::sstate_name(name).is_some();
    let part = units::Part { suffix: 0, kind: agent_fs::dir::Kind::File, size: 0, inode: 0, used: 0 };
    is_object.then(|| Unit {
        directory: path.parent().map_or_else(PathBuf::new, PathBuf::from),
        name: name.to_owned(),
        class: Class::Temporary,
        parts: vec![part],
    })
}

/// The suffixes of a unit's objects, and their keys.
fn keys<'a>(share: &'a BucketShare, unit: &'a Unit) -> impl Iterator<Item = (&'static str, String)> + 'a {
    let stem = unit.directory.join(&unit.name).to_string_lossy().into_owned();
    unit.parts.iter().map(move |part| {
        let suffix = SUFFIXES[usize::from(part.suffix)];
        (suffix, share.key(&format!("{stem}{suffix}")))
    })
}

/// Checks the objects of a unit, up to the first that is not good.
async fn check_unit(
    objects: &Objects,
    share: &BucketShare,
    unit: &Unit,
    class: Class,
    full: bool,
) -> Vec<(String, Checked)> {
    let mut all = Vec::new();
    for ((_, key), part) in keys(share, unit).zip(&unit.parts) {
        let checked = match agent_objects::key::exact(&key) {
            Ok(key) => check(objects, &key, (part.size, class, full)).await,
            Err(why) => Checked::Trouble(why),
        };
        let ends = !matches!(checked, Checked::Good { .. } | Checked::Gone);
        all.push((key, checked));
        if ends {
            break;
        }
    }
    all
}

async fn check(objects: &Objects, key: &Path, (size, class, full): (u64, Class, bool)) -> Checked {
    let name = key.filename().unwrap_or_default();
    if size == 0 {
        return Checked::Bad(EMPTY);
    }
    // Only what may be an archive is read.
    let may_be = name.ends_with(".siginfo") || packed_by(name, class, &[]).is_some();
    if !may_be {
        return Checked::Good { unpacked: false };
    }
    let wanted = if size <= SMALL { size } else { BEGIN };
    let range = GetOptions { range: Some(GetRange::Bounded(0..wanted)), ..GetOptions::default() };
    let begin = match objects.get(key, range).await {
        Ok(None) => return Checked::Gone,
        Ok(Some(got)) => got.bytes().await,
        Err(error) => Err(error),
    };
    let begin = match begin {
        Ok(begin) if begin.len() as u64 == wanted => begin,
        Ok(begin) => return Checked::Trouble(format!("S3 sent {} of {wanted} bytes", begin.len())),
        Err(error) => return Checked::Trouble(error.to_string()),
    };
    objects.meter().read(wanted);
    let Some(packed) = packed_by(name, class, &begin) else { return Checked::Good { unpacked: false } };
    let wrong = match (full, size <= SMALL) {
        (true, _) => decompress(objects, key, begin, size, packed == Packed::Zstd).await,
        (false, true) if packed == Packed::Zstd => whole::zstd(&begin[..], size),
        (false, true) => whole::gzip(&begin[..], size),
        (false, false) => {
            let magic: &[u8] =
                if packed == Packed::Zstd { &[0x28, 0xB5, 0x2F, 0xFD] } else { &[0x1F, 0x8B, 8] };
            // pzstd begins with a frame for other programs.
            let skippable =
                packed == Packed::Zstd && begin[0] & 0xF0 == 0x50 && begin[1..4] == [0x2A, 0x4D, 0x18];
            Ok((!skippable && !begin.starts_with(magic)).then_some(Wrong::Damaged))
        }
    };
    match wrong {
        Ok(None) => Checked::Good { unpacked: full },
        Ok(Some(Wrong::Truncated)) => Checked::Bad(TRUNCATED),
        Ok(Some(Wrong::Damaged)) => Checked::Bad(DAMAGED),
        Err(error) => Checked::Trouble(error.to_string()),
    }
}

/// Decompresses an object, of which the beginning was read, while it arrives.
async fn decompress(
    objects: &Objects,
    key: &Path,
    begin: Bytes,
    size: u64,
    is_zstd: bool,
) -> io::Result<Option<Wrong>> {
    let (sender, receiver) = mpsc::channel(4);
    let reader = Arriving { parts: receiver, part: VecDeque::from(begin.to_vec()), left: size };
    let decoder = tokio::task::spawn_blocking(move || whole::unpacked(reader, is_zstd));
    let from = begin.len() as u64;
    if from < size {
        let range = GetOptions { range: Some(GetRange::Bounded(from..size)), ..GetOptions::default() };
        let got = objects.get(key, range).await.map_err(io::Error::other)?;
        let mut parts = got.ok_or(io::ErrorKind::NotFound)?.into_stream();
        while let Some(part) = parts.next().await {
            if let Ok(part) = &part {
                objects.meter().read(part.len() as u64);
            }
            // A decoder that has found damage does not read the rest.
            if sender.send(part.map_err(io::Error::other)).await.is_err() {
                break;
            }
        }
    }
    drop(sender);
    decoder.await.map_err(io::Error::other)?
}

/// Reads what arrives from a bucket. An end before the last byte is an error of S3, not of the archive.
struct Arriving {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    part: VecDeque<u8>,
    left: u64,
}

impl Read for Arriving {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part.extend(part?),
                None if self.left > 0 => return Err(io::Error::other("S3 sent less than the whole object")),
                None => return Ok(0),
            }
        }
        let read = self.part.read(to)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

fn add(
    verified: &mut Verified,
    all_bad: &mut Vec<(Area, Unit)>,
    area: &Area,
    unit: Unit,
    checked: Vec<(String, Checked)>,
) {
    let mut is_bad = false;
    for (key, checked) in checked {
        verified.files += 1;
        match checked {
            Checked::Good { unpacked } => verified.unpacked += u64::from(unpacked),
            Checked::Bad(what) => {
                verified.bad.entry(what).or_default().add(|| shown(&key));
                is_bad = true;
            }
            Checked::Trouble(why) => verified.trouble.add(|| format!("{}: {}", shown(&key), shown(&why))),
            Checked::Gone => verified.files -= 1,
        }
    }
    if is_bad {
        all_bad.push((area.clone(), unit));
    }
}
