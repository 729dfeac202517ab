//! What is known at a moment of the prefetched queries of one run: which are under way, and what came of them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;

use tokio::sync::watch;

use agent_process::ExitReason;
use agent_types::events::Recipes;

use super::key::{Inputs, Key};
use super::protocol::BitbakeOutcome;
use super::{Invocation, NotCacheable, difference};

/// What is predicted once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prediction {
    Layer,
    Machines,
}

/// The prefetched queries by their inputs.
#[derive(Debug, Default)]
pub struct PrefetchTable {
    entries: HashMap<Key, Prefetched>,
    begun: HashSet<Prediction>,
}

/// One prefetched query.
#[derive(Debug)]
pub struct Prefetched {
    pub name: String,
    pub inputs: Inputs,
    /// Closed when BitBake has answered.
    pub under_way: watch::Receiver<()>,
    /// Why there was no stored answer.
    pub why: String,
    /// What BitBake parsed for it.
    pub recipes: Option<Recipes>,
    /// Why there is no answer.
    pub failure: Option<NotCacheable>,
    /// What BitBake gave, for this run of the tool alone.
    pub outcomes: Vec<FreshOutcome>,
}

impl Prefetched {
    /// One that begins, and what to drop when BitBake has answered.
    pub fn begin(name: String, inputs: Inputs, why: String) -> (Prefetched, watch::Sender<()>) {
        let (done, under_way) = watch::channel(());
        let (recipes, failure, outcomes) = (None, None, Vec::new());
        (Prefetched { name, inputs, under_way, why, recipes, failure, outcomes }, done)
    }
}

/// What BitBake gave in this run of the tool and is in no store: it failed, or may not be stored for others.
#[derive(Clone, Debug)]
pub struct FreshOutcome {
    /// The words of the call.
    pub argv: Vec<OsString>,
    pub outcome: BitbakeOutcome,
    pub seconds: f64,
    /// Why it is not stored.
    pub why: NotCacheable,
}

impl FreshOutcome {
    /// Whether BitBake would give the same to this call. After an error `-k` makes a difference.
    fn answers(&self, invocation: &Invocation) -> bool {
        self.argv == invocation.argv || self.outcome.end == ExitReason::Exited(0)
    }
}

impl PrefetchTable {
    /// Whether nobody began this prediction before. It counts as begun now.
    pub fn begin(&mut self, prediction: Prediction) -> bool {
        self.begun.insert(prediction)
    }

    /// No prediction begins any more.
    pub fn begin_nothing_more(&mut self) {
        self.begun = [Prediction::Layer, Prediction::Machines].into();
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    pub fn insert(&mut self, key: Key, prefetched: Prefetched) {
        self.entries.insert(key, prefetched);
    }

    /// Changes the entry of this key, if there is one.
    pub fn update(&mut self, key: &Key, change: impl FnOnce(&mut Prefetched)) {
        self.entries.get_mut(key).map(change);
    }

    pub fn add_to_why(&mut self, key: &Key, words: &str) {
        self.update(key, |prefetched| {
            prefetched.why += "; ";
            prefetched.why += words;
        });
    }

    pub fn fail(&mut self, key: &Key, reason: NotCacheable) {
        self.update(key, |prefetched| prefetched.failure = Some(reason));
    }

    /// BitBake is asked once more for these inputs, in other words: whoever asks so waits for it.
    pub fn begin_again(&mut self, key: &Key) -> watch::Sender<()> {
        let (done, under_way) = watch::channel(());
        self.update(key, |prefetched| prefetched.under_way = under_way);
        done
    }

    /// What BitBake gave to this query in this run, when it is in no store.
    pub fn outcome(&self, key: &Key, invocation: &Invocation) -> Option<FreshOutcome> {
        self.entries.get(key)?.outcomes.iter().find(|outcome| outcome.answers(invocation)).cloned()
    }

    /// Closed when BitBake has answered the query of this key.
    pub fn receiver(&self, key: &Key) -> Option<watch::Receiver<()>> {
        self.entries.get(key).map(|prefetched| prefetched.under_way.clone())
    }

    /// Of an answer that was prefetched in this run: why it was not known before, and what BitBake parsed.
    pub fn origin(&self, key: &Key) -> Option<(String, Option<Recipes>)> {
        let prefetched = self.entries.get(key).filter(|prefetched| prefetched.failure.is_none())?;
        Some((prefetched.why.clone(), prefetched.recipes))
    }

    pub fn failure(&self, key: &Key) -> Option<&NotCacheable> {
        self.entries.get(key)?.failure.as_ref()
    }

    /// If a query of this name is under way: how these inputs differ from its own.
    pub fn difference_from_running(&self, name: &str, inputs: &Inputs) -> Option<String> {
        let is_running =
            |prefetched: &&Prefetched| prefetched.name == name && prefetched.under_way.has_changed().is_ok();
        let prefetched = self.entries.values().find(is_running)?;
        Some(difference::in_words(inputs, prefetched.inputs.parts(), prefetched.inputs.listings()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// After an error `-k` makes a difference.
    #[test]
    fn a_failure_answers_its_own_call_alone() {
        let invocation = |words: &str| Invocation {
            argv: words.split_whitespace().map(Into::into).collect(),
            cwd: "/b".into(),
            umask: 0o22,
            joined: true,
            environment: Vec::new(),
        };
        let [lenient, strict] = [invocation("-k -S none world"), invocation("-S none world")];
        for (end, of_other) in [(ExitReason::Exited(0), true), (ExitReason::Exited(1), false)] {
            let outcome = BitbakeOutcome { end, stdout: Vec::new(), stderr: Vec::new(), signatures: None };
            let why = NotCacheable("why".into());
            let fresh = FreshOutcome { argv: lenient.argv.clone(), outcome, seconds: 1.0, why };
            assert!(fresh.answers(&lenient));
            assert_eq!(fresh.answers(&strict), of_other);
        }
    }

    #[test]
    fn each_prediction_begins_once_and_none_after_the_end() {
        let mut table = PrefetchTable::default();
        assert!(table.begin(Prediction::Layer));
        assert!(!table.begin(Prediction::Layer));
        table.begin_nothing_more();
        assert!(!table.begin(Prediction::Machines));
    }
}
