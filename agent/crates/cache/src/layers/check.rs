//! Verifies an entry: it must have exactly the files that the agent writes, and the bytes of its commit.

use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha1::{Digest, Sha1};

use agent_fs::untrusted;
use agent_git::CONFIGURATION;

use super::Entry;
use super::damage::Damage;
use super::record::{self, Record};
use super::tree::{Content, check_read_only};

/// What an entry is verified against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// Layer code could have written the entry: only the commit's id counts.
    CommitAlone,
    /// The entry's record counts as well, for files that attributes change and for commits that are not
    /// UTF-8.
    CommitAndRecord,
}

/// Reads all files of an entry, `<store>/<repo>/<commit>`, and compares them.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(entry: &Path, witness: Witness) -> Result<(), Damage> {
    let found = std::fs::symlink_metadata(entry).map_err(|error| Damage::at(entry, error))?;
    if !found.is_dir() {
        return Err(Damage::at(entry, "is not a directory"));
    }
    let owner = found.uid();
    check_read_only(&found, owner).map_err(|what| Damage::at(entry, what))?;
    let record = Record::read(entry)?;
    if entry.file_name() != Some(record.commit.as_ref()) {
        return Err(Damage::new(format!("it has commit {}", record.commit)));
    }
    whole(entry, &record, owner, witness)
}

impl Entry {
    /// A check that is cheap even on a share: the entry has its parts, and `.git` is as in every entry. Other
    /// files are not read.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn look(&self) -> Result<(), Damage> {
        let record = Record::read(&self.directory())?;
        if record.commit != self.commit || record.name != self.repo.short() {
            return Err(Damage::new(format!("it has commit {}", record.commit)));
        }
        shell(&self.tree().join(".git"), &self.commit)
    }
}

/// Verifies an entry before it gets its name.
pub(super) fn whole(entry: &Path, record: &Record, owner: u32, witness: Witness) -> Result<(), Damage> {
    if witness == Witness::CommitAlone {
        record.is_proven_by_commit()?;
    }
    exactly(entry, &[&record.name, record::FILE])?;
    check_read_only_file(&entry.join(record::FILE), owner)?;
    let tree = entry.join(&record.name);
    let dot_git = tree.join(".git");
    shell(&dot_git, &record.commit)?;
    git_content(&dot_git, owner)?;
    record.agrees(&Content::read(&tree, owner)?)
}

/// Checks the top of `.git`, which decides what git does. Hooks, attributes, other object directories and
/// settings with commands are rejected.
fn shell(dot_git: &Path, commit: &str) -> Result<(), Damage> {
    // Not through a link, and not a file that points to another directory.
    match std::fs::symlink_metadata(dot_git) {
        Ok(found) if found.is_dir() => {}
        _ => return Err(Damage::at(dot_git, "is not a directory")),
    }
    for entry in names(dot_git)? {
        if !["HEAD", "config", "index", "shallow", "objects", "refs"].contains(&entry.as_str()) {
            return Err(Damage::at(&dot_git.join(entry), "does not belong there"));
        }
    }
    for (name, wanted) in [("HEAD", format!("{commit}\n")), ("config", CONFIGURATION.to_owned())] {
        let path = dot_git.join(name);
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        if !is_file || untrusted::read_text(&path, untrusted::PAGE).ok() != Some(wanted) {
            return Err(Damage::at(&path, "is not what the agent writes"));
        }
    }
    exactly(&dot_git.join("objects"), &["pack", "info"])?;
    exactly(&dot_git.join("objects/info"), &[])
}

/// Checks the rest of `.git`: git's files end with their digests, and there are no references.
fn git_content(dot_git: &Path, owner: u32) -> Result<(), Damage> {
    for entry in walkdir::WalkDir::new(dot_git) {
        let entry = entry.map_err(|error| Damage::new(error.to_string()))?;
        let metadata = entry.metadata().map_err(|error| Damage::new(error.to_string()))?;
        let (path, kind) = (entry.path(), entry.file_type());
        if !kind.is_file() && !kind.is_dir() {
            return Err(Damage::at(path, "is neither a file nor a directory"));
        }
        check_read_only(&metadata, owner).map_err(|what| Damage::at(path, what))?;
        let Ok(relative) = path.strip_prefix(dot_git) else { continue };
        if kind.is_file() && relative.starts_with("refs") {
            return Err(Damage::at(path, "does not belong there"));
        }
        if kind.is_dir() && relative.starts_with("objects/pack") && relative.components().count() > 2 {
            return Err(Damage::at(path, "does not belong there"));
        }
        if relative.starts_with("objects/pack") && kind.is_file() {
            if !path.extension().is_some_and(|end| ["pack", "idx", "rev"].iter().any(|known| end == *known)) {
                return Err(Damage::at(path, "does not belong there"));
            }
            carries_its_digest(path, false)?;
        } else if relative == Path::new("index") {
            carries_its_digest(path, true)?;
        }
    }
    let packs = names(&dot_git.join("objects/pack"))?;
    if !["pack", "idx"].iter().all(|end| packs.iter().any(|name| name.ends_with(end))) {
        return Err(Damage::at(&dot_git.join("objects/pack"), "has no pack"));
    }
    match std::fs::symlink_metadata(dot_git.join("index")) {
        Ok(_) => Ok(()),
        Err(error) => Err(Damage::at(&dot_git.join("index"), error)),
    }
}

/// Checks the trailer of packs, their indexes and the index of the work tree: the SHA-1 of the content
/// (gitformat-pack(5), gitformat-index(5)). With `index.skipHash` an index ends with zeros.
fn carries_its_digest(path: &Path, may_be_zero: bool) -> Result<(), Damage> {
    const LENGTH: u64 = 20;
    let digest = || -> std::io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut file, metadata) = agent_fs::read::open(path)?;
        let body = metadata.len().saturating_sub(LENGTH);
        let mut digest = Sha1::new();
        std::io::copy(&mut Read::by_ref(&mut file).take(body), &mut digest)?;
        file.seek(std::io::SeekFrom::Start(body))?;
        let mut end = Vec::new();
        file.take(LENGTH).read_to_end(&mut end)?;
        Ok((digest.finalize().to_vec(), end))
    };
    let (digest, end) = digest().map_err(|error| Damage::at(path, error))?;
    let zero = may_be_zero && end == [0; LENGTH as usize];
    if digest == end || zero { Ok(()) } else { Err(Damage::at(path, "does not end with its own digest")) }
}

fn check_read_only_file(path: &Path, owner: u32) -> Result<(), Damage> {
    let found = std::fs::symlink_metadata(path).map_err(|error| Damage::at(path, error))?;
    if !found.is_file() {
        return Err(Damage::at(path, "is not a regular file"));
    }
    check_read_only(&found, owner).map_err(|what| Damage::at(path, what))
}

/// Whether the directory has exactly these entries, and none is a link.
fn exactly(directory: &Path, wanted: &[&str]) -> Result<(), Damage> {
    let mut found = names(directory)?;
    found.sort();
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    if let Some(odd) = found.iter().find(|name| !wanted.contains(&name.as_str())) {
        return Err(Damage::at(&directory.join(odd), "does not belong there"));
    }
    for name in wanted {
        let path = directory.join(name);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !found.is_symlink() => {}
            Ok(_) => return Err(Damage::at(&path, "is a link")),
            Err(error) => return Err(Damage::at(&path, error)),
        }
    }
    Ok(())
}

/// The names in a directory, decoded lossily.
fn names(directory: &Path) -> Result<Vec<String>, Damage> {
    let failed = |error: std::io::Error| Damage::at(directory, error);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}
