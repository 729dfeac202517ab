//! The words of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::job::{Selection, Stage};
use crate::outcome::ExitStatus;

/// The build machine for Yocto layers: from a job manifest to a verdict that can be trusted.
#[derive(Debug, Parser)]
#[command(name = "build-agent", version, after_help = exit_statuses(), max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the job of a manifest: checkout, check, build, publish, report
    Run(Run),
    /// Check layers alone; needs no manifest
    Check(Check),
    /// Print what `run` would do; touches nothing
    Plan(Plan),
    /// Pin each repo of the manifest to a commit, in build-agent.lock
    Lock(Lock),
    /// Open the prepared BitBake environment
    Shell(Shell),
    /// Tell whether this machine is fit to build, and how to mend it
    Doctor(Doctor),
    /// Upload a directory as artifacts
    Publish(Publish),
    /// Write the reports again from events.jsonl or result.json
    Report(Report),
    /// Print the JSON Schema of the manifest
    Schema,
    /// Look at a part of a share, and say what was found: the agent asks itself, in a child
    #[command(hide = true)]
    ProbeShare(ProbeShare),
}

/// What all commands that read a manifest have in common.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Path, https:// or s3:// address of the manifest [default: build-agent.toml of the layer under test]
    pub manifest: Option<String>,
    /// Digest that a manifest from elsewhere must have
    #[arg(long, value_name = "HEX")]
    pub manifest_sha256: Option<String>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Override a key of the manifest, e.g. repos.poky.branch=master
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where clones, build directories and local caches live
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Where reports and logs go [default: ./build-agent-out]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The user that runs layer code when the agent runs as root [default: builder]
    #[arg(long, value_name = "USER")]
    pub build_user: Option<String>,
    /// Vouch for the source: the build may write the share for all; a pull request never may
    #[arg(long)]
    pub trusted: bool,
}

/// How a job tells what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Progress on a terminal, lines elsewhere
    Auto,
    /// One line for each finished step
    Plain,
    /// The events, one JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub struct JobArgs {
    /// Go on after failures: yocto-check-layer after a failed preflight, `bitbake -k`
    #[arg(short, long)]
    pub keep_going: bool,
    /// Ask BitBake everything anew: use and keep no answer that it gave to yocto-check-layer
    #[arg(long)]
    pub no_memo: bool,
    /// How to tell what happens
    #[arg(long, value_enum, default_value_t = Output::Auto)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub job: JobArgs,
}

#[derive(Debug, Args)]
pub struct SelectionArgs {
    /// Run only these stages, and what they need
    #[arg(long, value_name = "STAGES", value_delimiter = ',')]
    pub only: Vec<Stage>,
    /// Leave these stages out
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
    pub layers: Vec<PathBuf>,
    /// The Yocto release to check against
    #[arg(long, value_name = "NAME")]
    pub release: Option<String>,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub job: JobArgs,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// For machines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Lock {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Move these repos to the newest commit; without a name, all
    #[arg(long, value_name = "NAME", num_args = 0..)]
    pub update: Option<Vec<String>>,
}

#[derive(Debug, Args)]
pub struct Shell {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// The command to run instead of an interactive shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Examine for any build of this Yocto release, whatever manifest is here
    #[arg(long, value_name = "NAME", conflicts_with = "manifest")]
    pub release: Option<String>,
    /// For machines
    #[arg(long)]
    pub json: bool,
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

/// What `report` can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// result.json
    Json,
    /// junit.xml
    Junit,
    /// The closing text, on standard output
    Text,
}

impl ReportFormat {
    pub const ALL: [ReportFormat; 3] = [ReportFormat::Json, ReportFormat::Junit, ReportFormat::Text];
}

#[derive(Debug, Args)]
pub struct Report {
    /// events.jsonl or result.json
    pub source: PathBuf,
    /// What to write [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub format: Vec<ReportFormat>,
    /// Where to write [default: beside the source]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ProbeShare {
    pub root: PathBuf,
    /// Relative to the root; `.` for the root
    pub part: PathBuf,
    #[arg(long)]
    pub write: bool,
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
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
