//! The validated configuration of one job. Stages read it and nothing else; they never look at the
//! environment or at the manifest. [`load`](super::load) builds it once, and nothing changes it afterwards: what
//! is found out later is an argument or has a type of its own.

mod cache;
mod device;
mod directories;
mod layers;
mod report;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use agent_types::events::JobIdentity;
use agent_types::release::Release;
use agent_types::reproduction::Reproduction;
use agent_types::stage::Stage;
use url::Url;

use super::change::ChangeBase;

pub use cache::{Cache, ShareLocation, Shared, SharedCache};
pub use device::{DeviceRoute, DeviceTests, DeviceWait};
pub use directories::Paths;
pub use layers::{KeySource, LayerOrder, LayerRank, Patch, PatchSource, Signer};
pub use report::{Report, ResultPlace};

pub use super::manifest::{CheckScope, CommentWhen, FlakyTests, GitHubReport, TestRunner};
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
    /// The layers under test, absolute. Empty: the job only builds.
    pub layers: Vec<PathBuf>,
    /// In the manifest's order.
    pub repos: Vec<Repo>,
    /// The agent itself chose the repos, so that it may add those that only BitBake can name.
    pub completes_repos: bool,
    pub config: BuildConfig,
    pub templateconf: Option<TemplateConf>,
    pub buildtools: Option<Buildtools>,
    pub layer_order: LayerOrder,
    pub check: Check,
    pub build: Build,
    pub test: Test,
    pub device: Option<DeviceTests>,
    /// What the checkout under test is compared with.
    pub change_base: ChangeBase,
    /// Whether manifest and lock are those of the change's base.
    pub has_rules_of_base: bool,
    pub cache: Cache,
    pub artifacts: Artifacts,
    pub report: Report,
    pub github: Option<GitHub>,
    pub limits: Limits,
    pub cost: CostSettings,
    /// What repeats the job elsewhere.
    pub reproduction: Reproduction,
    /// In the manifest's order.
    pub hooks: Vec<Hook>,
    /// Why none of the hooks may run.
    pub hooks_closed: Option<String>,
    pub paths: Paths,
    /// `--build-user`: the user that runs layer code when the agent runs as root.
    pub build_user: Option<String>,
    /// How many jobs use the processors and the memory of this machine at the same time; at least 1.
    pub machine_share: usize,
    /// The agent's own PATH: where programs are searched that BitBake does not need.
    pub program_path: Option<String>,
    /// Proxy and certificate variables of the agent's environment, for git and BitBake's fetchers.
    pub network: Vec<(String, String)>,
    /// The mirrors of this site: addresses that begin with the first, begin with the second.
    pub git_mirrors: Vec<(Url, Url)>,
    /// Credentials for the private sources of recipes; empty for an untrusted source.
    pub recipe_credentials: Vec<RecipeCredential>,
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
    /// Whether the submodules of a git repository are fetched.
    pub submodules: bool,
    /// Whether its Git LFS files are fetched.
    pub lfs: bool,
    /// Applied in this order after the checkout.
    pub patches: Vec<Patch>,
    /// One of them must have signed the commit or the tag; none: it need not be signed.
    pub signers: Vec<Signer>,
}

/// `[config] templateconf`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateConf {
    /// `None`: the checkout under test.
    pub repo: Option<String>,
    /// Absolute in the checkout under test, relative in a repo.
    pub path: PathBuf,
}

/// `[buildtools]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buildtools {
    /// Of the installer.
    pub url: Url,
    /// Of the installer, lower-case hexadecimal.
    pub sha256: String,
}

/// What layer code may use on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeCredential {
    pub host: String,
    pub user: String,
    pub password: Secret,
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
    /// Whether the templates of `[config] templateconf` are tried.
    pub templateconf: bool,
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
            || self.templateconf
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
    /// Whether only the sources of the targets are fetched, and nothing is built.
    pub fetch_only: bool,
    /// Whether the recipes that the change affects are built.
    pub changed: bool,
    /// Which recipes of other layers are built with them.
    pub reverse_dependencies: ReverseDependencies,
    /// Whether the job starts with an empty build directory, instead of the one that an earlier job left.
    pub fresh: bool,
    /// Whether devtool's workspace outlives an emptied build directory: not in CI.
    pub keeps_workspace: bool,
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

impl Settings {
    /// Whether some stage needs to know what the change affects.
    pub fn needs_affected(&self) -> bool {
        self.build.changed || self.test.ptest == Ptest::Changed
    }

    /// What is compared with the base besides the recipes: the manifest's targets and, if only what the change affects is
    /// built and tested, the images of the tests.
    pub fn compared_targets(&self) -> Vec<String> {
        let mut targets = self.build.targets.clone();
        let images = self.test.images.iter().filter(|_| self.build.changed);
        let more: Vec<String> = images.filter(|image| !targets.contains(image)).cloned().collect();
        targets.extend(more);
        targets
    }

    /// Why no artifacts are published, if there are no rules for any.
    pub fn why_no_artifacts(&self) -> String {
        self.artifacts_closed.clone().unwrap_or_else(|| "[artifacts] has no rules".to_owned())
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
    /// What is posted, each once.
    pub report: Vec<GitHubReport>,
    pub comment: CommentWhen,
    /// The name of the results; `None`: the job's name and release.
    pub name: Option<String>,
    pub app: Option<GitHubApp>,
}

/// The identity of a GitHub App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHubApp {
    pub id: String,
    /// Name or ARN of the key in Secrets Manager.
    pub key_secret: String,
}

/// `[cost]`: prices in USD.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostSettings {
    pub compute_type: Option<String>,
    /// Of a minute, by compute type.
    pub per_minute: BTreeMap<String, f64>,
    pub efs_read_gb: Option<f64>,
    pub efs_write_gb: Option<f64>,
    pub nat_gb: Option<f64>,
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
