//! The lease under which a device is driven. Everything that has an effect on the device checks it first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_types::error::{Error, Result};
use nix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

/// Names a lease. Of two leases of a device, the one with the larger number is newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseName {
    pub device: String,
    pub number: u64,
    /// Distinguishes holders whose creation of the lease got no answer.
    pub nonce: String,
}

/// Whether the lease is still held. Cheap to clone; all clones see the same.
#[derive(Clone, Debug)]
pub struct Fence {
    name: LeaseName,
    lost: CancellationToken,
    /// Milliseconds of [`uptime`] at which the lease ends unless it is renewed.
    expires: Arc<AtomicU64>,
}

impl Fence {
    /// The fence of a lease that does not expire.
    pub fn new(name: LeaseName) -> Fence {
        Fence { name, lost: CancellationToken::new(), expires: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    pub fn name(&self) -> &LeaseName {
        &self.name
    }

    /// Call this directly before each command that has an effect on the device.
    ///
    /// # Errors
    /// The lease was lost: nothing may touch the device.
    pub fn check(&self) -> Result<()> {
        if self.left().is_zero() {
            self.lose();
        }
        match self.lost.is_cancelled() {
            false => Ok(()),
            true => Err(Error::machine(format!("the lease of the device {} was lost", self.name.device))
                .hint("another lab has it, or the store did not answer in time; the request runs again")),
        }
    }

    /// Ends as soon as the lease is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Says that the lease was lost. It stays lost.
    pub fn lose(&self) {
        self.lost.cancel();
    }

    /// The lease ends at this [`uptime`]. A lost one stays lost.
    pub fn renew_until(&self, uptime: Duration) {
        self.expires.store(milliseconds(uptime), Ordering::SeqCst);
    }

    /// How long the lease holds without another renewal.
    pub fn left(&self) -> Duration {
        let expires = self.expires.load(Ordering::SeqCst);
        Duration::from_millis(expires.saturating_sub(milliseconds(uptime())))
    }
}

/// A clock that nobody sets, and that also counts the time for which the machine sleeps.
pub fn uptime() -> Duration {
    // Without a clock, no lease holds.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_closes_when_its_time_is_over_and_stays_closed() {
        let name = LeaseName { device: "pi".into(), number: 1, nonce: "n".into() };
        let fence = Fence::new(name);
        assert!(fence.check().is_ok());
        fence.renew_until(uptime() + Duration::from_secs(60));
        assert!(fence.check().is_ok() && fence.left() > Duration::from_secs(50));
        fence.renew_until(uptime());
        assert!(fence.check().is_err());
        fence.renew_until(uptime() + Duration::from_secs(60));
        assert!(fence.clone().check().is_err(), "another holder may have the device by now");
    }
}
