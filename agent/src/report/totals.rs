//! A summary as suites of tests, and their totals: the one count that `result.json`, `junit.xml`
//! and the console show.

use std::path::Path;

use serde::Serialize;

use agent_types::error::Error;
use agent_types::events::{CacheQuery, Level, Sstate};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::summary::{At, CaseResult, StageResult, Summary, UnitResult};

/// The suite of what is no unit's: stages without units, and the agent's own errors.
pub const AGENT: &str = "build-agent";

/// A group of tests: a unit, or the agent itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite<'a> {
    /// `check.yocto-check-layer meta-x`, or `build-agent`.
    pub name: String,
    pub started: Option<At>,
    pub seconds: Option<f64>,
    /// Relative to the output directory.
    pub log: Option<&'a Path>,
    /// Questions to BitBake whose answers may have been known.
    pub cache_queries: &'a [CacheQuery],
    /// BitBake's numbers, of a build.
    pub sstate: Option<Sstate>,
    pub tests: Vec<Test<'a>>,
}

/// The smallest thing that reports count.
#[derive(Clone, Debug, PartialEq)]
pub struct Test<'a> {
    /// The unit that it belongs to; `None` in the agent's own suite.
    pub unit: Option<&'a UnitResult>,
    /// As the tool has it, e.g. `common.CommonCheckLayer`; empty for a unit or a stage itself.
    pub class: &'a str,
    pub name: &'a str,
    pub status: Status<'a>,
    /// The tool's own words.
    pub message: &'a str,
    pub excerpt: &'a [String],
    pub seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Status<'a> {
    Outcome(&'a Outcome),
    /// The agent or the machine could not do its part.
    Error(&'a Error),
}

impl Test<'_> {
    /// Whether it stands for a whole unit and not for a case in it.
    pub fn is_unit(&self) -> bool {
        self.unit.is_some() && self.class.is_empty()
    }
}

impl Status<'_> {
    pub fn is_success(self) -> bool {
        matches!(self, Status::Outcome(outcome) if outcome.is_success())
    }
}

/// All tests of a job. A unit with cases counts by its cases, and by itself only when it is not
/// fine although no case says why: they are fine, or the agent stopped them with the unit. A unit
/// without cases counts by itself; so does a stage without units. The report stage is skipped: `junit.xml` is
/// made before it ends. A report that was lost is an error of the agent.
pub fn suites(summary: &Summary) -> Vec<Suite<'_>> {
    let own = agent_suite(summary);
    let units = summary.units.iter().filter(|unit| unit.stage != Stage::Report).map(unit_suite);
    units.chain((!own.tests.is_empty()).then_some(own)).collect()
}

fn unit_suite(unit: &UnitResult) -> Suite<'_> {
    let cases = unit.cases.iter().map(|case| Test {
        unit: Some(unit),
        class: &case.class,
        name: &case.name,
        status: Status::Outcome(&case.outcome),
        message: &case.message,
        excerpt: &[],
        seconds: case.seconds,
    });
    let itself = unit.outcome.as_ref().filter(|outcome| {
        let says_why = |case: &CaseResult| !case.outcome.is_success() && !case.outcome.was_stopped();
        unit.cases.is_empty() || !outcome.is_success() && !unit.cases.iter().any(says_why)
    });
    let itself = itself.map(|outcome| Test {
        unit: Some(unit),
        class: "",
        name: &unit.name,
        status: Status::Outcome(outcome),
        message: "",
        excerpt: &unit.excerpt,
        seconds: unit.seconds,
    });
    Suite {
        name: format!("{}.{}", unit.stage, unit.name),
        started: Some(unit.started),
        seconds: unit.seconds,
        log: unit.log.as_deref(),
        cache_queries: &unit.cache_queries,
        sstate: unit.sstate,
        tests: cases.chain(itself).collect(),
    }
}

