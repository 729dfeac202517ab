//! Waits for the verdict on a request, and says what happens to it meanwhile.

use std::time::{Duration, Instant};

use agent_devices::queue::{Queue, RequestStatus};
use agent_devices::request::Verdict;
use agent_process::{Interrupted, Runner};
use agent_types::error::{Error, Result};
use agent_types::words::count;

/// Longest time between two looks at the store. A device that is free has a result soon.
const POLL: Duration = Duration::from_secs(5);
const FIRST_POLL: Duration = Duration::from_millis(200);

/// How long the store may fail before the job gives up.
const OUTAGE: Duration = Duration::from_secs(10 * 60);

/// For the cancellation of a request after the job was stopped.
const CANCEL: Duration = Duration::from_secs(20);

/// How the waiting ended.
#[derive(Debug)]
pub enum Waited {
    Ended(Box<Verdict>),
    /// There is no verdict within the limit.
    TooLong,
    Interrupted(Interrupted),
}

/// Waits up to `limit`. Without a verdict, the request is cancelled.
///
/// # Errors
/// If the store cannot be read for a long time, or the request is gone.
pub async fn wait(queue: &Queue, id: &str, limit: Duration, runner: &Runner) -> Result<Waited> {
    let waited = poll(queue, id, limit, runner).await;
    let reason = match &waited {
        Ok(Waited::Ended(_)) => return waited,
        Ok(Waited::TooLong) => "the job that waited for it gave up",
        Ok(Waited::Interrupted(_)) => "the job that waited for it was stopped",
        Err(_) => "the job that waited for it could not read the store",
    };
    let came_first = cancel(queue, id, reason, runner).await;
    if came_first && matches!(waited, Ok(Waited::TooLong)) {
        let verdict = tokio::time::timeout(CANCEL, queue.verdict(id)).await;
        if let Ok(Ok(Some(verdict))) = verdict {
            return Ok(Waited::Ended(Box::new(verdict)));
        }
    }
    waited
}

/// Cancels the request, also after the job was stopped, and says so. Returns whether a verdict came first.
pub async fn cancel(queue: &Queue, id: &str, reason: &str, runner: &Runner) -> bool {
    let why = match tokio::time::timeout(CANCEL, queue.cancel(id, reason)).await {
        Ok(Ok(true)) => {
            runner.events.info(format!("device request {id} is cancelled")).await;
            return false;
        }
        Ok(Ok(false)) => return true,
        Ok(Err(error)) => error.message,
        Err(_) => "the store gave no answer".to_owned(),
    };
    let hint = format!("cancel it by hand: build-agent lab cancel {id}");
    runner.events.warn(format!("device request {id} is not cancelled: {why}"), Some(hint)).await;
    false
}

async fn poll(queue: &Queue, id: &str, limit: Duration, runner: &Runner) -> Result<Waited> {
    let started = Instant::now();
    let mut said = String::new();
    let mut answered = Instant::now();
    loop {
        let status = match runner.interrupt.or(queue.status(id)).await {
            Ok(status) => status,
            Err(why) => return Ok(Waited::Interrupted(why)),
        };
        let now = match status {
            Ok(Some(RequestStatus::Ended(verdict))) => return Ok(Waited::Ended(Box::new(verdict))),
            Ok(Some(RequestStatus::Running { attempt, lab, device })) => {
                answered = Instant::now();
                format!("runs on {device} of {lab}, attempt {attempt}")
            }
            Ok(Some(RequestStatus::Waiting)) => {
                answered = Instant::now();
                let before = position(queue, id).await.unwrap_or(0);
                format!("waits for a device; {} before it", count(before, "request"))
            }
            Ok(Some(RequestStatus::Cancelled)) => "was cancelled; the lab ends it".to_owned(),
            Ok(None) => {
                return Err(Error::upstream(format!("device request {id} is gone from the store"))
                    .hint("somebody removed it; start the job again"));
            }
            Err(error) if answered.elapsed() > OUTAGE => return Err(error),
            Err(error) => format!("is not known: {}", error.message),
        };
        if now != said {
            runner.events.info(format!("device request {id} {now}")).await;
            said = now;
        }
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(Waited::TooLong);
        }
        let pause = (started.elapsed() / 4).clamp(FIRST_POLL, POLL).min(left);
        if let Err(why) = runner.interrupt.or(tokio::time::sleep(pause)).await {
            return Ok(Waited::Interrupted(why));
        }
    }
}

/// How many older requests have no verdict, for all pools together.
async fn position(queue: &Queue, id: &str) -> Option<u64> {
    let open = queue.open_requests().await.ok()?;
    open.iter().position(|open| open.id == id).map(|position| position as u64)
}
