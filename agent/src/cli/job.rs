//! A job from its settings to its exit status.

use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{self, AgentEnvironment, MachineShape, Request, Settings, remote};
use crate::job::{self, DirLock, FlightRecorder, Opening, Plan, Selection};
use crate::report::github_actions::{self, Annotations, JobSummary, StopCommands, Stream};
use crate::report::{
    self, Dimensions, Durations, Json, Metrics, Plain, Recorded, Recording, Report, Reports, Sink,
    StoredReport, Style, Terminal, ThreadedSink,
};
use agent_process::{Interrupt, Interrupted, Redactor, Runner, cgroup};
use agent_types::error::{Class, Error, Result};
use agent_types::events;
use agent_types::outcome::ExitStatus;
use agent_types::stage::Stage;

use super::arguments::{CommonArgs, ManifestArgs, Output, ReleaseArgs, RulesArgs};
use super::current_dir::current_dir;
use super::definition::with_definition;
use super::diagnostics;
use super::github::github_posts;
use super::included_repos::with_included_repos;
use super::limited_reading::limit_reading;
use super::output_dir::OutputDir;
use super::print;
use super::servers::servers;

/// Adds the release of the command line to the request; a `--set` comes later and counts.
pub fn with_release(mut request: Request, args: &ReleaseArgs) -> Request {
    request.set.splice(0..0, args.release.iter().map(|release| format!("release={release}")));
    request
}

/// Adds the source of the rules to the request.
pub fn with_rules_args(request: Request, args: &RulesArgs) -> Request {
    Request { base: args.base.clone(), accept_manifest: args.accept_manifest, ..request }
}

/// The request of the command line, with its release and the source of its rules.
pub async fn request_with_rules(
    manifest: &ManifestArgs,
    release: &ReleaseArgs,
    rules: &RulesArgs,
) -> Result<Request> {
    Ok(with_rules_args(with_release(request(manifest).await?, release), rules))
}

/// What a job has before its settings are known: a signal handler and its output directory.
pub struct StartedJob {
    pub interrupt: Interrupt,
    pub out: OutputDir,
}

impl StartedJob {
    pub fn new(common: &CommonArgs) -> Result<StartedJob> {
        let out = OutputDir::invalidate(super::output_dir::directory(common.out.as_deref())?)?;
        let interrupt = Interrupt::new(None);
        listen_for_signals(&interrupt)?;
        Ok(StartedJob { interrupt, out })
    }
}

/// The error for a signal that came before the job started.
pub fn stopped(_: Interrupted) -> Error {
    Error::new(Class::Cancelled, "cancelled by a signal before anything ran")
}

/// Reads the manifest from its path or URL into settings.
pub async fn load(args: &ManifestArgs, environment: &AgentEnvironment) -> Result<Settings> {
    load_request(&with_definition(request(args).await?, environment).await?, environment).await
}

/// Reads the request's manifest into settings.
pub async fn load_request(request: &Request, environment: &AgentEnvironment) -> Result<Settings> {
    limit_reading(request, environment)?;
    let (here, now) = (current_dir()?, SystemTime::now());
    let load = |request: &Request| config::load(request, environment, &here, now);
    let settings = with_included_repos(request, environment, load).await?;
    print::hide(&settings.secrets);
    Ok(settings)
}

/// The request of the command line; downloads the manifest if it has a URL.
pub async fn request(args: &ManifestArgs) -> Result<Request> {
    let (choice, cell) = (args.choose.clone(), args.cell.clone());
    let mut request = Request { choice, cell, ..with_common(&args.common) };
    match args.manifest.as_deref() {
        Some(address) if remote::is_address(address) => {
            let fetched = remote::fetch(address, args.manifest_sha256.as_deref()).await?;
            request.notices.extend(fetched.notice);
            request.manifest_text = Some((fetched.name, fetched.text));
            request.manifest_sha256 = Some(fetched.sha256);
        }
        local => request.manifest = local.map(str::to_owned),
    }
    if args.manifest_sha256.is_some() && request.manifest_text.is_none() {
        return Err(Error::usage("--manifest-sha256 needs a manifest with an https:// or s3:// URL")
            .hint("remove the flag; the commit pins a manifest in the checkout"));
    }
    Ok(request)
}

/// The request of the options that all commands have.
pub fn with_common(common: &CommonArgs) -> Request {
    Request {
        set: common.set.clone(),
        work_dir: common.work_dir.clone(),
        out: common.out.clone(),
        build_user: common.build_user.clone(),
        trusted: common.trusted,
        ..Request::default()
    }
}

