//! `build-agent batch`: starts a batch of CodeBuild for the cells of a matrix, follows it, and ends with its verdict.

use std::path::Path;
use std::time::SystemTime;

use crate::batch::aws_batch::{self, Source};
use crate::batch::codebuild::{self, BuildStatus, Project, StartBatch};
use crate::batch::compute::{self, ComputeType};
use crate::batch::follow::{Follow, follow};
use crate::batch::graph::{self, Node};
use crate::batch::key;
use crate::batch::memory::MemoryTable;
use crate::batch::spec::{self, Commands};
use crate::batch::supersede::{self, BatchSource};
use crate::batch::warm;
use crate::config::{self, AgentEnvironment};
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::words::count;

use super::arguments::{Batch, BatchCommand};
use super::batch_cells::{BatchCells, batch_cells, warm_cells};
use super::batch_node;
use super::current_dir::current_dir;
use super::job::{StartedJob, stopped};
use super::merge::{merged, write_reports};
use super::print;

pub async fn command(args: Batch, environment: &AgentEnvironment) -> Result<ExitStatus> {
    match args.command {
        Some(BatchCommand::Warm(warm)) => batch_node::warm(warm, environment).await,
        Some(BatchCommand::Cell(cell)) => batch_node::cell(cell, environment).await,
        None => batch(&args, environment).await,
    }
}

/// A batch that is ready to start.
struct Prepared {
    cells: BatchCells,
    nodes: Vec<Node>,
    spec: String,
}

async fn batch(args: &Batch, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let id = key::new_id(SystemTime::now());
    if args.print_jobs {
        return print_jobs(args, &cells(args, &id, environment).await?).await;
    }
    if args.print_spec {
        print::raw(&prepare(args, &id, environment).await?.spec)?;
        return Ok(ExitStatus::Passed);
    }
    let mut started = StartedJob::new(&args.manifest.common)?;
    let Some(project) = &args.project else {
        return Err(Error::usage("--project is missing")
            .hint("name the project of cloudformation/batch.yml, or use --print-spec or --print-jobs"));
    };
    let prepared = prepare(args, &id, environment);
    let Prepared { cells, nodes, spec } = started.interrupt.or(prepared).await.map_err(stopped)??;
    let source_version = source_version(args, &cells, environment);
    let source = batch_source(&source_version, &cells, environment);
    let variables: Vec<_> = source.iter().map(|source| (supersede::VARIABLE, source.value())).collect();
    let start = StartBatch {
        project,
        source_version: &source_version,
        buildspec: &spec,
        token: &id,
        variables: &variables,
    };
    // Not interrupted by a signal: if the answer were lost, the batch could not be stopped.
    let batch = codebuild::start(&start).await?;
    print::line(format_args!("batch {id}: {} as {}", count(cells.cells.len() as u64, "cell"), batch.id))?;
    for step in warm::steps(&warm_cells(&cells.loaded), &args.warm, !args.no_fetch) {
        print::line(format_args!("warm: {step}"))?;
    }
    if let Some(source) = source.filter(|_| !args.keep_older) {
        // After a signal, `follow` stops the batch.
        let _ = started.interrupt.or(stop_superseded(project, &batch.id, &source)).await;
    }
    let names: Vec<String> = nodes.iter().map(|node| node.id.clone()).collect();
    let show = |line: &str| drop(print::line(format_args!("{line}")));
    let watch = Follow {
        batch: &batch.id,
        nodes: &names,
        pause: args.interval,
        interrupt: &started.interrupt,
        print: &show,
    };
    let outcome = follow(&watch).await?;
    let merged = merged(&cells, Some(&outcome.batch.builds)).await?;
    let exit = write_reports(&merged, &mut started.out, environment)?;
    let is_stopped = outcome.batch.status == BuildStatus::Stopped;
    if is_stopped && !outcome.cancelled {
        print::diagnostic(format_args!(
            "warning: the batch was stopped: by the batch of a newer commit of the pull request, or by a person"
        ));
    }
    // A stopped batch is cancelled, also if all cells passed before.
    Ok(if outcome.cancelled || is_stopped { ExitStatus::Cancelled } else { exit })
}

/// What the batch tests, if it is a commit of a pull request.
fn batch_source(version: &str, cells: &BatchCells, environment: &AgentEnvironment) -> Option<BatchSource> {
    // Builds of a webhook start in the order of the commits.
    let started = environment.codebuild.as_ref().and_then(|build| build.started);
    BatchSource::new(version, &cells.store.key.commit, started.unwrap_or_else(SystemTime::now))
}

