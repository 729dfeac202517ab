//! What is new in this change: the difference between the job's result and that of the commit in which the change began.

use std::collections::{BTreeMap, HashMap, HashSet};

use agent_types::affected::Evidence;
use agent_types::base_result::{
    BaseResult, ChangeScope, KnownArtifact, KnownFinding, KnownTest, OutcomeWord, TASK, TestId,
};
use agent_types::events::Level;
use agent_types::stage::Stage;

use super::known::{self, fails, is_step, without_numbers};
use super::summary::Summary;
use super::totals::AGENT;

/// The difference between a job and its [`BaseResult`]. Every list is in the order of the report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Tests that fail, and did not fail or did not exist before.
    pub new_failures: Vec<TestId>,
    /// Tests that fail and failed before.
    pub still_failing: Vec<TestId>,
    /// Tests that failed before and pass.
    pub fixed: Vec<TestId>,
    /// Tests that ran before and are not in the report any more.
    pub vanished: Vec<TestId>,
    /// Tests that ran before and are skipped.
    pub newly_skipped: Vec<TestId>,
    /// Tests that passed before and did not run, or were stopped.
    pub not_run: Vec<TestId>,
    /// Tests that failed and passed with equal signatures.
    pub flaky: Vec<TestId>,
    /// Places in [`Summary::findings`] of findings that the base does not have.
    pub new_findings: Vec<usize>,
    pub fixed_findings: Vec<KnownFinding>,
    /// `zlib CVE-2024-1`
    pub new_cves: Vec<String>,
    pub fixed_cves: Vec<String>,
    pub sizes: Vec<SizeChange>,
}

/// A published file whose size differs, or that only one side has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeChange {
    /// As in the base; `None` for a new file.
    pub before: Option<KnownArtifact>,
    /// Bytes now; `None` if it is no longer published.
    pub after: Option<u64>,
    /// As it is published now; without it as in the base.
    pub path: std::path::PathBuf,
}

impl Comparison {
    /// `None` if there is no result to compare with.
    pub fn of(summary: &Summary) -> Option<Comparison> {
        let base = summary.base.as_ref()?;
        Some(compare(summary, base))
    }

    /// Whether a person who looks at a passed job should see it: something other than a size differs.
    pub fn is_worth_reporting(&self) -> bool {
        let lists = [
            &self.new_failures,
            &self.still_failing,
            &self.fixed,
            &self.vanished,
            &self.newly_skipped,
            &self.not_run,
            &self.flaky,
        ];
        lists.iter().any(|list| !list.is_empty())
            || !self.new_findings.is_empty()
            || !self.new_cves.is_empty()
    }

    /// Why a job that fails because of tests fails also with `[report] fail_on = "new"`; `None` if all its failures were
    /// there before the change. Without proof of that it fails.
    pub fn blames_change(summary: &Summary) -> Option<String> {
        let Some(compared) = Comparison::of(summary) else {
            return Some("there is no earlier result to compare with".to_owned());
        };
        let errors = |places: &[usize]| {
            places
                .iter()
                .filter(|place| summary.findings.get(**place).is_some_and(|f| f.level == Level::Error))
                .count()
        };
        let errors = match summary.base.as_ref().is_some_and(|base| base.truncated) {
            // What the base has is not known.
            true => summary.findings.iter().filter(|finding| finding.level == Level::Error).count(),
            false => errors(&compared.new_findings),
        };
        let counts = [
            (compared.new_failures.len(), "new failure"),
            (errors, "new finding of level error"),
            (compared.vanished.len(), "vanished test"),
            (compared.not_run.len(), "test that did not run"),
        ];
        let first = counts.into_iter().find(|(number, _)| *number > 0);
        first.map(|(number, what)| agent_types::words::count(number as u64, what))
    }
}

fn compare(summary: &Summary, base: &BaseResult) -> Comparison {
    let now = known::tests(summary);
    let mut compared = Comparison::default();
    compare_tests(summary, base, &now, &mut compared);
    if !base.truncated {
        compare_findings(summary, base, &now, &mut compared);
    }
    compare_cves(summary, &mut compared);
    compare_sizes(summary, base, &mut compared);
    compared
}

