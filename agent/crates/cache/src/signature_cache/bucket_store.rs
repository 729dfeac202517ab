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

use super::Digest;
use super::key::{Inputs, Key};
use super::lock::lock;
use super::parse_cache::ParseCacheStore;
use super::protocol::Answer;
use super::store::{self, Store};

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
    answers: BTreeSet<String>,
    parse_caches: BTreeSet<(String, String)>,
    /// Objects that are not whole: what this run adds under their names replaces them.
    damaged: BTreeSet<String>,
    traffic: BTreeMap<TierKind, Traffic>,
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

    /// Fetches the answer of this key into the local store, from the first tier that has it. Whether one came.
    /// Blocks.
    ///
    /// # Errors
    /// Why nothing came although there may be one, for people.
    pub(super) fn fetch_answer(&self, key: &Key, into: &Store) -> Result<bool, String> {
        let mut damaged = None;
        for tier in &self.tiers.read {
            let path = answer_at(tier, key)?;
            let Some(packed) = self.read(tier, &path, LARGEST_ANSWER, LOOKUP)? else { continue };
            match into.install(key, &packed) {
                Ok(()) => return Ok(true),
                Err(error) => damaged = Some(self.damaged_at(tier, &path, &error.message)),
            }
        }
        damaged.map_or(Ok(false), Err)
    }

    /// Fetches the newest parse caches of a configuration into the local store; `known` are contents that are not
    /// needed. Whether one came. Blocks.
    ///
    /// # Errors
    /// As [`BucketStore::fetch_answer`].
    pub(super) fn fetch_parse_caches(
        &self,
        configuration: &Key,
        known: &BTreeSet<String>,
        into: &ParseCacheStore,
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
                match into.install(configuration, &packed) {
                    Ok(()) => came += 1,
                    Err(error) => damaged = Some(self.damaged_at(tier, &path, &error.message)),
                }
            }
        }
        if came == 0 { damaged.map_or(Ok(false), Err) } else { Ok(true) }
    }

    /// What differs from the inputs of the last answer to the same query of the same layers. Blocks.
    pub(super) fn why_not(&self, inputs: &Inputs, query: &str) -> Option<String> {
        let name = store::name_of_inputs(query, inputs.parts())?;
        self.tiers.read.iter().find_map(|tier| {
            let path = exact(&latest_at(tier, &name)).ok()?;
            let packed = self.read(tier, &path, LARGEST_ANSWER, LOOKUP).ok()??;
            store::difference_from_packed(inputs, query, &packed)
        })
    }

    /// Whether a tier has other signatures for this key. They are deleted where the tier may be written. Blocks.
    pub(super) fn contradicts(&self, key: &Key, answer: &Answer) -> bool {
        let mut contradicts = false;
        for tier in &self.tiers.read {
            let Ok(path) = answer_at(tier, key) else { continue };
            let Ok(Some(packed)) = self.read(tier, &path, LARGEST_ANSWER, LOOKUP) else { continue };
            let Ok(found) = Store::unpacked(key, &packed) else { continue };
            if found.answer.signatures == answer.signatures {
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
    pub(super) fn add_answer(&self, key: &Key) {
        lock(&self.state).answers.insert(key.as_str().to_owned());
    }

    /// Remembers a parse cache of the local store.
    pub(super) fn add_parse_cache(&self, configuration: &Key, content: &Digest) {
        lock(&self.state)
            .parse_caches
            .insert((configuration.as_str().to_owned(), content.as_str().to_owned()));
    }

    /// Forgets what was to be published: something about it is wrong.
    pub(super) fn forget(&self) {
        let mut state = lock(&self.state);
        state.answers.clear();
        state.parse_caches.clear();
    }

    /// Publishes what was remembered, where there is a tier to write, and tells what was done in this run.
    pub(super) async fn publish(&self, local: &Store) -> Published {
        let (answers, parse_caches, traffic) = {
            let mut state = lock(&self.state);
            let State { answers, parse_caches, traffic, .. } = &mut *state;
            (std::mem::take(answers), std::mem::take(parse_caches), std::mem::take(traffic))
        };
        let mut published = Published { traffic, trouble: Vec::from_iter(lock(&self.state).off.clone()) };
        let Some(tier) = self.tiers.write.as_ref().filter(|_| published.trouble.is_empty()) else {
            return published;
        };
        let mut jobs = Vec::new();
        for name in answers.clone() {
            let (local, at) = (local.clone(), format!("answers/{name}.tar.zst"));
            jobs.push((at, Box::new(move || local.pack(&name)) as Pack));
        }
        for (configuration, content) in parse_caches.into_iter().filter(|_| tier.kind == TierKind::Shared) {
            let at = format!("parses/{configuration}/{content}.tar");
            let local = local.parse_caches();
            jobs.push((at, Box::new(move || local.pack(&configuration, &content)) as Pack));
        }
        let put = stream::iter(jobs).map(|(at, pack)| self.create(tier, at, pack)).buffer_unordered(PARALLEL);
        let put = async {
            let done: Vec<_> = put.collect().await;
            // In the order of `jobs` no more; but when something is new, these are new, too.
            if done.iter().any(|one| one.as_ref().is_ok_and(|bytes| *bytes > 0)) {
                self.replace_inputs(tier, local, answers).await;
            }
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

    /// Replaces the inputs of the last answers, for which this machine has all files. They are words for people: what
    /// fails is no trouble.
    async fn replace_inputs(&self, tier: &BucketTier, local: &Store, answers: BTreeSet<String>) {
        let packing = local.clone();
        let pack = move || answers.iter().filter_map(|key| packing.pack_inputs(key)).collect::<Vec<_>>();
        for (name, packed) in spawn_blocking(pack).await.unwrap_or_default() {
            if let Ok(path) = exact(&latest_at(tier, &name)) {
                let _ = tier.objects.replace(&path, packed.into()).await;
            }
        }
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
            spawn_blocking(pack).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
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

/// Reads a stored entry and packs it; `None`, if it is gone by now.
type Pack = Box<dyn FnOnce() -> agent_types::error::Result<Option<Vec<u8>>> + Send>;

fn answer_at(tier: &BucketTier, key: &Key) -> Result<Path, String> {
    exact(&format!("{}/answers/{}.tar.zst", tier.share.signatures(), key.as_str()))
}

fn parse_caches_at(tier: &BucketTier, configuration: &Key) -> String {
    format!("{}/parses/{}", tier.share.signatures(), configuration.as_str())
}

fn latest_at(tier: &BucketTier, name: &Digest) -> String {
    format!("{}/latest/{name}.tar.zst", tier.share.signatures())
}

fn exact(text: &str) -> Result<Path, String> {
    key::exact(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "bucket_store_tests.rs"]
mod tests;
