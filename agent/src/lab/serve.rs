//! The loop of a lab: looks for requests, and runs them on the devices that are free.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use agent_devices::fence::uptime;
use agent_devices::health;
use agent_devices::lab::{Device, Lab};
use agent_devices::lab_state::LabState;
use agent_devices::lease::{LeaseObserver, LeaseState};
use agent_devices::provider::Provider;
use agent_devices::queue::Queue;
use agent_devices::request::{DeviceRequest, Verdict, layout};
use agent_devices::resume::resume;
use agent_devices::schedule::obstacle;
use agent_process::Interrupt;
use agent_types::error::{Class, Error, Result};
use agent_types::outcome::Outcome;

use super::attempt::{Candidate, Cause, DeviceUse, Place, shortened};
use super::device_job::GRACE;
use super::page;
use super::queue_view::{Ending, QueueLook, QueueView};
use super::served::{Served, set_status};
use super::status::{self, DeviceState, HistoryEntry, LabStatus, QueueEntry};
use super::store_clock::StoreClock;

/// Ended attempts that the lab remembers.
const HISTORY: usize = 100;

/// For what is written after a request has its verdict, and at the end. The next look repeats it.
const LAST_WRITE: Duration = Duration::from_secs(20);

/// How long the lab tries to resume an execution.
const RESUME: Duration = Duration::from_secs(24 * 3600);

/// Prints a line for the person who runs the lab.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// Makes the provider of a device.
pub type ProviderOf = fn(&Device) -> Box<dyn Provider>;

/// Runs a lab until it is interrupted.
///
/// # Errors
/// If the state directory or the store cannot be used at the start.
pub async fn serve(lab: Lab, provider_of: ProviderOf, interrupt: Interrupt, say: Say) -> Result<()> {
    let (lab, root) = (Arc::new(lab.clone()), lab.state.clone());
    let state = Arc::new(agent_process::blocking(move || LabState::open(&root)).await?);
    let queue = Arc::new(Queue::open(&lab.store, None).await?);
    let orphans = agent_process::end_orphans(state.root(), GRACE, &interrupt).await;
    let group = agent_process::end_orphan_group(state.root()).await;
    let ended: Vec<String> = orphans.ended.into_iter().chain(group.ended).collect();
    if !ended.is_empty() {
        say(&format!("a lab was killed here and left running: {}; ended", ended.join(", ")));
    }
    let mut dead = HashMap::new();
    for device in &lab.devices {
        if let Some(known) = state.known_lease(&device.name)? {
            dead.insert(device.name.clone(), known.nonce);
        }
    }
    let devices = lab.devices.iter().map(|device| {
        let place = Place {
            lab: Arc::clone(&lab),
            device: Arc::new(device.clone()),
            queue: Arc::clone(&queue),
            state: Arc::clone(&state),
            provider: Arc::from(provider_of(device)),
            interrupt: interrupt.clone(),
        };
        (device.name.clone(), Served::new(place))
    });
    let mut server = Server {
        view: QueueView::new(LeaseObserver::new(lab.limits.lease), dead),
        devices: devices.collect(),
        uses: JoinSet::new(),
        started: SystemTime::now(),
        history: earlier_history(&queue, &lab.name).await,
        problem: None,
        page: String::new(),
        unresumed: HashMap::new(),
        lab,
        queue,
        say,
    };
    server.tick().await?;
    server.run(&interrupt).await;
    Ok(())
}

/// What the lab did before it was started.
async fn earlier_history(queue: &Queue, lab: &str) -> VecDeque<HistoryEntry> {
    let labs = status::labs(queue).await.unwrap_or_default();
    let own = labs.into_iter().find(|(status, _)| status.lab == lab);
    own.map(|(status, _)| status.history.into()).unwrap_or_default()
}

struct Server {
    lab: Arc<Lab>,
    queue: Arc<Queue>,
    view: QueueView,
    /// By name.
    devices: BTreeMap<String, Served>,
    /// The devices in use; each task gives the name of its device.
    uses: JoinSet<(String, Result<DeviceUse>)>,
    started: SystemTime,
    history: VecDeque<HistoryEntry>,
    problem: Option<String>,
    /// The page as it was written last.
    page: String,
    /// Requests with a verdict whose execution could not be resumed, and since when.
    unresumed: HashMap<String, Duration>,
    say: Say,
}

