//! What was ended when processes were stopped.

use super::processes::Process;

/// More processes than this are not told by name.
const NAMED: usize = 20;

/// What `end_leftovers` did.
#[derive(Debug, Default)]
pub(super) struct KillReport {
    pub processes: Vec<Process>,
    /// Not even SIGKILL helped, or the signal is not allowed.
    pub still_there: Vec<Process>,
    /// Some had to be ended that may never have been seen.
    pub kept_forking: bool,
    /// Some of them go on forking.
    pub outlived: bool,
}

impl KillReport {
    pub fn add(&mut self, left: &[Process]) {
        for process in left {
            if self.processes.len() < NAMED && !self.knows(process) {
                self.processes.push(process.clone());
            }
        }
    }

    pub fn knows(&self, process: &Process) -> bool {
        self.processes.iter().any(|one| (one.pid, one.started) == (process.pid, process.started))
    }
}