/// Runs the job of these settings, and returns its exit status.
pub async fn job(
    settings: &Settings,
    selection: &Selection,
    mut started: StartedJob,
    output: Output,
    environment: &AgentEnvironment,
) -> Result<ExitStatus> {
    print::hide(&settings.secrets);
    let plan = Plan::new(settings, selection)?;
    let _exclusive = DirLock::work(&settings.paths.work)?;
    let (settings, _caches) = job::claim_caches(settings);
    let settings = &settings;
    let events_file = started.out.begin()?;
    let servers = started.interrupt.or(servers(settings, environment)).await.map_err(stopped)??;

    let (emitter, receiver) = events::channel();
    let redactor = servers.redactor(settings);
    let too_short =
        |origin| format!("the secret from {origin} is too short to redact, so it may appear in the output");
    let mut github = github_posts(settings, environment, servers.access.github_token.as_ref())?;
    let notices = redactor.skipped().into_iter().map(too_short).chain(servers.notice.clone());
    let notices = notices.chain(github.notice.take());
    let notices: Vec<String> = notices.collect();
    let interrupt = started.interrupt.limited(settings.limits.job).with_grace(settings.limits.grace);
    let style = style(environment);
    let last_run = Durations::of_last_run(&settings.paths.work, &settings.job);
    let events_file =
        ThreadedSink::new(Box::new(events_file), interrupt.clone()).with_deadline(report::FILE_DEADLINE);
    let stop_commands =
        environment.github_actions.as_ref().map(|_| StopCommands::new(commands_stream(output)));
    let console = ThreadedSink::new(console(output, environment, last_run), interrupt.clone());
    let over = CancellationToken::new();
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(events_file), Box::new(console)];
    sinks.extend(github.sink);
    let mut reports = reports(settings, environment, stop_commands.as_ref(), output);
    reports.posts.extend(github.reports);
    let recording = Recording {
        redactor: redactor.clone(),
        sinks,
        reports,
        interrupt: interrupt.clone(),
        over: over.clone(),
    };
    let recorder = tokio::spawn(report::record(receiver, recording));
    let runner = runner(settings, emitter, interrupt.clone(), redactor);
    // The panic itself has told where. The reports of what was done until then are made all the same.
    let sources = &environment.credential_sources;
    let opening = Opening { notices, prices: config::job_prices(settings, environment, machine_shape()) };
    let mut flight_recorder =
        FlightRecorder::new(&settings.paths.work, settings.job.id.clone(), &settings.paths.out);
    let run = job::run(settings, opening, &plan, &runner, &servers.access, sources, &mut flight_recorder);
    if AssertUnwindSafe(run).catch_unwind().await.is_err() {
        let error =
            Error::internal("the agent broke").hint("please report it with the text on standard error");
        runner.events.emit(events::EventKind::Error { stage: None, error }).await;
        over.cancel();
        flight_recorder.stop().await;
    }
    // The last emitter is gone with the runner; then the recorder has seen everything, and makes the reports.
    drop(runner);
    let Recorded { summary, exit, lost } =
        recorder.await.map_err(|error| Error::internal("the recorder of events broke").because(&error))?;
    flight_recorder.job_ended();
    // Without them the next run has no estimate, and nothing else.
    let _ = Durations::keep(&settings.paths.work, &summary);
    if output != Output::Json {
        let final_summary = report::final_summary(&summary, &settings.paths.out, style);
        // The verdict is in the reports; a failing console must not change it.
        report::with_output_timeout(&interrupt, move || drop(print::text(&format!("\n{final_summary}"))));
    }
    // The console may have been lost with them.
    for error in lost {
        print::diagnostic(format_args!("error: a report of this job is missing: {error}"));
    }
    Ok(exit)
}

/// The machine, as a list of prices describes it.
pub fn machine_shape() -> MachineShape {
    let root = Path::new("/");
    MachineShape {
        is_arm: cfg!(target_arch = "aarch64"),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        memory: cgroup::memory_use(root).map(|memory| memory.limit),
    }
}

