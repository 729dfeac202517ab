//! BitBake's own events, as `bitbake_events.py` tells them: what BitBake does, and how far it is.
//!
//! Layer code runs in the same processes and can tell whatever it likes. So all of this is for display and for
//! names; the exit status and the console's closing lines make the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use serde::Deserialize;

use agent_types::events::{
    EventKind, Phase, Progress, REPORTED_AS_FAILED, Running, Task, TaskFinished, TaskStarted, Unit,
};
use agent_types::outcome::Outcome;
use agent_types::sanitize::clean;

use super::bitbake_recipes::RecipeLog;
use super::buildstats::StatsSource;

/// How many running tasks are known by name, and how much of each name.
const RUNNING_KEPT: usize = 256;
const NAME_BYTES: usize = 200;

/// Multiconfigs whose build statistics are looked for.
const CONTEXTS_KEPT: usize = 32;

/// A line of the stream.
#[derive(Debug, Deserialize)]
#[serde(tag = "e", rename_all = "kebab-case")]
enum Line {
    /// The console starts, with the stream beside it.
    Hello,
    Cache {
        n: u64,
        of: u64,
    },
    Parse {
        n: u64,
        of: u64,
    },
    Parsed {
        cached: u64,
        parsed: u64,
    },
    Process {
        name: String,
        n: u64,
    },
    Signatures,
    /// BitBake begins to build.
    Build,
    /// Of the configuration.
    Variables {
        values: BTreeMap<String, String>,
    },
    Queue(Queue),
    Task(TaskLine),
    Dropped {
        n: u64,
    },
}

/// Something happened in BitBake's queue of tasks.
#[derive(Debug, Deserialize)]
struct Queue {
    what: What,
    /// `[mc:NAME:]FILE:TASK`
    id: String,
    /// Completed, failed, total.
    tasks: Option<(u64, u64, u64)>,
    /// Done, total.
    scene: Option<(u64, u64)>,
    exit: Option<i64>,
}

/// Told by the process of a task.
#[derive(Debug, Deserialize)]
struct TaskLine {
    what: What,
    id: String,
    /// The recipe's name; with version and revision.
    pn: Option<String>,
    pf: Option<String>,
    task: String,
    mc: Option<String>,
    log: Option<PathBuf>,
    /// See [`TaskStarted`].
    n: Option<u32>,
    after: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Started,
    Completed,
    Succeeded,
    Skipped,
    Failed,
}

/// Whether it takes its result from shared state. When it fails the real task runs.
pub fn is_setscene(task: &Task) -> bool {
    task.task.ends_with("_setscene")
}

/// For people, where there is no stream.
pub const NO_EVENTS: &str = "BitBake's events cannot be read";

/// Why there is no stream, if BitBake was started with one.
pub const NONE_RECEIVED: &str = "it sent none";

/// Follows one BitBake.
#[derive(Debug)]
pub struct Follower {
    progress: Progress,
    running: Vec<RunningTask>,
    heard: bool,
    changed: bool,
    dropped: u64,
    variables: BTreeMap<String, String>,
    /// Of the last task that failed.
    failed: Option<String>,
    /// When the build began.
    build: Option<SystemTime>,
    /// The log of a task of each multiconfig.
    logs: BTreeMap<Option<String>, PathBuf>,
    /// The log of single recipes, from the events and the console.
    pub recipes: RecipeLog,
}

#[derive(Debug)]
struct RunningTask {
    id: String,
    task: Task,
    /// For people.
    label: String,
    since: Instant,
}

impl Follower {
    /// Of a BitBake that works for `unit`; `part` distinguishes it from others that do.
    pub fn new(unit: &Unit, part: &str) -> Follower {
        let progress = Progress::new(unit, part, Phase::Starting);
        Follower {
            progress,
            running: Vec::new(),
            heard: false,
            changed: false,
            dropped: 0,
            variables: BTreeMap::new(),
            failed: None,
            build: None,
            logs: BTreeMap::new(),
            recipes: RecipeLog::default(),
        }
    }

