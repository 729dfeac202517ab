//! Opens a share in a bucket and finds out what it can be used for.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Shared;
use agent_cache::bucket::BucketTiers;
use agent_objects::Objects;
use agent_objects::retry::Retries;
use agent_types::bucket_share::BucketShare;
use agent_types::error::Result;
use agent_types::events::Emitter;

/// A job goes on without its share, so nobody waits longer for it.
const RETRIES: Retries = Retries { within: Duration::from_secs(20), delay: Duration::from_millis(250) };

pub async fn look(shared: &Shared<BucketShare>, events: &Emitter) -> BucketTiers {
    match open(shared).await {
        Ok(tiers) => tiers,
        Err(error) => {
            events.warn(error.message, error.hint).await;
            BucketTiers::default()
        }
    }
}

/// Opens the bucket for the tiers that the rules of trust allow.
///
/// # Errors
/// Usage, if the region is unknown or the endpoint is not a URL. Nothing is sent.
pub async fn open(shared: &Shared<BucketShare>) -> Result<BucketTiers> {
    let store = Arc::new(agent_artifacts::aws::bucket(shared.share.bucket(), None).await?);
    Ok(BucketTiers::new(&shared.tiers, || Objects::new(Arc::clone(&store) as _, RETRIES)))
}
