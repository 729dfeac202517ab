//! What the tiers have already: shared state by their indexes, downloads by one list.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::below;
use crate::bucket::endpoint::{self, ReadTier};
use crate::bucket::index::{self, Index};
use crate::bucket::walk::MOST;
use crate::bucket::{BucketTier, BucketTiers};
use crate::publish::Trees;
use crate::publish::copy::Failure;
use crate::publish::local::{Area, Object};
use crate::publish::put::PutOutcome;
use agent_objects::key::exact;
use agent_objects::{ListedObject, Objects};
use agent_types::tiers::TierKind;

/// How long a publisher waits for an index that is being listed. Without it, each object costs a request.
const INDEX_WAIT: Duration = Duration::from_secs(120);

/// What the tiers have.
#[derive(Debug, Default)]
pub struct Known {
    /// The tier that is written comes first.
    tiers: Vec<KnownTier>,
}

#[derive(Debug)]
struct KnownTier {
    is_written: bool,
    objects: Objects,
    /// The prefix of the downloads, with a slash.
    downloads_prefix: String,
    index: Arc<Index>,
    downloads: HashMap<String, u64>,
    /// What the job read from this tier.
    served: Option<Arc<ReadTier>>,
}

/// A download that a tier has under the same name.
#[derive(Debug)]
pub struct KnownDownload {
    pub objects: Objects,
    pub key: String,
    pub size: u64,
    pub is_written: bool,
    /// Whether the job got the local file from there.
    pub is_served: bool,
}

impl Known {
    pub fn nothing() -> Known {
        Known::default()
    }

    /// Reads indexes and lists. What cannot be read is unknown: then the bucket refuses to create an object that it
    /// has.
    pub async fn new(tiers: &BucketTiers, served: &[Arc<ReadTier>], release: &str) -> Known {
        let writer = tiers.write.as_ref().map(|tier| tier.kind);
        let all = tiers.read.iter().map(|tier| {
            let served = served.iter().find(|served| served.bucket.kind == tier.kind);
            known_tier(tier, served, writer, release)
        });
        let mut tiers = futures_util::future::join_all(all).await;
        tiers.sort_by_key(|tier| !tier.is_written);
        Known { tiers }
    }

    /// The result for an object of shared state that a tier has; `None`, if it may be new.
    ///
    /// Only the sizes are compared: the hash in the name covers the input, and two builds of it often differ in some
    /// bytes but are equivalent.
    pub fn sstate(&self, trees: &Trees, object: &Object) -> Option<Result<PutOutcome, Failure>> {
        let tree = trees.of(object.area).filter(|_| object.area == Area::Sstate)?;
        let path = below(object, &object.primary);
        let sizes = self.tiers.iter().filter_map(|tier| Some((tier.is_written, tier.index.size(&path)?)));
        let sizes: Vec<_> = sizes.collect();
        if sizes.is_empty() {
            return None;
        }
        let ours = match tree.metadata(&object.from.join(&object.primary)) {
            Ok(facts) => facts.size,
            Err(error) => return Some(Err(Failure::Source(error))),
        };
        if sizes.iter().any(|(_, size)| *size == ours) {
            return Some(Ok(PutOutcome::Present));
        }
        sizes.iter().any(|(is_written, _)| *is_written).then_some(Ok(PutOutcome::Differs))
    }

    /// Where this download is. The tier that is written comes first.
    pub fn downloads(&self, object: &Object) -> Vec<KnownDownload> {
        let path = below(object, &object.primary);
        let of = |tier: &KnownTier| {
            let size = *tier.downloads.get(&path)?;
            let served = tier.served.as_ref();
            Some(KnownDownload {
                objects: tier.objects.clone(),
                key: format!("{}{path}", tier.downloads_prefix),
                size,
                is_written: tier.is_written,
                is_served: served.is_some_and(|tier| tier.served.contains(endpoint::Area::Downloads, &path)),
            })
        };
        self.tiers.iter().filter_map(of).collect()
    }

    /// Adds a file of shared state to the index of the tier that is written.
    pub fn insert(&self, path: &str, size: u64) {
        if let Some(tier) = self.tiers.first().filter(|tier| tier.is_written) {
            tier.index.insert(path, size);
        }
    }
}

async fn known_tier(
    tier: &BucketTier,
    served: Option<&Arc<ReadTier>>,
    writer: Option<TierKind>,
    release: &str,
) -> KnownTier {
    let is_written = writer == Some(tier.kind);
    let index = async {
        match served {
            Some(served) => {
                served.index.ready(INDEX_WAIT).await;
                Arc::clone(&served.index)
            }
            None => {
                let index = Index::new(tier.clone(), release);
                let _ = tokio::time::timeout(INDEX_WAIT, index.fill(index::MAX_AGE, is_written)).await;
                Arc::new(index)
            }
        }
    };
    let downloads_prefix = format!("{}/", tier.share.downloads());
    let downloads = async {
        let mut found = HashMap::new();
        let take = |object: ListedObject| {
            let path = object.key.strip_prefix(&downloads_prefix).filter(|_| exact(&object.key).is_ok());
            if let Some(path) = path.filter(|path| crate::names::download(Path::new(path)).is_some()) {
                found.insert(path.to_owned(), object.size);
            }
        };
        let _ = tier.objects.each_below(&downloads_prefix, MOST, take).await;
        found
    };
    let (index, downloads) = tokio::join!(index, downloads);
    let (objects, served) = (tier.objects.clone(), served.cloned());
    KnownTier { is_written, objects, downloads_prefix: downloads_prefix.clone(), index, downloads, served }
}
