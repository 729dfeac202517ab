//! The arguments of `build-agent batch` and `build-agent merge`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::batch::key;

use super::{ManifestArgs, ReleaseArgs, RulesArgs, Run, SelectionArgs};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Batch {
    #[command(subcommand)]
    pub command: Option<BatchCommand>,
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
    /// The stages of the cells
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// The project of CodeBuild that runs the batch
    #[arg(long, value_name = "NAME")]
    pub project: Option<String>,
    /// Print the buildspec of the batch, and start nothing
    #[arg(long)]
    pub print_spec: bool,
    /// Print the input of the state machine of cloudformation/aws_batch.yml, and start nothing
    #[arg(long, conflicts_with_all = ["project", "print_spec", "warm", "no_fetch", "keep_older"])]
    pub print_jobs: bool,
    /// The version that CodeBuild checks out: a commit, or pr/NUMBER [default: as this build of CodeBuild, else the commit]
    #[arg(long, value_name = "VERSION")]
    pub source_version: Option<String>,
    /// Targets that `warm` builds for the first cell of each release, if the source is trusted
    #[arg(long, value_name = "TARGETS", value_delimiter = ',')]
    pub warm: Vec<String>,
    /// Do not let `warm` fetch the sources of the cells' targets
    #[arg(long)]
    pub no_fetch: bool,
    /// Do not stop the batches of older commits of the same pull request
    #[arg(long)]
    pub keep_older: bool,
    /// The time between two requests to CodeBuild
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
}

#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// The first build of a batch: resolve the pins of all cells once, and fill the caches
    Warm(Warm),
    /// A build of a batch: run one cell with the pins of the batch, and store its result
    Cell(BatchCell),
}

impl BatchCommand {
    /// The job that it runs.
    pub fn run(&self) -> &Run {
        match self {
            BatchCommand::Warm(warm) => &warm.run,
            BatchCommand::Cell(cell) => &cell.run,
        }
    }
}

/// The batch that a build belongs to.
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// Id of the batch
    #[arg(long = "batch", value_name = "ID", value_parser = key::parse_id)]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Warm {
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub run: Run,
    /// Targets to build for the first cell of each release, if the source is trusted
    #[arg(long, value_name = "TARGETS", value_delimiter = ',')]
    pub targets: Vec<String>,
    /// Do not fetch the sources of the cells' targets
    #[arg(long)]
    pub no_fetch: bool,
}

#[derive(Debug, Args)]
pub struct BatchCell {
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Debug, Args)]
pub struct Merge {
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
}
