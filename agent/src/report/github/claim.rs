//! The check run of a job: a new one, or the one of an earlier attempt.

use agent_github::checks::{self, CheckRun, NewCheckRun, Output, RunStatus};
use agent_github::{Client, Failure};

use super::content;
use super::place::Place;

/// The check run of this job, with this state if it is new.
pub async fn claim(client: &Client, place: &Place, status: RunStatus) -> Result<CheckRun, Failure> {
    let title = if status == RunStatus::Queued { "queued" } else { "in progress" };
    let new = NewCheckRun {
        name: &content::context(&place.name),
        commit: &place.commit,
        job: &place.job,
        link: place.link.as_deref(),
        status,
        output: Output { title: title.to_owned(), summary: "There is no result yet.".to_owned() },
    };
    checks::claim(client, &place.repository, &new).await
}
