//! Runs the stages of a plan, one after another, each with the outputs of the earlier ones.

use std::collections::BTreeMap;
use std::time::Instant;

use tracing::Instrument;
use tracing::field::Empty;

use crate::config::Settings;
use crate::stages::{self, build, check, checkout, configure, publish, share};
use agent_cache::{Lease, Usage};
use agent_git::Access;
use agent_process::{Interrupt, Interrupted, Runner};
use agent_types::error::{Class, Error, Result};
use agent_types::events::{EventKind, JobIdentity, JobStarted, SCHEMA};
use agent_types::outcome::Outcome;
use agent_types::tiers::Tiers;

use super::plan::uses_share;
use super::{Plan, Step, StopNotice, end_leftovers};
use agent_types::stage::Stage;

/// What the stages have handed over so far.
#[derive(Default)]
struct Outputs {
    under_test: checkout::UnderTest,
    tiers: Tiers,
    /// Held until the last stage that uses the share is over.
    lease: Option<Lease>,
    checkout: Option<checkout::Checkout>,
    configured: Option<configure::BuildEnvironment>,
    /// The check stage's first step, if it has one.
    preflight: Option<Outcome>,
    usage: Usage,
}

/// Runs the job to its end. All that happens is told on `runner.events`; the verdict is the fold's.
pub async fn run(settings: &Settings, plan: &Plan, runner: &Runner, access: &Access) {
    let events = &runner.events;
    let started = JobStarted {
        schema: SCHEMA.into(),
        agent: env!("CARGO_PKG_VERSION").into(),
        job: settings.job.clone(),
        plan: plan.stages.clone(),
    };
    events.emit(EventKind::JobStarted(Box::new(started))).await;
    let notice = StopNotice::watch(&runner.interrupt, events, settings.limits.grace);
    for notice in &settings.notices {
        events.info(notice).await;
    }

    let settings = settings.clone();
    let mut job = Job {
        settings,
        runner,
        access,
        outputs: Outputs::default(),
        outcomes: BTreeMap::new(),
        stopped: None,
    };
    job.clear_the_place().await;
    job.look_at_machine(plan).await;
    job.look_at_checkout().await;
    for step in plan.steps(&job.settings) {
        match step {
            Step::Preflight => job.preflight().await,
            Step::Stage(planned) => job.stage(planned.stage, planned.skip.as_deref()).await,
        }
    }
    if let Some(lease) = job.outputs.lease.take() {
        share::notes::release(lease, events).await;
    }
    notice.end().await;
}

struct Job<'a> {
    settings: Settings,
    runner: &'a Runner,
    /// How git gets to the servers.
    access: &'a Access,
    outputs: Outputs,
    /// Of the stages that are over.
    outcomes: BTreeMap<Stage, Outcome>,
    /// Why later stages do not run.
    stopped: Option<String>,
}

