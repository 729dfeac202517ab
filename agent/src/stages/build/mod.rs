//! Build: BitBake on the targets, or on what a change affects, once for each machine.

pub mod attempts;
pub mod bitbake;
mod changed;
pub mod failed_task;
mod fetch;
#[cfg(test)]
mod tests;
pub mod verdict;

use std::path::PathBuf;

use tracing::Instrument;

use crate::config::Settings;
use agent_cache::Usage;
use agent_process::Runner;
use agent_types::affected::{Affected, Evidence};
use agent_types::error::{Class, Error, Result};
use agent_types::events::{EventKind, Sstate, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::cleanup::{ServerEnd, UnitEnd};
use super::configure::BuildEnvironment;
use super::error_outcome;
use super::pending::{Pending, report_without_run};
use attempts::Attempted;
use bitbake::Machine;
use changed::Wanted;
use failed_task::FailedTask;

/// The result of the builds of all machines.
#[derive(Clone, Debug)]
pub struct Builds {
    /// The worst outcome.
    pub outcome: Outcome,
    /// Cache hits and misses of all builds.
    pub usage: Usage,
}

/// The builds of the manifest: one for each machine.
pub fn units(settings: &Settings) -> Vec<Unit> {
    settings.config.machines.iter().map(|machine| unit(settings, machine)).collect()
}

fn unit(settings: &Settings, machine: &str) -> Unit {
    let targets = || settings.build.targets.join(" ");
    let what = match &settings.build {
        build if build.changed => "changed recipes".into(),
        build if build.fetch_only => format!("fetch {}", targets()),
        _ => targets(),
    };
    Unit::new(Stage::Build, format!("{what} ({machine})"))
}

/// Builds for each machine: what the change affects, if it is given, otherwise the targets. After a build of the
/// targets that did not pass, the others do not run without `--keep-going`.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    affected: Option<&Affected>,
    runner: &Runner,
) -> Result<Builds> {
    let mut pending = Pending::new(units(settings), &runner.events);
    let builds = run_pending(settings, configured, affected, runner, &mut pending).await;
    pending.not_run_after(builds.as_ref().map(|builds| &builds.outcome)).await;
    builds
}

async fn run_pending(
    settings: &Settings,
    configured: &BuildEnvironment,
    affected: Option<&Affected>,
    runner: &Runner,
    pending: &mut Pending<'_>,
) -> Result<Builds> {
    let mut outcomes = Vec::new();
    let mut usage = Usage::default();
    let mut upstream = None;
    for name in &settings.config.machines {
        let unit = unit(settings, name);
        pending.start(&unit);
        let machine = Machine { name, settings, configured, dir: &configured.build, runner };
        let step = super::step(&unit);
        let built = match affected {
            Some(affected) => changed_build(&machine, unit, affected).instrument(step).await,
            None => target_build(&machine, unit).instrument(step).await,
        };
        let Built { outcome, sstate, upstream: error } = built?;
        usage += sstate.map(used).unwrap_or_default();
        upstream = upstream.or(error);
        // A recipe that fails for one machine may build for another.
        let goes_on = affected.is_some() || settings.check.keep_going;
        let stop = outcome.was_stopped() || !outcome.is_success() && !goes_on;
        outcomes.push(outcome);
        if stop {
            break;
        }
    }
    if let Some(error) = upstream {
        runner.events.emit(EventKind::Error { stage: Some(Stage::Build), error }).await;
    }
    let outcome = Outcome::worst(&outcomes)
        .cloned()
        .ok_or_else(|| Error::internal("the build stage ran without any machine"))?;
    Ok(Builds { outcome, usage })
}

fn used(Sstate { wanted, local, mirrors, missed, current: _ }: Sstate) -> Usage {
    Usage { wanted, local, mirrors, missed }
}

/// The result of the build of one machine.
struct Built {
    outcome: Outcome,
    sstate: Option<Sstate>,
    /// The error of servers that did not answer, if the build continued without their sources.
    upstream: Option<Error>,
}

/// Builds the targets of the manifest as one unit.
async fn target_build(machine: &Machine<'_>, unit: Unit) -> Result<Built> {
    machine.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let settings = machine.settings;
    let build = &settings.build;
    let log = format!("{}-{}", if build.fetch_only { "fetch" } else { "build" }, machine.name);
    // A server that does not answer must not keep the other sources away.
    let keep_going = settings.check.keep_going || build.fetch_only;
    let Attempted { result, servers } =
        attempts::build(machine, &unit, &log, keep_going, &build.targets).await;
    let (judged, log, excerpt, sstate) = match &result {
        Ok((ran, failed)) => {
            failed_task::report(failed, &unit, machine.runner).await;
            let judged = verdict::judge(ran, failed);
            let excerpt =
                judged.as_ref().map_or_else(|_| Vec::new(), |outcome| verdict::excerpt(ran, outcome));
            (judged, Some(machine.runner.relative_log(&ran.finished.log)), excerpt, ran.build.sstate)
        }
        Err(error) => (Err(error.clone()), None, Vec::new(), None),
    };
    finish(machine, unit, &judged, log, excerpt, servers).await;
    judged.map(|outcome| Built { outcome, sstate, upstream: None })
}

