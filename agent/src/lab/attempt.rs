//! One attempt of a request on one device, from the lease to the verdict.
//!
//! The order makes each request end with one verdict, whenever this process dies:
//!
//! 1. take the lease of the device: nobody else drives it;
//! 2. claim the attempt, which names the lease: it lives as long as the lease;
//! 3. look for a verdict once more: the attempt before this one may have ended well just before the claim;
//! 4. run it; store reports, then the verdict; release the lease.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use agent_devices::fence::Fence;
use agent_devices::health;
use agent_devices::lab::{Device, Lab};
use agent_devices::lab_state::LabState;
use agent_devices::lease::{self, Lease, LeaseRecord};
use agent_devices::provider::{AttemptEnd, Provider};
use agent_devices::queue::Queue;
use agent_devices::request::{AttemptRecord, DeviceRequest, Verdict};
use agent_process::{Interrupt, Interrupted, Redactor, Runner};
use agent_types::error::{Error, Result};
use agent_types::events;
use agent_types::job_id::JobId;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;

use super::device_job::{DeviceJob, GRACE, JobEnd};

/// Characters of a reason.
const LONGEST_REASON: usize = 1_000;

/// A device of this lab, and what its attempts need.
#[derive(Clone)]
pub struct Place {
    pub lab: Arc<Lab>,
    pub device: Arc<Device>,
    pub queue: Arc<Queue>,
    pub state: Arc<LabState>,
    pub provider: Arc<dyn Provider>,
    /// Of the whole lab.
    pub interrupt: Interrupt,
}

/// A request that waits, and the number of its next attempt.
#[derive(Clone)]
pub struct Candidate {
    pub request: Arc<DeviceRequest>,
    pub attempt: u32,
}

/// Told as soon as the device has a request.
pub type Claimed = Box<dyn FnOnce(&DeviceRequest, u32) + Send>;

/// How the use of a device ended.
#[derive(Debug)]
pub enum DeviceUse {
    /// There was nothing to do: other labs were faster.
    Idle,
    /// The request has a verdict.
    Decided { request: Arc<DeviceRequest>, attempt: u32, verdict: Verdict },
    /// Another attempt follows.
    Broken { request: Arc<DeviceRequest>, attempt: u32, why: String, cause: Cause },
    /// The health check passed.
    Healthy,
    /// The health check failed.
    Unhealthy(String),
}

/// Why an attempt led to no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Device,
    /// Of the lab host or the store.
    Lab,
    /// The lease was lost, or the lab is stopping.
    Stopped,
}

/// Why the work on a request has to stop before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stop {
    LeaseLost,
    CancelledBy(String),
    LabStopped,
}

impl Place {
    /// Runs the first of the candidates that no other lab has.
    ///
    /// # Errors
    /// If the lab host or the store fails before a request was claimed.
    pub async fn run(&self, newest: u64, candidates: Vec<Candidate>, claimed: Claimed) -> Result<DeviceUse> {
        let Some(lease) = self.take_unless_stopped(newest).await? else { return Ok(DeviceUse::Idle) };
        let used = self.run_under(&lease, candidates, claimed).await;
        lease.release().await;
        used
    }

    /// Checks whether the device works, and remembers the answer.
    ///
    /// # Errors
    /// If the lab host or the store fails.
    pub async fn check_health(&self, newest: u64) -> Result<DeviceUse> {
        let Some(lease) = self.take_unless_stopped(newest).await? else { return Ok(DeviceUse::Idle) };
        let used = self.check_health_under(&lease).await;
        lease.release().await;
        used
    }

    async fn take_unless_stopped(&self, newest: u64) -> Result<Option<Lease>> {
        // A lease that was created and is not renewed ends.
        self.interrupt.or(self.take(newest)).await.unwrap_or(Ok(None))
    }

