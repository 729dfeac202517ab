//! Definition of the command line: commands, arguments and options.

mod batch;
mod cache;
mod development;
mod lab;
mod lab_request;
mod report;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::job::Selection;
use crate::matrix_run::Jobs;
use agent_types::outcome::ExitStatus;
use agent_types::stage::Stage;

pub use batch::{Batch, BatchCell, BatchCommand, Merge, Warm};
pub use cache::{Cache, CacheCommand, CachePublish, Prune, ShareArgs, Verify};
pub use development::{Boot, Completion, Devtool, Man};
pub use lab::{Lab, LabCommand, StoreArgs};
pub use lab_request::LabRequest;
pub use report::{Post, PostState, Report, ReportCommand, ReportFormat};

/// The build machine for Yocto layers: from a job manifest to a verdict that can be trusted.
#[derive(Debug, Parser)]
#[command(name = "build-agent", version, after_help = exit_statuses(), max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    /// Print diagnostics on standard error: error, warn, info, debug, trace, or a filter such as
    /// `info,agent_git=debug`. Takes precedence over the variable BUILD_AGENT_LOG
    #[arg(long, global = true, value_name = "LEVEL", value_parser = super::diagnostics::check_filter)]
    pub log_level: Option<String>,
}

impl Command {
    /// Whether it writes `agent.log` beside its reports.
    pub fn has_log(&self) -> bool {
        self.job_output().is_some()
    }

    /// Whether code of layers runs below it.
    pub fn runs_layer_code(&self) -> bool {
        match self {
            Command::Run(_) | Command::Check(_) | Command::Shell(_) | Command::Doctor(_) => true,
            Command::Boot(_) | Command::Devtool(_) => true,
            Command::Lab(lab) => matches!(lab.command, LabCommand::Serve(_)),
            Command::Batch(batch) => batch.command.is_some(),
            _ => false,
        }
    }