    /// The value of a variable of the configuration, if BitBake reported it.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The identity of the last failed task that [`Follower::take`] returned.
    pub fn failed_id(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether there is a stream of events.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// Where the build statistics of this run are.
    pub fn stats_source(&self) -> Option<StatsSource> {
        let base = self.variable("BUILDSTATS_BASE").map(PathBuf::from);
        Some(StatsSource { began: self.build?, base, logs: self.logs.clone() })
    }

    /// Events of tasks that were lost because the agent did not read them in time.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes a line; a task that started or ended. What makes no sense is ignored.
    pub fn take(&mut self, line: &str) -> Option<EventKind> {
        let line = serde_json::from_str(line).ok()?;
        self.heard = true;
        self.changed = true;
        match line {
            Line::Hello => self.enter(Phase::Starting, 0, 0),
            Line::Cache { n, of } => self.enter(Phase::LoadingCache, n, of),
            Line::Parse { n, of } => self.enter(Phase::Parsing, n, of),
            Line::Parsed { cached, parsed } => {
                let all = cached.saturating_add(parsed);
                self.enter(Phase::Parsing, all, all);
            }
            Line::Process { name, n } => match name.as_str() {
                "Initialising tasks" => self.enter(Phase::Preparing, n, 100),
                "Checking sstate mirror object availability" => self.enter(Phase::CheckingSstate, n, 100),
                _ => {}
            },
            Line::Signatures => self.enter(Phase::WritingSignatures, 0, 0),
            Line::Build => self.build = Some(SystemTime::now()),
            Line::Variables { values } => self.variables = values,
            Line::Queue(queue) => return self.queue(queue),
            Line::Task(task) => return self.task(task),
            Line::Dropped { n } => self.dropped = self.dropped.saturating_add(n),
        }
        None
    }

    fn enter(&mut self, phase: Phase, done: u64, total: u64) {
        let progress = &mut self.progress;
        (progress.phase, progress.done, progress.total) = (phase, done.min(total), total);
    }

    fn queue(&mut self, queue: Queue) -> Option<EventKind> {
        if let Some((completed, failed, total)) = queue.tasks {
            self.enter(Phase::Tasks, completed.saturating_add(failed), total);
            self.progress.failed = failed.min(total);
        } else if let Some((done, total)) = queue.scene
            && self.progress.phase != Phase::Tasks
        {
            self.enter(Phase::SetsceneTasks, done, total);
        }
        if matches!(queue.what, What::Completed | What::Skipped) {
            self.recipes.reached(&queue.id);
        }
        // One that was killed does not tell its end by itself.
        let known = self.running.iter().position(|running| running.id == queue.id)?;
        if queue.what == What::Started {
            return None;
        }
        let task = self.running.remove(known).task;
        self.failed = (queue.what == What::Failed).then_some(queue.id);
        let outcome = match queue.what {
            What::Failed => Outcome::Failed(match queue.exit {
                Some(exit) => format!("exit code {exit}"),
                None => REPORTED_AS_FAILED.into(),
            }),
            _ => Outcome::Passed,
        };
        Some(EventKind::TaskFinished(TaskFinished { task, outcome, log: None }))
    }

    fn task(&mut self, line: TaskLine) -> Option<EventKind> {
        let TaskLine { what, id, pn, pf, task, mc, log, n, after } = line;
        if let Some(pn) = &pn {
            self.recipes.named(&id, &name(pn));
        }
        let pf = pf.or_else(|| pn.clone()).unwrap_or_else(|| "?".into());
        let unit = self.progress.unit.clone();
        let task = Task { mc: mc.map(|mc| name(&mc)), ..Task::new(unit, name(&pf), name(&task)) };
        if let Some(log) = log.as_ref().filter(|_| self.logs.len() < CONTEXTS_KEPT) {
            self.logs.entry(task.mc.clone()).or_insert_with(|| log.clone());
        }
        let known = self.running.iter().position(|running| running.id == id);
        if what == What::Started {
            if known.is_some() || self.running.len() >= RUNNING_KEPT {
                return None;
            }
            let pn = pn.map_or_else(|| task.recipe.clone(), |pn| name(&pn));
            let label = format!("{pn}:{}", task.task);
            self.running.push(RunningTask { id, task: task.clone(), label, since: Instant::now() });
            return Some(EventKind::TaskStarted(TaskStarted { task, number: n, after }));
        }
        if let Some(known) = known {
            self.running.remove(known);
        }
        self.failed = (what == What::Failed).then_some(id);
        let outcome = match what {
            What::Succeeded => Outcome::Passed,
            _ => Outcome::Failed(REPORTED_AS_FAILED.into()),
        };
        Some(EventKind::TaskFinished(TaskFinished { task, outcome, log }))
    }

    /// How far it is, when that has changed since the last time.
    pub fn progress(&mut self) -> Option<Progress> {
        std::mem::take(&mut self.changed)
            .then(|| Progress { running: self.running(), ..self.progress.clone() })
    }

    fn running(&self) -> Vec<Running> {
        let running = self.running.iter().map(|running| Running {
            name: running.label.clone(),
            seconds: running.since.elapsed().as_secs(),
        });
        running.collect()
    }

    /// For a message about a stalled BitBake.
    pub fn status(&self) -> Option<String> {
        let tasks = self.running.iter().take(4).map(|running| running.label.as_str()).collect::<Vec<_>>();
        let Progress { done, total, .. } = self.progress;
        (!tasks.is_empty()).then(|| format!("{} ({done} of {total} tasks done)", tasks.join(", ")))
    }
}

/// A sanitized name of bounded length.
fn name(text: &str) -> String {
    let text = clean(text);
    text[..text.floor_char_boundary(NAME_BYTES)].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "bitbake_events_tests.rs"]
mod tests;
