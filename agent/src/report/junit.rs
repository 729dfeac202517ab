//! `junit.xml`: the tests for CodeBuild's report groups and whatever else reads JUnit.
//!
//! A failure is the layer's, an error the agent's, the machine's or the clock's. CodeBuild keeps
//! 500 tests of a report and prefers those that failed (its user guide, "Test report statuses").

use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use crate::error::{Class, Error, Result};
use crate::outcome::Outcome;

use super::console::clean;
use super::output::replace;
use super::summary::Summary;
use super::tally::{AGENT, Status, Suite, Test, suites};

/// The whole file.
pub fn render(summary: &Summary) -> Result<String> {
    let mut report = Report::new(text(&format!("{} {}", summary.job.name, summary.job.release)));
    report.set_time(duration(summary.seconds));
    report.add_test_suites(suites(summary).iter().map(|suite| test_suite(suite, summary)));
    report.to_string().map_err(|error| Error::internal("cannot render junit.xml").because(&error))
}

pub fn write(summary: &Summary, out: &Path) -> Result<()> {
    replace(&out.join("junit.xml"), render(summary)?.as_bytes())
}

fn test_suite(suite: &Suite, summary: &Summary) -> TestSuite {
    let mut made = TestSuite::new(text(&suite.name));
    if let Some(started) = suite.started {
        made.extra.insert("timestamp".into(), started.to_string().into());
    }
    if let Some(seconds) = suite.seconds {
        made.set_time(duration(seconds));
    }
    let job = &summary.job;
    let commit = job.commit.as_deref().unwrap_or("none");
    let known = [
        ("job", job.name.as_str()),
        ("release", &job.release),
        ("commit", commit),
        ("build", &job.build),
        ("agent", &summary.agent),
    ];
    made.add_properties(known.map(|(name, value)| Property::new(name, text(value))));
    if let Some(log) = suite.log {
        made.add_property(Property::new("log", text(&log.to_string_lossy())));
    }
    made.add_test_cases(suite.tests.iter().map(test_case));
    made
}

fn test_case(test: &Test) -> TestCase {
    let mut made = TestCase::new(text(test.name), status(test));
    made.set_classname(text(&class_name(test)));
    if let Some(seconds) = test.seconds {
        made.set_time(duration(seconds));
    }
    made
}

/// `stage.unit.class`, as far as there is one.
fn class_name(test: &Test) -> String {
    let parts = match test.unit {
        Some(unit) if test.is_unit() => vec![unit.stage.name()],
        Some(unit) => vec![unit.stage.name(), &unit.name, test.class],
        None => vec![AGENT, test.class],
    };
    parts.join(".")
}

fn status(test: &Test) -> TestCaseStatus {
    let (mut status, kind, reason) = match test.status {
        Status::Outcome(Outcome::Passed) => return TestCaseStatus::success(),
        Status::Outcome(outcome) => {
            let status = match outcome {
                Outcome::Skipped(_) => TestCaseStatus::skipped(),
                Outcome::Failed(_) => TestCaseStatus::non_success(NonSuccessKind::Failure),
                _ => TestCaseStatus::non_success(NonSuccessKind::Error),
            };
            (status, outcome.word(), outcome.reason().unwrap_or_default().to_owned())
        }
        Status::Error(error) => {
            (TestCaseStatus::non_success(NonSuccessKind::Error), word(error.class), error.to_string())
        }
    };
    // An attribute cannot hold lines; the text holds all of them.
    status.set_message(text(reason.lines().next().unwrap_or_default()));
    status.set_type(text(kind));
    let words = [reason.as_str(), test.message].into_iter().chain(test.excerpt.iter().map(String::as_str));
    let words: Vec<&str> = words.filter(|words| !words.is_empty()).collect();
    status.set_description(text(&words.join("\n")));
    status
}

/// Nothing that XML 1.0 forbids gets in, nor what would mislead a reader.
fn text(raw: &str) -> String {
    raw.lines().map(clean).collect::<Vec<_>>().join("\n")
}

fn word(class: Class) -> &'static str {
    match class {
        Class::Usage => "usage",
        Class::Machine => "machine",
        Class::Upstream => "upstream",
        Class::OutOfTime => "out-of-time",
        Class::Internal => "internal",
        Class::Cancelled => "cancelled",
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
