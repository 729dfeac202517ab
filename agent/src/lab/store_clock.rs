//! The time by the store. The clock of this machine may be wrong.

use std::time::{Duration, SystemTime};

use agent_devices::fence::uptime;

/// Knows the store's time at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreClock {
    time: SystemTime,
    at: Duration,
}

impl StoreClock {
    /// A file that was written between these two moments of [`uptime`] has this time.
    pub fn new(modified: SystemTime, before: Duration, after: Duration) -> StoreClock {
        StoreClock { time: modified, at: before + after.saturating_sub(before) / 2 }
    }

    pub fn now(&self) -> SystemTime {
        self.time + uptime().saturating_sub(self.at)
    }
}
