//! The verdict on a run of Device Tester: a pure function of its two reports and its console.
//!
//! Its exit status is documented nowhere, so it is no evidence. A run is passed only if tests ran, every required
//! feature is supported, every group that was asked for has tests that passed, and nothing failed. Device Tester leaves
//! out groups without a word if `device.json` does not claim their feature.

use agent_types::events::{Finding, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::testimage::verdict::JudgedTest;

use super::reports::{Feature, QualificationReport};
use super::signing;
use super::summary::Summary;
use crate::junit::{Case, SuiteReport};

/// What was to be tested.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// With its version: `GGV2Q_2.5.4`.
    pub suite: &'a str,
    pub groups: &'a [String],
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub console: Summary,
    /// The reports of this run, or why there are none.
    pub reports: Result<(QualificationReport, SuiteReport), String>,
    /// Why the agent stopped it, or how it crashed.
    pub bad_end: Option<Outcome>,
}

/// The judgement of a run.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub outcome: Outcome,
    pub tests: Vec<JudgedTest>,
    pub findings: Vec<Finding>,
}

/// Judges a run.
pub fn judge(asked: &Asked, evidence: &Evidence, unit: &Unit) -> Judgement {
    let (qualification, suite) = match &evidence.reports {
        Ok(reports) => reports,
        Err(why) => {
            let outcome = evidence.bad_end.clone();
            let outcome =
                outcome.unwrap_or_else(|| Outcome::Failed(format!("Device Tester left no report: {why}")));
            return Judgement { outcome, tests: Vec::new(), findings: Vec::new() };
        }
    };
    let mut tests: Vec<JudgedTest> = suite
        .groups
        .iter()
        .flat_map(|group| group.cases.iter().map(|case| judged(&group.name, case)))
        .collect();
    tests.extend(missing_groups(asked, suite));
    tests.extend(qualification.features.iter().filter(|feature| feature.required).map(required_feature));
    let outcome = match (&evidence.bad_end, contradiction(evidence, qualification, suite)) {
        (Some(bad), _) => bad.clone(),
        // Another run would say the same.
        (None, Some(what)) => Outcome::Failed(format!("Device Tester contradicts itself: {what}")),
        (None, None) => outcome(asked, qualification, suite, &tests),
    };
    Judgement { outcome, findings: findings(asked, qualification, unit), tests }
}

fn judged(group: &str, case: &Case) -> JudgedTest {
    let why =
        |text: &str, word: &str| match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
            Some(line) => line.to_owned(),
            None => word.to_owned(),
        };
    let outcome = match (&case.failure, &case.error, case.skipped) {
        (Some(text), _, _) => Outcome::Failed(why(text, "it failed")),
        (None, Some(text), _) => {
            Outcome::Failed(format!("error in the test: {}", why(text, "without a message")))
        }
        (None, None, true) => Outcome::Skipped("Device Tester skipped it".into()),
        (None, None, false) => Outcome::Passed,
    };
    let message = [&case.failure, &case.error].into_iter().flatten().cloned().collect::<Vec<_>>().join("\n");
    JudgedTest { class: group.to_owned(), name: case.name.clone(), outcome, message, seconds: case.seconds }
}

/// A case for each group that was asked for and has no test that ran.
fn missing_groups(asked: &Asked, suite: &SuiteReport) -> Vec<JudgedTest> {
    let ran = |name: &String| {
        let group = suite.groups.iter().filter(|group| group.name == *name);
        group.flat_map(|group| &group.cases).any(|case| !case.skipped)
    };
    let missing = asked.groups.iter().filter(|name| !ran(name));
    let judged = missing.map(|name| JudgedTest {
        class: name.clone(),
        name: "group".into(),
        outcome: Outcome::NotRun(format!(
            "no test of the group `{name}` ran; Device Tester leaves it out if the lab's features do not claim it"
        )),
        message: String::new(),
        seconds: None,
    });
    judged.collect()
}

fn required_feature(feature: &Feature) -> JudgedTest {
    let outcome = match feature.value.as_str() {
        "supported" => Outcome::Passed,
        "" => Outcome::Failed("the report does not say whether this required feature is supported".into()),
        other => Outcome::Failed(format!("this required feature is `{other}`")),
    };
    JudgedTest {
        class: "features".into(),
        name: feature.name.clone(),
        outcome,
        message: String::new(),
        seconds: None,
    }
}

