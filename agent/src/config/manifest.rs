//! The manifest as users write it. These types are the only definition of its keys: serde reads the manifest
//! into them, and the JSON Schema made from them finds errors ([`structure`](super::structure)) and completes
//! the manifest in editors.
//!
//! Every field is optional for serde, also those that the schema requires: an error in one key must not hide
//! errors in others.

mod buildtools;
mod device_section;
mod github;
mod layers;
mod matrix;
mod schema;
mod signers;
mod test_section;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::{Value, json};

use agent_types::release::Release;
use agent_types::stage::Stage;

pub use buildtools::UnvalidatedBuildtools;
pub use device_section::{UnvalidatedDevice, YesOrNo};
pub use github::{CommentWhen, GitHubReport, UnvalidatedAppId, UnvalidatedGitHub};
pub use layers::{LayerOrderWord, UnvalidatedLayerPath};
pub use matrix::UnvalidatedMatrix;
pub use schema::schema;
pub(super) use schema::schema_of;
pub use signers::UnvalidatedSigner;
pub use test_section::{FlakyTests, PtestWord, SshServerWord, TestRunner, UnvalidatedPtest, UnvalidatedTest};

/// The stages with hooks. The report stage has none: no program may run any more.
pub const HOOK_STAGES: [Stage; 6] =
    [Stage::Checkout, Stage::Configure, Stage::Check, Stage::Build, Stage::Test, Stage::Publish];

/// The file name of the manifest in a checkout.
pub const FILE_NAME: &str = "build-agent.toml";

// Patterns are for editors. They accept everything that the agent accepts; the agent's own checks decide.
const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$";
const CONF_NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9._+-]*$";
const SIZE: &str = "^[0-9]+ *[KMGT]iB *$";
const DURATION: &str = "^ *[0-9].*[A-Za-zµ] *$";

/// The job manifest of build-agent: which layer is checked, built and published, and with which sources.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "build-agent.toml")]
pub struct UnvalidatedManifest {
    /// Version of the manifest's format.
    #[schemars(required, extend("const" = 1))]
    #[allow(dead_code, reason = "the walk along the schema checks it")]
    pub version: Option<i64>,
    /// Files that this one overrides, relative to it, or "REPO:path" for a file of a repository in [repos]. Later ones win.
    #[schemars(extend("uniqueItems" = true))]
    #[allow(dead_code, reason = "files are included before this is read")]
    pub include: Option<Vec<String>>,
    /// The name of the job in reports, directories and artifact keys.
    #[schemars(required, extend("pattern" = NAME))]
    pub name: Option<String>,
    /// Code name of the job's Yocto release.
    #[schemars(required, extend("enum" = Release::names().collect::<Vec<_>>()))]
    pub release: Option<String>,
    /// One job for each combination of these values: a cell.
    #[serde(default)]
    #[allow(dead_code, reason = "a cell overrides keys before this is read")]
    pub matrix: Option<UnvalidatedMatrix>,
    /// The sources besides the layer under test: BitBake, OE-Core or poky, other layers.
    #[schemars(required, extend("minProperties" = 1, "propertyNames" = json!({ "pattern": NAME })))]
    pub repos: Option<BTreeMap<String, UnvalidatedRepo>>,
    /// The layers under test.
    #[serde(default)]
    pub layer: UnvalidatedLayer,
    /// The configuration of the builds.
    #[serde(default)]
    pub config: UnvalidatedConfig,
    /// An installer of programs that BitBake finds before those of the machine.
    pub buildtools: Option<UnvalidatedBuildtools>,
    /// The layer checks.
    #[serde(default)]
    pub check: UnvalidatedCheck,
    /// What is built.
    #[serde(default)]
    pub build: UnvalidatedBuild,
    /// Tests on a running system.
    #[serde(default)]
    pub test: UnvalidatedTest,
    /// Tests on a device of a lab, or on a guest in QEMU that the job starts from the built image.
    pub device: Option<UnvalidatedDevice>,
    /// Shared state and downloads.
    #[serde(default)]
    pub cache: UnvalidatedCache,
    /// What is published, and where.
    #[serde(default)]
    pub artifacts: UnvalidatedArtifacts,
    /// Which failures count, and where people read the reports.
    #[serde(default)]
    pub report: UnvalidatedReport,
    /// Where results are posted.
    pub github: Option<UnvalidatedGitHub>,
    /// What the machine and its traffic cost, for the reports.
    #[serde(default)]
    pub cost: UnvalidatedCost,
    /// Time limits, such as "4h", "20m", "1h 30m".
    #[serde(default)]
    pub limits: UnvalidatedLimits,
    /// Programs that run before or after a stage.
    pub hooks: Option<Vec<UnvalidatedHook>>,
}

