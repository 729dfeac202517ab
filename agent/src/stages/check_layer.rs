//! yocto-check-layer for one layer: unmodified, and its verdict is the verdict. Its questions to BitBake
//! may be answered from the store of earlier answers; a verdict other than a pass never rests on one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cache::Tier;
use crate::config::Settings;
use crate::error::Result;
use crate::events::{Case, Emitter, Finding, Unit, What};
use crate::exec::{Command, End, Finished, Lines, Runner};
use crate::job::Stage;
use crate::memo::{
    Accepted, Again, Ahead, Course, Desk, Front, Place, Refusal, Schedule, Script, Sigdata, Store, Stores,
};
use crate::outcome::Outcome;
use crate::yocto::check_layer::{self, Ground, Kinds, OutputParser};
use crate::yocto::conf::Purpose;
use crate::yocto::server;

use super::check::{known_layers, name};
use super::configure::Configured;

/// Checks the layer; its outcome.
pub async fn run(
    settings: &Settings,
    configured: &Configured,
    runner: &Runner,
    layer: &Path,
) -> Result<Outcome> {
    let unit = Unit::new(Stage::Check, format!("yocto-check-layer {}", name(layer)));
    runner.events.emit(What::UnitStarted { unit: unit.clone() }).await;
    let check = Check { settings, configured, runner, layer, name: name(layer), unit: unit.clone() };
    let checked = check.to_its_verdict().await;
    let (outcome, log, excerpt) = match &checked {
        Ok((outcome, finished)) => {
            let excerpt = if outcome.is_fine() { Vec::new() } else { finished.tail.clone() };
            (outcome.clone(), Some(runner.relative_log(&finished.log)), excerpt)
        }
        Err(error) => (Outcome::NotRun(error.message.clone()), None, Vec::new()),
    };
    runner.events.emit(What::UnitFinished { unit, outcome: outcome.clone(), log, excerpt }).await;
    checked.map(|_| outcome)
}

/// One layer on its way to a verdict.
struct Check<'a> {
    settings: &'a Settings,
    configured: &'a Configured,
    runner: &'a Runner,
    layer: &'a Path,
    /// The layer directory's.
    name: String,
    unit: Unit,
}

/// One run of the tool.
struct Ran {
    verdict: check_layer::Verdict,
    /// What the known failures made of it.
    findings: Vec<Finding>,
    /// Whether the tool itself found nothing wrong.
    passed: bool,
    /// Otherwise what it found wrong.
    grounds: Vec<Ground>,
    finished: Finished,
    /// Kinds of questions that had other answers than plain ones.
    given: Kinds,
    /// Whether BitBake's files of signatures were left empty.
    forgetful: bool,
}

impl Ran {
    /// What of this verdict may not be reported, because it rests on other answers than plain ones or on
    /// files that are empty. A run that the job itself stopped is no verdict; should the job have to stop
    /// before the next run, that one says so.
    fn doubtful(&self) -> Vec<&Ground> {
        if self.passed || matches!(self.finished.end, End::Cancelled | End::TimedOut) {
            return Vec::new();
        }
        let is_doubtful = |ground: &&Ground| self.was_given(ground) || (self.forgetful && ground.compares);
        self.grounds.iter().filter(is_doubtful).collect()
    }

    fn was_given(&self, ground: &Ground) -> bool {
        !ground.kinds.is_disjoint(&self.given)
    }
}

