//! The stages, one file each. A stage takes the settings and the earlier stages' outputs and
//! returns its own; it emits events and never formats a report.

pub mod build;
pub mod check;
mod check_layer;
pub mod checkout;
pub mod configure;
pub mod publish;
pub mod share;

use agent_process::{CommandOutcome, Interrupted};
use agent_types::events::Unit;
use agent_types::outcome::Outcome;

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

/// The last lines of a command, for its unit. Those of a cancelled one tell how it broke because of the signal.
fn excerpt(outcome: &Outcome, finished: &CommandOutcome) -> Vec<String> {
    let tells = !outcome.is_success() && !matches!(outcome, Outcome::Cancelled(_));
    if tells { finished.tail.clone() } else { Vec::new() }
}
