//! The job that the events are about.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base_result::{ChangeScope, FailOn};
use crate::job_id::JobId;
use crate::prices::JobPrices;
use crate::reproduction::Reproduction;
use crate::stage::Stage;

/// The head of every event file: what is going to happen to what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStarted {
    pub schema: String,
    /// Version of the agent.
    pub agent: String,
    pub job: JobIdentity,
    pub plan: Vec<Planned>,
    #[serde(default, skip_serializing_if = "FailOn::is_all")]
    pub fail_on: FailOn,
    #[serde(default, skip_serializing_if = "ChangeScope::is_empty")]
    pub change_scope: ChangeScope,
    /// What the machine and its traffic cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<JobPrices>,
    /// What repeats the job elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduction: Option<Reproduction>,
}

/// What the job is about, as far as it enters reports and artifact keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobIdentity {
    /// Unique among all jobs of all machines.
    #[serde(default, skip_serializing_if = "JobId::is_empty")]
    pub id: JobId,
    pub name: String,
    pub release: String,
    /// The machines of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
    /// The cell of the manifest's matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// The commit of the layer under test; `None` when it is not in git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Git's id of all files of the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// Whether the checkout has uncommitted changes.
    #[serde(default)]
    pub dirty: bool,
    /// Distinguishes builds of one commit: CodeBuild's build number, GitHub's run, or a local time stamp.
    pub build: String,
    /// CodeBuild's id of the build that runs the job; several jobs of one build have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codebuild: Option<String>,
    pub layer: PathBuf,
    pub manifest: String,
    /// The command that repeats this job elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reproduce: Vec<String>,
    /// The page of this build at CodeBuild or GitHub, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A stage of the plan; `skip` says why it will not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    pub stage: Stage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<String>,
}

impl Planned {
    /// The reason of a stage that `--only` skips.
    pub const NOT_NAMED: &str = "not named by --only";

    /// The reason of a stage that `--skip` skips.
    pub fn skipped_by_flag(stage: Stage) -> String {
        format!("--skip {stage}")
    }

    /// Whether a flag of the command line leaves the stage out, and not the manifest.
    pub fn is_left_out_by_flag(&self) -> bool {
        self.skip
            .as_ref()
            .is_some_and(|why| why == Planned::NOT_NAMED || *why == Planned::skipped_by_flag(self.stage))
    }
}
