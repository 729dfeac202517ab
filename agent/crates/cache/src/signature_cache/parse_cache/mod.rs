//! BitBake's parse caches, stored by configuration and put into new build directories, so that a query
//! that the real BitBake answers at least does not parse what was parsed before.
//!
//! BitBake itself decides for each recipe whether what the cache holds is valid. This module sees to it
//! that it can: what BitBake does not look at must be the same ([`configuration`]), and what it does look
//! at must not have changed in a way that it would not see ([`Record`]). Caches of a run in which a server
//! was asked for a revision are never stored: a recipe from the cache asks no more.
//!
//! On a fresh clone no file has the stat data of the time when the cache was made, and BitBake would parse everything:
//! it compares seconds up to honister, in langdale, mickledore and nanbield; the modification time in nanoseconds, the
//! size and the inode in kirkstone and from scarthgap on. No file can be given an inode, so that setting the times of
//! the checkout's files would not do. Instead the cache is rebased ([`rebase`]): stat data of files whose content is
//! what it was becomes today's.

mod build;
mod configuration;
mod rebase;
mod record;
mod store;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use regex::Regex;

use agent_process::User;
use agent_types::error::{Error, Result};
use agent_types::events::Recipes;

use super::bucket_store::{BucketStore, Pack};
use super::key::{Inputs, Key};
use super::protocol::BitbakeOutcome;
use super::{CacheResult, NotCacheable};
use build::{Kinds, Place};
use rebase::Rebase;
use record::{Moved, Record, Use};
use store::{Bundle, Entry};

pub use store::ParseCacheStore;

/// Below this share of all recipes, loading a cache costs more than it saves: one in so many must be
/// fresh. A layer that was cloned again is small beside those it depends on.
const FRESH: usize = 4;

/// A check has one configuration for each of its worlds.
const MOST_OWN: usize = 64;

/// What BitBake finds of a parse cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// There was none for this configuration, or the build directory has one already.
    Nothing,
    /// There was one, and why it was not used.
    Refused(NotCacheable),
    /// BitBake finds one now that an earlier job may have made.
    Put,
    /// BitBake finds one now that it made in this very check, without a stored one.
    Own,
}

/// What came of unpacking.
#[derive(Debug)]
pub enum Unpacking {
    /// There is nothing to put in place.
    Done(Restored),
    Unpacked(Unpacked),
}

/// A stored cache, whole in the build directory but for its names.
#[derive(Debug)]
pub struct Unpacked {
    places: Vec<Place>,
    /// What the build user has to do before it is put in place.
    rebases: Vec<Rebase>,
    user: User,
}

impl Unpacked {
    /// The rebases that are still to be done.
    pub fn take_rebases(&mut self) -> Vec<Rebase> {
        std::mem::take(&mut self.rebases)
    }

    /// Puts it where BitBake finds it.
    pub fn put(self) -> Restored {
        match build::put(self.places, &self.user) {
            Ok(()) => Restored::Put,
            Err(reason) => Restored::Refused(reason),
        }
    }

    /// Removes it.
    pub fn give_up(&self) {
        build::give_up(&self.places, &self.user);
    }
}

/// Which files of a parse cache the next BitBake updates. It checks only the file of recipes to decide whether a cache is
/// valid, and reads the file of signature data only if it writes signatures (`RECIPE_SIGGEN_INFO` in bb/cooker.py).
/// Otherwise it would parse a changed recipe again, and not update the old signature data: "Basehash mismatch" in the
/// next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Recipes,
    RecipesAndSignatures,
}

impl Keeps {
    /// Whether this file of a cache may be restored.
    fn covers(self, path: &Path) -> bool {
        self == Keeps::RecipesAndSignatures || !build::is_signature_data(path)
    }
}

/// Who may use a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Users {
    /// Jobs with other versions of the layers.
    pub later_jobs: bool,
    /// Reruns of this check.
    pub reruns: bool,
}

impl Users {
    pub fn is_any(self) -> bool {
        self.later_jobs || self.reruns
    }
}

/// What the stores have for a configuration.
struct Search<'a> {
    best: Option<(Use, &'a ParseCacheStore, Entry)>,
    /// Why another one is not used.
    refused: Option<NotCacheable>,
    /// The digests of all entries' contents.
    contents: BTreeSet<String>,
}

/// The caches of the stores of one run, and those of the check itself.
#[derive(Clone, Debug)]
pub struct ParseCaches {
    /// The local one first.
    stores: Vec<ParseCacheStore>,
    bucket: Option<Arc<BucketStore>>,
    own: ParseCacheStore,
    /// Runs BitBake.
    user: User,
}

