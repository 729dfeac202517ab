//! Runs BitBake or `oe-test` for tests, and says what its end, its output and its events prove.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Instrument;

use agent_process::{ActivityClock, Command, CommandOutcome, ExitReason, LineHandler, UntilStopped};
use agent_types::error::Result;
use agent_types::events::{EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::bitbake::Build;
use agent_yocto::testimage::conf::{EXPORT, RESULTS, SshTarget};
use agent_yocto::testimage::{cases, layer::TestLayer};

use super::super::cleanup::ServerEnd;
use super::super::{build, excerpt, step};
use super::files::BuildFiles;
use super::machine::MachineTests;
use agent_yocto::starter::Addition;

/// The tasks that run or export tests.
const TEST_TASKS: [&str; 2] = ["do_testimage", "do_testexport"];

/// What OE-Core says when the tests of an image took too long.
const OVERALL_TIMEOUT: &str = "Global test timeout reached";

/// How often the logs of the tests are looked at: they grow while BitBake is silent.
const LOOK: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Debug)]
pub struct ToolEnd {
    pub verdict: Result<Outcome>,
    /// Whether nothing else failed than a task that runs tests.
    pub only_tests_failed: bool,
    pub log: PathBuf,
    pub excerpt: Vec<String>,
}

/// A run of BitBake.
pub struct BitBakeRun<'a> {
    pub words: Vec<String>,
    /// The name of its log.
    pub log: String,
    /// For the tests of one image, with the boot of its system; `None`: no limit of its own.
    pub timeout: Option<Duration>,
    /// Where the logs of the tests grow.
    pub logs: Option<&'a Path>,
}

