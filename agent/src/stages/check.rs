//! Check: the preflight of the layer's files, bitbake-layers, yocto-check-layer and the other checks.

use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;
use tracing::Instrument;

use crate::config::{CheckScope, Settings};
use agent_git::Access;
use agent_process::{Command, CommandOutcome, ExitReason, LineHandler, Runner, UntilStopped};
use agent_types::affected::Affected;
use agent_types::error::{Error, Result};
use agent_types::events::{Case, Emitter, EventKind, Level, Unit};
use agent_types::listing;
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::bitbake_layers::LayersOutput;
use agent_yocto::check_layer::{crash, forgiving};
use agent_yocto::host;
use agent_yocto::layer_conf::{LayerConf, certain_words};
use agent_yocto::preflight::{self, PreflightCase};

mod comparison;
mod cve;
mod oelint;
mod parse_machines;
mod patches;
mod templateconf;

use super::affected;
use super::blocking;
use super::check_layer;
use super::cleanup::{ServerEnd, UnitEnd};
use super::configure::BuildEnvironment;
use super::layers::{known_layers, name, names};
use super::pending::Pending;
use comparison::Comparison;
use parse_machines::Parses;

/// What the layers' own files say, without anything else. Runs before the checkout, so that a
/// hopeless change fails in the first second.
///
/// # Errors
/// When the job is stopped.
pub async fn preflight(settings: &Settings, runner: &Runner) -> Result<Outcome> {
    let mut outcomes = Vec::new();
    for layer in &settings.layers {
        let (path, checkout, release) = (layer.clone(), settings.checkout.clone(), settings.release);
        let read = move || {
            let conf = path.join("conf/layer.conf");
            let file = conf.strip_prefix(&checkout).unwrap_or(&conf).display().to_string();
            let notice = LayerConf::read(&path).ok().and_then(|conf| conf.unknown_notice(&file));
            let mut results = preflight::layer_alone(&path, &checkout, release);
            results.extend(preflight::empty::check(&path, &checkout, release));
            Ok((notice, results))
        };
        let (notice, results) = blocking(&runner.interrupt, READ, read).await?;
        if let Some(notice) = notice {
            runner.events.info(notice).await;
        }
        let unit = Unit::new(Stage::Check, format!("preflight {}", name(layer)));
        outcomes.push(tell_preflight(settings, layer, unit, results, &runner.events).await);
    }
    Ok(Outcome::worst(&outcomes).cloned().unwrap_or(Outcome::NotRun("there is no layer".into())))
}

/// What a stop comes before.
const READ: &str = "the layers were read";

/// The checks that the manifest asks for. The preflight is not one of them: it is what the agent does first.
pub fn units(settings: &Settings) -> Vec<Unit> {
    let check = &settings.check;
    let wanted = |scope: CheckScope, unit: fn() -> Unit| (scope != CheckScope::Off).then(unit);
    let first = [wanted(check.patches, patches::unit), wanted(check.oelint, oelint::unit)];
    let layers = settings.layers.iter().filter(|_| check.yocto_check_layer);
    let bitbake_layers = check.bitbake_layers.iter().map(|words| bitbake_layers_unit(words));
    let parses = check.parse_machines.iter().map(|machine| parse_machines::unit(machine));
    let last = wanted(check.cve, cve::unit);
    let templates = check.templateconf.then(templateconf::unit);
    let by_layer = layers.map(|layer| check_layer::unit(layer));
    let middle = bitbake_layers.chain(parses).chain(templates).chain(by_layer);
    first.into_iter().flatten().chain(middle).chain(last).collect()
}

/// The names of the checks that look only at what the change touches.
pub fn changed_only(settings: &Settings) -> Vec<String> {
    let check = &settings.check;
    let scopes = [(check.patches, patches::unit()), (check.oelint, oelint::unit()), (check.cve, cve::unit())];
    let changed = scopes.into_iter().filter(|(scope, _)| *scope == CheckScope::Changed);
    changed.map(|(_, unit)| unit.name).collect()
}

fn bitbake_layers_unit(words: &[String]) -> Unit {
    Unit::new(Stage::Check, format!("bitbake-layers {}", words.join(" ")))
}

