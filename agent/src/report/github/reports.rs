//! The posts of a job as reports: each has a step in the report stage, and none can change the verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use agent_types::error::{Error, Result};

use super::post::{DEADLINE, Poster, Stage};
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

/// The report that a device run has no result yet: `report post` completes it. Only statuses and check runs can say so.
pub fn device_posts(kinds: &[GitHubReport], poster: &Poster) -> Vec<Box<dyn Report>> {
    let kinds = kinds.iter().filter(|kind| matches!(kind, GitHubReport::Status | GitHubReport::Check));
    kinds
        .map(|kind| -> Box<dyn Report> { Box::new(DevicePost { kind: *kind, poster: poster.clone() }) })
        .collect()
}

struct DevicePost {
    kind: GitHubReport,
    poster: Poster,
}

impl Report for DevicePost {
    fn name(&self) -> &'static str {
        match self.kind {
            GitHubReport::Check => "github check of the device",
            _ => "github status of the device",
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
            let Some(request) = summary.device.as_ref().filter(|request| !request.waits) else {
                return Ok(());
            };
            verify_commit(kind, &poster, &summary)?;
            let place = poster.place.of_device(&request.pool, &request.id);
            let deadline = Instant::now() + DEADLINE.saturating_sub(MARGIN);
            let said = Poster { place, live: None, ..poster }.begin(kind, Stage::Queued, deadline).await?;
            tracing::info!(report = %kind, %said, "posted");
            Ok(())
        })
    }
}

fn verify_commit(kind: GitHubReport, poster: &Poster, summary: &Summary) -> Result<()> {
    let (wanted, tested) = (&poster.place.commit, summary.job.commit.as_deref());
    match tested == Some(wanted.as_str()) {
        true => Ok(()),
        false => {
            let tested = tested.unwrap_or("unknown");
            let message = format!("{kind} not posted: the job is for {wanted}, and {tested} was tested");
            Err(Error::machine(message).hint("let no command check out something else"))
        }
    }
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
            verify_commit(kind, &poster, &summary)?;
            let said = poster.post(kind, &summary, Instant::now() + DEADLINE.saturating_sub(MARGIN)).await?;
            tracing::info!(report = %kind, %said, "posted");
            Ok(())
        })
    }
}
