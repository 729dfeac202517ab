//! What the answers of one run of the tool stood on: which were plain, and which kinds of questions had others.
//!
//! Plain is what BitBake gave in the check's own build directory, with nothing there that an earlier run had
//! parsed. A verdict other than a pass may rest on nothing else.

use std::collections::HashSet;
use std::time::Duration;

use agent_yocto::check_layer::{Kind, Kinds};

use super::desk::{Looked, Shared, lock};
use super::wire::Answer;
use super::{Accepted, Key, Refusal};

/// A run after one whose verdict was no pass and rested on other answers than plain ones. What is not asked
/// anew may be answered from the stores; nothing is asked ahead, and BitBake gets no parse cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Again {
    /// How many runs came before; none: this is the first.
    pub runs: u64,
    /// What BitBake itself is asked in this run.
    pub anew: Kinds,
    /// What those runs took, which answers have to make good before they save anything.
    pub lost: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Questions with plain answers.
    plain: HashSet<Key>,
    /// Kinds that had other answers.
    given: Kinds,
    /// The check's build directory got a parse cache; whatever BitBake does there may rest on it.
    restored: bool,
    /// BitBake failed when it was asked ahead. What it will say to the tool is to be plain at once.
    failed_ahead: bool,
}

impl Ledger {
    pub fn restored(&mut self) {
        self.restored = true;
    }

    pub fn failed_ahead(&mut self) {
        self.failed_ahead = true;
    }

    pub fn has_failed_ahead(&self) -> bool {
        self.failed_ahead
    }

    /// BitBake's answer of the check's own build directory was kept.
    pub fn kept(&mut self, key: Key) {
        if !self.restored {
            self.plain.insert(key);
        }
    }

    pub fn is_plain(&self, key: &Key) -> bool {
        self.plain.contains(key)
    }

    /// The tool got an answer that was kept before.
    pub fn answered(&mut self, kind: Kind, key: &Key) {
        if !self.is_plain(key) {
            self.given.insert(kind);
        }
    }

    /// The kinds whose answers were not plain.
    pub fn given(&self) -> Kinds {
        if self.restored { Kinds::from(Kind::ALL) } else { self.given.clone() }
    }
}

impl Shared {
    /// What was found, unless BitBake is to be asked anew and was not yet.
    pub(super) fn less_anew(&self, kind: Kind, looked: Looked) -> Looked {
        if !self.again.anew.contains(&kind) || lock(&self.ledger).is_plain(&looked.inputs.key()) {
            return looked;
        }
        Looked { found: None, why: "what failed rests on it".into(), ..looked }
    }

    /// What was asked anew may contradict what was kept. Then nothing more is reused or kept in this run.
    pub(super) fn told_the_same_before(&self, key: &Key, answer: &Answer) -> Accepted<()> {
        let stores = self.stores.write.iter().chain(&self.stores.read);
        if stores.filter(|store| store.contradicts(key, answer)).count() == 0 {
            return Ok(());
        }
        let refusal = Refusal("BitBake gave another answer to the same question before".into());
        *lock(&self.off) = Some(refusal.clone());
        Err(refusal)
    }
}
