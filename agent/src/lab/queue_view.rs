//! One look at the queue: which requests wait, which run, and which have to end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{StreamExt, stream};

use agent_artifacts::records::RecordStore;
use agent_devices::lease::{LeaseObserver, LeaseState};
use agent_devices::queue::{OpenRequest, Queue, RequestState, is_device};
use agent_devices::request::{AttemptRecord, DeviceRequest};
use agent_devices::schedule::{WaitingRequest, end_without_device, sort};
use agent_types::error::{Class, Error, Result};
use agent_types::outcome::{ExitStatus, Outcome};

use super::attempt::Candidate;
use super::status::{QueueEntry, running_words};

/// Requests to the store at the same time.
const WIDTH: usize = 8;

/// What has to be done with open requests.
#[derive(Default)]
pub struct QueueLook {
    /// In the order in which devices take them.
    pub waiting: Vec<Candidate>,
    /// Those that end without a device.
    pub ending: Vec<Ending>,
    /// Those with a verdict that are still in the list.
    pub decided: Vec<String>,
    /// All that have no verdict, for people.
    pub entries: Vec<QueueEntry>,
}

/// A request that ends without a device.
pub struct Ending {
    pub id: String,
    pub outcome: Outcome,
    pub exit: ExitStatus,
}

impl Ending {
    fn new(id: &str, outcome: Outcome) -> Ending {
        let exit = match outcome {
            // Its attempts broke.
            Outcome::NotRun(_) => ExitStatus::Machine,
            _ => ExitStatus::of(&outcome),
        };
        Ending { id: id.to_owned(), outcome, exit }
    }

    /// Of a request that no lab of this version can run.
    fn invalid(id: &str, error: &Error) -> Ending {
        let outcome = Outcome::NotRun(error.message.clone());
        Ending { id: id.to_owned(), outcome, exit: ExitStatus::Usage }
    }
}

/// What became of an open request.
enum Looked {
    Decided,
    Ends(Ending),
    /// With the words for where.
    Runs(Arc<DeviceRequest>, String),
    Waits(WaitingRequest),
}

/// What is remembered between two looks.
pub struct QueueView {
    observer: LeaseObserver,
    /// The nonces of the leases of this host's earlier process, by device.
    dead: HashMap<String, String>,
    /// Requests never change.
    requests: BTreeMap<String, Result<Arc<DeviceRequest>>>,
}

impl QueueView {
    pub fn new(observer: LeaseObserver, dead: HashMap<String, String>) -> QueueView {
        QueueView { observer, dead, requests: BTreeMap::new() }
    }

