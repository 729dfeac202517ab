//! The verdict on tests of a running system: a pure function of their evidence.
//!
//! BitBake's exit status, the results in `testresults.json`, the results of ptests in it, and the expected tests must
//! agree. An empty run is never reported as passed: no test, only skipped tests, a test that was never reached, a ptest
//! without a result, a package with tests that did not run. With `PTEST_EXPECT_FAILURE`, OE-Core reports a pass although
//! ptests failed; here it is a failure.

use std::collections::{BTreeMap, BTreeSet};

use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;

use super::results::{OeTest, Run, Section, SectionId, Status};

/// OE-Core's tests that run all ptests, and the agent's own. Each ptest has cases of its own.
const SUMMARIES: [&str; 4] = [
    "ptest.PtestRunnerTest.test_ptestrunner",
    "ptest.PtestRunnerTest.test_ptestrunner_expectsuccess",
    "ptest.PtestRunnerTest.test_ptestrunner_expectfail",
    "build_agent_ptest.PtestTest.test_ptests",
];

/// Prefix of the reason of a ptest that ended with a status other than 0.
pub const ENDED_WITH: &str = "it ended with status ";

/// The name of the case that stands for a whole ptest.
pub const RUN_PTEST: &str = "run-ptest";

/// What was to be tested.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub image: String,
    pub machine: String,
    /// The suites that the manifest names; empty: those of the image.
    pub suites: Vec<String>,
    /// The packages with tests that should run, each with the sections of which one must be there.
    pub ptests: BTreeMap<String, BTreeSet<String>>,
}

/// The evidence of a run.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The verdict on the exit status, the output and the events of BitBake (or of `oe-test`).
    pub tool: Result<Outcome>,
    /// The runs in `testresults.json`, or why it cannot be read. Without the file, there are none.
    pub runs: Result<Vec<Run>, String>,
    /// Whether nothing else failed than the task that runs the tests.
    pub only_tests_failed: bool,
}

/// A test and its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedTest {
    pub class: String,
    pub name: String,
    pub outcome: Outcome,
    /// The log.
    pub message: String,
    pub seconds: Option<f64>,
}

impl JudgedTest {
    pub fn id(&self) -> String {
        format!("{}.{}", self.class, self.name)
    }

    /// The ptest that it belongs to.
    pub fn section(&self) -> Option<&str> {
        self.class.strip_prefix("ptest.")
    }
}

/// The judgement of one image.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub outcome: Result<Outcome>,
    pub tests: Vec<JudgedTest>,
    /// Whether the outcome follows only from the tests, so that it may change with them.
    pub by_tests: bool,
}

/// Judges the evidence.
pub fn judge(expected: &Expected, evidence: &Evidence) -> Judgement {
    let no_tests = |outcome| Judgement { outcome, tests: Vec::new(), by_tests: false };
    let runs = match &evidence.runs {
        Ok(runs) => runs.iter().filter(|run| run.image == expected.image && run.machine == expected.machine),
        Err(why) => {
            return no_tests(match &evidence.tool {
                Ok(Outcome::Passed) => Err(contradiction(
                    expected,
                    &format!("the tests passed, but their results cannot be read: {why}"),
                )),
                Ok(Outcome::Failed(tool)) => {
                    Ok(Outcome::Failed(format!("{tool}; the results of its tests cannot be read: {why}")))
                }
                other => other.clone(),
            });
        }
    };
    let runs: Vec<&Run> = runs.collect();
    if runs.is_empty() {
        return no_tests(match &evidence.tool {
            Ok(Outcome::Passed) => {
                Err(contradiction(expected, "the tests passed, but there are no results of them"))
            }
            Ok(Outcome::Failed(tool)) => {
                Ok(Outcome::Failed(format!("{tool}; there are no results of its tests")))
            }
            other => other.clone(),
        });
    }
    let all = Results::of(&runs);
    let mut tests = all.tests(expected);
    let stopped = match &evidence.tool {
        Ok(outcome) if outcome.was_stopped() => Some(outcome),
        _ => None,
    };
    if let Some(stopped) = stopped {
        // Tests were not reached because of the stop.
        for test in tests.iter_mut().filter(|test| matches!(test.outcome, Outcome::NotRun(_))) {
            test.outcome = stopped.clone();
        }
    }
    let bad = tests.iter().any(|test| !test.outcome.is_success());
    let outcome = match &evidence.tool {
        Err(error) => Err(error.clone()),
        Ok(Outcome::Passed) => match all.contradicts_pass() {
            Some(what) => Err(contradiction(expected, &what)),
            None => Ok(outcome_of(&tests, expected)),
        },
        Ok(Outcome::Failed(_)) if bad && evidence.only_tests_failed => Ok(outcome_of(&tests, expected)),
        Ok(Outcome::Failed(tool)) if bad => Ok(Outcome::Failed(tool.clone())),
        Ok(Outcome::Failed(tool)) => Ok(Outcome::Failed(format!("{tool}, although no test failed"))),
        Ok(other) => Ok(other.clone()),
    };
    let by_tests = match &evidence.tool {
        Ok(Outcome::Passed) => outcome.is_ok(),
        Ok(Outcome::Failed(_)) => bad && evidence.only_tests_failed,
        _ => false,
    };
    Judgement { outcome, tests, by_tests }
}

