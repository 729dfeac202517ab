//! What is new in this change: the job's result beside that of the commit in which the change began.

use agent_types::base_result::{BaseResult, KnownArtifact, KnownFinding, TestId};

use super::summary::Summary;

/// The difference between a job and its [`BaseResult`]. Every list is in the order of the report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Tests that fail, and did not fail or did not exist before.
    pub new_failures: Vec<TestId>,
    /// Tests that fail and failed before.
    pub still_failing: Vec<TestId>,
    /// Tests that failed before and pass.
    pub fixed: Vec<TestId>,
    /// Tests that existed before and have no outcome now.
    pub vanished: Vec<TestId>,
    /// Tests that failed and passed with equal signatures.
    pub flaky: Vec<TestId>,
    /// Places in [`Summary::findings`] of findings that the base does not have.
    pub new_findings: Vec<usize>,
    pub fixed_findings: Vec<KnownFinding>,
    pub sizes: Vec<SizeChange>,
}

/// A published file whose size differs, or that only one side has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeChange {
    /// As in the base; `None` for a new file.
    pub before: Option<KnownArtifact>,
    /// Bytes now; `None` if it is no longer published.
    pub after: Option<u64>,
}

impl Comparison {
    /// `None` if there is no result to compare with.
    pub fn of(summary: &Summary) -> Option<Comparison> {
        let base = summary.base.as_ref()?;
        Some(compare(summary, base))
    }
}

fn compare(_summary: &Summary, _base: &BaseResult) -> Comparison {
    Comparison::default()
}
