//! A share in a bucket. It has the tiers and the rules of a share in a directory.

pub mod archive;
pub mod endpoint;
pub mod index;
mod layout;
pub mod lease;
pub mod probe;
pub mod prune;
pub mod publish;
pub mod stats;
pub mod usage;
pub mod verify;
mod walk;

use agent_objects::Objects;
use agent_types::bucket_share::BucketShare;
use agent_types::tiers::{Tier, TierKind, Tiers};

/// One tier of the share, with the bucket that it lies in.
#[derive(Clone, Debug)]
pub struct BucketTier {
    pub kind: TierKind,
    pub share: BucketShare,
    pub objects: Objects,
}

/// The tiers that a build may use.
#[derive(Clone, Debug, Default)]
pub struct BucketTiers {
    /// In lookup order.
    pub read: Vec<BucketTier>,
    /// The tier that is written: one of those in `read`.
    pub write: Option<BucketTier>,
}

impl BucketTiers {
    /// `objects` is the bucket of the share. Each tier counts its requests by itself.
    pub fn new(tiers: &Tiers<BucketShare>, objects: impl Fn() -> Objects) -> BucketTiers {
        let open = |tier: &Tier<BucketShare>| BucketTier {
            kind: tier.kind,
            share: tier.share.clone(),
            objects: objects(),
        };
        let read: Vec<_> = tiers.read.iter().map(open).collect();
        let write = tiers.write.as_ref().and_then(|write| read.iter().find(|tier| tier.kind == write.kind));
        BucketTiers { write: write.cloned(), read }
    }
}
