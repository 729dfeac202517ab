//! Events in, [`Summary`] out. Pure: the same events give the same summary, live or from a file.

use agent_types::events::{
    CacheQuery, Case, Event, EventKind, JobStarted, RepoReady, Retry, TaskFailed, Unit,
};
use agent_types::machine_use::TaskUsage;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;

use super::summary::{
    At, CaseResult, CommandResult, MachineAt, Notice, Published, StageError, StageResult, Summary,
    UnitResult, UnitUsage, whole_milliseconds,
};
use agent_types::truncate;

/// Samples of the machine: of three to five hours, and then half of them.
const SAMPLES_KEPT: usize = 2000;

/// Tasks whose use is kept; a large world has 40,000.
const USAGES_KEPT: usize = 200_000;

impl Summary {
    /// Takes in one event. Events come in the order in which they happened.
    pub fn apply(&mut self, event: &Event) {
        let at = At::of(event);
        let started = *self.started.get_or_insert(at);
        self.last_event = Some(at);
        if !self.reports_started() {
            self.seconds = started.seconds_until(at);
        }
        match &event.what {
            EventKind::JobStarted(job) => self.job_started(job),
            EventKind::UnderTest { commit, dirty, tree } => {
                self.job.commit.clone_from(commit);
                self.job.tree.clone_from(tree);
                self.job.dirty = *dirty;
            }
            EventKind::StageStarted { stage } => self.stage(*stage).started = Some(at),
            EventKind::StageFinished { stage, outcome } => self.stage_finished(*stage, outcome, at),
            EventKind::UnitStarted { unit } => self.unit(unit, at).outcome = None,
            EventKind::UnitFinished { unit, outcome, log, excerpt } => {
                let outcome = self.cut_outcome(outcome);
                let excerpt = self.cut_lines(excerpt);
                let index = self.unit_index(unit, at);
                self.timeline.settle(Some(index), &unfinished_task(&outcome));
                let unit = &mut self.units[index];
                unit.seconds = Some(unit.started.seconds_until(at));
                unit.outcome = Some(outcome);
                unit.log = log.clone();
                unit.excerpt = excerpt;
            }
            EventKind::Case(case) => self.case(case, at),
            EventKind::Finding(finding) => {
                let mut finding = finding.clone();
                self.bytes_cut += truncate::middle(&mut finding.message, truncate::TEXT);
                self.findings.push(finding);
            }
            EventKind::Notice { level, message, hint } => {
                let message = self.cut_text(message);
                self.notices.push(Notice { level: *level, message, hint: hint.clone() });
            }
            EventKind::Affected(affected) => self.affected = Some((**affected).clone()),
            EventKind::BaseResult(base) => self.base = Some((**base).clone()),
            EventKind::DeviceRequested(requested) => self.device = Some(requested.clone()),
            EventKind::ReportAddress(address) => self.report = Some(address.clone()),
            EventKind::MachineSample(sample) => {
                let milliseconds = started.milliseconds_until(at);
                self.machine.push(MachineAt { milliseconds, sample: sample.clone() });
                self.thin_machine();
            }
            EventKind::TaskUsage { unit, tasks } => {
                let unit = u32::try_from(self.unit_index(unit, at)).unwrap_or(u32::MAX);
                self.task_usage(unit, tasks);
            }
            EventKind::CredentialAccess(access) => self.credentials = Some(access.clone()),
            EventKind::Repo(repo) => self.repo(repo),
            EventKind::Retry(retry) => self.retry(retry),
            EventKind::CommandStarted { stage, command, argv, log } => self.commands.push(CommandResult {
                command: *command,
                stage: *stage,
                argv: argv.clone(),
                log: log.clone(),
                end: None,
                seconds: None,
                bytes: None,
            }),
            EventKind::CommandFinished { command, end, seconds, bytes } => {
                if let Some(known) = self.commands.iter_mut().rev().find(|known| known.command == *command) {
                    known.end = Some(end.clone());
                    known.seconds = Some(whole_milliseconds(*seconds));
                    known.bytes = Some(*bytes);
                }
            }
            // For the console only.
            EventKind::Progress { .. } | EventKind::Heartbeat { .. } => {}
            EventKind::TaskStarted(start) => {
                let unit = self.unit_index(&start.task.unit, at);
                self.timeline.started(unit, start, started.milliseconds_until(at));
            }
            EventKind::TaskFinished(done) => {
                let outcome = self.cut_outcome(&done.outcome);
                let unit = self.unit_index(&done.task.unit, at);
                self.units[unit].tasks += 1;
                self.timeline.finished(unit, &done.task, started.milliseconds_until(at), &outcome);
            }
            EventKind::TaskFailed(failed) => {
                let excerpt = self.cut_lines(&failed.excerpt);
                self.failed_tasks.push(TaskFailed { excerpt, ..failed.clone() });
            }
            EventKind::CacheQuery { unit, query } => {
                let why = query.why.as_deref().map(|why| self.cut_text(why));
                let seconds_saved = query.seconds_saved.map(whole_milliseconds);
                let query = CacheQuery { why, seconds_saved, ..query.clone() };
                self.unit(unit, at).cache_queries.push(query);
            }
            EventKind::Sstate { unit, summary } => self.unit(unit, at).sstate = Some(*summary),
            EventKind::CacheTier(found) => self.cache_tier(found),
            EventKind::CacheTraffic { tier, traffic } => self.cache_traffic(*tier, *traffic),
            EventKind::CachePublished { tier, counts } => self.cache_published(*tier, *counts),
            EventKind::Artifact(artifact) => self.artifacts.push(artifact.clone()),
            EventKind::Published { destination, index, objects, bytes, links } => {
                self.published = Some(Published {
                    destination: destination.clone(),
                    index: index.clone(),
                    objects: *objects,
                    bytes: *bytes,
                    links: *links,
                });
            }
            EventKind::Error { stage, error } => {
                let mut error = error.clone();
                self.bytes_cut += truncate::middle(&mut error.message, truncate::TEXT);
                self.bytes_cut += truncate::lines(&mut error.causes);
                self.errors.push(StageError { stage: *stage, error });
            }
            EventKind::JobFinished { exit, outcome } => {
                self.complete = true;
                self.exit = *exit;
                self.outcome = self.cut_outcome(outcome);
                // A report that was made before the report stage ended knows nothing of it.
                self.stages.retain(|stage| stage.stage != Stage::Report || stage.outcome.is_some());
                self.settle("the job ended before it");
            }
        }
    }