/// Stops the older batches of the pull request. If there is a newer one, it stops this one. It runs after the start, so
/// that of two batches that start at the same time at least one finds the other. The verdict does not depend on it.
async fn stop_superseded(project: &str, own: &str, source: &BatchSource) {
    let warn = |error: &Error| print::diagnostic(format_args!("warning: {error}"));
    let number = source.pull_request;
    let superseded = match codebuild::running(project).await {
        Ok(running) => supersede::superseded(source, &running),
        Err(error) => {
            return warn(
                &Error::new(
                    error.class,
                    format!("the older batches of pull request {number} are not stopped: {}", error.message),
                )
                .hint(error.hint.unwrap_or_else(|| "allow it, or use --keep-older".to_owned())),
            );
        }
    };
    let own = superseded.is_own.then(|| own.to_owned());
    for id in superseded.older.into_iter().chain(own) {
        match codebuild::stop(&id).await {
            Ok(()) => {
                drop(print::line(format_args!("{id} is stopped: pull request {number} has a newer commit")))
            }
            Err(error) => warn(&error),
        }
    }
}

async fn cells(args: &Batch, id: &str, environment: &AgentEnvironment) -> Result<BatchCells> {
    if args.manifest.cell.is_some() {
        return Err(Error::usage("a batch runs all cells").hint("run one with: build-agent run --cell ID"));
    }
    batch_cells(&args.manifest, &args.release, &args.rules, id, environment).await
}

/// Makes the buildspec, and compares the batch with the limits of the project.
async fn prepare(args: &Batch, id: &str, environment: &AgentEnvironment) -> Result<Prepared> {
    let cells = cells(args, id, environment).await?;
    let project = match &args.project {
        Some(name) => Some(allowed(codebuild::project(name).await?, name)?),
        None => None,
    };
    let nodes = nodes(&cells, project.as_ref()).await?;
    if let Some(project) = &project {
        within_limits(project, &nodes)?;
    }
    let spec = spec::render(&nodes, &commands(args, &cells, id)?);
    Ok(Prepared { cells, nodes, spec })
}

/// # Errors
/// Usage, if the project cannot run a batch.
fn allowed(project: Project, name: &str) -> Result<Project> {
    match project.runs_batches {
        true => Ok(project),
        false => Err(Error::usage(format!("the project `{name}` has no role for batches"))
            .hint("use the project that cloudformation/batch.yml makes (docs/scale-out.md)")),
    }
}

/// The builds, each with its machine.
async fn nodes(cells: &BatchCells, project: Option<&Project>) -> Result<Vec<Node>> {
    let base = project.and_then(|project| ComputeType::from_name(&project.compute_type));
    let allowed: Vec<ComputeType> = project
        .into_iter()
        .flat_map(|project| project.compute_types.iter().filter_map(|name| ComputeType::from_name(name)))
        .collect();
    let table = memory(cells).await;
    graph::graph(&cells.cells, base, |cell| {
        Some(compute::choose(base?, table.cells.get(&cell.id).copied(), &allowed))
    })
}

/// The memory of the last run of each cell. Without it, each cell gets the machine of the project.
async fn memory(cells: &BatchCells) -> MemoryTable {
    let path = cells.store.key.memory();
    match cells.store.store.read_if_allowed(&path, MemoryTable::LARGEST).await {
        Ok(bytes) => bytes.map(|bytes| MemoryTable::parse(&bytes)).unwrap_or_default(),
        Err(error) => {
            print::diagnostic(format_args!(
                "warning: the memory of the last runs is unknown: {}",
                error.message
            ));
            MemoryTable::default()
        }
    }
}

/// Prints the batch for AWS Batch.
async fn print_jobs(args: &Batch, cells: &BatchCells) -> Result<ExitStatus> {
    let key = &cells.store.key;
    let source = Source::new(&key.commit, args.source_version.as_deref(), args.rules.base.as_deref())?;
    print::raw(&aws_batch::render(&key.id, &source, &cells.cells, &memory(cells).await)?)?;
    Ok(ExitStatus::Passed)
}

/// Compares the batch with the limits of the project: CodeBuild would refuse it after the start.
///
/// # Errors
/// Usage, with the limit.
fn within_limits(project: &Project, nodes: &[Node]) -> Result<()> {
    if let Some(most) = project.maximum_builds.filter(|most| (nodes.len() as u64) > *most) {
        return Err(Error::usage(format!(
            "the batch has {} builds, with `warm` and `merge`, and the project allows {most}",
            nodes.len()
        ))
        .hint("raise MaximumBuilds of cloudformation/batch.yml, or exclude cells from the [matrix]"));
    }
    let refused = nodes.iter().filter_map(|node| node.compute_type).find(|kind| {
        !project.compute_types.is_empty() && !project.compute_types.iter().any(|name| name == kind.name())
    });
    match refused {
        None => Ok(()),
        Some(kind) => Err(Error::usage(format!("the project does not allow the compute type {kind}"))
            .hint("add it to ComputeTypes of cloudformation/batch.yml")),
    }
}

