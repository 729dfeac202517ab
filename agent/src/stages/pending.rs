//! The units of a stage that have not started yet: each one gets an outcome, whatever ends the stage.

use agent_types::error::Error;
use agent_types::events::{Emitter, EventKind, Unit};
use agent_types::outcome::Outcome;

/// Reports the outcome of a unit that did not run.
pub async fn report_without_run(unit: Unit, outcome: Outcome, events: &Emitter) {
    events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    events.emit(EventKind::UnitFinished { unit, outcome, log: None, excerpt: Vec::new() }).await;
}

/// The units that a stage still has to run, in their order.
#[derive(Debug)]
pub struct Pending<'a> {
    events: &'a Emitter,
    units: Vec<Unit>,
}

impl<'a> Pending<'a> {
    pub fn new(units: Vec<Unit>, events: &'a Emitter) -> Pending<'a> {
        Pending { events, units }
    }

    /// The unit runs, and its outcome is reported by who runs it.
    pub fn start(&mut self, unit: &Unit) {
        let first = self.units.iter().position(|pending| pending == unit);
        first.map(|index| self.units.remove(index));
    }

    /// Reports each unit that was not started as not run.
    pub async fn not_run(self, why: &str) {
        for unit in self.units {
            report_without_run(unit, Outcome::NotRun(why.to_owned()), self.events).await;
        }
    }

    /// The same after the end of the stage: its outcome says why the rest did not run.
    pub async fn not_run_after(self, ended: Result<&Outcome, &Error>) {
        let why = match ended {
            Ok(outcome) => outcome.reason().unwrap_or("the stage ended before it"),
            Err(error) => &error.message,
        };
        self.not_run(&format!("not started: {why}")).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use agent_types::events::channel;
    use agent_types::stage::Stage;

    #[tokio::test]
    async fn what_was_not_started_is_not_run_and_says_why() {
        let (events, mut received) = channel();
        // The same unit may be asked for twice.
        let units: Vec<Unit> = ["a", "b", "b", "c"].map(|name| Unit::new(Stage::Check, name)).into();
        let mut pending = Pending::new(units, &events);
        pending.start(&Unit::new(Stage::Check, "b"));
        pending.start(&Unit::new(Stage::Check, "unknown"));
        pending.not_run_after(Err(&Error::machine("the disk is full").hint("x"))).await;
        drop(events);
        let mut finished = Vec::new();
        while let Some(event) = received.recv().await {
            if let EventKind::UnitFinished { unit, outcome, .. } = event.what {
                finished.push((unit.name, outcome));
            }
        }
        let why = || Outcome::NotRun("not started: the disk is full".into());
        assert_eq!(finished, [("a".into(), why()), ("b".into(), why()), ("c".into(), why())]);
    }
}
