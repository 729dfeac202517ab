//! The trust rules: who may read and write which tier of the share. Pure functions.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::share::Share;

/// Whether the project's maintainers have accepted the source of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    Trusted {
        /// For people, e.g. `push to the protected branch scarthgap`.
        why: String,
    },
    Untrusted {
        why: String,
        /// The pull request, if its number is known.
        pull_request: Option<u64>,
    },
}

impl Trust {
    pub const fn is_trusted(&self) -> bool {
        matches!(self, Trust::Trusted { .. })
    }
}

/// `[cache] access`. It can only remove rights: a pull request brings its own manifest, so a manifest cannot
/// grant any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read, and write if the source is trusted enough.
    ReadWrite,
    ReadOnly,
    Off,
}

/// A share that has a level of its own for each pull request.
pub trait TieredShare: Clone {
    /// The level that builds of one pull request may write.
    #[must_use]
    fn pull_request(&self, number: u64) -> Self;
}

impl TieredShare for Share {
    fn pull_request(&self, number: u64) -> Share {
        Share::new(self.pull_requests().join(number.to_string()))
    }
}

/// One level of the share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier<S = Share> {
    pub kind: TierKind,
    pub share: S,
}

impl<S: fmt::Display> Tier<S> {
    /// Its kind and its place, for people.
    pub fn named(&self) -> (TierKind, String) {
        (self.kind, self.share.to_string())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TierKind {
    /// Written by earlier builds of the same pull request.
    PullRequest,
    /// Written by trusted builds.
    Shared,
}

impl TierKind {
    /// The name in reports.
    pub const fn word(self) -> &'static str {
        match self {
            TierKind::PullRequest => "pull-request",
            TierKind::Shared => "shared",
        }
    }
}

/// The tiers that a build may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiers<S = Share> {
    /// In lookup order.
    pub read: Vec<Tier<S>>,
    /// One of the tiers in `read`, or none.
    pub write: Option<Tier<S>>,
}

impl<S> Default for Tiers<S> {
    fn default() -> Tiers<S> {
        Tiers { read: Vec::new(), write: None }
    }
}

impl<S: TieredShare> Tiers<S> {
    /// Applies the rules. A trusted build reads and writes only the shared tier. An untrusted build reads the
    /// shared tier and its own, and writes its own. Without a pull request it writes nothing.
    pub fn new(share: &S, access: Access, trust: &Trust) -> Tiers<S> {
        let shared = Tier { kind: TierKind::Shared, share: share.clone() };
        let (read, write) = match (access, trust) {
            (Access::Off, _) => (Vec::new(), None),
            (_, Trust::Trusted { .. }) => (vec![shared.clone()], Some(shared)),
            (_, Trust::Untrusted { pull_request: None, .. }) => (vec![shared], None),
            (_, Trust::Untrusted { pull_request: Some(number), .. }) => {
                let own = Tier { kind: TierKind::PullRequest, share: share.pull_request(*number) };
                (vec![own.clone(), shared], Some(own))
            }
        };
        Tiers { read, write: write.filter(|_| access == Access::ReadWrite) }
    }
}

/// How far a tier can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    ReadWrite,
    ReadOnly,
    Unusable,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::ReadWrite => "read-write",
            State::ReadOnly => "read-only",
            State::Unusable => "unusable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_build_writes_only_its_own_tier_and_trusted_build_never_reads_it() {
        let trusted = Trust::Trusted { why: String::new() };
        let untrusted = |pull_request| Trust::Untrusted { why: String::new(), pull_request };
        let table: [(Access, Trust, &[&str], Option<&str>); 7] = [
            (Access::ReadWrite, trusted.clone(), &["/s"], Some("/s")),
            (Access::ReadOnly, trusted.clone(), &["/s"], None),
            (Access::Off, trusted, &[], None),
            (Access::ReadWrite, untrusted(Some(7)), &["/s/pr/7", "/s"], Some("/s/pr/7")),
            (Access::ReadOnly, untrusted(Some(7)), &["/s/pr/7", "/s"], None),
            (Access::ReadWrite, untrusted(None), &["/s"], None),
            (Access::Off, untrusted(Some(7)), &[], None),
        ];
        for (access, trust, read, write) in table {
            let tiers = Tiers::new(&Share::new("/s"), access, &trust);
            let found: Vec<_> = tiers.read.iter().map(|tier| tier.share.root().to_str()).collect();
            assert_eq!(found, read.iter().copied().map(Some).collect::<Vec<_>>(), "{access:?} {trust:?}");
            let written = tiers.write.as_ref().and_then(|tier| tier.share.root().to_str());
            assert_eq!(written, write, "{access:?} {trust:?}");
        }
    }
}
