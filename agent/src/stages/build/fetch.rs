//! Fetches the sources of the changed recipes before anything is built: a server that does not answer is not a failure
//! of the layer, and ends the job in minutes instead of hours.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_process::ExitReason;
use agent_types::error::{Class, Error, Result};
use agent_types::events::{EventKind, RetryCause, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::bitbake_recipes::RecipeLog;
use agent_yocto::task_failure::TaskFailure;

use super::attempts::{Attempted, report_retry};
use super::bitbake::{Machine, Ran, Request};
use super::changed::Wanted;
use super::failed_task::{FailedTask, failed_tasks, report};
use super::verdict::{excerpt, judge, no_source};
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use crate::stages::{error_outcome, retry};

/// Maximum number of retries if servers do not answer.
const RETRIES: usize = 2;

/// The result of all fetches.
pub struct Fetched {
    /// What is left to build.
    pub build: Vec<Wanted>,
    /// What is not built, and why.
    pub decided: Vec<(Wanted, Outcome)>,
    /// The error of servers that did not answer.
    pub upstream: Option<Error>,
    pub outcome: Outcome,
}

pub fn unit(machine: &str) -> Unit {
    Unit::new(Stage::Build, format!("fetch ({machine})"))
}

/// Fetches what the recipes need, as a unit of its own.
///
/// # Errors
/// When the machine cannot do its part, and when BitBake contradicts itself.
pub async fn fetch(machine: &Machine<'_>, wanted: Vec<Wanted>) -> Result<Fetched> {
    let unit = unit(machine.name);
    machine.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let mut phase = Phase { machine, unit: &unit, servers: Vec::new(), log: None, excerpt: Vec::new() };
    let result = phase.run(wanted).await;
    let Phase { servers, log, excerpt, .. } = phase;
    let outcome = match &result {
        Ok(fetched) => fetched.outcome.clone(),
        Err(error) => error_outcome(error),
    };
    UnitEnd { unit, outcome, log, excerpt }.report(ServerEnd::default(), &machine.runner.events).await;
    Attempted::report_servers(servers, machine).await;
    result
}

struct Phase<'a> {
    machine: &'a Machine<'a>,
    unit: &'a Unit,
    servers: Vec<ServerEnd>,
    log: Option<PathBuf>,
    /// Relevant lines of a run without a failed task.
    excerpt: Vec<String>,
}

/// A run and what failed in it.
type Fetch = (Ran, Vec<FailedTask>, Duration);