    /// Of two samples, the one with more memory in use stays: a peak must not get lost.
    fn thin_machine(&mut self) {
        if self.machine.len() < SAMPLES_KEPT {
            return;
        }
        let samples = std::mem::take(&mut self.machine);
        let more = |pair: &[MachineAt]| pair.iter().max_by_key(|at| at.sample.memory_used).cloned();
        // The first and the last one stay, for what was used in between.
        let (Some(first), Some(last)) = (samples.first().cloned(), samples.last().cloned()) else { return };
        let between = samples.get(1..samples.len() - 1).unwrap_or_default();
        self.machine.push(first);
        self.machine.extend(between.chunks(2).filter_map(more));
        self.machine.push(last);
    }

    fn task_usage(&mut self, unit: u32, tasks: &[TaskUsage]) {
        let kept: usize = self.task_usage.iter().map(|unit| unit.tasks.len()).sum();
        let tasks = tasks.iter().take(USAGES_KEPT.saturating_sub(kept)).cloned();
        match self.task_usage.iter_mut().find(|known| known.unit == unit) {
            Some(known) => known.tasks.extend(tasks),
            None => self.task_usage.push(UnitUsage { unit, tasks: tasks.collect() }),
        }
    }

    /// Ends the fold of an event file that just stops: whatever ran or waited has not run.
    /// Nothing changes when the job came to its own end.
    pub fn interrupted(&mut self) {
        if self.complete {
            return;
        }
        let used = self.machine.last().map(|at| format!("; {}", at.sample.describe())).unwrap_or_default();
        let reason = match self.last_event {
            Some(at) => format!("the agent was killed; the last event is from {at}{used}"),
            None => "the agent was killed before its first event".to_owned(),
        };
        self.settle(&reason);
        self.exit = ExitStatus::Internal;
        self.outcome = Outcome::NotRun(reason);
    }

