//! The channel between the stages and the listeners.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::stage::Stage;

use super::{Event, EventKind, Level, Progress, Unit};

/// The stages' end of the channel. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Emitter {
    sender: mpsc::Sender<Event>,
    activity: Arc<Mutex<Activity>>,
}

/// What runs now, as far as it was told.
#[derive(Debug, Default)]
struct Activity {
    stage: Option<Stage>,
    /// With what each does, e.g. the running test.
    units: Vec<(Unit, Vec<String>)>,
}

/// Names of running tests or tasks that are told.
const MOST_RUNNING: usize = 3;

impl Activity {
    fn note(&mut self, what: &EventKind) {
        match what {
            EventKind::StageStarted { stage } => self.stage = Some(*stage),
            EventKind::StageFinished { stage, .. } if self.stage == Some(*stage) => self.stage = None,
            EventKind::UnitStarted { unit } => self.units.push((unit.clone(), Vec::new())),
            EventKind::UnitFinished { unit, .. } => self.units.retain(|(known, _)| known != unit),
            EventKind::Progress(Progress { unit, running, part, .. }) if part.is_empty() => {
                if let Some((_, known)) = self.units.iter_mut().find(|(known, _)| known == unit) {
                    *known = running.iter().map(|running| running.name.clone()).collect();
                }
            }
            _ => {}
        }
    }

    fn in_words(&self) -> String {
        let unit = |(unit, running): &(Unit, Vec<String>)| match running.len() {
            0 => unit.name.clone(),
            1..=MOST_RUNNING => format!("{} ({})", unit.name, running.join(", ")),
            all => format!(
                "{} ({} and {} more)",
                unit.name,
                running[..MOST_RUNNING].join(", "),
                all - MOST_RUNNING
            ),
        };
        match (self.units.is_empty(), self.stage) {
            (false, _) => self.units.iter().map(unit).collect::<Vec<_>>().join(", "),
            (true, Some(stage)) => stage.to_string(),
            (true, None) => "the job".into(),
        }
    }
}

/// Knows what runs. Does not keep the channel open.
#[derive(Clone, Debug)]
pub struct WhatRuns(Arc<Mutex<Activity>>);

impl WhatRuns {
    /// For people: `yocto-check-layer meta-x (test_world)`.
    pub fn in_words(&self) -> String {
        // A panic elsewhere leaves the lists whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).in_words()
    }
}

impl Emitter {
    /// Sends the event with the present time. Waits when listeners are behind, so that a flood of
    /// output slows its source down and not the memory up.
    pub async fn emit(&self, what: EventKind) {
        self.activity().note(&what);
        // A closed channel means that the job is over; there is nobody left to tell.
        let _ = self.sender.send(Event::now(what)).await;
    }

    /// What runs now, for people: `yocto-check-layer meta-x (test_world)`.
    pub fn what_runs(&self) -> String {
        self.activity().in_words()
    }

    /// Tells later what runs then.
    pub fn watch(&self) -> WhatRuns {
        WhatRuns(self.activity.clone())
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        // A panic elsewhere leaves the lists whole.
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn info(&self, message: impl Into<String>) {
        self.emit(EventKind::Notice { level: Level::Info, message: message.into(), hint: None }).await;
    }

    pub async fn warn(&self, message: impl Into<String>, hint: Option<String>) {
        self.emit(EventKind::Notice { level: Level::Warning, message: message.into(), hint }).await;
    }
}

/// The channel between the stages and the listeners.
pub fn channel() -> (Emitter, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(1024);
    (Emitter { sender, activity: Arc::default() }, receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Phase, Running};
    use crate::outcome::Outcome;

    #[tokio::test]
    async fn what_runs_follows_the_events() {
        let (events, _received) = channel();
        let check = Unit::new(Stage::Check, "yocto-check-layer meta-x");
        let image = Unit::new(Stage::Build, "core-image-minimal");
        let progress = |unit: &Unit, running: &[&str]| {
            let running = running.iter().map(|name| Running { name: (*name).to_owned(), seconds: 1 });
            EventKind::Progress(Progress {
                running: running.collect(),
                ..Progress::new(unit, "", Phase::Tasks)
            })
        };
        let finished = |unit: &Unit| EventKind::UnitFinished {
            unit: unit.clone(),
            outcome: Outcome::Passed,
            log: None,
            excerpt: Vec::new(),
        };
        assert_eq!(events.what_runs(), "the job");
        for (what, wanted) in [
            (EventKind::StageStarted { stage: Stage::Check }, "check"),
            (EventKind::UnitStarted { unit: check.clone() }, "yocto-check-layer meta-x"),
            (progress(&check, &["test_world"]), "yocto-check-layer meta-x (test_world)"),
            (progress(&image, &["of nothing that was begun"]), "yocto-check-layer meta-x (test_world)"),
            (
                EventKind::UnitStarted { unit: image.clone() },
                "yocto-check-layer meta-x (test_world), core-image-minimal",
            ),
            (finished(&check), "core-image-minimal"),
            (progress(&image, &["a", "b", "c"]), "core-image-minimal (a, b, c)"),
            (progress(&image, &["a", "b", "c", "d", "e"]), "core-image-minimal (a, b, c and 2 more)"),
            (finished(&image), "check"),
            (EventKind::StageFinished { stage: Stage::Check, outcome: Outcome::Passed }, "the job"),
        ] {
            events.emit(what).await;
            assert_eq!(events.what_runs(), wanted);
        }
    }
}