/// The results of all runs for one image: a guest that crashed was restarted for the remaining ptests.
struct Results<'a> {
    tests: BTreeMap<&'a str, &'a OeTest>,
    sections: BTreeMap<&'a SectionId, &'a Section>,
}

impl<'a> Results<'a> {
    fn of(runs: &[&'a Run]) -> Results<'a> {
        let mut all = Results { tests: BTreeMap::new(), sections: BTreeMap::new() };
        for run in runs {
            for test in &run.tests {
                let worst = all.tests.entry(&test.id).or_insert(test);
                if severity(&test.status) > severity(&worst.status) {
                    *worst = test;
                }
            }
            for (id, section) in &run.sections {
                // Once is the rule; should a section show up twice, the one that did not end well counts.
                let worst = all.sections.entry(id).or_insert(section);
                if section_fault(section).is_some() {
                    *worst = section;
                }
            }
        }
        all
    }

    /// Why these results cannot be those of tests that passed.
    fn contradicts_pass(&self) -> Option<String> {
        let broken = |test: &&&OeTest| matches!(test.status, Status::Failed | Status::Error);
        let test = self.tests.values().find(broken)?;
        let word = if test.status == Status::Failed { "FAILED" } else { "ERROR" };
        Some(format!("the tests passed, but {} is {word}", test.id))
    }

    fn tests(&self, expected: &Expected) -> Vec<JudgedTest> {
        let mut tests = Vec::new();
        for (id, section) in &self.sections {
            tests.extend(section_tests(id, section));
        }
        tests.extend(self.missing_ptests(expected));
        let nested_failed = tests.iter().any(|test| !test.outcome.is_success());
        let nested_ran = !self.sections.is_empty();
        for test in self.tests.values() {
            let is_summary = SUMMARIES.contains(&test.id.as_str());
            let mut judged = judge_test(test);
            if is_summary && !judged.outcome.is_success() && nested_failed {
                continue;
            }
            if is_summary && test.status == Status::ExpectedFailure {
                judged.outcome = match (nested_failed, nested_ran) {
                    (true, _) => continue,
                    (false, true) => Outcome::Failed(
                        "it failed, no ptest did, and PTEST_EXPECT_FAILURE hides why: read its log".into(),
                    ),
                    (false, false) => Outcome::Failed(
                        "the ptests did not run, and PTEST_EXPECT_FAILURE hides why: read its log".into(),
                    ),
                };
            }
            tests.push(judged);
        }
        tests.extend(self.missing_suites(expected));
        tests
    }

    /// Packages with tests that have no section.
    fn missing_ptests(&self, expected: &Expected) -> Vec<JudgedTest> {
        let has = |name: &String| self.sections.contains_key(&SectionId::ptest(name));
        let missing = expected.ptests.iter().filter(|(_, sections)| !sections.iter().any(has));
        let judged = missing.map(|(package, sections)| {
            let section = sections.iter().next().map_or(package.as_str(), String::as_str);
            JudgedTest {
                class: format!("ptest.{section}"),
                name: RUN_PTEST.into(),
                outcome: Outcome::NotRun(format!("{package} is there, but its ptest did not run")),
                message: String::new(),
                seconds: None,
            }
        });
        judged.collect()
    }

    /// Suites of the manifest without a test.
    fn missing_suites(&self, expected: &Expected) -> Vec<JudgedTest> {
        let has = |suite: &str| self.tests.keys().any(|id| is_of_suite(id, suite));
        let missing = expected.suites.iter().filter(|suite| *suite != "auto" && !has(suite));
        let judged = missing.map(|suite| JudgedTest {
            class: suite.clone(),
            name: "suite".into(),
            outcome: Outcome::NotRun(format!(
                "the manifest names the suite `{suite}`, and no test of it ran"
            )),
            message: String::new(),
            seconds: None,
        });
        judged.collect()
    }
}

/// Whether a test belongs to a suite: `ssh`, `ssh.SSHTest` or `ssh.SSHTest.test_ssh`.
pub fn is_of_suite(id: &str, suite: &str) -> bool {
    id.strip_prefix(suite).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn severity(status: &Status) -> u8 {
    match status {
        Status::Skipped => 0,
        Status::Passed => 1,
        Status::ExpectedFailure => 2,
        Status::Unknown | Status::Other(_) => 3,
        Status::Failed => 4,
        Status::Error => 5,
    }
}

fn judge_test(test: &OeTest) -> JudgedTest {
    let why = last_line(&test.log);
    let outcome = match &test.status {
        Status::Passed => Outcome::Passed,
        Status::Failed => Outcome::Failed(why.unwrap_or("it failed").into()),
        Status::Error => Outcome::Failed(format!("error in the test: {}", why.unwrap_or("its log is empty"))),
        Status::Skipped => Outcome::Skipped(why.unwrap_or("without a reason").into()),
        Status::ExpectedFailure => {
            Outcome::Skipped(format!("expected failure: {}", why.unwrap_or("without a reason")))
        }
        Status::Unknown => Outcome::NotRun("it was never reached".into()),
        Status::Other(word) => Outcome::NotRun(format!("its status is `{word}`, which no release writes")),
    };
    let (class, name) = test.id.rsplit_once('.').unwrap_or(("", &test.id));
    let message = if outcome == Outcome::Passed { String::new() } else { test.log.clone() };
    JudgedTest { class: class.into(), name: name.into(), outcome, message, seconds: test.seconds }
}

/// The ptest itself, and its tests.
fn section_tests(id: &SectionId, section: &Section) -> Vec<JudgedTest> {
    let class = format!("{}.{}", id.kind, id.name);
    let counts = |wanted: &Status| section.tests.iter().filter(|(_, status)| status == wanted).count();
    let outcome = match section_fault(section) {
        Some(outcome) => outcome,
        None if counts(&Status::Skipped) == section.tests.len() => {
            Outcome::Skipped(format!("all of its {} tests were skipped", section.tests.len()))
        }
        None => Outcome::Passed,
    };
    let whole = JudgedTest {
        class: class.clone(),
        name: RUN_PTEST.into(),
        message: if outcome.is_success() { String::new() } else { section.log.clone() },
        outcome,
        seconds: section.seconds,
    };
    let tests = section.tests.iter().map(|(name, status)| {
        let outcome = match status {
            Status::Passed => Outcome::Passed,
            Status::Failed => Outcome::Failed("it failed; see the log of its ptest".into()),
            Status::Skipped => Outcome::Skipped("the ptest skipped it".into()),
            other => Outcome::NotRun(format!("its status is {other:?}, which no ptest has")),
        };
        JudgedTest {
            class: class.clone(),
            name: name.clone(),
            outcome,
            message: String::new(),
            seconds: None,
        }
    });
    std::iter::once(whole).chain(tests).collect()
}

/// Why a ptest as a whole failed.
fn section_fault(section: &Section) -> Option<Outcome> {
    if let Some(panic) = &section.panic {
        return Some(Outcome::Failed(format!("the kernel crashed while it ran: {panic}")));
    }
    if let Some(killed) = &section.out_of_memory {
        let killed = killed.lines().next().unwrap_or_default();
        return Some(Outcome::Failed(format!("the system ran out of memory while it ran: {killed}")));
    }
    if section.timed_out {
        return Some(Outcome::TimedOut("it was silent for too long and was stopped".into()));
    }
    if !section.ended {
        return Some(Outcome::NotRun("it began and did not end".into()));
    }
    if let Some(code) = &section.exit {
        return Some(Outcome::Failed(format!("{ENDED_WITH}{}", code.trim())));
    }
    if section.tests.is_empty() {
        return Some(Outcome::Failed("it ended without the result of a single test".into()));
    }
    None
}

/// The outcome of the image, by its tests.
pub fn outcome_of(tests: &[JudgedTest], expected: &Expected) -> Outcome {
    let failed: Vec<&JudgedTest> = tests.iter().filter(|test| !test.outcome.is_success()).collect();
    // A test that was skipped because another one failed is not the cause.
    let first = failed.iter().find(|test| matches!(test.outcome, Outcome::Failed(_) | Outcome::TimedOut(_)));
    if let Some(first) = first.or(failed.first()) {
        let others = match failed.len() - 1 {
            0 => String::new(),
            1 => " (and 1 other test)".into(),
            more => format!(" (and {more} other tests)"),
        };
        let why = first.outcome.reason().unwrap_or("it did not pass");
        return Outcome::Failed(format!("{}: {why}{others}", first.id()));
    }
    if tests.is_empty() {
        return Outcome::Failed("not a single test ran".into());
    }
    let passed = |test: &JudgedTest| matches!(test.outcome, Outcome::Passed | Outcome::Flaky(_));
    if !tests.iter().any(passed) {
        return Outcome::Failed("every test was skipped: nothing was proved".into());
    }
    let ptest_passed = tests.iter().any(|test| test.section().is_some() && passed(test));
    if !expected.ptests.is_empty() && !ptest_passed {
        return Outcome::Failed("every ptest was skipped: nothing was proved".into());
    }
    Outcome::Passed
}

/// The last line of a traceback, which names the error.
fn last_line(log: &str) -> Option<&str> {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.starts_with("AssertionError: "));
    error.or_else(|| lines().next_back())
}

fn contradiction(expected: &Expected, what: &str) -> Error {
    Error::internal(format!("the tests of {} contradict themselves: {what}", expected.image))
        .hint("nothing is concluded about the layer; read the log of the run")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "verdict_tests.rs"]
pub(super) mod tests;
