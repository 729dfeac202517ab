//! `[cache]`: the local caches and the share.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use agent_objects::Prices;
use agent_types::bucket_share::BucketShare;
use agent_types::share::Share;
use agent_types::tiers::{Access, Tier, TierKind, TieredShare, Tiers, Trust};
use agent_yocto::hash_server::HashServer;

use super::{Paths, Settings};

/// `[cache]`
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// `DL_DIR`, absolute, local.
    pub downloads: PathBuf,
    /// `SSTATE_DIR`, absolute, local.
    pub sstate: PathBuf,
    /// The database of a hash server that BitBake starts, beside the shared state with its hashes.
    pub hash_database: PathBuf,
    /// The local store of layer checkouts, of all jobs of this user; absolute.
    pub layers: PathBuf,
    /// Decides who may write the share and report to the hash server, and separates the local directories.
    pub trust: Trust,
    /// The commit that the trust is for, where the build service names one.
    pub commit: Option<String>,
    /// `None` without a share, and where `access = "off"` leaves it aside.
    pub share: Option<SharedCache>,
    /// Downloads unused for this long may be pruned.
    pub downloads_max_age: Duration,
    /// Likewise for shared state.
    pub sstate_max_age: Duration,
    pub hash_server: HashServer,
    /// For the reports of a share in S3.
    pub prices: Prices,
    /// Where BitBake reads a share in a bucket, on the loopback address.
    pub endpoint_port: u16,
}

/// `[cache] share`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareLocation {
    Directory(Share),
    Bucket(BucketShare),
}

impl fmt::Display for ShareLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareLocation::Directory(share) => share.fmt(f),
            ShareLocation::Bucket(share) => share.fmt(f),
        }
    }
}

/// The share: a directory, or a prefix of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedCache {
    Directory(Shared<Share>),
    Bucket(Shared<BucketShare>),
}

/// A share, and what this build may do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared<S> {
    pub share: S,
    pub access: Access,
    /// By the rules alone; what is really there is found out by the configure stage.
    pub tiers: Tiers<S>,
}

impl<S: TieredShare> Shared<S> {
    pub(in crate::config) fn new(share: S, access: Access) -> Shared<S> {
        Shared { share, access, tiers: Tiers::default() }
    }

    fn judged(&self, trust: &Trust) -> Shared<S> {
        Shared { tiers: Tiers::new(&self.share, self.access, trust), ..self.clone() }
    }
}

impl SharedCache {
    fn judged(&self, trust: &Trust) -> SharedCache {
        match self {
            SharedCache::Directory(shared) => SharedCache::Directory(shared.judged(trust)),
            SharedCache::Bucket(shared) => SharedCache::Bucket(shared.judged(trust)),
        }
    }

    /// The share as the manifest names it.
    pub fn location(&self) -> String {
        match self {
            SharedCache::Directory(shared) => shared.share.to_string(),
            SharedCache::Bucket(shared) => shared.share.to_string(),
        }
    }

    /// The tiers that a build reads, in lookup order, each with its place.
    pub fn reads(&self) -> Vec<(TierKind, String)> {
        match self {
            SharedCache::Directory(shared) => shared.tiers.read.iter().map(Tier::named).collect(),
            SharedCache::Bucket(shared) => shared.tiers.read.iter().map(Tier::named).collect(),
        }
    }

    /// The tier that a build writes.
    pub fn writes(&self) -> Option<(TierKind, String)> {
        match self {
            SharedCache::Directory(shared) => shared.tiers.write.as_ref().map(Tier::named),
            SharedCache::Bucket(shared) => shared.tiers.write.as_ref().map(Tier::named),
        }
    }
}

impl Cache {
    /// The same cache for a source of this trust.
    #[must_use]
    pub(in crate::config) fn judged(&self, trust: Trust, paths: &Paths, release: &str) -> Cache {
        let share = self.share.as_ref().map(|shared| shared.judged(&trust));
        Cache { share, trust, ..self.clone() }.in_directory(paths, release)
    }

    /// The same cache with the local directories of `paths`.
    fn in_directory(self, paths: &Paths, release: &str) -> Cache {
        let local = paths.caches(&self.trust);
        let (downloads, sstate) = (local.downloads(), local.sstate(release));
        Cache { downloads, sstate, hash_database: local.hash_database(release), ..self }
    }
}

impl Settings {
    /// The same job with local caches that it shares with no other.
    #[must_use]
    pub fn with_own_caches(&self) -> Settings {
        let work = self.paths.work.clone();
        let paths = Paths { caches: work, ..self.paths.clone() };
        let cache =
            Cache { layers: paths.layers(), ..self.cache.clone() }.in_directory(&paths, self.release.name);
        Settings { paths, cache, ..self.clone() }
    }
}
