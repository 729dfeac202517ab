//! Caches on disk, beside the answers of the same store and under the same rules of trust: they are
//! pickles, so whoever can write a store runs code where it is read.
//!
//! ```text
//! <store>/parses/
//!   <configuration>-<record>/entry.json     what it belongs to, and the digests of its files
//!   <configuration>-<record>/record         the files that BitBake compares
//!   <configuration>-<record>/0, 1, …        the caches, compressed
//!   new-<name>/                             an entry that is being written
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use agent_fs::remove;
use agent_types::error::{Error, Result};

use crate::bucket::archive::{self, Files};

use super::super::digest::Digest;
use super::super::key::{Key, Parts, key_of};
use super::build::{LARGEST, MOST_FILES, is_cache};
use super::record::Record;
use agent_fs::read;

/// Names the layout of `entry.json`.
const SCHEMA: &str = "build-agent/parses/v2";

/// What is still being written after this time was left behind.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// No description and no packed file is larger.
const LONGEST: u64 = 256 << 20;

/// The files of an entry beside its caches.
const ENTRY: [&str; 2] = ["entry.json", "record"];

/// All files of an entry together are not larger.
const MOST_PACKED: u64 = 2 * LONGEST;

/// Of one configuration so many entries are looked at, the latest used.
const MOST_LOOKED_AT: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    schema: String,
    parts: Parts,
    record: Digest,
    files: Vec<Packed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Packed {
    /// In the build directory.
    path: PathBuf,
    bytes: u64,
    digest: Digest,
}

/// The caches of one run, packed.
#[derive(Debug, Default)]
pub struct Bundle {
    files: Vec<(Packed, Vec<u8>)>,
}

impl Bundle {
    /// Adds a file of the given size.
    ///
    /// # Errors
    /// When it has another size by now, or is too large.
    pub fn add(&mut self, path: &Path, from: &File, bytes: u64) -> Result<()> {
        let mut hashing = Hashing { inner: from.take(LARGEST), hash: Sha256::new(), bytes: 0 };
        let mut packed = Vec::new();
        zstd::stream::copy_encode(&mut hashing, &mut packed, 1)?;
        if hashing.bytes != bytes || packed.len() as u64 > LONGEST {
            return Err(Error::machine(format!("{} changed or is too large", path.display())));
        }
        let digest = Digest::from(hashing.hash.finalize().as_slice());
        self.files.push((Packed { path: path.to_owned(), bytes, digest }, packed));
        Ok(())
    }
}

/// Counts and hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// An entry that was found; its caches are checked while they are unpacked.
#[derive(Debug)]
pub struct Entry {
    directory: PathBuf,
    description: Description,
    pub record: Record,
}

impl Entry {
    pub fn paths(&self) -> Vec<&Path> {
        self.description.files.iter().map(|file| file.path.as_path()).collect()
    }

    /// Checks the digests of all caches.
    ///
    /// # Errors
    /// When one is damaged.
    fn check(&self) -> Result<()> {
        let files = self.description.files.iter().enumerate();
        files.into_iter().try_for_each(|(number, wanted)| self.copy(number, wanted, &mut io::sink()))
    }

    /// Unpacks one of [`Entry::paths`].
    ///
    /// # Errors
    /// When it is damaged; what was written is then worth nothing.
    pub fn unpack(&self, path: &Path, into: &mut File) -> Result<()> {
        let mut files = self.description.files.iter().enumerate();
        let (number, wanted) = files
            .find(|(_, file)| file.path == path)
            .ok_or_else(|| Error::internal(format!("there is no cache {}", path.display())))?;
        self.copy(number, wanted, into)
    }

    fn copy(&self, number: usize, wanted: &Packed, into: &mut impl Write) -> Result<()> {
        let (packed, _) = read::open(&self.directory.join(number.to_string()))?;
        let decoder = zstd::stream::read::Decoder::new(packed)?;
        let mut hashing = Hashing { inner: decoder.take(wanted.bytes + 1), hash: Sha256::new(), bytes: 0 };
        io::copy(&mut hashing, into)?;
        let digest = Digest::from(hashing.hash.finalize().as_slice());
        if hashing.bytes != wanted.bytes || digest != wanted.digest {
            return Err(Error::machine(format!("the digest of {} is another", wanted.path.display())));
        }
        Ok(())
    }
}

