//! What a job writes down on the share about itself: its lease, and how well the caches served it.
//! Nobody waits long for either, and a job without them is a job all the same.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::OpenShare;
use crate::config::Settings;
use agent_cache::bucket::endpoint::{Area, ReadTier};
use agent_cache::bucket::lease::BucketLease;
use agent_cache::bucket::usage::UsageRecord;
use agent_cache::{Lease, Usage};
use agent_types::error::{Error, Result};
use agent_types::events::Emitter;

/// A note is a small file. On a share that hangs it is never written.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Machines' clocks differ, and a job's last words take their time.
const MARGIN: Duration = Duration::from_secs(10 * 60);

/// The lease of a job, in the tier that it may write.
#[derive(Debug)]
pub enum JobLease {
    Directory(Lease),
    Bucket(BucketLease),
}

/// Takes the job's lease in the tier that it may write: what is there is not pruned under it. `layers`
/// are the entries of the share's layer store that it uses.
///
/// Who may write no tier can leave no lease: it lives on the pruner's grace period.
pub async fn lease(
    settings: &Settings,
    share: &OpenShare,
    layers: &[String],
    events: &Emitter,
) -> Option<JobLease> {
    let (release, layers) = (settings.release.name, layers.to_vec());
    let until = SystemTime::now() + settings.limits.job + settings.limits.grace + MARGIN;
    let taken = match (&share.tiers.write, &share.bucket.write) {
        (Some(tier), _) => {
            let tier = tier.share.clone();
            patiently(move || Lease::take(&tier, release, until, layers)).await.map(JobLease::Directory)
        }
        (None, Some(tier)) => {
            in_time(BucketLease::take(tier, release, until, layers)).await.map(JobLease::Bucket)
        }
        (None, None) => return None,
    };
    match taken {
        Ok(lease) => Some(lease),
        Err(error) => {
            let message = format!("this job has no lease, so that a prune may take what it uses: {error}");
            events.warn(message, error.hint).await;
            None
        }
    }
}

/// Gives the lease back.
pub async fn release(lease: JobLease, events: &Emitter) {
    let released = match lease {
        JobLease::Directory(lease) => patiently(move || lease.release()).await,
        JobLease::Bucket(lease) => in_time(lease.release()).await,
    };
    if let Err(error) = released {
        let message = format!("the lease of this job stays until it is over by itself: {error}");
        events.warn(message, error.hint).await;
    }
}

/// Notes for `cache stats` how well the caches served the builds of this job.
///
/// In a bucket it also notes which objects were used, for a prune. `served` are the tiers that BitBake read there.
pub async fn usage(
    settings: &Settings,
    share: &OpenShare,
    served: &[Arc<ReadTier>],
    usage: Usage,
    events: &Emitter,
) {
    let (release, now) = (settings.release.name, SystemTime::now());
    let written = match (&share.tiers.write, &share.bucket.write) {
        (Some(tier), _) if usage != Usage::default() => {
            let tier = tier.share.clone();
            patiently(move || usage.write(&tier, release, now)).await
        }
        (None, Some(tier)) => {
            let mut record = UsageRecord::new(usage);
            let served = served.iter().filter(|served| served.bucket.kind == tier.kind);
            for (area, name) in served.flat_map(|served| served.served.names()) {
                record.add(&match area {
                    Area::Sstate => format!("sstate/{release}/{name}"),
                    Area::Downloads => format!("downloads/{name}"),
                });
            }
            if record.is_empty() {
                return;
            }
            in_time(record.write(tier, release, now)).await
        }
        _ => return,
    };
    if let Err(error) = written {
        events.warn(format!("`cache stats` will not know of this build: {error}"), error.hint).await;
    }
}

async fn patiently<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let broken = |error| Error::internal("a note on the share broke").because(&error);
    in_time(async { tokio::task::spawn_blocking(work).await.map_err(broken)? }).await
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::machine(format!("the share did not answer within {}s", TIMEOUT.as_secs()));
    tokio::time::timeout(TIMEOUT, work).await.map_err(late)?
}
