//! yocto-check-layer for one layer: unmodified, and its verdict is the verdict. Its queries to BitBake may be
//! answered from the signature cache; a reported failure never depends on a cached answer.

mod cache;
mod ran;
mod test_progress;

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use tracing::Instrument;

use crate::config::Settings;
use agent_cache::signature_cache::{ProvenanceSummary, Rerun};
use agent_process::{Command, CommandOutcome, ExitReason, Runner, UntilStopped};
use agent_types::error::Result;
use agent_types::events::{Case, Emitter, EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::check_layer::{self, FailureCause, Kinds, OutputParser};
use agent_yocto::conf::Purpose;

use super::cleanup::{ServerEnd, UnitEnd};
use super::configure::BuildEnvironment;
use super::layers::{dependencies, known_layers, name};
use cache::CacheOpener;
use ran::Ran;
use test_progress::Tests;

pub use cache::{Untouched, close_queries, open_queries, place};

/// From the first signal to SIGKILL. The tool ignores all other signals, and every run gets a new build
/// directory.
const GRACE: Duration = Duration::from_secs(4);

/// The check of the layer.
pub fn unit(layer: &Path) -> Unit {
    Unit::new(Stage::Check, format!("yocto-check-layer {}", name(layer)))
}

/// Checks the layer; its outcome.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    runner: &Runner,
    layer: &Path,
    untouched: &Untouched,
) -> Result<Outcome> {
    let unit = unit(layer);
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let check =
        Check { settings, configured, runner, layer, name: name(layer), unit: unit.clone(), untouched };
    let mut server = ServerEnd::default();
    let checked = check.to_its_verdict(&mut server).instrument(super::step(&unit)).await;
    let end = match &checked {
        Ok((outcome, finished)) => {
            let excerpt = super::excerpt(outcome, finished);
            let log = Some(runner.relative_log(&finished.log));
            UnitEnd { unit, outcome: outcome.clone(), log, excerpt }
        }
        Err(error) => UnitEnd::error(unit, error),
    };
    end.report(server, &runner.events).await;
    checked.map(|(outcome, _)| outcome)
}

/// One layer on its way to a verdict.
struct Check<'a> {
    settings: &'a Settings,
    configured: &'a BuildEnvironment,
    runner: &'a Runner,
    layer: &'a Path,
    /// The layer directory's.
    name: String,
    unit: Unit,
    untouched: &'a Untouched,
}

/// How long something that an earlier step left may take to go, before its end is no longer waited for.
const ALONE: Duration = Duration::from_secs(2);

