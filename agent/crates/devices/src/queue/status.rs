//! What becomes of a request, as far as the store says.

use agent_artifacts::records::Record;
use agent_types::error::Result;

use super::Queue;
use crate::lease;
use crate::request::{Verdict, layout};

/// Maximum files of one request that are looked at: there may be many reports.
const MOST_FILES: usize = 5_000;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestStatus {
    /// No device has it.
    Waiting,
    Running {
        attempt: u32,
        lab: String,
        device: String,
    },
    Ended(Verdict),
    /// Somebody cancelled it, and no lab has seen this yet.
    Cancelled,
}

/// What the files of a request are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestState {
    /// The number of the last attempt; zero, if there is none.
    pub attempts: u32,
    pub cancelled: bool,
    pub decided: bool,
}

impl Queue {
    /// What becomes of a request; `None`, if there is no such request.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn status(&self, id: &str) -> Result<Option<RequestStatus>> {
        if let Some(verdict) = self.verdict(id).await? {
            return Ok(Some(RequestStatus::Ended(verdict)));
        }
        let Some(state) = self.state(id).await? else { return Ok(None) };
        if state.attempts > 0
            && let Some(attempt) = self.attempt(id, state.attempts).await?
            && lease::is_current(&self.store, &attempt.device, attempt.lease).await?
        {
            let (lab, device) = (attempt.lab, attempt.device);
            return Ok(Some(RequestStatus::Running { attempt: state.attempts, lab, device }));
        }
        // It may have ended since it was read first.
        if let Some(verdict) = self.verdict(id).await? {
            return Ok(Some(RequestStatus::Ended(verdict)));
        }
        Ok(Some(if state.cancelled { RequestStatus::Cancelled } else { RequestStatus::Waiting }))
    }

    /// Which files a request has; `None`, if there is no such request.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn state(&self, id: &str) -> Result<Option<RequestState>> {
        let below = layout::of_request(id);
        let files = self.store.list(&below, MOST_FILES).await?;
        Ok(state(&files, &format!("{below}/")))
    }
}

fn state(files: &[Record], below: &str) -> Option<RequestState> {
    let mut state = RequestState::default();
    let mut exists = false;
    for file in files {
        match file.path.strip_prefix(below) {
            Some("request.json") => exists = true,
            Some("cancel.json") => state.cancelled = true,
            Some("verdict.json") => state.decided = true,
            Some(path) => {
                let number = path.strip_prefix("attempts/").and_then(|name| name.strip_suffix(".json"));
                let number = number.and_then(|number| number.parse().ok()).unwrap_or_default();
                state.attempts = state.attempts.max(number);
            }
            None => {}
        }
    }
    exists.then_some(state)
}