impl Job<'_> {
    /// Which commit is under test.
    async fn look_at_checkout(&mut self) {
        match checkout::look(&self.settings, &self.runner.for_stage(Stage::Checkout)).await {
            Ok(found) => {
                let commit = found.commit.clone();
                self.confirm_trust(commit.as_deref()).await;
                self.runner.events.emit(EventKind::UnderTest { commit, dirty: found.dirty }).await;
                self.outputs.under_test = found;
            }
            Err(error) => {
                self.stopped = Some(error.message.clone());
                self.runner.events.emit(EventKind::Error { stage: Some(Stage::Checkout), error }).await;
            }
        }
    }

    /// Trust is for one commit, and only now it is known which is there.
    async fn confirm_trust(&mut self, head: Option<&str>) {
        let (settings, said) = self.settings.clone().confirmed(head);
        self.settings = settings;
        if let Some(said) = said {
            let hint = "let no command before the agent check out something else".to_owned();
            self.runner.events.warn(said, Some(hint)).await;
        }
    }

    /// What the layer's own files already say. A failure ends the check stage before its turn.
    async fn preflight(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        let outcome = check::preflight(&self.settings, &self.runner.events).await;
        if !outcome.is_success() && !self.settings.check.keep_going {
            self.finish(Stage::Check, outcome.clone()).await;
            self.stopped = Some("the preflight failed; --keep-going runs the rest all the same".into());
        }
        self.outputs.preflight = Some(outcome);
    }

    /// Nothing starts beside what a killed agent left running.
    async fn clear_the_place(&mut self) {
        if let Err(error) = end_leftovers(&self.settings, self.runner).await {
            self.stopped = Some(error.message.clone());
            self.runner.events.emit(EventKind::Error { stage: None, error }).await;
        }
    }

    /// Without shared memory BitBake fails late, and with words that name everything else.
    async fn look_at_machine(&mut self, plan: &Plan) {
        let runs_bitbake =
            [Stage::Check, Stage::Build, Stage::Test].into_iter().any(|stage| plan.runs(stage));
        if self.stopped.is_some() || !runs_bitbake {
            return;
        }
        let Err(error) = configure::look_at_shared_memory(&self.settings, self.runner).await else { return };
        self.stopped = Some(error.message.clone());
        self.runner.events.emit(EventKind::Error { stage: None, error }).await;
    }

    async fn stage(&mut self, stage: Stage, skip: Option<&str>) {
        if self.outcomes.contains_key(&stage) {
            return;
        }
        if let Some(why) = skip {
            return self.finish(stage, Outcome::Skipped(why.into())).await;
        }
        if let Some(why) = self.stopped.clone().filter(|_| !stage.survives_failure()) {
            return self.finish(stage, Outcome::NotRun(why)).await;
        }
        self.runner.events.emit(EventKind::StageStarted { stage }).await;
        let span = tracing::info_span!("stage", name = stage.name(), outcome = Empty);
        let interrupted = self.runner.interrupt.state();
        let outcome = match interrupted.filter(|_| !stage.survives_failure()) {
            Some(why) => Ok(stages::interrupted(why)),
            None => self.run(stage).instrument(span.clone()).await,
        };
        let outcome = outcome.unwrap_or_else(|error| error_outcome(&error));
        span.record("outcome", outcome.word());
        if !outcome.is_success() && self.stopped.is_none() {
            self.stopped = Some(format!("{stage} did not pass"));
        }
        self.finish(stage, outcome).await;
    }

    async fn run(&mut self, stage: Stage) -> Result<Outcome> {
        let result = self.dispatch(stage).await;
        if let Err(error) = &result {
            tracing::error!("{error}");
            self.runner.events.emit(EventKind::Error { stage: Some(stage), error: error.clone() }).await;
        }
        result
    }

    async fn dispatch(&mut self, stage: Stage) -> Result<Outcome> {
        let Job { settings, runner, access, outputs, .. } = self;
        let runner = &runner.for_stage(stage);
        match stage {
            Stage::Checkout => {
                outputs.tiers = share::look(settings, runner).await?;
                let checkout = checkout::run(settings, &outputs.tiers, runner, access).await?;
                outputs.lease =
                    share::notes::lease(settings, &outputs.tiers, &checkout.shared_entries, &runner.events)
                        .await;
                outputs.checkout = Some(checkout);
                Ok(Outcome::Passed)
            }
            Stage::Configure => {
                let checkout = needs(&outputs.checkout, Stage::Checkout, stage)?;
                outputs.configured = Some(configure::run(settings, checkout, &outputs.tiers, runner).await?);
                Ok(Outcome::Passed)
            }
            Stage::Check => {
                let configured = needs(&outputs.configured, Stage::Configure, stage)?;
                check::run(settings, configured, outputs.preflight.as_ref(), runner).await
            }
            Stage::Build => {
                let configured = needs(&outputs.configured, Stage::Configure, stage)?;
                let builds = build::run(settings, configured, runner).await?;
                outputs.usage = builds.usage;
                Ok(builds.outcome)
            }
            Stage::Publish => self.publish().await,
            Stage::Report => {
                Err(Error::internal("the report stage is the listener's: it comes after all others"))
            }
            Stage::Test => Err(Error::internal("a plan let the test stage run, and nothing asks for tests")),
        }
    }

    async fn publish(&self) -> Result<Outcome> {
        let Some(configured) = &self.outputs.configured else {
            return Ok(Outcome::NotRun("there is no build directory to publish from".into()));
        };
        let identity = JobIdentity {
            commit: self.outputs.under_test.commit.clone(),
            dirty: self.outputs.under_test.dirty,
            ..self.settings.job.clone()
        };
        // After a cancel or at the end of the time, what is done is still saved, within the grace.
        let interrupt = match self.runner.interrupt.state() {
            None => self.runner.interrupt.clone(),
            Some(_) => self.runner.interrupt.cleanup(self.runner.grace_left()),
        };
        let (stopped, events) = (self.stopped.as_deref(), &self.runner.events);
        // Side by side: neither shall use up the other's part of the grace.
        let artifacts = async {
            match self.settings.artifacts.rules.is_empty() {
                true => Ok(Outcome::Skipped("[artifacts] has no rules".into())),
                false => {
                    publish::run(&self.settings, &identity, &configured.build, events, &interrupt, stopped)
                        .await
                }
            }
        };
        let (artifacts, published) = tokio::join!(artifacts, self.publish_caches(&interrupt));
        // The time that is over was the grace of a signal.
        let cancelled = self.runner.interrupt.state() == Some(Interrupted::Cancelled);
        match artifacts {
            Ok(Outcome::Skipped(_)) if published => Ok(Outcome::Passed),
            Ok(Outcome::TimedOut(why)) if cancelled => Ok(Outcome::Cancelled(why)),
            Err(error) if cancelled && error.class == Class::OutOfTime => {
                Err(Error { class: Class::Cancelled, ..error })
            }
            artifacts => artifacts,
        }
    }

    /// Whether there was a tier to publish to. What became of it changes no verdict.
    async fn publish_caches(&self, interrupt: &Interrupt) -> bool {
        let (cache, tiers) = (&self.settings.cache, &self.outputs.tiers);
        if tiers.read.is_empty() || !uses_share(&self.settings) {
            return false;
        }
        let sources = publish::cache::Sources {
            sstate: cache.sstate.clone(),
            downloads: cache.downloads.clone(),
            release: self.settings.release.name.into(),
        };
        let events = &self.runner.events;
        publish::cache::run(sources, tiers, events, interrupt).await;
        share::notes::usage(&self.settings, tiers, self.outputs.usage, events).await;
        tiers.write.is_some()
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

/// A stage that could not do its part has not run; a cancel and the end of the time keep their names.
fn error_outcome(error: &Error) -> Outcome {
    match error.class {
        Class::Cancelled => Outcome::Cancelled(error.message.clone()),
        Class::OutOfTime => Outcome::TimedOut(error.message.clone()),
        _ => Outcome::NotRun(error.message.clone()),
    }
}

/// The job's interrupt: its limit counts from now.
pub fn interrupt(settings: &Settings) -> Interrupt {
    Interrupt::new(Instant::now().checked_add(settings.limits.job)).with_grace(settings.limits.grace)
}
