//! Leases of devices: numbered files in the store.
//!
//! A lease of a device has the next number, whose file only one lab can create. The number is also the fencing number:
//! who has an older one must not touch the device. The holder replaces `<n>.renewed.json` with a counter. A lease ends
//! when it is released, when a newer one exists, or when its counter does not change for the term and a margin. Each
//! machine measures that by its own clock, from when it first saw the counter: nothing depends on clocks that several
//! machines must share.
//!
//! The holder counts from the *start* of its last successful renewal, an observer from the *end* of the request that
//! showed it. So the holder stops first, and the margin is the time that it has for it.

mod holder;
mod names;
mod observer;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use agent_artifacts::records::RecordStore;
use agent_types::error::Result;

pub use holder::{Lease, acquire};
pub use names::Leases;
pub use observer::{LeaseObserver, LeaseState};

/// The file of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub lab: String,
    /// Unique among all leases.
    pub nonce: String,
    /// In milliseconds.
    pub term: u64,
}

impl LeaseRecord {
    pub fn term(&self) -> Duration {
        Duration::from_millis(self.term)
    }
}

/// What an observer waits in addition to the term. In this time, the holder stops what it runs.
pub fn margin(term: Duration) -> Duration {
    term / 2
}

/// Whether this lease is the newest of its device, and not released. Whether its holder still renews it shows only over
/// time.
///
/// # Errors
/// If the leases cannot be listed.
pub async fn is_current(store: &RecordStore, device: &str, number: u64) -> Result<bool> {
    let leases = Leases::list(store, device).await?;
    Ok(leases.newest() == Some(number) && !leases.is_released(number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "lease_tests.rs"]
mod tests;
