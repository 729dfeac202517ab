//! `build-agent lab request RESULT`: requests tests of an image that a build published, from a trusted step.
//!
//! The result is untrusted: it only says where the files are, and they must have the digests that it names. What is tested,
//! where and whether at all comes from the manifest of the base branch.

use std::time::SystemTime;

use agent_artifacts::records::RecordStore;
use agent_devices::queue::Queue;
use agent_devices::request::{DeviceRequest, RequestFile, RequestTrust};
use agent_devices::resume;
use agent_types::artifact::Destination;
use agent_types::error::{Error, Result};
use agent_types::events::JobIdentity;
use agent_types::job_id::JobId;
use agent_types::outcome::ExitStatus;

use crate::config::{self, AgentEnvironment, DeviceTests, Request, Settings};
use crate::report::{self, Summary};
use crate::stages::device::{PublishedFile, published, request};

use super::arguments::LabRequest;
use super::job::load_request;
use super::print;
use super::publish::destination;
use super::result_file::read_result;

/// What the step does.
enum Decision {
    Request {
        device: Box<DeviceTests>,
        files: Vec<PublishedFile>,
        job: Box<JobIdentity>,
    },
    /// Nothing is tested: why.
    Nothing(String),
}

/// Requests the tests, and prints the id of the request. A task token of Step Functions goes into the request.
pub async fn command(args: &LabRequest, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let token = environment.task_token.as_ref().map(|token| token.value.as_str());
    let done = requested(args, environment, token).await;
    let (said, resumed) = match (&done, token) {
        (Ok(Ok(id)), _) => (format!("requested {id}\n"), None),
        (Ok(Err(why)), Some(token)) => {
            (format!("nothing is requested: {why}\n"), Some(resume::resume_without_request(token, why).await))
        }
        (Ok(Err(why)), None) => (format!("nothing is requested: {why}\n"), None),
        (Err(error), Some(token)) => (String::new(), Some(resume::fail(token, &error.message).await)),
        (Err(_), None) => (String::new(), None),
    };
    print::text(&said)?;
    if let Some(Err(error)) = resumed {
        print::diagnostic(format_args!("error: the execution in Step Functions goes on waiting: {error}"));
        return done.map(|_| error.class.exit_status());
    }
    done.map(|_| ExitStatus::Passed)
}

async fn requested(
    args: &LabRequest,
    environment: &AgentEnvironment,
    token: Option<&str>,
) -> Result<std::result::Result<String, String>> {
    let manifest = Some(args.manifest.clone().unwrap_or_else(|| config::FILE_NAME.to_owned()));
    let base = Request { manifest, set: args.set.clone(), ..Request::default() };
    let settings = load_request(&base, environment).await?;
    let (device, files, job) = match decide(args, &settings).await? {
        Decision::Request { device, files, job } => (device, files, job),
        Decision::Nothing(why) => return Ok(Err(why)),
    };
    let kms_key_id = settings.artifacts.kms_key_id.as_deref();
    let queue = Queue::open(&settings.artifacts.destination, kms_key_id).await?;
    let files = copy(&queue, &destination(&args.artifacts)?, files).await?;
    let trust = if args.trusted { RequestTrust::Trusted } else { RequestTrust::Untrusted };
    let now = SystemTime::now();
    let id = JobId::new(now);
    let request = DeviceRequest {
        task_token: token.map(str::to_owned),
        ..request(&device, &job, id.as_str(), trust, files, now)
    };
    queue.submit(&request).await?;
    Ok(Ok(format!("{id} on {}", request.pool)))
}

async fn decide(args: &LabRequest, settings: &Settings) -> Result<Decision> {
    let Some(device) = &settings.device else {
        return Ok(Decision::Nothing("the manifest has no [device]".into()));
    };
    if device.is_guest() {
        return Ok(Decision::Nothing("the job itself tests on its guest".into()));
    }
    if !args.trusted && !device.untrusted {
        return Ok(Decision::Nothing("the source is not trusted, and [device] untrusted is \"no\"".into()));
    }
    if let Some(status) = args.build_status.as_ref().filter(|status| *status != "SUCCEEDED") {
        return Ok(Decision::Nothing(format!("the build ended with {status}")));
    }
    let bytes = read_result(&args.result).await?;
    let summary = report::parse_result(&bytes, "result.json").and_then(report::recheck_result)?;
    let commit = config::parse_commit(&args.commit)
        .map_err(|mistake| Error::usage(format!("--commit: {}", mistake.message)))?;
    if summary.exit != ExitStatus::Passed {
        return Ok(Decision::Nothing("the build did not pass".into()));
    }
    if summary.job.commit.as_ref() != Some(&commit) {
        return Err(Error::usage(format!("the result is not for the commit {commit}"))
            .hint("name the result of the build of this commit"));
    }
    if summary.device.is_some() && args.trusted {
        return Err(Error::usage("the build has requested the tests itself")
            .hint("set BUILD_AGENT_DEVICE_REQUESTS=publish for builds whose tests another step requests"));
    }
    let files = published(device, &summary.artifacts, &destination(&args.artifacts)?)?
        .map_err(|why| Error::usage(why).hint("the artifacts of the build have what [device] files names"))?;
    let job = JobIdentity { id: known_id(&summary), commit: Some(commit), ..settings.job.clone() };
    Ok(Decision::Request { device: Box::new(device.clone()), files, job: Box::new(job) })
}

/// The id of the job, if it looks like one.
fn known_id(summary: &Summary) -> JobId {
    let id = summary.job.id.clone();
    let is_good = agent_devices::queue::is_id(id.as_str());
    if is_good { id } else { JobId::default() }
}

/// Copies the files to the store of the requests. Each must have its digest.
async fn copy(queue: &Queue, from: &Destination, files: Vec<PublishedFile>) -> Result<Vec<RequestFile>> {
    let store = RecordStore::open(from, false, None, "index.json").await?;
    let scratch = tempfile::Builder::new().prefix("build-agent-request-").tempdir()?;
    let copy = scratch.path().join("file");
    let mut stored = Vec::new();
    for PublishedFile { role, name, path, digest } in files {
        store.download_file(&path, &digest, &copy).await?;
        let put = queue.put_file(&copy).await?;
        if put != digest {
            return Err(Error::internal(format!("{name} changed while it was copied")));
        }
        stored.push(RequestFile { role, name, bytes: put.bytes, sha256: put.sha256 });
    }
    Ok(stored)
}
