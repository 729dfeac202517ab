//! Runs a [`Command`] from start to end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use crate::error::Result;
use crate::events::{Emitter, What};
use crate::job::Stage;

use super::{Command, Interrupt, Redactor};

/// Listens to a child's output.
pub trait Lines: Send {
    /// One line without its end, decoded lossily and redacted. The events that it means are emitted
    /// in order; while the listeners are behind, the child waits.
    fn line(&mut self, line: &str) -> Vec<What>;
}

/// For children whose output only goes to the log.
impl Lines for () {
    fn line(&mut self, _: &str) -> Vec<What> {
        Vec::new()
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    /// By a signal that the agent did not send.
    Signalled(i32),
    /// By the agent, because of a signal to the job.
    Cancelled,
    /// By the agent, because of the job's limit or the command's own.
    TimedOut,
    /// By the agent, because it was silent for this long.
    Stalled(Duration),
}

/// A child that is gone.
#[derive(Clone, Debug)]
pub struct Finished {
    pub end: End,
    /// Its whole output, absolute.
    pub log: PathBuf,
    /// Bytes of output.
    pub bytes: u64,
    pub elapsed: Duration,
    /// The last lines of output, redacted: for messages when there is nothing better.
    pub tail: Vec<String>,
}

impl Finished {
    pub fn success(&self) -> bool {
        self.end == End::Exited(0)
    }
}

/// Runs children for one stage. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runner {
    pub stage: Stage,
    pub events: Emitter,
    pub interrupt: Interrupt,
    pub redactor: Redactor,
    /// Absolute; where the logs go.
    pub logs: PathBuf,
    /// A child that is silent for this long is stopped.
    pub stall: Duration,
    /// Between a polite signal and SIGKILL.
    pub grace: Duration,
    /// The number of the last command, shared by all runners of the job.
    pub commands: Arc<AtomicU32>,
}

impl Runner {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// When it could not be started, its log not written, or its group not ended.
    pub async fn run(&self, _command: Command, _lines: &mut dyn Lines) -> Result<Finished> {
        unimplemented!()
    }
}
