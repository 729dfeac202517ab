//! Answers and parse caches in a bucket.
//!
//! ```text
//! <tier>/signatures/answers/<key>.tar.zst                   the files of an answer
//! <tier>/signatures/parses/<configuration>/<content>.tar    the files of a parse cache
//! <tier>/signatures/latest/<query>.tar.zst                  the inputs of the last answer to a query of some layers
//! ```
//!
//! What the local store lacks is fetched into it, and is checked there as everything else; what a check adds to the
//! local store is published after the check. Answers and parse caches never change. `<content>` stands for the files that BitBake
//! looks at, whatever their stat data: a fresh clone of the same commits adds nothing.
//!
//! The rules of trust are those of the tiers: whoever can write one decides the verdicts of those who read it. A parse cache
//! is a pickle, which can run code. So parse caches are only in the tier of trusted builds: one pull request may be able to
//! write into the tier of another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agent_objects::keys::PageRequest;
use agent_objects::{Created, key};
use agent_types::tiers::TierKind;
use agent_types::traffic::Traffic;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use crate::bucket::{BucketTier, BucketTiers};

use super::digest::Digest;
use super::key::Key;
use super::lock::lock;

/// A tool waits for an answer. A bucket that takes longer for it is not asked again in this run.
const LOOKUP: Duration = Duration::from_secs(30);

/// Likewise for a parse cache.
const FETCH: Duration = Duration::from_secs(2 * 60);

/// For all that one run publishes.
const PUBLISH: Duration = Duration::from_secs(5 * 60);

/// No packed answer is larger: that of the world of meta-aws has 3 MiB.
const LARGEST_ANSWER: u64 = 64 << 20;

/// No packed parse cache is larger.
const LARGEST_PARSE_CACHE: u64 = 512 << 20;

/// Of one configuration so many parse caches are fetched for one query, the newest first.
const MOST_FETCHED: usize = 2;

/// How many objects are written at once.
const PARALLEL: usize = 4;

/// The signature cache in a bucket, as one run sees it.
#[derive(Debug)]
pub struct BucketStore {
    tiers: BucketTiers,
    /// Lookups run on threads that may block.
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Why it is not asked any more.
    off: Option<String>,
    /// By their keys below `signatures/`.
    answers: BTreeMap<String, Pack>,
    parse_caches: BTreeMap<String, Pack>,
    /// By the keys of the answers.
    inputs: BTreeMap<String, PackInputs>,
    /// Objects that are not whole: what this run adds under their names replaces them.
    damaged: BTreeSet<String>,
    traffic: BTreeMap<TierKind, Traffic>,
}

/// What came of putting an object into the local store.
pub(super) type Installed = agent_types::error::Result<()>;

/// Reads an entry of the local store and packs it; `None`, if it is gone by then.
pub(super) struct Pack(Box<dyn FnOnce() -> agent_types::error::Result<Option<Vec<u8>>> + Send>);

/// The same for the inputs of an answer, with their name.
pub(super) struct PackInputs(Box<dyn FnOnce() -> Option<(Digest, Vec<u8>)> + Send>);

impl Pack {
    pub fn new(pack: impl FnOnce() -> agent_types::error::Result<Option<Vec<u8>>> + Send + 'static) -> Pack {
        Pack(Box::new(pack))
    }
}

impl PackInputs {
    pub fn new(pack: impl FnOnce() -> Option<(Digest, Vec<u8>)> + Send + 'static) -> PackInputs {
        PackInputs(Box::new(pack))
    }
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pack")
    }
}

impl fmt::Debug for PackInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackInputs")
    }
}

/// What a run published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// What was read and written.
    pub traffic: BTreeMap<TierKind, Traffic>,
    /// For people.
    pub trouble: Vec<String>,
}

impl BucketStore {
    /// `None`, if there is no tier to use. Must be called in a runtime.
    pub fn new(tiers: BucketTiers) -> Option<BucketStore> {
        let is_used = !tiers.read.is_empty() || tiers.write.is_some();
        is_used.then(|| BucketStore { tiers, runtime: Handle::current(), state: Mutex::default() })
    }

    /// Fetches the answer of this key from the first tier that has it; `install` puts it into the local store. Whether one
    /// came. Blocks.
    ///
    /// # Errors
    /// Why nothing came although there may be one, for people.
    pub(super) fn fetch_answer(
        &self,
        key: &Key,
        install: impl Fn(&[u8]) -> Installed,
    ) -> Result<bool, String> {
        let mut damaged = None;
        for tier in &self.tiers.read {
            let path = answer_at(tier, key)?;
            let Some(packed) = self.read(tier, &path, LARGEST_ANSWER, LOOKUP)? else { continue };
            match install(&packed) {
                Ok(()) => return Ok(true),
                Err(error) => damaged = Some(self.damaged_at(tier, &path, &error.message)),
            }
        }
        damaged.map_or(Ok(false), Err)
    }