impl ParseCaches {
    /// `stores` begin with the local one. `own` is a directory for the caches of this check alone.
    pub fn new(
        stores: Vec<ParseCacheStore>,
        bucket: Option<Arc<BucketStore>>,
        own: PathBuf,
        user: &User,
    ) -> ParseCaches {
        let own = ParseCacheStore { store: own, most: MOST_OWN, writable: true };
        ParseCaches { stores, bucket, own, user: user.clone() }
    }

    /// Unpacks the stored cache that fits best in the build directory, before BitBake runs there. `build` need not
    /// be the path that BitBake sees. Blocks.
    pub fn unpack(&self, inputs: &Inputs, build: &Path, keeps: Keeps) -> Unpacking {
        let (_, key) = configuration::of(inputs);
        let now = Record::of(inputs);
        let mut search = self.search(&self.stores, &key, &now);
        if let (Some(bucket), Some(local)) = (&self.bucket, self.stores.first())
            && search.best.as_ref().is_none_or(|(usage, ..)| usage.is_poor())
        {
            let install = |packed: &[u8]| local.install(&key, packed);
            match bucket.fetch_parse_caches(&key, &search.contents, install) {
                Ok(true) => search = self.search(&self.stores, &key, &now),
                Ok(false) => {}
                Err(why) => search.refused = Some(NotCacheable(why)),
            }
        }
        self.unpack_best(search, &now, build, keeps)
    }

    /// The same with a cache of this very check, as BitBake would find it there had it answered all its queries in
    /// one build directory. Blocks.
    pub fn restore_own(&self, inputs: &Inputs, build: &Path, keeps: Keeps) -> Restored {
        let (_, key) = configuration::of(inputs);
        let now = Record::of(inputs);
        let search = self.search(std::slice::from_ref(&self.own), &key, &now);
        match self.unpack_best(search, &now, build, keeps) {
            Unpacking::Done(restored) => restored,
            Unpacking::Unpacked(unpacked) => match unpacked.put() {
                Restored::Put => Restored::Own,
                other => other,
            },
        }
    }

