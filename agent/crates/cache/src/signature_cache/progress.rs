//! What is known at a moment of the questions of one run: which was the first, which were asked ahead, and what
//! was waited for them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::time::Duration;

use tokio::sync::watch;

use agent_process::ExitReason;
use agent_types::events::Recipes;
use agent_yocto::check_layer::Kind;

use super::key::{Inputs, Key};
use super::protocol::BitbakeOutcome;
use super::{CacheableQuery, Invocation, NotCacheable};

/// What is predicted once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prediction {
    Layer,
    Machines,
}

impl Prediction {
    pub const ALL: [Prediction; 2] = [Prediction::Layer, Prediction::Machines];
}

/// What is known of it at a moment.
#[derive(Debug, Default)]
pub struct Progress {
    /// The first question for signatures.
    pub first: Option<Invocation>,
    /// How many questions were asked.
    questions: usize,
    pub begun: HashSet<Prediction>,
    pub prefetched: HashMap<Key, Prefetched>,
    /// Seconds that were waited, not yet made good by answers.
    pub debt: f64,
}

#[derive(Debug)]
pub struct Prefetched {
    pub name: String,
    pub inputs: Inputs,
    /// Closed when it is over.
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

/// What BitBake gave in this run of the tool and is in no store: it failed, or may not be kept for others.
#[derive(Clone, Debug)]
pub struct FreshOutcome {
    /// The words of the call.
    pub argv: Vec<OsString>,
    pub outcome: BitbakeOutcome,
    pub seconds: f64,
    /// Why it is not kept.
    pub why: NotCacheable,
}

impl FreshOutcome {
    /// Whether BitBake would give the same to this call. After an error `-k` makes a difference.
    fn answers(&self, invocation: &Invocation) -> bool {
        self.argv == invocation.argv || self.outcome.end == ExitReason::Exited(0)
    }
}

impl Progress {
    /// `wasted` seconds have to be made good before anything is saved.
    pub fn after(wasted: Duration) -> Progress {
        Progress { debt: wasted.as_secs_f64(), ..Progress::default() }
    }

    /// Takes note of a question that was asked; its kind, and whether it was the very first.
    pub fn note(&mut self, invocation: &Invocation, query: &CacheableQuery) -> (Kind, bool) {
        self.questions += 1;
        let is_first = self.questions == 1;
        (self.kind(invocation, query), is_first)
    }

    fn kind(&mut self, invocation: &Invocation, query: &CacheableQuery) -> Kind {
        let first = match &self.first {
            None if query.leaves_signatures => {
                self.first = Some(invocation.clone());
                return Kind::Base;
            }
            first => first.as_ref(),
        };
        let differs = |name| first.is_some_and(|first| invocation.variable(name) != first.variable(name));
        match (query.leaves_signatures, differs("INHERIT"), differs("MACHINE")) {
            (false, ..) => Kind::Parses,
            (true, true, _) => Kind::Class,
            (true, false, true) => Kind::Machine,
            (true, false, false) => Kind::World,
        }
    }

    /// What BitBake gave to this question in this run, when it is in no store.
    pub fn outcome(&self, key: &Key, invocation: &Invocation) -> Option<FreshOutcome> {
        self.prefetched.get(key)?.outcomes.iter().find(|outcome| outcome.answers(invocation)).cloned()
    }

    /// What was under way for this question when it was asked.
    pub fn receiver(&self, key: &Key) -> Option<watch::Receiver<()>> {
        self.prefetched.get(key).map(|prefetched| prefetched.under_way.clone())
    }

    /// Of an answer that was asked ahead in this run: why it was not known before, and what BitBake parsed.
    pub fn of_prefetched(&self, key: &Key) -> Option<(String, Option<Recipes>)> {
        let prefetched = self.prefetched.get(key).filter(|prefetched| prefetched.failure.is_none())?;
        Some((prefetched.why.clone(), prefetched.recipes))
    }

    /// The seconds that an answer saves, when BitBake took so many for it and it was `waited` for. What
    /// was waited for one answer counts against the next ones, because they were asked meanwhile.
    pub fn saved(&mut self, seconds: f64, waited: f64) -> f64 {
        let balance = seconds - waited - self.debt;
        self.debt = (-balance).max(0.0);
        balance.max(0.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "progress_tests.rs"]
mod tests;
