//! BitBake's parse caches, stored by configuration and put into new build directories, so that a query
//! that the real BitBake answers at least does not parse what was parsed before.
//!
//! BitBake itself decides for each recipe whether what the cache holds is valid. This module sees to it
//! that it can: what BitBake does not look at must be the same ([`configuration`]), and what it does look
//! at must not have changed in a way that it would not see ([`Record`]). Caches of a run in which a server
//! was asked for a revision are never stored: a recipe from the cache asks no more.

mod build;
mod configuration;
mod record;
mod store;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

use agent_process::User;
use agent_types::error::Result;

use agent_types::events::Recipes;

use super::key::Inputs;
use super::protocol::BitbakeOutcome;
use super::{CacheResult, NotCacheable};
use record::{Record, Use};
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

/// What the BitBake that finds a cache keeps up to date. It takes a cache for valid by the recipes' own file alone, and
/// reads the file of signature data only when it writes signatures (`RECIPE_SIGGEN_INFO` in bb/cooker.py). Without that,
/// it would parse a changed recipe anew, and leave the old signature data beside it: "Basehash mismatch" in the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Recipes,
    RecipesAndSignatures,
}

impl Keeps {
    /// Whether it may find this file of a cache.
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

/// The caches of the stores of one run, and those of the check itself.
#[derive(Clone, Debug)]
pub struct ParseCaches {
    read: Vec<ParseCacheStore>,
    write: Vec<ParseCacheStore>,
    own: ParseCacheStore,
    /// Runs BitBake.
    user: User,
}

impl ParseCaches {
    /// `own` is a directory for the caches of this check alone.
    pub fn new(
        read: Vec<ParseCacheStore>,
        write: Vec<ParseCacheStore>,
        own: PathBuf,
        user: &User,
    ) -> ParseCaches {
        let own = ParseCacheStore { store: own, most: MOST_OWN, writable: true };
        ParseCaches { read, write, own, user: user.clone() }
    }

    /// Puts the stored cache that fits best into the build directory, before BitBake runs there. `build` need not
    /// be the path that BitBake sees. Blocks.
    pub fn restore(&self, inputs: &Inputs, build: &Path, keeps: Keeps) -> Restored {
        self.restore_from(&self.read, inputs, build, keeps)
    }

    /// The same with a cache of this very check, as BitBake would find it there had it answered all its queries in
    /// one build directory. Blocks.
    pub fn restore_own(&self, inputs: &Inputs, build: &Path, keeps: Keeps) -> Restored {
        match self.restore_from(std::slice::from_ref(&self.own), inputs, build, keeps) {
            Restored::Put => Restored::Own,
            other => other,
        }
    }

    /// Removes the cache that BitBake used last in the build directory, once BitBake's server is gone: what was put there
    /// for one query does not serve the next one. Blocks.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn take_away(&self, build: &Path) -> CacheResult<()> {
        build::remove_newest(build, &self.user)
    }

    fn restore_from(
        &self,
        stores: &[ParseCacheStore],
        inputs: &Inputs,
        build: &Path,
        keeps: Keeps,
    ) -> Restored {
        let (_, key) = configuration::of(inputs);
        let now = Record::of(inputs);
        let mut best: Option<(Use, &ParseCacheStore, Entry)> = None;
        let mut refused = None;
        for store in stores {
            for entry in store.entries(&key) {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        refused = Some(NotCacheable(error.message));
                        continue;
                    }
                };
                match entry.record.use_for(&now) {
                    Err(reason) => refused = Some(reason),
                    Ok(usage) if usage.fresh == 0 || usage.fresh * FRESH < usage.of => {
                        refused = Some(NotCacheable("most layers were checked out again".into()));
                    }
                    Ok(usage) if best.as_ref().is_none_or(|(known, ..)| known.fresh < usage.fresh) => {
                        best = Some((usage, store, entry));
                    }
                    Ok(_) => {}
                }
            }
        }
        let Some((_, store, entry)) = best else {
            return refused.map_or(Restored::Nothing, Restored::Refused);
        };
        match self.put(store, &entry, build, keeps) {
            Ok(true) => Restored::Put,
            Ok(false) => Restored::Nothing,
            Err(reason) => Restored::Refused(reason),
        }
    }

    /// Whether it was put there; not when there is one.
    fn put(&self, store: &ParseCacheStore, entry: &Entry, build: &Path, keeps: Keeps) -> CacheResult<bool> {
        let mut paths = entry.paths();
        paths.retain(|path| keeps.covers(path));
        let Some(mut places) = build::make_room(build, &paths, &self.user)? else { return Ok(false) };
        let unpacked: Result<()> =
            places.iter_mut().try_for_each(|place| match paths.iter().find(|path| place.is_for(path)) {
                Some(path) => entry.unpack(path, &mut place.file),
                None => Ok(()),
            });
        if let Err(error) = unpacked {
            build::give_up(&places, &self.user);
            store.discard_entry(entry);
            let why = format!("a stored parse cache is damaged and not used: {error}");
            return Err(NotCacheable(why));
        }
        store.used(entry);
        build::put(places, &self.user).map(|()| true)
    }

    /// Stores the caches that BitBake left in the build directory when it answered a query with these
    /// inputs: it ended well, and none of them changed meanwhile. Blocks.
    ///
    /// # Errors
    /// When there is nothing to store, or it cannot be stored.
    pub fn insert(&self, inputs: &Inputs, build: &Path, users: Users) -> CacheResult<()> {
        let (parts, key) = configuration::of(inputs);
        let record = Record::of(inputs);
        let later = self.write.iter().filter(|_| users.later_jobs);
        let own = std::iter::once(&self.own).filter(|_| users.reruns);
        let lacking: Vec<&ParseCacheStore> =
            later.chain(own).filter(|store| !store.has(&key, &record)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let caches = build::find(build, &self.user)?;
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
