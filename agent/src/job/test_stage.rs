//! The test stage: the tests of `[test]`, and then those on a device.

use crate::config::Settings;
use crate::stages::configure::BuildEnvironment;
use crate::stages::device::{self, DeviceJob};
use crate::stages::pending::Pending;
use crate::stages::test;
use agent_process::Runner;
use agent_types::affected::Affected;
use agent_types::error::{Error, Result};
use agent_types::events::JobIdentity;
use agent_types::outcome::Outcome;

/// Runs both; the worse outcome decides. A failure of the first skips the second, unless the job keeps going.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    affected: Option<&Affected>,
    job: &JobIdentity,
    runner: &Runner,
) -> Result<Outcome> {
    let tests = match settings.test.is_wanted() {
        true => Some(test::run(settings, configured, affected, runner).await),
        false => None,
    };
    if settings.device.is_none() {
        return tests.unwrap_or_else(|| Err(Error::internal("the test stage has nothing to test")));
    }
    let stop = match &tests {
        Some(Ok(outcome)) if outcome.is_success() => None,
        Some(Ok(outcome)) if settings.check.keep_going && !outcome.was_stopped() => None,
        Some(Ok(outcome)) => Some(outcome.reason().unwrap_or_default().to_owned()),
        Some(Err(error)) => Some(error.message.clone()),
        None => None,
    };
    if let (Some(why), Some(tests)) = (stop, &tests) {
        let units = device::units(settings);
        Pending::new(units, &runner.events).not_run(&format!("not started: {why}")).await;
        return tests.clone();
    }
    let device = device::run(DeviceJob { settings, configured, job, affected, runner });
    let both = [tests.transpose()?, Some(device.await?)];
    let worst = Outcome::worst(both.iter().flatten()).cloned();
    worst.ok_or_else(|| Error::internal("the test stage ran and tested nothing"))
}
