//! Publishes what a build made from the local `SSTATE_DIR` and `DL_DIR` to one tier of a share in a bucket.
//!
//! [`crate::publish`] does the same for a directory; the objects, their order and the report are the same. `known`
//! says what is there already, `file` reads local files, and `put` writes an object.
//!
//! S3 shows an object only when it is complete. An object is written only if none has its key, its sidecar files
//! before its primary file. So a reader sees a whole object or none, whenever the publisher is killed, and the next
//! run continues.

mod file;
mod known;
mod put;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::endpoint::ReadTier;
use super::index::publish_additions;
use super::{BucketTier, BucketTiers};
use crate::publish::copy::Failure;
use crate::publish::local::{Local, Object};
use crate::publish::put::PutOutcome;
use crate::publish::{Sources, Tally, Trees};
use agent_objects::parts::{MAX_SINGLE_PUT, MemoryBudget};
use agent_process::Interrupt;
use known::Known;

/// Objects in flight. They wait much longer for S3 than for this machine.
const IN_FLIGHT: usize = 192;

/// Larger ones are uploaded in parts, after all others, so that they do not delay them. Each may leave an unfinished
/// upload behind if the agent is killed.
const LARGE_IN_FLIGHT: usize = 16;

/// Local objects that wait for a free place.
const QUEUE: usize = 512;

/// Memory for content of small objects in flight, and for parts of large ones.
const BUDGET: u64 = 64 << 20;

/// Files after which their names are written to the index, so that a killed publisher leaves few that are not in it.
const INDEX_AFTER: usize = 1000;

/// Publishes new objects to the tier that may be written; without one it does nothing. `served` are the tiers that
/// the job read through its endpoint, if there was one. `tally` has the state at any moment and at the end.
///
/// `interrupt` stops it; what is under way is dropped. If this future is dropped, everything ends.
pub async fn publish(
    sources: &Sources,
    tiers: &BucketTiers,
    served: &[Arc<ReadTier>],
    interrupt: &Interrupt,
    tally: &Arc<Tally>,
) {
    let Some(writer) = &tiers.write else { return tally.with(|sum| sum.complete = true) };
    let known = match interrupt.or(Known::new(tiers, served, &sources.release)).await {
        Ok(known) => known,
        // Everything is counted as left.
        Err(_) => Known::nothing(),
    };
    let publisher = Arc::new(Publisher {
        sources: sources.clone(),
        writer: writer.clone(),
        known,
        small: MemoryBudget::new(BUDGET),
        parts: MemoryBudget::new(BUDGET),
        interrupt: interrupt.clone(),
        tally: Arc::clone(tally),
        later: Mutex::default(),
        added: Mutex::default(),
    });
    let (opener, opened_tally) = (sources.clone(), Arc::clone(tally));
    let opened = tokio::task::spawn_blocking(move || Arc::new(Trees::open(&opener, &opened_tally))).await;
    let Ok(trees) = opened else { return };

    let (sender, objects) = mpsc::channel(QUEUE);
    let lister = {
        let (publisher, trees) = (Arc::clone(&publisher), Arc::clone(&trees));
        tokio::task::spawn_blocking(move || publisher.list(&trees, &sender))
    };
    Arc::clone(&publisher).all(objects, &trees, MAX_SINGLE_PUT + 1, IN_FLIGHT).await;
    // It has ended: it holds the sender.
    let _ = lister.await;
    let (sender, objects) = mpsc::channel(QUEUE);
    let deferred = publisher.deferred();
    let feeder = tokio::spawn(async move {
        for object in deferred {
            if sender.send(object).await.is_err() {
                return;
            }
        }
    });
    Arc::clone(&publisher).all(objects, &trees, u64::MAX, LARGE_IN_FLIGHT).await;
    let _ = feeder.await;
    publisher.write_index().await;
    tally.with(|sum| {
        sum.complete = true;
        let traffic = sum.traffic.entry(writer.kind).or_default();
        traffic.objects_written += sum.counts.published;
        traffic.bytes_written += sum.counts.bytes;
    });
}