impl MachineTests<'_> {
    /// Runs BitBake in the build directory of the tests.
    pub async fn bitbake(&self, unit: &Unit, run: BitBakeRun<'_>) -> Result<ToolEnd> {
        let (settings, configured, runner) = (self.settings, self.configured, self.runner);
        let dir = settings.paths.test();
        let bitbake = configured.tools.bitbake.join("bin/bitbake");
        let starter = build::starter(settings, &bitbake);
        let (program, before) = match &starter {
            Ok(starter) => starter.command(&bitbake, &[Addition::Events]),
            Err(_) => (bitbake, Vec::new()),
        };
        let mut command = Command::new(program, &dir, run.log).args(before);
        if starter.is_ok() {
            // Without them the text tells enough.
            let _ = command.listen_to_events();
        }
        command = command.args(&run.words);
        command.environment = configured.environment(&dir);
        command.environment.set("MACHINE", self.machine);
        command.user = configured.user.clone();
        command.status = Some(format!("bitbake {}", run.words.join(" ")));
        self.limit(&mut command, run.timeout);
        let handler = Follower { build: Build::new(unit.clone()), timed_out: false };
        let mut lines = UntilStopped::new(handler, &command.stopping);
        let watch = self.touch_while_logs_grow(run.logs, command.activity.clone());
        let ended = tokio::select! {
            biased;
            ended = runner.run(command, &mut lines).instrument(step(unit)) => ended,
            never = watch => never,
        };
        let server = ServerEnd::stop(&dir, configured.user.as_ref(), runner).await;
        server.report(&runner.events).await;
        let finished = ended?;
        let Follower { build, timed_out } = lines.lines;
        let failures = build.failed_tasks(finished.success()).0;
        for failure in failures {
            let of_tests = failure.log.as_ref().is_none_or(|log| log.starts_with(&dir));
            let root = if of_tests { &dir } else { &configured.build };
            let failed = build::task_failed(unit, failure, root, runner);
            runner.events.emit(EventKind::TaskFailed(failed)).await;
        }
        let is_test = |task: &str| TEST_TASKS.contains(&task);
        let only_tests_failed =
            !failures.is_empty() && failures.iter().all(|failure| is_test(failure.task.as_str()));
        let verdict = match self.own_limit(&finished, timed_out) {
            Some(outcome) => Ok(outcome),
            None => build::judge(&build, &finished),
        };
        let shown = match &verdict {
            // The failed task has its own excerpt.
            Ok(outcome) if failures.is_empty() => excerpt(outcome, &finished),
            _ => Vec::new(),
        };
        let log = runner.relative_log(&finished.log);
        Ok(ToolEnd { verdict, only_tests_failed, log, excerpt: shown })
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
        let log = format!("oe-test-{image}-{}", self.machine);
        let address = format!("{}:{}", target.host, target.port);
        let mut command = Command::new(export.join("oe-test"), &export, log)
            .args(["runtime", "--json-result-dir"])
            .arg(dir.join(RESULTS))
            .arg("--output-log")
            .arg(dir.join("oe-test.log"))
            .args(["--target-type", "simpleremote", "--target-ip", &address, "--server-ip", &target.server])
            .args(["--packages-manifest", "data/manifest", "--test-data-file", "data/testdata.json"]);
        command.environment = configured.environment(&dir);
        command.environment.set(cases::PLAN_VARIABLE, layer.plan());
        command.user = configured.user.clone();
        command.status = Some(format!("oe-test {image}"));
        self.limit(&mut command, Some(timeout));
        let (logs, mut lines) = (self.export_logs(image), ());
        let watch = self.touch_while_logs_grow(Some(&logs), command.activity.clone());
        let ended = tokio::select! {
            biased;
            ended = runner.run(command, &mut lines).instrument(step(unit)) => ended,
            never = watch => never,
        };
        let finished = ended?;
        let verdict = match (self.own_limit(&finished, false), finished.end) {
            (Some(outcome), _) => outcome,
            (None, ExitReason::Exited(0)) => Outcome::Passed,
            (None, ExitReason::Exited(1)) => Outcome::Failed("oe-test ended with exit status 1".into()),
            (None, _) => super::super::check::ended_badly("oe-test", &finished),
        };
        let only_tests_failed = finished.end == ExitReason::Exited(1);
        let (log, excerpt) = (runner.relative_log(&finished.log), excerpt(&verdict, &finished));
        Ok(ToolEnd { verdict: Ok(verdict), only_tests_failed, log, excerpt })
    }

    /// Where the suite for ptests keeps its logs when BitBake does not run it.
    pub fn export_logs(&self, image: &str) -> PathBuf {
        self.settings.paths.test().join(agent_yocto::testimage::conf::LOGS).join(image)
    }

    fn limit(&self, command: &mut Command, timeout: Option<Duration>) {
        let Some(timeout) = timeout else { return };
        command.timeout = Some(timeout);
        // The suite for ptests must have the time to stop a silent one, and to say so.
        let patience = self.settings.test.silence * 2 + Duration::from_secs(120);
        command.stall = Some(self.settings.limits.stall.max(patience));
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

    /// Never ends. Tests are silent for BitBake until the last of them is over; their logs are not.
    async fn touch_while_logs_grow<T>(&self, logs: Option<&Path>, activity: ActivityClock) -> T {
        let Some(logs) = logs else { return std::future::pending().await };
        let mut last = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let (files, logs) = (self.files(logs), logs.to_owned());
            let size = tokio::task::spawn_blocking(move || files.size(&logs)).await.unwrap_or(last);
            if size != last {
                activity.touch();
            }
            last = size;
        }
    }

    /// The files of the directory in which this path lies: that of the tests, or that of the job's build.
    pub fn files(&self, path: &Path) -> BuildFiles {
        let of_tests = self.settings.paths.test();
        let of_tests = Some(of_tests).filter(|dir| path.starts_with(dir) || path.is_relative());
        BuildFiles::new(of_tests.unwrap_or_else(|| self.configured.build.clone()))
    }
}

/// Follows BitBake, and notices when OE-Core itself stops the tests.
struct Follower {
    build: Build,
    timed_out: bool,
}

impl LineHandler for Follower {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.timed_out |= line.starts_with("WARNING: ") && line.contains(OVERALL_TIMEOUT);
        self.build.line(line)
    }

    fn progress(&mut self) -> Option<EventKind> {
        self.build.progress()
    }

    fn event(&mut self, line: &str) -> Vec<EventKind> {
        self.build.event(line)
    }

    fn status(&self) -> Option<String> {
        self.build.status()
    }
}
