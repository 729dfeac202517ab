//! What failed, as the closing text tells it: names, reasons and the lines that matter.

use std::path::PathBuf;

use crate::report::known::recipe_name;
use crate::report::summary::{Summary, UnitResult};
use crate::report::totals::{Status, Suite, Test};
use agent_types::base_result::{TASK, TestId};
use agent_types::events::{Level, TaskFailed};
use agent_types::outcome::Outcome;

use super::format::{finding_line, level_word};

/// Lines of one failure's log or message.
const LINES: usize = 60;
/// Lines of one failure's reason.
const REASON: usize = 5;

/// Something that ran and went wrong. Its texts come from the tools and are not sanitized yet.
pub struct Failure<'a> {
    /// The test that failed, as other jobs name it.
    pub id: TestId,
    /// For the verdict line: `common.CommonCheckLayer.test_readme`, `zlib:do_compile`.
    pub name: String,
    /// With the stage and the unit.
    pub title: String,
    pub outcome: &'a Outcome,
    pub reason: Vec<String>,
    pub lines: Vec<String>,
    /// Relative to the output directory.
    pub log: Option<PathBuf>,
}

/// In the order of the stages. What did not run, and a test that was stopped with its unit, is no failure
/// of its own: something else is to blame, and the table of stages says so.
pub fn failures<'a>(summary: &'a Summary, suites: &[Suite<'a>]) -> Vec<Failure<'a>> {
    let mut found = Vec::new();
    let tests = suites.iter().flat_map(|suite| suite.tests.iter().map(move |test| (suite, test)));
    for (suite, test) in tests {
        let Status::Outcome(outcome) = test.status else { continue };
        let stopped = outcome.was_stopped() && test.unit.is_some() && !test.is_unit();
        if outcome.is_success() || stopped || matches!(outcome, Outcome::NotRun(_)) {
            continue;
        }
        let id =
            TestId { suite: suite.name.clone(), class: test.class.to_owned(), name: test.name.to_owned() };
        let tasks = tasks(summary, test);
        if tasks.is_empty() {
            found.push(from_test(summary, test, outcome, id));
        } else {
            found.extend(tasks.into_iter().map(|task| from_task(task, outcome, &suite.name)));
        }
    }
    found
}

/// The BitBake tasks that explain the test; only a unit's own outcome is explained by tasks.
fn tasks<'a>(summary: &'a Summary, test: &Test<'a>) -> Vec<&'a TaskFailed> {
    let Some(unit) = test.unit.filter(|_| test.is_unit()) else { return Vec::new() };
    summary.failed_tasks.iter().filter(|task| unit.is(&task.unit)).collect()
}

fn from_task<'a>(task: &TaskFailed, outcome: &'a Outcome, suite: &str) -> Failure<'a> {
    let name = format!("{}:{}", task.recipe, task.task);
    let id_name = format!("{}:{}", recipe_name(&task.recipe), task.task);
    Failure {
        id: TestId { suite: suite.to_owned(), class: TASK.to_owned(), name: id_name },
        title: format!("{} / {} / {name}", task.unit.stage, task.unit.name),
        name,
        outcome,
        reason: Vec::new(),
        lines: shortened(task.excerpt.clone()),
        log: task.log.clone(),
    }
}

fn from_test<'a>(summary: &Summary, test: &Test<'a>, outcome: &'a Outcome, id: TestId) -> Failure<'a> {
    let reason = outcome.reason().unwrap_or_default();
    let lines: Vec<String> = match test.unit {
        _ if !test.message.is_empty() => test.message.lines().map(str::to_owned).collect(),
        Some(unit) if test.is_unit() && test.excerpt.is_empty() => findings(summary, unit),
        _ => test.excerpt.to_vec(),
    };
    let (name, title) = match test.unit {
        Some(unit) if test.is_unit() => (unit.name.clone(), format!("{} / {}", unit.stage, unit.name)),
        Some(unit) => {
            let name = format!("{}.{}", test.class, test.name);
            let title = format!("{} / {} / {name}", unit.stage, unit.name);
            (name, title)
        }
        None => (test.name.to_owned(), test.name.to_owned()),
    };
    Failure {
        id,
        name,
        title,
        outcome,
        reason: reason.lines().take(REASON).map(str::to_owned).collect(),
        lines: shortened(lines),
        log: test.unit.and_then(|unit| unit.log.clone()),
    }
}

/// What the unit found: the reason why it failed, when it has no output of its own.
fn findings(summary: &Summary, unit: &UnitResult) -> Vec<String> {
    let errors =
        summary.findings.iter().filter(|finding| unit.is(&finding.unit) && finding.level == Level::Error);
    errors.map(|finding| finding_line(finding, level_word(finding.level))).collect()
}

/// At most [`LINES`]: the beginning, where the first error is, and more of the end.
fn shortened(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > LINES {
        let head = LINES / 3;
        let tail = lines.len() - (LINES - head - 1);
        let word = format!("[… {} lines omitted …]", tail - head);
        lines.splice(head..tail, [word]);
    }
    lines
}
