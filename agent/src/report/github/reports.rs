//! The posts of a job as reports: each has a step in the report stage, and none can change the verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use agent_types::error::{Error, Result};

use super::post::{DEADLINE, Poster};
use crate::config::GitHubReport;
use crate::report::reports::Report;
use crate::report::summary::Summary;

/// Before the report's own deadline, so that the message says what GitHub did.
const MARGIN: Duration = Duration::from_secs(1);

/// The reports for GitHub.
pub fn posts(kinds: &[GitHubReport], poster: &Poster) -> Vec<Box<dyn Report>> {
    let post =
        |kind: &GitHubReport| -> Box<dyn Report> { Box::new(Post { kind: *kind, poster: poster.clone() }) };
    kinds.iter().map(post).collect()
}

struct Post {
    kind: GitHubReport,
    poster: Poster,
}

impl Report for Post {
    fn name(&self) -> &'static str {
        match self.kind {
            GitHubReport::Status => "github status",
            GitHubReport::Check => "github check",
            GitHubReport::Comment => "github comment",
            GitHubReport::Sarif => "github sarif",
        }
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn is_required(&self) -> bool {
        false
    }

    fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<()>> {
        let (kind, poster) = (self.kind, self.poster.clone());
        Box::pin(async move {
            let tested = summary.job.commit.as_deref();
            if tested != Some(poster.place.commit.as_str()) {
                let tested = tested.unwrap_or("unknown");
                let message = format!(
                    "{kind} not posted: the job is for {}, and {tested} was tested",
                    poster.place.commit
                );
                return Err(Error::machine(message).hint("let no command check out something else"));
            }
            let said = poster.post(kind, &summary, Instant::now() + DEADLINE.saturating_sub(MARGIN)).await?;
            tracing::info!(report = %kind, %said, "posted");
            Ok(())
        })
    }
}
