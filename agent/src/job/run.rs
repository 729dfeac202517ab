//! Runs the stages of a plan, one after another, each with the outputs of the earlier ones.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::OnceCell;
use tracing::Instrument;
use tracing::field::Empty;

use crate::config::{Moment, Settings};
use crate::stages::configure::{BuildEnvironment, Reuse};
use crate::stages::pending::Pending;
use crate::stages::share::OpenShare;
use crate::stages::{
    self, affected, base_result, build, check, checkout, configure, device, hooks, share, test,
};
use agent_cache::Usage;
use agent_git::Access;
use agent_process::credentials::CredentialSources;
use agent_process::{Interrupt, JobRules, Runner};
use agent_types::affected::Affected;
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, JobIdentity, JobStarted, SCHEMA};
use agent_types::outcome::Outcome;
use agent_types::prices::JobPrices;

use super::credentials::{CredentialCheck, end_isolation, start_check};
use super::disk_use::DiskUse;
use super::flight_recorder::FlightRecorder;
use super::machine_check::check_machine;
use super::publish_stage::PublishStage;
use super::test_stage;
use super::{Plan, Step, StopNotice, end_leftovers};
use agent_types::stage::Stage;

/// What the stages have handed over so far.
#[derive(Default)]
struct Outputs {
    under_test: checkout::UnderTest,
    share: OpenShare,
    /// Held until the last stage that uses the share is over.
    lease: Option<share::notes::JobLease>,
    checkout: Option<checkout::Checkout>,
    configured: Option<configure::BuildEnvironment>,
    /// What the change affects, once a stage asked.
    affected: OnceCell<Affected>,
    /// The check stage's first step, if it has one.
    preflight: Option<Outcome>,
    usage: Usage,
}

/// What a job reports at its beginning, in addition to its settings.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// They come after those of the settings.
    pub notices: Vec<String>,
    pub prices: JobPrices,
}

/// Runs the job to its end. Everything that happens is an event on `runner.events`; the verdict is computed from them.
pub async fn run(
    settings: &Settings,
    opening: Opening,
    plan: &Plan,
    runner: &Runner,
    access: &Access,
    credentials: &CredentialSources,
    flight_recorder: &mut FlightRecorder,
) {
    let events = &runner.events;
    let started = JobStarted {
        schema: SCHEMA.into(),
        agent: env!("CARGO_PKG_VERSION").into(),
        job: settings.job.clone(),
        plan: plan.stages.clone(),
        fail_on: settings.report.fail_on,
        change_scope: stages::change_scope(settings),
        prices: Some(opening.prices).filter(|prices| *prices != JobPrices::default()),
        reproduction: Some(settings.reproduction.clone()),
    };
    events.emit(EventKind::JobStarted(Box::new(started))).await;
    let notice = StopNotice::watch(&runner.interrupt, events, settings.limits.grace);
    for notice in settings.notices.iter().chain(&opening.notices) {
        events.info(notice).await;
    }
    for (warning, hint) in &settings.warnings {
        events.warn(warning, Some(hint.clone())).await;
    }

    if let Some(last) = &flight_recorder.last_attempt {
        events.warn(last.message(), Some(last.hint())).await;
    }
    if let Err(error) = flight_recorder.start(events) {
        events.info(format!("no flight recorder: {error}").replace('\n', " ")).await;
    }

    let mut job = Job {
        settings,
        runner,
        access,
        outputs: Outputs::default(),
        outcomes: BTreeMap::new(),
        stopped: None,
        failed: None,
    };
    job.end_stale_processes().await;
    let mut check = job.keep_from_credentials(plan, credentials);
    let mut rules = JobRules::default();
    job.verify_machine(plan).await;
    let disk_use = job.check_disk_space(plan).await;
    job.look_at_checkout().await;
    for step in plan.steps(settings) {
        match step {
            Step::Preflight => job.preflight().await,
            Step::Stage(planned) => {
                // The first stages may run layer code already.
                if let Some(check) = check.take() {
                    rules = check.report(settings, runner).await;
                }
                job.stage(planned.stage, planned.skip.as_deref()).await;
            }
        }
    }
    job.compare().await;
    if let Some(disk_use) = disk_use {
        // Without it the next job has no estimate.
        let passed = job.outcomes.values().all(Outcome::is_success);
        let _ = disk_use.store_unless_stopped(passed, &runner.interrupt).await;
    }
    end_isolation(rules, settings, runner).await;
    if let Some(lease) = job.outputs.lease.take() {
        share::notes::release(lease, events).await;
    }
    let served = job.outputs.configured.as_ref().map_or(&[][..], BuildEnvironment::served);
    share::bucket::tell_traffic(&job.outputs.share.bucket, served, &settings.cache.prices, events).await;
    flight_recorder.stop().await;
    notice.end().await;
}

