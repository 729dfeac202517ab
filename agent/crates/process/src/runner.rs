//! Runs a [`Command`] from start to end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::time::timeout;
use tracing::Instrument;
use tracing::field::Empty;

use agent_types::error::{Error, Result};
use agent_types::events::{Emitter, EventKind};
use agent_types::stage::Stage;

use super::activity::Activity;
use super::event_channel::EventChannel;
use super::exit_reason::ExitReason;
use super::kill_report::KillReport;
use super::lines::Output;
use super::log::{LOG_LIMIT, Log};
use super::processes::Process;
use super::running::{Group, Running};
use super::spawn::{Spawned, spawn};
use super::stop::{Find, Pace, ShutdownTimeouts, end_daemons, end_leftovers, stop_group};
use super::watch::{WaitOutcome, Watch};
use super::{Command, Interrupt, Interrupted, LineHandler, Redactor};

/// A child that is gone.
#[derive(Clone, Debug)]
pub struct CommandOutcome {
    pub end: ExitReason,
    /// Its whole output, absolute.
    pub log: PathBuf,
    /// Bytes of output.
    pub bytes: u64,
    pub elapsed: Duration,
    /// The last lines of output, redacted: for messages when there is nothing better.
    pub tail: Vec<String>,
}

impl CommandOutcome {
    pub fn success(&self) -> bool {
        self.end == ExitReason::Exited(0)
    }
}

/// Runs children for one stage. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runner {
    pub stage: Stage,
    pub events: Emitter,
    pub interrupt: Interrupt,
    pub redactor: Redactor,
    /// Absolute; where the logs go.
    pub logs: PathBuf,
    /// A child that is silent for this long is stopped.
    pub stall: Duration,
    /// Between a polite signal and SIGKILL.
    pub grace: Duration,
    /// The largest log of one command, in bytes.
    pub log_limit: u64,
    /// The number of the last command, shared by all runners of the job.
    pub commands: Arc<AtomicU32>,
}

/// The times that are not settings; no wait is longer than the grace.
#[derive(Clone, Copy)]
struct Times {
    /// A word about silence comes this often.
    heartbeat: Duration,
    /// From the child's exit to the end of its output and of its process group.
    output: Duration,
    /// Then, for daemons to go by themselves. BitBake's server writes its caches when its last
    /// client has gone.
    daemons: Duration,
    /// From SIGTERM to SIGKILL for what the child left behind.
    term_grace: Duration,
}

const TIMES: Times = Times {
    heartbeat: Duration::from_secs(60),
    output: Duration::from_secs(5),
    daemons: Duration::from_secs(10),
    term_grace: Duration::from_secs(5),
};

impl Runner {
    /// The grace, or what is left of it for a job that has to stop.
    pub fn grace_left(&self) -> Duration {
        self.interrupt.grace_left(self.grace)
    }

    /// The same for another stage.
    pub fn for_stage(&self, stage: Stage) -> Runner {
        Runner { stage, ..self.clone() }
    }

    /// A log as reports name it: relative to the output directory.
    pub fn relative_log(&self, log: &Path) -> PathBuf {
        let out = self.logs.parent().unwrap_or(&self.logs);
        log.strip_prefix(out).unwrap_or(log).to_path_buf()
    }

