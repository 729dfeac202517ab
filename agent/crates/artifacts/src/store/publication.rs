//! Runs one publication: collects the files, checks the rules, uploads, and writes the index last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::artifact_store::ArtifactStore;
use super::collect::{Collected, Link, Problem, collect};
use super::failure::Failure;
use super::index::{Index, Object};
use super::names::{self, INDEX};
use super::rules::Rule;
use super::source::{Source, SourceMeta};
use agent_fs::dir::Identity;
use agent_fs::tree::{LinkTarget, Tree};
use agent_objects::retry::Retries;
use agent_process::{Interrupt, Interrupted};
use agent_types::artifact::{ArtifactRule, Destination};
use agent_types::error::{Class, Error, Result};
use agent_types::events::{Artifact, Emitter, EventKind, Finding, JobIdentity, Level, Phase, Progress, Unit};
use agent_types::outcome::Outcome;

/// Maximum number of parallel uploads. Small files wait more for answers than for bandwidth; the bytes in
/// flight have a separate limit.
const PARALLEL_FILES: usize = 16;

/// Time limit for the first answer of a destination, with all retries.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Time limit for uploads in progress after a stop; longer than the abort of an upload takes.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum number of names in one message; the rest are counted.
const SHOWN: usize = 5;

/// What to publish, and where.
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    /// The unit of the emitted events.
    pub unit: Unit,
    pub root: &'a Path,
    pub rules: &'a [ArtifactRule],
    pub destination: &'a Destination,
    /// Prefix below the destination: `names::layout` of a job, or empty.
    pub below: String,
    pub kms_key_id: Option<&'a str>,
    pub job: Option<&'a JobIdentity>,
    /// Why the tree may be incomplete. If set, a required rule without a match is not a failure.
    pub incomplete: Option<&'a str>,
    /// How long failed requests are retried.
    pub grace: Duration,
}

/// A file to upload.
struct PendingUpload {
    path: PathBuf,
    seen: Identity,
    text: String,
    encoded: bool,
    key: String,
}

