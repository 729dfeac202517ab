//! What a job writes down on the share about itself: its lease, and how well the caches served it.
//! Nobody waits long for either, and a job without them is a job all the same.

use std::time::{Duration, SystemTime};

use super::OpenShare;
use crate::config::Settings;
use agent_cache::{Lease, Usage};
use agent_types::error::{Error, Result};
use agent_types::events::Emitter;

/// A note is a small file. On a share that hangs it is never written.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Machines' clocks differ, and a job's last words take their time.
const MARGIN: Duration = Duration::from_secs(10 * 60);

/// Takes the job's lease in the tier that it may write: what is there is not pruned under it. `layers`
/// are the entries of the share's layer store that it uses.
///
/// Who may write no tier can leave no lease: it lives on the pruner's grace period.
pub async fn lease(
    settings: &Settings,
    share: &OpenShare,
    layers: &[String],
    events: &Emitter,
) -> Option<Lease> {
    let tier = share.tiers.write.clone()?.share;
    let (release, layers) = (settings.release.name, layers.to_vec());
    let until = SystemTime::now() + settings.limits.job + settings.limits.grace + MARGIN;
    match patiently(move || Lease::take(&tier, release, until, layers)).await {
        Ok(lease) => Some(lease),
        Err(error) => {
            let message = format!("this job has no lease, so that a prune may take what it uses: {error}");
            events.warn(message, error.hint).await;
            None
        }
    }
}

/// Gives the lease back.
pub async fn release(lease: Lease, events: &Emitter) {
    if let Err(error) = patiently(move || lease.release()).await {
        let message = format!("the lease of this job stays until it is over by itself: {error}");
        events.warn(message, error.hint).await;
    }
}

/// Notes for `cache stats` how well the caches served the builds of this job.
pub async fn usage(settings: &Settings, share: &OpenShare, usage: Usage, events: &Emitter) {
    let Some(tier) = share.tiers.write.clone().filter(|_| usage != Usage::default()) else { return };
    let release = settings.release.name;
    let written = patiently(move || usage.write(&tier.share, release, SystemTime::now())).await;
    if let Err(error) = written {
        events.warn(format!("`cache stats` will not know of this build: {error}"), error.hint).await;
    }
}

async fn patiently<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::time::timeout(TIMEOUT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(Error::internal("a note on the share broke").because(&error)),
        Err(_) => Err(Error::machine(format!("the share did not answer within {}s", TIMEOUT.as_secs()))),
    }
}
