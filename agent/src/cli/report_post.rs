//! `build-agent report post RESULT`: posts the result of an untrusted build to GitHub, from a trusted step.
//!
//! The result is untrusted text. It is read with a limit, checked against itself, and escaped. It decides neither the
//! repository nor the commit, pull request, name or link: these come from the command line, or from the event that GitHub
//! gave to the workflow.

use std::time::{Duration, Instant};

use url::Url;

use crate::config::{self, AgentEnvironment, WorkflowRun};
use crate::report::github::{Access, AppKey, Credentials, Place, Poster, Stage, unreadable_result};
use crate::report::{self, Summary};
use agent_artifacts::aws;
use agent_github::{Permission, Repository, pulls};
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::sanitize::sanitize_line;
use agent_types::secret::Secret;

use super::arguments::{Post, PostState};
use super::print;
use super::report_device::DeviceRun;
use super::result_file::read_result;

/// The time for all posts. This step does nothing else, so that it can wait for rate limits.
const TIME: Duration = Duration::from_secs(5 * 60);

/// Posts, and prints a line about each report.
pub async fn command(args: &Post, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let deadline = Instant::now() + TIME;
    let known = Known::new(args, environment)?;
    let access = access(args, environment).await?;
    let mut place = place(args, &known, &access, deadline).await?;
    let mut kinds = args.post.clone();
    kinds.dedup();
    let device = match args.device_request.as_ref().zip(args.store.as_ref()) {
        Some((id, store)) => Some(DeviceRun::read(store, id, &known.commit).await?),
        None => None,
    };
    if let Some(device) = &device {
        place = place.of_device(&device.request.pool, &device.request.id);
    }
    let summary = match (&device, args.state) {
        (Some(device), PostState::Completed) => Some(device.result(&place).await?),
        (Some(_), _) => None,
        (None, _) => of_result(args, &place, &access, deadline).await?,
    };
    if let (Some(directory), Some(summary)) = (&args.save, &summary) {
        fs_err::create_dir_all(directory)?;
        report::write_result(summary, directory)?;
        return Ok(ExitStatus::Passed);
    }
    if place.job.is_empty() {
        place.job = summary.as_ref().map_or_else(String::new, job_of);
    }
    let poster = Poster { access, place, live: None };
    let stage = if args.state == PostState::Queued { Stage::Queued } else { Stage::Running };
    let mut exit = ExitStatus::Passed;
    for kind in kinds {
        let posted = match &summary {
            Some(summary) => poster.post(kind, summary, deadline).await,
            None => poster.begin(kind, stage, deadline).await,
        };
        match posted {
            Ok(said) => print::text(&format!("{kind}: {said}\n"))?,
            Err(error) => {
                print::diagnostic(format_args!("error: {error}"));
                exit = error.class.exit_status();
            }
        }
    }
    Ok(exit)
}

/// The result of a build, or what is posted in its place; `None` for a job that has not ended.
async fn of_result(
    args: &Post,
    place: &Place,
    access: &Access,
    deadline: Instant,
) -> Result<Option<Summary>> {
    match (args.state, &args.result) {
        (PostState::Completed, None) => {
            Err(Error::usage("RESULT is missing").hint("name the result.json of the build"))
        }
        (PostState::Completed, Some(address)) => {
            let read = believable(address, args, place, access, deadline).await;
            Ok(Some(read.unwrap_or_else(|why| {
                print::diagnostic(format_args!(
                    "warning: {}: {why}; this is posted instead",
                    sanitize_line(address)
                ));
                unreadable_result(&why, place)
            })))
        }
        (PostState::Queued | PostState::InProgress, None) => Ok(None),
        (PostState::Queued | PostState::InProgress, Some(_)) => {
            Err(Error::usage("a job that is queued or in progress has no result").hint("remove RESULT"))
        }
    }
}

/// What the trusted side knows.
struct Known<'a> {
    repository: Repository,
    commit: String,
    run: Option<&'a WorkflowRun>,
}