/// The version of the source that CodeBuild checks out.
fn source_version(args: &Batch, cells: &BatchCells, environment: &AgentEnvironment) -> String {
    // A pull request's version says that it is one, so that its builds are not trusted.
    let own = environment.codebuild.as_ref().and_then(|build| build.source_version.clone());
    args.source_version.clone().or(own).unwrap_or_else(|| cells.store.key.commit.clone())
}

/// The commands of the builds, with the options of this call. They run at the top of the checkout.
fn commands(args: &Batch, cells: &BatchCells, id: &str) -> Result<Commands> {
    let common = &args.manifest.common;
    let mut all = match &args.manifest.manifest {
        Some(address) if config::remote::is_address(address) => vec![address.clone()],
        given => vec![in_checkout(given.as_deref(), &cells.settings().checkout)?],
    };
    all.extend(["--batch".to_owned(), id.to_owned()]);
    let mut option = |name: &str, values: &[String]| {
        all.extend(values.iter().flat_map(|value| [name.to_owned(), value.clone()]));
    };
    option("--manifest-sha256", args.manifest.manifest_sha256.as_slice());
    option("--release", args.release.release.as_slice());
    option("--set", &common.set);
    option("--build-user", common.build_user.as_slice());
    // The base branch may move while the batch runs.
    let base = cells.base.as_ref().or(args.rules.base.as_ref());
    option("--base", base.cloned().as_slice());
    if args.rules.accept_manifest {
        all.push("--accept-manifest".to_owned());
    }
    // The builds of the batch have no variables of a webhook; what this build knows of the source counts.
    if cells.settings().cache.trust.is_trusted() {
        all.push("--trusted".to_owned());
    }
    let stages = |name: &str, stages: &[agent_types::stage::Stage]| -> Vec<String> {
        stages.iter().flat_map(|stage| [name.to_owned(), stage.to_string()]).collect()
    };
    let selection = &args.selection;
    let cell = [stages("--only", &selection.only), stages("--skip", &selection.skip)].concat();
    if cells.settings().github.is_some() {
        // The result of the batch is posted once, and not that of each build.
        all.extend(["--set", "github.report=[]"].map(str::to_owned));
    }
    let targets = args.warm.iter().flat_map(|target| ["--targets".to_owned(), target.clone()]);
    let warm = targets.chain(args.no_fetch.then(|| "--no-fetch".to_owned())).collect();
    Ok(Commands { all, warm, cell })
}

/// The manifest's path from the top of the checkout.
///
/// # Errors
/// Usage, if it is elsewhere: other machines do not have it.
fn in_checkout(given: Option<&str>, checkout: &Path) -> Result<String> {
    let path = current_dir()?.join(given.unwrap_or(config::FILE_NAME));
    let path = fs_err::canonicalize(&path).unwrap_or(path);
    path.strip_prefix(checkout).ok().and_then(Path::to_str).map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("the manifest is not in the checkout {}", checkout.display()))
            .hint("other machines get the checkout: commit the manifest there, or give its https:// or s3:// address")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_reported_before_the_start() {
        let node =
            |kind| Node { id: "a".into(), depends_on: vec![], compute_type: kind, ignore_failure: true };
        let nodes = [node(None), node(Some(ComputeType::Large)), node(Some(ComputeType::Small))];
        let project = |most, kinds: &[ComputeType]| Project {
            maximum_builds: most,
            compute_types: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            ..Project::default()
        };
        let both = [ComputeType::Large, ComputeType::Small];
        for (project, wanted) in [
            (project(None, &[]), None),
            (project(Some(3), &both), None),
            (project(Some(2), &[]), Some("has 3 builds, with `warm` and `merge`, and the project allows 2")),
            (project(Some(9), &both[..1]), Some("does not allow the compute type BUILD_GENERAL1_SMALL")),
        ] {
            let message = within_limits(&project, &nodes).err().map(|error| error.message);
            assert_eq!(message.is_some(), wanted.is_some(), "{message:?}");
            assert!(wanted.is_none_or(|wanted| message.unwrap().contains(wanted)));
        }
    }
}
