//! Follows `bitbake` while it builds: by its own events where they can be had, and by its plain, non-interactive
//! output.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Instant;

use regex::Regex;

use agent_process::LineHandler;
use agent_types::events::{
    EventKind, Phase, Progress, REPORTED_AS_FAILED, Running, Sstate, Task, TaskFinished, Unit,
};
use agent_types::outcome::Outcome;

use super::bitbake_events::{Follower, is_setscene};
use super::bitbake_recipes::RecipeLog;

/// How many failed tasks are kept; more are counted only.
const FAILURES_KEPT: usize = 50;
/// How many error lines are kept for a build that failed without a failed task, and how much of each.
const ERRORS_KEPT: usize = 60;
const ERROR_BYTES: usize = 4096;

/// How many running tasks are known by name, and how much of each name. BitBake runs at most
/// `BB_NUMBER_THREADS`, but layer code can print that a task has started as often as it likes.
const RUNNING_KEPT: usize = 256;
const NAME_BYTES: usize = 200;

/// A task that failed, as BitBake tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// `zlib-1.3.1-r0`, or the recipe's file where BitBake does not say more.
    pub recipe: String,
    /// `do_compile`.
    pub task: String,
    /// `Logfile of failure stored in`. Layer code may have written this line: not to be trusted.
    pub log: Option<PathBuf>,
    /// `[mc:NAME:]FILE:TASK`, if BitBake prints it.
    pub id: Option<String>,
}

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
    /// Of the events. While there are some, the text tells nothing of tasks.
    follower: Follower,
    /// Failed tasks by their events, the first ones.
    told_failures: Vec<Failure>,
    told_failures_total: u64,
    /// In the order of their starts.
    running: Vec<(String, Instant)>,
    done: u64,
    total: u64,
    /// Something of the above has changed since it was last told.
    changed: bool,
    /// Whether the agent has begun to stop BitBake.
    stopping: bool,
    /// Failed tasks by the text.
    pub failures: Vec<Failure>,
    pub failures_total: u64,
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

/// What `testimage.bbclass` warns of at the end of `TEST_OVERALL_TIMEOUT`.
const TESTS_TIMED_OUT: &str = "Global test timeout reached";

static STARTED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^NOTE: recipe (\S+): task (do_\w+|\w+): (Started|Succeeded|Failed)$"));
static RUNNING: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^NOTE: Running (?:setscene )?task (\d+) of (\d+) \("));
static LOGFILE: LazyLock<Regex> = LazyLock::new(|| regex(r"^ERROR: Logfile of failure stored in: (/.*)$"));
static FAILED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^ERROR: Task (?:\d+ )?\((.*\.bb):(do_\w+)\) failed with exit code"));
static SETSCENE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^WARNING: (?:Logfile .*)?Setscene task (?:\d+ )?\(.*\) failed with exit code"));
static SETSCENE_ERROR: LazyLock<Regex> = LazyLock::new(|| regex(r"^ERROR: \S+ do_\w+_setscene: "));
static ERRORS: LazyLock<Regex> = LazyLock::new(|| regex(r"^Summary: There (?:was|were) (\d+) ERROR message"));
/// `meta/classes/sstate.bbclass` of OE-Core: `Found` up to gatesgarth, `Network` in hardknott and honister, `Mirrors` later.
static SSTATE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"Sstate summary: Wanted (\d+) (?:Local (\d+) (?:Mirrors|Network) (\d+)|Found (\d+)) Missed (\d+) Current (\d+)",
    )
});
static SUMMARY: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^NOTE: Tasks Summary: Attempted (\d+) tasks of which (\d+) didn't need to be rerun and (?:(\d+) failed|all succeeded)\.$",
    )
});
/// The closing lines of `lib/bb/ui/knotty.py`, dunfell to master.
static FAILED_END: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^(?:Summary: There (?:was|were) \d+ ERROR messages?(?: shown)?, returning a non-zero exit code\.|Summary: \d+ tasks? failed:?|Execution was interrupted, returning a non-zero exit code\.)$",
    )
});

#[allow(
    clippy::expect_used,
    reason = "the patterns are constants of this file, and the tests use each of them"
)]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

