//! What was served of one tier: for the report, and for the publisher, which must not send it back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::target::Area;

/// Maximum number of names that are kept. More are counted as bytes only.
const MAX_NAMES: usize = 1_000_000;

/// What was served so far.
#[derive(Debug, Default)]
pub struct Served {
    objects: Mutex<HashMap<(Area, String), u64>>,
    bytes: AtomicU64,
    failures: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

/// The sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Objects that a client got to their end; one that was read twice counts once.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Requests that the bucket did not answer, or not completely.
    pub failures: u64,
}

impl Served {
    /// An object was served to its end.
    pub fn complete(&self, area: Area, name: &str, size: u64) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = objects.len() < MAX_NAMES && objects.insert((area, name.to_owned()), size).is_none();
        if is_new {
            self.bytes.fetch_add(size, Ordering::Relaxed);
        }
    }

    pub fn failed(&self, why: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    pub fn contains(&self, area: Area, name: &str) -> bool {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.contains_key(&(area, name.to_owned()))
    }

    pub fn totals(&self) -> Totals {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals { objects, bytes: load(&self.bytes), failures: load(&self.failures) }
    }

    /// The first failure, for people.
    pub fn first_failure(&self) -> Option<String> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of the objects that were served.
    pub fn names(&self) -> Vec<(Area, String)> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}