/// A source: either a git repository (`url` with exactly one of branch, tag, commit; or a commit with
/// its branch or its tag) or a local directory (`path`).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Repo", extend("oneOf" = one_source(), "dependentSchemas" = one_reference()))]
pub struct UnvalidatedRepo {
    /// URL of the git repository: https, http, ssh, git or file.
    #[schemars(extend("pattern" = "^[A-Za-z]+://[^ ]+$"))]
    pub url: Option<String>,
    /// Branch, without refs/heads/.
    pub branch: Option<String>,
    /// Tag, without refs/tags/.
    pub tag: Option<String>,
    /// Full commit id of 40 hexadecimal digits.
    #[schemars(extend("pattern" = "^[0-9A-Fa-f]{40}$"))]
    pub commit: Option<String>,
    /// A local directory instead of url, used without a copy; relative to the manifest.
    pub path: Option<String>,
    /// Whether the submodules are fetched; true by default.
    pub submodules: Option<bool>,
    /// Whether Git LFS files are fetched; true by default.
    pub lfs: Option<bool>,
    /// Layer directories, relative to the repository; omit it if there are none (BitBake).
    #[schemars(extend("minItems" = 1, "uniqueItems" = true))]
    pub layers: Option<Vec<UnvalidatedLayerPath>>,
    /// Patches that are applied in this order after the checkout: files, or directories with a quilt `series`;
    /// "REPO:PATH" in another repository, or a path relative to the manifest. Only with url.
    #[schemars(extend("uniqueItems" = true))]
    pub patches: Option<Vec<String>>,
    /// Public keys, one of which must have signed the tag if there is a `tag`, else the commit: files of OpenPGP or ssh
    /// keys, "REPO:PATH" in another repository, or a path relative to the manifest. Only with url.
    #[schemars(extend("minItems" = 1))]
    pub signers: Option<Vec<UnvalidatedSigner>>,
}

/// The layers under test.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Layer")]
pub struct UnvalidatedLayer {
    /// Layer directories of the checkout under test, relative to the manifest; ["."] by default. Empty: the job
    /// only builds.
    #[schemars(extend("uniqueItems" = true))]
    pub paths: Option<Vec<UnvalidatedLayerPath>>,
    /// The name of the checkout under test among the repositories, for the order of the layers; default: the
    /// name of the job.
    #[schemars(extend("pattern" = NAME))]
    pub name: Option<String>,
}

/// The configuration of the builds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Config")]
pub struct UnvalidatedConfig {
    /// The first is the machine of the checks; all are built. Default: ["qemux86-64"].
    #[schemars(extend("minItems" = 1, "uniqueItems" = true, "items" = words(CONF_NAME)))]
    pub machines: Option<Vec<String>>,
    /// DISTRO; default "poky" if a repository has the layer meta-poky, else "nodistro".
    #[schemars(extend("pattern" = CONF_NAME))]
    pub distro: Option<String>,
    /// Lines for local.conf.
    pub local_conf: Option<String>,
    /// A directory with local.conf.sample and bblayers.conf.sample, relative to the manifest, or "REPO:path". The lines of
    /// local.conf.sample come before those of local_conf.
    pub templateconf: Option<String>,
    /// Lines for the beginning of bblayers.conf.
    pub bblayers_conf: Option<String>,
    /// BBMULTICONFIG; default: the configurations of the targets "mc:NAME:TARGET".
    #[schemars(extend("uniqueItems" = true, "items" = words(CONF_NAME)))]
    pub multiconfigs: Option<Vec<String>>,
    /// Environment variables that BitBake reads, with their values. Not for secrets.
    #[schemars(extend("propertyNames" = json!({ "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" })))]
    pub env: Option<BTreeMap<String, String>>,
    /// The order of BBLAYERS among layers of one priority: "manifest" (default) or "name".
    pub layer_order: Option<LayerOrderWord>,
}

