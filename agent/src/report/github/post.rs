//! Posts results.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_github::checks::{self, RunStatus};
use agent_github::code_scanning::{self, Analysis};
use agent_github::comments::{self, Section, Write, Written};
use agent_github::pulls::Diff;
use agent_github::{Client, Failure, Permission, pulls, statuses};
use agent_types::error::{Error, Result};

use super::access::Access;
use super::annotations::annotations;
use super::claim::claim;
use super::content;
use super::live::LiveCheck;
use super::place::Place;
use crate::config::{CommentWhen, GitHubReport};
use crate::report::comparison::Comparison;
use crate::report::sarif;
use crate::report::summary::Summary;

/// The time for all posts together. After it the job ends without them.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Posts to one place.
#[derive(Clone)]
pub struct Poster {
    pub access: Access,
    pub place: Place,
    pub live: Option<Arc<LiveCheck>>,
}

/// How far a job is that has no result yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Queued,
    Running,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Stage::Queued => "queued",
            Stage::Running => "in progress",
        }
    }
}

impl Poster {
    /// Posts one report of a result. The text says what was done.
    ///
    /// # Errors
    /// If it could not be posted: why, and what to do.
    pub async fn post(&self, report: GitHubReport, summary: &Summary, deadline: Instant) -> Result<String> {
        let comparison = Comparison::of(summary);
        let comparison = comparison.as_ref();
        let done = match report {
            GitHubReport::Status => self.status(summary, comparison, deadline).await,
            GitHubReport::Check => self.check(summary, comparison, deadline).await,
            GitHubReport::Comment => self.comment(summary, deadline).await,
            GitHubReport::Sarif => self.sarif(summary, deadline).await,
        };
        done.map_err(|failure| error(report, &failure))
    }

    /// Posts that a job has no result yet. Only statuses and check runs can say so.
    ///
    /// # Errors
    /// As [`Poster::post`].
    pub async fn begin(&self, report: GitHubReport, stage: Stage, deadline: Instant) -> Result<String> {
        let done = match report {
            GitHubReport::Status => {
                let status = content::pending(&self.place, stage.word());
                self.send(&[status], deadline).await
            }
            GitHubReport::Check => {
                let client = self.client(Permission::Checks, deadline).await;
                let status = if stage == Stage::Queued { RunStatus::Queued } else { RunStatus::InProgress };
                match client {
                    Ok(client) => {
                        claim(&client, &self.place, status).await.map(|run| format!("check run {}", run.id))
                    }
                    Err(failure) => Err(failure),
                }
            }
            GitHubReport::Comment | GitHubReport::Sarif => Ok("only results are posted".to_owned()),
        };
        done.map_err(|failure| error(report, &failure))
    }

    async fn client(&self, permission: Permission, deadline: Instant) -> Result<Client, Failure> {
        self.access.client(&self.place.repository, permission, deadline).await
    }

    async fn status(
        &self,
        summary: &Summary,
        comparison: Option<&Comparison>,
        deadline: Instant,
    ) -> Result<String, Failure> {
        self.send(&content::statuses(summary, comparison, &self.place), deadline).await
    }

    /// One after another: GitHub asks for at most one such request at a time.
    async fn send(&self, all: &[statuses::Status], deadline: Instant) -> Result<String, Failure> {
        let client = self.client(Permission::Statuses, deadline).await?;
        for status in all {
            statuses::post(&client, &self.place.repository, &self.place.commit, status).await?;
        }
        Ok(match all {
            [_] => "1 status posted".to_owned(),
            _ => format!("{} statuses posted", all.len()),
        })
    }

    async fn check(
        &self,
        summary: &Summary,
        comparison: Option<&Comparison>,
        deadline: Instant,
    ) -> Result<String, Failure> {
        let client = self.client(Permission::Checks, deadline).await?;
        let repository = &self.place.repository;
        let live = match &self.live {
            Some(live) => live.end().await,
            None => None,
        };
        let run = match live {
            Some(id) => checks::still_of(&client, repository, id, &self.place.job).await?,
            None => claim(&client, &self.place, RunStatus::InProgress).await?,
        };
        let diff = self.diff(deadline).await;
        let found = annotations(summary, comparison, &diff);
        let output = content::output(summary, comparison, &self.place, found.left);
        let link = content::link(summary, &self.place);
        let link = link.as_deref();
        let run = checks::complete(&client, repository, run.id, content::conclusion(summary), link, &output)
            .await?;
        checks::annotate(&client, repository, &run, &output, &found.shown).await?;
        // An earlier update that was slow may have arrived last.
        if !checks::get(&client, repository, run.id).await?.is_completed {
            checks::complete(&client, repository, run.id, content::conclusion(summary), link, &output)
                .await?;
        }
        Ok(format!(
            "check run {} with {}",
            run.id,
            agent_types::words::count(found.shown.len() as u64, "annotation")
        ))
    }