/// Runs all checks that the manifest asks for; the worst outcome decides, including that of the preflight.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    before: Before<'_>,
    runner: &Runner,
) -> Result<Outcome> {
    let mut pending = Pending::new(units(settings), &runner.events);
    let outcome = run_pending(settings, configured, before, runner, &mut pending).await;
    pending.not_run_after(outcome.as_ref()).await;
    outcome
}

/// The inputs of the check stage from the job.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub preflight: Option<&'a Outcome>,
    /// Whether the checkout has uncommitted changes.
    pub dirty: bool,
    /// How git gets to the servers.
    pub access: &'a Access,
    /// What the change affects, once a stage has computed it.
    pub affected: &'a OnceCell<Affected>,
}

async fn run_pending(
    settings: &Settings,
    configured: &BuildEnvironment,
    before: Before<'_>,
    runner: &Runner,
    pending: &mut Pending<'_>,
) -> Result<Outcome> {
    let mut outcomes: Vec<Outcome> = before.preflight.cloned().into_iter().collect();
    let comparison = Comparison::of(settings, before.dirty, runner, before.access).await?;
    if settings.check.patches != CheckScope::Off {
        pending.start(&patches::unit());
        outcomes.push(patches::run(settings, &comparison, runner).await?);
    }
    // Before anything runs layer code.
    let untouched = check_layer::Untouched::of(settings, configured, &runner.interrupt).await;
    if settings.check.yocto_check_layer {
        let outcome = preflight_with_repos(settings, configured, runner).await?;
        let hopeless = !outcome.is_success();
        outcomes.push(outcome);
        if hopeless && !settings.check.keep_going {
            return worst(&outcomes);
        }
    }
    if settings.check.oelint != CheckScope::Off {
        if let Some(why) = runner.interrupt.state() {
            outcomes.push(super::interrupted(why));
            return worst(&outcomes);
        }
        pending.start(&oelint::unit());
        outcomes.push(oelint::run(settings, configured, &comparison, runner).await?);
    }
    for words in &settings.check.bitbake_layers {
        if let Some(why) = runner.interrupt.state() {
            outcomes.push(super::interrupted(why));
            return worst(&outcomes);
        }
        pending.start(&bitbake_layers_unit(words));
        outcomes.push(bitbake_layers(settings, configured, runner, words).await?);
    }
    if !settings.check.parse_machines.is_empty() {
        let parses = Parses::open(settings, configured, runner).await;
        let parsed = parse(settings, &parses, runner, pending).await;
        parses.close().await;
        outcomes.extend(parsed?);
        if let Some(why) = runner.interrupt.state() {
            outcomes.push(super::interrupted(why));
            return worst(&outcomes);
        }
    }
    if let Some(templates) = configured.templates.as_ref().filter(|_| settings.check.templateconf) {
        pending.start(&templateconf::unit());
        outcomes.push(templateconf::run(settings, configured, templates, runner).await?);
        if let Some(why) = runner.interrupt.state() {
            outcomes.push(super::interrupted(why));
            return worst(&outcomes);
        }
    }
    if settings.check.yocto_check_layer {
        for layer in &settings.layers {
            if let Some(why) = runner.interrupt.state() {
                outcomes.push(super::interrupted(why));
                break;
            }
            pending.start(&check_layer::unit(layer));
            outcomes.push(check_layer::run(settings, configured, runner, layer, &untouched).await?);
        }
    }
    if settings.check.cve != CheckScope::Off {
        if let Some(why) = runner.interrupt.state() {
            outcomes.push(super::interrupted(why));
            return worst(&outcomes);
        }
        let affected = affected_set(settings, configured, before, runner).await?;
        pending.start(&cve::unit());
        outcomes.push(cve::run(settings, configured, (&comparison, affected), runner).await?);
    }
    worst(&outcomes)
}

/// Parses for each machine until the job is stopped.
async fn parse(
    settings: &Settings,
    parses: &Parses<'_>,
    runner: &Runner,
    pending: &mut Pending<'_>,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for machine in &settings.check.parse_machines {
        if runner.interrupt.state().is_some() {
            break;
        }
        pending.start(&parse_machines::unit(machine));
        outcomes.push(parses.run(machine).await?);
    }
    Ok(outcomes)
}

