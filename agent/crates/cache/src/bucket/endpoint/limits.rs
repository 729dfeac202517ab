//! The time limits of the endpoint.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A connection without a request is closed after this time. Long, because BitBake up to langdale fails a build if
    /// a connection closes that it wants to use again (`checkstatus` in `fetch2/wget.py`).
    pub idle: Duration,
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// A client must accept some bytes of an answer in this time.
    pub write: Duration,
    /// A whole answer, in addition to a second for each 64 KiB.
    pub answer: Duration,
    /// The bucket must begin an answer in this time. wget of dunfell gives up after 30 s.
    pub bucket: Duration,
    /// The bucket must send some bytes in this time.
    pub stall: Duration,
    /// A question about existence waits for the index. With the answer "missing", BitBake builds.
    pub index: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            idle: Duration::from_secs(10 * 60),
            header: Duration::from_secs(20),
            write: Duration::from_secs(60),
            answer: Duration::from_secs(120),
            bucket: Duration::from_secs(20),
            stall: Duration::from_secs(25),
            index: Duration::from_secs(20),
        }
    }
}
