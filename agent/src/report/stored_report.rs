//! Stores the reports of a job by its commit: for people, and so that later jobs are compared with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use agent_artifacts::records::RecordStore;
use agent_artifacts::results;
use agent_fs::read;
use agent_process::blocking;
use agent_types::artifact::Destination;
use agent_types::base_result::{BaseResult, KnownTest, OutcomeWord, RecentJob, StoredResult, TestId};
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::comparison::{Present, is_out_of_scope};
use super::cost::Cost;
use super::known::{self, fails};
use super::reports::Report;
use super::result;
use super::summary::{STORED_REPORT, Summary};

/// For a bucket or a file server that answers slowly.
const DEADLINE: Duration = Duration::from_secs(60);

/// The files of the output directory that are stored. `result.json` is rendered, because it is written later.
const FILES: [&str; 2] = ["report.html", "junit.xml"];

/// Maximum bytes of a file that is stored.
const LARGEST: u64 = 64 << 20;

/// Maximum number of tests, of findings and of files that later jobs are compared with.
const MOST_TESTS: usize = 50_000;
const MOST_FINDINGS: usize = 20_000;
const MOST_FILES: usize = 20_000;

/// Jobs of the branch that are remembered for medians.
const RECENT: usize = 20;

/// Stores the reports below `root`.
pub struct StoredReport {
    pub out: PathBuf,
    pub root: Destination,
    /// Whether `root` is the share, which is mounted.
    pub is_share: bool,
    /// The part of it that the job writes.
    pub below: String,
    pub kms_key_id: Option<String>,
}

impl Report for StoredReport {
    fn name(&self) -> &'static str {
        STORED_REPORT
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn is_required(&self) -> bool {
        false
    }

    fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<()>> {
        let StoredReport { out, root, is_share, below, kms_key_id } = self;
        let (out, root, below, kms_key_id) = (out.clone(), root.clone(), below.clone(), kms_key_id.clone());
        let is_share = *is_share;
        Box::pin(async move {
            if summary.report.is_none() {
                return Err(Error::machine("the share cannot be written, as the job found out before"));
            }
            let store = results::open(&root, is_share, kms_key_id.as_deref()).await?;
            store_all(&store, &below, &out, &summary).await
        })
    }
}

/// Writes the reports, and last what later jobs read.
async fn store_all(store: &RecordStore, below: &str, out: &Path, summary: &Summary) -> Result<()> {
    let directory = results::joined(below, &results::directory(&summary.job));
    for name in FILES {
        let path = out.join(name);
        let content = blocking(move || match read::whole(&path, LARGEST) {
            Ok(content) => Ok(Some(content)),
            // It was not made; its own step says why.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::from(error)),
        });
        if let Some(content) = content.await? {
            store.write(&format!("{directory}/{name}"), content).await?;
        }
    }
    store.write(&format!("{directory}/result.json"), result::render(summary)?.into_bytes()).await?;
    let Some(commit) = comparable_commit(summary) else { return Ok(()) };
    let index = results::joined(below, &results::index(&summary.job, commit));
    // A damaged one is replaced.
    let earlier = store.read(&index, LARGEST).await.ok().flatten();
    let earlier = earlier.and_then(|bytes| StoredResult::parse(&bytes, commit).ok());
    let stored = stored_result(summary, commit, directory, earlier.as_ref());
    let failed = |error: serde_json::Error| Error::internal("cannot render a stored result").because(&error);
    store.write(&index, serde_json::to_vec(&stored).map_err(failed)?).await
}

/// The commit whose result this is; `None` if later jobs must not be compared with it: it is not that of a commit, or the
/// job was stopped or broke.
fn comparable_commit(summary: &Summary) -> Option<&str> {
    let has_verdict = matches!(summary.exit, ExitStatus::Passed | ExitStatus::Failed);
    summary.job.commit.as_deref().filter(|_| summary.complete && has_verdict && !summary.job.dirty)
}