fn compare_tests(summary: &Summary, base: &BaseResult, now: &[KnownTest], compared: &mut Comparison) {
    let before: HashMap<&TestId, &KnownTest> = base.tests.iter().map(|test| (&test.id, test)).collect();
    let here: HashMap<&TestId, &KnownTest> = now.iter().map(|test| (&test.id, test)).collect();
    let with_tasks = |tests: &[KnownTest]| -> HashSet<String> {
        let tasks = tests.iter().filter(|test| test.id.class == TASK);
        tasks.map(|test| test.id.suite.clone()).collect()
    };
    let (explained_now, explained_before) = (with_tasks(now), with_tasks(&base.tests));
    for test in now {
        // Its failed tasks stand for it.
        let is_explained = is_step(&test.id) && fails(test) && explained_now.contains(&test.id.suite);
        let old = before.get(&test.id).copied();
        let list = match (old, test.outcome) {
            _ if is_explained => continue,
            (Some(old), _) if is_flaky(summary, base, old, test) => &mut compared.flaky,
            _ if fails(test) => match old.is_some_and(|old| is_same_failure(old, test)) {
                true => &mut compared.still_failing,
                false => &mut compared.new_failures,
            },
            (Some(old), OutcomeWord::Passed | OutcomeWord::Flaky) if fails(old) => {
                // Its tasks that failed before follow below.
                if explained_before.contains(&test.id.suite) && is_step(&test.id) {
                    continue;
                }
                &mut compared.fixed
            }
            (Some(old), OutcomeWord::Skipped) if old.outcome.is_result() && test.id.suite != AGENT => {
                &mut compared.newly_skipped
            }
            (Some(old), OutcomeWord::NotRun | OutcomeWord::Cancelled | OutcomeWord::TimedOut)
                if matches!(old.outcome, OutcomeWord::Passed | OutcomeWord::Flaky) =>
            {
                &mut compared.not_run
            }
            _ => continue,
        };
        list.push(test.id.clone());
    }
    let present = Present::of(now);
    for old in base.tests.iter().filter(|old| !here.contains_key(&old.id)) {
        if old.id.class == TASK {
            // A task is in the report only if it failed.
            let passes = |test: &&KnownTest| matches!(test.outcome, OutcomeWord::Passed | OutcomeWord::Flaky);
            let step = now.iter().find(|test| test.id.suite == old.id.suite && test.id.class.is_empty());
            if step.is_some_and(|step| passes(&step)) {
                compared.fixed.push(old.id.clone());
            }
        } else if old.outcome.is_result()
            && old.id.suite != AGENT
            && !is_out_of_scope(summary, &present, &old.id)
        {
            compared.vanished.push(old.id.clone());
        }
    }
}

/// Whether two outcomes of one test differ although all that it is made of is the same.
fn is_flaky(summary: &Summary, base: &BaseResult, old: &KnownTest, new: &KnownTest) -> bool {
    let passes = |test: &KnownTest| matches!(test.outcome, OutcomeWord::Passed | OutcomeWord::Flaky);
    let differ = fails(old) && passes(new) || passes(old) && fails(new);
    differ && (is_same_signature(old, new) || is_unaffected(summary, base, &new.id))
}

fn is_same_signature(old: &KnownTest, new: &KnownTest) -> bool {
    old.signature.is_some() && old.signature == new.signature
}

/// Whether BitBake's signatures show that the change cannot reach the test.
fn is_unaffected(summary: &Summary, base: &BaseResult, id: &TestId) -> bool {
    let Some(affected) = &summary.affected else { return false };
    let is_of_bitbake = matches!(known::stage(&id.suite), Some(Stage::Build | Stage::Test));
    let is_same = affected.evidence == Evidence::Signatures && affected.tasks == 0;
    is_of_bitbake && is_same && affected.base == base.commit
}

/// A failing step is the same failure if its reason is the same: it stands for anything that can go wrong in it.
fn is_same_failure(old: &KnownTest, new: &KnownTest) -> bool {
    if !fails(old) {
        return false;
    }
    match (&old.reason, &new.reason) {
        (Some(old), Some(reason)) if is_step(&new.id) => without_numbers(old) == without_numbers(reason),
        _ => true,
    }
}

/// The suites of a job, and the classes in them.
pub struct Present<'a> {
    suites: HashSet<&'a str>,
    classes: HashSet<(&'a str, &'a str)>,
}

impl Present<'_> {
    pub fn has(&self, suite: &str) -> bool {
        self.suites.contains(suite)
    }

    pub fn of(tests: &[KnownTest]) -> Present<'_> {
        Present {
            suites: tests.iter().map(|test| test.id.suite.as_str()).collect(),
            classes: tests.iter().map(|test| (test.id.suite.as_str(), test.id.class.as_str())).collect(),
        }
    }
}

