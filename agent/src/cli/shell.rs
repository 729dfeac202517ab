//! `build-agent shell`: opens the prepared BitBake environment, or runs one command in it.

use crate::config::AgentEnvironment;
use crate::stages::configure::Reuse;
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;

use super::arguments;
use super::session::{self, Session};

pub async fn command(args: arguments::Shell, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let settings = session::settings(&args.manifest, &args.release, args.fresh, environment).await?;
    let session = Session::open(settings, Reuse::WithEdits, environment).await?;
    let mut command = args.command.into_iter();
    let program = command.next().unwrap_or_else(|| "/bin/bash".into());
    session.run(program, command.collect()).await
}