impl Server {
    async fn run(&mut self, interrupt: &Interrupt) {
        let poll = self.lab.limits.poll;
        loop {
            tokio::select! {
                biased;
                _ = interrupt.interrupted() => break,
                Some(used) = self.uses.join_next() => self.used(used).await,
                () = tokio::time::sleep(poll) => {}
            }
            let Ok(ticked) = interrupt.or(self.tick()).await else { break };
            let problem = ticked.err().map(|error| error.to_string());
            if problem != self.problem {
                match &problem {
                    Some(problem) => (self.say)(&format!("error: {problem}")),
                    None => (self.say)("the store answers again"),
                }
            }
            self.problem = problem;
        }
        (self.say)("the lab stops: what runs on the devices ends");
        while let Some(used) = self.uses.join_next().await {
            self.used(used).await;
        }
        match tokio::time::timeout(LAST_WRITE, self.write_end()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => (self.say)(&format!("error: {error}")),
            Err(_) => (self.say)("the store does not answer"),
        }
    }

    /// Says that the lab was stopped.
    async fn write_end(&mut self) -> Result<()> {
        let clock = self.write_status(true).await?;
        let attempts = self.lab.limits.attempts;
        let look = self.view.look(&self.queue, clock.now(), &HashMap::new(), attempts).await?;
        self.write_page(&look.entries, clock.now()).await
    }

    /// One look at the store, and what follows from it.
    async fn tick(&mut self) -> Result<()> {
        let clock = self.write_status(false).await?;
        let running = self.running();
        let attempts = self.lab.limits.attempts;
        let QueueLook { waiting, ending, decided, entries } =
            self.view.look(&self.queue, clock.now(), &running, attempts).await?;
        // One request that cannot be ended does not keep others from ending.
        for id in decided {
            if let Err(error) = self.close(&id).await {
                tracing::warn!("cannot close {id}: {error}");
            }
        }
        for ending in ending {
            let id = ending.id.clone();
            if let Err(error) = self.end(ending).await {
                tracing::warn!("cannot end {id}: {error}");
            }
        }
        self.use_devices(waiting).await;
        self.write_page(&entries, clock.now()).await
    }

    /// Ends a request that no device runs.
    async fn end(&mut self, ending: Ending) -> Result<()> {
        let Ending { id, outcome, exit } = ending;
        let verdict = Verdict {
            attempt: None,
            lab: Some(self.lab.name.clone()),
            device: None,
            exit,
            outcome: shortened(&outcome),
            result_sha256: None,
            time: SystemTime::now(),
        };
        let verdict = self.queue.decide(&id, &verdict).await?;
        (self.say)(&format!("{id}: {}", words(&verdict.outcome)));
        if let Some(request) = self.view.request(&id) {
            let ended = entry(request, None, "", verdict.outcome, true);
            self.remember(ended);
        }
        self.close(&id).await
    }

    /// The requests that run here, and where.
    fn running(&self) -> HashMap<String, String> {
        let statuses = self.devices.values().map(Served::status);
        let running = statuses.filter_map(|status| {
            let words = status::running_words(status.attempt?, &status.name, &self.lab.name);
            Some((status.request?, words))
        });
        running.collect()
    }

