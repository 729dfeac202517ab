//! From what happened to the word and the exit status that the job ends with.
//!
//! The outcome is that of the worst stage. The exit status says what a person must know first:
//!
//! 1. *cancelled*: somebody wanted it to stop, and all that went wrong after that may come from it;
//! 2. *internal*: nothing else that the agent says can be relied upon;
//! 3. *out of time*: the job was cut short;
//! 4. *machine*: failures on a sick machine may be its fault, not the layer's;
//! 5. *usage*: the manifest asks for something that cannot be; it fails again until it is mended;
//! 6. *upstream*: the same job may pass later;
//! 7. *failed*: the layer, the build or a test.
//!
//! The guard: what did nothing, or contradicts itself, is never a pass.
//!
//! With `[report] fail_on = "new"`, a job whose failures are all in the result of its base passes. Errors, stops and what
//! did not run count all the same.
//!
//! The report stage has no part in the outcome. A job that passes and loses a report ends with the status of that
//! error, so that nobody waits for a report that is not there.

use agent_types::base_result::FailOn;
use agent_types::error::{Class, Error};
use agent_types::events::Level;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;

use super::comparison::Comparison;
use super::summary::{StageError, StageResult, Summary};

/// The worst first.
const ORDER: [ExitStatus; 8] = [
    ExitStatus::Cancelled,
    ExitStatus::Internal,
    ExitStatus::OutOfTime,
    ExitStatus::Machine,
    ExitStatus::Usage,
    ExitStatus::Upstream,
    ExitStatus::Failed,
    ExitStatus::Passed,
];

/// What the job ends with, as far as its events go: they need not hold its end yet.
pub fn outcome(summary: &Summary) -> (Outcome, ExitStatus) {
    let (lost, errors): (Vec<&StageError>, Vec<&StageError>) =
        summary.errors.iter().partition(|error| error.stage == Some(Stage::Report));
    let mut errors: Vec<Error> = errors.into_iter().map(|error| error.error.clone()).collect();
    errors.extend(contradictions(summary).into_iter().map(|error| error.error));

    let decided = summary
        .stages
        .iter()
        .filter(|stage| stage.stage != Stage::Report)
        .filter_map(|stage| Some((stage.stage, stage.outcome.as_ref()?)));
    let worst = Outcome::worst(decided.clone().map(|(_, outcome)| outcome));
    let stage = worst.and_then(|found| decided.clone().find(|(_, outcome)| outcome == &found));
    let outcome = match (stage, errors.first()) {
        (Some((stage, outcome)), _) if !outcome.is_success() => {
            outcome.map_reason(|why| format!("{stage}: {why}"))
        }
        (_, Some(error)) if error.class == Class::Cancelled => Outcome::Cancelled(error.message.clone()),
        (_, Some(error)) => Outcome::NotRun(error.message.clone()),
        (Some((_, outcome)), None) => outcome.clone(),
        // The guard calls it an error that nothing ran, so there is always one above.
        (None, None) => Outcome::NotRun("nothing ran".into()),
    };
    let all = errors.iter().map(|error| error.class.exit_status()).chain([ExitStatus::of(&outcome)]);
    let mut worst = worst_of(all);
    let mut outcome = outcome;
    if worst == Some(ExitStatus::Failed) && matches!(outcome, Outcome::Failed(_)) && is_as_before(summary) {
        (worst, outcome) = (Some(ExitStatus::Passed), Outcome::Passed);
    }
    let exit = match worst {
        Some(ExitStatus::Passed) => {
            worst_exit(lost.into_iter().map(|error| &error.error)).unwrap_or(ExitStatus::Passed)
        }
        exit => exit.unwrap_or(ExitStatus::Internal),
    };
    (outcome, exit)
}

/// Whether only new failures count, and the job has none.
fn is_as_before(summary: &Summary) -> bool {
    summary.fail_on == FailOn::New && Comparison::blames_change(summary).is_none()
}

/// The exit status of the worst of these errors.
pub fn worst_exit<'a>(errors: impl IntoIterator<Item = &'a Error>) -> Option<ExitStatus> {
    worst_of(errors.into_iter().map(|error| error.class.exit_status()))
}

/// The worst of these exit statuses.
pub fn worst_of(all: impl Iterator<Item = ExitStatus>) -> Option<ExitStatus> {
    all.min_by_key(|exit| ORDER.iter().position(|known| known == exit))
}

