//! What a matrix posts to GitHub: the results of all cells as one, once. The cells post nothing.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::config::{AgentEnvironment, Cell, GitHub, GitHubReport, Settings};
use crate::report::github::{DEADLINE, Poster, Stage, posts};
use crate::report::{self, Report, Summary};
use agent_process::Interrupt;
use agent_types::error::Result;
use agent_types::secret::Secret;

use super::github::{device_reports, kinds, poster, posting};
use super::matrix_results::CellResults;
use super::print;
use super::servers::servers;

/// The posts of a matrix; none if no cell asks for them, or if this job does not post.
pub struct MatrixPosts(Option<Posts>);

struct Posts {
    github: GitHub,
    /// To the place of the first cell that configures posts.
    poster: Poster,
    token: Option<Secret>,
    /// Posts that the cells run.
    begun: Option<JoinHandle<()>>,
}

impl MatrixPosts {
    /// Finds out where the results belong.
    ///
    /// # Errors
    /// If the token that the manifest names cannot be read, or the address of the API is invalid.
    pub async fn new(cells: &[(Cell, Settings)], environment: &AgentEnvironment) -> Result<MatrixPosts> {
        let Some((github, settings)) =
            cells.iter().find_map(|(_, settings)| Some((posting(settings)?, settings)))
        else {
            return Ok(MatrixPosts(None));
        };
        let servers = servers(settings, environment).await?;
        let mut poster = match poster(github, settings, environment, servers.access.github_token.as_ref())? {
            Ok(poster) => poster,
            Err(notice) => {
                print::diagnostic(format_args!("{notice}"));
                return Ok(MatrixPosts(None));
            }
        };
        poster.place.name = github.name.clone().unwrap_or_else(|| settings.job.name.clone());
        let (github, token) = (github.clone(), servers.token);
        Ok(MatrixPosts(Some(Posts { github, poster, token, begun: None })))
    }

    /// The manifest's token, to be redacted.
    pub fn token(&self) -> Option<&Secret> {
        self.0.as_ref()?.token.as_ref()
    }

    /// The cells start: shows it in the check run. After this, the results must be posted.
    pub fn begin(&mut self) {
        if let Some(posts) = &mut self.0 {
            posts.begun = Some(tokio::spawn(begin_check(posts.github.report.clone(), posts.poster.clone())));
        }
    }

    /// Posts the results. The verdict does not depend on it. `all`: the results as one.
    pub async fn post(self, results: &CellResults<'_>, all: &Summary, interrupt: &Interrupt) {
        let MatrixPosts(Some(Posts { github, poster, begun, .. })) = self else { return };
        if let Some(begun) = begun {
            // Its own deadline ends it. What is posted must not overtake it.
            let _ = begun.await;
        }
        make(&posts(&kinds(&github), &poster), all, interrupt).await;
        for ((cell, settings), job) in results.cells.iter().zip(&results.jobs) {
            // The results of a device have the name of its cell.
            let mut poster = poster.clone();
            poster.place.name = format!("{} {}", poster.place.name, cell.id);
            make(&device_reports(&github, settings, &poster), job, interrupt).await;
        }
    }
}

/// Shows in the check run that the cells run.
async fn begin_check(kinds: Vec<GitHubReport>, poster: Poster) {
    if kinds.contains(&GitHubReport::Check)
        && let Err(error) = poster.begin(GitHubReport::Check, Stage::Running, Instant::now() + DEADLINE).await
    {
        // The post at the end retries, and reports a failure.
        tracing::warn!(%error, "there is no check run while the cells run");
    }
}

async fn make(reports: &[Box<dyn Report>], summary: &Summary, interrupt: &Interrupt) {
    let made = |_, made: std::result::Result<(), report::NotMade>| {
        if let Err(not_made) = made {
            print::diagnostic(format_args!("warning: {}", not_made.error));
        }
    };
    report::make_reports(reports, &Arc::new(summary.clone()), interrupt, made).await;
}
