//! The queue of requests in the store.
//!
//! ```text
//! devices/v1/open/<id>                  the request waits or runs; removed after the verdict
//! devices/v1/requests/<id>/request.json     written once, by the job
//! devices/v1/requests/<id>/attempts/<n>.json    created once, by the lab that runs attempt n
//! devices/v1/requests/<id>/cancel.json      created once, by anybody
//! devices/v1/requests/<id>/verdict.json     created once: the first verdict counts
//! ```
//!
//! Ages come from the store's clock: labs and jobs may have wrong ones.

mod parse;
mod status;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use agent_artifacts::records::{FileDigest, RecordStore};
use agent_objects::Created;
use agent_types::artifact::Destination;
use agent_types::error::{Error, Result};
use agent_types::events::time;

use crate::record::{self, to_json};
use crate::request::{AttemptRecord, DeviceRequest, Verdict, layout};

pub use parse::{is_device, is_id, parse_request};
pub use status::{RequestState, RequestStatus};

/// Maximum bytes of a request.
pub const LARGEST_REQUEST: u64 = 256 << 10;

/// Open requests that are looked at.
const MOST_OPEN: usize = 5_000;

/// Why a request should end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// A person, a job or a command.
    pub by: String,
    #[serde(with = "time")]
    pub time: SystemTime,
}

/// A request without a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    pub id: String,
    /// By the store's clock.
    pub submitted: SystemTime,
}

/// The queue of a store.
#[derive(Debug)]
pub struct Queue {
    store: Arc<RecordStore>,
}

impl Queue {
    pub fn new(store: RecordStore) -> Queue {
        Queue { store: Arc::new(store) }
    }

    /// Opens the store of a lab or of a job's artifacts.
    ///
    /// # Errors
    /// As [`RecordStore::open`].
    pub async fn open(root: &Destination, kms_key_id: Option<&str>) -> Result<Queue> {
        Ok(Queue::new(RecordStore::open(root, false, kms_key_id, "request.json").await?))
    }

    pub fn store(&self) -> &Arc<RecordStore> {
        &self.store
    }

    /// Stores a file of requests under its digest. The path must not be a link.
    ///
    /// # Errors
    /// If it cannot be read or stored.
    pub async fn put_file(&self, path: &Path) -> Result<FileDigest> {
        let opened = path.to_owned();
        let (file, _) = agent_process::blocking(move || agent_fs::read::open(&opened)).await?;
        self.put_open(file, path).await
    }

    /// [`Queue::put_file`] for an open file; its name is for messages.
    ///
    /// # Errors
    /// If it cannot be read or stored.
    pub async fn put_open(&self, file: File, name: &Path) -> Result<FileDigest> {
        self.store.upload(layout::FILES, file, name).await
    }

    /// Copies a file of requests to `to`, which appears when it is complete and right.
    ///
    /// # Errors
    /// If it cannot be read or written, or has another content.
    pub async fn fetch_file(&self, digest: &FileDigest, to: &Path) -> Result<()> {
        self.store.download(layout::FILES, digest, to).await
    }

    /// Submits a request whose files are stored. Submitting it twice does nothing.
    ///
    /// # Errors
    /// Usage, if the request is invalid or another one has its id; else if it cannot be stored.
    pub async fn submit(&self, request: &DeviceRequest) -> Result<()> {
        let content = to_json(request)?;
        parse_request(&content, &request.id)?;
        match self.store.create(&layout::request(&request.id), content).await? {
            Created::New | Created::Equal => {}
            Created::Different => {
                return Err(Error::usage(format!("another device request has the id {}", request.id)));
            }
        }
        self.store.create(&layout::open(&request.id), Vec::new()).await.map(|_| ())
    }

    /// A request; `None`, if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is invalid.
    pub async fn request(&self, id: &str) -> Result<Option<DeviceRequest>> {
        let Some(id) = is_id(id).then_some(id) else { return Ok(None) };
        let path = layout::request(id);
        let Some(content) = self.store.read(&path, LARGEST_REQUEST).await? else { return Ok(None) };
        parse_request(&content, id).map(Some)
    }

    /// Asks to end a request. It ends when its lab sees this; if none has it, the next one that looks ends it. False, if
    /// it has a verdict.
    ///
    /// # Errors
    /// If this cannot be stored.
    pub async fn cancel(&self, id: &str, by: &str) -> Result<bool> {
        if self.verdict(id).await?.is_some() {
            return Ok(false);
        }
        let by = by.chars().take(200).collect();
        let cancellation = Cancellation { by, time: SystemTime::now() };
        self.store.create(&layout::cancel(id), to_json(&cancellation)?).await.map(|_| true)
    }

    /// Why a request should end, if somebody asked for it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn cancellation(&self, id: &str) -> Result<Option<Cancellation>> {
        record::read(&self.store, &layout::cancel(id)).await
    }

    /// The verdict on a request, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn verdict(&self, id: &str) -> Result<Option<Verdict>> {
        record::read(&self.store, &layout::verdict(id)).await
    }

    /// Stores the verdict on a request, unless there is one. Gives the one that counts. [`Queue::close`] comes after all
    /// that follows from it.
    ///
    /// # Errors
    /// If it cannot be stored or read.
    pub async fn decide(&self, id: &str, verdict: &Verdict) -> Result<Verdict> {
        let created = self.store.create(&layout::verdict(id), to_json(verdict)?).await?;
        match created {
            Created::New | Created::Equal => Ok(verdict.clone()),
            Created::Different => self
                .verdict(id)
                .await?
                .ok_or_else(|| Error::upstream(format!("the verdict of {id} was there and is gone"))),
        }
    }

    /// Takes a request with a verdict out of the list of open ones.
    ///
    /// # Errors
    /// If the store refuses it.
    pub async fn close(&self, id: &str) -> Result<()> {
        self.store.remove(&layout::open(id)).await
    }

    /// Claims an attempt; false, if another lab has it.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn claim(&self, id: &str, number: u32, attempt: &AttemptRecord) -> Result<bool> {
        let created = self.store.create(&layout::attempt(id, number), to_json(attempt)?).await?;
        Ok(created != Created::Different)
    }

    /// An attempt, if it was made.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn attempt(&self, id: &str, number: u32) -> Result<Option<AttemptRecord>> {
        record::read(&self.store, &layout::attempt(id, number)).await
    }

    /// The requests without a verdict; the oldest first.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn open_requests(&self) -> Result<Vec<OpenRequest>> {
        let listed = self.store.list(layout::OPEN, MOST_OPEN).await?;
        let mut open: Vec<OpenRequest> = listed
            .into_iter()
            .filter_map(|record| {
                let id = record.path.strip_prefix(layout::OPEN)?.trim_start_matches('/');
                // Other names were not made by `submit`.
                is_id(id).then(|| OpenRequest { id: id.to_owned(), submitted: record.modified })
            })
            .collect();
        open.sort_by(|one, other| (one.submitted, &one.id).cmp(&(other.submitted, &other.id)));
        Ok(open)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "queue_tests.rs"]
mod tests;
