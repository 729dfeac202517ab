//! All tests on one machine.

use agent_types::error::Result;
use agent_types::events::{Case, EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::testimage::query::TestQuery;
use agent_yocto::testimage::verdict::Judgement;

use super::super::cleanup::{ServerEnd, UnitEnd};
use super::super::pending::Pending;
use super::context::MachineTests;
use super::image::ImageEnd;
use super::{has_ptest_images, image_unit, machine_units, ptest_image, ptests_unit};

/// Bytes of a test's log that a report shows, from its end.
const MESSAGE: usize = 16 * 1024;

impl MachineTests<'_> {
    /// Tests the images. Returns the units that ran with their outcomes, and whether the stage has to stop. `recipes`: those
    /// whose ptests run.
    pub async fn run(
        &self,
        images: &[String],
        recipes: &[String],
        pending: &mut Pending<'_>,
    ) -> Result<(Vec<(Unit, Outcome)>, bool)> {
        let query = TestQuery { images: images.to_vec(), recipes: recipes.to_vec() };
        let mut outcomes = Vec::new();
        let answers = match self.query(&query).await? {
            Ok(answers) => answers,
            Err(why) => {
                let first = images.first().map(|image| image_unit(image, self.machine));
                let Some(unit) = first.or_else(|| machine_units(self.settings, self.machine).pop()) else {
                    return Ok((outcomes, true));
                };
                pending.start(&unit);
                self.runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
                let outcome = self.report(&unit, Ok(ImageEnd::of(Outcome::Failed(why)))).await?;
                return Ok((vec![(unit, outcome)], true));
            }
        };
        for name in images {
            let unit = image_unit(name, self.machine);
            pending.start(&unit);
            self.runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
            let with = (ptest_image(self.settings) == Some(name.as_str())).then_some(&answers.recipes[..]);
            let ended = self.image(&unit, name, &answers, with).await;
            let outcome = self.report(&unit, ended).await?;
            let stop = self.stops(&outcome);
            outcomes.push((unit, outcome));
            if stop {
                return Ok((outcomes, true));
            }
        }
        if has_ptest_images(self.settings) {
            let unit = ptests_unit(self.machine);
            pending.start(&unit);
            self.runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
            let ended = self.ptests(&unit, &answers).await;
            let outcome = self.report(&unit, ended).await?;
            let stop = self.stops(&outcome);
            outcomes.push((unit, outcome));
            return Ok((outcomes, stop));
        }
        Ok((outcomes, false))
    }

    fn stops(&self, outcome: &Outcome) -> bool {
        !outcome.is_success() && (!self.settings.check.keep_going || outcome.was_stopped())
    }

    /// Reports the tests of a unit and its end.
    async fn report(&self, unit: &Unit, ended: Result<ImageEnd>) -> Result<Outcome> {
        let events = &self.runner.events;
        let end = match ended {
            Ok(end) => end,
            Err(error) => {
                UnitEnd::error(unit.clone(), &error).report(ServerEnd::default(), events).await;
                return Err(error);
            }
        };
        let ImageEnd { judgement: Judgement { outcome, tests, .. }, log, excerpt, findings } = end;
        for finding in findings {
            events.emit(EventKind::Finding(finding)).await;
        }
        for test in tests {
            let case = Case {
                unit: unit.clone(),
                class: test.class,
                name: test.name,
                outcome: test.outcome,
                message: end_of(&test.message).to_owned(),
                seconds: test.seconds,
            };
            events.emit(EventKind::Case(case)).await;
        }
        match outcome {
            Ok(outcome) => {
                let end = UnitEnd { unit: unit.clone(), outcome: outcome.clone(), log, excerpt };
                end.report(ServerEnd::default(), events).await;
                Ok(outcome)
            }
            Err(error) => {
                let outcome = super::super::error_outcome(&error);
                let end = UnitEnd { unit: unit.clone(), outcome, log, excerpt };
                end.report(ServerEnd::default(), events).await;
                Err(error)
            }
        }
    }
}

/// The end of a text, in whole characters.
fn end_of(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(MESSAGE))..]
}
