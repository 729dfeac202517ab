//! `build-agent shell`: opens the prepared BitBake environment, or runs one command in it.

use crate::config::{AgentEnvironment, Request, Settings};
use crate::job::{self, DirLock};
use crate::stages::cleanup::after;
use crate::stages::configure::Edits;
use crate::stages::{checkout, configure, share};
use agent_process::{Command, ExitReason, JobRules, Redactor};
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;
use agent_yocto::server;

use super::arguments;
use super::definition::with_definition;
use super::head::unrecorded_runner;
use super::job::{load_request, request, with_release};
use super::print;
use super::servers::servers;
use super::unrecorded::UnrecordedRun;

pub async fn command(args: arguments::Shell, environment: &AgentEnvironment) -> Result<ExitStatus> {
    // What is there is what a person wants to look at, also in CI.
    let request = with_release(request(&args.manifest).await?, &args.release);
    let request = with_definition(Request { fresh: Some(args.fresh), ..request }, environment).await?;
    let settings = load_request(&request, environment).await?;
    let _exclusive = DirLock::work(&settings.paths.work)?;
    let (settings, _caches) = job::claim_caches(&settings);
    let servers = servers(&settings, environment).await?;
    let unrecorded = UnrecordedRun::new(&settings, servers.redactor(&settings))?;
    if let Some(notice) = &servers.notice {
        unrecorded.runner.events.info(notice).await;
    }
    let mut rules = JobRules::default();
    let prepared = async {
        job::end_leftovers(&settings, &unrecorded.runner).await?;
        rules =
            job::isolate_credentials(&settings, &environment.credential_sources, &unrecorded.runner).await;
        let share = share::look(&settings, &unrecorded.runner).await?;
        let checkout = checkout::run(&settings, &share, &unrecorded.runner, &servers.access).await?;
        configure::run(&settings, &checkout, &share, Edits::Keep, &unrecorded.runner).await
    };
    let prepared = prepared.await;
    let configured = match after(prepared, unrecorded.end().await) {
        Ok(configured) => configured,
        Err(error) => {
            end_isolation(rules, &settings, environment).await?;
            return Err(error);
        }
    };

    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_else(|| "/bin/bash".into());
    let mut command = Command::new(program, &configured.build, "shell").args(words);
    command.environment = configured.environment(&configured.build);
    if let Some(term) = &environment.term {
        command.environment.set("TERM", term);
    }
    command.user = configured.user.clone();
    let end = agent_process::interactive(&command).await;
    // What the command says stands, whatever becomes of the server.
    let stopped =
        server::stop_server(&configured.build, configured.user.as_ref(), settings.limits.grace).await;
    if let Err(error) = stopped {
        print::diagnostic(format_args!("warning: {error}"));
    }
    end_isolation(rules, &settings, environment).await?;
    Ok(match end? {
        ExitReason::Exited(0) => ExitStatus::Passed,
        _ => ExitStatus::Failed,
    })
}

/// Removes the job's rules, after all layer code has ended.
async fn end_isolation(rules: JobRules, settings: &Settings, environment: &AgentEnvironment) -> Result<()> {
    let (runner, _logs) = unrecorded_runner(Redactor::new(environment.secrets()), settings.limits.grace)?;
    job::end_isolation(rules, settings, &runner).await;
    Ok(())
}