/// What in the evidence excludes each other.
fn contradiction(
    evidence: &Evidence,
    qualification: &QualificationReport,
    suite: &SuiteReport,
) -> Option<String> {
    if let Some(what) = suite.miscount() {
        return Some(what);
    }
    if let Some(again) = &qualification.suite
        && outcomes(again) != outcomes(suite)
    {
        return Some("its two reports have different tests or outcomes".into());
    }
    let console = &evidence.console;
    let bad = suite.cases().filter(|case| case.is_bad()).count() as u64;
    let passed = suite.cases().filter(|case| case.passed()).count() as u64;
    let differs = |what: &str, said: Option<u64>, counted: u64| {
        said.filter(|said| *said != counted)
            .map(|said| format!("its console says that {said} tests {what}, its report {counted}"))
    };
    if let Some(what) = differs("failed", console.failed, bad).or(differs("passed", console.passed, passed)) {
        return Some(what);
    }
    let group_differs = |(name, word): (&String, &String)| {
        let group = suite.groups.iter().find(|group| group.name == *name)?;
        let is_bad = group.cases.iter().any(Case::is_bad);
        let says_bad = word.eq_ignore_ascii_case("failed") || word.eq_ignore_ascii_case("error");
        (is_bad != says_bad && (says_bad || word.eq_ignore_ascii_case("passed")))
            .then(|| format!("its console says `{word}` of the group {name}, its report the opposite"))
    };
    console.groups.iter().find_map(group_differs)
}

/// The tests and their outcomes, in any order.
fn outcomes(suite: &SuiteReport) -> Vec<(&str, &str, bool, bool)> {
    let cases = suite.groups.iter().flat_map(|group| {
        group.cases.iter().map(|case| (&*group.name, &*case.name, case.is_bad(), case.skipped))
    });
    let mut all: Vec<_> = cases.collect();
    all.sort_unstable();
    all
}

fn outcome(
    asked: &Asked,
    qualification: &QualificationReport,
    suite: &SuiteReport,
    tests: &[JudgedTest],
) -> Outcome {
    if qualification.suite_version != asked.suite
        && asked.suite.rsplit('_').next() != Some(&qualification.suite_version)
    {
        return Outcome::Failed(format!(
            "the report is about the suite `{}`, not {}",
            qualification.suite_version.escape_debug(),
            asked.suite
        ));
    }
    let bad: Vec<&JudgedTest> = tests.iter().filter(|test| !test.outcome.is_success()).collect();
    if let [first, more @ ..] = bad.as_slice() {
        let why = first.outcome.reason().unwrap_or("it did not pass");
        let others = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
        return Outcome::Failed(format!("{}: {why}{others}", first.id()));
    }
    if suite.cases().next().is_none() {
        return Outcome::Failed("not a single test ran".into());
    }
    if !suite.cases().any(Case::passed) {
        return Outcome::Failed("every test was skipped: nothing was proved".into());
    }
    if signing::is_qualification(asked.suite)
        && !qualification.features.iter().any(|feature| feature.required)
    {
        return Outcome::Failed(
            "the report names no required feature, so the device is not qualified".into(),
        );
    }
    Outcome::Passed
}

fn findings(asked: &Asked, qualification: &QualificationReport, unit: &Unit) -> Vec<Finding> {
    if let Some(unsigned) = signing::unsigned(asked.suite) {
        let hint = format!("{} (source: {})", unsigned.instead, unsigned.source);
        return vec![Finding::warning(unit, "device-tester-unsigned", unsigned.why.into(), &hint)];
    }
    if signing::is_qualification(asked.suite) && qualification.signature.is_empty() {
        let message = format!("the report of {} has no signature, so AWS does not accept it", asked.suite);
        let hint = "run the whole suite with a version of Device Tester that AWS supports";
        return vec![Finding::warning(unit, "device-tester-unsigned", message, hint)];
    }
    Vec::new()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "verdict_tests.rs"]
mod tests;