struct Job<'a> {
    settings: &'a Settings,
    runner: &'a Runner,
    /// How git gets to the servers.
    access: &'a Access,
    outputs: Outputs,
    /// Of the stages that are over.
    outcomes: BTreeMap<Stage, Outcome>,
    /// Why later stages do not run.
    stopped: Option<String>,
    /// The first stage that did not pass, in a sentence.
    failed: Option<String>,
}

impl Job<'_> {
    /// Which commit is under test.
    async fn look_at_checkout(&mut self) {
        match checkout::look(self.settings, &self.runner.for_stage(Stage::Checkout)).await {
            Ok(found) => {
                let (commit, tree) = (found.commit.clone(), found.tree.clone());
                self.runner.events.emit(EventKind::UnderTest { commit, dirty: found.dirty, tree }).await;
                self.outputs.under_test = found;
            }
            Err(error) => {
                self.stopped = Some(error.message.clone());
                self.runner.events.emit(EventKind::Error { stage: Some(Stage::Checkout), error }).await;
            }
        }
    }

    /// What the layer's own files already say. A failure ends the check stage before its turn.
    async fn preflight(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        let outcome = match check::preflight(self.settings, self.runner).await {
            Ok(outcome) => outcome,
            // The stages see the stop by themselves.
            Err(_) if self.runner.interrupt.state().is_some() => return,
            Err(error) => {
                self.stopped = Some(error.message.clone());
                self.runner.events.emit(EventKind::Error { stage: Some(Stage::Check), error }).await;
                return;
            }
        };
        if !outcome.is_success() && !self.settings.check.keep_going {
            let why = "the preflight failed; --keep-going runs the rest all the same";
            self.not_reached(Stage::Check, why).await;
            self.finish(Stage::Check, outcome.clone()).await;
            self.stopped = Some(why.into());
        }
        self.outputs.preflight = Some(outcome);
    }

    /// Ends the processes that a killed agent left running.
    async fn end_stale_processes(&mut self) {
        if let Err(error) = end_leftovers(self.settings, self.runner).await {
            self.stopped = Some(error.message.clone());
            self.runner.events.emit(EventKind::Error { stage: None, error }).await;
        }
    }

    /// Closes the build's credentials to layer code before any of it runs, and tests the result.
    fn keep_from_credentials(&self, plan: &Plan, credentials: &CredentialSources) -> Option<CredentialCheck> {
        let stages = [Stage::Checkout, Stage::Configure, Stage::Check, Stage::Build, Stage::Test];
        let runs_code = stages.into_iter().any(|stage| plan.runs(stage)) || !self.settings.hooks.is_empty();
        if self.stopped.is_some() || !runs_code {
            return None;
        }
        Some(start_check(self.settings, credentials, self.runner))
    }

    /// Checks the machine first: on one that is not ready, BitBake fails late and with misleading messages.
    async fn verify_machine(&mut self, plan: &Plan) {
        if self.stopped.is_some() || !plan.runs_bitbake() {
            return;
        }
        let Err(error) = check_machine(self.settings, plan.runs(Stage::Check), self.runner).await else {
            return;
        };
        self.stopped = Some(error.message.clone());
        self.runner.events.emit(EventKind::Error { stage: None, error }).await;
    }

    /// Warns if the job may not fit on the disk.
    async fn check_disk_space(&self, plan: &Plan) -> Option<DiskUse> {
        if self.stopped.is_some() || !plan.runs_bitbake() {
            return None;
        }
        let disk_use = DiskUse::of(self.settings);
        if let Some((message, hint)) = disk_use.warning() {
            self.runner.events.warn(message, Some(hint)).await;
        }
        Some(disk_use)
    }

    async fn stage(&mut self, stage: Stage, skip: Option<&str>) {
        if self.outcomes.contains_key(&stage) {
            return;
        }
        if let Some(why) = skip {
            let outcome = Outcome::Skipped(why.into());
            self.skip_hooks(&[Moment::Before(stage), Moment::After(stage)], &outcome).await;
            return self.finish(stage, outcome).await;
        }
        if let Some(why) = self.stopped.clone().filter(|_| !stage.survives_failure()) {
            self.not_reached(stage, &why).await;
            return self.finish(stage, Outcome::NotRun(why)).await;
        }
        self.runner.events.emit(EventKind::StageStarted { stage }).await;
        let span = tracing::info_span!("stage", name = stage.name(), outcome = Empty);
        let interrupted = self.runner.interrupt.state();
        let outcome = match interrupted.filter(|_| !stage.survives_failure()) {
            Some(why) => {
                let outcome = stages::interrupted(why);
                self.not_reached(stage, outcome.reason().unwrap_or_default()).await;
                Ok(outcome)
            }
            None => self.run(stage).instrument(span.clone()).await,
        };
        let outcome = outcome.unwrap_or_else(|error| stages::error_outcome(&error));
        span.record("outcome", outcome.word());
        if !outcome.is_success() {
            let why = format!("{stage} did not pass");
            // Whether a failure is new is known at the end, and one that is not must not hide others.
            let is_compared = matches!(stage, Stage::Check | Stage::Build | Stage::Test);
            let failed = matches!(outcome, Outcome::Failed(_)) && is_compared;
            let goes_on = failed && !self.settings.report.fail_on.is_all();
            if !goes_on {
                self.stopped.get_or_insert_with(|| why.clone());
            }
            self.failed.get_or_insert(why);
        }
        self.finish(stage, outcome).await;
    }

    async fn run(&mut self, stage: Stage) -> Result<Outcome> {
        let result = self.between_hooks(stage).await;
        if let Err(error) = &result {
            tracing::error!("{error}");
            self.runner.events.emit(EventKind::Error { stage: Some(stage), error: error.clone() }).await;
        }
        result
    }

    /// Finds out what the change affects, unless an earlier stage did.
    async fn find_affected(&self, stage: Stage) -> Result<()> {
        let configured = needs(&self.outputs.configured, Stage::Configure, stage)?;
        let runner = &self.runner.for_stage(stage);
        let dirty = self.outputs.under_test.dirty;
        let find = || affected::find(self.settings, configured, runner, self.access, dirty);
        self.outputs.affected.get_or_try_init(find).await?;
        Ok(())
    }

    /// Runs the stage with its hooks. A stage that saves results after a stop also runs if a hook failed.
    async fn between_hooks(&mut self, stage: Stage) -> Result<Outcome> {
        let runner = self.runner.for_stage(stage);
        let (before, after) = (Moment::Before(stage), Moment::After(stage));
        let started = self.hooks(before, &runner).await;
        let not_started = match &started {
            Ok(outcome) => outcome.as_ref().filter(|outcome| !outcome.is_success()).and_then(Outcome::reason),
            Err(error) => Some(error.message.as_str()),
        };
        let saves = stage.survives_failure() && runner.interrupt.state().is_some();
        if let Some(why) = not_started.filter(|_| !saves) {
            let why = format!("not started: {why}");
            self.units_not_run(stage, &why).await;
            self.skip_hooks(&[after], &Outcome::NotRun(why)).await;
            return started.map(|outcome| outcome.unwrap_or(Outcome::Passed));
        }
        let outcome = self.dispatch(stage).await;
        let failed = match &outcome {
            Ok(outcome) if outcome.is_success() => None,
            Ok(outcome) => outcome.reason().map(str::to_owned),
            Err(error) => Some(error.message.clone()),
        };
        if let Some(why) = failed {
            self.skip_hooks(&[after], &Outcome::NotRun(format!("not started: {why}"))).await;
            return outcome;
        }
        let ended = self.hooks(after, &runner).await?;
        // A hook can only make the outcome worse.
        let outcome = outcome?;
        let hooks = [started?, ended].into_iter().flatten().filter(|hook| !hook.is_success());
        let all: Vec<Outcome> = std::iter::once(outcome.clone()).chain(hooks).collect();
        Ok(Outcome::worst(&all).cloned().unwrap_or(outcome))
    }

    async fn hooks(&self, moment: Moment, runner: &Runner) -> Result<Option<Outcome>> {
        hooks::run(self.settings, self.outputs.configured.as_ref(), moment, runner).await
    }

    async fn skip_hooks(&self, moments: &[Moment], outcome: &Outcome) {
        for moment in moments {
            hooks::skip_all(self.settings, *moment, outcome, &self.runner.for_stage(moment.stage())).await;
        }
    }

    /// Reports the steps and hooks of a stage that is not reached.
    async fn not_reached(&self, stage: Stage, why: &str) {
        self.units_not_run(stage, why).await;
        let outcome = Outcome::NotRun(why.to_owned());
        self.skip_hooks(&[Moment::Before(stage), Moment::After(stage)], &outcome).await;
    }

    async fn dispatch(&mut self, stage: Stage) -> Result<Outcome> {
        if matches!(stage, Stage::Build | Stage::Test) && self.settings.needs_affected() {
            let found = self.find_affected(stage).await;
            if let Err(error) = found {
                self.units_not_run(stage, &format!("not started: {}", error.message)).await;
                return Err(error);
            }
        }
        let job = self.identity();
        let Job { settings, runner, access, outputs, stopped, failed, .. } = self;
        let runner = &runner.for_stage(stage);
        match stage {
            Stage::Checkout => {
                outputs.share = share::look(settings, runner).await?;
                let checkout = checkout::run(settings, &outputs.share, runner, access).await?;
                outputs.lease =
                    share::notes::lease(settings, &outputs.share, &checkout.shared_entries, &runner.events)
                        .await;
                outputs.checkout = Some(checkout);
                Ok(Outcome::Passed)
            }
            Stage::Configure => {
                let checkout = needs(&outputs.checkout, Stage::Checkout, stage)?;
                outputs.configured = Some(
                    configure::run(settings, checkout, &outputs.share, Reuse::AsConfigured, runner).await?,
                );
                Ok(Outcome::Passed)
            }
            Stage::Check => {
                let configured = needs(&outputs.configured, Stage::Configure, stage)?;
                let before = check::Before {
                    preflight: outputs.preflight.as_ref(),
                    dirty: outputs.under_test.dirty,
                    access,
                    affected: &outputs.affected,
                };
                check::run(settings, configured, before, runner).await
            }
            Stage::Build => {
                let configured = needs(&outputs.configured, Stage::Configure, stage)?;
                let affected = outputs.affected.get().filter(|_| settings.build.changed);
                let builds = build::run(settings, configured, affected, runner).await?;
                outputs.usage = builds.usage;
                Ok(builds.outcome)
            }
            Stage::Publish => {
                let Some(configured) = &outputs.configured else {
                    return Ok(Outcome::NotRun("there is no build directory to publish from".into()));
                };
                let stopped = stopped.as_deref().or(failed.as_deref());
                let Outputs { share, usage, .. } = outputs;
                PublishStage { settings, configured, share, usage: *usage, job: &job, stopped, runner }
                    .run()
                    .await
            }
            Stage::Report => {
                Err(Error::internal("the report stage is the listener's: it comes after all others"))
            }
            Stage::Test => {
                let configured = needs(&outputs.configured, Stage::Configure, stage)?;
                test_stage::run(settings, configured, outputs.affected.get(), &job, runner).await
            }
        }
    }

    /// What the job is about, with the commit under test.
    fn identity(&self) -> JobIdentity {
        let checkout::UnderTest { commit, tree, dirty, .. } = self.outputs.under_test.clone();
        JobIdentity { commit, tree, dirty, ..self.settings.job.clone() }
    }

    /// Reports the result that the change is compared with, and where this one is stored.
    async fn compare(&self) {
        let (settings, identity) = (self.settings, self.identity());
        let runner = self.runner.for_stage(Stage::Report);
        // The checkout stage found out what the share can be used for.
        let is_known = self.outputs.checkout.is_some();
        let has_share = !is_known || !self.outputs.share.is_empty();
        base_result::find(settings, &identity, has_share, &runner, self.access).await;
        let is_refused = is_known && self.outputs.share.writes().is_none();
        let is_share = settings.report.place.as_ref().is_some_and(|place| place.is_share);
        if !(is_share && is_refused) {
            base_result::report_address(settings, &identity, &runner).await;
        }
    }

    /// Each check and each build that the manifest asks for has an outcome, also in a stage that is not reached.
    async fn units_not_run(&self, stage: Stage, why: &str) {
        let units = match stage {
            Stage::Check => check::units(self.settings),
            Stage::Build => build::units(self.settings),
            Stage::Test => [test::units(self.settings), device::units(self.settings)].concat(),
            _ => return,
        };
        Pending::new(units, &self.runner.events).not_run(why).await;
    }

    async fn finish(&mut self, stage: Stage, outcome: Outcome) {
        self.outcomes.insert(stage, outcome.clone());
        self.runner.events.emit(EventKind::StageFinished { stage, outcome }).await;
    }
}

/// The output of an earlier stage. `--skip` may have left it out.
fn needs<T>(output: &Option<T>, from: Stage, stage: Stage) -> Result<&T> {
    output.as_ref().ok_or_else(|| {
        Error::usage(format!("the stage {stage} needs what {from} makes, and {from} was skipped"))
            .hint(format!("leave out `--skip {from}`"))
    })
}

/// The job's interrupt: its limit counts from now.
pub fn interrupt(settings: &Settings) -> Interrupt {
    Interrupt::new(Instant::now().checked_add(settings.limits.job)).with_grace(settings.limits.grace)
}
