//! `run` and `check` of a manifest with a matrix: each cell is a child process of this program, and their results are one.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use tokio::sync::mpsc::Receiver;

use crate::config::{self, AgentEnvironment, CACHE_VARIABLE, Cell, Request, STEP_SUMMARY, Settings};
use crate::job::{DiskUse, Plan, Selection};
use crate::matrix_run::{self, CellChild, Console, ConsoleKind, Jobs, MEMORY_PER_CELL};
use crate::report::github_actions::StopCommands;
use crate::report::{self, CELL_PINS, CELLS};
use agent_process::{Redactor, Runner, cgroup};
use agent_types::error::{Error, Result};
use agent_types::events::{self, Event, EventKind, Level};
use agent_types::outcome::ExitStatus;
use agent_types::stage::Stage;
use agent_types::words::count;

use super::arguments::{JobArgs, Output};
use super::current_dir::current_dir;
use super::job::{self, StartedJob, commands_stream, is_dumb, stopped, style};
use super::lock::resolve_cells;
use super::matrix_posts::MatrixPosts;
use super::matrix_results::{CellResults, cell_out};
use super::{diagnostics, print};

/// The cells of a manifest, and how they run.
pub struct MatrixRun {
    pub cells: Vec<(Cell, Settings)>,
    /// The time limit of all cells together.
    pub limit: Option<Duration>,
    /// The arguments that all cells have in common.
    pub words: Vec<String>,
    pub jobs: Jobs,
    pub selection: Selection,
    pub output: Output,
}

/// The arguments that all cells have in common.
pub fn cell_words(
    command: &str,
    manifest: Option<&str>,
    request: &Request,
    job: &JobArgs,
    selection: &Selection,
) -> Vec<String> {
    let mut words = vec![command.to_owned()];
    words.extend(manifest.map(str::to_owned));
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    // The base branch may move while the cells run.
    let base = request.rules.base_commit().map(str::to_owned).or_else(|| request.base.clone());
    let options = [
        ("--manifest-sha256", request.manifest_sha256.clone()),
        ("--work-dir", path(&request.work_dir)),
        ("--build-user", request.build_user.clone()),
        ("--base", base),
    ];
    let with_value = options.into_iter().filter_map(|(option, value)| Some((option, value?)));
    let set = request.set.iter().map(|set| ("--set", set.clone()));
    let stages = [("--only", &selection.only), ("--skip", &selection.skip)];
    let stages = stages
        .into_iter()
        .flat_map(|(option, stages)| stages.iter().map(move |stage| (option, stage.to_string())));
    for (option, value) in with_value.chain(set).chain(stages) {
        words.push(format!("{option}={value}"));
    }
    for (flag, is_set) in [
        ("--trusted", request.trusted),
        ("--accept-manifest", request.accept_manifest),
        ("--keep-going", job.keep_going),
        ("--no-signature-cache", job.no_signature_cache),
        ("--no-prefetch", job.no_prefetch),
        ("--write-signatures", job.write_signatures),
        ("--fresh", job.fresh),
        ("--fetch-only", job.fetch_only),
    ] {
        words.extend(is_set.then(|| flag.to_owned()));
    }
    words
}

/// Runs the cells, and makes one report of their results.
pub async fn run(
    run: MatrixRun,
    mut started: StartedJob,
    environment: &AgentEnvironment,
) -> Result<ExitStatus> {
    let mut disk_use = Vec::new();
    for (cell, settings) in &run.cells {
        let plan = Plan::new(settings, &run.selection).map_err(|error| super::cells::of_cell(error, cell))?;
        disk_use.extend(plan.runs_bitbake().then(|| DiskUse::of(settings)));
    }
    if let Some((message, hint)) = DiskUse::warning_of_all(&disk_use) {
        print::diagnostic(format_args!("warning: {message}\n  hint: {hint}"));
    }
    let deadline = run.limit.and_then(|limit| Instant::now().checked_add(limit));
    let memory = last_memory(&run.cells, started.out.path());
    let posts = MatrixPosts::new(&run.cells, environment);
    let mut posts = started.interrupt.or(posts).await.map_err(stopped)??;
    let pins = started.interrupt.or(resolve_cells(&run.cells, environment)).await.map_err(stopped)??;
    let out = started.out.begin_merged()?;
    fs_err::create_dir_all(out.join(CELLS))?;
    report::replace(&out.join(CELL_PINS), config::lock::render(&pins).as_bytes())?;
    let parallel = parallel_cells(&run, memory);
    let children = children(&run, &out, parallel, environment)?;

    let stop_commands =
        environment.github_actions.as_ref().map(|_| StopCommands::new(commands_stream(run.output)));
    if run.output != Output::Json {
        print::line(format_args!("{}", head(&run, parallel)))?;
    }
    let mut console = console(run.output, &children, environment);
    let secrets: Vec<_> = run
        .cells
        .iter()
        .flat_map(|(_, settings)| &settings.secrets)
        .chain(environment.secrets())
        .chain(posts.token())
        .cloned()
        .collect();
    let (emitter, receiver) = events::channel();
    let listener = tokio::spawn(print_warnings(receiver, console.screen()));
    let runner = Runner {
        stage: Stage::Checkout,
        events: emitter,
        interrupt: started.interrupt.clone(),
        redactor: Redactor::new(&secrets),
        logs: out.join("logs"),
        stall: Duration::MAX,
        grace: children.iter().map(CellChild::stop_time).max().unwrap_or_default(),
        log_limit: run.cells.iter().map(|(_, settings)| settings.limits.log).max().unwrap_or_default(),
        commands: Arc::default(),
    };
    posts.begin();
    let ends = matrix_run::run_all(&children, parallel, deadline, &runner, &mut console).await;
    drop((runner, console));
    let _ = listener.await;

    let results = CellResults::of(&run.cells, &ends, &out, environment);
    let mut all = results.combined();
    let exit = results.write(&mut all);
    let commands = stop_commands.as_ref().map(|stopped| &stopped.commands);
    results.give_to_services(&all, commands, run.output, environment).await;
    // Posts have what is left of the time that a stop of the cells may take, and as much again.
    let grace = run.cells.iter().map(|(_, settings)| settings.limits.grace).max().unwrap_or_default();
    posts.post(&results, &all, &started.interrupt.with_grace(grace * 2)).await;
    if run.output != Output::Json {
        print::text(&results.verdict(exit, style(environment)))?;
    }
    Ok(exit)
}

