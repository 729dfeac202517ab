//! Check runs: <https://docs.github.com/en/rest/checks/runs>. Only a GitHub App may write them.
//!
//! A run is found again by its name and its `external_id`, which begins with [`OURS`] and has the job's id. So a job that
//! is repeated, or a step that posts again, updates the same run.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use agent_types::truncate;

use super::client::{Call, Client};
use super::create::{Sent, create};
use super::failure::{Failure, Result};
use super::repository::Repository;
use super::statuses::shorten;

/// Annotations of one request. GitHub drops more without an error.
pub const BATCH: usize = 50;

/// Maximum characters of `summary`.
pub const SUMMARY: usize = 65_535;

/// Maximum characters of a title, of the run and of an annotation.
const TITLE: usize = 255;

/// Maximum bytes of the message of an annotation: 64 KB.
const MESSAGE: usize = 60_000;

/// The start of the `external_id` of all runs of this program.
pub const OURS: &str = "build-agent:";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Queued,
    InProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    Success,
    Failure,
    Neutral,
    Cancelled,
    Skipped,
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AnnotationLevel {
    Failure,
    Warning,
    Notice,
}

/// A problem at a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Annotation {
    /// Relative to the top of the repository.
    pub path: String,
    pub start_line: u32,
    pub end_line: u32,
    pub annotation_level: AnnotationLevel,
    pub title: String,
    pub message: String,
}

/// What the page of a run shows. Markdown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub title: String,
    pub summary: String,
}

impl Output {
    /// As GitHub accepts it.
    fn json(&self) -> Map<String, Value> {
        let (mut title, mut summary) = (self.title.clone(), self.summary.clone());
        shorten(&mut title, TITLE);
        shorten(&mut summary, SUMMARY);
        Map::from_iter([("title".to_owned(), json!(title)), ("summary".to_owned(), json!(summary))])
    }
}

/// A run to create.
#[derive(Clone, Debug)]
pub struct NewCheckRun<'a> {
    pub name: &'a str,
    pub commit: &'a str,
    /// The job's id.
    pub job: &'a str,
    pub link: Option<&'a str>,
    pub status: RunStatus,
    pub output: Output,
}

/// A run at GitHub.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RawCheckRun")]
pub struct CheckRun {
    pub id: u64,
    pub external_id: String,
    pub is_completed: bool,
    /// Annotations that it already has.
    pub annotations: usize,
}

#[derive(Deserialize)]
struct RawCheckRun {
    id: u64,
    external_id: Option<String>,
    status: String,
    output: RawOutput,
}

#[derive(Deserialize)]
struct RawOutput {
    annotations_count: usize,
}

impl From<RawCheckRun> for CheckRun {
    fn from(raw: RawCheckRun) -> CheckRun {
        CheckRun {
            id: raw.id,
            external_id: raw.external_id.unwrap_or_default(),
            is_completed: raw.status == "completed",
            annotations: raw.output.annotations_count,
        }
    }
}

impl CheckRun {
    /// Whether it is the run of this job.
    pub fn is_of(&self, job: &str) -> bool {
        self.external_id.strip_prefix(OURS) == Some(job)
    }

    fn is_ours(&self) -> bool {
        self.external_id.starts_with(OURS)
    }
}

fn runs(repository: &Repository) -> [&str; 4] {
    ["repos", &repository.owner, &repository.name, "check-runs"]
}

/// The runs of this program with this name, the newest first.
async fn known(client: &Client, repository: &Repository, commit: &str, name: &str) -> Result<Vec<CheckRun>> {
    #[derive(Deserialize)]
    struct Page {
        check_runs: Vec<CheckRun>,
    }
    let path = ["repos", &repository.owner, &repository.name, "commits", commit, "check-runs"];
    let call = Call::get(&path)
        .query("check_name", name)
        .query("filter", "all")
        .query("per_page", super::client::PAGE);
    let page: Page = client.json(&call).await?;
    let mut ours: Vec<CheckRun> = page.check_runs.into_iter().filter(CheckRun::is_ours).collect();
    ours.sort_by_key(|run| std::cmp::Reverse(run.id));
    Ok(ours)
}

/// The run of this job: the one that an earlier attempt of the same job created, or one that a killed job left
/// unfinished, or a new one. An unfinished run that already has annotations is ended, because annotations cannot be
/// removed.
///
/// # Errors
/// If GitHub does not accept it, or the deadline comes first.
pub async fn claim(client: &Client, repository: &Repository, new: &NewCheckRun<'_>) -> Result<CheckRun> {
    let known = known(client, repository, new.commit, new.name).await?;
    if let Some(own) = known.iter().find(|run| run.is_of(new.job)) {
        return Ok(own.clone());
    }
    let mut claimed = None;
    for left in known.iter().filter(|run| !run.is_completed) {
        let is_usable = claimed.is_none() && left.annotations == 0;
        if is_usable {
            claimed = Some(take_over(client, repository, left, new).await?);
        } else {
            let output = Output {
                title: "superseded".to_owned(),
                summary: "The job ended without a result. A newer job has replaced it.".to_owned(),
            };
            complete(client, repository, left.id, Conclusion::Cancelled, None, &output).await?;
        }
    }
    match claimed {
        Some(run) => Ok(run),
        None => create_run(client, repository, new).await,
    }
}