/// What the change affects, if a later stage needs it and a check can use it.
async fn affected_set<'a>(
    settings: &Settings,
    configured: &BuildEnvironment,
    before: Before<'a>,
    runner: &Runner,
) -> Result<Option<&'a Affected>> {
    if settings.check.cve != CheckScope::Changed || !settings.needs_affected() {
        return Ok(None);
    }
    let find = || affected::find(settings, configured, runner, before.access, before.dirty);
    before.affected.get_or_try_init(find).await.map(Some)
}

/// Nothing checked is never a pass.
fn worst(outcomes: &[Outcome]) -> Result<Outcome> {
    Outcome::worst(outcomes)
        .cloned()
        .ok_or_else(|| Error::internal("the check stage ran and checked nothing"))
}

async fn preflight_with_repos(
    settings: &Settings,
    configured: &BuildEnvironment,
    runner: &Runner,
) -> Result<Outcome> {
    let (repo_layers, core) = (configured.repo_layers.clone(), configured.core.clone());
    let read = move || {
        if let Some(error) = preflight::unreadable_dependency(&repo_layers) {
            return Err(error);
        }
        let core = LayerConf::read(&core).map_err(|unreadable| unreadable.of_dependency())?;
        Ok(core.core_names.as_ref().map(certain_words).unwrap_or_default())
    };
    let series = blocking(&runner.interrupt, READ, read).await?;
    let mut outcomes = Vec::new();
    for layer in &settings.layers {
        let siblings = settings.layers.iter().filter(|other| *other != layer);
        let around: Vec<PathBuf> = configured.repo_layers.iter().chain(siblings).cloned().collect();
        let (path, checkout, release) = (layer.clone(), settings.checkout.clone(), settings.release);
        let (series, machines) = (series.clone(), settings.check.machines.clone());
        let read =
            move || Ok(preflight::against_repos(&path, &checkout, release, &around, &series, &machines));
        let results = blocking(&runner.interrupt, READ, read).await?;
        let unit = Unit::new(Stage::Check, format!("preflight {} with its dependencies", name(layer)));
        outcomes.push(tell_preflight(settings, layer, unit, results, &runner.events).await);
    }
    worst(&outcomes)
}

async fn tell_preflight(
    settings: &Settings,
    layer: &Path,
    unit: Unit,
    results: Vec<PreflightCase>,
    events: &Emitter,
) -> Outcome {
    events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let mut outcome = Outcome::Passed;
    // One case for each test that will fail, whatever it lists: the test is the name by which people know the rule.
    let mut failing: Vec<(&str, Vec<PreflightCase>)> = Vec::new();
    for mut result in results {
        let known = forgiving(&settings.check.known_failures, result.predicts, &name(layer));
        if let Some(known) =
            known.filter(|_| result.level == Level::Error && result.rule != preflight::empty::RULE)
        {
            result.level = Level::Warning;
            result.message += &format!(" (known failure until {}: {})", known.expires, known.reason);
        }
        events.emit(EventKind::Finding(result.finding(&unit))).await;
        if result.level != Level::Error {
            continue;
        }
        match failing.iter_mut().find(|(test, _)| *test == result.predicts) {
            Some((_, results)) => results.push(result),
            None => failing.push((result.predicts, vec![result])),
        }
    }
    for (test, results) in failing {
        let (failed, message) = one_failure(&results);
        let (class, name) = test.rsplit_once('.').unwrap_or(("", test));
        events
            .emit(EventKind::Case(Case {
                unit: unit.clone(),
                class: class.into(),
                name: name.into(),
                outcome: failed.clone(),
                message,
                seconds: None,
            }))
            .await;
        if outcome.is_success() {
            outcome = failed;
        }
    }
    events
        .emit(EventKind::UnitFinished { unit, outcome: outcome.clone(), log: None, excerpt: Vec::new() })
        .await;
    outcome
}

/// All that makes one test fail, as one outcome and one text.
fn one_failure(results: &[PreflightCase]) -> (Outcome, String) {
    let Some(first) = results.first() else { return (Outcome::Passed, String::new()) };
    let hint = first.hint.clone();
    if results.len() == 1 {
        return (Outcome::Failed(first.message.clone()), hint.unwrap_or_default());
    }
    let entries = results.iter().map(|result| {
        let file = result.file.as_deref().map(|file| format!("{}: ", file.display()));
        format!("{}{}", file.unwrap_or_default(), result.message)
    });
    let mut lines = listing::shown(entries.collect());
    lines.extend(hint);
    (Outcome::Failed(format!("{} and {} more", first.message, results.len() - 1)), lines.join("\n"))
}

