//! The directories of a job.

use std::path::PathBuf;

use agent_types::tiers::Trust;

/// Directories of the job, all absolute.
///
/// ```text
/// --work-dir/layers/    layer checkouts by commit, of all jobs
/// work/                 --work-dir/<name>-<release>
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
///   affected/           the base of a change, and throw-away build directories that compare it with the head
///   shim/               the BitBake shim while yocto-check-layer runs
///   downloads/ sstate/  local caches
///   signatures/         answers that BitBake gave to yocto-check-layer; the agent's alone
///   pr-<N>/ trusted/    the same three of pull request N and of trusted sources: what an untrusted build left
///                       behind must not be published by a trusted one
/// out/                  --out: events.jsonl, result.json, junit.xml, report.html, logs/
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Holds everything of this job; `--work-dir` joined with `<name>-<release>`.
    pub work: PathBuf,
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

    /// The directory of the local downloads and shared state of sources of this trust.
    pub fn caches(&self, trust: &Trust) -> PathBuf {
        match trust {
            Trust::Untrusted { pull_request: None, .. } => self.work.clone(),
            Trust::Untrusted { pull_request: Some(number), .. } => self.work.join(format!("pr-{number}")),
            Trust::Trusted { .. } => self.trusted(),
        }
    }

    /// The local caches of trusted sources.
    pub fn trusted(&self) -> PathBuf {
        self.work.join("trusted")
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
        self.caches(trust).join("signatures")
    }

    pub fn logs(&self) -> PathBuf {
        self.out.join("logs")
    }
}
