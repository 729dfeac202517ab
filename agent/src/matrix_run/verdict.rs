//! The result of a cell, from its files and from the end of its process.

use std::path::Path;

use agent_process::{CommandOutcome, ExitReason};
use agent_types::error::{Class, Error, Result};
use agent_types::events::JobIdentity;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::sanitize::sanitize_line;

use crate::report::{self, Summary, merged};

/// The result of a cell. A cell whose result is missing, incomplete or contradicted by its end is an error, never passed.
/// `job`: what it is about; `out`: the directory of its reports; `end`: `None` if it was not started.
pub fn of_cell(job: &JobIdentity, out: &Path, end: Option<&Result<CommandOutcome>>) -> Summary {
    believable(job, out, end).unwrap_or_else(|(error, outcome)| merged::without_result(job, error, outcome))
}

/// Why a cell has no result.
type Lost = (Error, Outcome);

fn believable(job: &JobIdentity, out: &Path, end: Option<&Result<CommandOutcome>>) -> Result<Summary, Lost> {
    let outcome = match end {
        None => return Err(cancelled("it was not started")),
        Some(Err(error)) => return Err(not_run(error.clone())),
        Some(Ok(outcome)) => outcome,
    };
    let read = report::read_result(&out.join("result.json")).and_then(report::recheck_result);
    let summary = match read {
        Ok(summary) if summary.complete => summary,
        Ok(_) | Err(_) if outcome.end == ExitReason::Cancelled => return Err(cancelled("it was cancelled")),
        // The manifest or the machine did not let the job begin.
        Ok(summary) if summary.job.id.is_empty() && began_not(outcome) => {
            return Err(not_run(refused(outcome)));
        }
        Err(_) if began_not(outcome) => return Err(not_run(refused(outcome))),
        Ok(_) => return Err(not_run(without_report(outcome, out))),
        Err(error) => return Err(not_run(error)),
    };
    if summary.job.cell != job.cell || summary.job.name != job.name || summary.job.release != job.release {
        return Err(not_run(Error::internal("its result is that of another job")));
    }
    let code = match outcome.end {
        ExitReason::Exited(code) => Some(code),
        _ => None,
    };
    if code != Some(i32::from(summary.exit.code())) {
        let message = format!(
            "its result says exit status {}, and its process ended with {}",
            summary.exit.code(),
            outcome.end
        );
        // A stopped cell may have written its reports before.
        return match summary.exit {
            ExitStatus::Passed => Err(not_run(Error::internal(message))),
            _ => Ok(summary),
        };
    }
    Ok(summary)
}

fn cancelled(why: &str) -> Lost {
    (Error::new(Class::Cancelled, why), Outcome::Cancelled(why.to_owned()))
}

fn not_run(error: Error) -> Lost {
    let why = sanitize_line(&error.message).into_owned();
    (error, Outcome::NotRun(why))
}

fn without_report(outcome: &CommandOutcome, out: &Path) -> Error {
    let message = format!("its process ended with {} before the job did", outcome.end);
    Error::machine(message).hint(format!("build-agent report {}", out.join("events.jsonl").display()))
}

fn began_not(outcome: &CommandOutcome) -> bool {
    matches!(outcome.end, ExitReason::Exited(code) if code != 0)
}

/// The error that the cell printed, with its class.
fn refused(outcome: &CommandOutcome) -> Error {
    let code = match outcome.end {
        ExitReason::Exited(code) => code,
        _ => i32::from(ExitStatus::Internal.code()),
    };
    let status = ExitStatus::ALL.into_iter().find(|status| i32::from(status.code()) == code);
    let class = match status {
        Some(ExitStatus::Usage) => Class::Usage,
        Some(ExitStatus::Upstream) => Class::Upstream,
        Some(ExitStatus::OutOfTime) => Class::OutOfTime,
        Some(ExitStatus::Machine) => Class::Machine,
        Some(ExitStatus::Cancelled) => Class::Cancelled,
        _ => Class::Internal,
    };
    let line = outcome.tail.iter().rev().find(|line| line.contains("error: ")).or(outcome.tail.last());
    let said = line.map_or(String::new(), |line| format!(": {}", sanitize_line(line.trim())));
    Error::new(class, format!("its job did not begin (exit status {code}){said}"))
        .hint(format!("the whole output is in {}", outcome.log.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::sample::{at, passing_job, reduce};
    use agent_types::events::EventKind;

    fn ended(end: ExitReason) -> Option<Result<CommandOutcome>> {
        let tail = vec!["error: m.toml:1:1: is wrong".to_owned(), "  hint: x".to_owned()];
        Some(Ok(CommandOutcome { end, log: "/log".into(), bytes: 0, elapsed: Duration::ZERO, tail }))
    }

    #[test]
    fn only_a_complete_result_that_its_process_confirms_passes() {
        let place = tempfile::tempdir().unwrap();
        let mut events = passing_job();
        events.push(at(9000, EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed }));
        let mut good = reduce(&events);
        good.job.cell = Some("c".into());
        let other = JobIdentity { cell: Some("d".into()), ..good.job.clone() };
        let incomplete = reduce(&passing_job());
        let exited = |code: i32| ended(ExitReason::Exited(code));
        for (written, job, end, wanted) in [
            (Some(&good), &good.job, exited(0), ExitStatus::Passed),
            (Some(&good), &good.job, exited(1), ExitStatus::Internal),
            (Some(&good), &good.job, ended(ExitReason::Signalled(9)), ExitStatus::Internal),
            (Some(&good), &other, exited(0), ExitStatus::Internal),
            (Some(&incomplete), &good.job, exited(0), ExitStatus::Machine),
            (Some(&incomplete), &good.job, ended(ExitReason::Signalled(9)), ExitStatus::Machine),
            (Some(&incomplete), &good.job, ended(ExitReason::Cancelled), ExitStatus::Cancelled),
            (None, &good.job, exited(2), ExitStatus::Usage),
            (None, &good.job, exited(3), ExitStatus::Machine),
            (None, &good.job, None, ExitStatus::Cancelled),
            (None, &good.job, Some(Err(Error::machine("no fork"))), ExitStatus::Machine),
        ] {
            match written {
                Some(summary) => report::write_result(summary, place.path()).unwrap(),
                None => drop(fs_err::remove_file(place.path().join("result.json"))),
            }
            let found = of_cell(job, place.path(), end.as_ref());
            assert_eq!(found.exit, wanted, "{end:?}: {found:?}");
            assert!(found.complete && found.job.cell == job.cell, "{found:?}");
        }
    }

    #[test]
    fn a_missing_result_is_never_green() {
        let place = tempfile::tempdir().unwrap();
        let found = of_cell(&JobIdentity::default(), place.path(), ended(ExitReason::Exited(0)).as_ref());
        assert_ne!(found.exit, ExitStatus::Passed);
    }
}
