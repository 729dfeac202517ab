//! All tests on one machine.

use agent_process::{Command, ExitReason, LineHandler, Runner};
use agent_types::error::{Error, Result};
use agent_types::events::{Case, EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::host;
use agent_yocto::testimage::query::{Answers, Question};
use agent_yocto::testimage::verdict::Judgement;

use super::super::cleanup::{ServerEnd, UnitEnd};
use super::super::configure::BuildEnvironment;
use super::super::pending::Pending;
use super::image::ImageEnd;
use super::{Setup, has_ptest_images, image_unit, machine_units, ptest_image, ptests_unit};
use crate::config::Settings;

/// Bytes of a test's log that a report shows, from its end.
const MESSAGE: usize = 16 * 1024;

/// The tests of one machine.
pub struct MachineTests<'a> {
    pub settings: &'a Settings,
    pub configured: &'a BuildEnvironment,
    pub runner: &'a Runner,
    pub setup: &'a Setup,
    pub machine: &'a str,
}

impl MachineTests<'_> {
    /// Runs them. The units that ran with their outcomes, and whether the stage has to stop. `recipes`: whose ptests
    /// shall run.
    pub async fn run(
        &self,
        recipes: &[String],
        pending: &mut Pending<'_>,
    ) -> Result<(Vec<(Unit, Outcome)>, bool)> {
        let test = &self.settings.test;
        let question = Question { images: test.images.clone(), recipes: recipes.to_vec() };
        let mut outcomes = Vec::new();
        let answers = match self.ask(&question).await? {
            Ok(answers) => answers,
            Err(why) => {
                let Some(unit) = machine_units(self.settings, self.machine).into_iter().next() else {
                    return Ok((outcomes, true));
                };
                pending.start(&unit);
                self.runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
                let outcome = self.report(&unit, Ok(ImageEnd::of(Outcome::Failed(why)))).await?;
                return Ok((vec![(unit, outcome)], true));
            }
        };
        for name in &test.images {
            let unit = image_unit(name, self.machine);
            pending.start(&unit);
            self.runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
            let with = (ptest_image(self.settings) == Some(name)).then_some(&answers.recipes[..]);
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

    /// Asks BitBake about images and recipes; its answers, or why it has none. This parses all recipes; the runs of BitBake
    /// after it need not.
    pub async fn ask(&self, question: &Question) -> Result<std::result::Result<Answers, String>> {
        let (configured, runner, dir) = (self.configured, self.runner, self.settings.paths.test());
        let file = self.setup.layer.path().join("question.json");
        let text = serde_json::to_string(question)
            .map_err(|error| Error::internal("cannot write a question to BitBake").because(&error))?;
        fs_err::write(&file, text)?;
        let log = format!("test-query-{}", self.machine);
        let mut command = Command::new("python3", &dir, log).arg(self.setup.layer.query_script()).arg(file);
        command.environment = configured.environment(&dir);
        command.environment.set("MACHINE", self.machine);
        command.environment.set("PYTHONDONTWRITEBYTECODE", "1");
        command.user = configured.user.clone();
        command.status = Some(format!("query of images and recipes for {}", self.machine));
        let mut reader = AnswerReader(Answers::default());
        let ended = runner.run(command, &mut reader).await;
        ServerEnd::stop(&dir, configured.user.as_ref(), runner).await.report(&runner.events).await;
        let finished = ended?;
        if let Some(why) = runner.interrupt.state() {
            let outcome = super::super::interrupted(why);
            let class = match why {
                agent_process::Interrupted::Cancelled => agent_types::error::Class::Cancelled,
                agent_process::Interrupted::OutOfTime => agent_types::error::Class::OutOfTime,
            };
            return Err(Error::new(class, outcome.reason().unwrap_or_default()));
        }
        let missing = reader.0.missing(question);
        if finished.end == ExitReason::Exited(0) && missing.is_empty() {
            return Ok(Ok(reader.0));
        }
        let tail = finished.tail.join("\n");
        let line = finished.tail.iter().rev().find(|line| line.contains("ERROR") || line.contains("Error: "));
        let why = line.map_or_else(|| "its log says why".to_owned(), |line| line.trim().to_owned());
        match host::trouble(&tail) {
            Some(trouble) => Err(trouble),
            None => {
                let log = runner.relative_log(&finished.log);
                Ok(Err(format!(
                    "the query of the images and recipes to test failed: {why} ({})",
                    log.display()
                )))
            }
        }
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

/// Collects the answers.
struct AnswerReader(Answers);

impl LineHandler for AnswerReader {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.0.line(line);
        Vec::new()
    }
}