    /// Gives requests to the devices that are free.
    async fn use_devices(&mut self, mut waiting: Vec<Candidate>) {
        let names: Vec<String> = self.devices.keys().cloned().collect();
        for name in names {
            let newest = match self.free(&name).await {
                Ok(Some(newest)) => newest,
                Ok(None) => continue,
                Err(error) => {
                    if let Some(served) = self.devices.get(&name) {
                        served.set(DeviceState::Waiting, Some(error.to_string()));
                    }
                    continue;
                }
            };
            let Some(served) = self.devices.get_mut(&name) else { continue };
            let place = served.place.clone();
            if served.suspect {
                served.set(DeviceState::Checking, None);
                served.in_use = true;
                self.uses.spawn(async move { (name, whole(place.check_health(newest)).await) });
                continue;
            }
            let fits = |candidate: &Candidate| obstacle(&place.device, &candidate.request).is_none();
            let candidates: Vec<Candidate> = waiting.iter().filter(|one| fits(one)).cloned().collect();
            let Some(first) = candidates.first() else {
                served.set(DeviceState::Idle, None);
                continue;
            };
            // Another free device takes the next one.
            waiting.retain(|candidate| candidate.request.id != first.request.id);
            served.in_use = true;
            let (status, say, device) = (Arc::clone(&served.status), Arc::clone(&self.say), name.clone());
            let claimed = Box::new(move |request: &DeviceRequest, attempt| {
                let id = request.id.clone();
                say(&format!("{id}: attempt {attempt} of {} on {device}", request.image));
                set_status(&status, DeviceState::Running, None, Some((id, attempt)));
            });
            self.uses.spawn(async move { (name, whole(place.run(newest, candidates, claimed)).await) });
        }
    }

    /// The number of the newest lease of a device that can be used now.
    async fn free(&mut self, name: &str) -> Result<Option<u64>> {
        let store = Arc::clone(self.queue.store());
        let Some(served) = self.devices.get_mut(name).filter(|served| !served.in_use) else {
            return Ok(None);
        };
        if let Some(drain) = health::drain(&store, name).await? {
            served.set(DeviceState::Drained, Some(format!("drained by {}", drain.by)));
            return Ok(None);
        }
        let health = health::health(&store, name).await?;
        if let Some(health) = health.as_ref().filter(|health| health.sick) {
            if served.set(DeviceState::Sick, Some(health.why.clone())) {
                (self.say)(&format!(
                    "the device {name} is sick: {}; `build-agent lab clear {name}` brings it back",
                    health.why
                ));
            }
            return Ok(None);
        }
        if uptime() < served.until {
            let why = served.status().why;
            served.set(DeviceState::Waiting, why);
            return Ok(None);
        }
        served.suspect |= health.is_some();
        match self.view.lease(&store, name).await? {
            LeaseState::Free { newest } => Ok(Some(newest)),
            LeaseState::Held { lab, number } => {
                served.set(DeviceState::Leased, Some(format!("the lab {lab} has lease {number}")));
                Ok(None)
            }
        }
    }

    /// Learns from the use of a device.
    async fn used(&mut self, used: Result<(String, Result<DeviceUse>), tokio::task::JoinError>) {
        let Ok((name, used)) = used else { return };
        let Some(served) = self.devices.get_mut(&name) else { return };
        served.in_use = false;
        let mut ended = None;
        match used {
            Ok(DeviceUse::Idle) => {
                served.set(DeviceState::Idle, None);
            }
            Ok(DeviceUse::Healthy) => {
                served.suspect = false;
                served.end_pauses();
                served.set(DeviceState::Idle, None);
                (self.say)(&format!("the device {name} works"));
            }
            Ok(DeviceUse::Unhealthy(why)) => {
                served.back_off();
                served.set(DeviceState::Waiting, Some(why.clone()));
                (self.say)(&format!("the device {name} failed its health check: {why}"));
            }
            Ok(DeviceUse::Decided { request, attempt, verdict }) => {
                served.end_pauses();
                served.set(DeviceState::Idle, None);
                let id = request.id.clone();
                (self.say)(&format!("{id}: {} on {name}", words(&verdict.outcome)));
                ended = Some((request, attempt, verdict.outcome, true));
            }
            Ok(DeviceUse::Broken { request, attempt, why, cause }) => {
                if cause != Cause::Stopped {
                    served.suspect = true;
                }
                if cause == Cause::Lab {
                    served.back_off();
                }
                served.set(DeviceState::Idle, Some(why.clone()));
                (self.say)(&format!("{}: attempt {attempt} on {name} broke: {why}", request.id));
                ended = Some((request, attempt, Outcome::NotRun(why), false));
            }
            Err(error) => {
                served.back_off();
                served.set(DeviceState::Waiting, Some(error.to_string()));
                (self.say)(&format!("error: cannot use the device {name}: {error}"));
            }
        }
        let Some((request, attempt, outcome, decided)) = ended else { return };
        self.remember(entry(&request, Some(attempt), &name, outcome, decided));
        if decided {
            match tokio::time::timeout(LAST_WRITE, self.close(&request.id)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("cannot close {}: {error}", request.id),
                Err(_) => tracing::warn!("cannot close {} in time", request.id),
            }
        }
    }

