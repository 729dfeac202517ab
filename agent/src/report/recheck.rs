//! An event file, or a result, held against itself: its verdict is computed again from what it tells, because
//! its last line is a claim like any other.

use std::collections::BTreeSet;
use std::time::SystemTime;

use agent_types::error::{Error, Result};
use agent_types::events::{Event, EventKind};
use agent_types::job_id::JobId;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;

use super::summary::{StageError, Summary};
use super::verdict;

/// Folds the events of a file and looks for contradictions on the way.
#[derive(Debug, Default)]
pub struct Recheck {
    summary: Summary,
    finished: BTreeSet<Stage>,
    found: Vec<StageError>,
}

impl Recheck {
    pub fn take(&mut self, event: &Event) {
        match &event.what {
            EventKind::StageFinished { stage, .. } if !self.finished.insert(*stage) => {
                self.contradiction(Some(*stage), format!("the stage {stage} has finished twice"));
            }
            EventKind::UnitFinished { unit, .. } => {
                let known = self.summary.units.iter().rev().find(|known| known.is(unit));
                if known.is_some_and(|known| known.outcome.is_some()) {
                    let what = format!("{} / {} has finished twice", unit.stage, unit.name);
                    self.contradiction(Some(unit.stage), what);
                }
            }
            EventKind::JobFinished { exit, outcome } => {
                if let Some(what) = wrong_end(&self.summary, *exit, outcome) {
                    self.contradiction(None, what);
                }
            }
            _ => {}
        }
        self.summary.apply(event);
    }

    /// The job and its last event, if it has not come to its own end.
    pub fn unfinished(&self) -> Option<(JobId, SystemTime)> {
        let last = self.summary.last_event.filter(|_| !self.summary.complete)?;
        Some((self.summary.job.id.clone(), last.time()))
    }

    /// What the events come to; a file that just stops is that of a killed agent.
    pub fn finish(mut self) -> Summary {
        self.summary.interrupted();
        if let Some(first) = self.found.first() {
            self.summary.exit = ExitStatus::Internal;
            self.summary.outcome = Outcome::NotRun(first.error.message.clone());
            self.summary.errors.append(&mut self.found);
        }
        self.summary
    }

    fn contradiction(&mut self, stage: Option<Stage>, what: String) {
        let error = Error::internal(format!("the events contradict themselves: {what}"))
            .hint("this is no verdict on the layer: the file was changed, or please report it with the logs");
        self.found.push(StageError { stage, error });
    }
}

/// Holds a result that was read from its file against itself.
///
/// # Errors
/// When its verdict is not what it tells of the stages.
pub fn recheck_result(summary: Summary) -> Result<Summary> {
    let wrong = match summary.complete {
        true => wrong_end(&summary, summary.exit, &summary.outcome),
        false if summary.exit == ExitStatus::Internal => None,
        false => Some(format!("it says {}, but the job has not ended", said(summary.exit, &summary.outcome))),
    };
    match wrong {
        None => Ok(summary),
        Some(what) => Err(Error::internal(format!("the result contradicts itself: {what}"))
            .hint("make the reports from the events: build-agent report …/events.jsonl")),
    }
}

/// Why the job cannot have ended like this.
fn wrong_end(summary: &Summary, exit: ExitStatus, outcome: &Outcome) -> Option<String> {
    let (computed, wanted) = verdict::outcome(summary);
    if exit == wanted && outcome.word() == computed.word() {
        return None;
    }
    Some(format!("it says {}, but the stages come to {}", said(exit, outcome), said(wanted, &computed)))
}

