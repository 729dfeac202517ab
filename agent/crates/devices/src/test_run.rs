//! One test of a request on a device, and how it ended.

use std::path::PathBuf;

use agent_process::{CommandOutcome, ExitReason, Interrupted};
use agent_types::events::{Case, Emitter, EventKind, Finding, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::testimage::verdict::JudgedTest;

use crate::board::SshAddress;
use crate::provider::Attempt;

/// Bytes of a test's output that a report shows, from its end.
const MESSAGE: usize = 16 * 1024;

/// A test that runs on a device.
#[derive(Clone, Copy)]
pub struct TestRun<'a> {
    pub attempt: Attempt<'a>,
    pub address: &'a SshAddress,
    pub unit: &'a Unit,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TestEnd {
    pub outcome: Outcome,
    pub tests: Vec<JudgedTest>,
    pub findings: Vec<Finding>,
    /// Relative to the output directory.
    pub log: Option<PathBuf>,
    pub excerpt: Vec<String>,
}

impl TestEnd {
    /// An end without cases.
    pub fn of(outcome: Outcome) -> TestEnd {
        TestEnd { outcome, tests: Vec::new(), findings: Vec::new(), log: None, excerpt: Vec::new() }
    }

    pub fn failed(why: impl Into<String>) -> TestEnd {
        TestEnd::of(Outcome::Failed(why.into()))
    }

    /// Emits findings, cases and the end of the unit.
    pub async fn report(self, unit: &Unit, events: &Emitter) -> Outcome {
        for finding in self.findings {
            events.emit(EventKind::Finding(finding)).await;
        }
        for test in self.tests {
            let JudgedTest { class, name, outcome, message, seconds } = test;
            let message = end_of(&message).to_owned();
            let case = Case { unit: unit.clone(), class, name, outcome, message, seconds };
            events.emit(EventKind::Case(case)).await;
        }
        let (outcome, log, excerpt) = (self.outcome.clone(), self.log, self.excerpt);
        events.emit(EventKind::UnitFinished { unit: unit.clone(), outcome, log, excerpt }).await;
        self.outcome
    }
}

/// The end of a text, in whole characters.
pub fn end_of(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(MESSAGE))..]
}

/// Why tests of this attempt must stop.
pub fn stop_reason(attempt: &Attempt<'_>) -> Option<Outcome> {
    if let Err(lost) = attempt.fence.check() {
        return Some(Outcome::Cancelled(lost.message));
    }
    attempt.runner.interrupt.state().map(|why| match why {
        Interrupted::Cancelled => {
            Outcome::Cancelled("the request was cancelled, or the lab was stopped".into())
        }
        Interrupted::OutOfTime => {
            let limit = humantime::format_duration(attempt.request.run_limit());
            Outcome::TimedOut(format!("the request's limit for its run, {limit}, is over"))
        }
    })
}

/// The outcome of a program that did not end with exit status 0.
pub fn ended_badly(attempt: &Attempt<'_>, program: &str, finished: &CommandOutcome) -> Outcome {
    if let Some(stopped) = stop_reason(attempt) {
        return stopped;
    }
    match finished.end {
        ExitReason::Exited(status) => Outcome::Failed(format!("{program} ended with exit status {status}")),
        ExitReason::Signalled(signal) => Outcome::Failed(format!("{program} was ended by signal {signal}")),
        ExitReason::Cancelled => Outcome::Cancelled(format!("{program} was stopped")),
        ExitReason::TimedOut => Outcome::TimedOut(format!("{program} did not end within its limit")),
        ExitReason::Stalled(silent) => {
            Outcome::TimedOut(format!("{program} was silent for {}", humantime::format_duration(silent)))
        }
    }
}
