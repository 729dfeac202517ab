//! What is known at a moment of the questions of one run: which was the first, which were asked ahead, and what
//! was waited for them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::watch;

use agent_process::Interrupt;
use agent_types::events::Recipes;
use agent_yocto::check_layer::Kind;

use super::key::{Inputs, Key};
use super::{Asked, Question, Refusal};

/// What is foreseen once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Foresight {
    Layer,
    Machines,
    /// What is asked of the layer, beside the first question.
    Beside,
}

impl Foresight {
    pub const ALL: [Foresight; 3] = [Foresight::Layer, Foresight::Machines, Foresight::Beside];
}

/// What is known of it at a moment.
#[derive(Debug, Default)]
pub struct Progress {
    /// The first question for signatures.
    pub first: Option<Asked>,
    pub begun: HashSet<Foresight>,
    /// What runs beside the first question.
    pub beside: Option<Beside>,
    pub asked: HashMap<Key, Foreseen>,
    /// Seconds that were waited, not yet made good by answers.
    pub debt: f64,
}

#[derive(Debug)]
pub struct Foreseen {
    pub name: String,
    pub inputs: Inputs,
    /// Closed when it is over.
    pub under_way: watch::Receiver<()>,
    /// Why there was no stored answer.
    pub why: String,
    /// What BitBake parsed for it.
    pub recipes: Option<Recipes>,
    /// Why there is no answer.
    pub in_vain: Option<Refusal>,
}

#[derive(Debug)]
pub struct Beside {
    /// The first question.
    pub first: Key,
    pub stop: Interrupt,
}

impl Progress {
    /// `lost` seconds have to be made good before anything is saved.
    pub fn after(lost: Duration) -> Progress {
        Progress { debt: lost.as_secs_f64(), ..Progress::default() }
    }

    /// Takes note of a question that was asked; its kind.
    pub fn note(&mut self, asked: &Asked, question: &Question) -> Kind {
        let first = match &self.first {
            None if question.leaves_signatures => {
                self.first = Some(asked.clone());
                return Kind::Base;
            }
            first => first.as_ref(),
        };
        // The layer has been added, and the same words are another question.
        self.begun.insert(Foresight::Beside);
        let differs = |name| first.is_some_and(|first| asked.variable(name) != first.variable(name));
        match (question.leaves_signatures, differs("INHERIT"), differs("MACHINE")) {
            (false, ..) => Kind::Parses,
            (true, true, _) => Kind::Class,
            (true, false, true) => Kind::Machine,
            (true, false, false) => Kind::World,
        }
    }

    /// BitBake itself took so many seconds for a question of the check. What ran beside it slowed it down;
    /// when it is not `kept`, nothing that ran beside it will be.
    pub fn has_run(&mut self, key: &Key, seconds: f64, kept: bool) {
        let Some(beside) = self.beside.as_ref().filter(|beside| beside.first == *key) else { return };
        self.debt += seconds;
        if !kept {
            beside.stop.signal();
        }
    }

    /// What was under way for this question when it was asked.
    pub fn receiver(&self, key: &Key) -> Option<watch::Receiver<()>> {
        self.asked.get(key).map(|foreseen| foreseen.under_way.clone())
    }

    /// Of an answer that was asked ahead in this run: why it was not known before, and what BitBake parsed.
    pub fn of_ahead(&self, key: &Key) -> Option<(String, Option<Recipes>)> {
        let foreseen = self.asked.get(key).filter(|foreseen| foreseen.in_vain.is_none())?;
        Some((foreseen.why.clone(), foreseen.recipes))
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