/// `failed, exit status 1 (check: test_x failed)`
fn said(exit: ExitStatus, outcome: &Outcome) -> String {
    let why = outcome.reason().and_then(|why| why.lines().next());
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{}, exit status {}{why}", outcome.word(), exit.code())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::report::sample::{
        at, check_layer, failing_job, finished, passing_job, reduce, unit_finished, unit_started,
    };

    fn recheck(events: &[Event]) -> Summary {
        let mut recheck = Recheck::default();
        events.iter().for_each(|event| recheck.take(event));
        recheck.finish()
    }

    fn passed() -> EventKind {
        EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed }
    }

    fn ended(mut events: Vec<Event>, end: EventKind) -> Vec<Event> {
        events.retain(|event| !matches!(event.what, EventKind::JobFinished { .. }));
        events.push(at(200_000, end));
        events
    }

    #[test]
    fn what_agrees_with_itself_stays_as_it_is() {
        let broken = Outcome::Failed("check: broken".into());
        for events in [
            failing_job(),
            ended(passing_job(), passed()),
            // Files of killed agents.
            passing_job(),
            failing_job()[..9].to_vec(),
        ] {
            let mut wanted = reduce(&events);
            wanted.interrupted();
            assert_eq!(recheck(&events), wanted);
            assert_eq!(recheck_result(wanted.clone()).unwrap(), wanted);
        }
        // A unit may be run twice.
        let mut twice = passing_job();
        twice.insert(9, at(2500, unit_started(&check_layer())));
        assert_eq!(recheck(&ended(twice, passed())).exit, ExitStatus::Passed);
        // Failed before it was its turn.
        let mut early = passing_job();
        early.retain(|event| {
            !matches!(event.what, EventKind::StageFinished { stage: Stage::Check, .. } | EventKind::Case(_))
        });
        early.insert(1, at(0, finished(Stage::Check, Outcome::Failed("broken".into()))));
        let early = ended(early, EventKind::JobFinished { exit: ExitStatus::Failed, outcome: broken });
        assert_eq!(recheck(&early).exit, ExitStatus::Failed);
    }

    #[test]
    fn a_last_line_that_the_stages_do_not_say_is_a_contradiction() {
        let failed = |exit| EventKind::JobFinished { exit, outcome: Outcome::Failed("x".into()) };
        let table = [
            (ended(failing_job(), passed()), "it says passed, exit status 0, but the stages come to failed"),
            (
                ended(failing_job(), failed(ExitStatus::Failed)),
                "exit status 1 (x), but the stages come to failed, exit status 4",
            ),
            (
                ended(passing_job(), failed(ExitStatus::Failed)),
                "but the stages come to passed, exit status 0",
            ),
            (ended(passing_job(), failed(ExitStatus::Passed)), "it says failed, exit status 0 (x)"),
            // Stages that never finished.
            (ended(passing_job()[..8].to_vec(), passed()), "the stages come to not-run, exit status 70"),
        ];
        for (events, wanted) in table {
            let summary = recheck(&events);
            assert_eq!(summary.exit, ExitStatus::Internal, "{wanted}");
            assert!(
                matches!(&summary.outcome, Outcome::NotRun(why) if why.contains(wanted)),
                "{wanted}: {:?}",
                summary.outcome
            );
            assert!(summary.errors.iter().any(|error| error.error.message.contains(wanted)));
            // The same in a result.
            let error = recheck_result(reduce(&events)).unwrap_err();
            assert_eq!(error.class, agent_types::error::Class::Internal);
            assert!(error.message.starts_with("the result contradicts itself: it says"), "{error}");
        }
    }

    /// Lines that were put in before the end.
    #[test]
    fn nothing_finishes_twice() {
        for (what, wanted) in [
            (finished(Stage::Check, Outcome::Passed), "the stage check has finished twice"),
            (
                unit_finished(&check_layer(), Outcome::Passed, None),
                "check / yocto-check-layer meta-x has finished twice",
            ),
        ] {
            let mut events = ended(passing_job(), passed());
            events.insert(events.len() - 1, at(100_000, what));
            let summary = recheck(&events);
            assert_eq!(summary.exit, ExitStatus::Internal);
            assert!(summary.outcome.reason().unwrap().contains(wanted), "{:?}", summary.outcome);
        }
    }

    #[test]
    fn a_result_without_an_end_is_none_that_passed() {
        let mut summary = reduce(&passing_job());
        summary.exit = ExitStatus::Passed;
        summary.outcome = Outcome::Passed;
        let error = recheck_result(summary).unwrap_err();
        assert!(error.message.contains("the job has not ended"), "{error}");
    }
}
