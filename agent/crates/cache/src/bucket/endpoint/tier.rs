//! A tier that the endpoint serves.

use std::sync::Arc;
use std::time::Instant;

use super::breaker::Breaker;
use super::served::Served;
use super::target::Area;
use crate::bucket::BucketTier;
use crate::bucket::index::Index;

/// A tier, its index, and what was served of it.
#[derive(Debug)]
pub struct ReadTier {
    pub bucket: BucketTier,
    pub index: Arc<Index>,
    pub served: Served,
    pub(super) breaker: Breaker,
}

impl ReadTier {
    pub(super) fn new(bucket: BucketTier, index: Arc<Index>) -> ReadTier {
        ReadTier { bucket, index, served: Served::default(), breaker: Breaker::default() }
    }

    /// The key of an object of this tier.
    pub(super) fn key(&self, area: Area, name: &str, release: &str) -> String {
        match area {
            Area::Sstate => format!("{}/{name}", self.bucket.share.sstate(release)),
            Area::Downloads => format!("{}/{name}", self.bucket.share.downloads()),
        }
    }

    /// The bucket did not answer a request, or not completely.
    pub(super) fn failed(&self, why: String) {
        self.breaker.failed(Instant::now());
        self.served.failed(why);
    }
}