/// The layer checks.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Check")]
pub struct UnvalidatedCheck {
    /// Read-only commands of bitbake-layers, such as "show-layers"; none by default.
    #[schemars(extend("uniqueItems" = true, "items" = words("^ *(show|layerindex-show)-")))]
    pub bitbake_layers: Option<Vec<String>>,
    /// Whether yocto-check-layer runs; true by default.
    pub yocto_check_layer: Option<bool>,
    /// Machines for the BSP tests of yocto-check-layer; none by default.
    #[schemars(extend("uniqueItems" = true, "items" = words(CONF_NAME)))]
    pub machines: Option<Vec<String>>,
    /// Maximum number of BitBakes that answer yocto-check-layer in parallel, as far as memory allows.
    /// Default: one per processor. 1: one after another.
    #[schemars(extend("minimum" = 1))]
    pub max_parallel_bitbakes: Option<i64>,
    /// A TOML file of known test failures, relative to the manifest.
    pub known_failures: Option<String>,
    /// Whether the templates of [config] templateconf are tried with oe-init-build-env and "bitbake -p"; true by default.
    pub templateconf: Option<bool>,
    /// Machines for which BitBake parses all recipes; none by default.
    #[schemars(extend("uniqueItems" = true, "items" = words(CONF_NAME)))]
    pub parse_machines: Option<Vec<String>>,
    /// Which findings of oelint-adv count; default "off".
    pub oelint: Option<CheckScope>,
    /// Which patches must have a valid Upstream-Status; default "off".
    pub patches: Option<CheckScope>,
    /// Which recipes are checked for CVEs; default "off".
    pub cve: Option<CheckScope>,
    /// The prepared database for cve: the absolute path of a file (cve-check), or of a directory (sbom-cve-check).
    #[schemars(extend("pattern" = "^/"))]
    pub cve_database: Option<String>,
}

/// What a check looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckScope {
    /// Nothing.
    #[default]
    Off,
    /// What the change touches.
    Changed,
    /// All layers under test.
    All,
}

/// A program that runs before or after a stage, as the build user.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Hook", extend("oneOf" = one_moment()))]
pub struct UnvalidatedHook {
    /// The name in reports and of the log; default: the program's file name.
    #[schemars(extend("pattern" = NAME))]
    pub name: Option<String>,
    /// The program and its arguments; no shell parses them.
    #[schemars(required, extend("minItems" = 1))]
    pub argv: Option<Vec<String>>,
    /// The stage before which it runs; if it fails, the stage does not run.
    #[schemars(extend("enum" = HOOK_STAGES.map(Stage::name)))]
    pub before: Option<String>,
    /// The stage after which it runs, if that passed.
    #[schemars(extend("enum" = HOOK_STAGES.map(Stage::name)))]
    pub after: Option<String>,
    /// A time limit of its own, such as "5m".
    #[schemars(extend("pattern" = DURATION))]
    pub timeout: Option<String>,
}

/// What is built.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Build")]
pub struct UnvalidatedBuild {
    /// BitBake targets, such as "core-image-minimal" or "virtual/kernel:do_deploy".
    #[schemars(extend("uniqueItems" = true, "items" = words("^[A-Za-z0-9._+][A-Za-z0-9._+/:-]*$")))]
    pub targets: Option<Vec<String>>,
    /// The task of the targets that name none, such as "fetch"; default "build".
    #[schemars(extend("pattern" = "^[a-z][a-z0-9_]*$"))]
    pub task: Option<String>,
    /// Whether the recipes that a change affects are built; false by default.
    pub changed: Option<bool>,
    /// Which recipes of other layers are built because of the change: "layer" (default) for none, "all", or a
    /// number: all of them, if they are not more than that.
    pub reverse_dependencies: Option<UnvalidatedReverseDependencies>,
}

/// A word or a number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum UnvalidatedReverseDependencies {
    AtMost(i64),
    Word(String),
}

impl JsonSchema for UnvalidatedReverseDependencies {
    fn schema_name() -> Cow<'static, str> {
        "ReverseDependencies".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        let word = json!({ "type": "string", "enum": ["layer", "all"] });
        schemars::json_schema!({ "anyOf": [word, { "type": "integer", "minimum": 0 }] })
    }
}

/// Shared state and downloads.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cache")]
pub struct UnvalidatedCache {
    /// What all build machines share: the absolute path of a directory that they mount, or s3://BUCKET/PREFIX.
    /// Without it, caches are local.
    #[schemars(extend("pattern" = "^(/|s3://)"))]
    pub share: Option<String>,
    /// How the builds of this manifest use the share; default "auto".
    pub access: Option<CacheAccess>,
    /// Downloads that were unused for this long are pruned; default "60d".
    #[schemars(extend("pattern" = DURATION))]
    pub downloads_max_age: Option<String>,
    /// Shared state that was unused for this long is pruned; default "30d".
    #[schemars(extend("pattern" = DURATION))]
    pub sstate_max_age: Option<String>,
    /// "off", "auto", "host:port", "ws://…" or "wss://…"; "off" by default.
    pub hash_server: Option<String>,
    /// The port on 127.0.0.1 from which BitBake reads a share in a bucket; default 28463.
    #[schemars(extend("minimum" = 1024, "maximum" = 65528))]
    pub endpoint_port: Option<i64>,
    /// What S3 charges, for the reports of a share in S3; the default is S3 Standard in us-east-1.
    #[serde(default)]
    pub prices: UnvalidatedPrices,
}

