//! How far a long step is. For the console; no report keeps it.

use serde::{Deserialize, Serialize};

use super::Unit;

/// The state of a step, or of one of the programs that work for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub unit: Unit,
    /// Which of several programs that work for the step at the same time, e.g. a query to BitBake. Empty: the
    /// step itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub part: String,
    pub phase: Phase,
    pub done: u64,
    /// 0 when it is not known.
    pub total: u64,
    /// Of those that are done.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// What runs now; the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<Running>,
}

impl Progress {
    /// Of a step, or of a part of it, of which nothing more is known.
    pub fn new(unit: &Unit, part: &str, phase: Phase) -> Progress {
        let (unit, part) = (unit.clone(), part.to_owned());
        Progress { unit, part, phase, done: 0, total: 0, failed: 0, running: Vec::new() }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// BitBake reads its configuration.
    Starting,
    /// Entries of BitBake's parse cache.
    LoadingCache,
    /// Recipe files.
    Parsing,
    /// Per cent of BitBake's own preparations: the task graph.
    Preparing,
    /// Per cent of the objects of shared state that BitBake looks for on mirrors.
    CheckingSstate,
    /// Tasks that take their results from shared state.
    SetsceneTasks,
    Tasks,
    WritingSignatures,
    /// Tests of yocto-check-layer.
    Tests,
    /// Files of the artifacts.
    Uploading,
    /// The part has ended.
    Ended,
}

/// A task or a test that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// E.g. `linux-yocto:do_compile`.
    pub name: String,
    /// For how long, when this was told.
    pub seconds: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