/// What cannot be true at once, or did nothing and calls it a pass.
pub fn contradictions(summary: &Summary) -> Vec<StageError> {
    let mut found: Vec<StageError> = Vec::new();
    for stage in summary.stages.iter().filter(|stage| stage.stage != Stage::Report) {
        if stage.outcome == Some(Outcome::Passed) {
            found.extend(false_pass(summary, stage.stage).map(|why| contradiction(Some(stage.stage), why)));
        }
    }
    let of_report = |stage: Option<Stage>| stage == Some(Stage::Report);
    let went_well = summary.errors.iter().all(|error| of_report(error.stage))
        && summary.stages.iter().all(|stage| {
            of_report(Some(stage.stage)) || stage.outcome.as_ref().is_none_or(Outcome::is_success)
        });
    if went_well && let Some(why) = unfinished_business(&summary.stages) {
        found.push(contradiction(None, why));
    }
    found
}

fn contradiction(stage: Option<Stage>, why: String) -> StageError {
    let error = Error::internal(why)
        .hint("this is no verdict on the layer; please report it with events.jsonl and the logs");
    StageError { stage, error }
}

/// Why the pass of a stage cannot be believed.
fn false_pass(summary: &Summary, stage: Stage) -> Option<String> {
    let bad = |outcome: &Outcome| !outcome.is_success();
    for unit in summary.units_of(stage) {
        let name = format!("{stage} / {}", unit.name);
        match &unit.outcome {
            None => return Some(format!("{stage} says passed, but {name} never finished")),
            Some(outcome) if bad(outcome) => {
                return Some(format!("{stage} says passed, but {name} says {}", outcome.word()));
            }
            Some(_) => {}
        }
        if let Some(case) = unit.cases.iter().find(|case| bad(&case.outcome)) {
            let word = case.outcome.word();
            return Some(format!("{name} says passed, but its {}.{} says {word}", case.class, case.name));
        }
        let finding = |finding: &&agent_types::events::Finding| {
            unit.is(&finding.unit) && finding.level == Level::Error && unit.outcome == Some(Outcome::Passed)
        };
        if let Some(finding) = summary.findings.iter().find(finding) {
            return Some(format!("{name} says passed, but it found {}", finding.rule));
        }
    }
    let passed = |unit: &&super::summary::UnitResult| unit.outcome == Some(Outcome::Passed);
    let proofs = summary.units_of(stage).filter(passed).count();
    match stage {
        Stage::Check if proofs == 0 => {
            Some("nothing was checked: the check stage says passed, but no check in it did".into())
        }
        Stage::Build | Stage::Test if proofs == 0 => {
            Some(format!("the {stage} stage says passed, but nothing in it did"))
        }
        Stage::Publish if !summary.artifacts.is_empty() && summary.published.is_none() => {
            Some("publish says passed, but the index was never written".into())
        }
        _ => None,
    }
}

