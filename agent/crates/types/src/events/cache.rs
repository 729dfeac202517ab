//! What the caches did: the signature cache, shared state, and the tiers of the share.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::tiers::{State, TierKind};

/// A query of yocto-check-layer to BitBake, and where its answer came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheQuery {
    /// E.g. `signatures of the world, with INHERIT=yocto-check-layer`.
    #[serde(rename = "question")]
    pub query: String,
    pub outcome: CacheOutcome,
    /// Why there was no cache hit, or no lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long BitBake took for this answer, less the time that the tool waited for it. Time waited for one
    /// answer while BitBake worked on others is subtracted from those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_saved: Option<f64>,
    /// What BitBake parsed, where it ran and said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipes: Option<Recipes>,
    /// How many runs of the tool came before this one for the same verdict.
    #[serde(default, skip_serializing_if = "is_zero", rename = "repeat")]
    pub rerun: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Files of recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipes {
    pub cached: u64,
    pub parsed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheOutcome {
    /// The answer was in the cache.
    Hit,
    /// BitBake ran in this job, before yocto-check-layer asked.
    #[serde(rename = "ahead")]
    Prefetched,
    /// BitBake ran.
    Miss,
    /// BitBake ran, because no cached answer could be trusted.
    Off,
}

/// The numbers of `Sstate summary: …`. Up to gatesgarth, BitBake prints one number, `Found`, for local objects and
/// those on mirrors; it is kept as `local`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sstate {
    pub wanted: u64,
    pub local: u64,
    pub mirrors: u64,
    pub missed: u64,
    pub current: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheTier {
    pub tier: TierKind,
    /// A directory, or `s3://bucket/prefix`.
    pub path: String,
    pub state: State,
    /// Why it is less than was hoped for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Counts of objects, companions counted with their archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCounts {
    /// New in the share.
    pub published: u64,
    /// An equal one was there.
    pub present: u64,
    /// A different one of the same name was there, and stays.
    pub differing: u64,
    pub failed: u64,
    /// Not tried, because the share or the time had come to an end.
    pub left: u64,
    /// Of what was published.
    pub bytes: u64,
}

impl AddAssign for CacheCounts {
    fn add_assign(&mut self, other: CacheCounts) {
        self.published += other.published;
        self.present += other.present;
        self.differing += other.differing;
        self.failed += other.failed;
        self.left += other.left;
        self.bytes += other.bytes;
    }
}