    /// How it shows its progress, if it is a job.
    pub fn job_output(&self) -> Option<Output> {
        match self {
            Command::Run(run) => Some(run.job.output),
            Command::Check(check) => Some(check.job.output),
            Command::Batch(batch) => batch.command.as_ref().map(|node| node.run().job.output),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the job of a manifest: checkout, check, build, publish, report
    Run(Run),
    /// Check layers alone; needs no manifest
    Check(Check),
    /// Print what `run` would do; changes nothing
    Plan(Plan),
    /// Print the whole resolved manifest: with its included files, the flags and the pins
    Dump(Dump),
    /// Pin each repo of the manifest to a commit, in build-agent.lock
    Lock(Lock),
    /// Print the commits between two locks or two results
    Diff(Diff),
    /// Write the manifest and the lock that a definition of another tool means
    Import(Import),
    /// Write the manifest as a definition of another tool
    Export(Export),
    /// Open the prepared BitBake environment
    Shell(Shell),
    /// Start a built image in QEMU, with its console on the terminal
    Boot(Boot),
    /// Run devtool in the build directory: change a recipe's sources, build them, and write a patch to a layer
    Devtool(Devtool),
    /// Check whether this machine can build, and print how to fix it
    Doctor(Doctor),
    /// Maintain the caches on the share
    Cache(Cache),
    /// Upload a directory as artifacts
    Publish(Publish),
    /// Write the reports again from events.jsonl or result.json
    Report(Report),
    /// Run the cells of a matrix as a batch of CodeBuild, and report them as one result
    Batch(Box<Batch>),
    /// Merge what the cells of a batch have stored into one result; waits for nothing
    Merge(Merge),
    /// Print what repeats a job on this machine, or run it
    Reproduce(Reproduce),
    /// Test images on devices: run a lab, show its devices and its queue
    Lab(Lab),
    /// Print the JSON Schema of the manifest
    Schema(Schema),
    /// Print the completion script of a shell
    Completion(Completion),
    /// Write man pages to a directory
    Man(Man),
    /// Print the part of the share that this build may write: `shared`, `pr/NUMBER` or `none`
    #[command(hide = true)]
    ShareTier(ShareTier),
    /// Probe a directory of a share: the agent runs this in a child process, which may block
    #[command(hide = true)]
    ProbeShare(ProbeShare),
    /// Look for credentials that this user can reach: the agent runs this in a child process as the build user
    #[command(hide = true, name = agent_process::credentials::COMMAND)]
    ProbeCredentials(ProbeCredentials),
}

/// The arguments of all commands that read a manifest.
#[derive(Clone, Debug, Args)]
pub struct ManifestArgs {
    /// Path, https:// or s3:// URL of the manifest, or the files of another tool: kas.yml, base.yml:board.yml [default: build-agent.toml of the layer under test]
    #[arg(value_parser = OsStringValueParser::new().try_map(utf8))]
    pub manifest: Option<String>,
    /// SHA-256 digest that a downloaded manifest must have
    #[arg(long, value_name = "HEX")]
    pub manifest_sha256: Option<String>,
    /// The configuration of a file of bitbake-setup, and its fragments, such as poky,machine/qemuarm64,distro/poky
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub choose: Vec<String>,
    /// The cell of the manifest's matrix; build-agent plan lists them
    #[arg(long, value_name = "ID")]
    pub cell: Option<String>,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The release of a definition that names none.
#[derive(Clone, Debug, Args)]
pub struct ReleaseArgs {
    /// The Yocto release; without it, a definition of kas has that of its OE-Core
    #[arg(long, value_name = "NAME")]
    pub release: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Override a key of the manifest, e.g. repos.poky.branch=master
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Directory for clones, build directories and local caches
    #[arg(long, value_name = "DIR", value_parser = utf8_path())]
    pub work_dir: Option<PathBuf>,
    /// Directory for reports and logs [default: ./build-agent-out]
    #[arg(long, value_name = "DIR", value_parser = utf8_path())]
    pub out: Option<PathBuf>,
    /// The user that runs layer code when the agent runs as root [default: builder]
    #[arg(long, value_name = "USER")]
    pub build_user: Option<String>,
    /// Trust the source: its builds may write to the shared cache; a pull request never may
    #[arg(long)]
    pub trusted: bool,
}

/// How a job shows its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Progress on a terminal, otherwise plain
    Auto,
    /// One line for each finished step
    Plain,
    /// One JSON object per event, each on its line
    Json,
}

/// How the cells of a matrix run on this machine.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// How many cells of a matrix run in parallel; auto: as processors and memory allow
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    pub jobs: Jobs,
    /// How many jobs use this machine at the same time: a matrix runs its cells with it
    #[arg(long, value_name = "N", hide = true, default_value_t = 1)]
    pub machine_share: usize,
    /// A time limit besides [limits] job: what the matrix has left
    #[arg(long, value_name = "TIME", hide = true, value_parser = humantime::parse_duration)]
    pub time_left: Option<Duration>,
    /// Post nothing to GitHub: a matrix posts the results of its cells as one
    #[arg(long, hide = true)]
    pub no_posts: bool,
}

#[derive(Clone, Debug, Args)]
pub struct JobArgs {
    /// Continue after failures: yocto-check-layer after a failed preflight, `bitbake -k`
    #[arg(short, long)]
    pub keep_going: bool,
    /// Disable the signature cache: run BitBake for every query of yocto-check-layer
    #[arg(long, alias = "no-memo")]
    pub no_signature_cache: bool,
    /// Ask BitBake only when yocto-check-layer asks; for measurements (slower)
    #[arg(long, hide_short_help = true, conflicts_with = "no_signature_cache")]
    pub no_prefetch: bool,
    /// Let BitBake write signature files that only a failing check needs; for measurements (slower)
    #[arg(long, hide_short_help = true, conflicts_with = "no_signature_cache")]
    pub write_signatures: bool,
    /// Empty the build directory first, including the results of earlier builds [default: only in CI]
    #[arg(long)]
    pub fresh: bool,
    /// Fetch the sources of the targets, and of all that they need, and build nothing
    #[arg(long, hide = true)]
    pub fetch_only: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Output::Auto)]
    pub output: Output,
}

/// Where the manifest, its lock and its known failures come from.
#[derive(Clone, Debug, Args)]
pub struct RulesArgs {
    /// Compare the checkout with this base, and judge it by its manifest, lock and known failures [default: the
    /// target branch of a pull request]
    #[arg(long, value_name = "REF")]
    pub base: Option<String>,
    /// Apply a pull request's own manifest, lock and known failures; not in a build that a webhook starts
    #[arg(long)]
    pub accept_manifest: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Use the commits of this lock, which must pin every repo, instead of build-agent.lock beside the manifest
    #[arg(long, value_name = "FILE", value_parser = utf8_path())]
    pub pins: Option<PathBuf>,
    #[command(flatten)]
    pub matrix: MatrixArgs,
    #[command(flatten)]
    pub job: JobArgs,
}

#[derive(Clone, Debug, Args)]
pub struct SelectionArgs {
    /// Run only these stages and those that they need
    #[arg(long, value_name = "STAGES", value_delimiter = ',')]
    pub only: Vec<Stage>,
    /// Skip these stages
    #[arg(long, value_name = "STAGES", value_delimiter = ',')]
    pub skip: Vec<Stage>,
}

impl From<&SelectionArgs> for Selection {
    fn from(args: &SelectionArgs) -> Selection {
        Selection { only: args.only.clone(), skip: args.skip.clone() }
    }
}

