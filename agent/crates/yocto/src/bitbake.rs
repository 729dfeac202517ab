//! Follows `bitbake` while it builds: by its own events where they can be had, and by its plain, non-interactive
//! output.

mod failures;
mod patterns;

use std::time::Instant;

use agent_process::LineHandler;
use agent_types::events::{
    EventKind, Phase, Progress, REPORTED_AS_FAILED, Running, Sstate, Task, TaskFinished, Unit,
};
use agent_types::outcome::Outcome;

use super::bitbake_events::{Follower, is_setscene};
use super::bitbake_recipes::RecipeLog;
use super::buildstats::StatsSource;
use failures::Failures;
use patterns::{
    ERRORS, FAILED, FAILED_END, LOGFILE, RUNNING, SETSCENE, SETSCENE_ERROR, SSTATE, STARTED, SUMMARY,
    TESTS_TIMED_OUT,
};

pub use failures::Failure;

/// How many error lines are kept for a build that failed without a failed task, and how much of each.
const ERRORS_KEPT: usize = 60;
const ERROR_BYTES: usize = 4096;

/// How many running tasks are known by name, and how much of each name. BitBake runs at most
/// `BB_NUMBER_THREADS`, but layer code can print that a task has started as often as it likes.
const RUNNING_KEPT: usize = 256;
const NAME_BYTES: usize = 200;

/// The sum at the end: `Tasks Summary: Attempted …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TasksSummary {
    pub attempted: u64,
    pub not_needed: u64,
    /// Zero when it says that all succeeded.
    pub failed: u64,
}

/// Follows a build by its events and line by line.
#[derive(Debug)]
pub struct Build {
    unit: Unit,
    /// Of the events. If there are some, the text does not count for tasks.
    follower: Follower,
    /// Failed tasks by their events.
    event_failures: Failures,
    /// In the order of their starts.
    running: Vec<(String, Instant)>,
    done: u64,
    total: u64,
    /// Whether something of the above has changed since it was last reported.
    changed: bool,
    /// Whether the agent has begun to stop BitBake.
    stopping: bool,
    /// Failed tasks by the text.
    text_failures: Failures,
    /// Shared state that could not be used, so that the task ran instead: a warning, no failure.
    pub setscene_failures: u64,
    /// `ERROR:` lines of tasks that get shared state. If a mirror lacks an object that it announced, BitBake's fetcher prints
    /// them, and BitBake ends with status 1 although all tasks succeeded (`Fetch.download` in bb/fetch2, dunfell to master).
    setscene_errors: u64,
    pub summary: Option<TasksSummary>,
    /// What BitBake says only of a build that failed; a build that passed has none of it.
    pub admits_failure: Option<String>,
    pub sstate: Option<Sstate>,
    /// Whether OE-Core stopped the tests of an image at `TEST_OVERALL_TIMEOUT`.
    pub tests_timed_out: bool,
    /// `ERROR:` lines, the first ones.
    pub errors: Vec<String>,
}

impl Build {
    pub fn new(unit: Unit) -> Build {
        Build {
            follower: Follower::new(&unit, ""),
            event_failures: Failures::default(),
            unit,
            running: Vec::new(),
            done: 0,
            total: 0,
            changed: false,
            stopping: false,
            text_failures: Failures::default(),
            setscene_failures: 0,
            setscene_errors: 0,
            summary: None,
            admits_failure: None,
            sstate: None,
            tests_timed_out: false,
            errors: Vec::new(),
        }
    }

    /// Whether BitBake sends events.
    pub fn has_events(&self) -> bool {
        self.follower.is_heard()
    }

    /// The agent stops BitBake: from now on only success counts, because tasks may fail because of the stop.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// The log of single recipes.
    pub fn recipes(&self) -> &RecipeLog {
        &self.follower.recipes
    }

    /// The value of a variable of the configuration, if BitBake reported it.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.follower.variable(name)
    }

    /// Where the build statistics of this run are, if BitBake reported it.
    pub fn stats_source(&self) -> Option<StatsSource> {
        self.follower.stats_source()
    }

    /// Events of tasks that were lost.
    pub fn dropped_events(&self) -> u64 {
        self.follower.dropped()
    }

    /// The failed tasks, the first ones, and how many there are: by the events if there are some, otherwise by
    /// the text. Layer code can make up events, so they count for nothing when BitBake `ended_well`.
    pub fn failed_tasks(&self, ended_well: bool) -> (&[Failure], u64) {
        let by_text = self.event_failures.list.is_empty() || ended_well;
        let failures = if by_text { &self.text_failures } else { &self.event_failures };
        (&failures.list, failures.total)
    }

    /// Whether all tasks succeeded, and every error is about shared state whose real task ran instead.
    pub fn fails_only_for_shared_state(&self) -> bool {
        let admitted = self.admits_failure.as_deref().unwrap_or_default();
        let errors = ERRORS.captures(admitted).map(|found| number(&found, 1));
        self.summary.is_some_and(|summary| summary.attempted > 0 && summary.failed == 0)
            && self.text_failures.total + self.event_failures.total == 0
            && self.errors.is_empty()
            && self.setscene_failures > 0
            && errors.is_some_and(|errors| errors > 0 && errors <= self.setscene_errors)
    }

    fn note_failure(&mut self, finished: &TaskFinished) {
        let TaskFinished { task, outcome, log } = finished;
        // When a task of shared state fails the real one runs.
        if !outcome.is_success() && !is_setscene(task) {
            let (recipe, task) = (task.recipe.clone(), task.task.clone());
            let id = self.follower.failed_id().map(str::to_owned);
            self.event_failures.push(Failure { recipe, task, log: log.clone(), id });
        }
    }

    fn task(&mut self, recipe: &str, task: &str, state: &str) -> Vec<EventKind> {
        self.changed = true;
        let name = cut(&format!("{recipe}:{task}"), NAME_BYTES).to_owned();
        let known = self.running.iter().position(|(running, _)| *running == name);
        let event = Task::new(self.unit.clone(), cut(recipe, NAME_BYTES), cut(task, NAME_BYTES));
        if state == "Started" {
            if known.is_some() || self.running.len() >= RUNNING_KEPT {
                return Vec::new();
            }
            self.running.push((name, Instant::now()));
            return vec![EventKind::TaskStarted(event.into())];
        }
        if let Some(known) = known {
            self.running.remove(known);
        }
        let outcome = if state == "Succeeded" {
            Outcome::Passed
        } else {
            self.text_failures.task(recipe, task);
            Outcome::Failed(REPORTED_AS_FAILED.into())
        };
        vec![EventKind::TaskFinished(TaskFinished { task: event, outcome, log: None })]
    }
}

