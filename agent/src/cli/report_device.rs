//! The result of a device run for `report post`, from the store of the requests.
//!
//! The verdict names the digest of its result, so that no other result is posted: neither that of another attempt nor
//! that of another commit.

use sha2::{Digest, Sha256};

use agent_devices::queue::Queue;
use agent_devices::request::{DeviceRequest, Verdict, layout};
use agent_types::error::{Error, Result};
use agent_types::words::hexadecimal;

use crate::report::github::{Place, device_without_result, unreadable_result};
use crate::report::{self, LARGEST_RESULT, Summary};

use super::publish::destination;

/// A device run.
pub struct DeviceRun {
    queue: Queue,
    pub request: DeviceRequest,
}

impl DeviceRun {
    /// Reads the request of this id.
    ///
    /// # Errors
    /// Usage, if there is no such request, or it is for another commit; else if the store cannot be read.
    pub async fn read(store: &str, id: &str, commit: &str) -> Result<DeviceRun> {
        let queue = Queue::open(&destination(store)?, None).await?;
        let Some(request) = queue.request(id).await? else {
            return Err(Error::usage(format!("{store} has no device request {id}"))
                .hint("build-agent lab requests shows those that are there"));
        };
        match request.job.commit.as_deref() {
            Some(tested) if tested == commit => Ok(DeviceRun { queue, request }),
            tested => Err(Error::usage(format!(
                "the device request {id} is for the commit {}, and not for {commit}",
                tested.unwrap_or("unknown")
            ))),
        }
    }

    /// The result, or what is posted in its place.
    ///
    /// # Errors
    /// Usage, if there is no verdict yet; else if the store cannot be read.
    pub async fn result(&self, place: &Place) -> Result<Summary> {
        let id = &self.request.id;
        let Some(verdict) = self.queue.verdict(id).await? else {
            return Err(Error::usage(format!("the device request {id} has no verdict yet"))
                .hint("post it with --state queued or --state in-progress"));
        };
        let Some(attempt) = verdict.attempt else { return Ok(device_without_result(&verdict, place)) };
        let path = format!("{}/result.json", layout::reports(id, attempt));
        let read = self.queue.store().read(&path, LARGEST_RESULT).await?;
        let summary = match read {
            Some(bytes) => believable(&bytes, &verdict),
            None => Err("the result of the device run is missing".to_owned()),
        };
        Ok(match summary {
            Ok(summary) => self.named(summary),
            Err(why) => unreadable_result(&why, place),
        })
    }

    /// The same as a result of the commit that was tested.
    fn named(&self, mut summary: Summary) -> Summary {
        let job = &self.request.job;
        summary.job.name = format!("{} on {}", self.request.image, self.request.pool);
        summary.job.release.clone_from(&job.release);
        summary.job.commit.clone_from(&job.commit);
        summary.job.dirty = job.dirty;
        summary.job.url = None;
        summary.job.reproduce.clear();
        summary
    }
}

fn believable(bytes: &[u8], verdict: &Verdict) -> Result<Summary, String> {
    let digest = hexadecimal(&Sha256::digest(bytes));
    if verdict.result_sha256.as_ref() != Some(&digest) {
        return Err("the result is not the one of the verdict".to_owned());
    }
    let summary = report::parse_result(bytes, "result.json").and_then(report::recheck_result);
    let summary = summary.map_err(|error| error.message)?;
    match summary.exit == verdict.exit && summary.outcome.word() == verdict.outcome.word() {
        true => Ok(summary),
        false => Err("the result contradicts the verdict".to_owned()),
    }
}