/// Whether nothing runs that this job started. What does may be layer code.
pub async fn is_alone() -> bool {
    let until = Instant::now() + ALONE;
    while !agent_process::nothing_runs() {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

impl Check<'_> {
    async fn to_its_verdict(&self, server: &mut ServerEnd) -> Result<(Outcome, CommandOutcome)> {
        let events = &self.runner.events;
        let mut rerun = Rerun::default();
        // A killed job left some.
        self.remove_own_parses().await;
        let mut ran = self.once(&rerun, server).await?;
        // What BitBake answers itself is fresh, with whole files, so that each rerun has more of that.
        while let doubtful = ran.doubtful()
            && !doubtful.is_empty()
        {
            rerun.attempt += 1;
            rerun.wasted += ran.finished.elapsed;
            rerun.bypass.extend(doubtful.iter().flat_map(|cause| &cause.kinds));
            events.info(self.why_rerun(&ran, &doubtful, &rerun.bypass)).await;
            ran = self.once(&rerun, server).await?;
        }
        self.remove_own_parses().await;
        ran.withdraw_unproved();
        self.tell(&mut ran, events).await;
        Ok((ran.verdict.outcome?, ran.finished))
    }

    /// The parse caches of this check are of no use to another one.
    async fn remove_own_parses(&self) {
        let paths = &self.settings.paths;
        let (own_parses, work) = (paths.own_parses(&self.name), paths.work.clone());
        let removed =
            tokio::task::spawn_blocking(move || agent_fs::remove::remove_tree(&own_parses, &work)).await;
        if let Ok(Err(error)) = removed {
            self.runner.events.warn(error.message, error.hint).await;
        }
    }

    fn why_rerun(&self, ran: &Ran, doubtful: &[&FailureCause], bypass: &Kinds) -> String {
        let what: Vec<_> = doubtful.iter().map(|cause| cause.what.as_str()).collect();
        let depend = if what.len() == 1 { "depends" } else { "depend" };
        let on = if doubtful.iter().any(|cause| ran.was_given(cause)) {
            "cached answers"
        } else {
            "signature files that were not written"
        };
        format!(
            "yocto-check-layer did not pass {}: {} {depend} on {on}; it runs again, and BitBake itself answers {}",
            self.name,
            what.join(", "),
            check_layer::kind::in_words(bypass)
        )
    }

    fn cache_opener(&self) -> CacheOpener<'_> {
        CacheOpener {
            settings: self.settings,
            configured: self.configured,
            runner: self.runner,
            layer: self.layer,
            name: &self.name,
            unit: &self.unit,
            untouched: self.untouched,
        }
    }

    /// One run in a fresh build directory. `server` gets the end of its BitBake server.
    async fn once(&self, rerun: &Rerun, server: &mut ServerEnd) -> Result<Ran> {
        let (settings, configured, runner) = (self.settings, self.configured, self.runner);
        let build = settings.paths.check(&self.name);
        // Before the directory is made, so that nothing can have changed it.
        let alone = is_alone().await;
        let layers = &configured.base_layers.layers;
        let purpose = Purpose::CheckLayer;
        let conf = configured.empty_directory(settings, &build, layers, purpose, runner).await?;
        let mut command = self.command(&build, rerun.attempt);
        let before = self.cache_opener().open(rerun, conf, alone, &command.activity).await;
        if let Some((shim_dir, _)) = &before {
            let path = command.environment.get("PATH").unwrap_or_default();
            let path = [shim_dir.directory().as_os_str(), path].join(&OsString::from(":"));
            command.environment.set("PATH", path);
        }
        let recorder = check_layer::Recorder::attach(&mut command)?;
        let expected = check_layer::expected(&configured.tools.oe_core)?;
        let parser = OutputParser::until(recorder.as_ref().map(|recorder| recorder.sentinel.clone()));
        let tests = Tests::new(&self.unit, expected.len(), parser);
        let stopping = command.stopping.clone();
        let mut tests = UntilStopped::new(tests, &stopping);
        let ended = {
            let mut running = pin!(runner.run(command, &mut tests));
            tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    // The tool takes a signal for an order to put bblayers.conf back, and goes on to the next test.
                    if let Some((shim_dir, cache_server)) = &before {
                        shim_dir.start_nothing();
                        cache_server.stop();
                    }
                    running.await
                }
                ended = &mut running => ended,
            }
        };
        let given = match before {
            Some((_shim_dir, cache_server)) => cache_server.close().await,
            None => ProvenanceSummary::default(),
        };
        *server = ServerEnd::stop(&build, configured.user.as_ref(), runner).await;
        let finished = ended?;
        let parsed = tests.lines.parser.finish();
        let mut verdict = check_layer::judge(&expected, &parsed, finished.end, &self.name);
        if let Some(recorder) = recorder {
            verdict = check_layer::confirm(verdict, &parsed, &recorder.read(), finished.end, &self.name);
        }
        let layers = known_layers(settings, configured);
        let fault = check_layer::crash::fault(&verdict, &parsed, finished.end, &layers);
        if let Some(fault) = &fault {
            verdict = check_layer::crash::blame(verdict, fault, &settings.checkout);
        }
        let passed = matches!(verdict.outcome, Ok(Outcome::Passed)) && finished.success();
        let failure_causes = verdict.failure_causes();
        let known = &settings.check.known_failures;
        let (verdict, mut findings) = check_layer::apply_known(verdict, known, &self.name, &self.unit);
        findings
            .extend(fault.map(|fault| check_layer::crash::finding(&fault, &self.unit, &settings.checkout)));
        Ok(Ran { verdict, findings, passed, failure_causes, finished, given })
    }

    /// `run`: how many there were before.
    fn command(&self, build: &Path, run: u64) -> Command {
        let (settings, configured) = (self.settings, self.configured);
        let script = configured.tools.oe_core.join("scripts/yocto-check-layer");
        let log = match run {
            0 => format!("yocto-check-layer-{}", self.name),
            1 => format!("yocto-check-layer-{}-again", self.name),
            more => format!("yocto-check-layer-{}-again-{more}", self.name),
        };
        let mut command = Command::new(script, build, log).args(check_layer::arguments(
            self.layer,
            &dependencies(settings, configured, self.layer),
            &settings.check.machines,
        ));
        command.environment = configured.environment(build);
        command.user = configured.user.clone();
        command.grace = Some(GRACE);
        command
    }

    /// The verdict as events.
    async fn tell(&self, ran: &mut Ran, events: &Emitter) {
        let verdict = &mut ran.verdict;
        let findings = check_layer::findings(verdict, &self.unit, &self.settings.checkout);
        for finding in ran.findings.drain(..).chain(findings) {
            events.emit(EventKind::Finding(finding)).await;
        }
        if verdict.outcome.as_ref().is_ok_and(Outcome::is_success)
            && ran.finished.end != ExitReason::Exited(0)
        {
            let said = &verdict.tool_verdict;
            let name = &self.name;
            events
                .info(format!("yocto-check-layer itself says {said} for {name}; known failures are forgiven"))
                .await;
        }
        for case in verdict.cases.drain(..) {
            events
                .emit(EventKind::Case(Case {
                    unit: self.unit.clone(),
                    message: check_layer::shortened(&case.name, &case.message),
                    class: case.class,
                    name: case.name,
                    outcome: case.outcome,
                    seconds: None,
                }))
                .await;
        }
    }
}
