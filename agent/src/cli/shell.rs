//! `build-agent shell`: opens the prepared BitBake environment, or runs one command in it.

use crate::config::AgentEnvironment;
use crate::job::{self, DirLock};
use crate::stages::{checkout, configure, share};
use agent_process::{Command, ExitReason};
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;
use agent_yocto::server;

use super::arguments;
use super::job::{access, load};
use super::unrecorded::UnrecordedRun;

pub async fn command(args: arguments::Shell, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let mut settings = load(&args.manifest, false, environment).await?;
    let _exclusive = DirLock::work(&settings.paths.work)?;
    let access = access(&mut settings, environment).await?;
    let unrecorded = UnrecordedRun::new(&settings)?;
    let prepared = async {
        job::end_leftovers(&settings, &unrecorded.runner).await?;
        let tiers = share::look(&settings, &unrecorded.runner).await?;
        let checkout = checkout::run(&settings, &tiers, &unrecorded.runner, &access).await?;
        configure::run(&settings, &checkout, &tiers, &unrecorded.runner).await
    };
    let prepared = prepared.await;
    unrecorded.end().await?;
    let configured = prepared?;

    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_else(|| "/bin/bash".into());
    let mut command = Command::new(program, &configured.build, "shell").args(words);
    command.environment = configured.environment(&configured.build);
    if let Some(term) = &environment.term {
        command.environment.set("TERM", term);
    }
    command.user = configured.user.clone();
    let end = agent_process::interactive(&command).await;
    server::stop_server(&configured.build, configured.user.as_ref(), settings.limits.grace).await?;
    Ok(match end? {
        ExitReason::Exited(0) => ExitStatus::Passed,
        _ => ExitStatus::Failed,
    })
}
