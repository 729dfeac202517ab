//! Devices of a LAVA server. LAVA leases, flashes, boots and tests devices: here a job is submitted, watched, cancelled if
//! the attempt has to stop, and judged.
//!
//! The job's template belongs to the lab. It has a test definition for each test that a request can name: `runtime`,
//! `ptest`, `commands`, `idt-SUITE`.

mod client;
mod template;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;

use agent_process::Runner;
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use crate::fence::Fence;
use crate::junit::parse_suite;
use crate::lab::{Control, Device, Lab, Lava};
use crate::on_target;
use crate::provider::{Attempt, AttemptEnd, Provider};
use crate::test_run::{TestEnd, stop_reason};
use client::{Client, Job};
use verdict::{Judgement, Part};

/// Bytes of a job's template.
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// Lines of the device's console for the excerpt of a failure.
const CONSOLE_LINES: usize = 200;

/// For the cancellation of a job, and what is read after the attempt had to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(30);

/// Runs requests as jobs of LAVA.
#[derive(Clone, Copy, Debug, Default)]
pub struct LavaProvider;

impl Provider for LavaProvider {
    fn run<'a>(&'a self, attempt: Attempt<'a>) -> BoxFuture<'a, Result<AttemptEnd>> {
        Box::pin(run(attempt))
    }

    fn check_health<'a>(
        &'a self,
        _: &'a Lab,
        device: &'a Device,
        _: &'a Fence,
        _: &'a Path,
        _: &'a Runner,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Client::open(lava_of(device)?, None)?.check().await })
    }
}

fn lava_of(device: &Device) -> Result<&Lava> {
    match &device.control {
        Control::Lava(lava) => Ok(lava),
        _ => Err(Error::internal(format!("the device {} is not one of LAVA", device.name))),
    }
}

async fn run(attempt: Attempt<'_>) -> Result<AttemptEnd> {
    let lava = lava_of(attempt.device)?;
    let client = Client::open(lava, None)?;
    let template = agent_fs::untrusted::read_text(&lava.job, TEMPLATE_LIMIT)?;
    let definition = template::render(&template, lava, &attempt).map_err(|why| {
        Error::usage(format!("{}: {why}", lava.job.display())).hint("fix the job template of the lab")
    })?;
    let running = RunningJob::of(attempt.lab.state.as_path(), &attempt.device.name);
    running.cancel_older(&client).await;
    let unit = Unit::new(Stage::Test, format!("lava {} on {}", attempt.request.image, attempt.device.name));
    attempt.runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let ended = run_job(&attempt, &client, &definition, &running).await;
    let (judgement, console) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            let outcome = stop_reason(&attempt).unwrap_or_else(|| Outcome::NotRun(error.message.clone()));
            TestEnd::of(outcome.clone()).report(&unit, &attempt.runner.events).await;
            return match outcome {
                Outcome::NotRun(_) => Err(error),
                stopped => Ok(AttemptEnd::Tested(stopped)),
            };
        }
    };
    report(&attempt, unit, &judgement, console).await;
    Ok(judgement.end)
}

/// Submits the job, waits for its end, and judges it. Also, the last lines of the device's console.
async fn run_job(
    attempt: &Attempt<'_>,
    client: &Client,
    definition: &template::Definition,
    running: &RunningJob,
) -> Result<(Judgement, Vec<String>)> {
    let interrupt = &attempt.runner.interrupt;
    attempt.fence.check()?;
    let id = match client.submit(&definition.yaml, &definition.name, interrupt).await {
        Ok(id) => id,
        Err(error) => {
            // The job may be there although its answer is not.
            let _ = tokio::time::timeout(LAST_REQUESTS, client.cancel_named(&definition.name)).await;
            return Err(error);
        }
    };
    running.record(id)?;
    attempt.runner.events.info(format!("the job {id} of LAVA runs the request")).await;
    let watched = tokio::select! {
        biased;
        () = attempt.fence.lost() => Ok(None),
        job = watch(attempt, client, id) => job,
    };
    let job = match watched {
        Ok(Some(job)) => job,
        stopped_or_failed => {
            let cancelled = tokio::time::timeout(LAST_REQUESTS, client.cancel(id)).await;
            match cancelled {
                Ok(Ok(())) => running.forget(),
                Ok(Err(error)) => attempt.runner.events.warn(error.message, error.hint).await,
                Err(_) => {
                    let hint = format!(
                        "cancel the job {id} in LAVA; the next attempt on this device cancels it, too"
                    );
                    attempt
                        .runner
                        .events
                        .warn("LAVA does not answer the cancellation of its job", Some(hint))
                        .await;
                }
            }
            let gone = || {
                Error::new(
                    agent_types::error::Class::Cancelled,
                    format!("the job {id} of LAVA was cancelled"),
                )
            };
            return Err(stopped_or_failed.err().unwrap_or_else(gone));
        }
    };
    running.forget();
    let results = client.junit(id, interrupt).await?;
    let error_type = match job.health.as_str() {
        "Incomplete" => client.error_type(id, interrupt).await?,
        _ => None,
    };
    let log = client.log(id, interrupt).await.unwrap_or_default();
    let kept = attempt.runner.keep_text(&format!("lava-{id}"), &log);
    if let Err(error) = kept {
        attempt.runner.events.warn(error.message, error.hint).await;
    }
    let judgement =
        verdict::judge(&attempt.request.tests, &job, error_type.as_deref(), parse_suite(&results))?;
    Ok((judgement, console_lines(&log)))
}