/// One `bitbake-layers` command in the build directory with all layers.
async fn bitbake_layers(
    settings: &Settings,
    configured: &BuildEnvironment,
    runner: &Runner,
    words: &[String],
) -> Result<Outcome> {
    let unit = bitbake_layers_unit(words);
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let build = &configured.build;
    let log = format!("bitbake-layers-{}", words.first().map_or("", String::as_str));
    let mut command =
        Command::new(configured.tools.bitbake.join("bin/bitbake-layers"), build, log).args(words);
    command.environment = configured.environment(build);
    command.user = configured.user.clone();
    command.status = Some(format!("{} of {}", unit.name, names(&settings.layers)));
    let output = Layers(LayersOutput::new(words, unit.clone(), &settings.checkout));
    let mut output = UntilStopped::new(output, &command.stopping);
    let ended = runner.run(command, &mut output).instrument(super::step(&unit)).await;
    let server = ServerEnd::stop(build, configured.user.as_ref(), runner).await;
    let finished = match ended {
        Ok(finished) => finished,
        Err(error) => {
            UnitEnd::error(unit, &error).report(server, &runner.events).await;
            return Err(error);
        }
    };
    let passed = finished.end == ExitReason::Exited(0);
    let contradiction = output.lines.0.contradiction().filter(|_| passed).map(|what| {
        Error::internal(format!("{} ended with exit status 0, but {what}", unit.name))
            .hint(format!("nothing is concluded from it; read `{}`", finished.log.display()))
    });
    for finding in output.lines.0.finish(passed) {
        runner.events.emit(EventKind::Finding(finding)).await;
    }
    let tail = finished.tail.join("\n");
    let fault = match finished.end {
        ExitReason::Exited(status) if status != 0 => known_layers(settings, configured).fault_of_conf(&tail),
        _ => None,
    };
    let of_dependency = fault.as_ref().filter(|fault| !fault.is_under_test);
    let dependency = of_dependency.map(|fault| crash::dependency_error(fault, &settings.checkout));
    let trouble = contradiction.or_else(|| host::trouble(&tail).filter(|_| !passed)).or(dependency);
    let outcome = match (finished.end, &trouble, &fault) {
        (ExitReason::Exited(0), None, _) => Outcome::Passed,
        (ExitReason::Exited(_), Some(error), _) => Outcome::NotRun(error.message.clone()),
        (ExitReason::Exited(_), None, Some(fault)) => {
            runner.events.emit(EventKind::Finding(crash::finding(fault, &unit, &settings.checkout))).await;
            Outcome::Failed(format!("{}: {}", fault.place(&settings.checkout), fault.why))
        }
        _ => ended_badly("bitbake-layers", &finished),
    };
    let excerpt = super::excerpt(&outcome, &finished);
    let log = Some(runner.relative_log(&finished.log));
    UnitEnd { unit, outcome: outcome.clone(), log, excerpt }.report(server, &runner.events).await;
    match (&outcome, trouble) {
        (Outcome::NotRun(_), Some(error)) => Err(error),
        _ => Ok(outcome),
    }
}

/// Hands the output of bitbake-layers to who understands it.
struct Layers(LayersOutput);

impl LineHandler for Layers {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.0.line(line);
        Vec::new()
    }
}

pub(super) fn ended_badly(tool: &str, finished: &CommandOutcome) -> Outcome {
    match finished.end {
        ExitReason::Exited(status) => Outcome::Failed(format!("{tool} ended with exit status {status}")),
        ExitReason::Signalled(9) => {
            Outcome::Failed(format!("{tool} was killed (SIGKILL); out of memory is the usual cause"))
        }
        ExitReason::Signalled(signal) => Outcome::Failed(format!("{tool} was ended by signal {signal}")),
        ExitReason::Cancelled => Outcome::Cancelled("a signal stopped the job".into()),
        ExitReason::TimedOut => Outcome::TimedOut("[limits] job is over".into()),
        ExitReason::Stalled(silent) => {
            Outcome::TimedOut(format!("{tool} was silent for {}", humantime::format_duration(silent)))
        }
    }
}