/// The part of a store that holds caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseCacheStore {
    /// The store's.
    pub store: PathBuf,
    /// So many entries are stored, the latest used.
    pub most: usize,
    /// Where not, nothing is changed, not even the time of last use.
    pub writable: bool,
}

impl ParseCacheStore {
    fn root(&self) -> PathBuf {
        self.store.join("parses")
    }

    fn place(&self, key: &Key, record: &Digest) -> PathBuf {
        self.root().join(format!("{}-{}", key.as_str(), record.as_str()))
    }

    /// The latest used entries of a configuration, each with why it is damaged if it is.
    pub fn entries(&self, key: &Key) -> Vec<Result<Entry>> {
        let mut found: Vec<PathBuf> = self.all();
        let of_key = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(key.as_str().as_bytes()))
        };
        found.retain(of_key);
        let open = |directory: PathBuf| {
            open_entry(&directory, key).map_err(|why| {
                self.discard(&directory);
                Error::machine(format!("a stored parse cache is damaged and not used: {why}"))
            })
        };
        found.into_iter().take(MOST_LOOKED_AT).map(open).collect()
    }

    /// All places of entries, the latest used first.
    fn all(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root()).into_iter().flatten().flatten();
        let is_new =
            |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"new-"));
        let mut found: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| !is_new(path)).collect();
        found.sort_by_cached_key(|path| std::cmp::Reverse(modified(&path.join("entry.json"))));
        found
    }

    /// Lets a damaged entry go, where this may be written.
    pub fn discard(&self, directory: &Path) {
        if self.writable {
            // The next insert tries again.
            let _ = remove::remove_tree(directory, &self.store);
        }
    }

    /// As [`ParseCacheStore::discard`].
    pub fn discard_entry(&self, entry: &Entry) {
        self.discard(&entry.directory);
    }

    /// Notes that an entry is of use.
    pub fn used(&self, entry: &Entry) {
        if self.writable {
            touch(&entry.directory);
        }
    }

    /// Whether it is there already; then it counts as used now.
    pub fn has(&self, key: &Key, record: &Record) -> bool {
        let place = self.place(key, &Digest::of(&record.encode()));
        let is_there = place.join("entry.json").symlink_metadata().is_ok();
        if is_there && self.writable {
            touch(&place);
        }
        is_there
    }

    /// Stores an entry, and evicts the least used ones.
    ///
    /// # Errors
    /// When it cannot be written; the store is then as before.
    pub fn insert(&self, parts: &Parts, record: &Record, bundle: &Bundle) -> Result<()> {
        if !self.writable {
            return Err(Error::internal(format!("{} may not be written", self.store.display())));
        }
        let new = self.begin()?;
        let written = self.write(&new, parts, record, bundle);
        if !matches!(written, Ok(true)) {
            remove::remove_tree(&new, &self.store)?;
        }
        written?;
        for path in self.all().iter().skip(self.most) {
            remove::remove_tree(path, &self.store)?;
        }
        Ok(())
    }

    /// Whether it is in its place now; another run may have been faster.
    fn write(&self, new: &Path, parts: &Parts, record: &Record, bundle: &Bundle) -> Result<bool> {
        let record = record.encode();
        write_synced(&new.join("record"), &zstd::encode_all(&record[..], 1)?)?;
        for (number, (_, packed)) in bundle.files.iter().enumerate() {
            write_synced(&new.join(number.to_string()), packed)?;
        }
        let description = Description {
            schema: SCHEMA.into(),
            parts: parts.clone(),
            record: Digest::of(&record),
            files: bundle.files.iter().map(|(file, _)| file.clone()).collect(),
        };
        let text = serde_json::to_vec_pretty(&description)
            .map_err(|error| Error::internal("cannot render a parse cache's entry").because(&error))?;
        write_synced(&new.join("entry.json"), &text)?;
        fs::File::open(new)?.sync_all()?;
        self.place_new(new, &self.place(&key_of(parts), &description.record))
    }

    /// The files of an entry as one object; `None`, if there is none of this configuration and content. Its caches are
    /// compressed already.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pack(&self, configuration: &str, content: &str) -> Result<Option<Vec<u8>>> {
        for directory in self.all() {
            let name = directory.file_name().unwrap_or_default();
            if !name.as_encoded_bytes().starts_with(configuration.as_bytes()) {
                continue;
            }
            let Ok(entry) = open_described(&directory, |key| key.as_str() == configuration) else { continue };
            if entry.record.content().as_str() != content {
                continue;
            }
            let mut files = Files::new();
            let numbers = (0..entry.description.files.len()).map(|number| number.to_string());
            for name in ENTRY.map(str::to_owned).into_iter().chain(numbers) {
                let content = read::whole(&directory.join(&name), LONGEST)?;
                files.insert(name, content);
            }
            return Ok(Some(archive::pack(&files)?));
        }
        Ok(None)
    }

    /// Stores the entry that an object of [`ParseCacheStore::pack`] holds.
    ///
    /// # Errors
    /// When it is none of this configuration, not whole, or cannot be written.
    pub fn install(&self, configuration: &Key, packed: &[u8]) -> Result<()> {
        let is_expected = |name: &str| {
            ENTRY.contains(&name) || name.parse::<usize>().is_ok_and(|number| number <= MOST_FILES)
        };
        let files = archive::unpack(packed, is_expected, MOST_PACKED)?;
        let new = self.begin()?;
        let put = files
            .iter()
            .try_for_each(|(name, content)| write_synced(&new.join(name), content))
            .and_then(|()| {
                let entry = open_entry(&new, configuration)?;
                entry.check()?;
                self.place_new(&new, &self.place(configuration, &entry.description.record))
            });
        if !matches!(put, Ok(true)) {
            remove::remove_tree(&new, &self.store)?;
        }
        put.map(drop)
    }

    /// A directory for an entry that is being written.
    fn begin(&self) -> Result<PathBuf> {
        let root = self.root();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&root);
        made.map_err(|error| Error::machine(format!("cannot make {}", root.display())).because(&error))?;
        self.clear_abandoned();
        Ok(tempfile::Builder::new().prefix("new-").tempdir_in(&root)?.keep())
    }

    /// Puts a whole entry in its place; false, if another run was faster.
    fn place_new(&self, new: &Path, place: &Path) -> Result<bool> {
        match std::fs::rename(new, place) {
            Ok(()) => {
                fs::File::open(self.root())?.sync_all()?;
                Ok(true)
            }
            Err(_) if place.is_dir() => Ok(false),
            Err(error) => {
                let message = format!("cannot put a parse cache at {}", place.display());
                Err(Error::machine(message).because(&error))
            }
        }
    }

    /// What killed runs were writing.
    fn clear_abandoned(&self) {
        for entry in std::fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let is_new = entry.file_name().as_encoded_bytes().starts_with(b"new-");
            if is_new && modified(&entry.path()).elapsed().is_ok_and(|age| age > ABANDONED) {
                self.discard(&entry.path());
            }
        }
    }
}

