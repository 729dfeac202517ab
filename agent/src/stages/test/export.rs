//! Exports OE-Core's tests of an image of the job's build, for a system that the job does not reach.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Instrument;

use agent_devices::request::DeviceTest;
use agent_process::{Command, ExitReason, Runner};
use agent_types::error::Result;
use agent_types::events::Unit;
use agent_types::outcome::Outcome;
use agent_yocto::testimage::conf::{EXPORT, LOGS, SshTarget, Target};

use super::super::configure::BuildEnvironment;
use super::super::{check, excerpt, step};
use super::context::MachineTests;
use super::tool::TestTask;
use super::{Setup, SetupInput};
use crate::config::{DeviceTests, Settings};

/// For BitBake and for `tar`. The task copies files; it tests nothing.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// How the export ended.
#[derive(Debug)]
pub struct Exported {
    pub outcome: Outcome,
    pub log: Option<PathBuf>,
    pub excerpt: Vec<String>,
}

/// Exports the tests of the image into an archive in the job's build directory, see [`DeviceTests::export`]. Its content
/// depends on the tests only.
pub async fn export(
    settings: &Settings,
    configured: &BuildEnvironment,
    device: &DeviceTests,
    unit: &Unit,
    runner: &Runner,
) -> Result<Exported> {
    let image = &device.image;
    let what = SetupInput {
        // The lab replaces the address.
        target: Target::Ssh(SshTarget { host: "127.0.0.1".into(), port: 22, server: "127.0.0.1".into() }),
        images: std::slice::from_ref(image),
        suites: &device.suites,
        ptest_image: device.tests.contains(&DeviceTest::Ptest).then_some(image.as_str()),
        timeout: device.run_limit,
        exports: true,
    };
    let setup = Setup::of(what, settings, configured, runner).await?;
    let tests = MachineTests { settings, configured, runner, setup: &setup, machine: &device.machine };
    let logs = setup.dir.join(LOGS).join(image);
    let log = format!("testexport-{image}-{}", device.machine);
    let task = TestTask { image, name: "testexport", log, timeout: TIMEOUT, logs: &logs };
    let end = tests.run_task(unit, task).await?;
    let outcome = end.verdict?;
    if outcome != Outcome::Passed {
        let outcome = outcome.map_reason(|why| format!("the tests could not be exported: {why}"));
        return Ok(Exported { outcome, log: Some(end.log), excerpt: end.excerpt });
    }
    let export = setup.dir.join(EXPORT).join(image);
    archive(configured, device, &export, unit, runner).await
}

/// Packs the directory as the user who owns it: the agent follows no links of layer code.
async fn archive(
    configured: &BuildEnvironment,
    device: &DeviceTests,
    export: &Path,
    unit: &Unit,
    runner: &Runner,
) -> Result<Exported> {
    let log = format!("testexport-archive-{}-{}", device.image, device.machine);
    let mut command = Command::new("tar", &configured.build, log)
        .args(["--create", "--format=gnu", "--sort=name", "--mtime=@0", "--owner=0", "--group=0"])
        .arg("--numeric-owner")
        .arg("--file")
        .arg(device.export())
        .arg("--directory")
        .arg(export)
        .arg(".");
    command.environment = configured.environment(&configured.build);
    command.user = configured.user.clone();
    command.timeout = Some(TIMEOUT);
    let finished = runner.run(command, &mut ()).instrument(step(unit)).await?;
    let outcome = match finished.end {
        ExitReason::Exited(0) => Outcome::Passed,
        _ => check::ended_badly("tar", &finished),
    };
    let (log, excerpt) = (runner.relative_log(&finished.log), excerpt(&outcome, &finished));
    Ok(Exported { outcome, log: Some(log), excerpt })
}
