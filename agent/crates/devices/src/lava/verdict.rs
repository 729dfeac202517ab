//! The verdict on a job of LAVA: a pure function of its state and its results.
//!
//! `Complete` says that LAVA ran the job to its end, and nothing about the tests.

use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;
use agent_yocto::testimage::verdict::JudgedTest;

use super::client::Job;
use crate::junit::{Case, Group, SuiteReport};
use crate::provider::AttemptEnd;
use crate::request::DeviceTest;

/// Words of LAVA for errors that are not the image's: of the lab, of LAVA itself, of the device's configuration.
const LAB_FAULTS: [&str; 3] = ["Infrastructure", "Bug", "Configuration"];

/// The suite of LAVA itself: download, flash, boot.
const OWN_SUITE: &str = "lava";

/// What a job was about, for one unit of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// `None`: LAVA's own steps (the boot), and what was not asked for.
    pub test: Option<DeviceTest>,
    pub outcome: Outcome,
    pub tests: Vec<JudgedTest>,
}

/// The judgement of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub end: AttemptEnd,
    pub parts: Vec<Part>,
}

/// Judges a job that has ended. `results`: its results, or why they cannot be read. `error_type`: LAVA's word for the
/// fault, if the job is incomplete.
///
/// # Errors
/// If LAVA ends the job in a way that the agent does not know.
pub fn judge(
    asked: &[DeviceTest],
    job: &Job,
    error_type: Option<&str>,
    results: Result<SuiteReport, String>,
) -> Result<Judgement> {
    let comment = job.failure_comment.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let comment = comment.map_or_else(String::new, |text| {
        let line: String = text.lines().next().unwrap_or_default().chars().take(300).collect();
        format!(": {line}")
    });
    let parts = match &results {
        Ok(results) => parts(asked, results),
        Err(_) => asked.iter().map(unread).collect(),
    };
    let tested = |outcome: Outcome| Judgement { end: AttemptEnd::Tested(outcome), parts: parts.clone() };
    match job.health.as_str() {
        "Complete" => match &results {
            Ok(results) => match results.miscount() {
                Some(what) => Ok(tested(Outcome::Failed(format!(
                    "the results of LAVA's job {} contradict themselves: {what}",
                    job.id
                )))),
                None => {
                    let worst = Outcome::worst(parts.iter().map(|part| &part.outcome)).cloned();
                    Ok(tested(worst.unwrap_or_else(|| Outcome::Failed("the request names no test".into()))))
                }
            },
            Err(why) => Ok(tested(Outcome::Failed(format!(
                "LAVA completed the job {}, and its results cannot be read: {why}",
                job.id
            )))),
        },
        "Incomplete" => {
            let kind = error_type.unwrap_or("unknown");
            let why = format!("LAVA did not complete the job {} (error type {kind}){comment}", job.id);
            Ok(match LAB_FAULTS.contains(&kind) {
                true => Judgement { end: AttemptEnd::DeviceFault(why), parts: Vec::new() },
                false => tested(Outcome::Failed(why)),
            })
        }
        "Canceled" => {
            Ok(tested(Outcome::Cancelled(format!("somebody canceled the job {} in LAVA{comment}", job.id))))
        }
        other => Err(Error::upstream(format!(
            "LAVA says that the job {} has ended with the health `{}`",
            job.id,
            other.escape_debug()
        ))
        .hint("the agent knows Complete, Incomplete and Canceled")),
    }
}

/// A test whose results cannot be read.
fn unread(test: &DeviceTest) -> Part {
    let outcome = Outcome::NotRun("there are no results of LAVA".into());
    Part { test: Some(test.clone()), outcome, tests: Vec::new() }
}

/// The results by the tests that were asked for. What LAVA tested besides counts as well.
fn parts(asked: &[DeviceTest], results: &SuiteReport) -> Vec<Part> {
    let mut parts = Vec::new();
    let others: Vec<&Group> =
        results.groups.iter().filter(|group| !asked.iter().any(|test| is_of(group, test))).collect();
    let tests: Vec<JudgedTest> = others.iter().flat_map(|group| judged(group)).collect();
    let outcome = match first_bad(&tests) {
        Some(failed) => failed,
        None => Outcome::Passed,
    };
    parts.push(Part { test: None, outcome, tests });
    for test in asked {
        let groups = results.groups.iter().filter(|group| is_of(group, test));
        let tests: Vec<JudgedTest> = groups.flat_map(judged).collect();
        let outcome = match first_bad(&tests) {
            Some(failed) => failed,
            None if tests.is_empty() => {
                Outcome::NotRun(format!("the job has no results of a test definition named `{}`", word(test)))
            }
            None if !tests.iter().any(|test| test.outcome == Outcome::Passed) => {
                Outcome::Failed("every test was skipped: nothing was proved".into())
            }
            None => Outcome::Passed,
        };
        parts.push(Part { test: Some(test.clone()), outcome, tests });
    }
    parts
}

/// LAVA numbers its suites: the test definition `runtime` has the results `0_runtime`.
fn is_of(group: &Group, test: &DeviceTest) -> bool {
    let name = group.name.split_once('_');
    let name =
        name.filter(|(number, _)| !number.is_empty() && number.chars().all(|char| char.is_ascii_digit()));
    group.name != OWN_SUITE && name.map_or(group.name.as_str(), |(_, name)| name) == word(test)
}

/// The name of the test definition. LAVA has no colon in names.
fn word(test: &DeviceTest) -> String {
    test.to_string().replace(':', "-")
}

fn first_bad(tests: &[JudgedTest]) -> Option<Outcome> {
    let bad: Vec<&JudgedTest> = tests.iter().filter(|test| !test.outcome.is_success()).collect();
    let (first, more) = bad.split_first()?;
    let why = first.outcome.reason().unwrap_or("it did not pass");
    let others = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
    Some(Outcome::Failed(format!("{}: {why}{others}", first.id())))
}

fn judged(group: &Group) -> Vec<JudgedTest> {
    let case = |case: &Case| {
        let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        let outcome = match (&case.failure, &case.error, case.skipped) {
            (Some(why), _, _) if line(why).is_empty() => Outcome::Failed("it failed".into()),
            (Some(why), _, _) => Outcome::Failed(line(why)),
            // LAVA's result `unknown`.
            (None, Some(why), _) => Outcome::NotRun(format!("LAVA does not know its result: {}", line(why))),
            (None, None, true) => Outcome::Skipped("LAVA skipped it".into()),
            (None, None, false) => Outcome::Passed,
        };
        let message =
            [&case.failure, &case.error].into_iter().flatten().cloned().collect::<Vec<_>>().join("\n");
        JudgedTest {
            class: group.name.clone(),
            name: case.name.clone(),
            outcome,
            message,
            seconds: case.seconds,
        }
    };
    group.cases.iter().map(case).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "verdict_tests.rs"]
mod tests;