    /// Fetches the newest parse caches of a configuration; `known` are contents that are not needed, `install` puts one
    /// into the local store. Whether one came. Blocks.
    ///
    /// # Errors
    /// As [`BucketStore::fetch_answer`].
    pub(super) fn fetch_parse_caches(
        &self,
        configuration: &Key,
        known: &BTreeSet<String>,
        install: impl Fn(&[u8]) -> Installed,
    ) -> Result<bool, String> {
        let (mut came, mut damaged) = (0, None);
        for tier in self.tiers.read.iter().filter(|tier| tier.kind == TierKind::Shared) {
            let prefix = format!("{}/", parse_caches_at(tier, configuration));
            let request = PageRequest { prefix: prefix.clone(), ..PageRequest::default() };
            let page = self.wait(tier, FETCH, tier.objects.page(&request))?;
            let mut found: Vec<_> =
                page.objects.into_iter().filter(|object| object.size <= LARGEST_PARSE_CACHE).collect();
            found.sort_by_key(|object| std::cmp::Reverse(object.modified));
            for object in found {
                let name = object.key.strip_prefix(&prefix).and_then(|name| name.strip_suffix(".tar"));
                let Some(content) = name.and_then(Digest::parse) else { continue };
                if came == MOST_FETCHED || known.contains(content.as_str()) {
                    break;
                }
                let path = exact(&object.key)?;
                let Some(packed) = self.read(tier, &path, LARGEST_PARSE_CACHE, FETCH)? else { continue };
                match install(&packed) {
                    Ok(()) => came += 1,
                    Err(error) => damaged = Some(self.damaged_at(tier, &path, &error.message)),
                }
            }
        }
        if came == 0 { damaged.map_or(Ok(false), Err) } else { Ok(true) }
    }

    /// What `read` makes of the inputs of the last answer to a query of some layers, which `name` stands for. Blocks.
    pub(super) fn read_inputs<T>(&self, name: &Digest, read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        self.tiers.read.iter().find_map(|tier| {
            let path = exact(&inputs_at(tier, name)).ok()?;
            read(&self.read(tier, &path, LARGEST_ANSWER, LOOKUP).ok()??)
        })
    }

    /// Whether a tier has an answer of this key that differs. It is deleted where the tier may be written. Blocks.
    pub(super) fn contradicts(&self, key: &Key, differs: impl Fn(&[u8]) -> bool) -> bool {
        let mut contradicts = false;
        for tier in &self.tiers.read {
            let Ok(path) = answer_at(tier, key) else { continue };
            let Ok(Some(packed)) = self.read(tier, &path, LARGEST_ANSWER, LOOKUP) else { continue };
            if !differs(&packed) {
                continue;
            }
            contradicts = true;
            if self.tiers.write.as_ref().is_some_and(|write| write.kind == tier.kind) {
                let delete = async { tier.objects.delete_batch(vec![path]).await };
                let _ = self.runtime.block_on(tokio::time::timeout(LOOKUP, delete));
            }
        }
        contradicts
    }

    /// Remembers an answer of the local store, to publish it.
    pub(super) fn add_answer(&self, key: &Key, pack: Pack) {
        lock(&self.state).answers.insert(format!("answers/{}.tar.zst", key.as_str()), pack);
    }

    /// Remembers the inputs of an answer, which come with it.
    pub(super) fn add_inputs(&self, key: &Key, pack: PackInputs) {
        lock(&self.state).inputs.insert(key.as_str().to_owned(), pack);
    }

    /// Remembers a parse cache of the local store.
    pub(super) fn add_parse_cache(&self, configuration: &Key, content: &Digest, pack: Pack) {
        let at = format!("parses/{}/{content}.tar", configuration.as_str());
        lock(&self.state).parse_caches.insert(at, pack);
    }

    /// Forgets what was to be published: something about it is wrong.
    pub(super) fn forget(&self) {
        let mut state = lock(&self.state);
        state.answers.clear();
        state.inputs.clear();
        state.parse_caches.clear();
    }

    /// Publishes what was remembered, where there is a tier to write, and tells what was done in this run.
    pub(super) async fn publish(&self) -> Published {
        let (off, mut jobs, inputs, parse_caches, traffic) = {
            let mut state = lock(&self.state);
            let State { off, answers, inputs, parse_caches, traffic, .. } = &mut *state;
            let taken = (std::mem::take(answers), std::mem::take(inputs), std::mem::take(parse_caches));
            (off.clone(), taken.0, taken.1, taken.2, std::mem::take(traffic))
        };
        let mut published = Published { traffic, trouble: Vec::from_iter(off) };
        let Some(tier) = self.tiers.write.as_ref().filter(|_| published.trouble.is_empty()) else {
            return published;
        };
        if tier.kind == TierKind::Shared {
            jobs.extend(parse_caches);
        }
        let put = stream::iter(jobs).map(|(at, pack)| self.create(tier, at, pack)).buffer_unordered(PARALLEL);
        let put = async {
            let done: Vec<_> = put.collect().await;
            replace_inputs(tier, inputs).await;
            done
        };
        let begun = Instant::now();
        let written = published.traffic.entry(tier.kind).or_default();
        match tokio::time::timeout(PUBLISH, put).await {
            Ok(done) => {
                for one in done {
                    match one {
                        Ok(bytes) => {
                            written.objects_written += u64::from(bytes > 0);
                            written.bytes_written += bytes;
                        }
                        Err(why) => published.trouble.push(why),
                    }
                }
            }
            Err(_) => published.trouble.push(format!("{} took too long", tier.share)),
        }
        written.seconds_waited += begun.elapsed().as_secs_f64();
        // One cause is told once.
        published.trouble.truncate(1);
        published
    }