struct Publisher {
    sources: Sources,
    writer: BucketTier,
    known: Known,
    /// For objects of one request. Nobody waits for it with a part of the other one.
    small: MemoryBudget,
    parts: MemoryBudget,
    interrupt: Interrupt,
    tally: Arc<Tally>,
    /// Deferred objects, with their sizes.
    later: Mutex<Vec<(u64, Object)>>,
    /// Files of shared state that are not in the index yet: path below the release, and size.
    added: Mutex<Vec<(String, u64)>>,
}

impl Publisher {
    /// Sends the objects that may be new. Blocks.
    fn list(&self, trees: &Trees, sender: &mpsc::Sender<Object>) {
        let mut local = Local::new(trees.sstate.as_ref(), trees.downloads.as_ref());
        for object in &mut local {
            // BitBake links only to a share in a directory.
            if object.linked {
                continue;
            }
            if self.stopped() {
                self.tally.leave();
                continue;
            }
            match self.known.sstate(trees, &object) {
                Some(found) => self.tally.add(&self.name(&object), object.is_alarming(), found),
                None if sender.blocking_send(object).is_err() => return,
                None => {}
            }
        }
        self.tally.skip(local.skipped());
    }

    /// Publishes objects in parallel; those of at least `large` bytes are deferred.
    async fn all(
        self: Arc<Self>,
        mut objects: mpsc::Receiver<Object>,
        trees: &Arc<Trees>,
        large: u64,
        in_flight: usize,
    ) {
        let places = Arc::new(Semaphore::new(in_flight));
        let mut tasks = JoinSet::new();
        while let Some(object) = objects.recv().await {
            let place = Arc::clone(&places).acquire_owned().await;
            let (publisher, trees) = (Arc::clone(&self), Arc::clone(trees));
            tasks.spawn(async move {
                publisher.one(&trees, object, large).await;
                drop(place);
            });
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn one(&self, trees: &Arc<Trees>, object: Object, large: u64) {
        if self.stopped() {
            return self.tally.leave();
        }
        let put = self.put(trees, &object, large).await;
        if let Ok(PutOutcome::Large(bytes)) = put {
            return lock(&self.later).push((bytes, object));
        }
        self.tally.add(&self.name(&object), object.is_alarming(), put);
        let is_time = lock(&self.added).len() >= INDEX_AFTER;
        if is_time {
            self.write_index().await;
        }
    }

    /// The deferred objects, smallest first, so that more are published before the time is over.
    fn deferred(&self) -> Vec<Object> {
        let mut later = std::mem::take(&mut *lock(&self.later));
        later.sort_by_key(|(bytes, _)| *bytes);
        later.into_iter().map(|(_, object)| object).collect()
    }

    /// Writes the names of new files of shared state to the index. If that fails, a later listing finds them.
    async fn write_index(&self) {
        let added = std::mem::take(&mut *lock(&self.added));
        let files = added.iter().map(|(path, size)| (path.as_str(), *size));
        if let Err(error) = publish_additions(&self.writer, &self.sources.release, files).await {
            self.tally.trouble("the index", &share_error(error));
        }
    }

    fn stopped(&self) -> bool {
        self.tally.has_ended() || self.interrupt.state().is_some()
    }

    /// The path of an object in the tier.
    fn name(&self, object: &Object) -> String {
        let part = object.area.part(&self.sources.release);
        part.join(below(object, &object.primary)).display().to_string()
    }
}

/// The path of a file of an object below its area in a tier.
fn below(object: &Object, name: &str) -> String {
    Path::new(&object.to).join(name).display().to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failure of the bucket, as the publisher for directories reports it.
fn share_error(error: Error) -> std::io::Error {
    let kind = match &error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            std::io::ErrorKind::PermissionDenied
        }
        Error::NotFound { .. } => std::io::ErrorKind::NotFound,
        _ => std::io::ErrorKind::Other,
    };
    std::io::Error::new(kind, error)
}

fn share_failure(error: Error) -> Failure {
    Failure::Share(share_error(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "tests.rs"]
mod tests;