    fn job_started(&mut self, job: &JobStarted) {
        self.agent = job.agent.clone();
        self.job = job.job.clone();
        self.plan = job.plan.clone();
        self.fail_on = job.fail_on;
        self.change_scope = job.change_scope.clone();
        self.prices = job.prices.clone();
        self.reproduction = job.reproduction.clone();
        self.stages = job
            .plan
            .iter()
            .filter(|planned| planned.stage != Stage::Report)
            .map(|planned| StageResult {
                stage: planned.stage,
                outcome: planned.skip.clone().map(Outcome::Skipped),
                started: None,
                seconds: None,
            })
            .collect();
    }

    fn stage_finished(&mut self, stage: Stage, outcome: &Outcome, at: At) {
        let outcome = self.cut_outcome(outcome);
        let stage = self.stage(stage);
        stage.seconds = stage.started.map(|started| started.seconds_until(at));
        stage.outcome = Some(outcome);
        // Files are uploaded in parallel and end in any order.
        self.artifacts.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Repositories are fetched in parallel and become ready in any order: the result has them by name,
    /// so that two results of one job are equal. A repository that is patched is reported a second time.
    fn repo(&mut self, repo: &RepoReady) {
        match self.repos.binary_search_by(|known| known.name.cmp(&repo.name)) {
            Ok(known) => self.repos[known] = repo.clone(),
            Err(place) => self.repos.insert(place, repo.clone()),
        }
    }

    /// The retry of an upload reports each artifact again.
    fn retry(&mut self, retry: &Retry) {
        if retry.unit.stage == Stage::Publish {
            self.artifacts.clear();
        }
        let reason = self.cut_text(&retry.reason);
        let (seconds, pause) = (whole_milliseconds(retry.seconds), whole_milliseconds(retry.pause));
        self.retries.push(Retry { unit: retry.unit.clone(), cause: retry.cause, reason, seconds, pause });
    }

    fn case(&mut self, case: &Case, at: At) {
        let result = CaseResult {
            class: case.class.clone(),
            name: case.name.clone(),
            outcome: self.cut_outcome(&case.outcome),
            message: self.cut_text(&case.message),
            seconds: case.seconds.map(whole_milliseconds),
        };
        self.unit(&case.unit, at).cases.push(result);
    }

    /// The stage's entry; one that no plan named comes last.
    fn stage(&mut self, stage: Stage) -> &mut StageResult {
        let index = self.stages.iter().position(|known| known.stage == stage).unwrap_or_else(|| {
            self.stages.push(StageResult { stage, outcome: None, started: None, seconds: None });
            self.stages.len() - 1
        });
        &mut self.stages[index]
    }

    fn reports_started(&self) -> bool {
        self.stages.iter().any(|stage| stage.stage == Stage::Report && stage.started.is_some())
    }

    /// The unit's entry, made at its first mention.
    fn unit(&mut self, unit: &Unit, at: At) -> &mut UnitResult {
        let index = self.unit_index(unit, at);
        &mut self.units[index]
    }

    fn unit_index(&mut self, unit: &Unit, at: At) -> usize {
        self.units.iter().rposition(|known| known.is(unit)).unwrap_or_else(|| {
            self.units.push(UnitResult {
                stage: unit.stage,
                name: unit.name.clone(),
                outcome: None,
                started: at,
                seconds: None,
                log: None,
                excerpt: Vec::new(),
                cases: Vec::new(),
                tasks: 0,
                sstate: None,
                cache_queries: Vec::new(),
            });
            self.units.len() - 1
        })
    }

    fn settle(&mut self, reason: &str) {
        let now = self.last_event;
        self.timeline.settle(None, &Outcome::NotRun(format!("it did not finish: {reason}")));
        for unit in self.units.iter_mut().filter(|unit| unit.outcome.is_none()) {
            unit.outcome = Some(Outcome::NotRun(format!("it did not finish: {reason}")));
            unit.seconds = now.map(|now| unit.started.seconds_until(now));
        }
        for stage in self.stages.iter_mut().filter(|stage| stage.outcome.is_none()) {
            let word = if stage.started.is_some() { "it did not finish" } else { "not reached" };
            stage.outcome = Some(Outcome::NotRun(format!("{word}: {reason}")));
            stage.seconds = stage.started.zip(now).map(|(started, now)| started.seconds_until(now));
        }
    }

    fn cut_text(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        self.bytes_cut += truncate::middle(&mut text, truncate::TEXT);
        text
    }

    fn cut_lines(&mut self, lines: &[String]) -> Vec<String> {
        let mut lines = lines.to_vec();
        self.bytes_cut += truncate::lines(&mut lines);
        lines
    }

    fn cut_outcome(&mut self, outcome: &Outcome) -> Outcome {
        outcome.map_reason(|why| self.cut_text(why))
    }
}

/// What became of a task that ran when its unit ended.
fn unfinished_task(unit: &Outcome) -> Outcome {
    match unit {
        stopped if stopped.was_stopped() => stopped.clone(),
        _ => Outcome::NotRun("it did not finish before its step ended".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::report::sample::{self, at, case, check_layer, failing_job, image, reduce};
    use agent_types::events::{Artifact, Event};
    use agent_types::machine_use::MachineSample;

    #[test]
    fn a_whole_job_folds_into_its_parts() {
        let summary = reduce(&failing_job());
        assert!(summary.complete);
        assert_eq!(summary.exit, ExitStatus::Upstream);
        assert_eq!(summary.seconds, 154.0);
        let stages: Vec<_> =
            summary.stages.iter().map(|s| (s.stage, s.outcome.as_ref().unwrap().word(), s.seconds)).collect();
        let wanted = [
            (Stage::Checkout, "passed", Some(12.0)),
            (Stage::Configure, "passed", Some(0.3)),
            (Stage::Check, "failed", Some(110.7)),
            (Stage::Build, "failed", Some(28.0)),
            (Stage::Test, "skipped", None),
            (Stage::Publish, "not-run", Some(2.0)),
        ];
        assert_eq!(stages, wanted);
        let check = summary.units.iter().find(|unit| unit.is(&check_layer())).unwrap();
        assert_eq!((check.cases.len(), check.seconds), (2, Some(110.0)));
        let build = summary.units.iter().find(|unit| unit.is(&image())).unwrap();
        assert_eq!((build.tasks, build.sstate.unwrap().missed), (2, 50));
        let command = &summary.commands[0];
        assert_eq!((command.end.as_deref(), command.seconds), (Some("exit status 1"), Some(110.0)));
        assert_eq!(summary.bytes_cut, 0);
    }

    #[test]
    fn what_ends_in_any_order_is_by_name() {
        let repo = |name: &str, how: &str| {
            EventKind::Repo(RepoReady {
                name: name.into(),
                url: None,
                commit: None,
                wanted: None,
                path: PathBuf::new(),
                how: how.into(),
                patches: Vec::new(),
                patches_sha256: None,
            })
        };
        let artifact = |path: &str| {
            EventKind::Artifact(Artifact { path: path.into(), key: None, bytes: 1, sha256: None, link: None })
        };
        let finished = |stage| EventKind::StageFinished { stage, outcome: Outcome::Passed };
        let events = [
            repo("b", "cloned"),
            repo("a", "cloned"),
            repo("c", "cloned"),
            repo("b", "patched"),
            finished(Stage::Checkout),
            artifact("z/1"),
            artifact("a/2"),
            artifact("m"),
            finished(Stage::Publish),
        ];
        let summary = reduce(&events.map(|event| at(1, event)));
        let repos: Vec<_> =
            summary.repos.iter().map(|repo| (repo.name.as_str(), repo.how.as_str())).collect();
        assert_eq!(repos, [("a", "cloned"), ("b", "patched"), ("c", "cloned")]);
        let artifacts: Vec<_> =
            summary.artifacts.iter().map(|artifact| artifact.path.display().to_string()).collect();
        assert_eq!(artifacts, ["a/2", "m", "z/1"]);
    }

    #[test]
    fn samples_of_a_long_job_are_thinned_and_keep_their_peaks() {
        let sample = |number: u64| MachineSample {
            memory_used: if number == 1234 { 99_999 } else { number % 10 },
            network_bytes: number,
            ..MachineSample::default()
        };
        let mut summary = Summary::default();
        for number in 0..12_960 {
            summary.apply(&at(number * 10_000, EventKind::MachineSample(sample(number))));
            assert!(summary.machine.len() < SAMPLES_KEPT);
        }
        let used = |at: &MachineAt| at.sample.memory_used;
        assert_eq!(summary.machine.iter().map(used).max(), Some(99_999));
        assert!(summary.machine.iter().is_sorted_by_key(|at| at.milliseconds));
        let ends =
            [summary.machine.first(), summary.machine.last()].map(|at| at.unwrap().sample.network_bytes);
        assert_eq!(ends, [0, 12_959]);
        assert!(summary.machine.len() >= SAMPLES_KEPT / 3, "{}", summary.machine.len());
    }

    #[test]
    fn what_the_tasks_of_a_unit_used_is_one_list_with_a_limit() {
        let usage = |recipe: &str| TaskUsage {
            recipe: recipe.into(),
            task: "do_x".into(),
            cpu_seconds: 1.0,
            peak_memory: 2,
            bytes_read: 3,
            bytes_written: 4,
        };
        let used =
            |unit: &Unit, tasks: Vec<TaskUsage>| at(1000, EventKind::TaskUsage { unit: unit.clone(), tasks });
        let other = Unit::new(Stage::Build, "other");
        let events = [
            used(&image(), vec![usage("a")]),
            used(&other, vec![usage("b")]),
            used(&image(), vec![usage("c"); USAGES_KEPT]),
        ];
        let summary = reduce(&events);
        let kept: Vec<(u32, usize)> =
            summary.task_usage.iter().map(|unit| (unit.unit, unit.tasks.len())).collect();
        assert_eq!(kept, [(0, USAGES_KEPT - 1), (1, 1)]);
    }

    #[test]
    fn the_reason_of_a_killed_job_has_the_last_sample() {
        let mut events = failing_job()[..9].to_vec();
        let sample = MachineSample { memory_used: 71 << 30, memory_limit: 72 << 30, ..Default::default() };
        events.push(at(72_000, EventKind::MachineSample(sample)));
        let mut summary = reduce(&events);
        summary.interrupted();
        let wanted = "the agent was killed; the last event is from 2026-01-02T03:05:17.000Z; 71.0 of 72.0 GiB of \
                      memory used";
        assert_eq!(summary.outcome.reason(), Some(wanted));
    }

    #[test]
    fn a_killed_job_is_never_a_pass_wherever_it_was_killed() {
        for events in [failing_job(), sample::passing_job()] {
            let last = events.iter().position(|event| matches!(event.what, EventKind::JobFinished { .. }));
            for end in 0..last.unwrap_or(events.len()) {
                let mut summary = reduce(&events[..end]);
                summary.interrupted();
                assert!(!summary.complete);
                assert!(matches!(summary.outcome, Outcome::NotRun(_)), "{:?}", summary.outcome);
                assert_ne!(summary.exit, ExitStatus::Passed);
                assert!(summary.stages.iter().all(|stage| stage.outcome.is_some()));
                assert!(summary.units.iter().all(|unit| unit.outcome.is_some()));
            }
        }
    }

    #[test]
    fn a_killed_job_says_when_and_what_ran() {
        let events = failing_job();
        let silent = |event: &Event| matches!(event.what, EventKind::Heartbeat { .. });
        let killed_at = events.iter().position(silent).unwrap();
        let mut summary = reduce(&events[..=killed_at]);
        summary.interrupted();
        let killed = "the agent was killed; the last event is from 2026-01-02T03:05:17.320Z";
        assert_eq!(summary.outcome, Outcome::NotRun(killed.into()));
        let unit = summary.units.last().unwrap();
        assert!(unit.is(&check_layer()));
        assert_eq!(unit.outcome, Some(Outcome::NotRun(format!("it did not finish: {killed}"))));
        assert_eq!(unit.seconds, Some(60.0), "until the last event, a heartbeat");
        let reasons: Vec<_> = summary.stages.iter().map(|s| s.outcome.as_ref().unwrap().reason()).collect();
        let not_reached = format!("not reached: {killed}");
        let unfinished = format!("it did not finish: {killed}");
        let wanted = [
            None,
            None,
            Some(unfinished.as_str()),
            Some(&not_reached),
            Some("nothing asks for test"),
            Some(&not_reached),
        ];
        assert_eq!(reasons, wanted);
    }

    #[test]
    fn the_end_of_a_finished_job_stays_as_it_is() {
        let mut summary = reduce(&failing_job());
        let before = summary.clone();
        summary.interrupted();
        assert_eq!(summary, before);
    }

    #[test]
    fn over_long_texts_are_cut_and_counted() {
        let long = "x".repeat(truncate::TEXT + 1000);
        let summary = reduce(&[at(0, case(&check_layer(), "test_a", Outcome::Failed(long.clone()), &long))]);
        let case = &summary.units[0].cases[0];
        assert!(case.message.len() <= truncate::TEXT && case.message.contains("bytes cut out"));
        assert!(case.outcome.reason().unwrap().len() <= truncate::TEXT);
        // Both were truncated, and lost as many characters more as the mark of the truncation takes.
        assert_eq!(summary.bytes_cut, 2 * (1000 + 64));
    }

    /// The wall clock jumps by three days, forth and back, while things run.
    #[test]
    fn durations_follow_the_clock_that_nobody_sets() {
        let three_days = std::time::Duration::from_secs(3 * 24 * 3600);
        let on_clock = |clock: bool| {
            let mut events = failing_job();
            let first = events[0].time;
            let jump = events.len() / 2;
            for (index, event) in events.iter_mut().enumerate() {
                event.clock = event.time.duration_since(first).ok().filter(|_| clock);
                if clock && index >= jump {
                    event.time += three_days;
                }
            }
            if clock && let Some(last) = events.last_mut() {
                last.time -= three_days * 2;
            }
            reduce(&events)
        };
        let seconds = |summary: &Summary| {
            let stages = summary.stages.iter().map(|stage| stage.seconds);
            let units = summary.units.iter().map(|unit| unit.seconds);
            (summary.seconds, stages.collect::<Vec<_>>(), units.collect::<Vec<_>>())
        };
        assert_eq!(seconds(&on_clock(true)), seconds(&on_clock(false)));
        assert_eq!(on_clock(true).seconds, 154.0);
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_negative_times() {
        let unit = check_layer();
        let summary = reduce(&[
            at(5000, sample::unit_started(&unit)),
            at(1000, sample::unit_finished(&unit, Outcome::Passed, None)),
        ]);
        assert_eq!((summary.seconds, summary.units[0].seconds), (0.0, Some(0.0)));
    }
}
