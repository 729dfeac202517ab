//! Counts what a build did on the share.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Counts of one tier. They can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Objects that were used from this tier.
    pub objects_read: u64,
    pub bytes_read: u64,
    /// Objects that were published to this tier; sidecar files count with their archive.
    pub objects_written: u64,
    pub bytes_written: u64,
    /// What the agent itself did: operations on a file system, or requests to S3.
    pub operations: u64,
    /// Seconds in which the agent waited for the share, counted once for parallel operations.
    pub seconds_waited: f64,
    /// What S3 charges for the requests, in USD.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub usd: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_nothing(usd: &f64) -> bool {
    *usd <= 0.0
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.objects_read += other.objects_read;
        self.bytes_read += other.bytes_read;
        self.objects_written += other.objects_written;
        self.bytes_written += other.bytes_written;
        self.operations += other.operations;
        self.seconds_waited += other.seconds_waited;
        self.usd += other.usd;
    }
}
