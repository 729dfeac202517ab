//! One publication from start to end: look, judge, upload, and write the index last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::collect::{Collected, Link, Problem, collect};
use super::failure::Failure;
use super::index::{Index, Object};
use super::names::{self, INDEX};
use super::place::Place;
use super::retry::Retries;
use super::rules::Rule;
use super::source::{Source, SourceMeta};
use agent_fs::tree::{Identity, LinkTarget, Tree};
use agent_process::{Interrupt, Interrupted};
use agent_types::artifact::{ArtifactRule, Destination};
use agent_types::error::{Class, Error, Result};
use agent_types::events::{Artifact, Emitter, EventKind, Finding, JobIdentity, Level, Unit};
use agent_types::outcome::Outcome;

/// Files on their way at a time. Small files wait for answers more than for bandwidth; the bytes in
/// flight have a limit of their own.
const FILES: usize = 16;

/// For the first answer of a destination, with all retries.
const ANSWER: Duration = Duration::from_secs(60);

/// For what is under way when the job has to stop; longer than an upload needs to be called off.
const LAST: Duration = Duration::from_secs(15);

/// Names in one message; the rest are counted.
const SHOWN: usize = 5;

/// What is to be published, and where.
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    /// Where the events belong.
    pub unit: Unit,
    pub root: &'a Path,
    pub rules: &'a [ArtifactRule],
    pub destination: &'a Destination,
    /// Below the destination: `names::layout` of a job, or nothing.
    pub below: String,
    pub kms_key_id: Option<&'a str>,
    pub job: Option<&'a JobIdentity>,
    /// Why the tree may not be complete: then it is no failure of its own that a required rule
    /// matches nothing.
    pub incomplete: Option<&'a str>,
    /// For how long a request that failed is tried again.
    pub grace: Duration,
}

/// A file on its way.
struct PendingUpload {
    path: PathBuf,
    seen: Identity,
    text: String,
    encoded: bool,
    key: String,
}

