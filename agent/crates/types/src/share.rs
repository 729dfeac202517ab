//! How a share is laid out.

use std::path::{Path, PathBuf};

/// The directory that all build machines mount, or the part of it that one pull request writes: both
/// are laid out alike.
///
/// ```text
/// <root>/
///   sstate/<release>/          shared state objects, as BitBake lays them out
///   downloads/                 source archives and mirror tarballs, without any stamp
///   layers/<repo>/<commit>/    immutable layer checkouts
///   signatures/                answers and parse caches of the layer check
///   usage/<release>/           how well the cache served the last builds
///   leases/                    one file for each running build that may use what is here
///   trash/                     renamed aside by a prune, deleted after the grace period
///   pr/<number>/               the part of one pull request; only in the share itself
///   pr/trash/                  the trash of these parts, which may be a mount of their own
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    root: PathBuf,
}

impl Share {
    /// `root` is absolute; nothing is asked of the disk.
    pub fn new(root: impl Into<PathBuf>) -> Share {
        Share { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Shared state of all releases.
    pub fn all_sstate(&self) -> PathBuf {
        self.root.join("sstate")
    }

    /// `release` is a code name. Releases are kept apart so that one's pruning, usage and host
    /// differences are none of the other's business; the objects' names would not clash.
    pub fn sstate(&self, release: &str) -> PathBuf {
        self.all_sstate().join(release)
    }

    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn signatures(&self) -> PathBuf {
        self.root.join("signatures")
    }

    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub fn usage(&self) -> PathBuf {
        self.root.join("usage")
    }

    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// The parts of all pull requests.
    pub fn pull_requests(&self) -> PathBuf {
        self.root.join("pr")
    }

    /// The part that the builds of one pull request may write.
    pub fn pull_request(&self, number: u64) -> Share {
        Share::new(self.pull_requests().join(number.to_string()))
    }
}