    /// Keeps a text beside the logs, redacted; gives its path relative to the output directory.
    pub fn keep_text(&self, name: &str, text: &str) -> Result<PathBuf> {
        let mut log = Log::create(&self.logs, name, LOG_LIMIT)?;
        log.write(&self.redactor.redact(text));
        match log.take_trouble() {
            Some(trouble) => Err(agent_types::error::Error::machine(trouble)),
            None => Ok(self.relative_log(&log.path)),
        }
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// When it could not be started, its log not written, or its group not ended.
    pub async fn run(&self, command: Command, lines: &mut dyn LineHandler) -> Result<CommandOutcome> {
        self.run_with(command, lines, TIMES).await
    }

    async fn run_with(
        &self,
        command: Command,
        lines: &mut dyn LineHandler,
        times: Times,
    ) -> Result<CommandOutcome> {
        let argv: Vec<String> = command
            .argv
            .iter()
            .map(|arg| self.redactor.redact(&arg.to_string_lossy()).into_owned())
            .collect();
        let number = self.commands.fetch_add(1, Ordering::Relaxed) + 1;
        let log = Log::create(&self.logs, &command.log, self.log_limit)?;
        if let Some(why) = self.interrupt.state() {
            return Ok(self.not_started(number, argv, log, why).await);
        }
        let span = tracing::info_span!(
            "command", number, ?argv, cwd = %command.cwd.display(), log = %log.path.display(),
            user = command.user.as_ref().map(|user| &*user.name), pid = Empty, exit = Empty, bytes = Empty
        );
        let started = Instant::now();
        let spawned = spawn(&command, number).inspect_err(|error| {
            span.record("exit", tracing::field::display(error));
            // Nothing will ever be in it; that it stays behind would do no harm.
            let _ = agent_fs::remove::remove_file(&log.path, &self.logs);
        })?;
        span.record("pid", spawned.running.group.number);
        self.started(number, &argv, &log).await;
        let mut output = Output::new(log, &self.redactor);
        output.tell_trouble(&self.events).await;
        let name = self.redactor.redact(&command.name(&argv)).into_owned();
        let job = Job { runner: self, name, command: &command, times };
        let ended = job.supervise(spawned, &mut output, lines).instrument(span.clone()).await;
        output.finish(lines, &self.events).await;
        let (word, at) = match &ended {
            Ok((end, at)) => (end.to_string(), *at),
            Err(_) => ("lost".into(), Instant::now()),
        };
        let elapsed = at.duration_since(started);
        span.record("exit", &*word).record("bytes", output.bytes);
        self.finished(number, word, elapsed, &output).await;
        let (end, _) = ended?;
        Ok(CommandOutcome {
            end,
            log: output.log.path,
            bytes: output.bytes,
            elapsed,
            tail: output.tail.into_lines(),
        })
    }

    async fn started(&self, command: u32, argv: &[String], log: &Log) {
        let base = self.logs.parent().unwrap_or(&self.logs);
        let log = log.path.strip_prefix(base).unwrap_or(&log.path).to_owned();
        self.events
            .emit(EventKind::CommandStarted { stage: self.stage, command, argv: argv.to_vec(), log })
            .await;
    }

    async fn finished(&self, command: u32, end: String, elapsed: Duration, output: &Output) {
        if output.log.lost > 0 {
            let path = output.log.path.display();
            self.events.info(format!("{} bytes of output are missing in {path}", output.log.lost)).await;
        }
        if output.log.cut > 0 {
            let (path, cut) = (output.log.path.display(), output.log.cut);
            let message = format!("{path} is longer than its limit: {cut} bytes in its middle were cut out");
            self.events.warn(message, Some("`[limits] log` is the limit".into())).await;
        }
        let seconds = elapsed.as_secs_f64();
        self.events.emit(EventKind::CommandFinished { command, end, seconds, bytes: output.bytes }).await;
    }

    /// The job has to stop already, so the command has no beginning.
    async fn not_started(
        &self,
        number: u32,
        argv: Vec<String>,
        log: Log,
        why: Interrupted,
    ) -> CommandOutcome {
        let end = match why {
            Interrupted::Cancelled => ExitReason::Cancelled,
            Interrupted::OutOfTime => ExitReason::TimedOut,
        };
        self.started(number, &argv, &log).await;
        let output = Output::new(log, &self.redactor);
        self.finished(number, format!("{end} before it was started"), Duration::ZERO, &output).await;
        CommandOutcome { end, log: output.log.path, bytes: 0, elapsed: Duration::ZERO, tail: Vec::new() }
    }
}

/// One command on its way.
struct Job<'a> {
    runner: &'a Runner,
    /// Redacted.
    name: String,
    command: &'a Command,
    times: Times,
}