    /// Removes the cache that BitBake used last in the build directory, after BitBake's server has ended: a cache that was
    /// restored for one query may be incomplete for the next one. Blocks.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_restored(&self, build: &Path) -> CacheResult<()> {
        build::remove_newest(build, &self.user)
    }

    /// The entry that fits best.
    fn search<'a>(&self, stores: &'a [ParseCacheStore], key: &Key, now: &Record) -> Search<'a> {
        let mut search = Search { best: None, refused: None, contents: BTreeSet::new() };
        for store in stores {
            for entry in store.entries(key) {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        search.refused = Some(NotCacheable(error.message));
                        continue;
                    }
                };
                search.contents.insert(entry.record.content().as_str().to_owned());
                match entry.record.use_for(now) {
                    Err(reason) => search.refused = Some(reason),
                    Ok(usage) if usage.saved() == 0 || usage.saved() * FRESH < usage.of => {
                        search.refused = Some(NotCacheable("most recipes are other ones".into()));
                    }
                    Ok(usage)
                        if search.best.as_ref().is_none_or(|(known, ..)| known.saved() < usage.saved()) =>
                    {
                        search.best = Some((usage, store, entry));
                    }
                    Ok(_) => {}
                }
            }
        }
        search
    }

    fn unpack_best(&self, search: Search, now: &Record, build: &Path, keeps: Keeps) -> Unpacking {
        let Some((usage, store, entry)) = search.best else {
            return Unpacking::Done(search.refused.map_or(Restored::Nothing, Restored::Refused));
        };
        let moved = if usage.wants_rebase() { entry.record.moved(now) } else { Vec::new() };
        match self.try_unpack((store, &entry), &moved, build, keeps) {
            Ok(Some(unpacked)) => Unpacking::Unpacked(unpacked),
            Ok(None) => Unpacking::Done(Restored::Nothing),
            Err(reason) => Unpacking::Done(Restored::Refused(reason)),
        }
    }

    /// `None` when the build directory has one.
    fn try_unpack(
        &self,
        (store, entry): (&ParseCacheStore, &Entry),
        moved: &[Moved],
        build: &Path,
        keeps: Keeps,
    ) -> CacheResult<Option<Unpacked>> {
        let mut paths = entry.paths();
        paths.retain(|path| keeps.covers(path));
        let Some(places) = build::make_room(build, &paths, &self.user)? else { return Ok(None) };
        let mut unpacked = Unpacked { places, rebases: Vec::new(), user: self.user.clone() };
        let done: Result<()> = unpacked.places.iter_mut().try_for_each(|place| {
            let Some(path) = paths.iter().find(|path| place.is_for(path)) else { return Ok(()) };
            if moved.is_empty() || !place.is_core() {
                return entry.unpack(path, &mut place.file);
            }
            let input = rebase::input(moved, |file| entry.unpack(path, file))?;
            let target = place.vacate(&self.user).map_err(|reason| Error::machine(reason.0))?.to_owned();
            unpacked.rebases.push(Rebase { input, target });
            Ok(())
        });
        if let Err(error) = done {
            unpacked.give_up();
            store.discard_entry(entry);
            let why = format!("a stored parse cache is damaged and not used: {error}");
            return Err(NotCacheable(why));
        }
        store.used(entry);
        Ok(Some(unpacked))
    }

    /// Stores the caches that `bitbake` left in the build directory when it answered a query with these
    /// inputs: it ended well, and none of them changed meanwhile. Blocks.
    ///
    /// # Errors
    /// When there is nothing to store, or it cannot be stored.
    pub fn insert(&self, inputs: &Inputs, bitbake: &Path, build: &Path, users: Users) -> CacheResult<()> {
        self.insert_kinds(inputs, Kinds::of(bitbake), build, users)
    }

    /// The same after a run that writes no signature data. Blocks.
    ///
    /// # Errors
    /// When there is nothing to store, or it cannot be stored.
    pub fn insert_recipes(&self, inputs: &Inputs, build: &Path, users: Users) -> CacheResult<()> {
        self.insert_kinds(inputs, Kinds::Recipes, build, users)
    }

    fn insert_kinds(&self, inputs: &Inputs, kinds: Kinds, build: &Path, users: Users) -> CacheResult<()> {
        let (parts, key) = configuration::of(inputs);
        let record = Record::of(inputs);
        let later = self.stores.iter().filter(|store| store.writable && users.later_jobs);
        let own = std::iter::once(&self.own).filter(|_| users.reruns);
        if let (Some(bucket), Some(local)) =
            (self.bucket.as_ref().filter(|_| users.later_jobs), self.stores.first().cloned())
        {
            let (content, configuration) = (record.content(), key.clone());
            let wanted = content.clone();
            let pack = move || local.pack(configuration.as_str(), wanted.as_str());
            bucket.add_parse_cache(&key, &content, Pack::new(pack));
        }
        let lacking: Vec<&ParseCacheStore> =
            later.chain(own).filter(|store| !store.has(&key, &record)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let caches = build::find(build, &self.user, kinds)?;
        if caches.is_empty() {
            return Err(NotCacheable("BitBake left no whole parse cache".into()));
        }
        let mut bundle = Bundle::default();
        for cache in caches {
            bundle.add(&cache.path, &cache.file, cache.metadata.len()).map_err(told)?;
            let after = cache.file.metadata()?;
            if after.modified()? != cache.metadata.modified()? || after.len() != cache.metadata.len() {
                return Err(NotCacheable("BitBake still writes its parse caches".into()));
            }
        }
        // One store may be full or gone; the others still get it.
        let inserted: Vec<Result<()>> =
            lacking.iter().map(|store| store.insert(&parts, &record, &bundle)).collect();
        inserted.into_iter().collect::<Result<()>>().map_err(told)
    }
}

/// How many recipes BitBake parsed, and how many it took from its cache, as it says when it parsed any
/// (knotty.py, all releases).
pub fn count(outcome: &BitbakeOutcome) -> Option<Recipes> {
    static LINE: LazyLock<Regex> = LazyLock::new(|| {
        #[allow(clippy::expect_used, reason = "the pattern is a constant, and a test uses it")]
        Regex::new(r"Parsing of \d+ \.bb files complete \((\d+) cached, (\d+) parsed\)").expect("a pattern")
    });
    [&outcome.stdout, &outcome.stderr]
        .into_iter()
        .filter_map(|output| {
            let text = String::from_utf8_lossy(output);
            let found = LINE.captures(&text)?;
            Some(Recipes { cached: found[1].parse().ok()?, parsed: found[2].parse().ok()? })
        })
        .next()
}

fn told(error: agent_types::error::Error) -> NotCacheable {
    NotCacheable(error.message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "parse_cache_tests.rs"]
mod tests;
