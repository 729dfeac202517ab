//! A checkout as one object: a compressed tar archive of its entry's directory.
//!
//! The archive comes from somewhere else, so nothing in it is believed: while it is extracted, no name and no link leads out
//! of the new directory, and numbers and sizes are limited. Then the result is verified like every checkout, before it
//! gets its name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use agent_fs::dir::DirHandle;
use agent_types::error::{Error, Result};
use nix::sys::stat::Mode;
use walkdir::WalkDir;

use super::check::Witness;
use super::{Entry, LayerStore, StagingEntry};

/// No checkout has more files, directories and links.
const MOST_ENTRIES: usize = 400_000;

/// No checkout has more bytes.
const MOST_BYTES: u64 = 8 << 30;

/// Deeper directories and longer targets of links are no checkout of a layer.
const DEEPEST: usize = 64;

/// The pack of git's objects does not shrink, and the rest is text.
const PACKING: i32 = 6;

/// Packs an entry.
///
/// # Errors
/// When it cannot be read, or holds a link that leads out of it: such a checkout is not exchanged.
pub fn pack(entry: &Entry, into: impl Write) -> Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(into, PACKING)?;
    write_archive(&entry.directory(), &mut encoder)?;
    encoder.finish()?.flush()?;
    Ok(())
}

fn write_archive(top: &Path, into: &mut impl Write) -> Result<()> {
    let mut archive = tar::Builder::new(into);
    for found in WalkDir::new(top).min_depth(1).sort_by_file_name() {
        let found = found.map_err(io::Error::from)?;
        let path = found.path().strip_prefix(top).unwrap_or(found.path());
        let mut header = tar::Header::new_gnu();
        // Nothing of this machine: equal checkouts make equal objects.
        header.set_mtime(0);
        let kind = found.file_type();
        if kind.is_symlink() {
            let target = fs_err::read_link(found.path())?;
            if !stays_inside(path, &target) {
                let message = format!("the link `{}` leads out of the checkout", path.display());
                return Err(Error::machine(message));
            }
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            archive.append_link(&mut header, path, &target)?;
        } else if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            header.set_mode(0o755);
            archive.append_data(&mut header, path, io::empty())?;
        } else {
            let (file, metadata) = agent_fs::read::open(found.path())?;
            let is_executable = agent_fs::read::mode(&metadata) & 0o100 != 0;
            header.set_size(metadata.len());
            header.set_mode(if is_executable { 0o755 } else { 0o644 });
            archive.append_data(&mut header, path, file)?;
        }
    }
    Ok(archive.finish()?)
}

/// Makes the entry of a commit out of an object of [`pack`]; also, whether it is new.
///
/// # Errors
/// When the object is damaged or is not this checkout, or the store cannot be written. The store is unchanged then.
pub fn unpack(from: impl Read, entry: &Entry) -> Result<(Entry, bool)> {
    let store = LayerStore::new(&entry.root);
    let part = StagingEntry::begin(&store, &entry.repo)?;
    let damaged = |error: io::Error| Error::machine("the stored checkout cannot be unpacked").because(&error);
    let decoder = zstd::stream::read::Decoder::new(from).map_err(damaged)?;
    Extraction::begin(part.path()).map_err(damaged)?.run(decoder).map_err(damaged)?;
    // Whoever can write the tier of trusted builds decides about their verdicts in any case.
    part.adopt(&entry.commit, Witness::CommitAndRecord)
}

/// An archive that is being extracted.
struct Extraction {
    top: DirHandle,
    /// By their paths: made by this extraction, so that no link is among them.
    directories: BTreeMap<PathBuf, DirHandle>,
    /// Made last: nothing is written through them.
    links: Vec<(PathBuf, PathBuf)>,
    entries: usize,
    bytes: u64,
}

impl Extraction {
    fn begin(top: &Path) -> io::Result<Extraction> {
        let top = DirHandle::open(top)?;
        Ok(Extraction { top, directories: BTreeMap::new(), links: Vec::new(), entries: 0, bytes: 0 })
    }

    fn run(mut self, from: impl Read) -> io::Result<()> {
        for entry in tar::Archive::new(from).entries()? {
            self.extract(entry?)?;
        }
        for (path, target) in std::mem::take(&mut self.links) {
            let (directory, name) = self.parent(&path)?;
            directory.symlink(&target, name)?;
        }
        Ok(())
    }

    fn extract(&mut self, mut entry: tar::Entry<'_, impl Read>) -> io::Result<()> {
        let path = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        // The name of a directory may end with a slash.
        let path: PathBuf = path.components().collect();
        let refused = |why: &str| {
            let shown = path.to_string_lossy().escape_debug().to_string();
            Err(io::Error::new(ErrorKind::InvalidData, format!("`{shown}` {why}")))
        };
        let depth = path.components().count();
        let is_below = path.components().all(|step| matches!(step, Component::Normal(_)));
        if !is_below || depth == 0 || depth > DEEPEST {
            return refused("does not belong into a checkout");
        }
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size());
        if self.entries > MOST_ENTRIES || self.bytes > MOST_BYTES {
            return refused("is one too many: the checkout is too large");
        }
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                let (directory, name) = self.parent(&path)?;
                if !directory.create_dir(name, Mode::from_bits_truncate(0o755))? {
                    return refused("is there twice");
                }
                let made = directory.open_dir(name)?;
                self.directories.insert(path, made);
            }
            tar::EntryType::Regular => {
                let is_executable = entry.header().mode()? & 0o100 != 0;
                let mode = Mode::from_bits_truncate(if is_executable { 0o755 } else { 0o644 });
                let (directory, name) = self.parent(&path)?;
                let mut file = directory.create_file(name, mode)?;
                if io::copy(&mut entry, &mut file)? != entry.size() {
                    return refused("is truncated");
                }
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = PathBuf::from(OsStr::from_bytes(&target));
                if !stays_inside(&path, &target) {
                    return refused("is a link that leads out of the checkout");
                }
                self.links.push((path, target));
            }
            _ => return refused("is neither a file nor a directory nor a link"),
        }
        Ok(())
    }

    /// The directory of a path, which came before, and the name in it.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(&DirHandle, &'a OsStr)> {
        let name = path.file_name().unwrap_or_default();
        let above = path.parent().unwrap_or(Path::new(""));
        if above.as_os_str().is_empty() {
            return Ok((&self.top, name));
        }
        let missing = || {
            let shown = above.to_string_lossy().escape_debug().to_string();
            io::Error::new(ErrorKind::InvalidData, format!("`{shown}` is no directory of the archive"))
        };
        Ok((self.directories.get(above).ok_or_else(missing)?, name))
    }
}

/// Whether the target of a link, read as text, lies in the work tree. Its first directory is the entry's.
fn stays_inside(link: &Path, target: &Path) -> bool {
    // The directories between the work tree and the link.
    let mut depth = link.components().count().saturating_sub(2);
    if link.components().count() < 2 || target.as_os_str().is_empty() {
        return false;
    }
    for step in target.components() {
        match step {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "archive_tests.rs"]
mod tests;
