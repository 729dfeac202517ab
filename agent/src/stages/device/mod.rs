//! The part of the test stage for a device: a lab tests the image of the job's build, or the job tests it on a guest in
//! QEMU. See docs/devices.md.

mod files;
mod guest;
mod lab;
mod lab_result;
mod published;
mod request;
mod wait;

use agent_process::Runner;
use agent_types::affected::Affected;
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, Finding, JobIdentity, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::blocking;
use super::cleanup::{ServerEnd, UnitEnd};
use super::configure::BuildEnvironment;
use super::test::{Exported, export};
use crate::config::{DeviceRoute, DeviceTests, Settings};
use files::DeviceFile;
use lab_result::not_required;

pub use published::{PublishedFile, published};
pub use request::request;

/// The unit of the manifest's `[device]`. The steps of the lab are units of their own.
pub fn units(settings: &Settings) -> Vec<Unit> {
    settings.device.iter().map(unit).collect()
}

fn unit(device: &DeviceTests) -> Unit {
    Unit::new(Stage::Test, format!("device {} ({}) {}", device.pool, device.machine, device.image))
}

/// What the job has for the device.
#[derive(Clone, Copy)]
pub struct DeviceJob<'a> {
    pub settings: &'a Settings,
    pub configured: &'a BuildEnvironment,
    pub job: &'a JobIdentity,
    /// What the change affects, if it is known.
    pub affected: Option<&'a Affected>,
    pub runner: &'a Runner,
}

/// Tests the image on a device, or says why not.
pub async fn run(job: DeviceJob<'_>) -> Result<Outcome> {
    let Some(device) = &job.settings.device else {
        return Err(Error::internal("the manifest has no [device]"));
    };
    let unit = unit(device);
    let events = &job.runner.events;
    events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let ended = job.test(device, &unit).await;
    let stopped = job.runner.interrupt.state().is_some();
    if device.required || stopped {
        return match ended {
            Ok(end) => {
                let outcome = end.outcome.clone();
                end.report(ServerEnd::default(), events).await;
                Ok(outcome)
            }
            Err(error) => {
                UnitEnd::error(unit, &error).report(ServerEnd::default(), events).await;
                Err(error)
            }
        };
    }
    let end = ended.unwrap_or_else(|error| UnitEnd::error(unit.clone(), &error));
    if !end.outcome.is_success() {
        let message = format!("{}: {}", end.outcome.word(), end.outcome.reason().unwrap_or_default());
        let hint = "it does not fail the job, because [device] required is false";
        events.emit(EventKind::Finding(Finding::warning(&unit, "device", message, hint))).await;
    }
    let outcome = not_required(end.outcome);
    UnitEnd { outcome: outcome.clone(), ..end }.report(ServerEnd::default(), events).await;
    Ok(outcome)
}

impl DeviceJob<'_> {
    async fn test(&self, device: &DeviceTests, unit: &Unit) -> Result<UnitEnd> {
        let ended = |outcome| UnitEnd { unit: unit.clone(), outcome, log: None, excerpt: Vec::new() };
        let affected = self.affected.filter(|_| self.settings.build.changed);
        if affected.is_some_and(|affected| !affected.targets.contains(&device.image)) {
            return Ok(ended(Outcome::Skipped("the change does not affect this image".into())));
        }
        if let DeviceRoute::Closed(why) = &device.route {
            return Ok(ended(Outcome::Skipped(why.clone())));
        }
        if device.needs_export() {
            let Exported { outcome, log, excerpt } =
                export(self.settings, self.configured, device, unit, self.runner).await?;
            if outcome != Outcome::Passed {
                return Ok(UnitEnd { unit: unit.clone(), outcome, log, excerpt });
            }
        }
        let files = match self.files(device).await? {
            Ok(files) => files,
            Err(why) => return Ok(ended(Outcome::Failed(why))),
        };
        let Self { settings, job, runner, .. } = *self;
        let outcome = match &device.route {
            DeviceRoute::Submit => lab::run(settings, device, job, files, unit, runner).await?,
            DeviceRoute::Publish => Outcome::Skipped(
                "the job publishes the files, and a trusted step requests the tests (build-agent lab request)"
                    .into(),
            ),
            DeviceRoute::Guest => guest::run(settings, self.configured, device, job, files, runner).await?,
            DeviceRoute::Closed(why) => Outcome::Skipped(why.clone()),
        };
        Ok(ended(outcome))
    }

    async fn files(&self, device: &DeviceTests) -> Result<std::result::Result<Vec<DeviceFile>, String>> {
        let (build, device) = (self.configured.build.clone(), device.clone());
        let find = move || files::find(&build, &device);
        blocking(&self.runner.interrupt, "the files for the device were found", find).await
    }
}