    fn remember(&mut self, entry: HistoryEntry) {
        self.history.push_front(entry);
        self.history.truncate(HISTORY);
    }

    /// Does all that follows from a verdict; last the request leaves the list of open ones.
    async fn close(&mut self, id: &str) -> Result<()> {
        match self.resume(id).await {
            Ok(()) => drop(self.unresumed.remove(id)),
            Err(error) => {
                let now = uptime();
                let since = *self.unresumed.entry(id.to_owned()).or_insert_with(|| {
                    (self.say)(&format!("error: {id}: cannot resume the execution that waits: {error}"));
                    now
                });
                // The next look tries again.
                if now.saturating_sub(since) < RESUME {
                    return Ok(());
                }
            }
        }
        self.queue.close(id).await
    }

    /// Resumes the execution of Step Functions that waits for the verdict, if one does.
    async fn resume(&self, id: &str) -> Result<()> {
        let request = match self.queue.request(id).await {
            Ok(Some(request)) => request,
            Err(error) if error.class != Class::Usage => return Err(error),
            _ => return Ok(()),
        };
        let Some(token) = &request.task_token else { return Ok(()) };
        match self.queue.verdict(id).await? {
            Some(verdict) => resume(token, &request, &verdict).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Writes what the lab says about itself, and reads the store's time from it.
    async fn write_status(&self, stopped: bool) -> Result<StoreClock> {
        let status = LabStatus {
            schema: status::SCHEMA.into(),
            lab: self.lab.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: self.started,
            stopped,
            problem: self.problem.clone(),
            devices: self.devices.values().map(Served::status).collect(),
            history: self.history.iter().cloned().collect(),
        };
        let content = serde_json::to_vec(&status)
            .map_err(|error| Error::internal("cannot write the status of the lab").because(&error))?;
        let (store, path) = (self.queue.store(), layout::lab(&self.lab.name));
        let before = uptime();
        store.write(&path, content).await?;
        let after = uptime();
        let listed = store.list(layout::LABS, 1000).await?;
        let own = listed.into_iter().find(|record| record.path == path);
        let own = own.ok_or_else(|| {
            Error::upstream(format!("{} was written and is not listed", store.shown(&path)))
        })?;
        Ok(StoreClock::new(own.modified, before, after))
    }

    /// Writes the page, if something changed.
    async fn write_page(&mut self, entries: &[QueueEntry], now: SystemTime) -> Result<()> {
        let labs = status::labs(&self.queue).await?;
        let page = page::render(&labs, entries, now);
        if page != self.page {
            self.queue.store().write(layout::PAGE, page.clone().into_bytes()).await?;
            self.page = page;
        }
        Ok(())
    }
}

/// The use of a device, also if it panics.
async fn whole(used: impl Future<Output = Result<DeviceUse>>) -> Result<DeviceUse> {
    let broke = |_| Err(Error::internal("the agent broke").hint("please report it with the log of the lab"));
    AssertUnwindSafe(used).catch_unwind().await.unwrap_or_else(broke)
}

fn entry(
    request: &DeviceRequest,
    attempt: Option<u32>,
    device: &str,
    outcome: Outcome,
    decided: bool,
) -> HistoryEntry {
    HistoryEntry {
        request: request.id.clone(),
        attempt,
        device: device.to_owned(),
        image: request.image.clone(),
        job: request.job.name.clone(),
        commit: request.job.commit.clone(),
        outcome: shortened(&outcome),
        decided,
        time: SystemTime::now(),
    }
}

fn words(outcome: &Outcome) -> String {
    match outcome.reason() {
        Some(why) => format!("{}: {why}", outcome.word()),
        None => outcome.word().to_owned(),
    }
}
