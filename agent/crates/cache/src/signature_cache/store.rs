//! Answers on disk, each in a directory that appears whole or not at all and is checked before use.
//!
//! ```text
//! <store>/
//!   answers/<key>/answer.json        what it depends on, and the digests of its files
//!   answers/<key>/signatures         locked-sigs.inc
//!   answers/<key>/stdout, stderr
//!   parses/                          BitBake's parse caches, see there
//!   trees/<digest>                   the files of a tree, for telling what changed
//!   new-<name>/                      an answer that is being written
//! ```
//!
//! A store belongs to one level of trust: whoever can write it decides the verdicts of those who read it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use agent_fs::remove;
use agent_process::ExitReason;
use agent_types::error::{Error, Result};

use crate::bucket::archive::{self, Files};

use super::digest::Digest;
use super::key::{Inputs, Key, LAYERS, Parts, key_of};
use super::listing::Listing;
use super::parse_cache::ParseCacheStore;
use super::protocol::{Answer, BitbakeOutcome};
use super::{CacheableQuery, difference};
use agent_fs::read;

/// Names the layout of `answer.json`.
const SCHEMA: &str = "build-agent/signatures/v1";

/// So many answers are stored for one job, the latest used. A layer has five queries, a BSP layer two
/// more for each machine.
const MOST_ANSWERS: usize = 48;

/// Likewise on a share, for the jobs of many layers.
const MOST_SHARED_ANSWERS: usize = 240;

/// Queries of one configuration share a parse cache, which is much larger than an answer.
const ANSWERS_TO_A_PARSE: usize = 4;

/// What is still being written after this time was left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);

/// No file of an answer is larger.
const LONGEST: u64 = super::protocol::LONGEST as u64;

const DESCRIPTION: &str = "answer.json";

/// Signatures are hexadecimal numbers: more effort saves nothing.
const PACKING: i32 = 3;

const FILES: [&str; 3] = ["signatures", "stdout", "stderr"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Description {
    schema: String,
    /// The query, for people.
    question: String,
    /// How long the real BitBake took.
    seconds: f64,
    parts: Parts,
    files: BTreeMap<String, Digest>,
}

/// An answer that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub answer: Answer,
    /// How long the real BitBake took.
    pub seconds: f64,
}

impl Found {
    /// What BitBake gave then.
    pub fn outcome(self, query: &CacheableQuery) -> BitbakeOutcome {
        let Answer { stdout, stderr, signatures } = self.answer;
        let signatures = query.leaves_signatures.then_some(signatures);
        BitbakeOutcome { end: ExitReason::Exited(0), stdout, stderr, signatures }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
    most: usize,
    /// Where not, nothing is changed, not even the time of last use.
    pub(super) writable: bool,
}

impl Store {
    /// One of a single job. Nothing is asked of the disk.
    pub fn local(root: impl Into<PathBuf>) -> Store {
        Store { root: root.into(), most: MOST_ANSWERS, writable: true }
    }

    /// One that many jobs share.
    pub fn shared(root: impl Into<PathBuf>, writable: bool) -> Store {
        Store { root: root.into(), most: MOST_SHARED_ANSWERS, writable }
    }