/// What a job without failures left undone.
fn unfinished_business(stages: &[StageResult]) -> Option<String> {
    let waiting = |stage: &&StageResult| stage.outcome.is_none() && stage.stage != Stage::Report;
    if let Some(stage) = stages.iter().find(waiting) {
        return Some(format!("the job ended without an error, but {} never finished", stage.stage));
    }
    let ran = |stage: &StageResult| stage.outcome == Some(Outcome::Passed) && stage.stage != Stage::Report;
    (!stages.iter().any(ran)).then(|| "nothing was checked: no stage ran".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::*;
    use crate::report::sample::{
        self, at, case, check_layer, finished, passing_job, reduce, started, unit_finished,
    };
    use agent_types::error::Class;
    use agent_types::events::{Event, EventKind, Finding};

    #[test]
    fn a_job_that_did_its_work_passes() {
        let summary = reduce(&passing_job());
        assert_eq!(contradictions(&summary), []);
        assert_eq!(outcome(&summary), (Outcome::Passed, ExitStatus::Passed));
    }

    #[test]
    fn the_gravest_error_decides_the_exit_status() {
        let table: [(&[Class], ExitStatus); 7] = [
            (&[], ExitStatus::Failed),
            (&[Class::Upstream], ExitStatus::Upstream),
            (&[Class::Upstream, Class::Usage], ExitStatus::Usage),
            (&[Class::Usage, Class::Machine, Class::Upstream], ExitStatus::Machine),
            (&[Class::Machine, Class::OutOfTime], ExitStatus::OutOfTime),
            (&[Class::OutOfTime, Class::Internal], ExitStatus::Internal),
            (&[Class::Internal, Class::Cancelled, Class::Machine], ExitStatus::Cancelled),
        ];
        for (classes, wanted) in table {
            let mut events = passing_job();
            events.push(at(9, finished(Stage::Check, Outcome::Failed("broken".into()))));
            events.extend(classes.iter().map(|class| {
                at(10, EventKind::Error { stage: None, error: Error::new(*class, format!("{class:?}")) })
            }));
            let (said, exit) = outcome(&reduce(&events));
            assert_eq!(exit, wanted, "{classes:?}");
            assert_eq!(said, Outcome::Failed("check: broken".into()), "the layer is at fault all the same");
        }
    }

    #[test]
    fn an_error_alone_is_no_pass() {
        let mut events = passing_job();
        events.push(at(10, EventKind::Error { stage: None, error: Error::machine("the disk is full") }));
        let wanted = (Outcome::NotRun("the disk is full".into()), ExitStatus::Machine);
        assert_eq!(outcome(&reduce(&events)), wanted);
    }

    #[test]
    fn a_cancelled_stage_outweighs_a_failed_one() {
        let mut events = passing_job();
        events.push(at(9, finished(Stage::Check, Outcome::Failed("broken".into()))));
        events.push(at(10, finished(Stage::Publish, Outcome::Cancelled("SIGTERM".into()))));
        let wanted = (Outcome::Cancelled("publish: SIGTERM".into()), ExitStatus::Cancelled);
        assert_eq!(outcome(&reduce(&events)), wanted);
    }

    /// What must never be green, and the words that say why.
    #[test]
    fn the_guard_sees_through_false_passes() {
        let without = |unwanted: fn(&EventKind) -> bool| -> Vec<Event> {
            passing_job().into_iter().filter(|event| !unwanted(&event.what)).collect()
        };
        let with = |what: EventKind| -> Vec<Event> {
            let mut events = passing_job();
            events.push(at(6000, what));
            events
        };
        let bad = || Outcome::Failed("bad".into());
        let finding = Finding {
            unit: check_layer(),
            level: Level::Error,
            rule: "readme-missing".into(),
            message: "no README".into(),
            file: None,
            line: None,
            hint: None,
        };
        let artifact = agent_types::events::Artifact {
            path: "x".into(),
            key: None,
            bytes: 0,
            sha256: None,
            link: Some("y".into()),
        };
        let mut unpublished = without(|what| matches!(what, EventKind::Published { .. }));
        unpublished.push(at(6000, EventKind::Artifact(artifact)));
        let nothing = vec![at(0, sample::job_started(&Stage::ALL))];
        let table: [(Vec<Event>, &str); 10] = [
            (vec![], "nothing was checked: no stage ran"),
            (nothing, "nothing was checked: no stage ran"),
            (
                without(|what| match what {
                    EventKind::UnitStarted { unit } | EventKind::UnitFinished { unit, .. } => {
                        unit.stage == Stage::Check
                    }
                    EventKind::Case(_) => true,
                    _ => false,
                }),
                "nothing was checked: the check stage says passed",
            ),
            (with(unit_finished(&check_layer(), Outcome::Skipped("no".into()), None)), "nothing was checked"),
            (
                with(unit_finished(&check_layer(), bad(), None)),
                "check / yocto-check-layer meta-x says failed",
            ),
            (
                with(case(&check_layer(), "test_x", bad(), "")),
                "its common.CommonCheckLayer.test_x says failed",
            ),
            (with(EventKind::Finding(finding)), "says passed, but it found readme-missing"),
            (with(sample::unit_started(&sample::preflight())), "check / preflight meta-x never finished"),
            (with(started(Stage::Build)), ""),
            (unpublished, "the index was never written"),
        ];
        for (events, why) in table {
            let mut summary = reduce(&events);
            if why.is_empty() {
                // A stage that began and never ended, although the plan left it out.
                summary.stages.iter_mut().for_each(|stage| {
                    stage.outcome = stage.outcome.take().filter(|_| stage.stage != Stage::Build);
                });
            }
            let found = contradictions(&summary);
            assert_eq!(found.len(), 1, "{why}: {found:?}");
            assert!(found[0].error.message.contains(why), "{why}: {found:?}");
            let (said, exit) = outcome(&summary);
            assert_eq!(exit, ExitStatus::Internal, "{why}");
            assert!(matches!(said, Outcome::NotRun(_)), "{why}: {said:?}");
        }
    }

    #[test]
    fn stages_without_checks_may_pass_when_that_is_all_that_was_asked_for() {
        let only_checkout = [
            at(0, sample::job_started(&Stage::ALL[1..6])),
            at(0, started(Stage::Checkout)),
            at(1, finished(Stage::Checkout, Outcome::Passed)),
        ];
        assert_eq!(outcome(&reduce(&only_checkout)), (Outcome::Passed, ExitStatus::Passed));
    }
}
