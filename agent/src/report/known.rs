//! A job's result as later jobs compare with it: each test, finding and published file by a name that is the same in all
//! jobs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;
use sha2::{Digest, Sha256};

use agent_types::base_result::{KnownArtifact, KnownFinding, KnownTest, OutcomeWord, TASK, TestId};
use agent_types::events::{Finding, Unit};
use agent_types::stage::Stage;
use agent_types::truncate;
use agent_types::words::hexadecimal;

use super::summary::{Summary, UnitResult};
use super::totals::{AGENT, Status, Test, suites};

/// Maximum bytes of a finding's message and of a test's reason.
const TEXT: usize = 500;

/// Rules of the same finding: whether a CVE is new depends on the base of each job.
const CVE_RULES: [&str; 2] = ["cve-new", "cve-known"];

/// The rule that stands for [`CVE_RULES`].
pub const CVE: &str = "cve";

/// The suite of a step.
pub fn suite(unit: &Unit) -> String {
    format!("{}.{}", unit.stage, unit.name)
}

/// The stage of a suite; `None` for that of the agent.
pub fn stage(suite: &str) -> Option<Stage> {
    suite.split_once('.')?.0.parse().ok()
}

/// The tests of a job, in the order of the report. A step that fails because of BitBake tasks comes first and its failed
/// tasks after it, because the same step may fail for another task in another job.
pub fn tests(summary: &Summary) -> Vec<KnownTest> {
    let signature = signature(summary);
    let mut all = Vec::new();
    for suite in suites(summary) {
        for test in &suite.tests {
            let Some(known) = known(&suite.name, test, signature.as_deref()) else { continue };
            let tasks = match test.unit.filter(|_| test.is_unit() && fails(&known)) {
                Some(unit) => failed_tasks(summary, unit),
                None => Vec::new(),
            };
            all.push(known.clone());
            all.extend(tasks.into_iter().map(|name| KnownTest {
                id: TestId { suite: suite.name.clone(), class: TASK.to_owned(), name },
                reason: None,
                ..known.clone()
            }));
        }
    }
    all
}

fn known(suite: &str, test: &Test, signature: Option<&str>) -> Option<KnownTest> {
    let outcome = match test.status {
        Status::Outcome(outcome) => outcome,
        // What the agent or the machine could not do is no result of a test.
        Status::Error(_) => return None,
    };
    let word = OutcomeWord::from(outcome);
    let reason = outcome.reason().filter(|_| !outcome.is_success()).and_then(|why| why.lines().next());
    Some(KnownTest {
        id: TestId {
            suite: suite.to_owned(),
            class: test.class.to_owned(),
            // A step's name is in that of its suite.
            name: test.name.to_owned(),
        },
        outcome: word,
        signature: signature.filter(|_| suite != AGENT).map(str::to_owned),
        reason: reason.map(short),
    })
}

/// `zlib:do_compile`, each once.
fn failed_tasks(summary: &Summary, unit: &UnitResult) -> Vec<String> {
    let tasks = summary.failed_tasks.iter().filter(|task| unit.is(&task.unit));
    let mut seen = HashSet::new();
    let names = tasks.map(|task| format!("{}:{}", recipe_name(&task.recipe), task.task));
    names.filter(|name| seen.insert(name.clone())).collect()
}

/// `zlib` for `zlib-1.3.1-r0`: another version is the same recipe.
pub fn recipe_name(recipe: &str) -> &str {
    static VERSION: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^(.+)-[^-]+-r[0-9][^-]*$").ok());
    VERSION.as_ref().and_then(|version| version.captures(recipe)?.get(1)).map_or(recipe, |name| name.as_str())
}

/// What all tests of the job are made of: all files of the layer's commit, the commits of all other sources, the
/// configuration and the agent. `None` if a part is not known.
fn signature(summary: &Summary) -> Option<String> {
    let job = &summary.job;
    if job.dirty || summary.repos.is_empty() || summary.repos.iter().any(|repo| repo.how == "local") {
        return None;
    }
    let mut parts = vec![job.tree.as_deref()?, &summary.agent, &job.release];
    parts.extend(job.machines.iter().chain(&job.reproduce).map(String::as_str));
    for repo in &summary.repos {
        parts.extend([repo.name.as_str(), repo.commit.as_deref()?]);
        parts.extend(repo.patches_sha256.as_deref());
    }
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    Some(hexadecimal(&digest.finalize()[..16]))
}

/// A finding without its line, and without what changes although the finding does not.
pub fn finding(finding: &Finding) -> KnownFinding {
    let is_cve = CVE_RULES.contains(&finding.rule.as_str());
    let message = is_cve.then(|| cve(&finding.message)).flatten();
    KnownFinding {
        suite: suite(&finding.unit),
        rule: if is_cve { CVE.to_owned() } else { finding.rule.clone() },
        file: finding.file.clone(),
        message: message.unwrap_or_else(|| short(&finding.message)),
    }
}

/// `zlib CVE-2024-1` of a message of the CVE check: version, score and summary change.
fn cve(message: &str) -> Option<String> {
    static MESSAGE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^(\S+) \S* ?has (CVE-[0-9]+-[0-9]+)").ok());
    let found = MESSAGE.as_ref()?.captures(message)?;
    Some(format!("{} {}", &found[1], &found[2]))
}

/// The files that the job published, without links.
pub fn artifacts(summary: &Summary) -> Vec<KnownArtifact> {
    let files = summary.artifacts.iter().filter(|artifact| artifact.link.is_none());
    files.map(|artifact| KnownArtifact { path: artifact.path.clone(), bytes: artifact.bytes }).collect()
}

/// The name of a published file in all jobs: that of an image has the time of its build.
pub fn artifact_key(path: &Path) -> PathBuf {
    static TIME: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(^|[^0-9])20[0-9]{12}([^0-9]|$)").ok());
    let text = path.to_string_lossy();
    match TIME.as_ref() {
        Some(time) => PathBuf::from(time.replace_all(&text, "$1*$2").into_owned()),
        None => path.to_owned(),
    }
}

/// A reason without its numbers: times and counts differ from job to job.
pub fn without_numbers(reason: &str) -> String {
    reason.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

fn short(text: &str) -> String {
    let mut text = text.to_owned();
    truncate::middle(&mut text, TEXT);
    text
}

/// Whether this is an outcome of the step itself, and not of one of its tests.
pub fn is_step(id: &TestId) -> bool {
    id.class.is_empty() || id.suite == AGENT
}

/// Whether it failed by itself: a test that was stopped together with its step did not.
pub fn fails(test: &KnownTest) -> bool {
    match test.outcome {
        OutcomeWord::Failed => true,
        OutcomeWord::TimedOut => is_step(&test.id),
        _ => false,
    }
}
