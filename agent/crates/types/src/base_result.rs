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
    /// Whether there were too many tests or findings, so that some are not here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Which failures fail a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailOn {
    #[default]
    All,
    /// Only those that the base of the change does not have.
    New,
}

impl FailOn {
    pub fn is_all(&self) -> bool {
        *self == FailOn::All
    }
}

/// The parts of a job that look only at what the change touches. What another change has there says nothing about this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeScope {
    /// Names of checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// Whether only changed recipes are built.
    #[serde(default, skip_serializing_if = "is_false")]
    pub build: bool,
    /// Whether only the ptests of changed recipes run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ptests: bool,
}

impl ChangeScope {
    pub fn is_empty(&self) -> bool {
        *self == ChangeScope::default()
    }
}

/// Where the reports of a job are stored for other people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAddress {
    /// The directory with the reports: a path, or `s3://BUCKET/KEY`.
    pub address: String,
    /// The page with the report, if the manifest has the address under which people read the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What a job stores about its commit, so that later jobs are compared with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredResult {
    /// [`StoredResult::SCHEMA`]
    pub schema: String,
    pub commit: String,
    /// Where the reports of the job lie, relative to the store.
    pub directory: String,
    #[serde(default)]
    pub tests: Vec<KnownTest>,
    #[serde(default)]
    pub findings: Vec<KnownFinding>,
    #[serde(default)]
    pub artifacts: Vec<KnownArtifact>,
    /// The job itself first, then earlier ones of its branch.
    #[serde(default)]
    pub recent: Vec<RecentJob>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
}

impl StoredResult {
    pub const SCHEMA: &str = "build-agent/stored-result/v1";

    /// Reads one of this commit.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn parse(bytes: &[u8], commit: &str) -> Result<StoredResult, String> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|error| format!("it is damaged: {error}"))?;
        if head.schema != StoredResult::SCHEMA {
            return Err(format!("its schema is `{}`, and not `{}`", head.schema, StoredResult::SCHEMA));
        }
        let stored: StoredResult =
            serde_json::from_slice(bytes).map_err(|error| format!("it is damaged: {error}"))?;
        match stored.commit == commit {
            true => Ok(stored),
            false => Err(format!("it is that of another commit, {}", stored.commit)),
        }
    }
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
    /// The first line of the reason, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The class of a failed BitBake task; its name is `RECIPE:TASK`, without the version.
pub const TASK: &str = "task";

/// Names a test in all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TestId {
    /// The suite of the report: `check.yocto-check-layer meta-x`.
    pub suite: String,
    /// Empty for a step itself; [`TASK`] for a BitBake task that failed in it.
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

impl OutcomeWord {
    /// Whether the test ran to its end.
    pub fn is_result(self) -> bool {
        matches!(self, OutcomeWord::Passed | OutcomeWord::Flaky | OutcomeWord::Failed)
    }
}

/// A finding of the earlier job, without the line: lines move.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownFinding {
    /// The suite of its step, as in [`TestId`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suite: String,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_result_is_used_only_if_it_is_one_of_the_commit() {
        let stored = StoredResult {
            schema: StoredResult::SCHEMA.into(),
            commit: "c".repeat(40),
            directory: "results/v1/x".into(),
            ..StoredResult::default()
        };
        let text = serde_json::to_string(&stored).unwrap();
        let parse = |text: &str| StoredResult::parse(text.as_bytes(), &stored.commit);
        assert_eq!(parse(&text), Ok(stored.clone()));
        // A newer agent may write more.
        assert_eq!(parse(&text.replacen('{', "{\"more\":[1],", 1)), Ok(stored.clone()));
        for (bad, wanted) in [
            (String::new(), "it is damaged"),
            ("[]".into(), "it is damaged"),
            (text[..text.len() - 5].into(), "it is damaged"),
            (text.replace("/v1\"", "/v2\""), "its schema is `build-agent/stored-result/v2`"),
            (text.replace("cccc", "cccd"), "it is that of another commit"),
            (text.replace("\"tests\":[]", "\"tests\":[{\"suite\":1}]"), "it is damaged"),
        ] {
            let why = parse(&bad).unwrap_err();
            assert!(why.starts_with(wanted), "{bad}: {why}");
        }
    }
}