impl Publication<'_> {
    /// Runs the publication.
    ///
    /// The rules are checked before the first upload. A file that cannot be published fails the publication,
    /// but all others are still uploaded. The index is written only if all files were uploaded.
    ///
    /// # Errors
    /// Usage, if a rule is invalid or something was published there already; machine or upstream, if the tree
    /// cannot be read or the destination cannot be written.
    pub async fn run(&self, events: &Emitter, interrupt: &Interrupt) -> Result<Outcome> {
        let rules = self.rules.iter().map(Rule::new).collect::<Result<Vec<Rule>>>()?;
        let root = self.root.to_owned();
        let walk = tokio::task::spawn_blocking(move || {
            let tree = Tree::open(&root)?;
            let collected = collect(&tree, &rules);
            Ok::<_, Error>((Arc::new(tree), collected))
        });
        let (tree, collected) =
            walk.await.map_err(|error| Error::internal("walking the tree panicked").because(&error))??;
        if let Some(interrupted) = interrupt.state() {
            return Ok(stopped(interrupted));
        }
        if let Some(outcome) = self.judge(&collected, events).await {
            return Ok(outcome);
        }

        let (store, index_key, is_there) = match interrupt.or(self.open_store()).await {
            Ok(answer) => answer?,
            Err(why) => return Ok(stopped(why)),
        };
        if is_there {
            let Some(index) = self.own_index(&store, &index_key).await else {
                return Err(already_there(&store.shown(&index_key)));
            };
            for object in &index.objects {
                events.emit(EventKind::Artifact(artifact(object))).await;
            }
            emit_published(&index, &store, &index_key, events).await;
            return Ok(Outcome::Passed);
        }

        let (files, mut problems) = plan(&collected, &store);
        problems.extend(collected.problems.iter().cloned());
        let mut objects = match self.upload(&tree, files, &store, events, interrupt).await? {
            Uploaded::All(objects, more) => {
                problems.extend(more);
                objects
            }
            Uploaded::Stopped(interrupted) => return Ok(stopped(interrupted)),
        };
        if !problems.is_empty() {
            return Ok(self.failed(problems, events).await);
        }
        let links = self.links(&collected, events).await;
        objects.extend(links);
        let index = Index::new(self.job.cloned(), objects);
        let content = serde_json::to_vec_pretty(&index)
            .map_err(|error| Error::internal("cannot serialize the index").because(&error))?;
        if let Some(interrupted) = interrupt.state() {
            return Ok(stopped(interrupted));
        }
        self.write_index(&store, &index_key, content, interrupt).await?;
        emit_published(&index, &store, &index_key, events).await;
        Ok(Outcome::Passed)
    }

    /// The index, if an earlier attempt of the same job wrote it and got no response.
    async fn own_index(&self, store: &ArtifactStore, key: &str) -> Option<Index> {
        let job = self.job.filter(|job| !job.id.is_empty())?;
        let index: Index = serde_json::from_slice(&store.read(key).await?).ok()?;
        index.job.as_ref().is_some_and(|found| found.id == job.id).then_some(index)
    }

    /// Opens the destination. Returns it with the key of its index, and whether that index exists already.
    async fn open_store(&self) -> Result<(ArtifactStore, String, bool)> {
        let store =
            ArtifactStore::open(self.destination, &self.below, self.kms_key_id, Retries::within(self.grace))
                .await?;
        let index_key = store.key(INDEX);
        let is_there =
            tokio::time::timeout(ANSWER_TIMEOUT, store.exists(&index_key)).await.map_err(|_| {
                let waited = humantime::format_duration(ANSWER_TIMEOUT);
                Error::upstream(format!("{} gave no answer for {waited}", store.shown(&store.key(""))))
                    .hint("check the endpoint and the connection to it: proxy, VPC endpoint, security group")
            })??;
        Ok((store, index_key, is_there))
    }

    /// Writes the index as the last step. A stop of the job cannot undo it, and only limits the wait for the
    /// answer.
    async fn write_index(
        &self,
        store: &ArtifactStore,
        key: &str,
        content: Vec<u8>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        tokio::select! {
            biased;
            created = store.create(key, content) => match created? {
                true => Ok(()),
                false => Err(already_there(&store.shown(key))),
            },
            () = stop_deadline(interrupt) => Err(Error::new(class(interrupt), format!(
                "{} may or may not exist: there was no answer before the job had to end", store.shown(key)
            ))
            .hint("if it exists, the publication is complete; if not, publish again")),
        }
    }

    /// The outcome if there is nothing to upload. Warns of unmatched rules and special files.
    async fn judge(&self, collected: &Collected, events: &Emitter) -> Option<Outcome> {
        if !collected.special.is_empty() {
            let names = listed(collected.special.iter().map(|path| shown(path)));
            events.warn(format!("sockets, fifos and devices are not published: {names}"), None).await;
        }
        let mut missing = Vec::new();
        for rule in &collected.unmatched {
            let message = format!("the artifact rule `{}` {}", rule.include, rule.help);
            match rule.required {
                true => missing.push(message),
                false => events.info(message).await,
            }
        }
        if !missing.is_empty() {
            let missing = missing.join("\n");
            return Some(match self.incomplete {
                Some(why) => Outcome::NotRun(format!("{why}, so {missing}")),
                None => Outcome::Failed(missing),
            });
        }
        if collected.files.is_empty() && collected.problems.is_empty() {
            return Some(Outcome::Skipped("no file matched".into()));
        }
        None
    }

    async fn upload(
        &self,
        tree: &Arc<Tree>,
        files: Vec<PendingUpload>,
        store: &ArtifactStore,
        events: &Emitter,
        interrupt: &Interrupt,
    ) -> Result<Uploaded> {
        let total = files.len() as u64;
        let stop = CancellationToken::new();
        let (mut objects, mut problems) = (Vec::new(), Vec::new());
        let (mut broken, mut interrupted) = (None, None);
        let mut uploads = stream::iter(files)
            .map(|file| {
                let (tree, stop) = (tree.clone(), stop.clone());
                async move {
                    let sent = send(tree, &file, store, &stop).await;
                    (file, sent)
                }
            })
            .buffer_unordered(PARALLEL_FILES);
        let mut stop_deadline = std::pin::pin!(stop_deadline(interrupt));
        // After a stop, waits for the uploads in progress: each one cleans up.
        loop {
            let next = tokio::select! {
                why = interrupt.interrupted(), if interrupted.is_none() => {
                    interrupted = Some(why);
                    stop.cancel();
                    continue;
                }
                () = &mut stop_deadline => break,
                next = uploads.next() => next,
            };
            match next {
                None => break,
                Some((file, Ok(meta))) => {
                    self.emit_artifact(&file, &meta, store, events).await;
                    objects.push(object(file, meta));
                    let done = objects.len() as u64;
                    events
                        .emit(EventKind::Progress(Progress {
                            done,
                            total,
                            ..Progress::new(&self.unit, "", Phase::Uploading)
                        }))
                        .await;
                }
                Some((_, Err(Failure::File(problem)))) => problems.push(problem),
                Some((_, Err(Failure::Store(error)))) => {
                    broken.get_or_insert(error);
                    stop.cancel();
                }
                Some((_, Err(Failure::Stopped))) => {}
            }
        }
        match (interrupted, broken) {
            (Some(interrupted), _) => Ok(Uploaded::Stopped(interrupted)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Uploaded::All(objects, problems)),
        }
    }

    async fn emit_artifact(
        &self,
        file: &PendingUpload,
        meta: &SourceMeta,
        store: &ArtifactStore,
        events: &Emitter,
    ) {
        let key = match store {
            ArtifactStore::Bucket { .. } => file.key.clone(),
            ArtifactStore::Directory { .. } => store.shown(&file.key),
        };
        events
            .emit(EventKind::Artifact(Artifact {
                path: file.text.clone().into(),
                key: Some(key),
                bytes: meta.bytes,
                sha256: Some(meta.sha256.clone()),
                link: None,
            }))
            .await;
    }

    async fn links(&self, collected: &Collected, events: &Emitter) -> Vec<Object> {
        let mut objects = Vec::new();
        for (path, link) in &collected.links {
            let object = link_object(path, link, collected);
            events
                .emit(EventKind::Artifact(Artifact {
                    path: object.path.clone().into(),
                    key: None,
                    bytes: 0,
                    sha256: None,
                    link: object.link.clone(),
                }))
                .await;
            objects.push(object);
        }
        objects
    }

    async fn failed(&self, mut problems: Vec<Problem>, events: &Emitter) -> Outcome {
        problems.sort_by(|one, other| one.path.cmp(&other.path));
        for problem in &problems {
            events
                .emit(EventKind::Finding(Finding {
                    unit: self.unit.clone(),
                    level: Level::Error,
                    rule: "artifact-unpublished".into(),
                    message: problem.message.clone(),
                    file: Some(shown(&problem.path).into()),
                    line: None,
                    hint: None,
                }))
                .await;
        }
        let names =
            problems.iter().map(|problem| format!("`{}` ({})", shown(&problem.path), problem.message));
        Outcome::Failed(format!("not published, so no index was written: {}", listed(names)))
    }
}

