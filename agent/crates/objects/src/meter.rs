//! Counts the requests to a bucket: they are what it costs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// The time in which at least one request was under way.
    pub waited: Duration,
}

impl Requests {
    /// All requests.
    pub const fn number(&self) -> u64 {
        self.writes_and_lists + self.reads + self.deletes
    }
}

/// The counters of one bucket; shared by all that use it.
#[derive(Debug, Default)]
pub struct Meter {
    writes_and_lists: AtomicU64,
    reads: AtomicU64,
    deletes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    requests: u64,
    /// Since when there is at least one.
    since: Option<Instant>,
    /// Before that.
    waited: Duration,
}

/// The price class of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestClass {
    WriteOrList,
    Read,
    Delete,
}

impl Meter {
    /// Counts a request, and its time until the returned value is dropped.
    pub fn request(&self, class: RequestClass) -> Waiting<'_> {
        self.count(class);
        let mut under_way = self.under_way();
        under_way.requests += 1;
        under_way.since.get_or_insert_with(Instant::now);
        Waiting(self)
    }

    /// Counts a request whose time is unknown.
    pub fn count(&self, class: RequestClass) {
        let counter = match class {
            RequestClass::WriteOrList => &self.writes_and_lists,
            RequestClass::Read => &self.reads,
            RequestClass::Delete => &self.deletes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn wrote(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All that was counted so far.
    pub fn so_far(&self) -> Requests {
        let waited = {
            let under_way = self.under_way();
            under_way.waited + under_way.since.map_or(Duration::ZERO, |since| since.elapsed())
        };
        Requests {
            writes_and_lists: self.writes_and_lists.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            deletes: self.deletes.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            waited,
        }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is under way.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Meter);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut under_way = self.0.under_way();
        under_way.requests -= 1;
        if under_way.requests == 0
            && let Some(since) = under_way.since.take()
        {
            under_way.waited += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_requests_count_the_time_once() {
        let meter = Meter::default();
        let begun = Instant::now();
        let all: Vec<_> = (0..100).map(|_| meter.request(RequestClass::Read)).collect();
        std::thread::sleep(Duration::from_millis(20));
        assert!(meter.so_far().waited >= Duration::from_millis(20));
        drop(all);
        let waited = meter.so_far().waited;
        assert!(waited >= Duration::from_millis(20) && waited <= begun.elapsed(), "{waited:?}");
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(meter.so_far(), Requests { reads: 100, waited, ..Requests::default() });
        assert_eq!(meter.so_far().number(), 100);
    }
}
