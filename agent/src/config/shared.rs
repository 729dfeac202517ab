//! Applies the trust of the source to `[cache]`: what a build may do with the share, and the notices about
//! it.

use std::path::PathBuf;
use std::time::Duration;

use agent_objects::Prices;
use agent_types::tiers::{Access, TierKind, Trust};

use super::settings::{Cache, HashServer, Paths, ShareLocation, Shared, SharedCache};

/// `[cache]` of the manifest, before trust is applied.
#[derive(Debug)]
pub struct RawCache {
    pub share: Option<ShareLocation>,
    pub access: Access,
    /// Whether the manifest requests write access explicitly.
    pub asks_to_write: bool,
    pub downloads_max_age: Duration,
    pub sstate_max_age: Duration,
    pub hash_server: HashServer,
    pub prices: Prices,
    pub endpoint_port: u16,
}

/// The caches of a job, with notices. `commit` is the one that the service names for the source; `layers` is the
/// local store of layer checkouts.
pub fn cache(
    words: &RawCache,
    trust: Trust,
    commit: Option<&str>,
    paths: &Paths,
    release: &str,
) -> (Cache, Vec<String>) {
    let location = words.share.clone().filter(|_| words.access != Access::Off);
    let share = location.map(|location| match location {
        ShareLocation::Directory(share) => SharedCache::Directory(Shared::new(share, words.access)),
        ShareLocation::Bucket(share) => SharedCache::Bucket(Shared::new(share, words.access)),
    });
    let cache = Cache {
        downloads: PathBuf::new(),
        sstate: PathBuf::new(),
        hash_database: PathBuf::new(),
        layers: paths.layers(),
        trust: trust.clone(),
        commit: commit.map(str::to_owned),
        share,
        downloads_max_age: words.downloads_max_age,
        sstate_max_age: words.sstate_max_age,
        hash_server: words.hash_server.clone(),
        prices: words.prices,
        endpoint_port: words.endpoint_port,
    }
    .judged(trust, paths, release);
    let notices = sentence(&cache, words.asks_to_write).into_iter().collect();
    (cache, notices)
}

/// What the source may do with shared caches, and why; empty, if it uses none.
fn sentence(cache: &Cache, asks_to_write: bool) -> Option<String> {
    let may = match (&cache.share, &cache.hash_server) {
        (Some(shared), _) => what_it_may(shared),
        (None, HashServer::Address(_)) if cache.trust.is_trusted() => "reports to the hash server".to_owned(),
        (None, HashServer::Address(_)) => "only reads the hash server".to_owned(),
        (None, _) => return None,
    };
    Some(match &cache.trust {
        Trust::Trusted { why } => format!("the source is trusted ({why}): the build {may}"),
        Trust::Untrusted { why, .. } if asks_to_write => format!(
            "the source is not trusted ({why}): the build {may}; `access = \"read-write\"` does not change that"
        ),
        Trust::Untrusted { why, .. } => format!("the source is not trusted ({why}): the build {may}"),
    })
}

fn what_it_may(shared: &SharedCache) -> String {
    let share = shared.location();
    match shared.writes() {
        Some((TierKind::Shared, _)) => format!("reads and writes {share}"),
        Some((TierKind::PullRequest, own)) => format!("reads {share} and writes only {own}"),
        None => format!("reads {share} and writes nothing there"),
    }
}
