//! The directory layout of a share.

use std::fmt;
use std::path::{Path, PathBuf};

/// The directory that all build machines mount, or the tier of one pull request in it. Both have the same
/// layout.
///
/// ```text
/// <root>/
///   sstate/<release>/          shared state objects, as BitBake lays them out
///   downloads/                 source archives and mirror tarballs, without BitBake's stamps
///   layers/<repo>/<commit>/    immutable layer checkouts
///   signatures/                signature cache and parse caches of the layer check
///   hashserv/<release>/        database of a hash server that BitBake starts; only in local caches
///   results/                   results of jobs by commit
///   usage/<release>/           hit rates of the last builds
///   leases/                    one file per running build that may use these files
///   trash/                     moved here by a prune, deleted after the grace period
///   pr/<number>/               the tier of one pull request; only in the share itself
///   pr/trash/                  the trash of these tiers, which may be a separate mount
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    root: PathBuf,
}

impl Share {
    /// `root` is absolute. Does not access the disk.
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

    /// `release` is a code name. Releases have separate directories, so that pruning, usage and host
    /// differences of one do not affect another. The objects' names would not clash.
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

    /// The directory of the database of a hash server. Versions of BitBake may have different databases.
    pub fn hash_database(&self, release: &str) -> PathBuf {
        self.root.join("hashserv").join(release)
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

    /// The tiers of all pull requests.
    pub fn pull_requests(&self) -> PathBuf {
        self.root.join("pr")
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.display().fmt(f)
    }
}