impl Phase<'_> {
    async fn run(&mut self, wanted: Vec<Wanted>) -> Result<Fetched> {
        let (mut to_fetch, mut build): (Vec<Wanted>, Vec<Wanted>) =
            wanted.into_iter().partition(|wanted| wanted.is_fetched);
        let mut decided = Vec::new();
        let (mut upstream, mut unexplained) = (None, None);
        let mut retries = 0;
        while !to_fetch.is_empty() {
            let (ran, failed, spent) = self.fetch(&to_fetch).await?;
            let log = ran.build.recipes();
            // BitBake ends at once, and names one recipe without the task.
            let (without, others): (Vec<Wanted>, Vec<Wanted>) =
                to_fetch.into_iter().partition(|wanted| wanted.lacks_fetch(log));
            if !without.is_empty() {
                build.extend(without);
                to_fetch = others;
                continue;
            }
            let judged = judge(&ran, &failed);
            let outcome = match &judged {
                Ok(outcome) => outcome.clone(),
                // Fetched recipes are still built.
                Err(error) if error.class == Class::Upstream => error_outcome(error),
                Err(error) => {
                    report(&failed, self.unit, self.machine.runner).await;
                    return Err(error.clone());
                }
            };
            if outcome.was_stopped() || !is_conclusive(&ran) {
                // BitBake gets revisions from servers while it parses recipes.
                if let Err(error) = &judged
                    && self.waits_for_retry(error, spent, &mut retries).await
                {
                    to_fetch = others;
                    continue;
                }
                report(&failed, self.unit, self.machine.runner).await;
                self.excerpt = excerpt(&ran, &outcome);
                let upstream = judged.err();
                let of_recipe = not_built(&outcome);
                decided.extend(others.into_iter().chain(build).map(|wanted| (wanted, of_recipe.clone())));
                return Ok(Fetched { build: Vec::new(), decided, upstream, outcome });
            }
            let is_of_others = |id: &str| others.iter().all(|wanted| !wanted.failed_ids(log).contains(&id));
            let has_other_failures = log.all_failures().any(|(id, _)| is_of_others(id));
            let (known, mut dead) = (decided.len(), Vec::new());
            for wanted in others {
                match self.recipe_fetch(&wanted, &ran, &failed, &outcome) {
                    RecipeFetch::Build => build.push(wanted),
                    RecipeFetch::Decided(outcome) => decided.push((wanted, outcome)),
                    RecipeFetch::ServerDown(line, outcome) => dead.push((wanted, line, outcome)),
                }
            }
            // Something else failed. The build goes on, but the fetch does not pass.
            if !outcome.is_success() && (has_other_failures || decided.len() == known && dead.is_empty()) {
                unexplained = Some(outcome.clone());
            }
            let Some((first, line, _)) = dead.first() else {
                report(&failed, self.unit, self.machine.runner).await;
                upstream = judged.err();
                break;
            };
            let error = no_source(&format!("{}: {line}", first.target));
            if self.waits_for_retry(&error, spent, &mut retries).await {
                let of_servers = |task: &&FailedTask| matches!(task.cause, TaskFailure::Upstream(_));
                report(failed.iter().filter(|task| !of_servers(task)), self.unit, self.machine.runner).await;
                to_fetch = dead.into_iter().map(|(wanted, ..)| wanted).collect();
                continue;
            }
            report(&failed, self.unit, self.machine.runner).await;
            upstream = Some(error);
            decided.extend(dead.into_iter().map(|(wanted, _, outcome)| (wanted, outcome)));
            break;
        }
        let outcomes = decided.iter().map(|(_, outcome)| outcome).chain(&unexplained);
        let worst = Outcome::worst(outcomes.filter(|one| !one.is_success()));
        let outcome = worst.cloned().unwrap_or(Outcome::Passed);
        Ok(Fetched { build, decided, upstream, outcome })
    }

    /// Whether there is a retry after this error; waits for its pause.
    async fn waits_for_retry(&self, error: &Error, spent: Duration, retries: &mut usize) -> bool {
        let interrupt = &self.machine.runner.interrupt;
        let Some(pause) = retry::pause_before(error, spent, interrupt).filter(|_| *retries < RETRIES) else {
            return false;
        };
        *retries += 1;
        report_retry(self.machine, self.unit, RetryCause::Upstream, error.message.clone(), spent, pause)
            .await;
        retry::wait(pause, interrupt).await;
        true
    }

    async fn fetch(&mut self, wanted: &[Wanted]) -> Result<Fetch> {
        let attempt = self.servers.len();
        let again = if attempt > 0 { format!("-{}", attempt + 1) } else { String::new() };
        let request = Request {
            unit: self.unit,
            log: format!("fetch-{}{again}", self.machine.name),
            keep_going: true,
            targets: wanted.iter().map(Wanted::fetch_target).collect(),
            runall: None,
            postread: None,
            limits: None,
        };
        let began = Instant::now();
        let (ran, server) = self.machine.bitbake(request).await;
        self.servers.push(server);
        let ran = ran?;
        self.log = Some(self.machine.runner.relative_log(&ran.finished.log));
        let failed = failed_tasks(&ran, self.machine);
        Ok((ran, failed, began.elapsed()))
    }

    /// The result for one recipe of a completed run.
    fn recipe_fetch(&self, wanted: &Wanted, ran: &Ran, failed: &[FailedTask], run: &Outcome) -> RecipeFetch {
        let log = ran.build.recipes();
        if *run == Outcome::Passed {
            return RecipeFetch::Build;
        }
        if let Some(outcome) = wanted.failure(log, failed) {
            return match dead_server(wanted, log, failed) {
                Some(line) => RecipeFetch::ServerDown(line, outcome),
                None => RecipeFetch::Decided(outcome),
            };
        }
        if wanted.is_source_reached(log) {
            return RecipeFetch::Build;
        }
        // None of its tasks ran: a direct or indirect dependency is missing.
        if let Some(outcome) = wanted.unbuildable(log) {
            return RecipeFetch::Decided(outcome);
        }
        let missing = log.no_providers();
        match (missing.iter().find(|one| !one.is_skipped()), missing.first()) {
            _ if !ran.build.has_events() => RecipeFetch::Build,
            (Some(missing), _) => RecipeFetch::Decided(Outcome::Failed(missing.describe())),
            (None, Some(skipped)) => RecipeFetch::Decided(Outcome::Skipped(skipped.describe())),
            // A task before the fetch failed; the build reports which.
            (None, None) => RecipeFetch::Build,
        }
    }
}

/// The result of the fetch for one recipe.
enum RecipeFetch {
    Build,
    Decided(Outcome),
    /// Its server does not answer: the line with the error.
    ServerDown(String, Outcome),
}

/// The error line of a server that did not answer, if the fetch of the recipe failed because of it.
fn dead_server(wanted: &Wanted, log: &RecipeLog, failed: &[FailedTask]) -> Option<String> {
    let ids = wanted.failed_ids(log);
    failed.iter().find_map(|task| match (&task.cause, &task.failure.id) {
        (TaskFailure::Upstream(line), Some(id)) if ids.contains(&id.as_str()) => Some(line.clone()),
        _ => None,
    })
}

/// Whether BitBake reached its tasks, or found that it can run none.
fn is_conclusive(ran: &Ran) -> bool {
    let knows = ran.build.summary.is_some() || !ran.build.recipes().no_providers().is_empty();
    matches!(ran.finished.end, ExitReason::Exited(_)) && knows
}

/// The outcome of a recipe that the run did not reach.
fn not_built(run: &Outcome) -> Outcome {
    match run {
        stopped if stopped.was_stopped() => stopped.clone(),
        other => {
            Outcome::NotRun(format!("not built: {}", other.reason().unwrap_or("the fetch did not pass")))
        }
    }
}
