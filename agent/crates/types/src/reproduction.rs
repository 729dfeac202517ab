//! What repeats a job elsewhere.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What repeats a job, in addition to its identity and the commits of its repositories. Without secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reproduction {
    /// The container image, as the build service names it; with its digest if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The repository of the layer under test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The pull request that has the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<u64>,
    /// The commit of the base whose rules applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// `--accept-manifest`
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepts_manifest: bool,
    /// The manifest's path in the checkout. `None` if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_path: Option<PathBuf>,
    /// The text of the manifest; `None` if the job had a built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// The text of the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
}
