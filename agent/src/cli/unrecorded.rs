//! Runs stages outside of a job: notices and commands go to standard error, and no reports are written.

use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::job::{self, StopNotice};
use crate::report::{self, Plain, Recorded, Style};
use agent_process::{Redactor, Runner};
use agent_types::error::{Error, Result};
use agent_types::events::{self, EventKind};
use agent_types::outcome::{ExitStatus, Outcome};

use super::job::{listen_for_signals, runner};

/// A runner whose events go only to the console.
pub struct UnrecordedRun {
    pub runner: Runner,
    notice: StopNotice,
    listener: JoinHandle<Recorded>,
    /// Deleted at the end. Reports and logs of an earlier job are not changed.
    _logs: TempDir,
}

impl UnrecordedRun {
    pub fn new(settings: &Settings, redactor: Redactor) -> Result<UnrecordedRun> {
        let logs = tempfile::Builder::new()
            .prefix("build-agent-")
            .tempdir()
            .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
        let (emitter, receiver) = events::channel();
        let interrupt = job::interrupt(settings);
        listen_for_signals(&interrupt)?;
        let console = Box::new(Plain::new(std::io::stderr(), Style::PLAIN));
        let listener = tokio::spawn(report::show(receiver, redactor.clone(), console));
        let notice = StopNotice::watch(&interrupt, &emitter, settings.limits.grace);
        let mut runner = runner(settings, emitter, interrupt, redactor);
        runner.logs = logs.path().to_path_buf();
        Ok(UnrecordedRun { runner, notice, listener, _logs: logs })
    }

    /// Prints the remaining events and ends the listener.
    pub async fn end(self) -> Result<()> {
        // Emitted here, because otherwise the listener would derive a verdict for a job.
        let end = EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed };
        self.runner.events.emit(end).await;
        drop((self.notice, self.runner));
        let listened = self.listener.await;
        listened.map(drop).map_err(|error| Error::internal("the event listener panicked").because(&error))
    }
}
