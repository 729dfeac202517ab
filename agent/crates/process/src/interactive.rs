//! A child that has the terminal to itself.

use agent_types::error::{Error, Result};

use super::spawn::explain;
use super::{Command, ExitReason};

/// Runs the command with the agent's own input and output, as a shell would: it stays in the
/// foreground process group, so that the keys of the terminal reach it. Nothing is logged.
///
/// # Errors
/// When it cannot be started or waited for.
pub async fn interactive(command: &Command) -> Result<ExitReason> {
    let program = command.argv.first().ok_or_else(|| Error::internal("a command without a program"))?;
    let mut child = tokio::process::Command::new(program);
    child.args(&command.argv[1..]).current_dir(&command.cwd).env_clear().envs(command.environment.iter());
    if let Some(user) = &command.user {
        child.uid(user.uid).gid(user.gid);
    }
    let status = child.spawn().map_err(|error| explain(command, program, error))?.wait().await;
    status.map(ExitReason::from).map_err(|error| {
        Error::machine(format!("cannot wait for `{}`", program.to_string_lossy())).because(&error)
    })
}
