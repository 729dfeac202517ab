//! What labs say about themselves, and what waits in the queue: for `lab status`, and for the page.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use agent_devices::queue::{OpenRequest, Queue, RequestStatus};
use agent_devices::request::{DeviceRequest, layout};
use agent_types::error::Result;
use agent_types::events::time;
use agent_types::outcome::Outcome;

/// Names the layout of a lab's file.
pub const SCHEMA: &str = "build-agent/lab/v1";

/// Maximum bytes of a lab's file, and number of labs.
const LARGEST: u64 = 1 << 20;
const MOST_LABS: usize = 200;

/// Requests that are listed one by one.
const MOST_REQUESTS: usize = 500;

/// What a lab says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabStatus {
    pub schema: String,
    pub lab: String,
    pub version: String,
    /// By the lab's clock.
    #[serde(with = "time")]
    pub started: SystemTime,
    /// Whether the lab was stopped.
    #[serde(default)]
    pub stopped: bool,
    /// What went wrong last, if it still does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub devices: Vec<DeviceStatus>,
    /// The newest first.
    pub history: Vec<HistoryEntry>,
}

/// A device of a lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub name: String,
    pub pool: String,
    /// `labgrid`, `lava`, `ssh` or `qemu`.
    pub control: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    pub untrusted: bool,
    pub state: DeviceState,
    /// Why it is in this state, if that needs a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The id of the request that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// By the lab's clock.
    #[serde(with = "time")]
    pub since: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    Idle,
    Running,
    /// Its health is checked.
    Checking,
    /// Another process has its lease.
    Leased,
    /// It failed, and waits before the next check.
    Waiting,
    /// It failed too often, and gets no requests until somebody clears it.
    Sick,
    /// Somebody took it out.
    Drained,
}

impl DeviceState {
    pub fn word(self) -> &'static str {
        match self {
            DeviceState::Idle => "idle",
            DeviceState::Running => "running",
            DeviceState::Checking => "checking",
            DeviceState::Leased => "leased",
            DeviceState::Waiting => "waiting",
            DeviceState::Sick => "sick",
            DeviceState::Drained => "drained",
        }
    }
}

/// A request that ended in a lab, or an attempt that led to no verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub request: String,
    /// `None`: no device had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Empty, if no device had it.
    pub device: String,
    pub image: String,
    pub job: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Whether the request has this verdict.
    pub decided: bool,
    /// By the lab's clock.
    #[serde(with = "time")]
    pub time: SystemTime,
}

/// A request without a verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueEntry {
    pub id: String,
    /// By the store's clock.
    #[serde(with = "time")]
    pub submitted: SystemTime,
    /// `waiting`, `running`, `cancelled`, `invalid`.
    pub state: &'static str,
    /// The device that runs it, or why it is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<DeviceRequest>,
}

impl QueueEntry {
    /// A request that waits.
    pub fn new(open: &OpenRequest, request: &DeviceRequest) -> QueueEntry {
        // Its holder decides about an execution.
        let task_token = request.task_token.as_ref().map(|_| "…".into());
        QueueEntry {
            id: open.id.clone(),
            submitted: open.submitted,
            state: "waiting",
            detail: None,
            request: Some(DeviceRequest { task_token, ..request.clone() }),
        }
    }

    /// A request that cannot be read now, or is not valid.
    pub fn unknown(open: &OpenRequest, why: String) -> QueueEntry {
        let (id, submitted) = (open.id.clone(), open.submitted);
        QueueEntry { id, submitted, state: "invalid", detail: Some(why), request: None }
    }
}

/// All labs of a store, and when each was last seen by the store's clock.
///
/// # Errors
/// If the store cannot be read. Files that are no lab's are skipped.
pub async fn labs(queue: &Queue) -> Result<Vec<(LabStatus, SystemTime)>> {
    let store = queue.store();
    let mut labs = Vec::new();
    for record in store.list(layout::LABS, MOST_LABS).await? {
        let content = match store.read(&record.path, LARGEST).await {
            Ok(Some(content)) => content,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!("{error}");
                continue;
            }
        };
        match serde_json::from_slice::<LabStatus>(&content) {
            Ok(status) if status.schema == SCHEMA => labs.push((status, record.modified)),
            _ => tracing::warn!("{} is not valid", store.shown(&record.path)),
        }
    }
    labs.sort_by(|(one, _), (other, _)| one.lab.cmp(&other.lab));
    Ok(labs)
}

/// The requests without a verdict, the oldest first.
///
/// # Errors
/// If the store cannot be read.
pub async fn queue_entries(queue: &Queue) -> Result<Vec<QueueEntry>> {
    let mut entries = Vec::new();
    for open in queue.open_requests().await?.into_iter().take(MOST_REQUESTS) {
        let entry = match queue.request(&open.id).await {
            Ok(Some(request)) => QueueEntry::new(&open, &request),
            other => {
                let why = other.err().map_or("its request.json is missing".into(), |error| error.message);
                entries.push(QueueEntry::unknown(&open, why));
                continue;
            }
        };
        let (state, detail) = match queue.status(&open.id).await? {
            Some(RequestStatus::Ended(_)) => continue,
            Some(RequestStatus::Running { attempt, lab, device }) => {
                ("running", Some(running_words(attempt, &device, &lab)))
            }
            Some(RequestStatus::Cancelled) => ("cancelled", None),
            Some(RequestStatus::Waiting) | None => ("waiting", None),
        };
        entries.push(QueueEntry { state, detail, ..entry });
    }
    Ok(entries)
}

/// Where an attempt runs.
pub fn running_words(attempt: u32, device: &str, lab: &str) -> String {
    format!("attempt {attempt} on {device} of {lab}")
}