/// Prices of S3 in USD: <https://aws.amazon.com/s3/pricing/>.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Prices")]
pub struct UnvalidatedPrices {
    /// 1,000 PUT, COPY, POST or LIST requests; default 0.005.
    #[schemars(range(min = 0))]
    pub thousand_writes: Option<f64>,
    /// 1,000 GET or HEAD requests; default 0.0004.
    #[schemars(range(min = 0))]
    pub thousand_reads: Option<f64>,
    /// One GB stored for a month; default 0.023.
    #[schemars(range(min = 0))]
    pub gb_month: Option<f64>,
}

/// How the builds of a manifest use the share. It can only remove rights: a manifest cannot grant any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CacheAccess {
    /// Read, and write if the source is trusted enough.
    Auto,
    /// Only read.
    ReadOnly,
    /// Like auto, but warn if the source may not write.
    ReadWrite,
    /// Do not use the share.
    Off,
}

/// What is published, and where.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Artifacts")]
pub struct UnvalidatedArtifacts {
    /// "s3://bucket/prefix" or a directory; default: the output directory.
    pub destination: Option<String>,
    /// KMS key of the objects; default: the bucket's encryption.
    pub kms_key_id: Option<String>,
    /// The rules that select what is published.
    pub rules: Option<Vec<UnvalidatedRule>>,
}

/// One rule that selects files to publish.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rule")]
pub struct UnvalidatedRule {
    /// A glob relative to the build directory, such as "tmp/deploy/images/**".
    #[schemars(required)]
    pub include: Option<String>,
    /// Globs of files to exclude.
    pub exclude: Option<Vec<String>>,
    /// Whether a rule without a match is a failure; default false.
    pub required: Option<bool>,
}

/// Which failures count, and where people read the reports.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Report")]
pub struct UnvalidatedReport {
    /// "all" (default): every failure fails the job. "new": only those that the base of the change does not have.
    pub fail_on: Option<FailOnWord>,
    /// The https address under which people read the results that are stored in the share or the destination.
    #[schemars(extend("pattern" = "^https?://[^ ]+$"))]
    pub url: Option<String>,
}

/// Which failures fail a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailOnWord {
    /// Every failure.
    #[default]
    All,
    /// Failures that the base of the change does not have.
    New,
}

/// Prices in USD, for the estimates in reports. They replace those of the built-in table.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cost")]
pub struct UnvalidatedCost {
    /// The compute type of the machine, such as "BUILD_GENERAL1_LARGE", or a name of per_minute. The variable
    /// BUILD_AGENT_COMPUTE_TYPE comes first. Default in CodeBuild: what fits the processors and the memory.
    #[schemars(extend("pattern" = NAME))]
    pub compute_type: Option<String>,
    /// The price of a minute by compute type.
    pub per_minute: Option<BTreeMap<String, f64>>,
    /// One GB read from a share on EFS; default in CodeBuild 0.03.
    #[schemars(range(min = 0))]
    pub efs_read_gb: Option<f64>,
    /// One GB written to a share on EFS; default in CodeBuild 0.06.
    #[schemars(range(min = 0))]
    pub efs_write_gb: Option<f64>,
    /// One GB through a NAT gateway; default in CodeBuild with a share on EFS 0.045.
    #[schemars(range(min = 0))]
    pub nat_gb: Option<f64>,
}

/// Limits of time and disk.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub struct UnvalidatedLimits {
    /// The whole job; default "4h".
    #[schemars(extend("pattern" = DURATION))]
    pub job: Option<String>,
    /// Stop a command after this time without any event or output; default "20m".
    #[schemars(extend("pattern" = DURATION))]
    pub stall: Option<String>,
    /// Time between SIGTERM and SIGKILL; default "60s".
    #[schemars(extend("pattern" = DURATION))]
    pub grace: Option<String>,
    /// Maximum size of one command's log; the middle of a larger one is removed. Default "2GiB".
    #[schemars(extend("pattern" = SIZE))]
    pub log: Option<String>,
}

fn words(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

/// A repository has a URL or a path.
fn one_source() -> Value {
    json!([{ "required": ["url"] }, { "required": ["path"] }])
}

/// A hook has exactly one moment.
fn one_moment() -> Value {
    json!([{ "required": ["before"] }, { "required": ["after"] }])
}

/// Valid combinations of `branch`, `tag` and `commit`.
fn one_reference() -> Value {
    let any = ["branch", "tag", "commit"].map(|key| json!({ "required": [key] }));
    json!({
        "url": { "anyOf": any },
        "path": { "properties": { "branch": false, "tag": false, "commit": false, "patches": false, "signers": false } },
        "tag": { "properties": { "branch": false } },
    })
}
