//! One run of BitBake for one machine: a build, or tests of an image.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use agent_process::{ActivityClock, Command, CommandOutcome, LineHandler, Runner, cgroup};
use agent_types::error::Result;
use agent_types::events::{EventKind, Unit};
use agent_yocto::bitbake::Build;
use agent_yocto::bitbake_events::{NO_EVENTS, NONE_RECEIVED};
use agent_yocto::conf_syntax::Variables;
use agent_yocto::parallelism::Parallelism;
use agent_yocto::starter::{Addition, Starter, can_tell_events};

use crate::stages::blocking;
use crate::stages::cleanup::ServerEnd;
use crate::stages::configure::BuildEnvironment;

/// Tasks whose numbers are in one event.
const TASKS_OF_AN_EVENT: usize = 500;

/// The common inputs of all runs for one machine.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub name: &'a str,
    pub settings: &'a Settings,
    pub configured: &'a BuildEnvironment,
    /// The build directory.
    pub dir: &'a Path,
    pub runner: &'a Runner,
}

/// What one run is for.
pub struct Request<'a> {
    pub unit: &'a Unit,
    /// The name of its log.
    pub log: String,
    /// Whether tasks that do not need a failed task still run.
    pub keep_going: bool,
    pub targets: Vec<String>,
    /// A task that runs instead of the targets, for each recipe that they need.
    pub runall: Option<&'static str>,
    /// A file that BitBake reads after all others.
    pub postread: Option<PathBuf>,
    /// `None`: a build, which has the limits of the job.
    pub limits: Option<TestLimits>,
}

/// The limits of a run that tests an image.
#[derive(Clone, Debug)]
pub struct TestLimits {
    pub timeout: Duration,
    /// Time without activity.
    pub stall: Duration,
    /// Also touched by the logs of the tests: BitBake prints nothing until the last test ends.
    pub activity: ActivityClock,
}

/// A run that has ended.
pub struct Ran {
    pub build: Build,
    pub finished: CommandOutcome,
    /// Whether the kernel killed a process for lack of memory meanwhile; `None`: not known.
    pub has_killed: Option<bool>,
}

impl Machine<'_> {
    /// Runs BitBake, and ends its server.
    pub async fn bitbake(&self, request: Request<'_>) -> (Result<Ran>, ServerEnd) {
        let Machine { name, settings, configured, dir, runner } = *self;
        let bitbake = configured.tools.bitbake.join("bin/bitbake");
        let starter = starter(settings, &bitbake);
        let (program, before) = match &starter {
            Ok(starter) => starter.command(&bitbake, &[Addition::Events, Addition::TaskOrder]),
            Err(_) => (bitbake, Vec::new()),
        };
        let mut command = Command::new(program, dir, request.log).args(before);
        let mut no_events = starter.err();
        if no_events.is_none() {
            no_events = command.listen_to_events().err().map(|error| error.to_string());
        }
        if request.keep_going {
            command = command.arg("-k");
        }
        if let Some(task) = request.runall {
            command = command.arg(format!("--runall={task}"));
        }
        if let Some(file) = &request.postread {
            command = command.arg("-R").arg(file);
        }
        command = command.args(&request.targets);
        command.environment = configured.environment(dir);
        command.environment.set("MACHINE", name);
        command.user = configured.user.clone();
        command.status = Some(format!("bitbake {}", request.unit.name));
        match request.limits {
            None => command.finish_running = true,
            Some(TestLimits { timeout, stall, activity }) => {
                command.status = Some(format!("bitbake {}", request.targets.join(" ")));
                command.timeout = Some(timeout);
                command.stall = Some(stall);
                command.activity = activity;
            }
        }

        let kills = || cgroup::memory_kills(Path::new("/"));
        let before = kills();
        let mut lines =
            WhileStopping { build: Build::new(request.unit.clone()), stopping: command.stopping.clone() };
        let ended = runner.run(command, &mut lines).await;
        let server = ServerEnd::stop(dir, configured.user.as_ref(), runner).await;
        let has_killed = before.zip(kills()).map(|(before, after)| after > before);
        let build = lines.build;
        match ended {
            Ok(finished) => {
                self.report_task_usage(request.unit, &build).await;
                self.report_notices(request.unit, &build, no_events).await;
                (Ok(Ran { build, finished, has_killed }), server)
            }
            Err(error) => (Err(error), server),
        }
    }

    /// Reports what the tasks of a run used.
    async fn report_task_usage(&self, unit: &Unit, build: &Build) {
        let Some(source) = build.stats_source() else { return };
        let dir = self.dir.to_owned();
        let read = move || Ok(source.read(&dir));
        let tasks = blocking(&self.runner.interrupt, "the statistics of its tasks were read", read).await;
        for tasks in tasks.unwrap_or_default().chunks(TASKS_OF_AN_EVENT) {
            self.emit(EventKind::TaskUsage { unit: unit.clone(), tasks: tasks.to_vec() }).await;
        }
    }

    /// Reports lost events and unusable shared state of a run. `no_events`: why the run has no events.
    async fn report_notices(&self, unit: &Unit, build: &Build, mut no_events: Option<String>) {
        let events = &self.runner.events;
        if no_events.is_none() && !build.has_events() {
            no_events = Some(NONE_RECEIVED.into());
        }
        if let Some(why) = no_events {
            let message = format!("{}: {NO_EVENTS} ({why}); progress comes from its output", unit.name);
            events.info(message).await;
        }
        if build.dropped_events() > 0 {
            let message =
                format!("{} events of BitBake tasks were lost: they came too fast", build.dropped_events());
            events.warn(message, None).await;
        }
        if build.setscene_failures > 0 {
            let message = format!(
                "{} shared state objects could not be used; their tasks ran instead",
                build.setscene_failures
            );
            events.warn(message, None).await;
        }
    }

    /// Reports if BitBake uses other values than these.
    pub async fn read_back(&self, build: &Build, wanted: Parallelism) {
        let manifest = Variables::parse(&self.settings.config.local_conf);
        for (name, expected) in wanted.expected() {
            let Some(value) = build.variable(name).filter(|value| *value != expected) else { continue };
            let message =
                format!("BitBake uses {name} = \"{value}\", and not \"{expected}\", which fits this machine");
            if manifest.names().any(|set| set == name) {
                self.runner.events.info(format!("{message}: [config] local_conf sets it")).await;
            } else {
                let hint = format!(
                    "a layer or the distro sets {name}; remove it there, or set it in [config] local_conf"
                );
                self.runner.events.warn(message, Some(hint)).await;
            }
        }
    }

    pub async fn emit(&self, event: EventKind) {
        self.runner.events.emit(event).await;
    }
}

/// Lets a build know as soon as the agent stops it.
struct WhileStopping {
    build: Build,
    stopping: CancellationToken,
}

impl WhileStopping {
    fn build(&mut self) -> &mut Build {
        if self.stopping.is_cancelled() {
            self.build.stop();
        }
        &mut self.build
    }
}

impl LineHandler for WhileStopping {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.build().line(line)
    }

    fn event(&mut self, line: &str) -> Vec<EventKind> {
        self.build().event(line)
    }

    fn progress(&mut self) -> Option<EventKind> {
        self.build.progress()
    }

    fn status(&self) -> Option<String> {
        self.build.status()
    }
}

/// The starter script for this BitBake.
///
/// # Errors
/// Why it cannot be used.
fn starter(settings: &Settings, bitbake: &Path) -> std::result::Result<Starter, String> {
    can_tell_events(bitbake)?;
    Starter::write(&settings.paths.work).map_err(|error| error.to_string())
}
