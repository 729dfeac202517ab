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
#[path = "reducer_tests.rs"]
mod tests;
