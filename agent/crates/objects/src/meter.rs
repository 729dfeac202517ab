//! Counts the requests to a bucket: they are what it costs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Requests by price class (<https://aws.amazon.com/s3/pricing/>), and what they moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// PUT, COPY, POST and LIST.
    pub writes_and_lists: u64,
    /// GET and HEAD.
    pub reads: u64,
    /// DELETE costs nothing.
    pub deletes: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// The sum of all requests' times; parallel requests count each.
    pub waited: Duration,
}

/// The counters of one bucket; shared by all that use it.
#[derive(Debug, Default)]
pub struct Meter {
    writes_and_lists: AtomicU64,
    reads: AtomicU64,
    deletes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    waited_micros: AtomicU64,
}

/// The price class of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestClass {
    WriteOrList,
    Read,
    Delete,
}

impl Meter {
    /// Counts a request, and its time from `begun` until now.
    pub fn count(&self, class: RequestClass, begun: Instant) {
        let counter = match class {
            RequestClass::WriteOrList => &self.writes_and_lists,
            RequestClass::Read => &self.reads,
            RequestClass::Delete => &self.deletes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn wrote(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All that was counted so far.
    pub fn so_far(&self) -> Requests {
        Requests {
            writes_and_lists: self.writes_and_lists.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            deletes: self.deletes.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)),
        }
    }
}