impl Job<'_> {
    /// From the start to the end of all that the child left behind; says how and when the child
    /// itself ended.
    async fn supervise(
        &self,
        spawned: Spawned,
        output: &mut Output,
        lines: &mut dyn LineHandler,
    ) -> Result<(ExitReason, Instant)> {
        let Spawned { mut child, running, output: from, pipe } = spawned;
        // Its time begins now.
        self.command.activity.touch();
        let activity = Activity::new(self.command.activity.clone());
        activity.set_status(lines.status());
        let channel = EventChannel::of(self.command);
        let pump = pin!(output.pump(from, channel, lines, &self.runner.events, &activity));
        let mut reading = Reading::new(pump);
        let watch = Watch {
            interrupt: &self.runner.interrupt,
            redactor: &self.runner.redactor,
            events: &self.runner.events,
            name: &self.name,
            group: &running.group,
            activity: &activity,
            timeout: self.command.timeout,
            stall: self.command.stall.unwrap_or(self.runner.stall),
            heartbeat: self.times.heartbeat,
        };
        let over = reading.beside(watch.until_over(&mut child)).await;
        let (end, stopped) = match over {
            WaitOutcome::Ended(status) => (reading.beside(self.own_end(status)).await, false),
            WaitOutcome::Interrupted(Interrupted::Cancelled) => (ExitReason::Cancelled, true),
            WaitOutcome::Interrupted(Interrupted::OutOfTime) | WaitOutcome::TimedOut => {
                (ExitReason::TimedOut, true)
            }
            WaitOutcome::Stalled(silent) => (ExitReason::Stalled(silent), true),
            WaitOutcome::Lost(error) => {
                return Err(Error::internal(format!("lost sight of `{}`", self.name)).because(&error));
            }
        };
        if stopped {
            self.command.stopping.cancel();
            let grace = self.grace();
            let stop = stop_group(&mut child, &running.group, grace, self.pace(), &self.runner.interrupt);
            reading.beside(stop).await?;
        }
        let at = Instant::now();
        self.end_family(&running.group, &mut reading, pipe, stopped).await;
        running.leave();
        self.end_daemons(&mut reading, stopped).await;
        if !reading.end(self.times.output.min(self.runner.grace_left()), &activity).await {
            let message =
                format!("something that the agent cannot see holds the output of `{}` open", self.name);
            self.runner.events.warn(message, Some("what it prints from now on is not read".into())).await;
        }
        Ok((end, at))
    }

    /// The group, those with its marker, and those that hold its output open.
    async fn end_family(&self, group: &Group, reading: &mut Reading<'_>, pipe: PathBuf, stopped: bool) {
        let is_read = reading.is_over.clone();
        let seen_holding = Arc::new(Mutex::new(BTreeSet::new()));
        let (group, seen) = (group.clone(), seen_holding.clone());
        let find: Find = Arc::new(move |processes| {
            let mut family = group.family(processes);
            if !is_read.load(Ordering::Relaxed) {
                let holders = Running::holders(processes, &pipe);
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(holders.iter().map(|holder| holder.pid));
                let strangers: Vec<Process> =
                    holders.into_iter().filter(|holder| !family.contains(holder)).collect();
                family.extend(strangers);
            }
            family
        });
        let timeouts = self.shutdown_timeouts(self.times.output, stopped);
        let ended = reading.beside(end_leftovers(find, timeouts, &self.runner.interrupt)).await;
        let seen = seen_holding.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let held = ended.processes.iter().any(|process| seen.contains(&process.pid));
        let what = if held { "holding its output open" } else { "running" };
        self.tell(ended, what).await;
    }

    async fn end_daemons(&self, reading: &mut Reading<'_>, stopped: bool) {
        let timeouts = self.shutdown_timeouts(self.times.daemons, stopped);
        let ended = reading.beside(end_daemons(timeouts, &self.runner.interrupt)).await;
        self.tell(ended, "running as a daemon").await;
    }

    /// How a child ended that the agent did not stop. A signal to a whole container or session reaches the
    /// child as well, and it may be gone before the agent has noticed: that is a cancelled job, not a failure.
    async fn own_end(&self, status: ExitStatus) -> ExitReason {
        let end = ExitReason::from(status);
        let signals = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].map(|signal| signal as i32);
        let interrupt = &self.runner.interrupt;
        if matches!(end, ExitReason::Signalled(signal) if signals.contains(&signal)) {
            let _ = timeout(SAME_SIGNAL, interrupt.interrupted()).await;
        }
        match interrupt.state() {
            Some(Interrupted::Cancelled) if !status.success() => ExitReason::Cancelled,
            _ => end,
        }
    }

    /// From the first signal to SIGKILL. When the whole job stops, a part of the time is left for what comes
    /// after: the daemons, BitBake's server, and saving what is done.
    fn grace(&self) -> Duration {
        let left = match self.runner.interrupt.state() {
            Some(_) => self.runner.grace_left() * 3 / 4,
            None => self.runner.grace,
        };
        self.command.grace.map_or(left, |own| own.min(left))
    }

    fn pace(&self) -> Pace {
        let out_of_time = self.runner.interrupt.state() == Some(Interrupted::OutOfTime);
        match self.command.finish_running && out_of_time {
            true => Pace::FinishRunning,
            false if self.command.is_agent => Pace::Agent,
            false => Pace::Even,
        }
    }

    /// What was told to stop has had its time.
    fn shutdown_timeouts(&self, wait: Duration, stopped: bool) -> ShutdownTimeouts {
        let wait = if stopped { wait / 4 } else { wait };
        let grace = self.runner.grace_left();
        ShutdownTimeouts { grace: wait.min(grace), term_grace: self.times.term_grace.min(grace) }
    }

    async fn tell(&self, ended: KillReport, what: &str) {
        let labels = |processes: &[Process]| {
            let labels: Vec<String> = processes.iter().map(Process::label).collect();
            self.runner.redactor.redact(&labels.join(", ")).into_owned()
        };
        if !ended.processes.is_empty() {
            let message = format!("`{}` left {} {what}; ended", self.name, labels(&ended.processes));
            self.runner.events.warn(message, None).await;
        }
        if ended.outlived {
            let message = format!(
                "`{}` left processes that fork faster than they can be ended{}",
                self.name,
                if ended.still_there.is_empty() {
                    String::new()
                } else {
                    format!(", among them {}", labels(&ended.still_there))
                }
            );
            let hint = "they may write where the next jobs work: restart this machine or container";
            self.runner.events.warn(message, Some(hint.into())).await;
        } else if ended.kept_forking && ended.processes.is_empty() {
            let message = format!("`{}` left processes that kept forking; ended", self.name);
            self.runner.events.warn(message, None).await;
        } else if !ended.still_there.is_empty() {
            let message = format!("cannot end {}, left by `{}`", labels(&ended.still_there), self.name);
            let hint = "they belong to another user, or wait for a disk or a file server";
            self.runner.events.warn(message, Some(hint.into())).await;
        }
    }
}

