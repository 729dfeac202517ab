//! Leases of devices: numbered files in the store.
//!
//! A lease of a device has the next number, whose file only one lab can create. The number is also the fencing number:
//! who has an older one must not touch the device. The holder replaces `<n>.renewed.json` with a counter. A lease ends
//! when it is released, when a newer one exists, or when its counter does not change for the term plus a margin. Each
//! machine measures that by its own monotonic clock, from when it first saw the counter: nothing depends on clocks that
//! several machines must share.

mod names;

use agent_artifacts::records::RecordStore;
use agent_types::error::Result;

use names::Leases;

/// Whether this lease is the newest of its device, and not released. Whether its holder still renews it shows only over
/// time.
///
/// # Errors
/// If the leases cannot be listed.
pub async fn is_current(store: &RecordStore, device: &str, number: u64) -> Result<bool> {
    let leases = Leases::list(store, device).await?;
    Ok(leases.newest() == Some(number) && !leases.is_released(number))
}
