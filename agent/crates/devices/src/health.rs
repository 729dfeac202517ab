//! The sick list, and devices that people took out.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use agent_artifacts::records::RecordStore;
use agent_types::error::{Class, Result};
use agent_types::events::time;

use crate::record::{self, to_json};
use crate::request::layout;

/// A device that fails this often, without a success in between, is sick.
const FAILURES: u32 = 2;

/// Why and since when a device fails. Without a file it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Since the last success.
    pub failures: u32,
    /// It gets no requests until somebody clears it.
    pub sick: bool,
    pub why: String,
    pub lab: String,
    #[serde(with = "time")]
    pub time: SystemTime,
}

/// Why a device gets no requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub by: String,
    #[serde(with = "time")]
    pub time: SystemTime,
}

/// The health of a device; `None`, if nothing is known against it. What cannot be understood counts as sick.
///
/// # Errors
/// If it cannot be read.
pub async fn health(store: &RecordStore, device: &str) -> Result<Option<Health>> {
    match record::read(store, &layout::health(device)).await {
        Err(error) if error.class == Class::Usage => Ok(Some(Health {
            failures: FAILURES,
            sick: true,
            why: error.message,
            lab: String::new(),
            time: SystemTime::UNIX_EPOCH,
        })),
        health => health,
    }
}

/// Counts a failure of the device. The caller has its lease.
///
/// # Errors
/// If it cannot be stored.
pub async fn record_failure(store: &RecordStore, device: &str, lab: &str, why: &str) -> Result<Health> {
    let failures = health(store, device).await?.map_or(0, |health| health.failures).saturating_add(1);
    let why = why.chars().take(2000).collect();
    let sick = failures >= FAILURES;
    let health = Health { failures, sick, why, lab: lab.to_owned(), time: SystemTime::now() };
    store.write(&layout::health(device), to_json(&health)?).await?;
    Ok(health)
}

/// The device works.
///
/// # Errors
/// If it cannot be stored.
pub async fn clear(store: &RecordStore, device: &str) -> Result<()> {
    store.remove(&layout::health(device)).await
}

/// Why the device gets no requests, if somebody took it out. What cannot be understood takes it out as well.
///
/// # Errors
/// If it cannot be read.
pub async fn drain(store: &RecordStore, device: &str) -> Result<Option<Drain>> {
    match record::read(store, &layout::drain(device)).await {
        // Only `lab drain` writes there.
        Err(error) if error.class == Class::Usage => {
            Ok(Some(Drain { by: error.message, time: SystemTime::UNIX_EPOCH }))
        }
        drain => drain,
    }
}

/// Takes a device out: what runs on it goes on, and it gets no other request.
///
/// # Errors
/// If it cannot be stored.
pub async fn set_drain(store: &RecordStore, device: &str, by: &str) -> Result<()> {
    let drain = Drain { by: by.to_owned(), time: SystemTime::now() };
    store.write(&layout::drain(device), to_json(&drain)?).await
}

/// Lets the device have requests again.
///
/// # Errors
/// If it cannot be stored.
pub async fn undo_drain(store: &RecordStore, device: &str) -> Result<()> {
    store.remove(&layout::drain(device)).await
}
