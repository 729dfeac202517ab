//! The lease under which a device is driven. Everything that has an effect on the device checks it first.

use agent_types::error::{Error, Result};
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
}

impl Fence {
    pub fn new(name: LeaseName) -> Fence {
        Fence { name, lost: CancellationToken::new() }
    }

    pub fn name(&self) -> &LeaseName {
        &self.name
    }

    /// Call this directly before each command that has an effect on the device.
    ///
    /// # Errors
    /// The lease was lost: nothing may touch the device.
    pub fn check(&self) -> Result<()> {
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
}
