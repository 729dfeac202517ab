//! Finds out whether the lease of a device still holds, by looking at it again and again.

use std::collections::HashMap;
use std::time::Duration;

use agent_artifacts::records::RecordStore;
use agent_types::error::Result;

use super::names::Leases;
use super::{LeaseRecord, margin};
use crate::fence::uptime;
use crate::record;
use crate::request::layout;

/// Longer terms are not believed.
const LONGEST_TERM: Duration = Duration::from_secs(3600);

/// What is known of the newest lease of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// A lab may take the number after `newest`, which is zero if there was no lease.
    Free { newest: u64 },
    Held {
        number: u64,
        /// Empty, if the lease is damaged.
        lab: String,
    },
}

impl LeaseState {
    /// Whether the lease with this number holds.
    pub fn holds(&self, wanted: u64) -> bool {
        matches!(self, LeaseState::Held { number, .. } if *number == wanted)
    }
}

/// Remembers what it saw of leases.
#[derive(Debug)]
pub struct LeaseObserver {
    /// The term of a lease whose file is damaged.
    term: Duration,
    seen: HashMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    number: u64,
    /// `None`, if the file of the lease is damaged.
    record: Option<LeaseRecord>,
    /// The content of the file with the counter.
    renewed: Option<Vec<u8>>,
    /// The [`uptime`] at which this content was first seen.
    since: Duration,
}

impl LeaseObserver {
    pub fn new(term: Duration) -> LeaseObserver {
        LeaseObserver { term, seen: HashMap::new() }
    }

    /// Looks at the lease of a device. `dead` is the nonce of a lease whose holder is known to have ended.
    ///
    /// # Errors
    /// If the store cannot be read; then nothing is known.
    pub async fn look(
        &mut self,
        store: &RecordStore,
        device: &str,
        dead: Option<&str>,
    ) -> Result<LeaseState> {
        let leases = Leases::list(store, device).await?;
        let Some(number) = leases.newest() else { return Ok(LeaseState::Free { newest: 0 }) };
        if leases.is_released(number) {
            return Ok(LeaseState::Free { newest: number });
        }
        let asked = uptime();
        let renewed = store.read(&layout::renewed(device, number), record::LARGEST).await?;
        if let Some(seen) =
            self.seen.get(device).filter(|seen| seen.number == number && seen.renewed == renewed)
        {
            let term = seen.record.as_ref().map_or(self.term, LeaseRecord::term).min(LONGEST_TERM);
            let is_over = asked >= seen.since.saturating_add(term + margin(term));
            return Ok(seen.state(is_over));
        }
        let record = store.read(&layout::lease(device, number), record::LARGEST).await?;
        let record: Option<LeaseRecord> = record.and_then(|content| serde_json::from_slice(&content).ok());
        let is_dead = record.as_ref().is_some_and(|record| Some(record.nonce.as_str()) == dead);
        let seen = Seen { number, record, renewed, since: uptime() };
        let state = seen.state(is_dead);
        if !is_dead {
            self.seen.insert(device.to_owned(), seen);
        }
        Ok(state)
    }
}

impl Seen {
    fn state(&self, is_over: bool) -> LeaseState {
        match is_over {
            true => LeaseState::Free { newest: self.number },
            false => LeaseState::Held {
                number: self.number,
                lab: self.record.as_ref().map(|record| record.lab.clone()).unwrap_or_default(),
            },
        }
    }
}
