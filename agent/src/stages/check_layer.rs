//! yocto-check-layer for one layer: unmodified, and its verdict is the verdict. Its questions to BitBake
//! may be answered from the store of earlier answers; a verdict other than a pass never rests on one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use tracing::Instrument;

use crate::config::Settings;
use agent_cache::signature_cache::{
    Admission, BitbakeRunner, CacheResult, CacheServer, Digest, NotCacheable, Place, ProvenanceSummary,
    QueryPlan, Rerun, RunOptions, ShimDir, StatCache, Store, Stores, WrittenConf, runs_code, trees_of,
};
use agent_process::{
    ActivityClock, Command, CommandOutcome, ExitReason, Interrupt, LineHandler, Runner, UntilStopped,
};
use agent_types::error::Result;
use agent_types::events::{Case, Emitter, EventKind, Finding, Phase, Progress, Running, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_types::tiers::Tier;
use agent_yocto::check_layer::{self, FailureCause, Kinds, OutputParser};
use agent_yocto::conf::Purpose;

use super::check::{known_layers, name};
use super::cleanup::{ServerEnd, UnitEnd};
use super::configure::BuildEnvironment;

/// From the first signal to SIGKILL. The tool ignores all other signals, and its build directory is made anew
/// for every run.
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

/// The checkouts of the layers under test, as they were before any layer code ran.
pub struct Untouched(BTreeMap<String, Digest>);

impl Untouched {
    pub async fn of(settings: &Settings, configured: &BuildEnvironment, interrupt: &Interrupt) -> Untouched {
        if !settings.check.memo || !settings.check.yocto_check_layer {
            return Untouched(BTreeMap::new());
        }
        let (place, layers) = (place(settings, configured, Path::new("")), settings.layers.clone());
        let around = configured.repo_layers.clone();
        let stat_cache = stat_cache(settings);
        let read = move || Ok(trees_of(&place, &layers, &around, &StatCache::load(&stat_cache)));
        // Without them nothing is stored.
        let trees = super::blocking(interrupt, "the layers were read", read).await;
        Untouched(trees.unwrap_or_default())
    }
}

/// Where digests of files are kept between runs.
fn stat_cache(settings: &Settings) -> PathBuf {
    settings.paths.signatures(&settings.cache.trust).join("stat-cache")
}

/// Where BitBake runs for the check in this build directory.
fn place(settings: &Settings, configured: &BuildEnvironment, build: &Path) -> Place {
    Place {
        build: build.to_owned(),
        bitbake: configured.tools.bitbake.clone(),
        oe_core: configured.tools.oe_core.clone(),
        user: configured.whoami.clone(),
        own: vec![settings.paths.work.clone(), settings.paths.out.clone()],
        immutable: immutable_stores(configured),
    }
}

/// The share's layer stores, as the paths of their checkouts begin.
fn immutable_stores(configured: &BuildEnvironment) -> Vec<PathBuf> {
    let stores = configured.tiers.read.iter().map(|tier| tier.share.layers());
    stores.filter_map(|store| fs_err::canonicalize(store).ok()).collect()
}

/// How long something that an earlier step left may take to go, before its end is no longer waited for.
const ALONE: Duration = Duration::from_secs(2);

/// Whether nothing runs that this job started. What does may be layer code.
async fn is_alone() -> bool {
    let until = Instant::now() + ALONE;
    while !agent_process::nothing_runs() {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// One run of the tool.
struct Ran {
    verdict: check_layer::Verdict,
    /// What the known failures made of it.
    findings: Vec<Finding>,
    /// Whether the tool itself found nothing wrong.
    passed: bool,
    /// Otherwise what it found wrong.
    failure_causes: Vec<FailureCause>,
    finished: CommandOutcome,
    /// What its answers stood on.
    given: ProvenanceSummary,
}

impl Ran {
    /// What of this verdict may not be reported, because it rests on other answers than fresh ones or on
    /// files that are empty or not there. A run that was stopped is no verdict, and is never repeated: see
    /// [`Ran::withdraw_unproved`].
    fn doubtful(&self) -> Vec<&FailureCause> {
        if self.passed || !matches!(self.finished.end, ExitReason::Exited(_) | ExitReason::Signalled(_)) {
            return Vec::new();
        }
        let is_doubtful = |cause: &&FailureCause| self.was_given(cause) || self.has_no_files(cause);
        self.failure_causes.iter().filter(is_doubtful).collect()
    }

    fn was_given(&self, cause: &FailureCause) -> bool {
        !cause.kinds.is_disjoint(&self.given.stored)
    }

    /// Whether it compares files of signatures that are not where the tool looks for them.
    fn has_no_files(&self, cause: &FailureCause) -> bool {
        cause.uses_sigdata && (self.given.discarded || !cause.kinds.is_disjoint(&self.given.elsewhere))
    }

    /// A test that failed before the run was stopped stays failed, unless it rests on a cached answer: the run
    /// would have been repeated without it.
    fn withdraw_unproved(&mut self) {
        let why = |stopped: &str| {
            format!("it failed with a cached answer, and {stopped} before the check was repeated without")
        };
        let outcome = match self.finished.end {
            ExitReason::Cancelled => Outcome::Cancelled(why("the job was stopped")),
            ExitReason::TimedOut => Outcome::TimedOut(why("the job was stopped")),
            ExitReason::Stalled(silent) => {
                let silent = humantime::format_duration(silent);
                Outcome::TimedOut(why(&format!("yocto-check-layer was stopped after {silent} of silence")))
            }
            ExitReason::Exited(_) | ExitReason::Signalled(_) => return,
        };
        for case in &mut self.verdict.cases {
            let is_given =
                !check_layer::kind::depends_on(&case.name, &case.message).is_disjoint(&self.given.stored);
            if is_given && matches!(case.outcome, Outcome::Failed(_)) {
                case.outcome = outcome.clone();
            }
        }
    }
}

impl Check<'_> {
    async fn to_its_verdict(&self, server: &mut ServerEnd) -> Result<(Outcome, CommandOutcome)> {
        let events = &self.runner.events;
        let mut rerun = Rerun::default();
        // A killed job left some.
        self.remove_own_parses().await;
        let mut ran = self.once(&rerun, server).await?;
        // What is asked anew has plain answers and files that are whole, so that each time there is more of it.
        while let doubtful = ran.doubtful()
            && !doubtful.is_empty()
        {
            rerun.attempt += 1;
            rerun.wasted += ran.finished.elapsed;
            rerun.bypass.extend(doubtful.iter().flat_map(|cause| &cause.kinds));
            events.info(self.why_again(&ran, &doubtful, &rerun.bypass)).await;
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

    fn why_again(&self, ran: &Ran, doubtful: &[&FailureCause], bypass: &Kinds) -> String {
        let what: Vec<_> = doubtful.iter().map(|cause| cause.what.as_str()).collect();
        let rest = if what.len() == 1 { "rests" } else { "rest" };
        let on = if doubtful.iter().any(|cause| ran.was_given(cause)) {
            "stored answers"
        } else {
            "files of signatures that were not written"
        };
        format!(
            "yocto-check-layer did not pass {}: {} {rest} on {on}; it runs again, and BitBake answers {} anew",
            self.name,
            what.join(", "),
            check_layer::kind::in_words(bypass)
        )
    }

    /// What stands before BitBake, where it can be of use.
    async fn before(
        &self,
        rerun: &Rerun,
        conf: WrittenConf,
        alone: bool,
        tool: &ActivityClock,
    ) -> Option<(ShimDir, CacheServer)> {
        match self.cache_server(rerun, conf, alone, tool).await {
            Ok(opened) => Some(opened),
            Err(refusal) => {
                if self.settings.check.memo {
                    let message = format!("stored signatures are not used for {}: {refusal}", self.name);
                    self.runner.events.info(message).await;
                }
                None
            }
        }
    }

    async fn cache_server(
        &self,
        rerun: &Rerun,
        conf: WrittenConf,
        alone: bool,
        tool: &ActivityClock,
    ) -> CacheResult<(ShimDir, CacheServer)> {
        if !self.settings.check.memo {
            return Err(NotCacheable("--no-memo".into()));
        }
        let known = &self.settings.check.known_failures;
        let is_here = |layer: &Option<String>| layer.as_ref().is_none_or(|layer| *layer == self.name);
        if known.iter().any(|known| !known.expired && is_here(&known.layer)) {
            return Err(NotCacheable("it has known failures, so that its verdict is no plain pass".into()));
        }
        let settings = self.settings;
        let trust = &settings.cache.trust;
        let local = Store::local(settings.paths.signatures(trust));
        agent_cache::signature_cache::make_private(local.root())?;
        let place = place(settings, self.configured, &settings.paths.check(&self.name));
        let stores = self.stores(local);
        let first = rerun.attempt == 0;
        let user = self.configured.user.as_ref();
        let (shim_dir, listener) = ShimDir::make(&settings.paths.work, user)?;
        let admission = self.admission(&place, conf, alone)?;
        let prefetches = first && settings.check.prefetch;
        let plan = prefetches.then(|| QueryPlan::read(&place.oe_core, &settings.check.machines));
        let scratch_root = settings.paths.ahead(&self.name);
        let most = settings.check.side_by_side;
        let work = &settings.paths.work;
        let mut bitbake = BitbakeRunner::new(self.runner, &place, user, scratch_root, work, &self.name, most)
            .on_behalf_of(tool);
        bitbake.remove_scratch_dirs().await?;
        if first
            && !settings.check.write_signatures
            && let Err(reason) = bitbake.discard_signature_files()
        {
            let message = format!("BitBake writes its signature files, which takes longer: {reason}");
            self.runner.events.info(message).await;
        }
        // Other versions of a layer use them: what one version's code wrote must be trusted with the next one.
        let keep_parses = trust.is_trusted() || user.is_none();
        let own_parses = settings.paths.own_parses(&self.name);
        let options = RunOptions { bitbake, plan, rerun: rerun.clone(), admission, keep_parses, own_parses };
        let stat_cache = stat_cache(settings);
        let cache_server =
            CacheServer::open(listener, place, stores, stat_cache, options, &self.unit, &self.runner.events);
        Ok((shim_dir, cache_server))
    }

    /// What must be so of an answer that is kept.
    fn admission(&self, place: &Place, conf: WrittenConf, alone: bool) -> std::io::Result<Admission> {
        let given = self.configured.environment(&place.build);
        let environment = given.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut may_add = BTreeSet::new();
        let mut runs_early = Vec::new();
        for layer in self.dependencies().iter().map(PathBuf::as_path).chain([self.layer]) {
            let layer = fs_err::canonicalize(layer)?;
            let conf =
                agent_fs::untrusted::read_text(&layer.join("conf/layer.conf"), agent_fs::untrusted::PAGE);
            let why = match conf {
                Ok(text) => runs_code(&text),
                Err(error) => Some(error.to_string()),
            };
            runs_early.extend(why.map(|why| (layer.clone(), why)));
            may_add.insert(layer);
        }
        Ok(Admission {
            layer: fs_err::canonicalize(self.layer)?,
            conf,
            may_add,
            environment,
            oe_core: place.oe_core.clone(),
            machines: self.settings.check.machines.clone(),
            runs_early,
            not_alone: (!alone).then(|| "something that an earlier step started was still running".into()),
            trees: self.untouched.0.clone(),
        })
    }

    /// The local store first, then the tiers of the share that are really there, by their rules of trust.
    fn stores(&self, local: Store) -> Stores {
        let tiers = &self.configured.tiers;
        let shared = |tier: &Tier| Store::shared(tier.share.signatures(), tiers.write.as_ref() == Some(tier));
        let read = [local.clone()].into_iter().chain(tiers.read.iter().map(shared)).collect();
        let write = [local].into_iter().chain(tiers.write.iter().map(shared)).collect();
        Stores { read, write }
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
        let before = self.before(rerun, conf, alone, &command.activity).await;
        if let Some((shim_dir, _)) = &before {
            let path = command.environment.get("PATH").unwrap_or_default();
            let path = [shim_dir.directory().as_os_str(), path].join(&OsString::from(":"));
            command.environment.set("PATH", path);
        }
        let recorder = check_layer::Recorder::attach(&mut command)?;
        let expected = check_layer::expected(&configured.tools.oe_core)?;
        let tests = Tests {
            unit: &self.unit,
            total: expected.len(),
            parser: OutputParser::until(recorder.as_ref().map(|recorder| recorder.sentinel.clone())),
            running: None,
            started: 0,
        };
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

    /// All layers but OE-Core's and the one under test.
    fn dependencies(&self) -> Vec<PathBuf> {
        let siblings = self.settings.layers.iter().filter(|other| *other != self.layer);
        let repos = self.configured.repo_layers.iter().filter(|path| **path != self.configured.core);
        repos.chain(siblings).cloned().collect()
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
            &self.dependencies(),
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

/// Follows the tests of yocto-check-layer, and tells which one runs: each takes minutes.
struct Tests<'a> {
    unit: &'a Unit,
    total: usize,
    parser: OutputParser,
    running: Option<String>,
    started: usize,
}

impl LineHandler for Tests<'_> {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.parser.line(line);
        let running = self.parser.running();
        if running == self.running.as_deref() {
            return Vec::new();
        }
        self.running = running.map(str::to_owned);
        self.started += usize::from(self.running.is_some());
        let running = self.running.iter().map(|test| Running { name: test.clone(), seconds: 0 });
        vec![EventKind::Progress(Progress {
            done: self.started.saturating_sub(1) as u64,
            total: self.total as u64,
            running: running.collect(),
            ..Progress::new(self.unit, "", Phase::Tests)
        })]
    }

    fn status(&self) -> Option<String> {
        // Before the first test the world is asked for its signatures without the layer.
        let status = self.running.as_deref().unwrap_or("the signatures of the world without the layer");
        Some(format!("{}: {status}", self.unit.name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_yocto::check_layer::{JudgedCase, Kind, Verdict};

    /// A failure may not be reported from a cached answer, and the run that would have shown it is not made.
    #[test]
    fn of_a_stopped_run_only_failures_without_cached_answers_stay() {
        let silent = ExitReason::Stalled(Duration::from_secs(60));
        for (end, given, wanted) in [
            (ExitReason::Cancelled, vec![], ["failed", "failed", "passed"]),
            (ExitReason::Cancelled, vec![Kind::World], ["failed", "failed", "passed"]),
            (ExitReason::Cancelled, vec![Kind::Parses], ["failed", "cancelled", "passed"]),
            (ExitReason::TimedOut, vec![Kind::Parses], ["failed", "timed-out", "passed"]),
            (silent, vec![Kind::Parses], ["failed", "timed-out", "passed"]),
            // These are repeated.
            (ExitReason::Exited(2), vec![Kind::Parses], ["failed", "failed", "passed"]),
            (ExitReason::Signalled(9), vec![Kind::Parses], ["failed", "failed", "passed"]),
        ] {
            let bad = || Outcome::Failed("bad".into());
            let cases = [("test_readme", bad()), ("test_parse", bad()), ("test_world", Outcome::Passed)];
            let case = |(name, outcome): (&str, Outcome)| JudgedCase {
                class: "common.CommonCheckLayer".into(),
                name: name.into(),
                outcome,
                message: String::new(),
            };
            let verdict = Verdict {
                outcome: Ok(Outcome::Cancelled("x".into())),
                cases: cases.map(case).to_vec(),
                tool_verdict: String::new(),
                by_cases: false,
            };
            let elapsed = Duration::ZERO;
            let finished = CommandOutcome { end, log: "/x".into(), bytes: 0, elapsed, tail: Vec::new() };
            let cause = FailureCause {
                what: "test_parse".into(),
                kinds: Kinds::from([Kind::Parses]),
                uses_sigdata: true,
            };
            let (passed, failure_causes) = (false, vec![cause]);
            let given =
                ProvenanceSummary { stored: given.into_iter().collect(), ..ProvenanceSummary::default() };
            let findings = Vec::new();
            let mut ran = Ran { verdict, findings, passed, failure_causes, finished, given };
            let is_repeated = matches!(end, ExitReason::Exited(_) | ExitReason::Signalled(_));
            assert_eq!(!ran.doubtful().is_empty(), is_repeated, "{end:?}");
            ran.withdraw_unproved();
            let words: Vec<_> = ran.verdict.cases.iter().map(|case| case.outcome.word()).collect();
            assert_eq!(words, wanted, "{end:?}");
        }
    }
}