#[derive(Debug, Args)]
pub struct Check {
    /// The layers to check [default: those of the manifest, or the current directory]
    #[arg(value_parser = utf8_path())]
    pub layers: Vec<PathBuf>,
    /// The Yocto release to check against
    #[arg(long, value_name = "NAME")]
    pub release: Option<String>,
    /// The cell of the manifest's matrix; without it, all cells are checked
    #[arg(long, value_name = "ID", conflicts_with_all = ["layers", "release"])]
    pub cell: Option<String>,
    /// Use the commits of this lock, which must pin every repo, instead of build-agent.lock beside the manifest
    #[arg(long, value_name = "FILE", value_parser = utf8_path())]
    pub pins: Option<PathBuf>,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
    #[command(flatten)]
    pub matrix: MatrixArgs,
    #[command(flatten)]
    pub job: JobArgs,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Print instead where the value of a key comes from, and what it overrides, e.g. config.machines
    #[arg(long, value_name = "KEY")]
    pub explain: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print the cells of the manifest's matrix on one line, as `strategy.matrix` of a GitHub workflow needs them
    #[arg(long, conflicts_with_all = ["json", "explain", "cell"])]
    pub cells: bool,
}

#[derive(Debug, Args)]
pub struct Lock {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Update these repos to their newest commit; without a name, update all
    #[arg(long, value_name = "NAME", num_args = 0..)]
    pub update: Option<Vec<String>>,
    /// Print the commits between the lock and the one that this call would write; writes nothing
    #[arg(long)]
    pub diff: bool,
}

#[derive(Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// build-agent.lock, result.json, or the directory with a result
    #[arg(value_name = "OLD", value_parser = utf8_path())]
    pub old: PathBuf,
    /// The same to compare it with
    #[arg(value_name = "NEW", value_parser = utf8_path())]
    pub new: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// Replace build-agent.toml and build-agent.lock
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Write a definition of kas to this file, and its lock beside it
    #[arg(long, value_name = "FILE", value_parser = utf8_path())]
    pub kas: PathBuf,
}

#[derive(Debug, Args)]
pub struct Shell {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// Empty the build directory first, instead of opening what the last build left
    #[arg(long)]
    pub fresh: bool,
    /// The command to run instead of an interactive shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Check for any build of this Yocto release, and ignore a manifest
    #[arg(long, value_name = "NAME", conflicts_with = "manifest")]
    pub release: Option<String>,
    /// Check whether this machine can serve the devices of a lab's file, lab.toml, instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["manifest", "release"])]
    pub lab: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Schema {
    /// The schema of a lab's file, lab.toml, instead
    #[arg(long)]
    pub lab: bool,
}

/// Parses a path for BitBake's configuration or for reports, which are text.
fn utf8_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|value| utf8(value).map(PathBuf::from))
}

fn utf8(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|_| {
        "the path is not valid UTF-8, which BitBake's configuration and the reports need; \
         rename the directory or file"
            .to_owned()
    })
}

#[derive(Debug, Args)]
pub struct Publish {
    /// The directory whose files are uploaded
    pub dir: PathBuf,
    /// s3://bucket/prefix or a directory
    pub destination: String,
    /// KMS key for the objects
    #[arg(long, value_name = "ID")]
    pub kms_key_id: Option<String>,
}

#[derive(Debug, Args)]
pub struct Reproduce {
    /// result.json or events.jsonl of the job, or the directory with them
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// Run it, instead of printing a script. It runs the code of the layer
    #[arg(long)]
    pub run: bool,
    /// Directory for the sources and the reports; it must not exist [default: ./reproduce-JOB]
    #[arg(long, value_name = "DIR", requires = "run", value_parser = utf8_path())]
    pub dir: Option<PathBuf>,
    /// Use this container image instead of that of the job
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Use the agent and the tools of this machine instead of a container
    #[arg(long, conflicts_with = "image")]
    pub no_container: bool,
}

#[derive(Debug, Args)]
pub struct ShareTier {
    /// Use this source version instead of the variable CODEBUILD_SOURCE_VERSION
    #[arg(long, value_name = "VERSION", value_parser = OsStringValueParser::new().try_map(utf8))]
    pub source_version: Option<String>,
}

#[derive(Debug, Args)]
pub struct ProbeShare {
    pub root: PathBuf,
    /// Path relative to the root; `.` is the root
    pub part: PathBuf,
    #[arg(long)]
    pub write: bool,
}

#[derive(Debug, Args)]
pub struct ProbeCredentials {
    /// KIND=VALUE
    pub sources: Vec<String>,
}

fn exit_statuses() -> String {
    let line = |status: ExitStatus| format!("  {:>3}  {}\n", status.code(), status.meaning());
    format!("Exit status:\n{}", ExitStatus::ALL.map(line).concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