    /// Remembers an object that is not whole, and says so.
    fn damaged_at(&self, tier: &BucketTier, path: &Path, why: &str) -> String {
        lock(&self.state).damaged.insert(path.to_string());
        format!("s3://{}/{path} is damaged and not used: {why}", tier.share.bucket())
    }

    /// Creates an object below `signatures/` of the tier, unless a tier has it; how many bytes were written.
    async fn create(&self, tier: &BucketTier, at: String, pack: Pack) -> Result<u64, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("{}/signatures/{at} cannot be written: {error}", tier.share)
        };
        let path = exact(&format!("{}/{at}", tier.share.signatures()))?;
        // Most are there. To read one of this machine takes longer than to ask.
        for tier in &self.tiers.read {
            let path = exact(&format!("{}/{at}", tier.share.signatures()))?;
            let is_damaged = lock(&self.state).damaged.contains(path.as_ref());
            if !is_damaged && tier.objects.head(&path).await.map_err(|error| failed(&error))?.is_some() {
                return Ok(0);
            }
        }
        let packed =
            spawn_blocking(pack.0).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let Some(packed) = packed else { return Ok(0) };
        let bytes = packed.len() as u64;
        let is_damaged = lock(&self.state).damaged.contains(path.as_ref());
        if is_damaged {
            let replaced = tier.objects.replace(&path, packed.into()).await;
            return replaced.map(|()| bytes).map_err(|error| failed(&error));
        }
        match tier.objects.create(&path, packed.into()).await {
            Ok(Created::New) => Ok(bytes),
            Ok(Created::Equal | Created::Different) => Ok(0),
            Err(error) => Err(failed(&error)),
        }
    }

    /// An object; `None`, if it does not exist.
    fn read(
        &self,
        tier: &BucketTier,
        path: &Path,
        limit: u64,
        time: Duration,
    ) -> Result<Option<Bytes>, String> {
        let found = self.wait(tier, time, tier.objects.read(path, limit))?;
        if let Some(bytes) = &found {
            let traffic = Traffic { objects_read: 1, bytes_read: bytes.len() as u64, ..Traffic::default() };
            *lock(&self.state).traffic.entry(tier.kind).or_default() += traffic;
        }
        Ok(found)
    }

    /// Waits for a request. After a failure there are no more in this run: each would take as long.
    fn wait<T>(
        &self,
        tier: &BucketTier,
        time: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, String> {
        if let Some(why) = &lock(&self.state).off {
            return Err(why.clone());
        }
        let begun = Instant::now();
        let answer = self.runtime.block_on(async { tokio::time::timeout(time, request).await });
        lock(&self.state).traffic.entry(tier.kind).or_default().seconds_waited +=
            begun.elapsed().as_secs_f64();
        let why = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            // An object that is too large is one of its own.
            Ok(Err(error @ object_store::Error::NotSupported { .. })) => {
                return Err(format!("{} cannot be read: {error}", tier.share));
            }
            Ok(Err(error)) => format!("{} cannot be read: {error}", tier.share),
            Err(_) => format!("{} did not answer within {} s", tier.share, time.as_secs()),
        };
        lock(&self.state).off = Some(why.clone());
        Err(why)
    }
}

/// Replaces the inputs of the last answers. They are words for people: what fails is no trouble.
async fn replace_inputs(tier: &BucketTier, inputs: BTreeMap<String, PackInputs>) {
    let pack = move || inputs.into_values().filter_map(|pack| (pack.0)()).collect::<Vec<_>>();
    for (name, packed) in spawn_blocking(pack).await.unwrap_or_default() {
        if let Ok(path) = exact(&inputs_at(tier, &name)) {
            let _ = tier.objects.replace(&path, packed.into()).await;
        }
    }
}

fn answer_at(tier: &BucketTier, key: &Key) -> Result<Path, String> {
    exact(&format!("{}/answers/{}.tar.zst", tier.share.signatures(), key.as_str()))
}

fn parse_caches_at(tier: &BucketTier, configuration: &Key) -> String {
    format!("{}/parses/{}", tier.share.signatures(), configuration.as_str())
}

fn inputs_at(tier: &BucketTier, name: &Digest) -> String {
    format!("{}/latest/{name}.tar.zst", tier.share.signatures())
}

fn exact(text: &str) -> Result<Path, String> {
    key::exact(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "bucket_store_tests.rs"]
mod tests;
