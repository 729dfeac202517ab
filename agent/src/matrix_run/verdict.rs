//! The result of a cell, from its files and from the end of its process.

use std::path::Path;

use agent_process::{CommandOutcome, ExitReason, Interrupted};
use agent_types::error::{Class, Error, Result};
use agent_types::events::JobIdentity;
use agent_types::outcome::ExitStatus;
use agent_types::sanitize::sanitize_line;

use super::child::CellEnd;
use crate::report::{self, Summary};

/// The result of a cell. A cell whose result is missing, incomplete or contradicted by its end is an error, never passed.
/// `job`: its identity; `out`: the directory of its reports.
pub fn of_cell(job: &JobIdentity, out: &Path, end: &CellEnd) -> Summary {
    checked_result(job, out, end).unwrap_or_else(|error| {
        let message = sanitize_line(&error.message).into_owned();
        report::without_run(job.clone(), Error { message, ..error })
    })
}

/// The result of a cell, if the end of its process agrees with it; else why it has none.
fn checked_result(job: &JobIdentity, out: &Path, end: &CellEnd) -> Result<Summary> {
    let cancelled = |why: &str| Error::new(Class::Cancelled, why);
    let outcome = match end {
        CellEnd::NotStarted(Interrupted::Cancelled) => return Err(cancelled("it was not started")),
        CellEnd::NotStarted(Interrupted::OutOfTime) => return Err(out_of_time()),
        CellEnd::Ended(Err(error)) => return Err(error.clone()),
        CellEnd::Ended(Ok(outcome)) => outcome,
    };
    let read = report::read_result(&out.join("result.json")).and_then(report::recheck_result);
    let summary = match read {
        Ok(summary) if summary.complete => summary,
        Ok(_) | Err(_) if outcome.end == ExitReason::Cancelled => return Err(cancelled("it was cancelled")),
        // The job did not start, because of its manifest or its machine.
        Ok(summary) if summary.job.id.is_empty() && exited_with_error(outcome) => {
            return Err(printed_error(outcome));
        }
        Err(_) if exited_with_error(outcome) => return Err(printed_error(outcome)),
        Ok(_) => return Err(without_report(outcome, out)),
        Err(error) => return Err(error),
    };
    if summary.job.cell != job.cell || summary.job.name != job.name || summary.job.release != job.release {
        return Err(Error::internal("its result is that of another job"));
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
            // The stop came in its last moment.
            ExitStatus::Passed if outcome.end == ExitReason::Cancelled => Err(cancelled("it was cancelled")),
            ExitStatus::Passed => Err(Error::internal(message)),
            _ => Ok(summary),
        };
    }
    Ok(summary)
}

fn out_of_time() -> Error {
    Error::new(Class::OutOfTime, "it was not started: [matrix] limit is over")
        .hint("raise [matrix] limit, or run the cell alone: build-agent run --cell ID")
}

fn without_report(outcome: &CommandOutcome, out: &Path) -> Error {
    let message = format!("its process ended with {} before the job did", outcome.end);
    Error::machine(message).hint(format!("build-agent report {}", out.join("events.jsonl").display()))
}

fn exited_with_error(outcome: &CommandOutcome) -> bool {
    matches!(outcome.end, ExitReason::Exited(code) if code != 0)
}

/// The error that the cell printed, with the class of its exit status.
fn printed_error(outcome: &CommandOutcome) -> Error {
    let code = match outcome.end {
        ExitReason::Exited(code) => code,
        _ => i32::from(ExitStatus::Internal.code()),
    };
    let class = ExitStatus::from_code(code).and_then(Class::of).unwrap_or(Class::Internal);
    let line = outcome.tail.iter().rev().find(|line| line.contains("error: ")).or(outcome.tail.last());
    let reason = line.map_or(String::new(), |line| format!(": {}", sanitize_line(line.trim())));
    Error::new(class, format!("its job did not start (exit status {code}){reason}"))
        .hint(format!("the whole output is in {}", outcome.log.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use agent_types::outcome::Outcome;

    use super::*;
    use crate::report::sample::{passed, passing_job, reduce};

    fn ended(end: ExitReason) -> CellEnd {
        let tail = vec!["error: m.toml:1:1: is wrong".to_owned(), "  hint: x".to_owned()];
        CellEnd::Ended(Ok(CommandOutcome {
            end,
            log: "/log".into(),
            bytes: 0,
            elapsed: Duration::ZERO,
            tail,
        }))
    }

    #[test]
    fn only_a_complete_result_that_its_process_confirms_passes() {
        let place = tempfile::tempdir().unwrap();
        let mut good = passed();
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
            (Some(&good), &good.job, ended(ExitReason::Cancelled), ExitStatus::Cancelled),
            (None, &good.job, CellEnd::NotStarted(Interrupted::Cancelled), ExitStatus::Cancelled),
            (None, &good.job, CellEnd::NotStarted(Interrupted::OutOfTime), ExitStatus::OutOfTime),
            (None, &good.job, CellEnd::Ended(Err(Error::machine("no fork"))), ExitStatus::Machine),
        ] {
            match written {
                Some(summary) => report::write_result(summary, place.path()).unwrap(),
                None => drop(fs_err::remove_file(place.path().join("result.json"))),
            }
            let found = of_cell(job, place.path(), &end);
            assert_eq!(found.exit, wanted, "{end:?}: {found:?}");
            assert!(found.complete && found.job.cell == job.cell, "{found:?}");
            let is_cancelled = matches!(found.outcome, Outcome::Cancelled(_));
            assert_eq!(is_cancelled, wanted == ExitStatus::Cancelled, "{found:?}");
            report::recheck_result(found).unwrap();
        }
    }

    #[test]
    fn a_missing_result_is_never_green() {
        let place = tempfile::tempdir().unwrap();
        let found = of_cell(&JobIdentity::default(), place.path(), &ended(ExitReason::Exited(0)));
        assert_ne!(found.exit, ExitStatus::Passed);
    }
}
