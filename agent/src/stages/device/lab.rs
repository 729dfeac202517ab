//! Submits the request to a lab, and takes over its result.

use std::path::Path;
use std::time::SystemTime;

use agent_devices::queue::Queue;
use agent_devices::request::{RequestFile, RequestTrust, Verdict, layout};
use agent_process::{Interrupted, Runner};
use agent_types::error::{Class, Error, Result};
use agent_types::events::{DeviceRequested, EventKind, JobIdentity, Unit};
use agent_types::outcome::{ExitStatus, Outcome};

use super::files::DeviceFile;
use super::lab_result::{LIMIT, LabResult};
use super::request::request;
use super::wait::{Waited, cancel, wait};
use crate::config::{DeviceTests, DeviceWait, Settings};

/// Uploads the files, submits the request and, if the manifest says so, waits for the verdict.
pub async fn run(
    settings: &Settings,
    device: &DeviceTests,
    job: &JobIdentity,
    files: Vec<DeviceFile>,
    unit: &Unit,
    runner: &Runner,
) -> Result<Outcome> {
    let destination = &settings.artifacts.destination;
    let prepare = async {
        let queue = Queue::open(destination, settings.artifacts.kms_key_id.as_deref()).await?;
        let files = upload(&queue, files).await?;
        Ok::<_, Error>((queue, files))
    };
    let (queue, files) = runner.interrupt.or(prepare).await.map_err(stopped)??;
    let id = job.id.as_str();
    let request = request(device, job, id, RequestTrust::Trusted, files, SystemTime::now());
    let submitted = runner.interrupt.or(queue.submit(&request)).await.map_err(stopped);
    if let Err(error) = submitted.and_then(|submitted| submitted) {
        // It may be there all the same.
        cancel(&queue, id, "the job that made it was stopped, or got no answer", runner).await;
        return Err(error);
    }
    let requested = DeviceRequested {
        id: id.to_owned(),
        pool: device.pool.clone(),
        image: device.image.clone(),
        address: queue.store().shown(&layout::of_request(id)),
        waits: device.wait != DeviceWait::No,
    };
    runner.events.emit(EventKind::DeviceRequested(requested)).await;
    let DeviceWait::AtMost(limit) = device.wait else {
        let why = format!("requested as {id}; the result is posted when a device has tested it");
        return Ok(Outcome::Skipped(why));
    };
    let verdict = match wait(&queue, id, limit, runner).await? {
        Waited::Ended(verdict) => *verdict,
        Waited::Interrupted(why) => return Ok(super::super::interrupted(why)),
        Waited::TooLong => {
            let limit = humantime::format_duration(limit);
            return Ok(Outcome::TimedOut(format!(
                "no device had a result within {limit}, the limit of [device] wait; the request is cancelled"
            )));
        }
    };
    if let Some(attempt) = verdict.attempt {
        take_over(&queue, id, attempt, &verdict, device, unit, runner).await?;
    }
    judge(verdict)
}

async fn upload(queue: &Queue, files: Vec<DeviceFile>) -> Result<Vec<RequestFile>> {
    let mut stored = Vec::new();
    for file in files {
        let DeviceFile { role, name, file } = file;
        let digest = queue.put_open(file, Path::new(&name)).await?;
        stored.push(RequestFile { role, name, bytes: digest.bytes, sha256: digest.sha256 });
    }
    Ok(stored)
}

/// Emits what the lab tells about the attempt that counts.
async fn take_over(
    queue: &Queue,
    id: &str,
    attempt: u32,
    verdict: &Verdict,
    device: &DeviceTests,
    unit: &Unit,
    runner: &Runner,
) -> Result<()> {
    let reports = layout::reports(id, attempt);
    let path = format!("{reports}/result.json");
    let read = runner.interrupt.or(queue.store().read(&path, LIMIT)).await.map_err(stopped)?;
    let Some(bytes) = read? else {
        return Err(Error::upstream(format!("{} is missing", queue.store().shown(&path)))
            .hint("the lab that gave the verdict should have written it; look at its log"));
    };
    LabResult::parse(&bytes, verdict)?.emit(device.required, unit, &runner.events).await;
    let shown = queue.store().shown(&format!("{reports}/report.html"));
    runner.events.info(format!("the report of the device run: {shown}")).await;
    Ok(())
}

/// What the verdict means for the job. A lab that could not test is no failure of the image.
fn judge(verdict: Verdict) -> Result<Outcome> {
    let Verdict { exit, outcome, device, .. } = verdict;
    let on = device.map(|device| format!("{device}: ")).unwrap_or_default();
    let why = outcome.reason().unwrap_or("it gave no reason").to_owned();
    match (exit, outcome) {
        (ExitStatus::Passed, outcome @ (Outcome::Passed | Outcome::Flaky(_))) => Ok(outcome),
        (ExitStatus::Passed, Outcome::Skipped(why)) => {
            Ok(Outcome::Failed(format!("{on}nothing was tested: {why}")))
        }
        (ExitStatus::Failed, _) => Ok(Outcome::Failed(format!("{on}{why}"))),
        (ExitStatus::OutOfTime, _) => Ok(Outcome::TimedOut(format!("{on}{why}"))),
        (ExitStatus::Cancelled, _) => Ok(Outcome::NotRun(format!("{on}the request was cancelled: {why}"))),
        _ => Err(Error::upstream(format!("the lab could not test the image: {on}{why}"))
            .hint("build-agent lab devices shows which devices work; start the job again for a new request")),
    }
}

fn stopped(why: Interrupted) -> Error {
    let class = match why {
        Interrupted::Cancelled => Class::Cancelled,
        Interrupted::OutOfTime => Class::OutOfTime,
    };
    Error::new(class, "the job was stopped before the lab had a result")
}
