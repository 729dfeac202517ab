//! The validated configuration of one job. Stages read it and nothing else; they never look at the
//! environment or at the manifest. [`load`](super::load) builds it once, and nothing changes it afterwards: what
//! is found out later is an argument or has a type of its own.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use agent_objects::Prices;
use agent_types::bucket_share::BucketShare;
use agent_types::events::JobIdentity;
use agent_types::release::Release;
use agent_types::share::Share;
use agent_types::stage::Stage;
use agent_types::tiers::{Access, Tier, TierKind, TieredShare, Tiers, Trust};

use super::change::ChangeBase;

pub use super::manifest::{CheckScope, FlakyTests, TestRunner};
pub use agent_types::affected::ReverseDependencies;
pub use agent_types::artifact::{ArtifactRule, Destination};
pub use agent_types::secret::Secret;
pub use agent_types::source::{GitSource, RepoSource, Wanted};
pub use agent_yocto::check_layer::KnownFailure;
pub use agent_yocto::conf::BuildConfig;
pub use agent_yocto::hash_server::HashServer;
pub use agent_yocto::testimage::conf::SshServer;

/// Everything that a job needs to know, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub release: &'static Release,
    /// What the job is about, for reports and artifact keys.
    pub job: JobIdentity,
    /// The checkout under test, absolute.
    pub checkout: PathBuf,
    /// The layers under test, absolute; at least one.
    pub layers: Vec<PathBuf>,
    /// In the manifest's order.
    pub repos: Vec<Repo>,
    /// The agent itself chose the repos, so that it may add those that only BitBake can name.
    pub completes_repos: bool,
    pub config: BuildConfig,
    pub check: Check,
    pub build: Build,
    pub test: Test,
    /// What the checkout under test is compared with.
    pub change_base: ChangeBase,
    /// Whether manifest and lock are those of the change's base.
    pub has_rules_of_base: bool,
    pub cache: Cache,
    pub artifacts: Artifacts,
    pub github: Option<GitHub>,
    pub limits: Limits,
    /// In the manifest's order.
    pub hooks: Vec<Hook>,
    /// Why none of the hooks may run.
    pub hooks_closed: Option<String>,
    pub paths: Paths,
    /// `--build-user`: the user that runs layer code when the agent runs as root.
    pub build_user: Option<String>,
    /// The agent's own PATH: where programs are searched that BitBake does not need.
    pub program_path: Option<String>,
    /// Proxy and certificate variables of the agent's environment, for git and BitBake's fetchers.
    pub network: Vec<(String, String)>,
    /// Values that must never be shown, with the name of where each came from.
    pub secrets: Vec<Secret>,
    /// Sentences for people that arose while reading: defaults chosen, keys without effect.
    pub notices: Vec<String>,
    /// Warnings about the source, each with a hint: it is not trusted, or it edits its own rules.
    pub warnings: Vec<(String, String)>,
    /// Why no artifacts may be published: the rules that apply are not known.
    pub artifacts_closed: Option<String>,
}

/// A source beside the layer under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    pub name: String,
    pub source: RepoSource,
    /// Layer directories relative to the repo; may be empty (BitBake's own repository).
    pub layers: Vec<PathBuf>,
}

/// `[check]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Sub-commands of `bitbake-layers`, each split into words.
    pub bitbake_layers: Vec<Vec<String>>,
    pub yocto_check_layer: bool,
    /// For `yocto-check-layer --machines`.
    pub machines: Vec<String>,
    /// How many BitBakes may run side by side for one check; `None`: one for each processor.
    pub max_parallel_bitbakes: Option<NonZeroUsize>,
    pub known_failures: Vec<KnownFailure>,
    /// Machines for which BitBake parses all recipes.
    pub parse_machines: Vec<String>,
    pub oelint: CheckScope,
    pub patches: CheckScope,
    pub cve: CheckScope,
    /// Absolute: a file or a directory.
    pub cve_database: Option<PathBuf>,
    /// `--keep-going`: run yocto-check-layer even when the preflight has already failed.
    pub keep_going: bool,
    /// Whether cached answers of BitBake may be used; false with `--no-signature-cache`.
    pub signature_cache: bool,
    /// Whether BitBake may be asked before yocto-check-layer asks; not with `--no-prefetch`.
    pub prefetch: bool,
    /// Whether BitBake writes signature files that are read only if the check fails: `--write-signatures`.
    pub write_signatures: bool,
}

impl Check {
    /// Whether the manifest enables any check.
    pub fn is_wanted(&self) -> bool {
        let scopes = [self.oelint, self.patches, self.cve];
        self.yocto_check_layer
            || !self.bitbake_layers.is_empty()
            || !self.parse_machines.is_empty()
            || scopes.iter().any(|scope| *scope != CheckScope::Off)
    }

