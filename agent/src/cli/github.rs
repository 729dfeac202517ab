//! What a job posts to GitHub, and with which credential. Only the job of a trusted source posts: the credential can write.

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
    let Some(github) = posting(settings) else { return Ok(GitHubPosts::default()) };
    let mut poster = match poster(github, settings, environment, token)? {
        Ok(poster) => poster,
        Err(notice) => return Ok(GitHubPosts { notice: Some(notice), ..GitHubPosts::default() }),
    };
    let mut sink = None;
    if github.report.contains(&GitHubReport::Check) {
        let (check, listener) = LiveCheck::start(poster.access.clone(), poster.place.clone());
        (poster.live, sink) = (Some(check), Some(listener));
    }
    let mut reports = posts(&kinds(github), &poster);
    reports.extend(device_reports(github, settings, &poster));
    Ok(GitHubPosts { reports, sink, notice: None })
}

/// The section of a manifest that configures posts.
pub fn posting(settings: &Settings) -> Option<&GitHub> {
    settings.github.as_ref().filter(|github| !github.report.is_empty())
}

/// What a job posts. Only a pull request has a comment, and a pull request is not trusted.
pub fn kinds(github: &GitHub) -> Vec<GitHubReport> {
    github.report.iter().copied().filter(|kind| *kind != GitHubReport::Comment).collect()
}

/// The report that a device run has no result yet, if the job only requests one.
pub fn device_reports(github: &GitHub, settings: &Settings, poster: &Poster) -> Vec<Box<dyn Report>> {
    let requests =
        |device: &DeviceTests| device.route == DeviceRoute::Submit && device.wait == DeviceWait::No;
    match settings.device.as_ref().is_some_and(requests) {
        true => device_posts(&kinds(github), poster),
        false => Vec::new(),
    }
}

/// Posts the results of this job, or the reason why they are not posted. `token` is the one that git uses.
///
/// # Errors
/// Internal, if the address of the API is invalid.
pub fn poster(
    github: &GitHub,
    settings: &Settings,
    environment: &AgentEnvironment,
    token: Option<&Secret>,
) -> Result<std::result::Result<Poster, String>> {
    let place = match place(github, settings, environment) {
        Ok(place) => place,
        Err(why) => return Ok(Err(format!("results are not posted to GitHub by this job: {why}"))),
    };
    let app = github.app.as_ref().map(|app| AppKey { id: app.id.clone(), secret: app.key_secret.clone() });
    let access = Access::new(Credentials { api: environment.api()?, token: token.cloned(), app });
    Ok(Ok(Poster { access, place, live: None }))
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
