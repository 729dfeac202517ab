//! A build with its retries: with half the parallelism if memory ran out, and once more if only servers failed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fs_err as fs;

use agent_types::error::Result;
use agent_types::events::{EventKind, Retry, RetryCause, Unit};

use super::bitbake::{Machine, Ran, Request};
use super::failed_task::{FailedTask, failed_tasks};
use super::verdict::{judge, lacked_memory};
use crate::stages::cleanup::ServerEnd;
use crate::stages::retry;
use agent_yocto::parallelism::Parallelism;
use agent_yocto::task_failure::TaskFailure;

/// The file that limits the parallelism of a retry.
const POSTREAD: &str = "retry.conf";

/// The result of the last attempt.
pub struct Attempted {
    pub result: Result<(Ran, Vec<FailedTask>)>,
    /// Of all attempts; to be reported after the outcome.
    pub servers: Vec<ServerEnd>,
}

impl Attempted {
    /// Reports how BitBake's servers ended.
    pub async fn report_servers(servers: Vec<ServerEnd>, machine: &Machine<'_>) {
        for server in servers {
            server.report(&machine.runner.events).await;
        }
    }
}

/// Builds the targets.
pub async fn build(
    machine: &Machine<'_>,
    unit: &Unit,
    log: &str,
    keep_going: bool,
    targets: &[String],
) -> Attempted {
    let mut parallelism = machine.configured.parallelism;
    let mut postread: Option<PathBuf> = None;
    let mut retried_for_upstream = false;
    let mut servers = Vec::new();
    let mut log = log.to_owned();
    loop {
        let request = Request {
            unit,
            log: log.clone(),
            keep_going,
            targets: targets.to_vec(),
            runall: machine.settings.build.fetch_only.then_some("fetch"),
            postread: postread.clone(),
            limits: None,
        };
        let began = Instant::now();
        let (ran, server) = machine.bitbake(request).await;
        servers.push(server);
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => return Attempted { result: Err(error), servers },
        };
        machine.read_back(&ran.build, parallelism).await;
        let failed = failed_tasks(&ran, machine);
        log += "-again";
        if let Some(reason) = lacked_memory(&ran, &failed).filter(|_| postread.is_none()) {
            let less = parallelism.for_retry(|name| ran.build.variable(name));
            if let Some(less) = less.filter(|_| machine.runner.interrupt.state().is_none()) {
                parallelism = less;
                match write(machine, parallelism, &ran, &failed) {
                    Ok(file) => postread = Some(file),
                    Err(error) => return Attempted { result: Err(error), servers },
                }
                let reason = format!("{reason}; now {}", parallelism.describe());
                report_retry(machine, unit, RetryCause::Memory, reason, began.elapsed(), Duration::ZERO)
                    .await;
                continue;
            }
        }
        if !retried_for_upstream
            && let Err(error) = judge(&ran, &failed)
            && let Some(pause) = retry::pause_before(&error, began.elapsed(), &machine.runner.interrupt)
        {
            retried_for_upstream = true;
            report_retry(machine, unit, RetryCause::Upstream, error.message, began.elapsed(), pause).await;
            retry::wait(pause, &machine.runner.interrupt).await;
            continue;
        }
        return Attempted { result: Ok((ran, failed)), servers };
    }
}

/// Writes the configuration of the retry.
fn write(
    machine: &Machine<'_>,
    parallelism: Parallelism,
    ran: &Ran,
    failed: &[FailedTask],
) -> Result<PathBuf> {
    let killed = failed.iter().filter(|task| matches!(task.cause, TaskFailure::Memory(_)));
    let killed = killed.filter_map(|task| Some(ran.build.recipes().name_of(task.failure.id.as_deref()?)));
    let text = parallelism.render_retry(machine.settings.release, &killed.collect::<Vec<_>>());
    let file = machine.settings.paths.work.join(POSTREAD);
    fs::write(&file, text)?;
    Ok(file)
}

/// Reports a retry before it starts.
pub async fn report_retry(
    machine: &Machine<'_>,
    unit: &Unit,
    cause: RetryCause,
    reason: String,
    spent: Duration,
    pause: Duration,
) {
    let retry =
        Retry { unit: unit.clone(), cause, reason, seconds: spent.as_secs_f64(), pause: pause.as_secs_f64() };
    machine.emit(EventKind::Retry(retry)).await;
}
