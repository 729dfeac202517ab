//! The part of CodeBuild's API that a batch needs: <https://docs.aws.amazon.com/codebuild/latest/APIReference/>.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use agent_artifacts::aws::signed::{Answer, JsonVersion, call_json};
use agent_types::error::{Class, Error, Result};
use agent_types::sanitize::sanitize_line;

/// CodeBuild refuses requests that come too fast with these codes.
const THROTTLED: [&str; 4] =
    ["ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"];

/// Pauses before a request is sent again.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Time limit for sending a request again. CodeBuild knows an idempotency token for five minutes, and one call of
/// [`call_json`] may take a minute and a half. After that, a second try would start a second batch.
const RETRY_LIMIT: Duration = Duration::from_secs(200);

/// Maximum characters of a message of AWS that is shown.
const LONGEST: usize = 500;

/// The status of a build or of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStatus {
    /// CodeBuild reports no status yet.
    Waiting,
    InProgress,
    Succeeded,
    Failed,
    Fault,
    TimedOut,
    Stopped,
    /// A status that this agent does not know.
    Unknown,
}

impl BuildStatus {
    fn parse(text: &str) -> BuildStatus {
        match text {
            "IN_PROGRESS" => BuildStatus::InProgress,
            "SUCCEEDED" => BuildStatus::Succeeded,
            "FAILED" => BuildStatus::Failed,
            "FAULT" => BuildStatus::Fault,
            "TIMED_OUT" => BuildStatus::TimedOut,
            "STOPPED" => BuildStatus::Stopped,
            _ => BuildStatus::Unknown,
        }
    }

    /// As CodeBuild writes it.
    pub fn word(self) -> &'static str {
        match self {
            BuildStatus::Waiting => "nothing",
            BuildStatus::InProgress => "IN_PROGRESS",
            BuildStatus::Succeeded => "SUCCEEDED",
            BuildStatus::Failed => "FAILED",
            BuildStatus::Fault => "FAULT",
            BuildStatus::TimedOut => "TIMED_OUT",
            BuildStatus::Stopped => "STOPPED",
            BuildStatus::Unknown => "an unknown status",
        }
    }

    pub fn has_ended(self) -> bool {
        !matches!(self, BuildStatus::Waiting | BuildStatus::InProgress | BuildStatus::Unknown)
    }
}

/// The last build of a node of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellBuild {
    pub status: BuildStatus,
    /// The part of the build's id after the project.
    pub id: Option<String>,
    pub arn: Option<String>,
}

impl CellBuild {
    /// The page of the build with its log.
    pub fn page(&self) -> Option<String> {
        // arn:PARTITION:codebuild:REGION:ACCOUNT:build/PROJECT:ID
        let parts: Vec<&str> = self.arn.as_deref()?.splitn(6, ':').collect();
        let [_, partition, _, region, account, build] = parts[..] else { return None };
        let (project, id) = build.strip_prefix("build/")?.split_once(':')?;
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if ![region, account, project, id].into_iter().all(plain) {
            return None;
        }
        let host = match partition {
            "aws-cn" => "console.amazonaws.cn",
            "aws-us-gov" => "console.amazonaws-us-gov.com",
            _ => "console.aws.amazon.com",
        };
        Some(format!(
            "https://{host}/codesuite/codebuild/{account}/projects/{project}/build/{project}:{id}/?region={region}"
        ))
    }
}

/// A batch as CodeBuild sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub id: String,
    pub status: BuildStatus,
    /// The nodes that CodeBuild has begun to plan.
    pub builds: BTreeMap<String, CellBuild>,
    /// Why phases of the batch failed.
    pub messages: Vec<String>,
}

/// A project, and its limits for a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Whether it has a role for batches.
    pub runs_batches: bool,
    pub compute_type: String,
    pub maximum_builds: Option<u64>,
    /// Empty: all.
    pub compute_types: Vec<String>,
}

/// The arguments of a new batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartBatch<'a> {
    pub project: &'a str,
    /// A commit, a branch, or `pr/NUMBER`.
    pub source_version: &'a str,
    pub buildspec: &'a str,
    /// The same for all tries of one start.
    pub token: &'a str,
    /// Variables of the batch and its builds.
    pub variables: &'a [(&'a str, String)],
}

/// A batch that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningBatch {
    pub id: String,
    pub source_version: Option<String>,
    /// With those of the project.
    pub variables: BTreeMap<String, String>,
}