/// The reports of the job: files, metrics, and on GitHub annotations and the job summary.
fn reports(
    settings: &Settings,
    environment: &AgentEnvironment,
    stop_commands: Option<&StopCommands>,
    output: Output,
) -> Reports {
    let mut reports = Reports::files(&settings.paths.out);
    if let Some(stopped) = stop_commands {
        reports.reports.push(Box::new(Annotations { commands: stopped.commands.clone() }));
    }
    if let Some(path) = environment.github_actions.as_ref().and_then(|run| run.step_summary.clone()) {
        reports.reports.push(Box::new(JobSummary { path }));
    }
    if let Some(place) = &settings.report.place
        && let Some(below) = &place.writes
    {
        reports.uploads.push(Box::new(StoredReport {
            out: settings.paths.out.clone(),
            root: place.root.clone(),
            is_share: place.is_share,
            below: below.clone(),
            kms_key_id: place.kms_key_id.clone(),
        }));
    }
    reports.reports.extend(metrics(settings, environment, output));
    reports
}

/// The job's metrics, if they are printed.
pub fn metrics(
    settings: &Settings,
    environment: &AgentEnvironment,
    output: Output,
) -> Option<Box<dyn Report>> {
    if !environment.metrics {
        return None;
    }
    let build = environment.codebuild.as_ref();
    let dimensions = Dimensions {
        project: build.and_then(|build| build.project()).map(str::to_owned),
        layer: build.and_then(|build| build.repository.clone()),
        release: settings.release.name.into(),
        trusted: settings.cache.trust.is_trusted(),
    };
    // CodeBuild keeps both in one log; programs read events from standard output.
    let print = if output == Output::Json { print::text_on_stderr } else { print::text };
    Some(Box::new(Metrics { dimensions, print }))
}

/// The stream for commands to GitHub's runner that does not mix them with JSON.
pub fn commands_stream(output: Output) -> Stream {
    if output == Output::Json { Stream::Stderr } else { Stream::Stdout }
}

/// Reports an error before the job to GitHub, at the line of the manifest if there is one.
pub fn annotate_early_error(error: &Error, output: Output, environment: &AgentEnvironment) {
    let Some(run) = &environment.github_actions else { return };
    let text = print::redactor().redact(&error.to_string()).into_owned();
    let here = current_dir().unwrap_or_default();
    let commands = github_actions::early_error(&text, &config::work_tree(&here), &here);
    let lines = commands.join("\n") + "\n";
    match commands_stream(output) {
        Stream::Stdout => drop(print::raw(&lines)),
        Stream::Stderr => print::raw_to_stderr(&lines),
    }
    if let Some(path) = &run.step_summary {
        github_actions::append_early_error(path, &text);
    }
}

/// A runner for all commands of the job.
pub fn runner(
    settings: &Settings,
    events: events::Emitter,
    interrupt: Interrupt,
    redactor: Redactor,
) -> Runner {
    Runner {
        stage: Stage::Checkout,
        events,
        interrupt,
        redactor,
        logs: settings.paths.logs(),
        stall: settings.limits.stall,
        grace: settings.limits.grace,
        log_limit: settings.limits.log,
        commands: Arc::default(),
    }
}

/// Cancels on SIGINT, SIGTERM and SIGHUP; a second signal forces the stop. `nohup` ignores SIGHUP.
pub fn listen_for_signals(interrupt: &Interrupt) -> Result<()> {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    if !agent_process::is_ignored(Signal::SIGHUP) {
        kinds.push(SignalKind::hangup());
    }
    for kind in kinds {
        let mut signals =
            signal(kind).map_err(|error| Error::machine("cannot listen for signals").because(&error))?;
        let interrupt = interrupt.clone();
        let name = Signal::try_from(kind.as_raw_value()).map_or("a signal", Signal::as_str);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                interrupt.received(name);
            }
        });
    }
    Ok(())
}

fn console(output: Output, environment: &AgentEnvironment, last_run: Durations) -> Box<dyn Sink> {
    let style = style(environment);
    let can_draw = std::io::stdout().is_terminal() && !is_dumb(environment);
    match output {
        Output::Json => Box::new(Json::new(std::io::stdout())),
        Output::Auto if can_draw => {
            let terminal = Terminal::new(style, last_run);
            diagnostics::print_above(terminal.screen());
            Box::new(terminal)
        }
        Output::Auto | Output::Plain => Box::new(Plain::new(std::io::stdout(), style).after(last_run)),
    }
}

/// Uses colours on a terminal, except with NO_COLOR or on a dumb terminal.
pub fn style(environment: &AgentEnvironment) -> Style {
    let colour = std::io::stdout().is_terminal() && !environment.no_color && !is_dumb(environment);
    Style { colour }
}

/// Whether the terminal can only print lines.
pub fn is_dumb(environment: &AgentEnvironment) -> bool {
    environment.term.as_deref().is_none_or(|term| term == "dumb")
}
