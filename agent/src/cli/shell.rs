//! `shell`: the prepared BitBake environment, for a person or a command.

use crate::config::AgentEnvironment;
use crate::error::Result;
use crate::exec::{self, Command};
use crate::job::Exclusive;
use crate::outcome::ExitStatus;
use crate::stages::{checkout, configure};

use super::arguments;
use super::job::load;
use super::quiet::Quiet;

pub async fn command(args: arguments::Shell, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let settings = load(&args.manifest, false, environment).await?;
    let _exclusive = Exclusive::take(&settings.places.work)?;
    let quiet = Quiet::new(&settings)?;
    let checkout = checkout::run(&settings, &quiet.runner).await?;
    let configured = configure::run(&settings, &checkout, &quiet.runner.events).await?;
    quiet.end().await?;

    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_else(|| "/bin/bash".into());
    let mut command = Command::new(program, &configured.build, "shell").args(words);
    command.environment = configured.environment(&configured.build);
    if let Some(term) = environment.term() {
        command.environment.set("TERM", term);
    }
    command.user = configured.user.clone();
    exec::interactive(&command).await
}
