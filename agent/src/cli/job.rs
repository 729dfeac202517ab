//! `run` and `check`: a job from its settings to its exit status.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, AgentEnvironment, Request, Settings, embedded, remote};
use crate::error::{Error, Result};
use crate::events;
use crate::exec::{Interrupt, Redactor, Runner};
use crate::job::{self, Exclusive, Plan, Selection, Stage};
use crate::outcome::ExitStatus;
use crate::report::{self, EventsFile, Json, Paint, Plain, Sink, Terminal};

use super::arguments::{Check, CommonArgs, JobArgs, ManifestArgs, Output, Run};

pub async fn run(args: Run, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let settings = load(&args.manifest, args.job.keep_going, environment).await?;
    job(settings, &Selection::from(&args.selection), args.job.output, environment).await
}

pub async fn check(args: Check, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let cwd = current_dir()?;
    let request = request(&args.common, args.job.keep_going);
    let layers = if args.layers.is_empty() { vec![".".into()] } else { args.layers.clone() };
    let settings = embedded::for_layers(&layers, args.release.as_deref(), &request, environment, &cwd)?;
    job(settings, &Selection::default(), args.job.output, environment).await
}

/// Reads the manifest, wherever it is, into settings.
pub async fn load(args: &ManifestArgs, keep_going: bool, environment: &AgentEnvironment) -> Result<Settings> {
    let cwd = current_dir()?;
    let mut request = request(&args.common, keep_going);
    match args.manifest.as_deref().filter(|address| address.contains("://")) {
        Some(address) => {
            let fetched = remote::fetch(address, args.manifest_sha256.as_deref()).await?;
            request.manifest_text = Some((address.to_owned(), fetched.text));
        }
        None => request.manifest = args.manifest.clone(),
    }
    config::load(&request, environment, &cwd)
}

fn request(common: &CommonArgs, keep_going: bool) -> Request {
    Request {
        set: common.set.clone(),
        work_dir: common.work_dir.clone(),
        out: common.out.clone(),
        build_user: common.build_user.clone(),
        keep_going,
        ..Request::default()
    }
}

async fn job(
    settings: Settings,
    selection: &Selection,
    output: Output,
    environment: &AgentEnvironment,
) -> Result<ExitStatus> {
    let plan = Plan::new(&settings, selection);
    let _exclusive = Exclusive::take(&settings.places.work)?;
    report::prepare_out(&settings.places.out)?;

    let (emitter, receiver) = events::channel();
    let redactor = Redactor::new(&settings.secrets);
    let interrupt = job::interrupt(&settings);
    listen_for_signals(&interrupt)?;
    let paint = paint(environment);
    let sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(EventsFile::create(&settings.places.out)?), console(output, paint)];
    let recorder = tokio::spawn(report::record(receiver, redactor.clone(), sinks));
    let runner = runner(&settings, emitter, interrupt, redactor);
    job::run(&settings, &plan, &runner).await;
    // The last emitter is gone with the runner; then the recorder has seen everything.
    drop(runner);
    let summary = recorder.await.map_err(|error| Error::internal("the recorder of events broke").because(&error))?;
    report::write_all(&summary, &settings.places.out)?;
    if output != Output::Json {
        print!("{}", report::closing(&summary, &settings.places.out, paint));
    }
    Ok(summary.exit)
}

/// A runner for everything that the settings' job starts.
pub fn runner(settings: &Settings, events: events::Emitter, interrupt: Interrupt, redactor: Redactor) -> Runner {
    Runner {
        stage: Stage::Checkout,
        events,
        interrupt,
        redactor,
        logs: settings.places.logs(),
        stall: settings.limits.stall,
        grace: settings.limits.grace,
        commands: Arc::default(),
    }
}

/// SIGINT, SIGTERM and SIGHUP cancel; a second one means now.
pub fn listen_for_signals(interrupt: &Interrupt) -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals =
            signal(kind).map_err(|error| Error::machine("cannot listen for signals").because(&error))?;
        let interrupt = interrupt.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                interrupt.signal();
            }
        });
    }
    Ok(())
}

fn console(output: Output, paint: Paint) -> Box<dyn Sink> {
    match output {
        Output::Json => Box::new(Json::new(std::io::stdout())),
        Output::Auto if std::io::stdout().is_terminal() => Box::new(Terminal::new(paint)),
        Output::Auto | Output::Plain => Box::new(Plain::new(std::io::stdout(), paint)),
    }
}

/// Colours on a terminal, unless NO_COLOR or a dumb terminal forbid them.
pub fn paint(environment: &AgentEnvironment) -> Paint {
    Paint { colour: std::io::stdout().is_terminal() && environment.colour() }
}

pub fn current_dir() -> Result<std::path::PathBuf> {
    std::env::current_dir()
        .map_err(|error| Error::machine("cannot tell the current directory").because(&error))
        .map(|dir| Path::new(&dir).to_path_buf())
}
