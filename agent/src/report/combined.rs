//! One summary for several jobs: what is posted to GitHub for a whole matrix. Each job is a check in it.

use agent_types::error::{Class, Error};
use agent_types::events::{JobIdentity, Level};
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;
use agent_types::words::count;

use super::combined_findings::combined_findings;
use super::console::failures;
use super::merged::label;
use super::summary::{At, Notice, StageError, StageResult, Summary, UnitResult};
use super::totals::suites;
use super::verdict;

/// Maximum lines of the failures of a job.
const LINES: usize = 10;

/// The jobs as one. Its verdict is that of the worst job.
pub fn combined(jobs: &[Summary]) -> Summary {
    let mut all = Summary { complete: true, job: identity(jobs), ..Summary::default() };
    all.agent = jobs.first().map(|job| job.agent.clone()).unwrap_or_default();
    all.started = jobs.iter().filter_map(|job| job.started).min_by_key(|at| at.time());
    all.last_event = jobs.iter().filter_map(|job| job.last_event).max_by_key(|at| at.time());
    all.seconds = all.started.zip(all.last_event).map_or(0.0, |(from, to)| from.seconds_until(to));
    all.units = jobs.iter().map(unit).collect();
    let outcomes = all.units.iter().filter_map(|unit| unit.outcome.as_ref());
    let worst = Outcome::worst(outcomes).cloned();
    let worst = worst.unwrap_or(Outcome::NotRun("there is no job".into()));
    let stage = |stage, outcome| StageResult { stage, outcome: Some(outcome), started: None, seconds: None };
    // A stage that is flaky is no proof that anything ran.
    let ran = worst.is_success().then(|| stage(Stage::Checkout, Outcome::Passed));
    all.stages = ran.into_iter().chain([stage(Stage::Check, worst)]).collect();
    all.errors = jobs.iter().filter_map(error).collect();
    all.unchecked_jobs = jobs.iter().filter(|job| !job.has_checked()).count() as u64;
    let findings = combined_findings(jobs);
    all.findings = findings.list;
    if findings.omitted > 0 {
        let message = format!(
            "{} of the jobs are only in their own reports",
            count(findings.omitted as u64, "finding")
        );
        all.notices.push(Notice { level: Level::Warning, message, hint: None });
    }
    (all.outcome, all.exit) = verdict::outcome(&all);
    all
}

/// Adds the errors of reports that could not be made. Jobs that passed end with the worst of them.
pub fn add_lost_reports(all: &mut Summary, errors: impl IntoIterator<Item = Error>) {
    all.errors.extend(errors.into_iter().map(|error| StageError { stage: Some(Stage::Report), error }));
    (all.outcome, all.exit) = verdict::outcome(all);
}

/// The result of a job that could not begin, or that has no result: the error alone.
pub fn without_run(job: JobIdentity, error: Error) -> Summary {
    let errors = vec![StageError { stage: None, error }];
    let mut summary = Summary { complete: true, job, errors, ..Summary::default() };
    (summary.outcome, summary.exit) = verdict::outcome(&summary);
    summary
}

/// What the jobs have in common.
fn identity(jobs: &[Summary]) -> JobIdentity {
    let Some(first) = jobs.first().map(|job| &job.job) else { return JobIdentity::default() };
    let mut releases: Vec<&str> = Vec::new();
    for job in jobs {
        if !releases.contains(&job.job.release.as_str()) {
            releases.push(&job.job.release);
        }
    }
    JobIdentity {
        id: first.id.clone(),
        name: first.name.clone(),
        release: releases.join(", "),
        commit: first.commit.clone(),
        dirty: jobs.iter().any(|job| job.job.dirty),
        layer: first.layer.clone(),
        manifest: first.manifest.clone(),
        ..JobIdentity::default()
    }
}

fn unit(job: &Summary) -> UnitResult {
    let failed = failures(job, &suites(job));
    let mut excerpt: Vec<String> = failed.iter().map(|failure| failure.name.clone()).collect();
    excerpt.truncate(LINES);
    // What a job does not say about itself is not passed.
    let outcome = match (&job.outcome, job.exit) {
        (outcome, ExitStatus::Passed) => outcome.clone(),
        (outcome, _) if !outcome.is_success() => outcome.clone(),
        (_, exit) => Outcome::NotRun(exit.meaning().to_owned()),
    };
    UnitResult {
        stage: Stage::Check,
        name: label(&job.job),
        outcome: Some(outcome),
        started: job.started.unwrap_or_else(At::now),
        seconds: Some(job.seconds),
        log: None,
        excerpt,
        cases: Vec::new(),
        tasks: 0,
        sstate: None,
        cache_queries: Vec::new(),
    }
}

