//! The result of an earlier job that the change under test is compared with, as far as the comparison needs it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// What is known about the state before the change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaseResult {
    /// The commit in which the change began.
    pub merge_base: String,
    /// The commit whose result this is: the merge base, or its nearest ancestor with a result.
    pub commit: String,
    /// Commits between them; 0 for the merge base itself.
    pub distance: u64,
    /// Where its `result.json` lies, for people.
    pub address: String,
    pub tests: Vec<KnownTest>,
    pub findings: Vec<KnownFinding>,
    pub artifacts: Vec<KnownArtifact>,
    /// The latest jobs of the same branch, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<RecentJob>,
}

/// A test of the earlier job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownTest {
    #[serde(flatten)]
    pub id: TestId,
    /// Without its reason.
    pub outcome: OutcomeWord,
    /// Of a recipe or a test that BitBake runs: a digest of all that it is made of. Two jobs with equal signatures that
    /// differ in the outcome prove that the test is flaky.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Names a test in all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TestId {
    /// The suite of the report: `check.yocto-check-layer meta-x`.
    pub suite: String,
    /// Empty for a step itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub class: String,
    pub name: String,
}

impl std::fmt::Display for TestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.class.is_empty() {
            true => write!(f, "{}: {}", self.suite, self.name),
            false => write!(f, "{}: {}.{}", self.suite, self.class, self.name),
        }
    }
}

/// [`Outcome`] without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeWord {
    Passed,
    Flaky,
    Failed,
    Skipped,
    NotRun,
    TimedOut,
    Cancelled,
    /// The agent or the machine could not do its part.
    Error,
}

impl From<&Outcome> for OutcomeWord {
    fn from(outcome: &Outcome) -> OutcomeWord {
        match outcome {
            Outcome::Passed => OutcomeWord::Passed,
            Outcome::Flaky(_) => OutcomeWord::Flaky,
            Outcome::Failed(_) => OutcomeWord::Failed,
            Outcome::Skipped(_) => OutcomeWord::Skipped,
            Outcome::NotRun(_) => OutcomeWord::NotRun,
            Outcome::TimedOut(_) => OutcomeWord::TimedOut,
            Outcome::Cancelled(_) => OutcomeWord::Cancelled,
        }
    }
}

/// A finding of the earlier job, without the line: lines move.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownFinding {
    pub rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    pub message: String,
}

/// A published file of the earlier job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownArtifact {
    pub path: PathBuf,
    pub bytes: u64,
}

/// An earlier job of the branch, for medians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecentJob {
    pub seconds: f64,
    /// `None` if the price of its machine is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
}
