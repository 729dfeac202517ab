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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_goes_on_from_that_of_the_file() {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let now = uptime();
        let before = now.saturating_sub(Duration::from_secs(30));
        let clock = StoreClock::new(modified, before, now.saturating_sub(Duration::from_secs(10)));
        let passed = clock.now().duration_since(modified).unwrap_or_default();
        assert!((20..25).contains(&passed.as_secs()), "{passed:?}");
    }
}