impl Build {
    pub fn new(unit: Unit) -> Build {
        Build {
            follower: Follower::new(&unit, ""),
            told_failures: Vec::new(),
            told_failures_total: 0,
            unit,
            running: Vec::new(),
            done: 0,
            total: 0,
            changed: false,
            stopping: false,
            failures: Vec::new(),
            failures_total: 0,
            setscene_failures: 0,
            setscene_errors: 0,
            summary: None,
            admits_failure: None,
            sstate: None,
            tests_timed_out: false,
            errors: Vec::new(),
        }
    }

    /// Whether BitBake told its events.
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

    /// Events of tasks that were lost.
    pub fn dropped_events(&self) -> u64 {
        self.follower.dropped()
    }

    /// The failed tasks, the first ones, and how many there are: by the events if they tell of some, otherwise
    /// by the text. Layer code can make up events, so they count for nothing when BitBake `ended_well`.
    pub fn failed_tasks(&self, ended_well: bool) -> (&[Failure], u64) {
        if self.told_failures.is_empty() || ended_well {
            (&self.failures, self.failures_total)
        } else {
            (&self.told_failures, self.told_failures_total)
        }
    }

    /// Whether all tasks succeeded, and every error is about shared state whose real task ran instead.
    pub fn fails_only_for_shared_state(&self) -> bool {
        let admitted = self.admits_failure.as_deref().unwrap_or_default();
        let errors = ERRORS.captures(admitted).map(|found| number(&found, 1));
        self.summary.is_some_and(|summary| summary.attempted > 0 && summary.failed == 0)
            && self.failures_total + self.told_failures_total == 0
            && self.errors.is_empty()
            && self.setscene_failures > 0
            && errors.is_some_and(|errors| errors > 0 && errors <= self.setscene_errors)
    }

    fn note_failure(&mut self, finished: &TaskFinished) {
        let TaskFinished { task, outcome, log } = finished;
        // When a task of shared state fails the real one runs.
        if !outcome.is_success() && !is_setscene(task) {
            self.told_failures_total += 1;
            if self.told_failures.len() < FAILURES_KEPT {
                let (recipe, task) = (task.recipe.clone(), task.task.clone());
                let id = self.follower.failed_id().map(str::to_owned);
                self.told_failures.push(Failure { recipe, task, log: log.clone(), id });
            }
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
            return vec![EventKind::TaskStarted(event)];
        }
        if let Some(known) = known {
            self.running.remove(known);
        }
        let outcome = if state == "Succeeded" {
            Outcome::Passed
        } else {
            self.failure(recipe, task);
            Outcome::Failed(REPORTED_AS_FAILED.into())
        };
        vec![EventKind::TaskFinished(TaskFinished { task: event, outcome, log: None })]
    }

