//! Watches a child until it ends or a limit says that it has to.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use agent_types::events::{Emitter, EventKind, Level};

use super::activity::Activity;
use super::blocking::blocking;
use super::processes::Processes;
use super::running::{Group, below, reap};
use super::{Interrupt, Interrupted, Redactor};

/// Lines of the picture of what runs in a child that has gone silent.
const PICTURE: usize = 40;

/// The stop does not wait longer for the picture.
const DRAW: Duration = Duration::from_secs(2);

/// Listeners that take longer than this for a word about a child miss it: the word must not keep
/// the agent from stopping the child.
const TELL: Duration = Duration::from_secs(2);

/// A watch that comes later than this was itself held (Ctrl-Z, a frozen container): it cannot tell
/// what the child printed meanwhile, so the silence starts again.
const HELD: Duration = Duration::from_secs(2);

/// Why the wait for a child is over.
pub(super) enum WaitOutcome {
    Ended(ExitStatus),
    Interrupted(Interrupted),
    /// The command's own limit.
    TimedOut,
    Stalled(Duration),
    /// The operating system cannot tell.
    Lost(std::io::Error),
}

pub(super) struct Watch<'a> {
    pub interrupt: &'a Interrupt,
    pub redactor: &'a Redactor,
    pub events: &'a Emitter,
    /// What the command does, redacted, for people.
    pub name: &'a str,
    pub group: &'a Group,
    pub activity: &'a Activity,
    pub timeout: Option<Duration>,
    pub stall: Duration,
    pub heartbeat: Duration,
}

impl Watch<'_> {
    pub async fn until_over(&self, child: &mut Child) -> WaitOutcome {
        let limit = self.timeout.map(|timeout| Instant::now() + timeout);
        let out_of_time = async {
            match limit {
                Some(limit) => sleep_until(limit).await,
                None => std::future::pending().await,
            }
        };
        let silence = self.watch_silence();
        tokio::select! {
            biased;
            status = child.wait() => status.map_or_else(WaitOutcome::Lost, WaitOutcome::Ended),
            why = self.interrupt.interrupted() => WaitOutcome::Interrupted(why),
            () = out_of_time => WaitOutcome::TimedOut,
            stalled = silence => WaitOutcome::Stalled(stalled),
        }
    }

    /// Tells of silence once each heartbeat; ends when it has lasted for the stall limit, with its whole seconds.
    async fn watch_silence(&self) -> Duration {
        let tick =
            (self.stall.min(self.heartbeat) / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut ticks = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Duration::ZERO;
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            if last.elapsed() > tick + HELD {
                self.activity.clock.touch();
            }
            last = Instant::now();
            reap();
            let silent = self.activity.clock.silent();
            if silent >= self.stall {
                let seconds = Duration::from_secs(silent.as_secs());
                let notice = self.stalled(seconds).await;
                self.tell(notice).await;
                return seconds;
            }
            if silent < told {
                told = Duration::ZERO;
            }
            if silent >= told + self.heartbeat {
                told = silent;
                let running = self.activity.status().unwrap_or_else(|| self.name.to_owned());
                self.tell(EventKind::Heartbeat { silent_seconds: silent.as_secs(), running }).await;
            }
        }
    }

    /// What runs in it now, before it is stopped and nobody can tell any more.
    async fn stalled(&self, silent: Duration) -> EventKind {
        let group = self.group.clone();
        let draw = move || {
            let processes = Processes::now();
            let pids = below(&processes, &group).iter().map(|process| process.pid).collect();
            processes.tree(&pids, PICTURE).join("\n")
        };
        let drawn = timeout(DRAW, blocking(draw)).await;
        let picture = drawn.unwrap_or_else(|_| "/proc gave no answer in time".into());
        let message = format!(
            "`{}` was silent for {} and is stopped; what runs in it (pid, state, age, command):\n{}",
            self.name,
            humantime::format_duration(silent),
            self.redactor.redact(&picture),
        );
        let hint = "state D waits for a disk or a file server; a fetch that hangs waits for its server; \
                    `limits.stall` is the limit";
        EventKind::Notice { level: Level::Warning, message, hint: Some(hint.into()) }
    }

    async fn tell(&self, what: EventKind) {
        let _ = timeout(TELL, self.events.emit(what)).await;
    }
}