async fn take_over(
    client: &Client,
    repository: &Repository,
    left: &CheckRun,
    new: &NewCheckRun<'_>,
) -> Result<CheckRun> {
    let mut body = Map::from_iter([
        ("external_id".to_owned(), json!(format!("{OURS}{}", new.job))),
        ("status".to_owned(), json!(new.status)),
        ("output".to_owned(), Value::Object(new.output.json())),
    ]);
    body.extend(new.link.map(|link| ("details_url".to_owned(), json!(link))));
    patch(client, repository, left.id, Value::Object(body)).await
}

async fn create_run(client: &Client, repository: &Repository, new: &NewCheckRun<'_>) -> Result<CheckRun> {
    let mut body = Map::from_iter([
        ("name".to_owned(), json!(new.name)),
        ("head_sha".to_owned(), json!(new.commit)),
        ("external_id".to_owned(), json!(format!("{OURS}{}", new.job))),
        ("status".to_owned(), json!(new.status)),
        ("output".to_owned(), Value::Object(new.output.json())),
    ]);
    body.extend(new.link.map(|link| ("details_url".to_owned(), json!(link))));
    let call = Call::post(&runs(repository), Value::Object(body));
    let send = || -> Sent<'_, _> { Box::pin(async { client.json(&call).await }) };
    let look_up = || -> Sent<'_, _> {
        Box::pin(async {
            let known = known(client, repository, new.commit, new.name).await?;
            Ok(known.into_iter().find(|run| run.is_of(new.job)))
        })
    };
    create(client, send, look_up).await
}

async fn patch(client: &Client, repository: &Repository, id: u64, body: Value) -> Result<CheckRun> {
    let id = id.to_string();
    let [repos, owner, name, runs] = runs(repository);
    client.json(&Call::patch(&[repos, owner, name, runs, &id], body)).await
}

/// The run as it is now.
///
/// # Errors
/// If it cannot be read.
pub async fn get(client: &Client, repository: &Repository, id: u64) -> Result<CheckRun> {
    let id = id.to_string();
    let [repos, owner, name, runs] = runs(repository);
    client.json(&Call::get(&[repos, owner, name, runs, &id])).await
}

/// Shows what runs now.
///
/// # Errors
/// If GitHub does not accept it, or the deadline comes first.
pub async fn progress(
    client: &Client,
    repository: &Repository,
    id: u64,
    status: RunStatus,
    output: &Output,
) -> Result<CheckRun> {
    patch(client, repository, id, json!({ "status": status, "output": output.json() })).await
}

/// Ends the run. The verdict comes first: annotations are added to a run that has ended, so that a kill in between leaves
/// none that seems to run.
///
/// # Errors
/// If GitHub does not accept it, or the deadline comes first.
pub async fn complete(
    client: &Client,
    repository: &Repository,
    id: u64,
    conclusion: Conclusion,
    link: Option<&str>,
    output: &Output,
) -> Result<CheckRun> {
    let mut body = Map::from_iter([
        ("status".to_owned(), json!("completed")),
        ("conclusion".to_owned(), json!(conclusion)),
        ("output".to_owned(), Value::Object(output.json())),
    ]);
    body.extend(link.map(|link| ("details_url".to_owned(), json!(link))));
    patch(client, repository, id, Value::Object(body)).await
}

/// Adds annotations in batches. Those that an earlier attempt has added are skipped: the order must be the same.
///
/// # Errors
/// If GitHub does not accept one of the batches, or the deadline comes first.
pub async fn annotate(
    client: &Client,
    repository: &Repository,
    run: &CheckRun,
    output: &Output,
    annotations: &[Annotation],
) -> Result<()> {
    let [repos, owner, name, runs] = runs(repository);
    let (id, mut have) = (run.id.to_string(), run.annotations);
    while let Some(batch) = annotations.get(have..).filter(|rest| !rest.is_empty()) {
        let batch = batch.get(..BATCH).unwrap_or(batch);
        let wanted = have + batch.len();
        let batch: Vec<Annotation> = batch.iter().map(fitting).collect();
        let mut output = output.json();
        output.insert("annotations".to_owned(), json!(batch));
        let call = Call::patch(&[repos, owner, name, runs, &id], json!({ "output": output })).once();
        let send = || -> Sent<'_, _> { Box::pin(async { client.done(&call).await }) };
        let look_up = || -> Sent<'_, _> {
            Box::pin(async {
                let now = get(client, repository, run.id).await?;
                Ok((now.annotations >= wanted).then_some(()))
            })
        };
        create(client, send, look_up).await?;
        have = wanted;
    }
    Ok(())
}

/// The annotation as GitHub accepts it.
fn fitting(annotation: &Annotation) -> Annotation {
    let mut one = annotation.clone();
    shorten(&mut one.title, TITLE);
    truncate::middle(&mut one.message, MESSAGE);
    one.start_line = one.start_line.max(1);
    one.end_line = one.end_line.max(one.start_line);
    if one.message.trim().is_empty() {
        one.message.clone_from(&one.title);
    }
    one
}

/// Whether a run still belongs to the job, and how it is now.
///
/// # Errors
/// If a newer job has taken it over, or it cannot be read.
pub async fn still_of(client: &Client, repository: &Repository, id: u64, job: &str) -> Result<CheckRun> {
    let run = get(client, repository, id).await?;
    match run.is_of(job) {
        true => Ok(run),
        false => Err(Failure::Input("a newer job of the same name has taken over the check run".to_owned())),
    }
}