    /// The parse caches in the same store as the answers.
    pub(super) fn parse_caches(&self) -> ParseCacheStore {
        ParseCacheStore {
            store: self.root.clone(),
            most: self.most / ANSWERS_TO_A_PARSE,
            writable: self.writable,
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn answers(&self) -> PathBuf {
        self.root.join("answers")
    }

    fn tree(&self, digest: &Digest) -> PathBuf {
        self.root.join("trees").join(digest.as_str())
    }

    /// The answer of this key. Damaged ones are gone afterwards, where this store may be written.
    ///
    /// # Errors
    /// When there is one that is not whole.
    pub fn find(&self, key: &Key) -> Result<Option<Found>> {
        let directory = self.answers().join(key.as_str());
        if directory.symlink_metadata().is_err() {
            return Ok(None);
        }
        match open_answer(&directory, key) {
            Ok(found) => {
                if self.writable {
                    used(&directory);
                }
                Ok(Some(found))
            }
            Err(why) => {
                if self.writable {
                    let _ = remove::remove_tree(&directory, &self.root);
                }
                Err(Error::machine(format!("a stored answer is damaged and not used: {why}")))
            }
        }
    }

    /// Whether there are other signatures for this key, which are gone afterwards where this store may be
    /// written.
    pub fn contradicts(&self, key: &Key, answer: &Answer) -> bool {
        let Ok(Some(found)) = self.find(key) else { return false };
        let differs = found.answer.signatures != answer.signatures;
        if differs && self.writable {
            let _ = remove::remove_tree(&self.answers().join(key.as_str()), &self.root);
        }
        differs
    }

    /// Stores an answer, and evicts the least used ones.
    ///
    /// # Errors
    /// When it cannot be written; the store is then as before.
    pub fn insert(&self, inputs: &Inputs, query: &str, answer: &Answer, seconds: f64) -> Result<()> {
        if !self.writable {
            return Err(Error::internal(format!("{} may not be written", self.root.display())));
        }
        self.prepare()?;
        self.clear_left_behind();
        let key = inputs.key();
        let place = self.answers().join(key.as_str());
        let new = tempfile::Builder::new().prefix("new-").tempdir_in(&self.root)?.keep();
        let written = self.write_answer(&new, &place, inputs, query, answer, seconds);
        if !matches!(written, Ok(true)) {
            remove::remove_tree(&new, &self.root)?;
        }
        written?;
        self.evict()
    }

    /// All of an answer as one object; `None`, if there is no whole one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn pack(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let directory = self.answers().join(key);
        let is_whole = describe(&directory)
            .is_ok_and(|description| open_answer(&directory, &key_of(&description.parts)).is_ok());
        if !is_whole {
            return Ok(None);
        }
        let mut files = Files::new();
        for name in FILES.into_iter().chain([DESCRIPTION]) {
            files.insert(name.into(), read::whole(&directory.join(name), LONGEST)?);
        }
        Ok(Some(zstd::encode_all(&archive::pack(&files)?[..], PACKING)?))
    }

    /// Reads an object of [`Store::pack`], and checks it as an answer of this store.
    ///
    /// # Errors
    /// When it is not whole, or another answer.
    pub(super) fn unpacked(key: &Key, packed: &[u8]) -> Result<Found> {
        check_answer(&unpack(packed)?, key)
    }

    /// Stores the answer that an object of [`Store::pack`] holds.
    ///
    /// # Errors
    /// When it is not whole, another answer, or cannot be written.
    pub(super) fn install(&self, key: &Key, packed: &[u8]) -> Result<()> {
        let files = unpack(packed)?;
        check_answer(&files, key)?;
        self.prepare()?;
        let new = tempfile::Builder::new().prefix("new-").tempdir_in(&self.root)?.keep();
        let written = files.iter().try_for_each(|(name, content)| write_synced(&new.join(name), content));
        let place = self.answers().join(key.as_str());
        let put = written.and_then(|()| match std::fs::rename(&new, &place) {
            // Another run was faster.
            Err(_) if place.is_dir() => Ok(remove::remove_tree(&new, &self.root)?),
            done => Ok(done?),
        });
        if put.is_err() {
            remove::remove_tree(&new, &self.root)?;
        }
        put?;
        self.evict()
    }

    fn prepare(&self) -> Result<()> {
        for directory in [&self.root, &self.answers(), &self.root.join("trees")] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
            made.map_err(|error| {
                Error::machine(format!("cannot make {}", directory.display())).because(&error)
            })?;
        }
        Ok(())
    }

