//! What a build did on the share, in numbers.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Counts of one tier. Sums are made by adding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Objects that were used from there.
    pub objects_read: u64,
    pub bytes_read: u64,
    /// Objects that were published there, companions counted with their archive.
    pub objects_written: u64,
    pub bytes_written: u64,
    /// File-system operations that the agent itself did there: what costs time on NFS.
    pub operations: u64,
    /// Seconds during which the agent waited for the share, whatever was done side by side.
    pub seconds_waited: f64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.objects_read += other.objects_read;
        self.bytes_read += other.bytes_read;
        self.objects_written += other.objects_written;
        self.bytes_written += other.bytes_written;
        self.operations += other.operations;
        self.seconds_waited += other.seconds_waited;
    }
}