fn artifact(object: &Object) -> Artifact {
    Artifact {
        path: object.path.clone().into(),
        key: object.key.clone(),
        bytes: object.bytes.unwrap_or_default(),
        sha256: object.sha256.clone(),
        link: object.link.clone(),
    }
}

async fn emit_published(index: &Index, store: &ArtifactStore, key: &str, events: &Emitter) {
    let published = EventKind::Published {
        destination: store.shown(&store.key("")),
        index: store.shown(key),
        objects: index.totals.objects,
        bytes: index.totals.bytes,
        links: index.totals.links,
    };
    events.emit(published).await;
}

/// Ends when the time for uploads in progress is over after a stop, or at a second signal.
async fn stop_deadline(interrupt: &Interrupt) {
    interrupt.interrupted().await;
    tokio::select! {
        () = tokio::time::sleep(interrupt.last_wait(STOP_TIMEOUT)) => {}
        () = interrupt.force_kill() => {}
    }
}

/// The class of an error that a stop of the job caused.
fn class(interrupt: &Interrupt) -> Class {
    match interrupt.state() {
        Some(Interrupted::Cancelled) => Class::Cancelled,
        Some(Interrupted::OutOfTime) | None => Class::OutOfTime,
    }
}

enum Uploaded {
    All(Vec<Object>, Vec<Problem>),
    Stopped(Interrupted),
}

