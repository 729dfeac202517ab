//! The commit that is checked out in CodeBuild: the trust in a source is for that commit alone.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, AgentEnvironment};
use agent_process::{Interrupt, Redactor, Runner};
use agent_types::events;
use agent_types::stage::Stage;

/// Git reads a file or two.
const LIMIT: Duration = Duration::from_secs(20);

/// The same environment, with the commit that git finds, where the trust depends on it. What git cannot tell in
/// time is not known, and then the source is not trusted.
pub async fn with_commit(environment: &AgentEnvironment) -> AgentEnvironment {
    let mut environment = environment.clone();
    if let Some(checkout) = config::commit_to_confirm(&environment).map(ToOwned::to_owned) {
        let redactor = Redactor::new(environment.secrets());
        let commit = commit(&checkout, redactor).await;
        if let Some(build) = &mut environment.codebuild {
            build.checked_out = commit;
        }
    }
    environment
}

async fn commit(checkout: &std::path::Path, redactor: Redactor) -> Option<String> {
    let logs = tempfile::Builder::new().prefix("build-agent-").tempdir().ok()?;
    // Nobody listens: the job looks again, and reports what git said.
    let (events, _) = events::channel();
    let runner = Runner {
        stage: Stage::Checkout,
        events,
        interrupt: Interrupt::new(None).limited(LIMIT),
        redactor,
        logs: logs.path().to_path_buf(),
        stall: LIMIT,
        grace: Duration::from_secs(1),
        log_limit: 1 << 20,
        commands: Arc::default(),
    };
    agent_git::head(&runner, "head", checkout).await.ok()?
}
