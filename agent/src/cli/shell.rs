//! `shell`: the prepared BitBake environment, for a person or a command.

use crate::config::AgentEnvironment;
use crate::job::{self, DirLock};
use crate::stages::{checkout, configure, share};
use agent_process::{Command, ExitReason};
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;
use agent_yocto::server;

use super::arguments;
use super::job::{access, load};
use super::quiet::Quiet;

pub async fn command(args: arguments::Shell, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let mut settings = load(&args.manifest, false, environment).await?;
    let _exclusive = DirLock::work(&settings.paths.work)?;
    let access = access(&mut settings, environment).await?;
    let quiet = Quiet::new(&settings)?;
    let prepared = async {
        job::end_leftovers(&settings, &quiet.runner).await?;
        let tiers = share::look(&settings, &quiet.runner).await?;
        let checkout = checkout::run(&settings, &tiers, &quiet.runner, &access).await?;
        configure::run(&settings, &checkout, &tiers, &quiet.runner).await
    };
    let prepared = prepared.await;
    quiet.end().await?;
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