impl Check<'_> {
    async fn to_its_verdict(&self) -> Result<(Outcome, Finished)> {
        let events = &self.runner.events;
        let mut again = Again::default();
        let mut ran = self.once(&again).await?;
        // What is asked anew has plain answers and files that are whole, so that each time there is more of it.
        while let doubtful = ran.doubtful()
            && !doubtful.is_empty()
        {
            again.runs += 1;
            again.lost += ran.finished.elapsed;
            again.anew.extend(doubtful.iter().flat_map(|ground| &ground.kinds));
            events.info(self.why_again(&ran, &doubtful, &again.anew)).await;
            ran = self.once(&again).await?;
        }
        self.tell(&mut ran, events).await;
        Ok((ran.verdict.outcome?, ran.finished))
    }

    fn why_again(&self, ran: &Ran, doubtful: &[&Ground], anew: &Kinds) -> String {
        let what: Vec<_> = doubtful.iter().map(|ground| ground.what.as_str()).collect();
        let rest = if what.len() == 1 { "rests" } else { "rest" };
        let on = if doubtful.iter().any(|ground| ran.was_given(ground)) {
            "what was stored or asked ahead"
        } else {
            "files of signatures that were left empty"
        };
        format!(
            "yocto-check-layer did not pass {}: {} {rest} on {on}; it runs again, and BitBake answers {} anew",
            self.name,
            what.join(", "),
            check_layer::kind::in_words(anew)
        )
    }

    /// What stands before BitBake, where it can be of use.
    async fn before(&self, again: &Again) -> Option<(Front, Desk)> {
        match self.desk(again) {
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

    fn desk(&self, again: &Again) -> Accepted<(Front, Desk)> {
        if !self.settings.check.memo {
            return Err(Refusal("--no-memo".into()));
        }
        let known = &self.settings.check.known_failures;
        let is_here = |layer: &Option<String>| layer.as_ref().is_none_or(|layer| *layer == self.name);
        if known.iter().any(|known| !known.expired && is_here(&known.layer)) {
            return Err(Refusal("it has known failures, so that its verdict is no plain pass".into()));
        }
        let settings = self.settings;
        let local = Store::local(settings.places.signatures(&settings.cache.trust));
        crate::memo::make_private(local.root())?;
        let stat_cache = local.root().join("stat-cache");
        let place = Place {
            build: settings.places.check(&self.name),
            bitbake: self.configured.tools.bitbake.clone(),
            oe_core: self.configured.tools.oe_core.clone(),
            user: self.configured.whoami.clone(),
            own: vec![settings.places.work.clone(), settings.places.out.clone()],
            immutable: self.immutable_stores(),
        };
        let stores = self.stores(local);
        let first = again.runs == 0;
        let sigdata = if first { Sigdata::Forgotten } else { Sigdata::Written };
        let (front, listener) = Front::make(&settings.places.work, self.configured.user.as_ref(), sigdata)?;
        let schedule = if first { Some(self.schedule(&place)?) } else { None };
        let course = Course { schedule, again: again.clone() };
        let desk = Desk::open(listener, place, stores, stat_cache, course, &self.unit, &self.runner.events);
        Ok((front, desk))
    }

    /// What is asked ahead.
    fn schedule(&self, place: &Place) -> Accepted<Schedule> {
        let (settings, user) = (self.settings, self.configured.user.as_ref());
        let rooms = settings.places.ahead(&self.name);
        let log = format!("yocto-check-layer-{}-ahead", self.name);
        let most = settings.check.side_by_side;
        let ahead = Ahead::new(self.runner, place, user, rooms, &settings.places.work, log, most)?;
        Ok(Schedule::new(ahead, Script::read(&place.oe_core, self.layer, &settings.check.machines)))
    }

    /// The share's layer stores, as the paths of their checkouts begin.
    fn immutable_stores(&self) -> Vec<PathBuf> {
        let stores = self.configured.tiers.read.iter().map(|tier| tier.share.layers());
        stores.filter_map(|store| fs_err::canonicalize(store).ok()).collect()
    }

    /// The local store first, then the tiers of the share that are really there, by their rules of trust.
    fn stores(&self, local: Store) -> Stores {
        let tiers = &self.configured.tiers;
        let shared = |tier: &Tier| Store::shared(tier.share.signatures(), tiers.write.as_ref() == Some(tier));
        let read = [local.clone()].into_iter().chain(tiers.read.iter().map(shared)).collect();
        let write = [local].into_iter().chain(tiers.write.iter().map(shared)).collect();
        Stores { read, write }
    }

    /// One run in a fresh build directory.
    async fn once(&self, again: &Again) -> Result<Ran> {
        let (settings, configured, runner) = (self.settings, self.configured, self.runner);
        let before = self.before(again).await;
        let build = settings.places.check(&self.name);
        configured.build_directory(settings, &build, &configured.foundation.layers, Purpose::CheckLayer)?;
        let mut command = self.command(&build, again.runs);
        if let Some((front, _)) = &before {
            let path = command.environment.get("PATH").unwrap_or_default();
            let path = [front.directory().as_os_str(), path].join(&OsString::from(":"));
            command.environment.set("PATH", path);
            // An answer that is asked ahead may be waited for, and another is made beside it.
            command.stall = Some(runner.stall.saturating_mul(2));
        }
        let expected = check_layer::expected(&configured.tools.oe_core)?;
        let mut tests = Tests {
            unit: &self.unit,
            total: expected.len(),
            parser: OutputParser::new(),
            running: None,
            started: 0,
        };
        let ended = runner.run(command, &mut tests).await;
        let (given, forgetful) = match before {
            Some((front, desk)) => (desk.close().await, front.forgets_signatures()),
            None => (Kinds::new(), false),
        };
        server::stop_server(&build, configured.user.as_ref(), runner.grace).await?;
        let finished = ended?;
        let parsed = tests.parser.finish();
        let mut verdict = check_layer::judge(&expected, &parsed, finished.end, &self.name);
        let layers = known_layers(settings, configured);
        let fault = check_layer::crash::fault(&verdict, &parsed, finished.end, &layers);
        if let Some(fault) = &fault {
            verdict = check_layer::crash::blame(verdict, fault, &settings.checkout);
        }
        let passed = matches!(verdict.outcome, Ok(Outcome::Passed)) && finished.success();
        let grounds = verdict.grounds();
        let known = &settings.check.known_failures;
        let (verdict, mut findings) = check_layer::apply_known(verdict, known, &self.name, &self.unit);
        findings
            .extend(fault.map(|fault| check_layer::crash::finding(&fault, &self.unit, &settings.checkout)));
        Ok(Ran { verdict, findings, passed, grounds, finished, given, forgetful })
    }

    /// `run`: how many there were before.
    fn command(&self, build: &Path, run: u64) -> Command {
        let (settings, configured) = (self.settings, self.configured);
        let siblings = settings.layers.iter().filter(|other| *other != self.layer);
        let dependencies: Vec<PathBuf> = configured
            .repo_layers
            .iter()
            .filter(|path| **path != configured.core)
            .chain(siblings)
            .cloned()
            .collect();
        let script = configured.tools.oe_core.join("scripts/yocto-check-layer");
        let log = match run {
            0 => format!("yocto-check-layer-{}", self.name),
            1 => format!("yocto-check-layer-{}-again", self.name),
            more => format!("yocto-check-layer-{}-again-{more}", self.name),
        };
        let mut command = Command::new(script, build, log).args(check_layer::arguments(
            self.layer,
            &dependencies,
            &settings.check.machines,
        ));
        command.environment = configured.environment(build);
        command.user = configured.user.clone();
        command
    }

    /// The verdict as events.
    async fn tell(&self, ran: &mut Ran, events: &Emitter) {
        let verdict = &mut ran.verdict;
        let findings = check_layer::findings(verdict, &self.unit, &self.settings.checkout);
        for finding in ran.findings.drain(..).chain(findings) {
            events.emit(What::Finding(finding)).await;
        }
        if verdict.outcome.as_ref().is_ok_and(Outcome::is_fine) && ran.finished.end != End::Exited(0) {
            let said = &verdict.tool_verdict;
            let name = &self.name;
            events
                .info(format!("yocto-check-layer itself says {said} for {name}; known failures are forgiven"))
                .await;
        }
        for case in verdict.cases.drain(..) {
            events
                .emit(What::Case(Case {
                    unit: self.unit.clone(),
                    class: case.class,
                    name: case.name,
                    outcome: case.outcome,
                    message: case.message,
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

impl Lines for Tests<'_> {
    fn line(&mut self, line: &str) -> Vec<What> {
        self.parser.line(line);
        let running = self.parser.running();
        if running == self.running.as_deref() {
            return Vec::new();
        }
        self.running = running.map(str::to_owned);
        self.started += usize::from(self.running.is_some());
        vec![What::Progress {
            unit: self.unit.clone(),
            done: self.started.saturating_sub(1) as u64,
            total: self.total as u64,
            running: self.running.iter().cloned().collect(),
        }]
    }

    fn doing(&self) -> Option<String> {
        // Before the first test the world is asked for its signatures without the layer.
        let doing = self.running.as_deref().unwrap_or("the signatures of the world without the layer");
        Some(format!("{}: {doing}", self.unit.name))
    }
}