/// Reads an entry and checks all of it but the caches.
fn open_entry(directory: &Path, key: &Key) -> Result<Entry> {
    open_described(directory, |found| found == key)
}

fn open_described(directory: &Path, is_wanted: impl FnOnce(&Key) -> bool) -> Result<Entry> {
    let text = read::whole(&directory.join("entry.json"), LONGEST)?;
    let description: Description =
        serde_json::from_slice(&text).map_err(|error| Error::machine("it makes no sense").because(&error))?;
    if description.schema != SCHEMA {
        return Err(Error::machine("it has another layout"));
    }
    if !is_wanted(&key_of(&description.parts)) {
        return Err(Error::machine("its inputs are not those of its name"));
    }
    let files = &description.files;
    let fits = |file: &Packed| is_cache(&file.path) && file.bytes <= LARGEST;
    if files.is_empty() || files.len() > MOST_FILES + 1 || !files.iter().all(fits) {
        return Err(Error::machine("it holds something else than caches"));
    }
    let (packed, _) = read::open(&directory.join("record"))?;
    let mut bytes = Vec::new();
    zstd::stream::read::Decoder::new(packed)?.take(LONGEST).read_to_end(&mut bytes)?;
    if Digest::of(&bytes) != description.record {
        return Err(Error::machine("the digest of `record` is another"));
    }
    let record = Record::decode(&bytes)?;
    Ok(Entry { directory: directory.to_owned(), description, record })
}

fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(content)?;
    Ok(file.sync_all()?)
}

fn modified(path: &Path) -> SystemTime {
    let metadata = path.symlink_metadata();
    metadata.and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The file's time tells when the entry was used last.
fn touch(directory: &Path) {
    if let Ok(file) = File::options().write(true).open(directory.join("entry.json")) {
        let _ = file.set_modified(SystemTime::now());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "store_tests.rs"]
mod tests;
