//! Runs BitBake or `oe-test` for tests, and judges its exit status, its output and its events.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Instrument;

use agent_devices::on_target::oe_test::tool::{self, OeTest};
use agent_process::{ActivityClock, Command, CommandOutcome, ExitReason};
use agent_types::error::Result;
use agent_types::events::Unit;
use agent_types::outcome::Outcome;
use agent_yocto::task_failure::TEST_TASKS;
use agent_yocto::testimage::conf::{EXPORT, RESULTS, SshTarget};
use agent_yocto::testimage::files::BuildFiles;
use agent_yocto::testimage::layer::TestLayer;

use super::super::build::attempts::{self, Attempted};
use super::super::build::bitbake::{Machine, Ran, Request, TestLimits};
use super::super::build::failed_task::{self, FailedTask};
use super::super::build::verdict;
use super::super::{excerpt, step};
use super::context::MachineTests;

/// How a program ended.
#[derive(Debug)]
pub struct ToolEnd {
    pub verdict: Result<Outcome>,
    /// Whether nothing else failed than a task that runs tests.
    pub only_tests_failed: bool,
    pub log: PathBuf,
    pub excerpt: Vec<String>,
}

/// A task that runs the tests of an image, or exports them.
pub struct TestTask<'a> {
    pub image: &'a str,
    /// `testimage` or `testexport`
    pub name: &'static str,
    /// The name of its log.
    pub log: String,
    /// For all tests, with the boot of the system.
    pub timeout: Duration,
    /// Where the logs of the tests grow.
    pub logs: &'a Path,
}

impl MachineTests<'_> {
    /// BitBake in the build directory of the tests.
    fn machine(&self) -> Machine<'_> {
        let MachineTests { settings, configured, runner, setup, machine: name } = *self;
        Machine { name, settings, configured, dir: &setup.dir, runner }
    }

    /// Builds an image.
    pub async fn build_image(&self, unit: &Unit, image: &str) -> Result<ToolEnd> {
        let machine = self.machine();
        let log = format!("test-build-{image}-{}", self.machine);
        let targets = [image.to_owned()];
        let built = attempts::build(&machine, unit, &log, false, &targets).instrument(step(unit)).await;
        let Attempted { result, servers } = built;
        Attempted::report_servers(servers, &machine).await;
        let (ran, failed) = result?;
        Ok(self.end_of(unit, &ran, &failed, verdict::judge(&ran, &failed)).await)
    }

    /// Runs the task.
    pub async fn run_task(&self, unit: &Unit, task: TestTask<'_>) -> Result<ToolEnd> {
        let machine = self.machine();
        let activity = ActivityClock::default();
        let limits = TestLimits { timeout: task.timeout, stall: self.stall(), activity: activity.clone() };
        let request = Request {
            unit,
            log: task.log,
            keep_going: false,
            runall: None,
            targets: vec![format!("{}:do_{}", task.image, task.name)],
            postread: None,
            limits: Some(limits),
        };
        let files = self.files(task.logs);
        let (ran, server) = tokio::select! {
            biased;
            ended = machine.bitbake(request).instrument(step(unit)) => ended,
            never = tool::touch_while_growing(&files, task.logs, activity) => never,
        };
        server.report(&self.runner.events).await;
        let ran = ran?;
        let failed = failed_task::failed_tasks(&ran, &machine);
        let verdict = match self.own_limit(&ran.finished, ran.build.tests_timed_out) {
            Some(outcome) => Ok(outcome),
            None => verdict::judge(&ran, &failed),
        };
        Ok(self.end_of(unit, &ran, &failed, verdict).await)
    }

    /// Reports the failed tasks, and returns how the run ended.
    async fn end_of(
        &self,
        unit: &Unit,
        ran: &Ran,
        failed: &[FailedTask],
        verdict: Result<Outcome>,
    ) -> ToolEnd {
        failed_task::report(failed, unit, self.runner).await;
        let is_test = |task: &FailedTask| TEST_TASKS.contains(&task.failure.task.as_str());
        ToolEnd {
            only_tests_failed: !failed.is_empty() && failed.iter().all(is_test),
            log: self.runner.relative_log(&ran.finished.log),
            excerpt: verdict.as_ref().map_or_else(|_| Vec::new(), |outcome| verdict::excerpt(ran, outcome)),
            verdict,
        }
    }

    /// Runs the exported tests of an image: OE-Core's test runner without BitBake.
    pub async fn oe_test(
        &self,
        unit: &Unit,
        image: &str,
        target: &SshTarget,
        layer: &TestLayer,
        timeout: Duration,
    ) -> Result<ToolEnd> {
        let (configured, runner, dir) = (self.configured, self.runner, self.settings.paths.test());
        let export = dir.join(EXPORT).join(image);
        let mut command = Command::new("oe-test", &export, format!("oe-test-{image}-{}", self.machine));
        command.environment = configured.environment(&dir);
        command.user = configured.user.clone();
        command.status = Some(format!("oe-test {image}"));
        command.timeout = Some(timeout);
        command.stall = Some(self.stall());
        let logs = self.export_logs(image);
        let oe_test = OeTest {
            export: &export,
            modules: Vec::new(),
            target,
            results: dir.join(RESULTS),
            output_log: dir.join("oe-test.log"),
            plan: layer.plan(),
            logs: &logs,
            files: self.files(&logs),
            command,
        };
        let finished = oe_test.run(runner).instrument(step(unit)).await?;
        let verdict = match (self.own_limit(&finished, false), finished.end) {
            (Some(outcome), _) => outcome,
            (None, ExitReason::Exited(0)) => Outcome::Passed,
            (None, ExitReason::Exited(1)) => Outcome::Failed("oe-test ended with exit status 1".into()),
            (None, _) => super::super::check::ended_badly("oe-test", &finished),
        };
        let only_tests_failed = tool::only_tests_failed(&finished);
        let (log, excerpt) = (runner.relative_log(&finished.log), excerpt(&verdict, &finished));
        Ok(ToolEnd { verdict: Ok(verdict), only_tests_failed, log, excerpt })
    }

    /// Where the suite for ptests keeps its logs when BitBake does not run it.
    pub fn export_logs(&self, image: &str) -> PathBuf {
        self.settings.paths.test().join(agent_yocto::testimage::conf::LOGS).join(image)
    }

    /// The time limit without activity.
    fn stall(&self) -> Duration {
        tool::stall_limit(self.settings.limits.stall, self.settings.test.silence)
    }

    /// The outcome of tests that took longer than the manifest allows.
    fn own_limit(&self, finished: &CommandOutcome, timed_out: bool) -> Option<Outcome> {
        if self.runner.interrupt.state().is_some() {
            return None;
        }
        let limit = humantime::format_duration(self.settings.test.timeout);
        let why = format!("its tests did not end within {limit}, the limit of [test] timeout");
        (timed_out || finished.end == ExitReason::TimedOut).then_some(Outcome::TimedOut(why))
    }

    /// The files of the build directory that contains this path: that of the tests, or that of the job's build.
    pub fn files(&self, path: &Path) -> BuildFiles {
        let of_tests = self.settings.paths.test();
        let of_tests = Some(of_tests).filter(|dir| path.starts_with(dir) || path.is_relative());
        BuildFiles::new(of_tests.unwrap_or_else(|| self.configured.build.clone()))
    }
}