    /// Whether a check compares with the base of the change, or reads its files.
    pub fn needs_base(&self) -> bool {
        self.patches == CheckScope::Changed
            || [self.oelint, self.cve].iter().any(|scope| *scope != CheckScope::Off)
    }
}

/// `[[hooks]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Unique.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    pub moment: Moment,
    /// A limit of its own, besides the job's.
    pub timeout: Option<Duration>,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before(Stage),
    After(Stage),
}

impl Moment {
    pub fn stage(self) -> Stage {
        match self {
            Moment::Before(stage) | Moment::After(stage) => stage,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Before(stage) => write!(f, "before {stage}"),
            Moment::After(stage) => write!(f, "after {stage}"),
        }
    }
}

/// `[build]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub targets: Vec<String>,
    /// Whether the recipes that the change affects are built.
    pub changed: bool,
    /// Which recipes of other layers are built with them.
    pub reverse_dependencies: ReverseDependencies,
    /// Whether the job starts with an empty build directory, instead of the one that an earlier job left.
    pub fresh: bool,
}

/// `[test]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    pub images: Vec<String>,
    /// Empty: those of each image.
    pub suites: Vec<String>,
    pub ptest: Ptest,
    pub target: TestTarget,
    pub runner: TestRunner,
    pub ssh_server: SshServer,
    /// For the tests of one image.
    pub timeout: Duration,
    /// After which a silent ptest is stopped.
    pub silence: Duration,
    /// How often the tests of an image are run again after a failure.
    pub reruns: u32,
    pub flaky: FlakyTests,
}

/// Which ptests run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ptest {
    #[default]
    Off,
    /// Those of the recipes that a change affects.
    Changed,
    /// Those of these recipes.
    Recipes(Vec<String>),
}

/// Where the tests run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TestTarget {
    #[default]
    Qemu,
    /// Root logs in there.
    Ssh { host: String, port: u16 },
}

impl Default for Test {
    fn default() -> Test {
        Test {
            images: Vec::new(),
            suites: Vec::new(),
            ptest: Ptest::Off,
            target: TestTarget::Qemu,
            runner: TestRunner::default(),
            ssh_server: SshServer::default(),
            timeout: Duration::from_secs(30 * 60),
            silence: Duration::from_secs(10 * 60),
            reruns: 0,
            flaky: FlakyTests::default(),
        }
    }
}

impl Test {
    /// Whether the manifest enables any test on a running system.
    pub fn is_wanted(&self) -> bool {
        !self.images.is_empty() || self.ptest != Ptest::Off
    }
}

/// `[cache]`
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// `DL_DIR`, absolute, local.
    pub downloads: PathBuf,
    /// `SSTATE_DIR`, absolute, local.
    pub sstate: PathBuf,
    /// The local store of layer checkouts, of all jobs below the same `--work-dir`; absolute.
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
    pub(super) fn new(share: S, access: Access) -> Shared<S> {
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

impl Settings {
    /// Whether some stage needs to know what the change affects.
    pub fn needs_affected(&self) -> bool {
        self.build.changed || self.test.ptest == Ptest::Changed
    }

    /// Why no artifacts are published, if there are no rules for any.
    pub fn why_no_artifacts(&self) -> String {
        self.artifacts_closed.clone().unwrap_or_else(|| "[artifacts] has no rules".to_owned())
    }
}

impl Cache {
    /// The same cache for a source of this trust.
    #[must_use]
    pub(super) fn judged(&self, trust: Trust, paths: &Paths) -> Cache {
        let share = self.share.as_ref().map(|shared| shared.judged(&trust));
        let local = paths.caches(&trust);
        let (downloads, sstate) = (local.join("downloads"), local.join("sstate"));
        Cache { downloads, sstate, share, trust, ..self.clone() }
    }

    /// Where a hash server that BitBake starts itself keeps its database: beside the shared state whose
    /// hashes it knows.
    pub fn hash_database(&self) -> PathBuf {
        self.sstate.with_file_name("hashserv")
    }
}

/// `[artifacts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifacts {
    pub destination: Destination,
    pub rules: Vec<ArtifactRule>,
    /// A KMS key for the objects; S3's default encryption without it.
    pub kms_key_id: Option<String>,
}

/// `[github]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHub {
    pub repository: String,
    /// Name or ARN in Secrets Manager.
    pub token_secret: Option<String>,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole job.
    pub job: Duration,
    /// No event and no byte of output for this long: stop.
    pub stall: Duration,
    /// Between a polite signal and SIGKILL, and for publish and report after a cancel.
    pub grace: Duration,
    /// The largest log of one command, in bytes: of a longer one the middle is cut out.
    pub log: u64,
}

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
/// out/                  --out: events.jsonl, result.json, junit.xml, logs/
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
