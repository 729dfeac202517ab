//! `[[hooks]]`: programs of the manifest, before or after a stage.
//!
//! A hook runs as the build user with the environment of layer code, in the checkout under test. It gets no secrets.

use std::path::Path;

use tracing::Instrument;

use crate::config::{Hook, Moment, Settings};
use agent_process::{Command, CommandOutcome, Environment, ExitReason, Runner, User};
use agent_types::error::Result;
use agent_types::events::{EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::environment::host_environment;

use super::cleanup::{ServerEnd, UnitEnd};
use super::configure::BuildEnvironment;
use super::pending::report_without_run;

fn of_moment(settings: &Settings, moment: Moment) -> impl Iterator<Item = &Hook> {
    settings.hooks.iter().filter(move |hook| hook.moment == moment)
}

fn unit(hook: &Hook) -> Unit {
    Unit::new(hook.moment.stage(), format!("hook {} ({})", hook.name, hook.moment))
}

/// Runs the hooks of this moment one after another, until one does not succeed. `None`: there is none.
/// `configured`: the result of the configure stage, once it is complete.
///
/// # Errors
/// When a program cannot be started.
pub async fn run(
    settings: &Settings,
    configured: Option<&BuildEnvironment>,
    moment: Moment,
    runner: &Runner,
) -> Result<Option<Outcome>> {
    let mut worst: Option<Outcome> = None;
    let mut failed = Ok(());
    for hook in of_moment(settings, moment) {
        let before = worst.as_ref().filter(|outcome| !outcome.is_success());
        if let Some(why) = before.and_then(Outcome::reason) {
            skip(hook, Outcome::NotRun(format!("not started: {why}")), runner).await;
            continue;
        }
        let outcome = match (runner.interrupt.state(), &settings.hooks_closed) {
            (Some(why), _) => skip(hook, super::interrupted(why), runner).await,
            (None, Some(why)) => skip(hook, Outcome::Skipped(why.clone()), runner).await,
            (None, None) => {
                let unit = unit(hook);
                runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
                match run_one(settings, configured, hook, &unit, runner).instrument(super::step(&unit)).await
                {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        let outcome = super::error_outcome(&error);
                        failed = Err(error);
                        outcome
                    }
                }
            }
        };
        worst = Outcome::worst(worst.iter().chain([&outcome])).cloned();
    }
    failed.map(|()| worst)
}

/// Reports this outcome for all hooks of this moment, and runs none of them.
pub async fn skip_all(settings: &Settings, moment: Moment, outcome: &Outcome, runner: &Runner) {
    for hook in of_moment(settings, moment) {
        skip(hook, outcome.clone(), runner).await;
    }
}

async fn skip(hook: &Hook, outcome: Outcome, runner: &Runner) -> Outcome {
    report_without_run(unit(hook), outcome.clone(), &runner.events).await;
    outcome
}

async fn run_one(
    settings: &Settings,
    configured: Option<&BuildEnvironment>,
    hook: &Hook,
    unit: &Unit,
    runner: &Runner,
) -> Result<Outcome> {
    let ended = match command(settings, configured, hook) {
        Ok(command) => runner.run(command, &mut ()).await,
        Err(error) => Err(error),
    };
    // The hook may have started BitBake, whose server keeps running.
    let server = match configured {
        Some(configured) => ServerEnd::stop(&configured.build, configured.user.as_ref(), runner).await,
        None => ServerEnd::default(),
    };
    let finished = match ended {
        Ok(finished) => finished,
        Err(error) => {
            UnitEnd::error(unit.clone(), &error).report(server, &runner.events).await;
            return Err(error);
        }
    };
    let outcome = judge(hook, &finished);
    let log = Some(runner.relative_log(&finished.log));
    let excerpt = super::excerpt(&outcome, &finished);
    UnitEnd { unit: unit.clone(), outcome: outcome.clone(), log, excerpt }
        .report(server, &runner.events)
        .await;
    Ok(outcome)
}

fn command(settings: &Settings, configured: Option<&BuildEnvironment>, hook: &Hook) -> Result<Command> {
    let (environment, user) = match configured {
        Some(configured) => (configured.environment(&configured.build), configured.user.clone()),
        None => environment_without_bitbake(settings)?,
    };
    let (program, arguments) = hook
        .argv
        .split_first()
        .map_or((String::new(), &[][..]), |(program, rest)| (in_checkout(&settings.checkout, program), rest));
    let mut command = Command::new(program, &settings.checkout, format!("hook-{}", hook.name));
    command = command.args(arguments).status(format!("hook {}", hook.name));
    command.environment = environment;
    command.user = user;
    command.timeout = hook.timeout;
    Ok(command)
}

/// A program with a `/` is relative to the checkout; others are searched in PATH.
fn in_checkout(checkout: &Path, program: &str) -> String {
    match program.contains('/') {
        true => checkout.join(program).to_string_lossy().into_owned(),
        false => program.to_owned(),
    }
}

/// The environment and the user before the configure stage: as after it, but without BitBake.
fn environment_without_bitbake(settings: &Settings) -> Result<(Environment, Option<User>)> {
    let user = agent_process::build_user(settings.build_user.as_deref(), &settings.checkout)?;
    let whoami = match &user {
        Some(user) => user.clone(),
        None => agent_process::agent_user()?,
    };
    Ok((host_environment(&whoami, &settings.network), user))
}

fn judge(hook: &Hook, finished: &CommandOutcome) -> Outcome {
    let name = &hook.name;
    match finished.end {
        ExitReason::Exited(0) => Outcome::Passed,
        ExitReason::Exited(status) => Outcome::Failed(format!("hook {name} ended with exit status {status}")),
        ExitReason::Signalled(signal) => Outcome::Failed(format!("hook {name} was ended by signal {signal}")),
        ExitReason::Cancelled => Outcome::Cancelled("a signal stopped the job".into()),
        ExitReason::TimedOut => {
            Outcome::TimedOut(match hook.timeout.filter(|limit| finished.elapsed >= *limit) {
                Some(limit) => format!(
                    "hook {name} took longer than its timeout of {}",
                    humantime::format_duration(limit)
                ),
                None => "[limits] job is over".into(),
            })
        }
        ExitReason::Stalled(silent) => {
            Outcome::TimedOut(format!("hook {name} was silent for {}", humantime::format_duration(silent)))
        }
    }
}