    /// The changed lines; none, if they are not known. They only order the annotations.
    async fn diff(&self, deadline: Instant) -> Diff {
        let Some(number) = self.place.pull_request else { return Diff::default() };
        let read = async {
            let client = self.client(Permission::ReadPullRequests, deadline).await?;
            pulls::diff(&client, &self.place.repository, number).await
        };
        read.await.unwrap_or_else(|failure| {
            tracing::info!(%failure, "the changed lines are not known");
            Diff::default()
        })
    }

    async fn comment(&self, summary: &Summary, deadline: Instant) -> Result<String, Failure> {
        let Some(number) = self.place.pull_request else {
            return match &self.place.no_comment {
                Some(why) => Err(Failure::Input(why.clone())),
                None => Ok("it belongs to no pull request".to_owned()),
            };
        };
        let client = self.client(Permission::PullRequests, deadline).await?;
        let section = Section { name: self.place.name.clone(), text: content::comment(summary, &self.place) };
        let when = match self.place.comment == CommentWhen::Always || content::is_problem(summary) {
            true => Write::Always,
            false => Write::IfPresent,
        };
        let written = comments::write(&client, &self.place.repository, number, &section, when).await?;
        Ok(match written {
            Written::Created => format!("commented on pull request {number}"),
            Written::Updated => format!("updated the comment on pull request {number}"),
            Written::Nothing => "the job passed, so there is no comment".to_owned(),
        })
    }

    async fn sarif(&self, summary: &Summary, deadline: Instant) -> Result<String, Failure> {
        let Some(git_ref) = &self.place.git_ref else {
            let why = self.place.no_comment.clone();
            return Err(Failure::Input(why.unwrap_or("the branch of the commit is not known".to_owned())));
        };
        if !summary.has_checked() {
            // GitHub would take the findings of the earlier analysis for fixed.
            return Ok(match summary.unchecked_jobs {
                0 => "no findings are uploaded, because the check did not run to its end".to_owned(),
                jobs => {
                    let jobs = agent_types::words::count(jobs, "job");
                    format!("no findings are uploaded, because those of {jobs} are missing")
                }
            });
        }
        let text =
            sarif::render(std::slice::from_ref(summary)).map_err(|error| Failure::Input(error.message))?;
        let category = sarif::category(summary);
        let analysis = Analysis {
            commit: &self.place.commit,
            git_ref,
            tool: sarif::TOOL,
            category: category.trim_end_matches('/'),
        };
        let client = self.client(Permission::CodeScanning, deadline).await?;
        code_scanning::upload(&client, &self.place.repository, &analysis, &text).await?;
        Ok(format!("{} uploaded", agent_types::words::count(summary.findings.len() as u64, "finding")))
    }
}

/// What could not be posted, and what to do.
fn error(report: GitHubReport, failure: &Failure) -> Error {
    let hint = match (report, failure) {
        (_, Failure::Input(_)) => "see docs/results-on-github.md",
        (GitHubReport::Status, failure) if failure.is_about_credential() => {
            "give the token or the App the permission `Commit statuses: write` for this repository"
        }
        (GitHubReport::Check, failure) if failure.is_about_credential() => {
            "only a GitHub App with `Checks: write`, or the token of a workflow, can write check runs"
        }
        (GitHubReport::Comment, failure) if failure.is_about_credential() => {
            "give the token or the App the permission `Pull requests: write` for this repository"
        }
        (GitHubReport::Sarif, failure) if failure.is_about_credential() => {
            "give the token or the App the permission `Code scanning alerts: write`; a private repository needs GitHub Code \
             Security"
        }
        _ => "post it later: build-agent report post result.json",
    };
    Error::upstream(format!("{report} not posted: {failure}")).hint(hint)
}
