//! Leases in a bucket: the same objects as in a directory, see [`crate::lease`].

use std::time::SystemTime;

use super::BucketTier;
use crate::lease;
use agent_objects::key::exact;
use agent_objects::{Created, Objects};
use agent_types::error::{Error, Result};
use object_store::path::Path;

/// A lease of this process. It expires by itself if it is not released.
#[derive(Debug)]
pub struct BucketLease {
    objects: Objects,
    key: Path,
}

impl BucketLease {
    /// Creates a lease in a tier that this job may write. See [`lease::Lease::take`].
    ///
    /// # Errors
    /// Upstream, if it cannot be written; internal, if a name is invalid.
    pub async fn take(
        tier: &BucketTier,
        release: &str,
        until: SystemTime,
        layers: impl IntoIterator<Item = String>,
    ) -> Result<BucketLease> {
        let content = lease::content(release, until, layers)?;
        let name = format!("{}/{}", tier.share.leases(), lease::name(release));
        let key = exact(&name).map_err(Error::internal)?;
        match tier.objects.create(&key, content.into()).await {
            Ok(Created::New | Created::Equal) => Ok(BucketLease { objects: tier.objects.clone(), key }),
            Ok(Created::Different) => Err(Error::upstream(format!("a lease with the name {key} exists"))),
            Err(error) => {
                Err(Error::upstream(format!("cannot write a lease to {}", tier.share)).because(&error))
            }
        }
    }

    /// Removes the lease.
    ///
    /// # Errors
    /// Upstream, if it cannot be deleted.
    pub async fn release(self) -> Result<()> {
        match self.objects.delete_batch(vec![self.key]).await.pop() {
            None => Ok(()),
            Some((key, error)) => Err(Error::upstream(format!("cannot delete {key}")).because(&*error)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use agent_objects::retry::Retries;
    use agent_types::bucket_share::BucketShare;
    use agent_types::s3_address::S3Address;
    use agent_types::tiers::TierKind;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_lease_has_the_content_of_one_in_a_directory_and_is_deleted() {
        let share = BucketShare::new(S3Address::parse("s3://b").unwrap());
        let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
        let tier = BucketTier { kind: TierKind::Shared, share, objects };
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let layer = format!("poky-0a/{}", "0".repeat(40));
        let lease = BucketLease::take(&tier, "scarthgap", until, [layer.clone()]).await.unwrap();
        let list = async || tier.objects.below("leases/", usize::MAX).await.unwrap();
        let listed = list().await;
        let [object] = listed.as_slice() else { panic!("{listed:?}") };
        assert!(object.key.starts_with("leases/scarthgap."), "{object:?}");
        let content = tier.objects.read(&Path::from(object.key.as_str()), 1000).await.unwrap().unwrap();
        let content: serde_json::Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(
            (&content["schema"], &content["end"], &content["layers"][0]),
            (&"build-agent/lease/v1".into(), &4_000_000_000_u64.into(), &layer.into())
        );
        lease.release().await.unwrap();
        assert_eq!(list().await, []);
        assert!(BucketLease::take(&tier, "../x", until, []).await.is_err());
    }
}