impl Publication<'_> {
    /// Publishes.
    ///
    /// Rules are judged before anything is uploaded; a file that cannot be published fails the
    /// publication, but not before all others were tried. The index is written only when all are
    /// there.
    ///
    /// # Errors
    /// Usage, when a rule is no rule or something was published there already; machine or upstream,
    /// when the tree cannot be read or the destination not written.
    pub async fn run(&self, events: &Emitter, interrupt: &Interrupt) -> Result<Outcome> {
        let rules = self.rules.iter().map(Rule::new).collect::<Result<Vec<Rule>>>()?;
        let root = self.root.to_owned();
        let walk = tokio::task::spawn_blocking(move || {
            let tree = Tree::open(&root)?;
            let collected = collect(&tree, &rules);
            Ok::<_, Error>((Arc::new(tree), collected))
        });
        let (tree, collected) =
            walk.await.map_err(|error| Error::internal("the walk broke off").because(&error))??;
        if let Some(interrupted) = interrupt.state() {
            return Ok(stopped(interrupted));
        }
        if let Some(outcome) = self.judge(&collected, events).await {
            return Ok(outcome);
        }

        let (place, index_key, is_there) = match interrupt.or(self.look()).await {
            Ok(answer) => answer?,
            Err(why) => return Ok(stopped(why)),
        };
        if is_there {
            return Err(already_there(&place.shown(&index_key)));
        }

        let (files, mut problems) = plan(&collected, &place);
        problems.extend(collected.problems.iter().cloned());
        let mut objects = match self.upload(&tree, files, &place, events, interrupt).await? {
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
            .map_err(|error| Error::internal("cannot write down the index").because(&error))?;
        if let Some(interrupted) = interrupt.state() {
            return Ok(stopped(interrupted));
        }
        self.write_index(&place, &index_key, content, interrupt).await?;
        events
            .emit(EventKind::Published {
                destination: place.shown(&place.key("")),
                index: place.shown(&index_key),
                objects: index.totals.objects,
                bytes: index.totals.bytes,
                links: index.totals.links,
            })
            .await;
        Ok(Outcome::Passed)
    }

    /// The destination, the key of its index, and whether something is published there already.
    async fn look(&self) -> Result<(Place, String, bool)> {
        let place =
            Place::open(self.destination, &self.below, self.kms_key_id, Retries::within(self.grace)).await?;
        let index_key = place.key(INDEX);
        let is_there = tokio::time::timeout(ANSWER, place.holds(&index_key)).await.map_err(|_| {
            let waited = humantime::format_duration(ANSWER);
            Error::upstream(format!("{} gave no answer for {waited}", place.shown(&place.key(""))))
                .hint("look at the endpoint and the way to it: proxy, VPC endpoint, security group")
        })??;
        Ok((place, index_key, is_there))
    }

    /// The last step. A stop of the job cannot take it back any more, only the wait for its answer
    /// is bounded.
    async fn write_index(
        &self,
        place: &Place,
        key: &str,
        content: Vec<u8>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        tokio::select! {
            biased;
            created = place.create(key, content) => match created? {
                true => Ok(()),
                false => Err(already_there(&place.shown(key))),
            },
            () = gives_up(interrupt) => Err(Error::new(class(interrupt), format!(
                "{} may or may not be written: there was no answer before the job had to end", place.shown(key)
            ))
            .hint("when it is there, everything is; when it is not, publish again")),
        }
    }

    /// The outcome when there is nothing to upload, and what people should know otherwise.
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
        place: &Place,
        events: &Emitter,
        interrupt: &Interrupt,
    ) -> Result<Uploaded> {
        let total = files.len() as u64;
        let stop = CancellationToken::new();
        let (mut objects, mut problems) = (Vec::new(), Vec::new());
        let (mut broken, mut interrupted) = (None, None);
        let mut going = stream::iter(files)
            .map(|file| {
                let (tree, stop) = (tree.clone(), stop.clone());
                async move {
                    let sent = send(tree, &file, place, &stop).await;
                    (file, sent)
                }
            })
            .buffer_unordered(FILES);
        let mut gives_up = std::pin::pin!(gives_up(interrupt));
        // After a stop the rest is still waited for, because each upload cleans up behind itself.
        loop {
            let next = tokio::select! {
                why = interrupt.interrupted(), if interrupted.is_none() => {
                    interrupted = Some(why);
                    stop.cancel();
                    continue;
                }
                () = &mut gives_up => break,
                next = going.next() => next,
            };
            match next {
                None => break,
                Some((file, Ok(facts))) => {
                    self.tell(&file, &facts, place, events).await;
                    objects.push(object(file, facts));
                    let done = objects.len() as u64;
                    events
                        .emit(EventKind::Progress {
                            unit: self.unit.clone(),
                            done,
                            total,
                            running: Vec::new(),
                        })
                        .await;
                }
                Some((_, Err(Failure::File(problem)))) => problems.push(problem),
                Some((_, Err(Failure::Place(error)))) => {
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

    async fn tell(&self, file: &PendingUpload, facts: &SourceMeta, place: &Place, events: &Emitter) {
        let key = match place {
            Place::Bucket { .. } => file.key.clone(),
            Place::Directory { .. } => place.shown(&file.key),
        };
        events
            .emit(EventKind::Artifact(Artifact {
                path: file.text.clone().into(),
                key: Some(key),
                bytes: facts.bytes,
                sha256: Some(facts.sha256.clone()),
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

    async fn failed(&self, problems: Vec<Problem>, events: &Emitter) -> Outcome {
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

/// Ends when the job has to stop and what is under way had its time, or at a second signal.
async fn gives_up(interrupt: &Interrupt) {
    interrupt.interrupted().await;
    tokio::select! {
        () = tokio::time::sleep(interrupt.last_wait(LAST)) => {}
        () = interrupt.force_kill() => {}
    }
}

/// Of what failed because the job had to stop.
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

/// The keys of all files, and the files that can have none.
fn plan(collected: &Collected, place: &Place) -> (Vec<PendingUpload>, Vec<Problem>) {
    let mut files = BTreeMap::new();
    let mut problems = Vec::new();
    // Names that stay as they are come first: an encoded one gives way.
    let mut paths: Vec<_> =
        collected.files.iter().map(|(path, seen)| (names::text(path.as_os_str()), path, seen)).collect();
    paths.sort_by_key(|((_, encoded), path, _)| (*encoded, *path));
    for ((text, encoded), path, seen) in paths {
        if text == INDEX {
            problems.push(Problem::new(path, format!("the name `{INDEX}` is the index's own here")));
        } else if files.contains_key(&text) {
            problems.push(Problem::new(path, format!("another file has its encoded name, `{text}`")));
        } else {
            let (path, seen, key) = (path.clone(), *seen, place.key(&text));
            files.insert(text.clone(), PendingUpload { path, seen, text, encoded, key });
        }
    }
    (files.into_values().collect(), problems)
}

async fn send(
    tree: Arc<Tree>,
    file: &PendingUpload,
    place: &Place,
    stop: &CancellationToken,
) -> Result<SourceMeta, Failure> {
    if stop.is_cancelled() {
        return Err(Failure::Stopped);
    }
    let (path, seen) = (file.path.clone(), file.seen);
    let source = super::source::off_the_runtime(&file.path, move || match tree.open_file(&path, seen) {
        Ok((opened, stat)) => Ok(Source::new(&path, opened, stat)),
        Err(error) => Err(Problem::new(&path, format!("cannot open it: {error}"))),
    })
    .await?;
    place.put(&file.key, source, stop).await
}

fn object(file: PendingUpload, facts: SourceMeta) -> Object {
    Object {
        path: file.text,
        encoded: file.encoded,
        key: Some(file.key),
        bytes: Some(facts.bytes),
        allocated: Some(facts.allocated),
        sha256: Some(facts.sha256),
        ..Object::default()
    }
}

fn link_object(path: &Path, link: &Link, collected: &Collected) -> Object {
    let target = match &link.leads {
        LinkTarget::File(target) if collected.files.contains_key(target) => Some(shown(target)),
        _ => None,
    };
    // One mark for both: either both are plain or both are encoded.
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
        escaping: link.leads == LinkTarget::Outside,
        dangling: link.leads == LinkTarget::Nowhere,
        ..Object::default()
    }
}

fn stopped(interrupted: Interrupted) -> Outcome {
    let what = "publishing was stopped; no index was written";
    match interrupted {
        Interrupted::Cancelled => Outcome::Cancelled(format!("{what}: a signal")),
        Interrupted::OutOfTime => Outcome::TimedOut(format!("{what}: the job's time is over")),
    }
}

fn already_there(index: &str) -> Error {
    Error::usage(format!("{index} is there already; nothing that is published is overwritten"))
        .hint("publish to another place, or give this build another number")
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
