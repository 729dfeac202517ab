//! Finds out whether a tier in a bucket can be read and written, by requests like those of a build.

use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange};

use super::BucketTier;
use crate::{names, stamp};
use agent_objects::key::exact;
use agent_objects::keys::PageRequest;
use agent_objects::retry::Retries;
use agent_objects::{Created, Objects};

/// Time limit for reading, and again for writing.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A probe retries for a shorter time than a build.
const RETRIES: Retries = Retries { within: Duration::from_secs(3), delay: Duration::from_millis(250) };

/// Why a tier cannot be used.
#[derive(Debug)]
pub enum Failure {
    /// The bucket's answer to a request that needs this IAM action on this resource.
    Refused { error: Error, action: &'static str, resource: String },
    /// No answer within [`LIMIT`].
    Timeout,
    /// The server replaces objects despite `If-None-Match`.
    Unconditional,
}

/// The result of a probe.
#[derive(Debug)]
pub struct Look {
    pub reading: Result<(), Failure>,
    /// `None`, if it was not tried.
    pub writing: Option<Result<Writing, Failure>>,
}

/// A tier that can be written.
#[derive(Debug)]
pub struct Writing {
    /// Why the object of the probe could not be deleted.
    pub undeleted: Option<Failure>,
}

/// Probes a tier. Takes at most twice the [`LIMIT`].
pub async fn look(tier: &BucketTier, write: bool) -> Look {
    let objects = tier.objects.with_retries(RETRIES);
    let reading = within_limit(try_reading(tier, &objects)).await;
    let writing = match write && reading.is_ok() {
        true => Some(within_limit(try_writing(tier, &objects)).await),
        false => None,
    };
    Look { reading, writing }
}

async fn within_limit<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or(Err(Failure::Timeout))
}

/// Lists the index, and reads from one of its objects: what every reader does first.
async fn try_reading(tier: &BucketTier, objects: &Objects) -> Result<(), Failure> {
    let request = PageRequest { prefix: tier.share.key("index/"), ..PageRequest::default() };
    let listed = objects.page(&request).await;
    let refused = |error, action, resource: String| Failure::Refused { error, action, resource };
    let bucket = || format!("s3://{}", tier.share.bucket());
    let listed = listed.map_err(|error| refused(error, "s3:ListBucket", bucket()))?;
    let mut plain =
        listed.objects.into_iter().filter_map(|object| Some((exact(&object.key).ok()?, object.size)));
    let first = plain.next();
    let readable = || format!("{}/*", tier.share);
    let key = match &first {
        Some((key, _)) => key.clone(),
        // S3 refuses to say that an object does not exist to a role that may not read it.
        None => Path::from(tier.share.key("index/none")),
    };
    let range = first.filter(|(_, size)| *size > 0).map(|_| GetRange::Bounded(0..1));
    let got = objects.get(&key, GetOptions { range, ..GetOptions::default() }).await;
    let read = match got {
        Ok(Some(got)) => got.bytes().await.map(|_| ()),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    read.map_err(|error| refused(error, "s3:GetObject", readable()))
}

/// Creates an object, fails to create it again, and deletes it: what a lease needs.
async fn try_writing(tier: &BucketTier, objects: &Objects) -> Result<Writing, Failure> {
    let resource = || format!("{}/*", tier.share);
    let refused = |error, action| Failure::Refused { error, action, resource: resource() };
    // The name is that of an unfinished lease, which a prune removes.
    let name = format!("{}/{}", tier.share.leases(), names::part(&stamp::random()));
    let invalid = |why: String| Error::Generic { store: "S3", source: why.into() };
    let key = exact(&name).map_err(|why| refused(invalid(why), "s3:PutObject"))?;
    let create = |content: &'static [u8]| objects.create(&key, content.into());
    let first = create(b"build-agent\n").await.map_err(|error| refused(error, "s3:PutObject"))?;
    let second = create(b"build-agent again\n").await;
    let mut failed = objects.delete_batch(vec![key.clone()]).await;
    let second = second.map_err(|error| refused(error, "s3:PutObject"))?;
    if first != Created::New || second != Created::Different {
        return Err(Failure::Unconditional);
    }
    let undeleted = failed.pop().map(|(_, error)| {
        let error = Error::Generic { store: "S3", source: error.to_string().into() };
        Failure::Refused {
            error,
            action: "s3:DeleteObject",
            resource: format!("s3://{}/{}/*", tier.share.bucket(), tier.share.leases()),
        }
    });
    Ok(Writing { undeleted })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use agent_types::bucket_share::BucketShare;
    use agent_types::s3_address::S3Address;
    use agent_types::tiers::TierKind;
    use object_store::memory::InMemory;

    use super::*;

    fn tier() -> BucketTier {
        BucketTier {
            kind: TierKind::Shared,
            share: BucketShare::new(S3Address::parse("s3://b/p").unwrap()),
            objects: Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO)),
        }
    }

    #[tokio::test]
    async fn an_empty_tier_can_be_read_and_written_and_stays_empty() {
        let tier = tier();
        let look = look(&tier, true).await;
        assert!(look.reading.is_ok(), "{look:?}");
        assert!(matches!(look.writing, Some(Ok(Writing { undeleted: None }))), "{look:?}");
        assert_eq!(tier.objects.below("p/", usize::MAX).await.unwrap(), []);
    }

    #[tokio::test]
    async fn reading_writes_nothing() {
        let tier = tier();
        tier.objects.create(&Path::from("p/index/scarthgap/x"), "x".into()).await.unwrap();
        let look = look(&tier, false).await;
        assert!(look.reading.is_ok() && look.writing.is_none(), "{look:?}");
        assert_eq!(tier.objects.meter().so_far().writes_and_lists, 2, "one of them created the object");
    }
}