/// A signal that ended a child reaches the agent within this time when it was for both.
const SAME_SIGNAL: Duration = Duration::from_millis(250);

/// Reading the output goes on beside all else.
struct Reading<'a> {
    pump: Pin<&'a mut (dyn Future<Output = std::io::Result<()>> + Send + 'a)>,
    is_over: Arc<AtomicBool>,
}

impl<'a> Reading<'a> {
    fn new(pump: Pin<&'a mut (dyn Future<Output = std::io::Result<()>> + Send + 'a)>) -> Reading<'a> {
        Reading { pump, is_over: Arc::default() }
    }

    /// Does the work, and reads meanwhile.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if !self.is_over.load(Ordering::Relaxed) {
            tokio::select! {
                biased;
                done = &mut work => return done,
                // An error of a pipe is its end, too.
                _ = self.pump.as_mut() => self.is_over.store(true, Ordering::Relaxed),
            }
        }
        work.await
    }

    /// Reads what is left, for as long as something comes. `false` when it has no end.
    async fn end(&mut self, wait: Duration, activity: &Activity) -> bool {
        for _ in 0..ROUNDS {
            if self.is_over.load(Ordering::Relaxed) || timeout(wait, self.pump.as_mut()).await.is_ok() {
                return true;
            }
            if activity.clock.silent() >= wait {
                return false;
            }
        }
        false
    }
}

/// How long to wait for listeners that are behind, in waits for the end of output.
const ROUNDS: u32 = 12;

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "forker_tests.rs"]
mod forker_tests;
