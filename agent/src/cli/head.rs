//! Reads GitHub's event and the commit that is checked out, before anything else of the source. The trust in a source
//! is for that commit alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::config::{self, AgentEnvironment};
use agent_process::{Interrupt, Redactor, Runner};
use agent_types::error::{Error, Result};
use agent_types::events;
use agent_types::stage::Stage;

use super::current_dir::current_dir;

/// Git reads a file or two.
const LIMIT: Duration = Duration::from_secs(20);

/// The same environment, with the event of GitHub's run, and with the commit that git finds, where the trust depends
/// on it. If git does not answer in time, the commit is unknown, and the source is not trusted.
pub async fn with_commit(environment: &AgentEnvironment) -> AgentEnvironment {
    let mut environment = environment.clone();
    if let Some(run) = &mut environment.github_actions {
        let tree = current_dir().ok().and_then(|here| fs_err::canonicalize(here).ok());
        let tree = tree.map(|here| config::work_tree(&here)).unwrap_or_default();
        environment.notices.extend(run.read_event(&tree));
    }
    if let Some(checkout) = config::commit_to_confirm(&environment).map(ToOwned::to_owned) {
        let commit = commit(&checkout, Redactor::new(environment.secrets())).await;
        environment.set_checked_out(commit);
    }
    environment
}

async fn commit(checkout: &Path, redactor: Redactor) -> Option<String> {
    let (runner, _logs) = unrecorded_runner(redactor, LIMIT).ok()?;
    agent_git::head(&runner, "head", checkout).await.ok()?
}

/// A runner for git before there is a job, and the directory of its logs. Its events are dropped: the caller reports
/// the result.
///
/// # Errors
/// If there is no directory for the logs.
pub fn unrecorded_runner(redactor: Redactor, limit: Duration) -> Result<(Runner, TempDir)> {
    let logs = tempfile::Builder::new()
        .prefix("build-agent-")
        .tempdir()
        .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
    let (events, _) = events::channel();
    let runner = Runner {
        stage: Stage::Checkout,
        events,
        interrupt: Interrupt::new(None).limited(limit),
        redactor,
        logs: logs.path().to_path_buf(),
        stall: limit,
        grace: Duration::from_secs(1),
        log_limit: 1 << 20,
        commands: Arc::default(),
    };
    Ok((runner, logs))
}