/// What later jobs are compared with. Tests that this job did not look for keep their result of an earlier job: of the
/// same commit (`earlier`), or of the base.
fn stored_result(
    summary: &Summary,
    commit: &str,
    directory: String,
    earlier: Option<&StoredResult>,
) -> StoredResult {
    let base = summary.base.as_ref();
    let mut tests = known::tests(summary);
    if let Some(earlier) = earlier {
        mark_flaky(&mut tests, &earlier.tests);
    }
    let present = Present::of(&tests);
    let mut seen: HashMap<TestId, ()> = tests.iter().map(|test| (test.id.clone(), ())).collect();
    let before = earlier.map(|earlier| &earlier.tests).into_iter().chain(base.map(|base| &base.tests));
    let mut kept: Vec<KnownTest> = Vec::new();
    for test in before.flatten().filter(|test| is_out_of_scope(summary, &present, &test.id)) {
        if seen.insert(test.id.clone(), ()).is_none() {
            kept.push(test.clone());
        }
    }
    let mut findings: Vec<_> = summary.findings.iter().map(known::finding).collect();
    findings.retain(|finding| !is_partial(summary, &finding.suite));
    let known = earlier.map(|earlier| &earlier.findings).or(base.map(|base| &base.findings));
    let left_out = |suite: &str| {
        let id = TestId { suite: suite.to_owned(), ..TestId::default() };
        is_out_of_scope(summary, &present, &id) && !present.has(suite)
    };
    findings.extend(known.into_iter().flatten().filter(|finding| left_out(&finding.suite)).cloned());
    tests.append(&mut kept);
    let mut artifacts = known::artifacts(summary);
    if artifacts.is_empty() {
        let known = earlier.map(|earlier| &earlier.artifacts).or(base.map(|base| &base.artifacts));
        artifacts = known.cloned().unwrap_or_default();
    }
    let truncated = tests.len() > MOST_TESTS || findings.len() > MOST_FINDINGS;
    tests.truncate(MOST_TESTS);
    findings.truncate(MOST_FINDINGS);
    artifacts.truncate(MOST_FILES);
    StoredResult {
        schema: StoredResult::SCHEMA.to_owned(),
        commit: commit.to_owned(),
        directory,
        tests,
        findings,
        artifacts,
        recent: recent(summary, base),
        truncated,
    }
}

/// Whether the step looks only at what the change touches, so that what it finds says nothing about another change.
fn is_partial(summary: &Summary, suite: &str) -> bool {
    let name = suite.strip_prefix("check.");
    name.is_some_and(|name| summary.change_scope.checks.iter().any(|check| check == name))
}

/// Tests that failed and passed with equal signatures in two jobs of the commit.
fn mark_flaky(tests: &mut [KnownTest], earlier: &[KnownTest]) {
    let earlier: HashMap<&TestId, &KnownTest> = earlier.iter().map(|test| (&test.id, test)).collect();
    for test in tests {
        let Some(old) = earlier.get(&test.id) else { continue };
        let same = test.signature.is_some() && test.signature == old.signature;
        let passes = |test: &KnownTest| matches!(test.outcome, OutcomeWord::Passed | OutcomeWord::Flaky);
        let was_flaky = old.outcome == OutcomeWord::Flaky && passes(test);
        if same && (passes(test) && fails(old) || fails(test) && passes(old) || was_flaky) {
            test.outcome = OutcomeWord::Flaky;
        }
    }
}

/// This job and those before it.
fn recent(summary: &Summary, base: Option<&BaseResult>) -> Vec<RecentJob> {
    // Without the machine, the price is only a part of the job's.
    let cost = Cost::of_job(summary).filter(|cost| cost.machine.is_some());
    let own = RecentJob { seconds: summary.seconds, usd: cost.map(|cost| cost.usd) };
    let before = base.into_iter().flat_map(|base| &base.recent).copied();
    std::iter::once(own).chain(before).take(RECENT).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "stored_report_tests.rs"]
mod tests;