    /// BitBake tells of a failed task up to three times, each time with another part of the story.
    fn failure(&mut self, recipe: &str, task: &str) {
        if let Some(open) = self.failures.last_mut().filter(|last| last.recipe.is_empty()) {
            open.recipe = recipe.into();
            open.task = task.into();
            return;
        }
        self.failures_total += 1;
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(Failure { recipe: recipe.into(), task: task.into(), ..Failure::default() });
        }
    }

    fn logfile(&mut self, log: &str) {
        // The name comes with a later line.
        self.failures_total += 1;
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(Failure { log: Some(log.into()), ..Failure::default() });
        }
    }

    /// `ERROR: Task (…/zlib_1.3.1.bb:do_compile) failed …`, after the lines above or alone.
    fn task_error(&mut self, file: &str, task: &str) {
        let recipe = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".bb");
        let name = recipe.split('_').next().unwrap_or(recipe);
        let known = |failure: &Failure| {
            failure.recipe.is_empty() || (failure.task == task && failure.recipe.contains(name))
        };
        if !self.failures.iter().any(known) {
            self.failure(recipe, task);
        }
        let Some(index) = self.failures.iter().position(known) else { return };
        let failure = &mut self.failures[index];
        if failure.recipe.is_empty() {
            failure.recipe = recipe.into();
            failure.task = task.into();
        }
        failure.id.get_or_insert_with(|| format!("{file}:{task}"));
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
            // Should there be several, none of them may tell of a failure.
            if failed > 0 {
                self.admits_failure.get_or_insert_with(|| line.to_owned());
            }
            self.summary =
                Some(TasksSummary { attempted: number(&found, 1), not_needed: number(&found, 2), failed });
        } else if let Some(found) = LOGFILE.captures(line) {
            self.logfile(&found[1]);
        } else if let Some(found) = FAILED.captures(line) {
            self.task_error(&found[1], &found[2]);
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
        let told = self.follower.take(line);
        if self.stopping {
            return told.into_iter().filter(is_not_failure).collect();
        }
        if let Some(EventKind::TaskFinished(finished)) = &told {
            self.note_failure(finished);
        }
        told.into_iter().collect()
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

/// The group as a number; a group that did not take part is zero.
fn number(found: &regex::Captures, group: usize) -> u64 {
    found.get(group).and_then(|digits| digits.as_str().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::bitbake_recipes::Recipe;
    use agent_types::stage::Stage;

    fn follow(text: &str) -> (Build, Vec<EventKind>) {
        let mut build = Build::new(Unit::new(Stage::Build, "x"));
        let events = text.lines().flat_map(|line| build.line(line)).collect();
        (build, events)
    }

    #[test]
    fn a_failed_task_is_told_once_with_its_log() {
        let (build, events) = follow(
            "NOTE: recipe hello-1.0-r0: task do_compile: Started\n\
             ERROR: hello-1.0-r0 do_compile: Execution of 'run.do_compile' failed with exit code 1\n\
             ERROR: Logfile of failure stored in: /w/build/tmp/work/hello/1.0/temp/log.do_compile.7\n\
             NOTE: recipe hello-1.0-r0: task do_compile: Failed\n\
             ERROR: Task (/w/meta-x/recipes/hello/hello_1.0.bb:do_compile) failed with exit code '1'\n\
             NOTE: Tasks Summary: Attempted 12 tasks of which 3 didn't need to be rerun and 1 failed.\n",
        );
        assert_eq!(
            build.failures,
            [Failure {
                recipe: "hello-1.0-r0".into(),
                task: "do_compile".into(),
                log: Some("/w/build/tmp/work/hello/1.0/temp/log.do_compile.7".into()),
                id: Some("/w/meta-x/recipes/hello/hello_1.0.bb:do_compile".into()),
            }]
        );
        assert_eq!(build.failures_total, 1);
        assert_eq!(build.summary, Some(TasksSummary { attempted: 12, not_needed: 3, failed: 1 }));
        let task = Task::new(Unit::new(Stage::Build, "x"), "hello-1.0-r0", "do_compile");
        let outcome = Outcome::Failed(REPORTED_AS_FAILED.into());
        let end = TaskFinished { task: task.clone(), outcome, log: None };
        assert_eq!(events, [EventKind::TaskStarted(task), EventKind::TaskFinished(end)]);
    }

    #[test]
    fn a_failure_is_known_from_the_last_line_alone() {
        let (build, _) = follow("ERROR: Task (/m/hello_1.0.bb:do_fetch) failed with exit code '1'\n");
        assert_eq!(build.failures.len(), 1);
        assert_eq!(build.failures[0].recipe, "hello_1.0");
    }

    #[test]
    fn the_sstate_line_of_every_release_is_understood() {
        let table = [
            ("Found 7", "dunfell, gatesgarth", 7, 0),
            ("Local 4 Network 3", "hardknott, honister", 4, 3),
            ("Local 4 Mirrors 3", "kirkstone to master", 4, 3),
        ];
        for (found, releases, local, mirrors) in table {
            let wanted = Sstate { wanted: 10, local, mirrors, missed: 3, current: 2 };
            for before in ["", "Initialising tasks..."] {
                let line = format!(
                    "{before}Sstate summary: Wanted 10 {found} Missed 3 Current 2 (70% match, 75% complete)"
                );
                let (_, events) = follow(&line);
                assert!(
                    matches!(&events[..], [EventKind::Sstate { summary, .. }] if *summary == wanted),
                    "{releases}: {events:?}"
                );
            }
        }
    }

    #[test]
    fn progress_names_what_runs() {
        let (mut build, _) = follow(
            "NOTE: Running task 5 of 9 (/m/a_1.bb:do_compile)\n\
             NOTE: recipe a-1-r0: task do_compile: Started\n\
             NOTE: recipe b-1-r0: task do_fetch: Started\n\
             NOTE: recipe a-1-r0: task do_compile: Succeeded\n",
        );
        let Some(EventKind::Progress(progress)) = build.progress() else { panic!() };
        let running = [Running { name: "b-1-r0:do_fetch".into(), seconds: 0 }];
        assert_eq!((progress.done, progress.total, &progress.running[..]), (4, 9, &running[..]));
        assert_eq!(build.progress(), None, "nothing has changed since");
    }

    /// The same failure in both: the console prints text for what the events tell.
    #[test]
    fn events_replace_what_the_text_says_of_tasks() {
        let task = |what: &str, more: &str| {
            let name = r#""pn":"hello","pf":"hello-1.0-r0","task":"do_compile""#;
            format!(r#"{{"e":"task","what":"{what}","id":"/m/hello_1.0.bb:do_compile",{name}{more}}}"#)
        };
        let mut build = Build::new(Unit::new(Stage::Build, "x"));
        assert_eq!((build.event(r#"{"e":"hello"}"#), build.has_events()), (vec![], true));
        assert!(matches!(&build.event(&task("started", ""))[..], [EventKind::TaskStarted(_)]));
        assert_eq!(build.line("NOTE: recipe hello-1.0-r0: task do_compile: Started"), []);
        assert_eq!(build.line("NOTE: Running task 5 of 9 (/m/hello_1.0.bb:do_compile)"), []);
        build.event(r#"{"e":"queue","what":"started","id":"/m/hello_1.0.bb:do_compile","tasks":[3,0,9]}"#);
        let Some(EventKind::Progress(progress)) = build.progress() else { panic!() };
        assert_eq!((progress.done, progress.total, &*progress.running[0].name), (3, 9, "hello:do_compile"));
        let events = build.event(&task("failed", r#","log":"/w/log.do_compile.7""#));
        let [EventKind::TaskFinished(TaskFinished { outcome: Outcome::Failed(_), .. })] = &events[..] else {
            panic!("{events:?}")
        };
        let text = "ERROR: Logfile of failure stored in: /w/log.do_compile.7\n\
            NOTE: recipe hello-1.0-r0: task do_compile: Failed\n\
            ERROR: Task (/m/hello_1.0.bb:do_compile) failed with exit code '1'";
        assert!(text.lines().all(|line| build.line(line).is_empty()));
        let failure = Failure {
            recipe: "hello-1.0-r0".into(),
            task: "do_compile".into(),
            log: Some("/w/log.do_compile.7".into()),
            id: Some("/m/hello_1.0.bb:do_compile".into()),
        };
        assert_eq!(build.failed_tasks(false), (&[failure][..], 1));
        // A setscene task that fails is no failure.
        let mut build = Build::new(Unit::new(Stage::Build, "x"));
        build.event(&task("failed", "").replace("do_compile", "do_deploy_setscene"));
        assert_eq!(build.failed_tasks(false).1, 0);
    }

    /// Tasks that succeed while BitBake is stopped count; the others fail because of the stop.
    #[test]
    fn only_success_counts_while_bitbake_is_stopped() {
        let task = |what: &str, name: &str| {
            format!(
                r#"{{"e":"task","what":"{what}","id":"/m/{name}_1.bb:do_build","pn":"{name}","pf":"{name}-1-r0","task":"do_build","mc":null}}"#
            )
        };
        for has_events in [true, false] {
            let mut build = Build::new(Unit::new(Stage::Build, "x"));
            for name in ["a", "b"] {
                if has_events {
                    build.event(&task("started", name));
                }
                build.line(&format!("NOTE: recipe {name}-1-r0: task do_build: Started"));
            }
            build.stop();
            let mut told = Vec::new();
            for (name, what, word) in [("a", "succeeded", "Succeeded"), ("b", "failed", "Failed")] {
                if has_events {
                    told.extend(build.event(&task(what, name)));
                }
                told.extend(build.line(&format!("NOTE: recipe {name}-1-r0: task do_build: {word}")));
            }
            let text = "ERROR: Task (/m/b_1.bb:do_build) failed with exit code '1'\n\
                NOTE: Running noexec task 2 of 3 (/m/c_1.bb:do_build)\n\
                Execution was interrupted, returning a non-zero exit code.";
            told.extend(text.lines().flat_map(|line| build.line(line)));
            let [EventKind::TaskFinished(TaskFinished { task, outcome: Outcome::Passed, .. })] = &told[..]
            else {
                panic!("{has_events}: {told:?}")
            };
            assert_eq!(task.recipe, "a-1-r0");
            assert_eq!((build.failed_tasks(false).1, build.recipes().all_failures().count()), (0, 0));
            assert!(build.errors.is_empty() && build.admits_failure.is_none());
            let c = Recipe { name: "c".into(), file: None };
            assert!(build.recipes().has_reached(&c, "do_build"));
        }
    }

    #[test]
    fn what_is_kept_of_a_flood_is_bounded() {
        let mut build = Build::new(Unit::new(Stage::Build, "x"));
        let long = "é".repeat(30_000);
        for number in 0..100_000 {
            let told = build.line(&format!("NOTE: recipe x{number}: task do_y: Started"));
            assert!(number < RUNNING_KEPT || told.is_empty(), "{told:?}");
            build.line(&format!("NOTE: recipe {number}{}: task do_y: Started", &long[..400]));
            build.line("NOTE: recipe same: task do_y: Started");
        }
        for number in 0..1000 {
            build.line(&format!("ERROR: {number} {long}"));
            build.line(&format!("ERROR: Logfile of failure stored in: /{number}"));
            build.line(&format!("ERROR: Task (/m/a_{number}.bb:do_x{number}) failed with exit code '1'"));
        }
        let Some(EventKind::Progress(Progress { running, .. })) = build.progress() else { panic!() };
        assert_eq!(running.len(), RUNNING_KEPT);
        assert!(running.iter().all(|running| running.name.len() <= NAME_BYTES));
        assert_eq!((build.errors.len(), build.failures.len()), (ERRORS_KEPT, FAILURES_KEPT));
        assert!(build.errors.iter().all(|error| error.len() <= ERROR_BYTES));
        assert!(build.status().unwrap().len() < 5 * NAME_BYTES);
    }

    #[test]
    fn the_summary_is_a_line_of_its_own() {
        let good =
            "NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and all succeeded.";
        assert_eq!(follow(good).0.summary.map(|summary| summary.attempted), Some(5));
        for line in [
            format!("NOTE: x-1-r0 do_y: {good}"),
            format!("the recipe says {good}"),
            good.trim_start_matches("NOTE: ").to_owned(),
            format!("{good} Or not."),
        ] {
            assert_eq!(follow(&line).0.summary, None, "{line}");
        }
    }

    #[test]
    fn closing_lines_admit_a_failure() {
        for (line, wanted) in [
            ("Summary: There was 1 ERROR message shown, returning a non-zero exit code.", true),
            ("Summary: There were 2 ERROR messages, returning a non-zero exit code.", true),
            ("Summary: 1 task failed:", true),
            ("Summary: 12 tasks failed:", true),
            ("Execution was interrupted, returning a non-zero exit code.", true),
            ("NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and 1 failed.", true),
            (
                "NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and all succeeded.",
                false,
            ),
            ("Summary: There was 1 WARNING message.", false),
            ("Summary: There were 2 WARNING messages shown.", false),
            ("ERROR: a recipe prints this", false),
            ("NOTE: x: Summary: 1 task failed:", false),
        ] {
            assert_eq!(follow(line).0.admits_failure.is_some(), wanted, "{line}");
        }
    }

    #[test]
    fn setscene_failures_are_counted_apart() {
        let (build, _) = follow(
            "WARNING: Setscene task (/m/a_1.bb:do_deploy_setscene) failed with exit code '1' - real task will be run instead\n",
        );
        assert_eq!((build.setscene_failures, build.failures_total), (1, 0));
    }
}