/// The error of a job that did not end with a verdict on the layer.
fn error(job: &Summary) -> Option<StageError> {
    let class = Class::of(job.exit)?;
    let why = job.errors.first().map(|error| error.error.message.clone());
    let why = why.or_else(|| job.outcome.reason().map(str::to_owned)).unwrap_or_default();
    let error = Error::new(class, format!("{}: {why}", label(&job.job)));
    Some(StageError { stage: None, error })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::merged;
    use crate::report::recheck::recheck_result;
    use crate::report::result;
    use crate::report::sample::{failing_job, passing_job, reduce};

    fn job(machine: &str, exit: ExitStatus, outcome: Outcome) -> Summary {
        let mut summary =
            if exit == ExitStatus::Passed { reduce(&passing_job()) } else { reduce(&failing_job()) };
        (summary.complete, summary.exit, summary.outcome) = (true, exit, outcome);
        summary.errors.clear();
        summary.job.machines = vec![machine.into()];
        summary
    }

    #[test]
    fn it_ends_as_the_worst_job_and_agrees_with_itself() {
        let passed = job("a", ExitStatus::Passed, Outcome::Passed);
        for exit in ExitStatus::ALL {
            for outcome in [Outcome::Failed("x".into()), Outcome::NotRun("y".into()), Outcome::Passed] {
                if exit == ExitStatus::Passed && outcome != Outcome::Passed {
                    continue;
                }
                let jobs = [passed.clone(), job("b", exit, outcome.clone())];
                let all = combined(&jobs);
                let text = result::render(&all).unwrap();
                let read = recheck_result(result::parse(text.as_bytes(), "x").unwrap()).unwrap();
                assert_eq!(
                    all.exit == ExitStatus::Passed,
                    exit == ExitStatus::Passed,
                    "{exit:?} {outcome:?}"
                );
                if outcome != Outcome::Passed && exit != ExitStatus::Failed {
                    assert_eq!(all.exit, merged::exit(&jobs), "{exit:?} {outcome:?}");
                }
                assert_eq!(read.units.len(), 2);
            }
        }
        let flaky = [passed.clone(), job("b", ExitStatus::Passed, Outcome::Flaky("test: x".into()))];
        assert_eq!((combined(&flaky).exit, combined(&flaky).outcome.word()), (ExitStatus::Passed, "flaky"));
        assert_ne!(combined(&[]).exit, ExitStatus::Passed);
    }

    #[test]
    fn a_lost_report_is_not_green() {
        let passed = job("a", ExitStatus::Passed, Outcome::Passed);
        let failed = job("b", ExitStatus::Failed, Outcome::Failed("x".into()));
        for (jobs, wanted) in
            [(vec![passed.clone()], ExitStatus::Machine), (vec![passed, failed], ExitStatus::Failed)]
        {
            let mut all = combined(&jobs);
            add_lost_reports(&mut all, [Error::machine("the disk is full")]);
            assert_eq!(recheck_result(all).unwrap().exit, wanted);
        }
    }

    /// A job that passes although it found errors is one whose findings are not new.
    #[test]
    fn findings_of_a_job_that_passed_do_not_contradict_it() {
        let mut passed = job("a", ExitStatus::Passed, Outcome::Passed);
        passed.findings = reduce(&failing_job()).findings;
        let all = combined(&[passed.clone(), job("b", ExitStatus::Passed, Outcome::Passed)]);
        assert!(all.exit == ExitStatus::Passed && !all.findings.is_empty());
        assert_eq!(all.unchecked_jobs, 0);
        let lost = without_run(JobIdentity::default(), Error::machine("lost"));
        assert_eq!(combined(&[passed.clone(), lost]).unchecked_jobs, 1);
        // A check that was stopped has not found everything.
        for (outcome, unchecked) in [
            (Outcome::Passed, 0),
            (Outcome::Failed("x".into()), 0),
            (Outcome::Cancelled("SIGTERM".into()), 1),
            (Outcome::NotRun("x".into()), 1),
            (Outcome::Skipped("--only build".into()), 1),
        ] {
            let mut job = passed.clone();
            let check = job.stages.iter_mut().find(|stage| stage.stage == Stage::Check).unwrap();
            check.outcome = Some(outcome.clone());
            assert_eq!(combined(&[job]).unchecked_jobs, unchecked, "{outcome:?}");
        }
    }

    #[test]
    fn a_job_without_a_run_is_red() {
        for class in [Class::Usage, Class::Machine, Class::Upstream, Class::Internal] {
            let summary = without_run(JobIdentity::default(), Error::new(class, "x"));
            assert!(summary.exit != ExitStatus::Passed && recheck_result(summary).is_ok());
        }
    }
}