    /// Whether it is in its place now; another run may have been faster.
    fn write_answer(
        &self,
        new: &Path,
        place: &Path,
        inputs: &Inputs,
        query: &str,
        answer: &Answer,
        seconds: f64,
    ) -> Result<bool> {
        for listing in inputs.listings().values() {
            self.insert_tree(new, listing)?;
        }
        let mut files = BTreeMap::new();
        for (name, content) in FILES.into_iter().zip([&answer.signatures, &answer.stdout, &answer.stderr]) {
            write_synced(&new.join(name), content)?;
            files.insert(name.to_owned(), Digest::of(content));
        }
        let description = Description {
            schema: SCHEMA.into(),
            question: query.into(),
            seconds,
            parts: inputs.parts().clone(),
            files,
        };
        let text = serde_json::to_vec_pretty(&description)
            .map_err(|error| Error::internal("cannot render an answer").because(&error))?;
        write_synced(&new.join(DESCRIPTION), &text)?;
        fs::File::open(new)?.sync_all()?;
        match std::fs::rename(new, place) {
            Ok(()) => {
                fs::File::open(self.answers())?.sync_all()?;
                Ok(true)
            }
            Err(_) if place.is_dir() => Ok(false),
            Err(error) => {
                Err(Error::machine(format!("cannot put an answer at {}", place.display())).because(&error))
            }
        }
    }

    fn insert_tree(&self, new: &Path, listing: &Listing) -> Result<()> {
        let place = self.tree(&listing.digest());
        if place.symlink_metadata().is_ok() {
            return Ok(());
        }
        let written = new.join("tree");
        write_synced(&written, listing.text().as_bytes())?;
        Ok(fs::rename(&written, &place)?)
    }

    /// Which input keeps the nearest stored answer to the same query of the same layers from being used.
    pub fn why_not(&self, inputs: &Inputs, query: &str) -> Option<String> {
        let stored = self.descriptions().into_iter().map(|(_, description)| description);
        let same = stored.filter(|description| {
            description.question == query && description.parts.get(LAYERS) == inputs.parts().get(LAYERS)
        });
        let nearest = same.min_by_key(|description| difference::distance(inputs, &description.parts))?;
        Some(difference_from(inputs, &nearest, |digest| read::whole(&self.tree(digest), LONGEST).ok()))
    }

    /// The inputs of an answer as one object, and a name that answers to the same query of the same layers have in
    /// common. Nothing, if this store does not have all of it.
    pub(super) fn pack_inputs(&self, key: &str) -> Option<(Digest, Vec<u8>)> {
        let text = read::whole(&self.answers().join(key).join(DESCRIPTION), LONGEST).ok()?;
        let description = description(&text).ok()?;
        let mut files = Files::from([(DESCRIPTION.to_owned(), text)]);
        for digest in description.parts.values() {
            if let Ok(tree) = read::whole(&self.tree(digest), LONGEST) {
                files.insert(digest.as_str().to_owned(), tree);
            }
        }
        let packed = zstd::encode_all(&archive::pack(&files).ok()?[..], PACKING).ok()?;
        Some((name_of_inputs(&description.question, &description.parts)?, packed))
    }

    /// All whole descriptions with their directories.
    fn descriptions(&self) -> Vec<(PathBuf, Description)> {
        let entries = std::fs::read_dir(self.answers()).into_iter().flatten().flatten();
        let described = |directory: PathBuf| Some((directory.clone(), describe(&directory).ok()?));
        entries.filter_map(|entry| described(entry.path())).collect()
    }

    /// Answers beyond the limit go, the longest unused first, and trees that nothing names any more.
    fn evict(&self) -> Result<()> {
        let mut answers = self.descriptions();
        let used = |directory: &Path| {
            let metadata = directory.join(DESCRIPTION).symlink_metadata();
            metadata.and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        answers.sort_by_cached_key(|(directory, _)| std::cmp::Reverse(used(directory)));
        for (directory, _) in answers.iter().skip(self.most) {
            remove::remove_tree(directory, &self.root)?;
        }
        answers.truncate(self.most);
        let named: BTreeSet<&str> =
            answers.iter().flat_map(|(_, known)| known.parts.values().map(Digest::as_str)).collect();
        for entry in fs::read_dir(self.root.join("trees"))? {
            let entry = entry?;
            // One that is younger may belong to an answer that another run is writing.
            let is_named = entry.file_name().to_str().is_some_and(|name| named.contains(name));
            if !is_named && is_older(&entry.path(), LEFT_BEHIND) {
                remove::remove_file(&entry.path(), &self.root)?;
            }
        }
        Ok(())
    }

    /// What killed runs were writing.
    fn clear_left_behind(&self) {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"new-")) {
            if is_older(&entry.path(), LEFT_BEHIND) {
                let _ = remove::remove_tree(&entry.path(), &self.root);
            }
        }
    }
}

