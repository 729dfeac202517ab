//! The words of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::job::Selection;
use agent_types::outcome::ExitStatus;
use agent_types::stage::Stage;

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
    /// Look after the caches on the share
    Cache(Cache),
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
    #[arg(value_parser = OsStringValueParser::new().try_map(utf8))]
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
    #[arg(long, value_name = "DIR", value_parser = utf8_path())]
    pub work_dir: Option<PathBuf>,
    /// Where reports and logs go [default: ./build-agent-out]
    #[arg(long, value_name = "DIR", value_parser = utf8_path())]
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
    #[arg(value_parser = utf8_path())]
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
    pub command: Vec<OsString>,
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
pub struct CachePublish {
    /// The share's mount point
    #[arg(long, value_name = "DIR")]
    pub share: PathBuf,
    /// The code name under which the share keeps the shared state
    #[arg(long, value_name = "RELEASE")]
    pub release: String,
    /// A local SSTATE_DIR
    #[arg(long, value_name = "DIR", required_unless_present = "downloads")]
    pub sstate: Option<PathBuf>,
    /// A local DL_DIR
    #[arg(long, value_name = "DIR")]
    pub downloads: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    pub command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// What is on the share, how old it is, and how well it served
    Stats(ShareArgs),
    /// Publish local caches to a share: what is new, and nothing that is there
    Publish(CachePublish),
    /// Delete what nobody has used for long, and what is above a limit
    Prune(Prune),
    /// Look for what is damaged, misplaced or unreadable
    Verify(Verify),
}

/// Which share it is about.
#[derive(Debug, Args)]
pub struct ShareArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// The share; needs no manifest [default: `[cache] share` of the manifest]
    #[arg(long, value_name = "DIR")]
    pub share: Option<PathBuf>,
    /// Operations in flight at most
    #[arg(long, value_name = "NUMBER", default_value_t = agent_fs::pool::WIDTH, value_parser = width)]
    pub width: usize,
    /// For machines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Prune {
    #[command(flatten)]
    pub share: ShareArgs,
    /// Print what would go; touches nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Shared state unused for this long goes [default: that of the manifest, or 30d]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub sstate_max_age: Option<Duration>,
    /// Downloads unused for this long go [default: that of the manifest, or 60d]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub downloads_max_age: Option<Duration>,
    /// Layer checkouts unused for this long go
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    pub layers_max_age: Duration,
    /// The part of a pull request in which nothing has changed for this long goes
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = humantime::parse_duration)]
    pub pull_requests_max_age: Duration,
    /// Shared state and downloads above this size go, the least recently used first, e.g. 500GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// The same for all pull requests together
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub pull_requests_max_size: Option<u64>,
    /// How long what goes lies in the trash before it is deleted; 0s deletes at once
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Stop after this time; the next run goes on
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time_limit: Option<Duration>,
    /// Prune also what running builds may use
    #[arg(long)]
    pub ignore_leases: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    pub share: ShareArgs,
    /// Read and unpack every archive
    #[arg(long)]
    pub full: bool,
    /// Move what is damaged or misplaced to the trash
    #[arg(long)]
    pub remove_bad: bool,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time_limit: Option<Duration>,
}

/// Paths that end up in BitBake's configuration or in reports, which hold text.
fn utf8_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|value| utf8(value).map(PathBuf::from))
}

fn utf8(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|_| {
        "the path is not valid UTF-8, and BitBake's configuration and the reports hold only such; \
         rename the directory or file"
            .to_owned()
    })
}

fn width(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(width @ 1..=1024) => Ok(width),
        _ => Err("write a number from 1 to 1024".into()),
    }
}

/// Bytes: a number with KiB, MiB, GiB or TiB, or without a unit.
fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
    let plain = number.trim_end();
    let digits = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit());
    let bytes = plain.parse().ok().filter(|_| digits).and_then(|number: u64| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "write a whole number with KiB, MiB, GiB or TiB, such as 500GiB".into())
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
    /// The job, where the source holds the merged events of several
    #[arg(long, value_name = "ID")]
    pub job: Option<String>,
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

    #[test]
    fn sizes() {
        let good = [("0", 0), ("17", 17), ("1KiB", 1024), ("500 GiB", 500 << 30), ("2TiB", 2 << 40)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "+1", "1.5GiB", "1GB", "5 apples", "99999999999TiB", "1 KiB "] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
