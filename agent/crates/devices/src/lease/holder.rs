//! Takes, renews and releases the lease of a device.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;

use agent_artifacts::records::RecordStore;
use agent_objects::Created;
use agent_types::error::Result;

use super::LeaseRecord;
use super::names::Leases;
use crate::fence::{Fence, LeaseName, uptime};
use crate::record::to_json;
use crate::request::layout;

/// How long an expired lease goes unnoticed at most.
const TICK: Duration = Duration::from_millis(500);

/// Old leases of a device that are kept.
const KEPT: u64 = 16;

/// Time limit for what is written at the end of a lease.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// A lease that this process holds. It is renewed until it is released, lost or dropped.
#[derive(Debug)]
pub struct Lease {
    fence: Fence,
    store: Arc<RecordStore>,
    renewer: JoinHandle<()>,
}

/// Counts the renewals of a lease.
#[derive(Serialize)]
struct Renewal<'a> {
    nonce: &'a str,
    counter: u64,
}

/// Takes the lease after `newest`; `None`, if another lab took it first.
///
/// # Errors
/// If the store does not answer. The lease may have been created: it ends, because nobody renews it.
pub async fn acquire(
    store: &Arc<RecordStore>,
    device: &str,
    newest: u64,
    record: &LeaseRecord,
) -> Result<Option<Lease>> {
    let Some(number) = newest.checked_add(1) else { return Ok(None) };
    let asked = uptime();
    let created = store.create(&layout::lease(device, number), to_json(record)?).await?;
    // A request that came late may have created a number that was used and removed long ago.
    let is_newest = Leases::list(store, device).await?.newest() == Some(number);
    if created == Created::Different || !is_newest {
        return Ok(None);
    }
    let fence = Fence::new(LeaseName { device: device.to_owned(), number, nonce: record.nonce.clone() });
    fence.renew_until(asked.saturating_add(record.term()));
    let renewer = tokio::spawn(renew(Arc::clone(store), fence.clone(), record.term()));
    Ok(Some(Lease { fence, store: Arc::clone(store), renewer }))
}

impl Lease {
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Ends the lease, after the last command has ended. If the store does not answer, the lease ends because it is not renewed.
    pub async fn release(self) {
        self.renewer.abort();
        let name = self.fence.name().clone();
        self.fence.lose();
        let write = async {
            let released = layout::released(&name.device, name.number);
            self.store.create(&released, b"{}".to_vec()).await?;
            remove_old(&self.store, &name).await
        };
        match tokio::time::timeout(LAST_WRITE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("cannot release the lease of {}: {error}", name.device),
            Err(_) => tracing::warn!("cannot release the lease of {} in time", name.device),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewer.abort();
        self.fence.lose();
    }
}

/// Renews the lease until it is lost.
async fn renew(store: Arc<RecordStore>, fence: Fence, term: Duration) {
    let renewals = async {
        for counter in 1.. {
            tokio::time::sleep(term / 3).await;
            let mut pause = term / 50;
            loop {
                let asked = uptime();
                match renew_once(&store, fence.name(), counter).await {
                    Ok(true) => {
                        // Says nothing if the time was over before the answer came.
                        fence.renew_until(asked.saturating_add(term));
                        break;
                    }
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!("cannot renew the lease of {}: {error}", fence.name().device);
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(term / 6);
                    }
                }
            }
        }
    };
    let expiry = async {
        while fence.check().is_ok() {
            tokio::time::sleep(fence.left().min(TICK)).await;
        }
    };
    tokio::select! {
        () = renewals => {}
        () = expiry => {}
    }
    fence.lose();
}

/// False, if there is a newer lease.
async fn renew_once(store: &RecordStore, name: &LeaseName, counter: u64) -> Result<bool> {
    let renewal = to_json(&Renewal { nonce: &name.nonce, counter })?;
    store.write(&layout::renewed(&name.device, name.number), renewal).await?;
    Ok(Leases::list(store, &name.device).await?.newest() == Some(name.number))
}

/// Removes leases that are over long since.
async fn remove_old(store: &RecordStore, name: &LeaseName) -> Result<()> {
    let leases = Leases::list(store, &name.device).await?;
    for number in leases.numbers().take_while(|number| number.saturating_add(KEPT) < name.number) {
        let device = name.device.as_str();
        for path in [layout::renewed(device, number), layout::released(device, number)] {
            store.remove(&path).await?;
        }
        store.remove(&layout::lease(device, number)).await?;
    }
    Ok(())
}
