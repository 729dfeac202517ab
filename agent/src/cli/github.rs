//! What a job posts to GitHub, and with which credential. Only the job of a trusted source posts: the credential can write.

use std::sync::Arc;

use crate::config::{AgentEnvironment, DeviceRoute, DeviceTests, DeviceWait, GitHub, GitHubReport, Settings};
use crate::report::github::{Access, AppKey, Credentials, LiveCheck, Place, Poster, device_posts, posts};
use crate::report::{Report, Sink};
use agent_github::Repository;
use agent_types::error::Result;
use agent_types::secret::Secret;

/// The reports for GitHub, and the listener that shows what runs.
#[derive(Default)]
pub struct GitHubPosts {
    pub reports: Vec<Box<dyn Report>>,
    pub sink: Option<Box<dyn Sink>>,
    /// Why nothing is posted, although the manifest asks for it.
    pub notice: Option<String>,
}

/// What this job posts. `token` is the one that git uses.
///
/// # Errors
/// Internal, if the address of the API is invalid.
pub fn github_posts(
    settings: &Settings,
    environment: &AgentEnvironment,
    token: Option<&Secret>,
) -> Result<GitHubPosts> {
    let Some(github) = settings.github.as_ref().filter(|github| !github.report.is_empty()) else {
        return Ok(GitHubPosts::default());
    };
    let place = match place(github, settings, environment) {
        Ok(place) => place,
        Err(why) => {
            let notice = Some(format!("results are not posted to GitHub by this job: {why}"));
            return Ok(GitHubPosts { notice, ..GitHubPosts::default() });
        }
    };
    let app = github.app.as_ref().map(|app| AppKey { id: app.id.clone(), secret: app.key_secret.clone() });
    let access = Access::new(Credentials { api: environment.api()?, token: token.cloned(), app });
    let (mut live, mut sink) = (None, None);
    if github.report.contains(&GitHubReport::Check) {
        let (check, listener): (Arc<LiveCheck>, _) = LiveCheck::start(access.clone(), place.clone());
        (live, sink) = (Some(check), Some(listener));
    }
    let poster = Poster { access, place, live };
    // Only a pull request has a comment, and a pull request is not trusted.
    let kinds: Vec<GitHubReport> =
        github.report.iter().copied().filter(|kind| *kind != GitHubReport::Comment).collect();
    let mut reports = posts(&kinds, &poster);
    let requests =
        |device: &DeviceTests| device.route == DeviceRoute::Submit && device.wait == DeviceWait::No;
    if settings.device.as_ref().is_some_and(requests) {
        reports.extend(device_posts(&kinds, &poster));
    }
    Ok(GitHubPosts { reports, sink, notice: None })
}

/// Where the results of this job belong; else why they are not posted.
fn place(github: &GitHub, settings: &Settings, environment: &AgentEnvironment) -> Result<Place, String> {
    if !settings.cache.trust.is_trusted() {
        return Err("its source is not trusted; a trusted step posts them (`build-agent report post`, \
                    docs/results-on-github.md)"
            .to_owned());
    }
    let repository: Repository = github.repository.parse()?;
    if let Some(own) = environment.source_repository()
        && !own.eq_ignore_ascii_case(&github.repository)
    {
        return Err(format!("the source is {own}, and `[github] repository` is {repository}"));
    }
    let commit = environment.source_commit().ok_or("the build service does not name the commit")?;
    let job = &settings.job;
    Ok(Place {
        repository,
        commit: commit.to_owned(),
        git_ref: environment.pushed_ref(),
        pull_request: None,
        no_comment: None,
        name: match (&github.name, &job.cell) {
            (Some(name), Some(cell)) => format!("{name} {cell}"),
            (Some(name), None) => name.clone(),
            (None, cell) => format!("{} {}", job.name, cell.as_ref().unwrap_or(&job.release)),
        },
        job: job.id.as_str().to_owned(),
        link: job.url.clone(),
        comment: github.comment,
    })
}
