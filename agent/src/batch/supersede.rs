//! Of the batches of one pull request, that of the newest commit continues, and the others are stopped.
//!
//! Each batch of a pull request has a variable that says what it tests. So a batch is stopped only if it was started by
//! `build-agent batch` for the same pull request and for another commit. Batches of branches have no such variable.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::codebuild::RunningBatch;
use crate::config::pull_request_of;

/// The variable of a batch.
pub const VARIABLE: &str = "BUILD_AGENT_BATCH_SOURCE";

/// The commit of a pull request that a batch tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSource {
    pub pull_request: u64,
    pub commit: String,
    /// When the build started that starts the batch: milliseconds since 1970. The batches themselves may start in another
    /// order.
    pub requested: u64,
}

impl BatchSource {
    /// `None`, if the version of the source is not that of a pull request.
    pub fn new(source_version: &str, commit: &str, requested: SystemTime) -> Option<BatchSource> {
        let since = requested.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(BatchSource {
            pull_request: pull_request_of(source_version)?,
            commit: commit.to_owned(),
            requested: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The value of the variable.
    pub fn value(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// `None`, if the batch has no variable, or its source has another version.
    fn of(batch: &RunningBatch) -> Option<BatchSource> {
        let source: BatchSource = serde_json::from_str(batch.variables.get(VARIABLE)?).ok()?;
        let version = pull_request_of(batch.source_version.as_deref()?);
        (version == Some(source.pull_request)).then_some(source)
    }
}

/// The batches to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Superseded {
    /// Those of older commits.
    pub older: Vec<String>,
    /// Whether there is one of a newer commit.
    pub is_own: bool,
}

/// Compares the batch of `own` with the others that run.
pub fn superseded(own: &BatchSource, running: &[RunningBatch]) -> Superseded {
    let mut found = Superseded::default();
    for batch in running {
        let Some(source) = BatchSource::of(batch) else { continue };
        if source.pull_request != own.pull_request || source.commit == own.commit {
            continue;
        }
        if source.requested < own.requested {
            found.older.push(batch.id.clone());
        }
        found.is_own |= source.requested > own.requested;
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn source(version: &str, commit: &str, seconds: u64) -> Option<BatchSource> {
        BatchSource::new(version, commit, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn batch(id: &str, version: Option<&str>, source: Option<BatchSource>) -> RunningBatch {
        let variable = source.map(|source| (VARIABLE.to_owned(), source.value()));
        RunningBatch {
            id: id.into(),
            source_version: version.map(str::to_owned),
            variables: variable.into_iter().collect(),
        }
    }

    #[test]
    fn only_other_commits_of_the_same_pull_request_are_compared() {
        let own = source("pr/7", "new", 100).unwrap();
        let older = |version| batch(version, Some(version), source(version, "old", 50));
        let running = [
            batch("own", Some("pr/7"), Some(own.clone())),
            older("pr/7"),
            older("refs/pull/7/head"),
            older("pr/7^{0123}"),
            older("pr/70"),
            older("pr/8"),
            batch("same commit", Some("pr/7"), source("pr/7", "new", 50)),
            batch("same time", Some("pr/7"), source("pr/7", "old", 100)),
            batch("a branch", Some("main"), source("pr/7", "old", 50)),
            batch("no version", None, source("pr/7", "old", 50)),
            batch("another number", Some("pr/7"), source("pr/8", "old", 50)),
            batch("no variable", Some("pr/7"), None),
        ];
        let found = superseded(&own, &running);
        assert_eq!(found.older, ["pr/7", "refs/pull/7/head", "pr/7^{0123}"]);
        assert!(!found.is_own);
    }

    /// A build that was slow starts its batch after that of a newer commit.
    #[test]
    fn a_batch_of_an_older_commit_gives_way() {
        let (old, new) = (source("pr/7", "old", 50).unwrap(), source("pr/7", "new", 100).unwrap());
        let running = [batch("b", Some("pr/7"), Some(new)), batch("a", Some("pr/7"), Some(old.clone()))];
        assert_eq!(superseded(&old, &running), Superseded { older: vec![], is_own: true });
    }

    #[test]
    fn branches_and_damaged_variables_are_none() {
        for version in ["main", "0123456789abcdef0123456789abcdef01234567", "pr/x", "refs/heads/pr/7", ""] {
            assert_eq!(source(version, "c", 1), None, "{version}");
        }
        for text in ["", "{}", "7", r#"{"pull_request":"7"}"#] {
            let mut other = batch("x", Some("pr/7"), None);
            other.variables.insert(VARIABLE.into(), text.into());
            assert_eq!(BatchSource::of(&other), None, "{text}");
        }
    }
}
