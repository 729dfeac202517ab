//! Stages outside of a job: their notices and commands go to standard error, nothing is recorded.

use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::error::{Error, Result};
use crate::events;
use crate::exec::{Redactor, Runner};
use crate::job;
use crate::report;

use super::job::{listen_for_signals, runner};

/// A runner whose events are only shown.
pub struct Quiet {
    pub runner: Runner,
    listener: JoinHandle<()>,
}

impl Quiet {
    pub fn new(settings: &Settings) -> Result<Quiet> {
        report::prepare_out(&settings.places.out)?;
        let (emitter, receiver) = events::channel();
        let redactor = Redactor::new(&settings.secrets);
        let interrupt = job::interrupt(settings);
        listen_for_signals(&interrupt)?;
        let listener = tokio::spawn(report::show(receiver, redactor.clone()));
        Ok(Quiet { runner: runner(settings, emitter, interrupt, redactor), listener })
    }

    /// Shows what is still under way.
    pub async fn end(self) -> Result<()> {
        drop(self.runner);
        self.listener.await.map_err(|error| Error::internal("the listener of events broke").because(&error))
    }
}
