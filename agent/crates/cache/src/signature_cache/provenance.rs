//! Tracks, per query kind, which answers of one run came fresh from BitBake and which from the cache.
//!
//! Fresh is what a BitBake of this very run gave, without a parse cache of an earlier run: in the check's own build
//! directory, or in a scratch directory that looks the same to it. A verdict other than a pass may depend on nothing else.

use std::collections::HashSet;
use std::time::Duration;

use agent_yocto::check_layer::{Kind, Kinds};

use super::Key;

/// A run after one whose verdict was no pass and depended on cached answers. The kinds of query that are not bypassed
/// may be answered from the stores. Nothing is prefetched, and BitBake gets no parse caches but those of this very check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rerun {
    /// How many runs came before; none: this is the first.
    pub attempt: u64,
    /// The kinds of query that BitBake itself answers in this run.
    pub bypass: Kinds,
    /// How long those runs took. Cached answers save nothing until they have made up for it.
    pub wasted: Duration,
}

/// The kinds of query whose answers a failure may not depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvenanceSummary {
    /// Their answers were stored before, or depend on a parse cache of an earlier run.
    pub stored: Kinds,
    /// BitBake's files of signatures for them are not in the check's own build directory.
    pub elsewhere: Kinds,
    /// BitBake left its signature files empty.
    pub discarded: bool,
}

/// Which queries BitBake answered in this run, and where.
#[derive(Debug, Default)]
pub struct Provenance {
    /// Queries that a BitBake of this run answered, without a parse cache of an earlier run.
    fresh: HashSet<Key>,
    /// Those of them that it answered in the check's own build directory.
    here: HashSet<Key>,
    given: ProvenanceSummary,
    /// The check's build directory got a parse cache; whatever BitBake does there may depend on it.
    restored: bool,
    /// BitBake failed with a stored parse cache. From now on it gets none, so that its next answers are fresh.
    failed_with_cache: bool,
}

impl Provenance {
    pub fn restored(&mut self) {
        self.restored = true;
    }

    pub fn failed_with_cache(&mut self) {
        self.failed_with_cache = true;
    }

    pub fn has_failed_with_cache(&self) -> bool {
        self.failed_with_cache
    }

    /// BitBake answered in the check's own build directory.
    pub fn answered_here(&mut self, key: Key) {
        if !self.restored {
            self.fresh.insert(key.clone());
            self.here.insert(key);
        }
    }

    /// BitBake answered in a scratch directory, without a parse cache.
    pub fn answered_in_scratch_dir(&mut self, key: Key) {
        self.fresh.insert(key);
    }

    pub fn is_here(&self, key: &Key) -> bool {
        self.here.contains(key)
    }

    /// The tool got an answer that BitBake had given before.
    pub fn answered(&mut self, kind: Kind, key: &Key) {
        if !self.fresh.contains(key) {
            self.given.stored.insert(kind);
        }
        if !self.here.contains(key) {
            self.given.elsewhere.insert(kind);
        }
    }

    pub fn given(&self) -> ProvenanceSummary {
        let stored = if self.restored { Kinds::from(Kind::ALL) } else { self.given.stored.clone() };
        ProvenanceSummary { stored, ..self.given.clone() }
    }
}