/// `4 cells of meta-x, 2 in parallel`
fn head(run: &MatrixRun, parallel: usize) -> String {
    let name = run.cells.first().map_or("", |(_, settings)| settings.job.name.as_str());
    let how = match parallel {
        1 => "one after another".to_owned(),
        several => format!("{several} in parallel"),
    };
    format!("{} of {name}, {how}", count(run.cells.len() as u64, "cell"))
}

fn children(
    run: &MatrixRun,
    out: &Path,
    parallel: usize,
    environment: &AgentEnvironment,
) -> Result<Vec<CellChild>> {
    let program = std::env::current_exe()
        .map_err(|error| Error::machine("the path of this program is not known").because(&error))?;
    let (mut variables, secrets) = environment.for_agent();
    variables.retain(|(name, _)| name != STEP_SUMMARY);
    // In CI each job has its own caches, because the machine may run untrusted jobs. The cells belong to one job.
    if environment.ci
        && environment.local_cache.is_none()
        && let Some((_, settings)) = run.cells.first()
        && let Some(top) = settings.paths.work.parent()
    {
        let caches = top.join(format!("{}-cells", settings.job.name));
        variables.push((CACHE_VARIABLE.into(), caches.into()));
    }
    let cwd = current_dir()?;
    let child = |(cell, settings): &(Cell, Settings)| {
        let own = [
            format!("--cell={}", cell.id),
            format!("--pins={}", out.join(CELL_PINS).display()),
            format!("--out={}", cell_out(out, cell).display()),
            format!("--machine-share={parallel}"),
            "--output=plain".to_owned(),
            // The results are posted once.
            "--no-posts".to_owned(),
        ];
        let words = run.words.iter().chain(&own).map(OsString::from);
        CellChild {
            id: cell.id.clone(),
            argv: std::iter::once(program.clone().into()).chain(words).collect(),
            cwd: cwd.clone(),
            environment: variables.clone(),
            secrets: secrets.clone(),
            limit: settings.limits.job,
            grace: settings.limits.grace,
            status: matrix_run::Status::default(),
        }
    };
    Ok(run.cells.iter().map(child).collect())
}

fn parallel_cells(run: &MatrixRun, memory: Option<u64>) -> usize {
    let machine = job::machine_shape();
    let free = cgroup::free_memory(Path::new("/"));
    matrix_run::parallel_cells(
        run.jobs,
        run.cells.len(),
        machine.processors,
        free,
        memory.unwrap_or(MEMORY_PER_CELL),
    )
}

/// The most memory that the machine used while one of the cells ran the last time.
fn last_memory(cells: &[(Cell, Settings)], out: &Path) -> Option<u64> {
    let last = |(cell, _): &(Cell, Settings)| {
        let summary = report::read_result(&cell_out(out, cell).join("result.json")).ok()?;
        summary.machine.iter().map(|at| at.sample.memory_used).max()
    };
    cells.iter().filter_map(last).max().filter(|most| *most > 0)
}

fn console(output: Output, children: &[CellChild], environment: &AgentEnvironment) -> Console {
    let can_draw = std::io::stdout().is_terminal() && !is_dumb(environment);
    let kind = match output {
        Output::Json => ConsoleKind::Json,
        Output::Auto if can_draw => ConsoleKind::Terminal,
        Output::Auto | Output::Plain => ConsoleKind::Lines,
    };
    // Without a reader, the cells still run, and the reports have their results.
    let console = Console::new(kind, style(environment), children, |text| drop(print::raw(text)));
    if kind == ConsoleKind::Terminal {
        diagnostics::print_above(console.screen());
    }
    console
}

/// Prints the warnings about the processes of the cells.
async fn print_warnings(mut receiver: Receiver<Event>, screen: MultiProgress) {
    while let Some(event) = receiver.recv().await {
        if let EventKind::Notice { level: Level::Warning, message, .. } = event.what {
            screen.suspend(|| print::diagnostic(format_args!("warning: {message}")));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::super::arguments::{Arguments, Command};
    use super::*;
    use crate::config::{BaseFiles, BaseTree, Rules};

    #[test]
    fn cells_get_the_commit_of_the_base_branch() {
        let parsed =
            Arguments::try_parse_from(["build-agent", "run", "--keep-going", "--fetch-only"]).unwrap();
        let Command::Run(run) = parsed.command else { panic!("another command") };
        let words = |rules: Rules| {
            let request = Request { base: Some("origin/main".into()), rules, ..Request::default() };
            cell_words("run", None, &request, &run.job, &Selection::default())
        };
        assert_eq!(words(Rules::OfCheckout), ["run", "--base=origin/main", "--keep-going", "--fetch-only"]);
        let tree = BaseTree { commit: "c0ffee".into(), root: "/base".into() };
        let files =
            BaseFiles { checkout: "/src".into(), name: "origin/main".into(), trees: vec![tree], began: None };
        assert_eq!(words(Rules::OfBase(files)), ["run", "--base=c0ffee", "--keep-going", "--fetch-only"]);
    }
}