/// Whether the job did not look for this test: a flag left its stage out, or the change does not touch it. `present`: of
/// the job.
pub fn is_out_of_scope(summary: &Summary, present: &Present, id: &TestId) -> bool {
    let ChangeScope { checks, build, ptests } = &summary.change_scope;
    let stage = known::stage(&id.suite);
    let left_out =
        |stage| summary.plan.iter().any(|planned| planned.stage == stage && planned.is_left_out_by_flag());
    let check = id.suite.split_once('.').map(|(_, name)| name).filter(|_| stage == Some(Stage::Check));
    let class = (id.suite.as_str(), id.class.as_str());
    stage.is_some_and(left_out)
        || check.is_some_and(|name| checks.iter().any(|check| check == name))
        || *build && stage == Some(Stage::Build) && !present.suites.contains(id.suite.as_str())
        || *ptests
            && stage == Some(Stage::Test)
            && id.class.starts_with("ptest.")
            && !present.classes.contains(&class)
}

/// Compares findings one by one: of three equal ones, of which the base has two, the last is new.
fn compare_findings(summary: &Summary, base: &BaseResult, now: &[KnownTest], compared: &mut Comparison) {
    let mut left: HashMap<&KnownFinding, u64> = HashMap::new();
    for finding in &base.findings {
        *left.entry(finding).or_default() += 1;
    }
    let checks = &summary.change_scope.checks;
    for (place, finding) in summary.findings.iter().enumerate() {
        let known = known::finding(finding);
        let matched = left.get_mut(&known).filter(|left| **left > 0).map(|left| *left -= 1);
        // The check itself compared it with the base.
        if matched.is_none() && finding.rule != "cve-known" {
            compared.new_findings.push(place);
        }
    }
    let has_verdict = |suite: &str| {
        let step = now.iter().filter(|test| test.id.suite == suite);
        let mut step = step.peekable();
        step.peek().is_some()
            && step.all(|test| test.outcome.is_result() || test.outcome == OutcomeWord::Skipped)
    };
    let verdicts: HashMap<&str, bool> = base
        .findings
        .iter()
        .map(|f| f.suite.as_str())
        .collect::<HashSet<_>>()
        .into_iter()
        .map(|s| (s, has_verdict(s)))
        .collect();
    for finding in &base.findings {
        let name = finding.suite.split_once('.').map_or("", |(_, name)| name);
        let looked =
            verdicts.get(finding.suite.as_str()) == Some(&true) && !checks.iter().any(|check| check == name);
        if let Some(left) = left.get_mut(finding).filter(|left| **left > 0 && looked) {
            *left -= 1;
            compared.fixed_findings.push(finding.clone());
        }
    }
}

/// CVEs by findings, and those that the check itself found to be fixed.
fn compare_cves(summary: &Summary, compared: &mut Comparison) {
    let new = summary.findings.iter().filter(|finding| finding.rule == "cve-new");
    compared.new_cves = new.map(|finding| known::finding(finding).message).collect();
    let fixed = compared.fixed_findings.iter().filter(|finding| finding.rule == known::CVE);
    compared.fixed_cves = fixed.map(|finding| finding.message.clone()).collect();
    let cases = summary.units.iter().filter(|unit| unit.stage == Stage::Check).flat_map(|unit| &unit.cases);
    for case in cases.filter(|case| case.class == "cve") {
        let parts = case.message.split("; ").filter_map(|part| part.strip_prefix("fixed: "));
        for id in parts.flat_map(|ids| ids.split(", ")) {
            let name = format!("{} {id}", case.name);
            if !compared.fixed_cves.contains(&name) {
                compared.fixed_cves.push(name);
            }
        }
    }
}

fn compare_sizes(summary: &Summary, base: &BaseResult, compared: &mut Comparison) {
    let now = known::artifacts(summary);
    // A job that published nothing says nothing about sizes.
    if now.is_empty() || base.artifacts.is_empty() {
        return;
    }
    let mut before: BTreeMap<_, &KnownArtifact> =
        base.artifacts.iter().map(|artifact| (known::artifact_key(&artifact.path), artifact)).collect();
    for artifact in &now {
        let old = before.remove(&known::artifact_key(&artifact.path));
        if old.is_none_or(|old| old.bytes != artifact.bytes) {
            compared.sizes.push(SizeChange {
                before: old.cloned(),
                after: Some(artifact.bytes),
                path: artifact.path.clone(),
            });
        }
    }
    // Of a changed-recipes build, the others are only not built.
    if !summary.change_scope.build {
        let gone = before.into_values();
        compared.sizes.extend(gone.map(|old| SizeChange {
            before: Some(old.clone()),
            after: None,
            path: old.path.clone(),
        }));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "comparison_tests.rs"]
mod tests;
