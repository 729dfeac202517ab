//! A prepared BitBake environment in which a person runs a program on the terminal.

use std::ffi::OsString;

use crate::config::{AgentEnvironment, Request, Settings};
use crate::job::{self, CacheLease, DirLock};
use crate::stages::cleanup::after;
use crate::stages::configure::{BuildEnvironment, Reuse};
use crate::stages::{checkout, configure, kvm, share};
use agent_process::{Command, ExitReason, JobRules, PROBE_LIMIT, Redactor};
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;
use agent_yocto::server;

use super::arguments::{ManifestArgs, ReleaseArgs};
use super::definition::with_definition;
use super::head::unrecorded_runner;
use super::job::{load_request, request, with_release};
use super::print;
use super::servers::servers;
use super::unrecorded::UnrecordedRun;

/// The environment of a job in its build directory, which no other job uses at the same time.
pub struct Session<'a> {
    pub settings: Settings,
    pub configured: BuildEnvironment,
    environment: &'a AgentEnvironment,
    rules: JobRules,
    _caches: Option<CacheLease>,
    _exclusive: DirLock,
}

/// The settings of a session. Also in CI, the build directory is emptied only if a person asks for it.
pub async fn settings(
    manifest: &ManifestArgs,
    release: &ReleaseArgs,
    fresh: bool,
    environment: &AgentEnvironment,
) -> Result<Settings> {
    let request = with_release(request(manifest).await?, release);
    let request = with_definition(Request { fresh: Some(fresh), ..request }, environment).await?;
    load_request(&request, environment).await
}

impl Session<'_> {
    /// Prepares the environment: checkouts and build directory.
    pub async fn open(
        settings: Settings,
        reuse: Reuse,
        environment: &AgentEnvironment,
    ) -> Result<Session<'_>> {
        let _exclusive = DirLock::work(&settings.paths.work)?;
        let (settings, _caches) = job::claim_caches(&settings);
        let servers = servers(&settings, environment).await?;
        let unrecorded = UnrecordedRun::new(&settings, servers.redactor(&settings))?;
        if let Some(notice) = &servers.notice {
            unrecorded.runner.events.info(notice).await;
        }
        for (warning, hint) in &settings.warnings {
            unrecorded.runner.events.warn(warning, Some(hint.clone())).await;
        }
        let mut rules = JobRules::default();
        let prepared = async {
            job::end_leftovers(&settings, &unrecorded.runner).await?;
            rules = job::isolate_credentials(&settings, &environment.credential_sources, &unrecorded.runner)
                .await;
            let share = share::look(&settings, &unrecorded.runner).await?;
            let checkout = checkout::run(&settings, &share, &unrecorded.runner, &servers.access).await?;
            configure::run(&settings, &checkout, &share, reuse, &unrecorded.runner).await
        };
        let prepared = prepared.await;
        match after(prepared, unrecorded.end().await) {
            Ok(configured) => Ok(Session { settings, configured, environment, rules, _caches, _exclusive }),
            Err(error) => {
                end_isolation(rules, &settings, environment).await?;
                Err(error)
            }
        }
    }

    /// Whether guests run with KVM.
    pub async fn kvm(&self) -> std::result::Result<(), String> {
        let redactor = Redactor::new(self.environment.secrets());
        let (runner, _logs) = unrecorded_runner(redactor, PROBE_LIMIT).map_err(|error| error.to_string())?;
        kvm::probe(&self.settings, &self.configured, &runner).await
    }

    /// Runs the program on the agent's terminal, and then stops BitBake's server.
    pub async fn run(self, program: OsString, args: Vec<OsString>) -> Result<ExitStatus> {
        let Session { settings, configured, environment, rules, _caches, _exclusive } = self;
        let mut command = Command::new(program, &configured.build, "shell").args(args);
        command.environment = configured.environment(&configured.build);
        if let Some(term) = &environment.term {
            command.environment.set("TERM", term);
        }
        command.user = configured.user.clone();
        let end = agent_process::interactive(&command).await;
        // The exit status is that of the program, also if the server does not stop.
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
}

/// Removes the job's rules, after all layer code has ended.
async fn end_isolation(rules: JobRules, settings: &Settings, environment: &AgentEnvironment) -> Result<()> {
    let (runner, _logs) = unrecorded_runner(Redactor::new(environment.secrets()), settings.limits.grace)?;
    job::end_isolation(rules, settings, &runner).await;
    Ok(())
}
