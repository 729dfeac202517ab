//! The common inputs of all tests of one machine, and the query for the images and recipes that they need.

use agent_process::{Command, ExitReason, LineHandler, Runner};
use agent_types::error::{Error, Result};
use agent_types::events::EventKind;
use agent_yocto::host;
use agent_yocto::testimage::query::{Answers, TestQuery};

use super::super::cleanup::ServerEnd;
use super::super::configure::BuildEnvironment;
use super::Setup;
use crate::config::Settings;

/// The tests of one machine.
pub struct MachineTests<'a> {
    pub settings: &'a Settings,
    pub configured: &'a BuildEnvironment,
    pub runner: &'a Runner,
    pub setup: &'a Setup,
    pub machine: &'a str,
}

impl MachineTests<'_> {
    /// Queries BitBake for images and recipes; the inner error is the reason why there are no answers. This parses all
    /// recipes, so that later runs of BitBake need not.
    pub async fn query(&self, query: &TestQuery) -> Result<std::result::Result<Answers, String>> {
        let (configured, runner, dir) = (self.configured, self.runner, self.settings.paths.test());
        let file = self.setup.layer.path().join("query.json");
        let text = serde_json::to_string(query)
            .map_err(|error| Error::internal("cannot write a query for BitBake").because(&error))?;
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
        let missing = reader.0.missing(query);
        if finished.end == ExitReason::Exited(0) && missing.is_empty() {
            return Ok(Ok(reader.0));
        }
        let tail = finished.tail.join("\n");
        let line = finished.tail.iter().rev().find(|line| line.contains("ERROR") || line.contains("Error: "));
        let why = line.map_or_else(|| "see its log".to_owned(), |line| line.trim().to_owned());
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
}

/// Collects the answers.
struct AnswerReader(Answers);

impl LineHandler for AnswerReader {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.0.line(line);
        Vec::new()
    }
}
