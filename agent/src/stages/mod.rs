//! The stages, one file each. A stage takes the settings and the earlier stages' outputs and
//! returns its own; it emits events and never formats a report.

pub mod affected;
mod base_files;
pub mod base_result;
pub mod build;
pub mod check;
mod check_layer;
pub mod checkout;
pub mod cleanup;
pub mod configure;
pub mod device;
pub mod hooks;
pub mod kvm;
mod layers;
pub mod pending;
pub mod publish;
mod retry;
pub mod share;
pub mod test;

use crate::config::{Ptest, Settings};
use agent_process::{CommandOutcome, Interrupt, Interrupted};
use agent_types::base_result::ChangeScope;
use agent_types::error::{Class, Error, Result};
use agent_types::events::Unit;
use agent_types::outcome::Outcome;

/// The parts of the job that look only at what the change touches.
pub fn change_scope(settings: &Settings) -> ChangeScope {
    ChangeScope {
        checks: check::changed_only(settings),
        build: settings.build.changed,
        ptests: settings.test.ptest == Ptest::Changed,
    }
}

/// The diagnostics of a step.
fn step(unit: &Unit) -> tracing::Span {
    tracing::info_span!("step", name = &*unit.name)
}

/// The outcome of work that had to stop early.
pub fn interrupted(why: Interrupted) -> Outcome {
    match why {
        Interrupted::Cancelled => Outcome::Cancelled("a signal stopped the job".into()),
        Interrupted::OutOfTime => Outcome::TimedOut("[limits] job is over".into()),
    }
}

/// The outcome of what could not do its part: it has not run; a cancel and the end of the time keep their names.
pub fn error_outcome(error: &Error) -> Outcome {
    match error.class {
        Class::Cancelled => Outcome::Cancelled(error.message.clone()),
        Class::OutOfTime => Outcome::TimedOut(error.message.clone()),
        _ => Outcome::NotRun(error.message.clone()),
    }
}

/// Does work that blocks (it walks, reads or deletes trees) beside the threads that everything else runs on. A stop
/// of the job does not wait for its end. `what`: as in "the job was stopped before …".
///
/// # Errors
/// The work's, and the stop.
pub async fn blocking<T: Send + 'static>(
    interrupt: &Interrupt,
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match interrupt.or(tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(broke)) => Err(Error::internal(format!("the agent broke before {what}")).because(&broke)),
        Err(why) => {
            let class = match why {
                Interrupted::Cancelled => Class::Cancelled,
                Interrupted::OutOfTime => Class::OutOfTime,
            };
            Err(Error::new(class, format!("the job was stopped before {what}")))
        }
    }
}

/// The last lines of a command, for its unit. Those of a cancelled one tell how it broke because of the signal.
fn excerpt(outcome: &Outcome, finished: &CommandOutcome) -> Vec<String> {
    let tells = !outcome.is_success() && !matches!(outcome, Outcome::Cancelled(_));
    if tells { finished.tail.clone() } else { Vec::new() }
}
