//! `run` and `check`: the job of a manifest, or the cells of its matrix.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::config::lock::floats;
use crate::config::{self, AgentEnvironment, Cell, Matrix, Pins, Repo, RepoSource, Request, Settings};
use crate::job::Selection;
use agent_fs::untrusted;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::stage::Stage;

use super::arguments::{Check, JobArgs, MatrixArgs, Run};
use super::base_rules::with_rules;
use super::cells::{load_cells, matrix};
use super::current_dir::current_dir;
use super::included_repos::with_included_repos;
use super::job::{StartedJob, job, load_request, request_with_rules, stopped, with_common, with_rules_args};
use super::limited_reading::limit_reading;
use super::matrix::{self, MatrixRun, cell_words};

pub async fn run(args: Run, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let started = StartedJob::new(&args.manifest.common)?;
    let selection = Selection::from(&args.selection);
    let load = async {
        let request = request_with_rules(&args.manifest, &args.release, &args.rules).await?;
        let request = with_pins(request, args.pins.as_deref())?;
        let request = Request { machine_share: args.matrix.machine_share, ..request };
        let ruled = with_rules(for_job(request, &args.job, &selection), &[], environment).await?;
        loaded(&ruled.request, environment).await
    };
    let settings = match started.interrupt.or(load).await.map_err(stopped)?? {
        Loaded::One(settings) => within_matrix(*settings, &args.matrix),
        Loaded::Matrix(request, cells, limit) => {
            let words = cell_words("run", args.manifest.manifest.as_deref(), &request, &args.job, &selection);
            let jobs = args.matrix.jobs;
            let run = MatrixRun { cells, limit, words, jobs, selection, output: args.job.output };
            return Box::pin(matrix::run(run, started, environment)).await;
        }
    };
    job(&settings, &selection, started, args.job.output, environment).await
}

pub async fn check(args: Check, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let started = StartedJob::new(&args.common)?;
    let here = current_dir()?.join(config::FILE_NAME);
    let request = with_pins(with_rules_args(with_common(&args.common), &args.rules), args.pins.as_deref())?;
    let request = Request { cell: args.cell.clone(), machine_share: args.matrix.machine_share, ..request };
    let load = async {
        let ruled = with_rules(request, &args.layers, environment).await?;
        // The manifest names the layers below its directory.
        let by_manifest = args.layers.is_empty() && args.release.is_none() && ruled.request.rules.has(&here);
        let only = if by_manifest { vec![Stage::Check] } else { Vec::new() };
        let selection = Selection { only, skip: Vec::new() };
        let request = for_job(ruled.request.clone(), &args.job, &selection);
        let request = Request { check_layers: true, ..request };
        let settings = if by_manifest {
            let manifest = Some(config::FILE_NAME.to_owned());
            loaded(&Request { manifest, ..request }, environment).await?
        } else {
            let layers = if args.layers.is_empty() { vec![".".into()] } else { args.layers.clone() };
            let release = args.release.as_deref();
            limit_reading(&request, environment)?;
            let now = SystemTime::now();
            let here = current_dir()?;
            let load =
                |request: &Request| config::for_layers(&layers, release, request, environment, &here, now);
            Loaded::One(Box::new(with_included_repos(&request, environment, load).await?))
        };
        Ok::<_, Error>((settings, selection))
    };
    let (settings, selection) = match started.interrupt.or(load).await.map_err(stopped)?? {
        (Loaded::One(settings), selection) => (within_matrix(*settings, &args.matrix), selection),
        (Loaded::Matrix(request, cells, limit), selection) => {
            // Its stages are those of the command.
            let words = cell_words("check", None, &request, &args.job, &Selection::default());
            let jobs = args.matrix.jobs;
            let run = MatrixRun { cells, limit, words, jobs, selection, output: args.job.output };
            return Box::pin(matrix::run(run, started, environment)).await;
        }
    };
    job(&settings, &selection, started, args.job.output, environment).await
}

/// The job of a manifest, or the cells of its matrix and their time limit.
enum Loaded {
    One(Box<Settings>),
    Matrix(Box<Request>, Vec<(Cell, Settings)>, Option<Duration>),
}

async fn loaded(request: &Request, environment: &AgentEnvironment) -> Result<Loaded> {
    if let Some(Matrix { cells, limit }) = matrix(request, environment).await? {
        let cells = load_cells(cells, request, environment).await?;
        return Ok(Loaded::Matrix(Box::new(request.clone()), cells, limit));
    }
    let settings = load_request(request, environment).await?;
    reject_floating_cell(&settings, environment)?;
    Ok(Loaded::One(Box::new(settings)))
}

/// The settings of a cell that a matrix runs: its time limit is what the matrix has left, and the matrix posts its result.
fn within_matrix(mut settings: Settings, args: &MatrixArgs) -> Settings {
    if let Some(left) = args.time_left.filter(|left| *left < settings.limits.job) {
        let shown = humantime::format_duration(Duration::from_secs(left.as_secs()));
        settings.notices.push(format!("[matrix] limit leaves {shown} for this cell, less than [limits] job"));
        settings.limits.job = left;
    }
    if let Some(github) = settings.github.as_mut().filter(|_| args.no_posts) {
        github.report.clear();
    }
    settings
}

/// Adds the pins of the command line to the request.
fn with_pins(request: Request, file: Option<&Path>) -> Result<Request> {
    let Some(file) = file else { return Ok(request) };
    let text = untrusted::read_named(file, untrusted::PAGE)
        .map_err(|error| Error::usage("cannot read the file of --pins").because(&error))?;
    let pins = Pins { name: file.display().to_string(), text };
    Ok(Request { pins: Some(pins), ..request })
}

/// A cell of a matrix in CI must not resolve a branch: the other cells may get another commit.
fn reject_floating_cell(settings: &Settings, environment: &AgentEnvironment) -> Result<()> {
    let Some(cell) = settings.job.cell.as_ref().filter(|_| environment.ci) else { return Ok(()) };
    let floats =
        |repo: &&Repo| matches!(&repo.source, RepoSource::Git(git) if git.locked.is_none() && floats(git));
    let names: Vec<&str> = settings.repos.iter().filter(floats).map(|repo| repo.name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let message = format!(
        "cell {cell} would resolve the branches of {} alone, and the other cells may get other commits",
        names.join(", ")
    );
    Err(Error::usage(message)
        .hint("commit build-agent.lock (build-agent lock), or give all cells one lock with --pins"))
}

/// Adds the job's own options to the request.
fn for_job(request: Request, args: &JobArgs, selection: &Selection) -> Request {
    let mut options: Vec<String> =
        request.choice.iter().flat_map(|choice| ["--choose".to_owned(), choice.clone()]).collect();
    for (is_set, flag) in [
        (args.no_signature_cache, "--no-signature-cache"),
        (args.no_prefetch, "--no-prefetch"),
        (args.write_signatures, "--write-signatures"),
    ] {
        options.extend(is_set.then(|| flag.to_owned()));
    }
    for (flag, stages) in [("--only", &selection.only), ("--skip", &selection.skip)] {
        options.extend(stages.iter().flat_map(|stage| [flag.to_owned(), stage.to_string()]));
    }
    Request {
        keep_going: args.keep_going,
        fetch_only: args.fetch_only,
        no_signature_cache: args.no_signature_cache,
        no_prefetch: args.no_prefetch,
        write_signatures: args.write_signatures,
        fresh: args.fresh.then_some(true),
        options,
        ..request
    }
}
