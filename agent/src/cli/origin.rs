//! The address of the repository that a checkout was cloned from.

use std::path::Path;
use std::time::Duration;

use crate::config::AgentEnvironment;
use agent_git::Git;
use agent_process::Redactor;

use super::head::unrecorded_runner;

/// Time limit of git, which reads one file.
const LIMIT: Duration = Duration::from_secs(60);

/// The address of the remote `origin`, as git's configuration has it: it may have credentials.
pub async fn origin(checkout: &Path, environment: &AgentEnvironment) -> Option<String> {
    if !checkout.join(".git").exists() {
        return None;
    }
    let (runner, _logs) = unrecorded_runner(Redactor::new(environment.secrets()), LIMIT).ok()?;
    let git = Git::for_inspection(&runner, "origin", checkout, &[checkout.to_path_buf()], None).ok()?;
    let output = git.local(checkout, ["config", "--get", "remote.origin.url"]).await.ok()?;
    Some(output.lines().last()?.trim().to_owned())
}