fn agent_suite(summary: &Summary) -> Suite<'_> {
    let counted = |stage: &&StageResult| stage.stage != Stage::Report && counts_by_itself(stage, summary);
    let stages = summary.stages.iter().filter(counted).filter_map(|stage| {
        Some(Test {
            unit: None,
            class: "stages",
            name: stage.stage.name(),
            status: Status::Outcome(stage.outcome.as_ref()?),
            message: "",
            excerpt: &[],
            seconds: stage.seconds,
        })
    });
    let errors = summary.errors.iter().map(|error| Test {
        unit: None,
        class: "errors",
        name: error.stage.map_or("job", Stage::name),
        status: Status::Error(&error.error),
        message: "",
        excerpt: &[],
        seconds: None,
    });
    // A job without an end has no other test that says so.
    let unfinished = (!summary.complete).then_some(Test {
        unit: None,
        class: "stages",
        name: "job",
        status: Status::Outcome(&summary.outcome),
        message: "",
        excerpt: &[],
        seconds: None,
    });
    Suite {
        name: AGENT.to_owned(),
        started: summary.started,
        seconds: None,
        log: None,
        cache_queries: &[],
        sstate: None,
        tests: stages.chain(errors).chain(unfinished).collect(),
    }
}

/// Whether nothing else would tell what became of the stage.
fn counts_by_itself(stage: &StageResult, summary: &Summary) -> bool {
    let fine = |outcome: &Option<Outcome>| outcome.as_ref().is_none_or(Outcome::is_success);
    let told_by_error = summary.errors.iter().any(|error| error.stage == Some(stage.stage));
    if !fine(&stage.outcome) && told_by_error {
        return false;
    }
    let no_units = summary.units_of(stage.stage).next().is_none();
    let units_fine = summary
        .units_of(stage.stage)
        .all(|unit| fine(&unit.outcome) && unit.cases.iter().all(|case| case.outcome.is_success()));
    no_units || (!fine(&stage.outcome) && units_fine)
}

/// The numbers of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    pub tests: u64,
    pub passed: u64,
    pub flaky: u64,
    pub failed: u64,
    pub skipped: u64,
    pub not_run: u64,
    pub timed_out: u64,
    pub cancelled: u64,
    /// Of the agent or the machine.
    pub errors: u64,
    pub finding_errors: u64,
    pub finding_warnings: u64,
    pub finding_infos: u64,
    /// BitBake tasks that ran.
    pub tasks: u64,
    pub failed_tasks: u64,
    pub artifacts: u64,
    pub artifact_links: u64,
    pub artifact_bytes: u64,
}

impl Totals {
    pub fn of(summary: &Summary) -> Totals {
        let mut totals = Totals::default();
        for test in suites(summary).iter().flat_map(|suite| &suite.tests) {
            totals.tests += 1;
            *match test.status {
                Status::Outcome(Outcome::Passed) => &mut totals.passed,
                Status::Outcome(Outcome::Flaky(_)) => &mut totals.flaky,
                Status::Outcome(Outcome::Failed(_)) => &mut totals.failed,
                Status::Outcome(Outcome::Skipped(_)) => &mut totals.skipped,
                Status::Outcome(Outcome::NotRun(_)) => &mut totals.not_run,
                Status::Outcome(Outcome::TimedOut(_)) => &mut totals.timed_out,
                Status::Outcome(Outcome::Cancelled(_)) => &mut totals.cancelled,
                Status::Error(_) => &mut totals.errors,
            } += 1;
        }
        for finding in &summary.findings {
            *match finding.level {
                Level::Error => &mut totals.finding_errors,
                Level::Warning => &mut totals.finding_warnings,
                Level::Info => &mut totals.finding_infos,
            } += 1;
        }
        // A file that somebody changed may have any numbers.
        totals.tasks = summary.units.iter().map(|unit| unit.tasks).fold(0, u64::saturating_add);
        totals.failed_tasks = summary.failed_tasks.len() as u64;
        for artifact in &summary.artifacts {
            match artifact.link {
                Some(_) => totals.artifact_links += 1,
                None => {
                    totals.artifacts += 1;
                    totals.artifact_bytes = totals.artifact_bytes.saturating_add(artifact.bytes);
                }
            }
        }
        totals
    }
}