impl Build {
    fn line_while_stopping(&mut self, line: &str) -> Vec<EventKind> {
        if line.starts_with("NOTE: ") {
            self.follower.recipes.line(line);
        }
        match STARTED.captures(line) {
            Some(found) if !self.has_events() && &found[3] == "Succeeded" => {
                self.task(&found[1], &found[2], &found[3])
            }
            _ => Vec::new(),
        }
    }
}

impl LineHandler for Build {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        if self.stopping {
            return self.line_while_stopping(line);
        }
        self.follower.recipes.line(line);
        if self.has_events() && (STARTED.is_match(line) || RUNNING.is_match(line)) {
            return Vec::new();
        }
        if let Some(found) = STARTED.captures(line) {
            return self.task(&found[1], &found[2], &found[3]);
        }
        if let Some(found) = RUNNING.captures(line) {
            self.done = number(&found, 1).saturating_sub(1);
            self.total = number(&found, 2);
            self.changed = true;
            return Vec::new();
        }
        if let Some(found) = SSTATE.captures(line) {
            let summary = Sstate {
                wanted: number(&found, 1),
                local: number(&found, 2) + number(&found, 4),
                mirrors: number(&found, 3),
                missed: number(&found, 5),
                current: number(&found, 6),
            };
            self.sstate = Some(summary);
            return vec![EventKind::Sstate { unit: self.unit.clone(), summary }];
        }
        if FAILED_END.is_match(line) {
            self.admits_failure.get_or_insert_with(|| line.trim_end_matches(':').to_owned());
        } else if let Some(found) = SUMMARY.captures(line) {
            let failed = number(&found, 3);
            // There may be several lines; one with failures is enough.
            if failed > 0 {
                self.admits_failure.get_or_insert_with(|| line.to_owned());
            }
            self.summary =
                Some(TasksSummary { attempted: number(&found, 1), not_needed: number(&found, 2), failed });
        } else if let Some(found) = LOGFILE.captures(line) {
            self.text_failures.logfile(&found[1]);
        } else if let Some(found) = FAILED.captures(line) {
            self.text_failures.task_error(&found[1], &found[2]);
        } else if SETSCENE.is_match(line) {
            self.setscene_failures += 1;
        } else if line.starts_with("WARNING: ") && line.contains(TESTS_TIMED_OUT) {
            self.tests_timed_out = true;
        } else if SETSCENE_ERROR.is_match(line) {
            self.setscene_errors += 1;
        } else if line.starts_with("ERROR: ") && self.errors.len() < ERRORS_KEPT {
            self.errors.push(cut(line, ERROR_BYTES).to_owned());
        }
        Vec::new()
    }

    fn event(&mut self, line: &str) -> Vec<EventKind> {
        let event = self.follower.take(line);
        if self.stopping {
            return event.into_iter().filter(is_not_failure).collect();
        }
        if let Some(EventKind::TaskFinished(finished)) = &event {
            self.note_failure(finished);
        }
        event.into_iter().collect()
    }

    fn progress(&mut self) -> Option<EventKind> {
        if self.has_events() {
            return self.follower.progress().map(EventKind::Progress);
        }
        std::mem::take(&mut self.changed).then(|| {
            let running = self
                .running
                .iter()
                .map(|(name, since)| Running { name: name.clone(), seconds: since.elapsed().as_secs() });
            EventKind::Progress(Progress {
                done: self.done,
                total: self.total,
                running: running.collect(),
                ..Progress::new(&self.unit, "", Phase::Tasks)
            })
        })
    }

    fn status(&self) -> Option<String> {
        if self.has_events() {
            return self.follower.status();
        }
        let tasks = self.running.iter().take(4).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        (!tasks.is_empty()).then(|| format!("{tasks} ({} of {} tasks done)", self.done, self.total))
    }
}

fn is_not_failure(event: &EventKind) -> bool {
    !matches!(event, EventKind::TaskFinished(finished) if !finished.outcome.is_success())
}

/// The beginning of the text, at most that many bytes, with whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The group as a number; a group that did not match is zero.
fn number(found: &regex::Captures, group: usize) -> u64 {
    found.get(group).and_then(|digits| digits.as_str().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "bitbake_tests.rs"]
mod tests;