/// Reads a project.
///
/// # Errors
/// Usage, if there is none of this name; upstream, if CodeBuild does not answer.
pub async fn project(name: &str) -> Result<Project> {
    let answer = retried("BatchGetProjects", &json!({ "names": [name] })).await?;
    let Some(project) = answer["projects"].get(0) else {
        return Err(Error::usage(format!("CodeBuild has no project `{name}` in this region"))
            .hint("deploy cloudformation/batch.yml, or set AWS_REGION (docs/scale-out.md)"));
    };
    let config = &project["buildBatchConfig"];
    let restrictions = &config["restrictions"];
    let allowed = restrictions["computeTypesAllowed"].as_array();
    Ok(Project {
        runs_batches: config["serviceRole"].is_string(),
        compute_type: project["environment"]["computeType"].as_str().unwrap_or_default().to_owned(),
        maximum_builds: restrictions["maximumBuildsAllowed"].as_u64(),
        compute_types: allowed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

/// Starts a batch. If the answer is lost, the token makes the next try return the same batch.
///
/// # Errors
/// Usage, if CodeBuild refuses it; upstream, if CodeBuild does not answer.
pub async fn start(batch: &StartBatch<'_>) -> Result<Batch> {
    let variable =
        |(name, value): &(&str, String)| json!({ "name": name, "value": value, "type": "PLAINTEXT" });
    let body = json!({
        "projectName": batch.project,
        "sourceVersion": batch.source_version,
        "buildspecOverride": batch.buildspec,
        "idempotencyToken": batch.token,
        "environmentVariablesOverride": batch.variables.iter().map(variable).collect::<Vec<_>>(),
    });
    parse_batch(&retried("StartBuildBatch", &body).await?["buildBatch"])
}

/// Reads a batch.
///
/// # Errors
/// Upstream, if CodeBuild does not answer, or does not know it.
pub async fn batch(id: &str) -> Result<Batch> {
    let answer = read("BatchGetBuildBatches", &json!({ "ids": [id] })).await?;
    match answer["buildBatches"].get(0) {
        Some(batch) => parse_batch(batch),
        None => Err(Error::upstream(format!("CodeBuild does not know the batch {id}"))),
    }
}

/// The batches of a project that have not ended, the newest first.
///
/// # Errors
/// Upstream, if CodeBuild does not answer; usage, if it refuses the request.
pub async fn running(project: &str) -> Result<Vec<RunningBatch>> {
    let body =
        json!({ "projectName": project, "filter": { "status": "IN_PROGRESS" }, "sortOrder": "DESCENDING" });
    // A page has 100 batches at most, as BatchGetBuildBatches takes.
    let ids = retried("ListBuildBatchesForProject", &body).await?["ids"].take();
    if ids.as_array().is_none_or(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let answer = retried("BatchGetBuildBatches", &json!({ "ids": ids })).await?;
    let batches = answer["buildBatches"].as_array().into_iter().flatten();
    Ok(batches.filter_map(parse_running).collect())
}

/// Stops a batch and all its builds.
///
/// # Errors
/// Upstream, if CodeBuild does not answer or refuses it.
pub async fn stop(id: &str) -> Result<()> {
    retried("StopBuildBatch", &json!({ "id": id })).await.map(drop)
}

async fn retried(operation: &str, body: &Value) -> Result<Value> {
    let began = Instant::now();
    let mut pauses = PAUSES.into_iter();
    loop {
        let answer = read(operation, body).await;
        let is_temporary = answer.as_ref().is_err_and(|error| error.class == Class::Upstream);
        match pauses.next().filter(|pause| is_temporary && began.elapsed() + *pause < RETRY_LIMIT) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return answer,
        }
    }
}

async fn read(operation: &str, body: &Value) -> Result<Value> {
    let target = format!("CodeBuild_20161006.{operation}");
    let answer = call_json("codebuild", "codebuild", JsonVersion::V1_1, &target, body).await?;
    if !answer.is_success() {
        return Err(refusal(&answer, operation));
    }
    let damaged = |error: serde_json::Error| {
        Error::upstream(format!("the answer of CodeBuild to {operation} cannot be read")).because(&error)
    };
    serde_json::from_str(&answer.body).map_err(damaged)
}

/// A refusal by throttling, or by a fault of AWS, is temporary, and so upstream; any other is a mistake.
fn refusal(answer: &Answer, operation: &str) -> Error {
    let code = answer.code();
    let reason = answer.message().map_or_else(|| code.clone(), |message| format!("{code}: {message}"));
    let text = format!("CodeBuild refused {operation}: {}", shortened(&reason));
    if answer.status >= 500 || THROTTLED.contains(&code.as_str()) {
        return Error::upstream(text).hint("retry later");
    }
    Error::usage(text).hint(match code.as_str() {
        "AccessDeniedException" => format!("allow codebuild:{operation} on the project to this role"),
        "AccountLimitExceededException" => {
            "raise the quota of concurrent builds, or run fewer cells".to_owned()
        }
        _ => "see docs/scale-out.md".to_owned(),
    })
}

fn shortened(text: &str) -> String {
    sanitize_line(&text.chars().take(LONGEST).collect::<String>()).into_owned()
}

/// `None`, if it has ended.
fn parse_running(value: &Value) -> Option<RunningBatch> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let status = value["buildBatchStatus"].as_str().map_or(BuildStatus::Waiting, BuildStatus::parse);
    let variables = value["environment"]["environmentVariables"].as_array().into_iter().flatten();
    let variables = variables.filter_map(|one| Some((text(&one["name"])?, text(&one["value"])?)));
    let id = text(&value["id"]).filter(|_| !status.has_ended())?;
    Some(RunningBatch { id, source_version: text(&value["sourceVersion"]), variables: variables.collect() })
}

fn parse_batch(value: &Value) -> Result<Batch> {
    let id = value["id"].as_str().ok_or_else(|| Error::upstream("CodeBuild's answer names no batch"))?;
    let groups = value["buildGroups"].as_array().into_iter().flatten();
    let builds = groups.filter_map(|group| {
        let summary = &group["currentBuildSummary"];
        let arn = summary["arn"].as_str().map(str::to_owned);
        let build = CellBuild {
            status: summary["buildStatus"].as_str().map_or(BuildStatus::Waiting, BuildStatus::parse),
            id: arn.as_deref().and_then(|arn| arn.rsplit(':').next()).map(str::to_owned),
            arn,
        };
        Some((group["identifier"].as_str()?.to_owned(), build))
    });
    let phases = value["phases"].as_array().into_iter().flatten();
    let contexts = phases.flat_map(|phase| phase["contexts"].as_array().into_iter().flatten());
    let messages = contexts.filter_map(|context| context["message"].as_str());
    Ok(Batch {
        id: shortened(id),
        status: value["buildBatchStatus"].as_str().map_or(BuildStatus::Waiting, BuildStatus::parse),
        builds: builds.collect(),
        messages: messages.filter(|text| !text.is_empty()).map(shortened).collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_batch_as_codebuild_describes_it() {
        let value = json!({
            "id": "p:b-1", "buildBatchStatus": "IN_PROGRESS",
            "phases": [{ "phaseType": "DOWNLOAD_BATCHSPEC", "contexts": [{ "statusCode": "X", "message": "a\n\u{1b}b" }, {}] }, {}],
            "buildGroups": [
                { "identifier": "warm", "currentBuildSummary": {
                    "arn": "arn:aws:codebuild:eu-west-1:123456789012:build/p:u-1", "buildStatus": "SUCCEEDED" } },
                { "identifier": "a", "dependsOn": ["warm"] },
                { "identifier": "b", "currentBuildSummary": { "buildStatus": "NEW_WORD" } },
                {},
            ],
        });
        let batch = parse_batch(&value).unwrap();
        assert_eq!(
            (batch.id.as_str(), batch.status, batch.builds.len()),
            ("p:b-1", BuildStatus::InProgress, 3)
        );
        let warm = &batch.builds["warm"];
        assert_eq!((warm.status, warm.id.as_deref()), (BuildStatus::Succeeded, Some("u-1")));
        assert_eq!(
            warm.page().unwrap(),
            "https://console.aws.amazon.com/codesuite/codebuild/123456789012/projects/p/build/p:u-1/?region=eu-west-1"
        );
        assert_eq!(batch.builds["a"].status, BuildStatus::Waiting);
        assert_eq!(batch.builds["b"].status, BuildStatus::Unknown);
        assert!(batch.messages.len() == 1 && !batch.messages[0].contains(['\n', '\u{1b}']), "{batch:?}");
        assert!(parse_batch(&json!({})).is_err());
    }

    #[test]
    fn reads_batches_that_run() {
        let value = |status: &str| {
            json!({
                "id": "p:1", "buildBatchStatus": status, "sourceVersion": "pr/7",
                "environment": { "environmentVariables": [{ "name": "A", "value": "b", "type": "PLAINTEXT" }, {}] },
            })
        };
        let batch = parse_running(&value("IN_PROGRESS")).unwrap();
        assert_eq!((batch.id.as_str(), batch.source_version.as_deref()), ("p:1", Some("pr/7")));
        assert_eq!(batch.variables, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
        assert_eq!(parse_running(&value("STOPPED")), None);
        assert_eq!(parse_running(&json!({})), None);
    }

    #[test]
    fn only_temporary_refusals_are_retried() {
        for (status, body, wanted) in [
            (400, r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#, Class::Upstream),
            (503, "", Class::Upstream),
            (400, r#"{"__type":"InvalidInputException","message":"bad spec"}"#, Class::Usage),
            (400, r#"{"__type":"AccessDeniedException"}"#, Class::Usage),
            (400, r#"{"__type":"AccountLimitExceededException"}"#, Class::Usage),
        ] {
            let error = refusal(&Answer { status, body: body.into() }, "StartBuildBatch");
            assert_eq!(error.class, wanted, "{error}");
        }
    }
}
