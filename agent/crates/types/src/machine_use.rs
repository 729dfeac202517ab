//! What a job used of its machine.

use serde::{Deserialize, Serialize};

/// The machine at one moment of the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineSample {
    /// In use by the control group (or the machine, if it has no limit), without the page cache. Bytes.
    pub memory_used: u64,
    /// What it may use. Bytes.
    pub memory_limit: u64,
    /// CPU time since the last sample, in percent of all processors that the job may use.
    pub cpu_percent: f64,
    /// Load average of one minute.
    pub load: f64,
    /// Free bytes of the work directory's file system.
    pub disk_free: u64,
    /// The programs that use most memory, the largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub largest: Vec<ProgramUse>,
}

/// All processes with one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramUse {
    pub name: String,
    pub processes: u64,
    /// Resident bytes of all of them.
    pub memory: u64,
}

/// What a BitBake task used, from OE's buildstats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskUsage {
    /// With its version, as in the events of the task; `mc:NAME:` before that of a multiconfig.
    pub recipe: String,
    pub task: String,
    /// User and system time of the task and its children.
    pub cpu_seconds: f64,
    /// Peak resident bytes of its largest process.
    pub peak_memory: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}