/// Assigns keys to the files. Returns the files without a possible key as problems.
fn plan(collected: &Collected, store: &ArtifactStore) -> (Vec<PendingUpload>, Vec<Problem>) {
    let mut files = BTreeMap::new();
    let mut problems = Vec::new();
    // Plain names come first, so that an encoded name is the one in conflict.
    let mut paths: Vec<_> =
        collected.files.iter().map(|(path, seen)| (names::text(path.as_os_str()), path, seen)).collect();
    paths.sort_by_key(|((_, encoded), path, _)| (*encoded, *path));
    for ((text, encoded), path, seen) in paths {
        if text == INDEX {
            problems.push(Problem::new(path, format!("the name `{INDEX}` is reserved for the index")));
        } else if files.contains_key(&text) {
            problems
                .push(Problem::new(path, format!("its encoded name, `{text}`, is the name of another file")));
        } else {
            let (path, seen, key) = (path.clone(), *seen, store.key(&text));
            files.insert(text.clone(), PendingUpload { path, seen, text, encoded, key });
        }
    }
    (files.into_values().collect(), problems)
}

async fn send(
    tree: Arc<Tree>,
    file: &PendingUpload,
    store: &ArtifactStore,
    stop: &CancellationToken,
) -> Result<SourceMeta, Failure> {
    if stop.is_cancelled() {
        return Err(Failure::Stopped);
    }
    let (path, seen) = (file.path.clone(), file.seen);
    let source = super::source::run_blocking(&file.path, move || match tree.open_file(&path, seen) {
        Ok((opened, meta)) => Ok(Source::new(&path, opened, meta)),
        Err(error) => Err(Problem::new(&path, format!("cannot open it: {error}"))),
    })
    .await?;
    store.put(&file.key, source, stop).await
}

fn object(file: PendingUpload, meta: SourceMeta) -> Object {
    Object {
        path: file.text,
        encoded: file.encoded,
        key: Some(file.key),
        bytes: Some(meta.bytes),
        allocated: Some(meta.allocated),
        sha256: Some(meta.sha256),
        ..Object::default()
    }
}

fn link_object(path: &Path, link: &Link, collected: &Collected) -> Object {
    let target = match &link.target {
        LinkTarget::File(target) if collected.files.contains_key(target) => Some(shown(target)),
        _ => None,
    };
    // `encoded` is about both: either both are plain or both are encoded.
    let plain = names::plain(path.as_os_str()).zip(names::plain(&link.text));
    let (text, points, encoded) = match plain {
        Some((path, link)) => (path.to_owned(), link.to_owned(), false),
        None => (names::encoded(path.as_os_str()), names::encoded(&link.text), true),
    };
    Object {
        path: text,
        encoded,
        link: Some(points),
        target,
        escaping: link.target == LinkTarget::Outside,
        dangling: link.target == LinkTarget::Nowhere,
        ..Object::default()
    }
}

fn stopped(interrupted: Interrupted) -> Outcome {
    let what = "the publication was stopped, so no index was written";
    match interrupted {
        Interrupted::Cancelled => Outcome::Cancelled(format!("{what}: a signal")),
        Interrupted::OutOfTime => Outcome::TimedOut(format!("{what}: the job's time limit was reached")),
    }
}

fn already_there(index: &str) -> Error {
    Error::usage(format!("{index} exists already, and published files are never overwritten"))
        .hint("publish to another destination, or use another build number")
}

fn shown(path: &Path) -> String {
    names::text(path.as_os_str()).0
}

fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let mut text = names.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
#[path = "publication_tests.rs"]
mod tests;
