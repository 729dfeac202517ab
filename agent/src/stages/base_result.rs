//! The result that a change is compared with: that of the commit in which the change began, or of its nearest ancestor
//! with one. Only trusted sources write these results.
//!
//! Without one the job is not compared. That is reported, and changes nothing else.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use percent_encoding::{AsciiSet, utf8_percent_encode};

use crate::config::{ResultPlace, Settings, work_tree};
use agent_artifacts::results;
use agent_fs::names::NOT_IN_URL_PATHS;
use agent_git::{Access, BaseQuery};
use agent_process::Runner;
use agent_types::artifact::Destination;
use agent_types::base_result::{BaseResult, ReportAddress, StoredResult};
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, JobIdentity};
use agent_types::words::count;

use super::base_files::base_of_change;

/// Commits before the change that may have a result.
const MOST: usize = 50;

/// Results that are looked up at the same time.
const WIDTH: usize = 10;

/// Time limit for git and the store together.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum bytes of a stored result. [`StoredResult`]s are made smaller.
const LIMIT: u64 = 64 << 20;

/// Looks the result up and reports it. `identity`: of this job, with its commit. `has_share`: whether the job can use the
/// share, if it has one.
pub async fn find(
    settings: &Settings,
    identity: &JobIdentity,
    has_share: bool,
    runner: &Runner,
    access: &Access,
) {
    let (place, why) = match &settings.report.place {
        None => (None, "there is no share and no [artifacts] destination, so no result is stored"),
        Some(place) if place.is_share && !has_share => (None, "the share cannot be used"),
        // A stop has no time for it.
        Some(_) if runner.interrupt.state().is_some() => (None, "the job was stopped"),
        Some(place) if is_empty(place, identity).await => (None, "no result of this job is stored yet"),
        Some(place) => (Some(place), ""),
    };
    let Some(place) = place else {
        // A job that stores nothing, or the first one, needs no line about it.
        if !settings.report.fail_on.is_all() {
            report_missing(settings, why, runner).await;
        }
        return;
    };
    let interrupt = runner.interrupt.child().limited(TIMEOUT);
    let runner = Runner { interrupt, ..runner.clone() };
    let search = Search { settings, place, identity, runner: &runner, access };
    match tokio::time::timeout(TIMEOUT, search.find()).await {
        Ok(Ok(Some(base))) => {
            let before = match base.distance {
                0 => "the commit in which it began".to_owned(),
                distance => format!("{} before it began", count(distance, "commit")),
            };
            let short = base.commit.get(..12).unwrap_or(&base.commit);
            runner.events.info(format!("this change is compared with the result of {short}, {before}")).await;
            runner.events.emit(EventKind::BaseResult(Box::new(base))).await;
        }
        Ok(Ok(None)) => {
            let why = format!("none of the last {MOST} commits before it has a stored result");
            report_missing(settings, &why, &runner).await;
        }
        Ok(Err(error)) => report_missing(settings, &error.message, &runner).await,
        Err(_) => {
            let why = format!("git or the store did not answer within {} s", TIMEOUT.as_secs());
            report_missing(settings, &why, &runner).await;
        }
    }
}

/// Reports where the job's own reports are stored, if it may store them.
pub async fn report_address(settings: &Settings, identity: &JobIdentity, runner: &Runner) {
    let Some(place) = &settings.report.place else { return };
    let Some(address) = address(place, identity) else { return };
    runner.events.emit(EventKind::ReportAddress(address)).await;
}

fn address(place: &ResultPlace, identity: &JobIdentity) -> Option<ReportAddress> {
    let path = results::joined(place.writes.as_deref()?, &results::directory(identity));
    let page = place.url.as_ref().map(|url| format!("{url}/{}/report.html", in_url(&path)));
    Some(ReportAddress { address: shown(&place.root, &path), url: page })
}

fn shown(root: &Destination, path: &str) -> String {
    match root {
        Destination::S3 { bucket, prefix } => format!("s3://{bucket}/{}", results::joined(prefix, path)),
        Destination::Directory(root) => root.join(path).display().to_string(),
    }
}

/// The path of a key in an address: what a server would decode is encoded once more.
fn in_url(path: &str) -> String {
    // Some servers take it for a space.
    const RESERVED: &AsciiSet = &NOT_IN_URL_PATHS.add(b'+');
    utf8_percent_encode(path, RESERVED).to_string()
}

/// Whether nothing was ever stored in a directory, or it does not answer: then git does not list the history.
async fn is_empty(place: &ResultPlace, identity: &JobIdentity) -> bool {
    let Destination::Directory(root) = &place.root else { return false };
    let directory = root.join(results::of_job(identity));
    // On a file server that hangs, the thread stays.
    let looked = tokio::task::spawn_blocking(move || directory.is_dir());
    !matches!(tokio::time::timeout(TIMEOUT, looked).await, Ok(Ok(true)))
}

