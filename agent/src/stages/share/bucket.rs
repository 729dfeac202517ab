//! Opens a share in a bucket, finds out what it can be used for, and reports what the job's requests to it cost.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::config::Shared;
use agent_artifacts::aws;
use agent_cache::bucket::endpoint::ReadTier;
use agent_cache::bucket::probe::{self, Failure, LIMIT, Look, Writing};
use agent_cache::bucket::{BucketTier, BucketTiers};
use agent_cache::probe::Judgement;
use agent_objects::retry::Retries;
use agent_objects::{Objects, Prices};
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};
use agent_types::events::Emitter;
use agent_types::tiers::{State, Tiers};
use agent_types::traffic::Traffic;

/// How long failed requests are retried. A job goes on without its share.
const RETRIES: Retries = Retries { within: Duration::from_secs(20), delay: Duration::from_millis(250) };

/// Probes all tiers at once. Takes at most twice the limit of a probe.
pub async fn look(shared: &Shared<BucketShare>, events: &Emitter) -> BucketTiers {
    let tiers = match open(shared.share.bucket(), &shared.tiers).await {
        Ok(tiers) => tiers,
        Err(error) => {
            let reason = [vec![error.message], error.causes].concat().join(": ");
            let judgement = Judgement { state: State::Unusable, reason: Some(reason), fix: error.hint };
            for tier in &shared.tiers.read {
                super::tell(tier.kind, tier.share.to_string(), &judgement, events).await;
            }
            return BucketTiers::default();
        }
    };
    let wanted = |tier: &BucketTier| tiers.write.as_ref().is_some_and(|write| write.kind == tier.kind);
    let looks = join_all(tiers.read.iter().map(|tier| probe::look(tier, wanted(tier)))).await;
    let mut left = BucketTiers::default();
    for (tier, look) in tiers.read.iter().zip(looks) {
        let judgement = judge(&look);
        super::tell(tier.kind, tier.share.to_string(), &judgement, events).await;
        if judgement.state != State::Unusable {
            left.read.push(tier.clone());
        }
        if judgement.state == State::ReadWrite {
            left.write = Some(tier.clone());
        }
    }
    left
}

/// Opens the bucket for the tiers that the rules of trust allow.
///
/// # Errors
/// Usage, if the region is unknown or the endpoint is not a URL. Nothing is sent.
pub async fn open(bucket: &str, tiers: &Tiers<BucketShare>) -> Result<BucketTiers> {
    let store = Arc::new(aws::share_bucket(bucket).await?);
    let no_client = |error| Error::machine("cannot list S3 buckets").because(&error);
    let keys = Arc::new(aws::BucketKeys::new(Arc::clone(&store)).map_err(no_client)?);
    let objects = || Objects::new(Arc::clone(&store) as _, RETRIES).listed_by(Arc::clone(&keys) as _);
    Ok(BucketTiers::new(tiers, objects))
}

/// What a tier can be used for.
fn judge(look: &Look) -> Judgement {
    let judgement = |state, (reason, fix)| Judgement { state, reason: Some(reason), fix: Some(fix) };
    if let Err(failure) = &look.reading {
        return judgement(State::Unusable, told(failure));
    }
    match &look.writing {
        None => Judgement { state: State::ReadOnly, reason: None, fix: None },
        Some(Err(failure)) => judgement(State::ReadOnly, told(failure)),
        Some(Ok(Writing { undeleted: Some(failure) })) => {
            let (reason, fix) = told(failure);
            judgement(State::ReadWrite, (format!("the build cannot remove its own lease: {reason}"), fix))
        }
        Some(Ok(Writing { undeleted: None })) => {
            Judgement { state: State::ReadWrite, reason: None, fix: None }
        }
    }
}

/// Why a probe failed, and the fix.
fn told(failure: &Failure) -> (String, String) {
    match failure {
        Failure::Refused { error, action, resource } => {
            let refused =
                aws::upstream(format!("{action} failed"), error, &format!("{action} on {resource}"));
            let reason = [vec![refused.message], refused.causes].concat().join(": ");
            (reason, refused.hint.unwrap_or_default())
        }
        Failure::Timeout => (
            format!("S3 did not answer within {} s", LIMIT.as_secs()),
            "check the network: a subnet without internet access needs an S3 gateway endpoint".into(),
        ),
        Failure::Unconditional => (
            "the server overwrites objects despite `If-None-Match: *`".into(),
            "use a server that supports conditional writes, such as S3; nothing is published here".into(),
        ),
    }
}

/// Reports what BitBake read from each tier, the requests of the whole job, and their price.
pub async fn tell_traffic(tiers: &BucketTiers, served: &[Arc<ReadTier>], prices: &Prices, events: &Emitter) {
    let of = |tier: &BucketTier| {
        let requests = tier.objects.meter().so_far();
        let served = served.iter().find(|served| served.bucket.kind == tier.kind);
        let read = served.map(|served| served.served.totals()).unwrap_or_default();
        let traffic = Traffic {
            objects_read: read.objects,
            bytes_read: read.bytes,
            operations: requests.number(),
            seconds_waited: requests.waited.as_secs_f64(),
            usd: prices.money(&requests),
            ..Traffic::default()
        };
        (tier.kind, traffic)
    };
    super::tell_traffic(tiers.read.iter().map(of), events).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(action: &'static str) -> Failure {
        let error = object_store_error("<Error><Code>AccessDenied</Code></Error>");
        Failure::Refused { error, action, resource: "s3://b/p/*".into() }
    }

    fn object_store_error(words: &'static str) -> agent_objects::Error {
        agent_objects::Error::Generic { store: "S3", source: words.into() }
    }

    #[test]
    fn a_tier_is_used_as_far_as_it_works_and_each_loss_has_a_fix() {
        let works = || Ok(Writing { undeleted: None });
        let undeleted = Ok(Writing { undeleted: Some(refused("s3:DeleteObject")) });
        let table = [
            (Ok(()), None, State::ReadOnly, None),
            (Ok(()), Some(works()), State::ReadWrite, None),
            (Ok(()), Some(undeleted), State::ReadWrite, Some("s3:DeleteObject on s3://b/p/*")),
            (Ok(()), Some(Err(refused("s3:PutObject"))), State::ReadOnly, Some("s3:PutObject on s3://b/p/*")),
            (Ok(()), Some(Err(Failure::Unconditional)), State::ReadOnly, Some("conditional writes")),
            (Err(Failure::Timeout), None, State::Unusable, Some("gateway endpoint")),
            (Err(refused("s3:ListBucket")), None, State::Unusable, Some("s3:ListBucket on s3://b/p/*")),
        ];
        for (reading, writing, state, fix) in table {
            let look = Look { reading, writing };
            let judgement = judge(&look);
            assert_eq!(judgement.state, state, "{look:?}");
            assert_eq!(judgement.reason.is_some(), fix.is_some(), "{judgement:?}");
            let told = judgement.fix.unwrap_or_default();
            assert!(fix.map_or(told.is_empty(), |fix| told.contains(fix)), "{told}");
        }
    }
}
