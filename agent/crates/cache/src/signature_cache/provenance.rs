//! What the answers of one run of the tool stood on: which were fresh, and which kinds of questions had others.
//!
//! Fresh is what a BitBake of this very run gave, with nothing there that an earlier run had parsed: in the check's own
//! build directory, or apart in one that looks the same to it. A verdict other than a pass may rest on nothing else.

use std::collections::HashSet;
use std::time::Duration;

use agent_yocto::check_layer::{Kind, Kinds};

use super::protocol::Answer;
use super::server::{LookupResult, Shared, lock};
use super::{CacheResult, Key, NotCacheable};

/// A run after one whose verdict was no pass and rested on other answers than fresh ones. What is not asked
/// anew may be answered from the stores; nothing is asked ahead, and BitBake gets no parse cache but those
/// that this very check made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rerun {
    /// How many runs came before; none: this is the first.
    pub attempt: u64,
    /// What BitBake itself is asked in this run.
    pub bypass: Kinds,
    /// What those runs took, which answers have to make good before they save anything.
    pub wasted: Duration,
}

/// The kinds of questions whose answers a failure may not rest on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvenanceSummary {
    /// Their answers were stored before, or rest on what an earlier run had parsed.
    pub stored: Kinds,
    /// BitBake's files of signatures for them are not in the check's own build directory.
    pub elsewhere: Kinds,
    /// BitBake left its signature files empty.
    pub discarded: bool,
}

#[derive(Debug, Default)]
pub(super) struct Provenance {
    /// Questions that a BitBake of this run answered, with nothing there that an earlier run had parsed.
    fresh: HashSet<Key>,
    /// Those of them that it answered in the check's own build directory.
    here: HashSet<Key>,
    given: ProvenanceSummary,
    /// The check's build directory got a parse cache; whatever BitBake does there may rest on it.
    restored: bool,
    /// BitBake failed with a parse cache. What it will say to the tool is to be plain at once.
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
    pub fn asked_here(&mut self, key: Key) {
        if !self.restored {
            self.fresh.insert(key.clone());
            self.here.insert(key);
        }
    }

    /// BitBake answered apart, without a parse cache.
    pub fn asked_apart(&mut self, key: Key) {
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

impl Shared {
    /// What was found, unless BitBake is to be asked anew and was not yet.
    pub(super) fn apply_bypass(&self, kind: Kind, looked: LookupResult) -> LookupResult {
        if !self.rerun.bypass.contains(&kind) || lock(&self.provenance).is_here(&looked.inputs.key()) {
            return looked;
        }
        LookupResult { found: None, why: "what failed rests on it".into(), ..looked }
    }

    /// What was asked anew may contradict what was kept. Then nothing more is reused or kept in this run.
    pub(super) fn check_consistency(&self, key: &Key, answer: &Answer) -> CacheResult<()> {
        let stores = self.stores.write.iter().chain(&self.stores.read);
        if stores.filter(|store| store.contradicts(key, answer)).count() == 0 {
            return Ok(());
        }
        let reason = NotCacheable("BitBake gave another answer to the same question before".into());
        *lock(&self.off) = Some(reason.clone());
        Err(reason)
    }
}