/// Waits for the end of the job; `None`: the attempt has to stop.
async fn watch(attempt: &Attempt<'_>, client: &Client, id: u64) -> Result<Option<Job>> {
    let interrupt = &attempt.runner.interrupt;
    let mut state = String::new();
    loop {
        if interrupt.state().is_some() {
            return Ok(None);
        }
        let job = client.job(id, interrupt).await?;
        if job.state != state {
            let device = job.actual_device.as_deref().unwrap_or("no device yet");
            let message = format!("the job {id} of LAVA is {} ({device})", job.state);
            attempt.runner.events.info(message.escape_debug().to_string()).await;
            state.clone_from(&job.state);
        }
        if job.state == "Finished" {
            return Ok(Some(job));
        }
        if interrupt.or(tokio::time::sleep(attempt.lab.limits.poll)).await.is_err() {
            return Ok(None);
        }
    }
}

/// Emits a unit for LAVA's own steps, and one for each test.
async fn report(attempt: &Attempt<'_>, own: Unit, judgement: &Judgement, console: Vec<String>) {
    let events = &attempt.runner.events;
    let end = |part: &Part| {
        let mut end = TestEnd::of(part.outcome.clone());
        end.tests.clone_from(&part.tests);
        if !end.outcome.is_success() {
            end.excerpt.clone_from(&console);
        }
        end
    };
    let is_own = |part: &&Part| part.test.is_none();
    let first = match (judgement.parts.iter().find(is_own), &judgement.end) {
        (Some(part), _) => end(part),
        (None, AttemptEnd::DeviceFault(why)) => TestEnd::of(Outcome::NotRun(why.clone())),
        (None, AttemptEnd::Tested(outcome)) => TestEnd::of(outcome.clone()),
    };
    // A job that is not complete failed, whatever its tests say.
    let first = match &judgement.end {
        AttemptEnd::Tested(outcome)
            if first.outcome.is_success() && !outcome.is_success() && !parts_explain(judgement) =>
        {
            TestEnd { outcome: outcome.clone(), excerpt: console.clone(), ..first }
        }
        _ => first,
    };
    first.report(&own, events).await;
    for part in &judgement.parts {
        let Some(test) = &part.test else { continue };
        let unit = on_target::unit(test, attempt.request, &attempt.device.name);
        events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
        end(part).report(&unit, events).await;
    }
}

/// Whether a part has the outcome of the whole.
fn parts_explain(judgement: &Judgement) -> bool {
    judgement.parts.iter().any(|part| AttemptEnd::Tested(part.outcome.clone()) == judgement.end)
}

/// The last lines that the device printed: `- {"dt": "…", "lvl": "target", "msg": "…"}`.
fn console_lines(log: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        lvl: String,
        msg: serde_json::Value,
    }
    let lines = log.lines().rev().filter_map(|line| {
        let line: Line = serde_json::from_str(line.trim_start().strip_prefix("- ")?).ok()?;
        (line.lvl == "target").then(|| line.msg.as_str().unwrap_or_default().to_owned())
    });
    let mut last: Vec<String> = lines.take(CONSOLE_LINES).collect();
    last.reverse();
    last
}

/// The job that runs for a device, in a file: if the lab is killed, its next attempt cancels the job.
struct RunningJob(PathBuf);

impl RunningJob {
    fn of(state: &Path, device: &str) -> RunningJob {
        RunningJob(state.join("devices").join(device).join("lava-job"))
    }

    fn record(&self, id: u64) -> Result<()> {
        if let Some(above) = self.0.parent() {
            fs_err::create_dir_all(above)?;
        }
        Ok(fs_err::write(&self.0, id.to_string())?)
    }

    fn forget(&self) {
        let above = self.0.parent().unwrap_or(Path::new("/"));
        if let Err(error) = agent_fs::remove::remove_file(&self.0, above) {
            tracing::warn!(%error, "the record of LAVA's job");
        }
    }

    /// LAVA runs one job at a time on a device, so an older one only delays the next.
    async fn cancel_older(&self, client: &Client) {
        let id = fs_err::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok());
        let Some(id) = id else { return };
        match tokio::time::timeout(LAST_REQUESTS, client.cancel(id)).await {
            Ok(Ok(())) => self.forget(),
            Ok(Err(error)) => tracing::warn!(%error, id, "an older job of LAVA"),
            Err(_) => tracing::warn!(id, "LAVA does not answer the cancellation of an older job"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
#[path = "run_tests.rs"]
mod tests;
