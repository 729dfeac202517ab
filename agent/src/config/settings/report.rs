//! `[report]`: which failures count, and where results are stored by commit.

use agent_types::artifact::Destination;
use agent_types::base_result::FailOn;
use agent_types::tiers::{TierKind, Tiers, Trust};

use super::cache::{Cache, SharedCache};

/// `[report]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub fail_on: FailOn,
    /// `None` without a share and a destination.
    pub place: Option<ResultPlace>,
}

/// Where results are stored by commit, so that later jobs are compared with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPlace {
    /// The share, or the destination of artifacts.
    pub root: Destination,
    /// Whether it is the share.
    pub is_share: bool,
    /// The part of it that this job writes: all of it (empty), which only trusted sources write and every job is compared
    /// with, or `pr/N`. `None` if the job may not write.
    pub writes: Option<String>,
    pub kms_key_id: Option<String>,
    /// The address under which people read `root`, without a slash at its end.
    pub url: Option<String>,
}

impl ResultPlace {
    /// The share; without one the destination of artifacts, where `may_publish`.
    pub(in crate::config) fn of(
        cache: &Cache,
        destination: Option<&Destination>,
        kms_key_id: Option<&str>,
        may_publish: bool,
        url: Option<&str>,
    ) -> Option<ResultPlace> {
        let url = url.map(|url| url.trim_end_matches('/').to_owned());
        let (root, is_share, kind) = match &cache.share {
            Some(SharedCache::Directory(shared)) => {
                (Destination::Directory(shared.share.root().to_owned()), true, written(&shared.tiers))
            }
            Some(SharedCache::Bucket(shared)) => {
                let (bucket, prefix) = (shared.share.bucket().to_owned(), shared.share.root().to_owned());
                (Destination::S3 { bucket, prefix }, true, written(&shared.tiers))
            }
            None => {
                let kind = match &cache.trust {
                    Trust::Trusted { .. } => Some(TierKind::Shared),
                    Trust::Untrusted { pull_request: Some(_), .. } => Some(TierKind::PullRequest),
                    Trust::Untrusted { pull_request: None, .. } => None,
                };
                (destination?.clone(), false, kind.filter(|_| may_publish))
            }
        };
        let writes = kind.and_then(|kind| match (kind, &cache.trust) {
            (TierKind::Shared, _) => Some(String::new()),
            (TierKind::PullRequest, Trust::Untrusted { pull_request: Some(number), .. }) => {
                Some(format!("pr/{number}"))
            }
            (TierKind::PullRequest, _) => None,
        });
        let kms_key_id = kms_key_id.filter(|_| !is_share).map(str::to_owned);
        Some(ResultPlace { root, is_share, writes, kms_key_id, url })
    }
}

fn written<S>(tiers: &Tiers<S>) -> Option<TierKind> {
    tiers.write.as_ref().map(|tier| tier.kind)
}