    /// Takes the lease, and ends what a killed lab left running on the device.
    async fn take(&self, newest: u64) -> Result<Option<Lease>> {
        let record = LeaseRecord {
            lab: self.lab.name.clone(),
            nonce: JobId::new(SystemTime::now()).to_string(),
            term: u64::try_from(self.lab.limits.lease.as_millis()).unwrap_or(u64::MAX),
        };
        let store = self.queue.store();
        let Some(lease) = lease::acquire(store, &self.device.name, newest, &record).await? else {
            return Ok(None);
        };
        match self.begin(lease.fence()).await {
            Ok(()) => Ok(Some(lease)),
            Err(error) => {
                lease.release().await;
                Err(error)
            }
        }
    }

    async fn begin(&self, fence: &Fence) -> Result<()> {
        let (state, name) = (Arc::clone(&self.state), fence.name().clone());
        agent_process::blocking(move || state.record_lease(&name)).await?;
        let directory = self.state.device(&self.device.name)?;
        let orphans = agent_process::end_orphans(&directory, GRACE, &self.interrupt).await;
        if !orphans.ended.is_empty() {
            tracing::warn!("ended what a killed lab left running: {}", orphans.ended.join(", "));
        }
        match orphans.still_there.is_empty() {
            true => fence.check(),
            false => Err(Error::machine(format!(
                "a lab was killed, and what it left running for {} cannot be ended: {}",
                self.device.name,
                orphans.still_there.join(", ")
            ))
            .hint("end these processes")),
        }
    }

    async fn run_under(
        &self,
        lease: &Lease,
        candidates: Vec<Candidate>,
        claimed: Claimed,
    ) -> Result<DeviceUse> {
        for Candidate { request, attempt } in candidates {
            let name = lease.fence().name();
            let record = AttemptRecord {
                lab: self.lab.name.clone(),
                device: self.device.name.clone(),
                lease: name.number,
                nonce: name.nonce.clone(),
                started: SystemTime::now(),
            };
            lease.fence().check()?;
            if !while_held(lease.fence(), self.queue.claim(&request.id, attempt, &record)).await? {
                continue;
            }
            if while_held(lease.fence(), self.queue.verdict(&request.id)).await?.is_some() {
                return Ok(DeviceUse::Idle);
            }
            claimed(&request, attempt);
            return Ok(self.attempt(lease.fence(), request, attempt).await);
        }
        Ok(DeviceUse::Idle)
    }

    async fn attempt(&self, fence: &Fence, request: Arc<DeviceRequest>, attempt: u32) -> DeviceUse {
        let interrupt = self.interrupt.child().limited(request.run_limit()).with_grace(GRACE);
        let stopped: Arc<OnceLock<Stop>> = Arc::default();
        let watch = self.watch(fence.clone(), Arc::clone(&request), interrupt.clone(), Arc::clone(&stopped));
        let watcher = tokio::spawn(watch);
        let limit = request.run_limit();
        let stop = {
            let (stopped, lab, interrupt) = (Arc::clone(&stopped), self.interrupt.clone(), interrupt.clone());
            move || stop_outcome(stopped.get(), lab.state().is_some(), interrupt.state(), limit)
        };
        let broken =
            |why: String, cause| DeviceUse::Broken { request: Arc::clone(&request), attempt, why, cause };
        let directory = match self.state.device(&self.device.name) {
            Ok(directory) => directory.join("attempt"),
            Err(error) => return broken(error.to_string(), Cause::Lab),
        };
        let job = DeviceJob {
            lab: &self.lab,
            device: &self.device,
            request: &request,
            number: attempt,
            fence,
            queue: &self.queue,
            directory,
            interrupt: &interrupt,
            stop: &stop,
        };
        let ended = job.run(&*self.provider).await;
        watcher.abort();
        if let Err(lost) = fence.check() {
            return broken(lost.message, Cause::Stopped);
        }
        let cancelled = matches!(stopped.get(), Some(Stop::CancelledBy(_)));
        if self.interrupt.state().is_some() && !cancelled && !is_result(&ended) {
            return broken("the lab was stopped".into(), Cause::Stopped);
        }
        let stored = match &ended {
            Ok(_) => while_held(fence, job.store_reports()).await,
            Err(error) => Err(error.clone()),
        };
        let end = match (ended, stored) {
            (Ok(end), Ok(())) => end,
            (_, Err(error)) | (Err(error), _) => return broken(error.to_string(), Cause::Lab),
        };
        let was_stopped = stop().is_some();
        let why = match &end.end {
            Ok(AttemptEnd::DeviceFault(why)) if !was_stopped => Some((why.clone(), Cause::Device)),
            Err(error) if !was_stopped => Some((error.to_string(), Cause::Lab)),
            _ => None,
        };
        if let Some((why, Cause::Device)) = &why
            && let Err(error) = self.record_failure(why).await
        {
            tracing::warn!("cannot record the failure of {}: {error}", self.device.name);
        }
        match why {
            Some((why, cause)) if attempt < self.lab.limits.attempts => broken(why, cause),
            why => match self.decide(&request, attempt, fence, end).await {
                Ok(verdict) => {
                    if why.is_none() && !was_stopped {
                        self.record_success().await;
                    }
                    DeviceUse::Decided { request, attempt, verdict }
                }
                Err(error) => broken(error.to_string(), Cause::Lab),
            },
        }
    }

