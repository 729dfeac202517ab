//! The result of a cell, from its files and from the end of its process.

use std::path::Path;

use agent_process::{CommandOutcome, ExitReason};
use agent_types::error::{Class, Error, Result};
use agent_types::events::JobIdentity;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::sanitize::sanitize_line;

use crate::report::{self, Summary};

/// The result of a cell. A cell whose result is missing, incomplete or contradicted by its end is an error, never passed.
/// `job`: its identity; `out`: the directory of its reports; `end`: `None` if it was not started.
pub fn of_cell(job: &JobIdentity, out: &Path, end: Option<&Result<CommandOutcome>>) -> Summary {
    checked_result(job, out, end).unwrap_or_else(|error| without_result(job, error))
}

/// The result of a cell that has none: an error, or cancelled.
fn without_result(job: &JobIdentity, error: Error) -> Summary {
    let why = sanitize_line(&error.message).into_owned();
    let outcome = match error.class {
        Class::Cancelled => Outcome::Cancelled(why),
        _ => Outcome::NotRun(why),
    };
    Summary { outcome, ..report::without_run(job.clone(), error) }
}

/// The result of a cell, if the end of its process agrees with it; else why it has none.
fn checked_result(job: &JobIdentity, out: &Path, end: Option<&Result<CommandOutcome>>) -> Result<Summary> {
    let cancelled = |why: &str| Error::new(Class::Cancelled, why);
    let outcome = match end {
        None => return Err(cancelled("it was not started")),
        Some(Err(error)) => return Err(error.clone()),
        Some(Ok(outcome)) => outcome,
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
            ExitStatus::Passed => Err(Error::internal(message)),
            _ => Ok(summary),
        };
    }
    Ok(summary)
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

    use super::*;
    use crate::report::sample::{passed, passing_job, reduce};

    fn ended(end: ExitReason) -> Option<Result<CommandOutcome>> {
        let tail = vec!["error: m.toml:1:1: is wrong".to_owned(), "  hint: x".to_owned()];
        Some(Ok(CommandOutcome { end, log: "/log".into(), bytes: 0, elapsed: Duration::ZERO, tail }))
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