impl<'a> Known<'a> {
    fn new(args: &Post, environment: &'a AgentEnvironment) -> Result<Known<'a>> {
        let github = environment.github_actions.as_ref();
        let run = github
            .filter(|run| run.event.as_deref() == Some("workflow_run"))
            .and_then(|run| run.payload.workflow_run.as_ref());
        let of_run = run.and_then(|_| github?.repository.as_deref());
        let repository = agreed("--repository", args.repository.as_deref(), of_run)?;
        let commit = agreed("--commit", args.commit.as_deref(), run.map(|run| run.head_commit.as_str()))?;
        let commit = config::parse_commit(&commit)
            .map_err(|mistake| Error::usage(format!("--commit: {}", mistake.message)))?;
        let repository =
            repository.parse().map_err(|why: String| Error::usage(format!("--repository: {why}")))?;
        config::result_name(&args.name)
            .map_err(|mistake| Error::usage(format!("--name: {}", mistake.message)))?;
        Ok(Known { repository, commit, run })
    }
}

/// The value of an option, or of the event of this run.
fn agreed(option: &str, given: Option<&str>, of_run: Option<&str>) -> Result<String> {
    match (given, of_run) {
        (Some(given), Some(known)) if !given.eq_ignore_ascii_case(known) => {
            Err(Error::usage(format!("{option} is {given}, and the event of this run says {known}"))
                .hint(format!("remove {option} in a workflow that `workflow_run` starts")))
        }
        (Some(value), _) | (None, Some(value)) => Ok(value.to_owned()),
        (None, None) => Err(Error::usage(format!("{option} is missing"))
            .hint("only a workflow that `workflow_run` starts knows it by itself")),
    }
}

async fn access(args: &Post, environment: &AgentEnvironment) -> Result<Access> {
    let app = args.app_id.clone().zip(args.app_key_secret.clone());
    let app = app.map(|(id, secret)| AppKey { id, secret });
    let mut token = environment.github_token.clone();
    if let (None, None, Some(name)) = (&app, &token, &args.token_secret) {
        let secret = Secret { origin: format!("secret {name}"), value: aws::secret(name, None).await? };
        print::hide(std::slice::from_ref(&secret));
        token = Some(secret);
    }
    if app.is_none() && token.is_none() {
        return Err(Error::usage("there is no credential for GitHub").hint(
            "pass --app-id and --app-key-secret, or --token-secret, or set the variable GITHUB_TOKEN",
        ));
    }
    Ok(Access::new(Credentials { api: environment.api()?, token, app }))
}

async fn place(args: &Post, known: &Known<'_>, access: &Access, deadline: Instant) -> Result<Place> {
    let link = match &args.link {
        Some(text) => Some(link(text)?),
        None => known.run.and_then(|run| run.url.as_ref().map(Url::to_string)),
    };
    let run = args.run.clone().or(known.run.map(|run| format!("run-{}-{}", run.id, run.attempt)));
    let mut place = Place {
        repository: known.repository.clone(),
        commit: known.commit.clone(),
        git_ref: None,
        pull_request: None,
        no_comment: None,
        name: args.name.clone(),
        job: run.unwrap_or_default(),
        link,
        comment: args.comment,
    };
    match pull_request(args, known, access, deadline).await {
        Ok(Some(number)) => {
            place.pull_request = Some(number);
            place.git_ref = Some(format!("refs/pull/{number}/head"));
        }
        Ok(None) => {
            let branch =
                known.run.filter(|run| run.event == "push").and_then(|run| run.head_branch.as_deref());
            place.git_ref = args.git_ref.clone().or(branch.map(|branch| format!("refs/heads/{branch}")));
        }
        Err(why) => place.no_comment = Some(why),
    }
    Ok(place)
}

/// The pull request whose newest commit was tested; else the reason why there is no such pull request.
async fn pull_request(
    args: &Post,
    known: &Known<'_>,
    access: &Access,
    deadline: Instant,
) -> Result<Option<u64>, String> {
    let of_run = known.run.filter(|run| run.event.starts_with("pull_request"));
    if args.pull_request.is_none() && of_run.is_none() {
        return Ok(None);
    }
    let failed = |failure: agent_github::Failure| format!("the pull request cannot be read: {failure}");
    let client =
        access.client(&known.repository, Permission::ReadPullRequests, deadline).await.map_err(failed)?;
    if let Some(number) = args.pull_request {
        let pull = pulls::get(&client, &known.repository, number).await.map_err(failed)?;
        return match pull.head.sha == known.commit {
            true => Ok(Some(number)),
            false => Err(format!("pull request {number} has another commit by now")),
        };
    }
    let run = of_run.and_then(|run| Some((run.head_owner.as_deref()?, run.head_branch.as_deref()?)));
    let Some((owner, branch)) = run else { return Err("the event names no branch".to_owned()) };
    let found =
        pulls::with_head(&client, &known.repository, owner, branch, &known.commit).await.map_err(failed)?;
    match found.as_slice() {
        [] => Err("no open pull request has this commit as its newest".to_owned()),
        [first, ..] => Ok(Some(first.number)),
    }
}

fn link(text: &str) -> Result<String> {
    match Url::parse(text) {
        Ok(url) if ["https", "http"].contains(&url.scheme()) => Ok(url.to_string()),
        _ => Err(Error::usage(format!("--link {text:?} is not an https:// address"))),
    }
}

/// The result, if nothing speaks against it; else why not.
async fn believable(
    address: &str,
    args: &Post,
    place: &Place,
    access: &Access,
    deadline: Instant,
) -> Result<Summary, String> {
    let bytes = read_result(address).await.map_err(|error| {
        // The error names buckets and directories, which must not be posted.
        print::diagnostic(format_args!("warning: {error}"));
        "the build left no result.json, or one that is too large".to_owned()
    })?;
    let parsed = report::parse_result(&bytes, "result.json").and_then(report::recheck_result);
    let mut summary = parsed.map_err(|error| error.message)?;
    verify_commit(&summary, place, access, deadline).await?;
    if let Some(status) = &args.build_status
        && summary.exit == ExitStatus::Passed
        && status != "SUCCEEDED"
    {
        return Err(format!("it says that the job passed, and the build ended with {status}"));
    }
    // These texts are only for the machine that made the result.
    summary.job.url = None;
    summary.job.reproduce.clear();
    summary.report = None;
    Ok(summary)
}

/// A job tests the newest commit of a branch, or the merge commit that GitHub made of it.
async fn verify_commit(
    summary: &Summary,
    place: &Place,
    access: &Access,
    deadline: Instant,
) -> Result<(), String> {
    let Some(tested) = &summary.job.commit else { return Err("it does not name its commit".to_owned()) };
    let tested =
        config::parse_commit(tested).map_err(|_| "the commit that it names is not a commit id".to_owned())?;
    if tested == place.commit {
        return Ok(());
    }
    let other = || format!("it is for the commit {tested}, and {} was built", place.commit);
    let client = access.client(&place.repository, Permission::ReadContents, deadline).await;
    let parents = match client {
        Ok(client) => pulls::parents(&client, &place.repository, &tested).await,
        Err(failure) => Err(failure),
    };
    match parents {
        Ok(parents) if parents.contains(&place.commit) => Ok(()),
        Ok(_) => Err(other()),
        Err(failure) => Err(format!("{}; whether it is a merge commit cannot be read: {failure}", other())),
    }
}

/// The job's id, if it looks like one.
fn job_of(summary: &Summary) -> String {
    let id = summary.job.id.as_str();
    let good = !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if good { id.to_owned() } else { "unknown".to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_option_cannot_contradict_the_event() {
        assert_eq!(agreed("--commit", Some("a"), None).unwrap(), "a");
        assert_eq!(agreed("--commit", None, Some("b")).unwrap(), "b");
        assert_eq!(agreed("--repository", Some("O/R"), Some("o/r")).unwrap(), "O/R");
        assert!(agreed("--commit", Some("a"), Some("b")).is_err());
        assert!(agreed("--commit", None, None).is_err());
    }

    #[test]
    fn a_link_is_an_address_for_a_browser() {
        assert_eq!(link("https://example.org/a b").unwrap(), "https://example.org/a%20b");
        for bad in ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "x", ""] {
            assert!(link(bad).is_err(), "{bad}");
        }
    }
}