/// Reports that there is nothing to compare with. It matters if the verdict depends on it.
async fn report_missing(settings: &Settings, why: &str, runner: &Runner) {
    if settings.report.fail_on.is_all() {
        return runner.events.info(format!("this change is compared with no earlier result: {why}")).await;
    }
    let message = format!("every failure counts, because there is no earlier result to compare with: {why}");
    let hint = "a trusted job of the target branch stores its result; see docs/comparison.md";
    runner.events.warn(message, Some(hint.into())).await;
}

struct Search<'a> {
    settings: &'a Settings,
    place: &'a ResultPlace,
    identity: &'a JobIdentity,
    runner: &'a Runner,
    access: &'a Access,
}

impl Search<'_> {
    async fn find(&self) -> Result<Option<BaseResult>> {
        let commits = self.commits().await?;
        let Some(merge_base) = commits.first().cloned() else { return Ok(None) };
        let place = self.place;
        let store = results::open(&place.root, place.is_share, place.kms_key_id.as_deref()).await?;
        let read = commits.iter().map(|commit| {
            let path = results::index(self.identity, commit);
            let store = &store;
            async move { (commit, store.read_if_allowed(&path, LIMIT).await) }
        });
        let mut read = std::pin::pin!(stream::iter(read).buffered(WIDTH));
        let mut distance = 0;
        while let Some((commit, content)) = read.next().await {
            match content?.map(|bytes| StoredResult::parse(&bytes, commit)) {
                Some(Ok(stored)) => {
                    let address = store.shown(&format!("{}/result.json", stored.directory));
                    return Ok(Some(base_result(stored, merge_base, distance, address)));
                }
                Some(Err(why)) => {
                    let path = store.shown(&results::index(self.identity, commit));
                    let message = format!("the stored result {path} is not used: {why}");
                    let hint = "the next trusted job of that commit replaces it";
                    self.runner.events.warn(message, Some(hint.into())).await;
                }
                None => {}
            }
            distance += 1;
        }
        match store.was_refused() {
            true => Err(Error::upstream(format!(
                "S3 has no stored result, or the role may not read it (s3:GetObject and s3:ListBucket on {})",
                store.shown("results")
            ))),
            false => Ok(None),
        }
    }

    /// The commit in which the change began, and those before it.
    async fn commits(&self) -> Result<Vec<String>> {
        let top = work_tree(&self.settings.checkout);
        let base = base_of_change(self.settings, self.identity.dirty)?;
        let work = &self.settings.paths.work;
        fs_err::create_dir_all(work)?;
        let scratch = tempfile::Builder::new()
            .prefix("history-")
            .tempdir_in(work)
            .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
        let remote = base.remote.as_ref().map(|(url, branch)| (url, branch.as_str()));
        let query = BaseQuery { checkout: &top, local: &base.local, remote };
        let access = self.access.for_source(self.settings.cache.trust.is_trusted());
        let commit = base.commit.as_deref();
        agent_git::ancestry(self.runner, &access, &query, commit, MOST, scratch.path()).await
    }
}

fn base_result(stored: StoredResult, merge_base: String, distance: u64, address: String) -> BaseResult {
    BaseResult {
        merge_base,
        commit: stored.commit,
        distance,
        address,
        tests: stored.tests,
        findings: stored.findings,
        artifacts: stored.artifacts,
        recent: stored.recent,
        truncated: stored.truncated,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_report_is_known_before_it_is_stored() {
        let job = JobIdentity {
            name: "meta-x".into(),
            release: "scarthgap".into(),
            machines: vec!["a".into(), "b".into()],
            commit: Some("0123".into()),
            build: "a/17".into(),
            ..JobIdentity::default()
        };
        let place = |root, writes: Option<&str>, url: Option<&str>| ResultPlace {
            root,
            is_share: true,
            writes: writes.map(str::to_owned),
            kms_key_id: None,
            url: url.map(str::to_owned),
        };
        let bucket = || Destination::S3 { bucket: "b".into(), prefix: "share".into() };
        let path = "results/v1/meta-x/scarthgap/a+b/0123/a%2F17";
        let in_url = "results/v1/meta-x/scarthgap/a%2Bb/0123/a%252F17";
        for (place, wanted) in [
            (place(bucket(), None, None), None),
            (place(bucket(), Some(""), None), Some((format!("s3://b/share/{path}"), None))),
            (
                place(bucket(), Some("pr/7"), Some("https://x.example/y")),
                Some((
                    format!("s3://b/share/pr/7/{path}"),
                    Some(format!("https://x.example/y/pr/7/{in_url}/report.html")),
                )),
            ),
            (
                place(Destination::Directory("/efs".into()), Some(""), None),
                Some((format!("/efs/{path}"), None)),
            ),
        ] {
            let found = address(&place, &job);
            assert_eq!(found, wanted.map(|(address, url)| ReportAddress { address, url }), "{place:?}");
        }
    }
}