/// Builds what the change affects: sources first, then all recipes in one run of BitBake, each of them as a unit of its
/// own.
async fn changed_build(machine: &Machine<'_>, unit: Unit, affected: &Affected) -> Result<Built> {
    let build = &machine.settings.build;
    let selection = changed::select(affected, &build.targets, build.reverse_dependencies, machine.name);
    for skipped in selection.skipped {
        finish_recipe(machine, &skipped.name, Outcome::Skipped(skipped.reason)).await;
    }
    if selection.build.is_empty() {
        let outcome = Outcome::Skipped(nothing_to_build(affected));
        report_without_run(unit, outcome.clone(), &machine.runner.events).await;
        return Ok(Built { outcome, sstate: None, upstream: None });
    }
    let every: Vec<Wanted> = selection.build.clone();
    let fetched = match fetch::fetch(machine, selection.build).await {
        Ok(fetched) => fetched,
        Err(error) => {
            let outcome = Outcome::NotRun(format!("not built: {}", error.message));
            for wanted in every {
                finish_recipe(machine, &wanted.target, outcome.clone()).await;
            }
            report_without_run(unit, error_outcome(&error), &machine.runner.events).await;
            return Err(error);
        }
    };
    let mut outcomes = vec![fetched.outcome];
    for (wanted, outcome) in fetched.decided {
        finish_recipe(machine, &wanted.target, outcome.clone()).await;
        outcomes.push(outcome);
    }
    if fetched.build.is_empty() {
        let worst = Outcome::worst(&outcomes).filter(|outcome| !outcome.is_success()).cloned();
        let outcome =
            worst.unwrap_or_else(|| Outcome::Skipped("nothing is left to build for this machine".into()));
        report_without_run(unit, outcome.clone(), &machine.runner.events).await;
        return Ok(Built { outcome, sstate: None, upstream: fetched.upstream });
    }
    let Built { outcome, sstate, upstream } = recipes_build(machine, unit, fetched.build).await?;
    outcomes.push(outcome);
    let outcome = Outcome::worst(&outcomes).cloned().unwrap_or(Outcome::Passed);
    Ok(Built { outcome, sstate, upstream: fetched.upstream.or(upstream) })
}

/// Builds all of them in one run.
async fn recipes_build(machine: &Machine<'_>, unit: Unit, recipes: Vec<Wanted>) -> Result<Built> {
    machine.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let targets: Vec<String> = recipes.iter().map(|wanted| wanted.target.clone()).collect();
    let log = format!("build-{}", machine.name);
    let Attempted { result, servers } = attempts::build(machine, &unit, &log, true, &targets).await;
    let (ran, failed) = match result {
        Ok(done) => done,
        Err(error) => {
            let outcome = Outcome::NotRun(format!("not built: {}", error.message));
            for wanted in recipes {
                finish_recipe(machine, &wanted.target, outcome.clone()).await;
            }
            finish(machine, unit, &Err(error.clone()), None, Vec::new(), servers).await;
            return Err(error);
        }
    };
    failed_task::report(&failed, &unit, machine.runner).await;
    let judged = verdict::judge(&ran, &failed);
    let run = judged.as_ref().map_or_else(error_outcome, Outcome::clone);
    let others = others(&run, &failed);
    let mut outcomes = vec![run.clone()];
    for wanted in &recipes {
        let outcome = wanted.outcome(&run, ran.build.recipes(), &failed, &others);
        finish_recipe(machine, &wanted.target, outcome.clone()).await;
        outcomes.push(outcome);
    }
    if run.was_stopped() {
        report_built_so_far(machine, &outcomes[1..]).await;
    }
    let log = Some(machine.runner.relative_log(&ran.finished.log));
    let excerpt = judged.as_ref().map_or_else(|_| Vec::new(), |outcome| verdict::excerpt(&ran, outcome));
    finish(machine, unit, &judged, log, excerpt, servers).await;
    let outcome = Outcome::worst(&outcomes).cloned().unwrap_or(run);
    let sstate = ran.build.sstate;
    match judged {
        Ok(_) => Ok(Built { outcome, sstate, upstream: None }),
        Err(error) if error.class == Class::Upstream => Ok(Built { outcome, sstate, upstream: Some(error) }),
        Err(error) => Err(error),
    }
}

/// Why a recipe was not reached: the failures before it.
fn others(run: &Outcome, failed: &[FailedTask]) -> String {
    match failed {
        [] => run.reason().unwrap_or("BitBake did not reach it").to_owned(),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!("{}{more} failed before", first.name())
        }
    }
}

/// Reports how many recipes are built when a build was stopped.
async fn report_built_so_far(machine: &Machine<'_>, recipes: &[Outcome]) {
    let done = recipes.iter().filter(|outcome| **outcome == Outcome::Passed).count();
    let message = format!(
        "{done} of {} recipes are built for {}; the next build of this change gets completed tasks from the cache",
        recipes.len(),
        machine.name
    );
    machine.runner.events.info(message).await;
}

fn nothing_to_build(affected: &Affected) -> String {
    match &affected.evidence {
        Evidence::Signatures if affected.tasks == 0 => "the change affects 0 tasks".into(),
        Evidence::Signatures => "the change affects nothing that is built for this machine".into(),
        Evidence::Files(_) => "the files of the change belong to no recipe".into(),
    }
}

/// Reports the outcome of a run, and then how its servers ended.
async fn finish(
    machine: &Machine<'_>,
    unit: Unit,
    judged: &Result<Outcome>,
    log: Option<PathBuf>,
    excerpt: Vec<String>,
    servers: Vec<ServerEnd>,
) {
    let outcome = judged.as_ref().map_or_else(error_outcome, Outcome::clone);
    let end = UnitEnd { unit, outcome, log, excerpt };
    end.report(ServerEnd::default(), &machine.runner.events).await;
    Attempted::report_servers(servers, machine).await;
}

/// Reports the outcome of a recipe.
async fn finish_recipe(machine: &Machine<'_>, recipe: &str, outcome: Outcome) {
    let unit = Unit::new(Stage::Build, format!("{recipe} ({})", machine.name));
    report_without_run(unit, outcome, &machine.runner.events).await;
}