/// What differs from the inputs of an answer. `tree` reads the files of a tree.
fn difference_from(
    inputs: &Inputs,
    description: &Description,
    tree: impl Fn(&Digest) -> Option<Vec<u8>>,
) -> String {
    let listing = |digest: &Digest| {
        let text = String::from_utf8(tree(digest)?).ok()?;
        Listing::parse(&text).filter(|listing| listing.digest() == *digest)
    };
    let trees = inputs.listings().keys();
    let listings =
        trees.filter_map(|name| Some((name.clone(), listing(description.parts.get(name)?)?))).collect();
    difference::in_words(inputs, &description.parts, &listings)
}

/// Stands for a query of some layers.
pub(super) fn name_of_inputs(query: &str, parts: &Parts) -> Option<Digest> {
    Some(Digest::of(format!("{} {query}", parts.get(LAYERS)?).as_bytes()))
}

/// What differs from the inputs in an object of [`Store::pack_inputs`].
pub(super) fn difference_from_packed(inputs: &Inputs, query: &str, packed: &[u8]) -> Option<String> {
    let is_expected = |name: &str| name == DESCRIPTION || Digest::parse(name).is_some();
    let decoder = zstd::stream::read::Decoder::new(packed).ok()?;
    let files = archive::unpack(decoder, is_expected, LONGEST).ok()?;
    let description = description(files.get(DESCRIPTION)?).ok()?;
    let is_same =
        description.question == query && description.parts.get(LAYERS) == inputs.parts().get(LAYERS);
    is_same.then(|| difference_from(inputs, &description, |digest| files.get(digest.as_str()).cloned()))
}

/// Makes a directory that nobody but the agent's user can enter.
pub fn make_private(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))
}

/// The file's time tells when the answer was used last.
fn used(directory: &Path) {
    if let Ok(file) = std::fs::File::options().write(true).open(directory.join(DESCRIPTION)) {
        let _ = file.set_modified(SystemTime::now());
    }
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age))
}

fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(content)?;
    Ok(file.sync_all()?)
}

fn describe(directory: &Path) -> std::io::Result<Description> {
    description(&read::whole(&directory.join(DESCRIPTION), LONGEST)?)
}

fn description(text: &[u8]) -> std::io::Result<Description> {
    let description: Description = serde_json::from_slice(text)?;
    if description.schema != SCHEMA {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "it has another layout"));
    }
    Ok(description)
}

/// Reads an answer and checks all of it.
fn open_answer(directory: &Path, key: &Key) -> Result<Found> {
    let mut files = Files::new();
    for name in FILES.into_iter().chain([DESCRIPTION]) {
        files.insert(name.into(), read::whole(&directory.join(name), LONGEST)?);
    }
    check_answer(&files, key)
}

fn check_answer(files: &Files, key: &Key) -> Result<Found> {
    let file = |name: &str| {
        let content = files.get(name).ok_or_else(|| Error::machine(format!("there is no `{name}`")))?;
        Ok::<_, Error>(&content[..])
    };
    let description = description(file(DESCRIPTION)?)?;
    if key_of(&description.parts) != *key {
        return Err(Error::machine("its inputs are not those of its name"));
    }
    let checked = |name: &str| -> Result<Vec<u8>> {
        let content = file(name)?;
        if description.files.get(name) != Some(&Digest::of(content)) {
            return Err(Error::machine(format!("the digest of `{name}` is another")));
        }
        Ok(content.to_vec())
    };
    let answer =
        Answer { signatures: checked("signatures")?, stdout: checked("stdout")?, stderr: checked("stderr")? };
    Ok(Found { answer, seconds: description.seconds })
}

fn unpack(packed: &[u8]) -> Result<Files> {
    let is_expected = |name: &str| name == DESCRIPTION || FILES.contains(&name);
    let files = zstd::stream::read::Decoder::new(packed)
        .and_then(|decoder| archive::unpack(decoder, is_expected, LONGEST));
    files.map_err(|error| Error::machine(error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "store_tests.rs"]
mod tests;
