//! The directories of a job.

use std::path::PathBuf;

use agent_cache::areas::{BUILDTOOLS, TRUSTED};
use agent_types::share::Share;
use agent_types::tiers::{TieredShare, Trust};

/// Directories of the job, all absolute.
///
/// ```text
/// caches/               caches that the jobs of one user share: --work-dir, or what BUILD_AGENT_CACHE names; else work/
///   sstate/ downloads/ signatures/ leases/ …
///                       the layout of a share ([`Share`]), for untrusted sources of no pull request
///   pr/<N>/ trusted/    the same of pull request N and of trusted sources: what an untrusted build left behind must
///                       not be published by a trusted one
///   layers/             layer checkouts by commit; without shared caches, in --work-dir
///   buildtools/         installed buildtools by the checksum of their installer; without shared caches, in --work-dir
/// work/                 --work-dir/<name>-<release>, or --work-dir/<name>-<cell> for a cell of a matrix
///   lock                held by the running job
///   repos/<name>        links to the checkouts, for builds
///   build/              the build directory of bitbake-layers and builds; outlives the job
///   build.json          what it was made by
///   test/               throw-away build directory of the tests on a running system
///   test-layer/         the layer that the agent writes for them
///   dependencies/       throw-away build directory for dependencies that only BitBake can compute
///   check/<layer>/      throw-away build directory of one yocto-check-layer run
///   checks/<check>/     temporary directories of the other checks
///   base-files/         the files of the change's base, for checks that compare
///   buildtools/         temporary directory of the installer of buildtools
///   affected/           the base of a change, and throw-away build directories that compare it with the head
///   shim/               the BitBake shim while yocto-check-layer runs
/// out/                  --out: events.jsonl, result.json, junit.xml, report.html, logs/
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Holds everything of this job except shared caches.
    pub work: PathBuf,
    /// Holds the local caches; `work`, if the job shares them with no other.
    pub caches: PathBuf,
    pub out: PathBuf,
}

impl Paths {
    /// Links to the checkouts.
    pub fn repos(&self) -> PathBuf {
        self.work.join("repos")
    }

    pub fn build(&self) -> PathBuf {
        self.work.join("build")
    }

    /// The throw-away build directory of the tests on a running system.
    pub fn test(&self) -> PathBuf {
        self.work.join("test")
    }

    /// The layer that the agent writes for these tests.
    pub fn test_layer(&self) -> PathBuf {
        self.work.join("test-layer")
    }

    /// The files of a guest that the job starts.
    pub fn guest(&self) -> PathBuf {
        self.work.join("guest")
    }

    /// The throw-away build directory in which BitBake computes what layers depend on.
    pub fn dependencies(&self) -> PathBuf {
        self.work.join("dependencies")
    }

    /// The store of layer checkouts.
    pub fn layers(&self) -> PathBuf {
        if self.shares_caches() { self.caches.join("layers") } else { self.work.with_file_name("layers") }
    }

    /// The store of installed buildtools.
    pub fn buildtools(&self) -> PathBuf {
        if self.shares_caches() { self.caches.join(BUILDTOOLS) } else { self.work.with_file_name(BUILDTOOLS) }
    }

    /// Where buildtools are tried out.
    pub fn buildtools_scratch(&self) -> PathBuf {
        self.work.join("buildtools")
    }

    /// Whether other jobs use the same local caches.
    pub fn shares_caches(&self) -> bool {
        self.caches != self.work
    }

    /// The local caches of sources of this trust. The layer checkouts are in one place for all.
    pub fn caches(&self, trust: &Trust) -> Share {
        let unknown = Share::new(&self.caches);
        match trust {
            Trust::Untrusted { pull_request: None, .. } => unknown,
            Trust::Untrusted { pull_request: Some(number), .. } => unknown.pull_request(*number),
            Trust::Trusted { .. } => Share::new(self.trusted()),
        }
    }

    /// The local caches of trusted sources.
    pub fn trusted(&self) -> PathBuf {
        self.caches.join(TRUSTED)
    }

    /// `layer` is the layer directory's name.
    pub fn check(&self, layer: &str) -> PathBuf {
        self.work.join("check").join(layer)
    }

    /// The files of the change's base.
    pub fn base_files(&self) -> PathBuf {
        self.work.join("base-files")
    }

    /// The home directory of layer code that gets credentials.
    pub fn recipe_home(&self) -> PathBuf {
        self.work.join("recipe-home")
    }

    /// The temporary directory of one of the other checks.
    pub fn check_scratch(&self, check: &str) -> PathBuf {
        self.work.join("checks").join(check)
    }

    /// Where build directories lie that BitBake sees in the place of the check's.
    pub fn ahead(&self, layer: &str) -> PathBuf {
        self.work.join("ahead").join(layer)
    }

    /// Where the base of a change lies, and the build directory in which its tasks and those of the head are compared.
    pub fn affected(&self) -> PathBuf {
        self.work.join("affected")
    }

    /// Where BitBake's parse caches of this layer's check are kept until the check ends.
    pub fn own_parses(&self, layer: &str) -> PathBuf {
        self.work.join("parses").join(layer)
    }

    /// Where answers of BitBake that sources of this trust got are kept.
    pub fn signatures(&self, trust: &Trust) -> PathBuf {
        self.caches(trust).signatures()
    }

    pub fn logs(&self) -> PathBuf {
        self.out.join("logs")
    }
}