    /// The lease of a device.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn lease(&mut self, store: &RecordStore, device: &str) -> Result<LeaseState> {
        let dead = self.dead.get(device).map(String::as_str);
        self.observer.look(store, device, dead).await
    }

    /// Looks at all open requests. `running`: those of this process, each with the words for it. `attempts` is the limit.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn look(
        &mut self,
        queue: &Queue,
        now: SystemTime,
        running: &HashMap<String, String>,
        attempts: u32,
    ) -> Result<QueueLook> {
        let open = queue.open_requests().await?;
        self.load(queue, &open).await?;
        let state = async |open: &OpenRequest| match running.contains_key(&open.id) {
            true => Ok(Some(RequestState::default())),
            false => queue.state(&open.id).await,
        };
        let states: Vec<Result<Option<RequestState>>> =
            stream::iter(open.iter().map(state)).buffered(WIDTH).collect().await;
        let mut look = QueueLook::default();
        let mut waiting = Vec::new();
        for (open, state) in open.iter().zip(states) {
            let looked = match state {
                Ok(state) => {
                    let state = state.unwrap_or_default();
                    let running = running.get(&open.id).cloned();
                    self.look_at(queue, open, state, running, now, attempts).await
                }
                Err(error) => Err(error),
            };
            match looked {
                Ok(Looked::Decided) => look.decided.push(open.id.clone()),
                Ok(Looked::Ends(ending)) => look.ending.push(ending),
                Ok(Looked::Runs(request, words)) => {
                    let entry = QueueEntry::new(open, &request);
                    look.entries.push(QueueEntry { state: "running", detail: Some(words), ..entry });
                }
                Ok(Looked::Waits(request)) => {
                    look.entries.push(QueueEntry::new(open, &request.request));
                    waiting.push(request);
                }
                // One request that cannot be read does not hide the others.
                Err(error) => look.entries.push(QueueEntry::unknown(open, error.message)),
            }
        }
        sort(&mut waiting);
        let candidate = |waiting: WaitingRequest| {
            Some(Candidate { attempt: waiting.attempts.checked_add(1)?, request: waiting.request })
        };
        look.waiting = waiting.into_iter().filter_map(candidate).collect();
        Ok(look)
    }

    async fn look_at(
        &mut self,
        queue: &Queue,
        open: &OpenRequest,
        state: RequestState,
        running: Option<String>,
        now: SystemTime,
        attempts: u32,
    ) -> Result<Looked> {
        if state.decided {
            return Ok(Looked::Decided);
        }
        let runs = match running {
            Some(words) => Some(words),
            None => self.runs(queue, &open.id, &state).await?,
        };
        let request = match self.requests.get(&open.id) {
            Some(Ok(request)) => Arc::clone(request),
            Some(Err(error)) => return Ok(Looked::Ends(Ending::invalid(&open.id, error))),
            None => return Err(Error::upstream("it was not read")),
        };
        if let Some(words) = runs {
            return Ok(Looked::Runs(request, words));
        }
        let waiting = WaitingRequest { request, submitted: open.submitted, attempts: state.attempts };
        let end = match state.cancelled {
            true => {
                let by = cancelled_by(queue, &open.id).await?;
                Some(Outcome::Cancelled(format!("cancelled by {by}")))
            }
            false => end_without_device(&waiting, now, attempts),
        };
        Ok(match end {
            Some(outcome) => Looked::Ends(Ending::new(&open.id, outcome)),
            None => Looked::Waits(waiting),
        })
    }

    /// A request of the last look.
    pub fn request(&self, id: &str) -> Option<&Arc<DeviceRequest>> {
        self.requests.get(id)?.as_ref().ok()
    }

    async fn load(&mut self, queue: &Queue, open: &[OpenRequest]) -> Result<()> {
        self.requests.retain(|id, _| open.iter().any(|open| open.id == *id));
        for OpenRequest { id, .. } in open {
            if self.requests.contains_key(id) {
                continue;
            }
            match queue.request(id).await {
                Ok(Some(request)) => drop(self.requests.insert(id.clone(), Ok(Arc::new(request)))),
                // Nobody submitted it.
                Ok(None) => queue.close(id).await?,
                Err(error) if error.class == Class::Usage => {
                    self.requests.insert(id.clone(), Err(error));
                }
                // The next look reads it again.
                Err(error) => tracing::warn!("cannot read the request {id}: {error}"),
            }
        }
        Ok(())
    }

    /// Where the last attempt of a request runs, if it lives.
    async fn runs(&mut self, queue: &Queue, id: &str, state: &RequestState) -> Result<Option<String>> {
        if state.attempts == 0 {
            return Ok(None);
        }
        let attempt = match queue.attempt(id, state.attempts).await {
            Ok(Some(attempt)) if is_device(&attempt.device) => attempt,
            // A damaged record names no device whose lease could be waited for.
            Ok(_) => return Ok(None),
            Err(error) if error.class == Class::Usage => return Ok(None),
            Err(error) => return Err(error),
        };
        let AttemptRecord { lab, device, lease, .. } = attempt;
        let lives = self.lease(queue.store(), &device).await?.holds(lease);
        Ok(lives.then(|| running_words(state.attempts, &device, &lab)))
    }
}

/// Who cancelled a request. A damaged file cancels it as well.
async fn cancelled_by(queue: &Queue, id: &str) -> Result<String> {
    match queue.cancellation(id).await {
        Ok(cancellation) => {
            Ok(cancellation.map_or_else(|| "somebody".into(), |cancellation| cancellation.by))
        }
        Err(error) if error.class == Class::Usage => Ok("somebody".into()),
        Err(error) => Err(error),
    }
}