    async fn decide(
        &self,
        request: &DeviceRequest,
        attempt: u32,
        fence: &Fence,
        end: JobEnd,
    ) -> Result<Verdict> {
        let verdict = Verdict {
            attempt: Some(attempt),
            lab: Some(self.lab.name.clone()),
            device: Some(self.device.name.clone()),
            exit: end.exit,
            outcome: shortened(&end.outcome),
            result_sha256: end.result_sha256,
            time: SystemTime::now(),
        };
        while_held(fence, self.queue.decide(&request.id, &verdict)).await
    }

    /// Interrupts the work when the lease is lost or the request is cancelled.
    fn watch(
        &self,
        fence: Fence,
        request: Arc<DeviceRequest>,
        interrupt: Interrupt,
        stopped: Arc<OnceLock<Stop>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (queue, lab, poll) = (Arc::clone(&self.queue), self.interrupt.clone(), self.lab.limits.poll);
        let cancelled = async move {
            loop {
                tokio::time::sleep(poll).await;
                match queue.cancellation(&request.id).await {
                    Ok(Some(cancellation)) => return Stop::CancelledBy(cancellation.by),
                    Ok(None) => {}
                    Err(error) => tracing::warn!("cannot see whether {} is cancelled: {error}", request.id),
                }
            }
        };
        async move {
            let why = tokio::select! {
                () = fence.lost() => Stop::LeaseLost,
                why = cancelled => why,
                () = lab.cancelled() => Stop::LabStopped,
            };
            // A stop of the lab has reached the work already; a second signal would not let it power off the device.
            let is_new = why != Stop::LabStopped;
            let _ = stopped.set(why);
            if is_new {
                interrupt.signal();
            }
            fence.lost().await;
            // Nothing more may touch the device.
            interrupt.signal();
        }
    }

    async fn check_health_under(&self, lease: &Lease) -> Result<DeviceUse> {
        let (events, mut receiver) = events::channel();
        let listener = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
        let device = self.state.device(&self.device.name)?;
        let work = agent_process::blocking(move || {
            let work = device.join("health");
            agent_fs::remove::clear(&work, &device)?;
            fs_err::create_dir_all(work.join("logs"))?;
            fs_err::set_permissions(&work, std::fs::Permissions::from_mode(0o711))?;
            Ok::<_, Error>(work)
        })
        .await?;
        let logs = work.join("logs");
        let interrupt = self.interrupt.child().limited(self.lab.limits.boot * 3).with_grace(GRACE);
        let runner = Runner {
            stage: Stage::Test,
            events,
            interrupt: interrupt.clone(),
            redactor: Redactor::default(),
            logs,
            stall: self.lab.limits.boot * 3,
            grace: GRACE,
            log_limit: 1 << 20,
            commands: Arc::default(),
        };
        let fence = lease.fence();
        let lost = {
            let (fence, interrupt) = (fence.clone(), interrupt.clone());
            tokio::spawn(async move {
                fence.lost().await;
                interrupt.signal();
                interrupt.signal();
            })
        };
        let checked = self.provider.check_health(&self.lab, &self.device, fence, &work, &runner).await;
        lost.abort();
        drop(runner);
        let _ = listener.await;
        if self.interrupt.state().is_some() || fence.check().is_err() {
            return Ok(DeviceUse::Idle);
        }
        match checked {
            Ok(()) => {
                health::clear(self.queue.store(), &self.device.name).await?;
                Ok(DeviceUse::Healthy)
            }
            Err(error) => {
                self.record_failure(&error.to_string()).await?;
                Ok(DeviceUse::Unhealthy(error.to_string()))
            }
        }
    }

