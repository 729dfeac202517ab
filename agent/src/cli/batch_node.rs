//! The commands of the builds of a batch: `batch warm` and `batch cell`.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use crate::batch::records::{Attempt, LARGEST_RESULT};
use crate::batch::warm::{self, WarmStep, Work};
use crate::config::{AgentEnvironment, Settings, lock};
use crate::report;
use agent_objects::Created;
use agent_types::error::{Error, Result};
use agent_types::job_id::JobId;
use agent_types::outcome::ExitStatus;
use agent_types::stage::Stage;

use super::arguments::{BatchCell, Run, Warm};
use super::batch_cells::{BatchCells, batch_cells, warm_cells};
use super::lock::resolve_cells;
use super::output_dir::directory;
use super::{print, run};

/// Resolves the pins of all cells once and stores them. Then it fills the caches: with checkouts, with the sources of the
/// cells' targets and, for a trusted source, with what the targets of this call build. A failure there is a warning, because
/// each cell also does it.
pub async fn warm(args: Warm, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let cells = cells(&args.run, &args.batch.id, environment).await?;
    let lock = lock::render(&resolve_cells(&cells.loaded, environment).await?);
    let (created, lock) = cells.store.store_lock(&lock).await?;
    if created == Created::Different {
        print::line(format_args!("the pins of an earlier attempt count"))?;
    }
    for step in warm::steps(&warm_cells(&cells.loaded), &args.targets, !args.no_fetch) {
        print::line(format_args!("warm: {step}"))?;
        let failed = match run_pinned(warming(&args.run, &step), &lock, environment).await {
            Ok(ExitStatus::Passed) => continue,
            Ok(ExitStatus::Cancelled) => return Ok(ExitStatus::Cancelled),
            Ok(exit) => exit.meaning().to_owned(),
            Err(error) => error.message,
        };
        print::diagnostic(format_args!("warning: warm: {step}: {failed}; the cells do it, and decide"));
    }
    Ok(ExitStatus::Passed)
}

/// The job of a step.
fn warming(run: &Run, step: &WarmStep) -> Run {
    let mut run = run.clone();
    run.manifest.cell = Some(step.cell.clone());
    let stages = match &step.work {
        Work::Checkout => [Stage::Checkout, Stage::Configure],
        Work::Fetch(_) | Work::Build(_) => [Stage::Build, Stage::Publish],
    };
    (run.selection.only, run.selection.skip) = (stages.to_vec(), Vec::new());
    run.job.fetch_only = matches!(step.work, Work::Fetch(_));
    if let Work::Fetch(targets) | Work::Build(targets) = &step.work {
        let targets = format!("build.targets={}", serde_json::json!(targets));
        run.manifest.common.set.extend([targets, "artifacts.rules=[]".to_owned()]);
    }
    run
}

/// Runs one cell with the pins of the batch, and stores its result.
pub async fn cell(args: BatchCell, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let cells = cells(&args.run, &args.batch.id, environment).await?;
    let Some(id) = &args.run.manifest.cell else {
        return Err(Error::usage("--cell is missing").hint("name the cell that this build runs"));
    };
    let Some((cell, settings)) = cells.loaded.iter().find(|(cell, _)| cell.id == *id) else {
        return Err(Error::usage(format!("--cell {id}: the matrix has no such cell")));
    };
    let attempt = Attempt::new(SystemTime::now(), &build(environment));
    cells.store.begin(&cell.id, &attempt).await?;
    let out = directory(args.run.manifest.common.out.as_deref())?;
    let ran = match cells.store.lock().await? {
        Some(lock) => run_pinned(args.run.clone(), &lock, environment).await,
        None => Err(Error::upstream(
            "the batch has no pins, so this cell could get other commits than the other cells",
        )
        .hint("read the log of the build `warm`")),
    };
    let result = match &ran {
        Ok(_) => result_of(&out)?,
        // The result has the error.
        Err(error) => without_job(settings, &cells, error)?,
    };
    cells.store.finish(&cell.id, &attempt, result).await?;
    ran
}

fn result_of(out: &Path) -> Result<Vec<u8>> {
    Ok(agent_fs::read::whole(&out.join("result.json"), LARGEST_RESULT)?)
}

/// The result of a cell that could not start.
fn without_job(settings: &Settings, cells: &BatchCells, error: &Error) -> Result<Vec<u8>> {
    let mut job = settings.job.clone();
    job.commit = Some(cells.store.key.commit.clone());
    let text = report::render_result(&report::without_run(job, error.clone()))?;
    Ok(print::redactor().redact(&text).into_owned().into_bytes())
}

async fn cells(run: &Run, id: &str, environment: &AgentEnvironment) -> Result<BatchCells> {
    batch_cells(&run.manifest, &run.release, &run.rules, id, environment).await
}

/// The identifier of this build, as the service names it.
fn build(environment: &AgentEnvironment) -> String {
    let by_codebuild = environment.codebuild.as_ref().and_then(|build| build.build_id.as_deref());
    let by_codebuild = by_codebuild.and_then(|id| id.rsplit(':').next()).map(str::to_owned);
    let other = || JobId::new(SystemTime::now()).as_str().to_owned();
    by_codebuild.or_else(|| environment.batch_job.clone()).unwrap_or_else(other)
}

/// Runs a job with these pins.
async fn run_pinned(mut run: Run, lock: &str, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let failed = |error: std::io::Error| Error::machine("cannot write the pins of the batch").because(&error);
    let mut file = tempfile::Builder::new().prefix("build-agent-pins-").tempfile().map_err(failed)?;
    file.write_all(lock.as_bytes()).map_err(failed)?;
    // A job of an untrusted source reads it as the build user.
    file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
    run.pins = Some(file.path().to_owned());
    // On the heap: a whole job within another command is too large for the stack.
    Box::pin(run::run(run, environment)).await
}
