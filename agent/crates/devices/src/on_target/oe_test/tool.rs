//! Runs `oe-test`: OE-Core's exported tests against a system that answers ssh, without BitBake.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_process::{ActivityClock, Command, CommandOutcome, ExitReason, Runner};
use agent_types::error::Result;
use agent_yocto::testimage::cases;
use agent_yocto::testimage::conf::SshTarget;
use agent_yocto::testimage::files::BuildFiles;

/// Interval at which the size of the tests' logs is read: they grow while the tests are silent.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The suite for ptests needs time to stop a silent one, and to report it.
pub fn stall_limit(stall: Duration, silence: Duration) -> Duration {
    stall.max(silence * 2 + Duration::from_secs(120))
}

/// A run of exported tests.
pub struct OeTest<'a> {
    /// The directory with `oe-test`.
    pub export: &'a Path,
    /// Modules of the export; empty: all of them.
    pub modules: Vec<String>,
    pub target: &'a SshTarget,
    /// The directory for `testresults.json`.
    pub results: PathBuf,
    /// The file for `oe-test`'s own log.
    pub output_log: PathBuf,
    /// The plan of the suite for ptests.
    pub plan: PathBuf,
    /// Where that suite keeps its logs.
    pub logs: &'a Path,
    /// How the logs are read.
    pub files: BuildFiles,
    /// Environment, user and limits. Its words are replaced.
    pub command: Command,
}

impl OeTest<'_> {
    /// Runs the tests to their end.
    ///
    /// # Errors
    /// When they could not be started.
    pub async fn run(self, runner: &Runner) -> Result<CommandOutcome> {
        let mut command = self.command;
        command.argv = vec![self.export.join("oe-test").into()];
        command.cwd = self.export.to_owned();
        let address = format!("{}:{}", self.target.host, self.target.port);
        command = command.arg("runtime");
        if !self.modules.is_empty() {
            // It takes all words up to the next option.
            command = command.arg("--run-tests").args(&self.modules);
        }
        command = command
            .arg("--json-result-dir")
            .arg(&self.results)
            .arg("--output-log")
            .arg(&self.output_log)
            .args(["--target-type", "simpleremote", "--target-ip", &address])
            .args(["--server-ip", &self.target.server])
            .args(["--packages-manifest", "data/manifest", "--test-data-file", "data/testdata.json"]);
        command.environment.set(cases::PLAN_VARIABLE, &self.plan);
        let watch = touch_while_growing(&self.files, self.logs, command.activity.clone());
        let mut lines = ();
        tokio::select! {
            biased;
            ended = runner.run(command, &mut lines) => ended,
            never = watch => never,
        }
    }
}

/// Whether the tests ran to their end: `oe-test` ends with 1 if a test failed.
pub fn only_tests_failed(finished: &CommandOutcome) -> bool {
    finished.end == ExitReason::Exited(1)
}

/// Never ends. Nothing is printed until the last test ends, but the logs of the tests grow.
pub async fn touch_while_growing<T>(files: &BuildFiles, logs: &Path, activity: ActivityClock) -> T {
    let mut last = 0;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let (files, logs) = (files.clone(), logs.to_owned());
        let size = tokio::task::spawn_blocking(move || files.size(&logs)).await.unwrap_or(last);
        if size != last {
            activity.touch();
        }
        last = size;
    }
}