    async fn record_failure(&self, why: &str) -> Result<()> {
        let store = self.queue.store();
        health::record_failure(store, &self.device.name, &self.lab.name, why).await.map(|_| ())
    }

    async fn record_success(&self) {
        if let Err(error) = health::clear(self.queue.store(), &self.device.name).await {
            tracing::warn!("cannot clear the failures of {}: {error}", self.device.name);
        }
    }
}

/// A reason may be long; the files of the store are small.
pub fn shortened(outcome: &Outcome) -> Outcome {
    outcome.map_reason(|why| match why.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{} …", &why[..end]),
        None => why.to_owned(),
    })
}

/// Does the work as long as the lease is held.
async fn while_held<T>(fence: &Fence, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = fence.lost() => fence.check().and_then(|()| Err(Error::internal("a lost lease holds"))),
        done = work => done,
    }
}

/// Whether the tests passed before the stop, so that they need not be repeated.
fn is_result(ended: &Result<JobEnd>) -> bool {
    ended.as_ref().is_ok_and(|end| end.exit == ExitStatus::Passed)
}

/// The outcome of an attempt that had to stop.
fn stop_outcome(
    stop: Option<&Stop>,
    lab_stops: bool,
    interrupted: Option<Interrupted>,
    limit: Duration,
) -> Option<Outcome> {
    match (stop, interrupted) {
        (Some(Stop::CancelledBy(by)), _) => Some(Outcome::Cancelled(format!("cancelled by {by}"))),
        (Some(Stop::LeaseLost), _) => Some(Outcome::Cancelled("the lease of the device was lost".into())),
        (Some(Stop::LabStopped), _) => Some(Outcome::Cancelled("the lab was stopped".into())),
        (None, None) => None,
        (None, Some(_)) if lab_stops => Some(Outcome::Cancelled("the lab was stopped".into())),
        (None, Some(Interrupted::OutOfTime)) => {
            let limit = humantime::format_duration(limit);
            Some(Outcome::TimedOut(format!("it did not end within the request's limit, {limit}")))
        }
        (None, Some(Interrupted::Cancelled)) => Some(Outcome::Cancelled("the attempt was stopped".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let long = Outcome::Failed("é".repeat(5_000));
        assert_eq!(shortened(&long), Outcome::Failed(format!("{} …", "é".repeat(LONGEST_REASON))));
        let short = Outcome::Failed("é".into());
        assert_eq!(shortened(&short), short);
    }

    #[test]
    fn the_reason_of_a_stop_decides_the_outcome() {
        const LIMIT: Duration = Duration::from_secs(60);
        let (cancelled, late) = (Some(Interrupted::Cancelled), Some(Interrupted::OutOfTime));
        let by = Stop::CancelledBy("a person".into());
        for (stop, lab_stops, interrupted, wanted) in [
            (None, false, None, None),
            (None, false, late, Some("timed-out")),
            (None, true, cancelled, Some("cancelled")),
            (None, true, late, Some("cancelled")),
            (Some(&by), false, cancelled, Some("cancelled")),
            (Some(&by), true, late, Some("cancelled")),
            (Some(&Stop::LeaseLost), false, cancelled, Some("cancelled")),
            (Some(&Stop::LabStopped), true, cancelled, Some("cancelled")),
        ] {
            let outcome = stop_outcome(stop, lab_stops, interrupted, LIMIT);
            assert_eq!(outcome.as_ref().map(Outcome::word), wanted, "{stop:?} {lab_stops} {interrupted:?}");
        }
        let outcome = stop_outcome(Some(&by), false, None, LIMIT);
        assert_eq!(outcome, Some(Outcome::Cancelled("cancelled by a person".into())));
    }
}
