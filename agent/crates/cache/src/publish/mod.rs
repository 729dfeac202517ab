//! Publishes what a build made from the local `SSTATE_DIR` and `DL_DIR` to one tier of the share.
//!
//! `local` groups names into objects, `put` writes an object to a `target`, `used` finds what was read from
//! the share, and `tally` adds up the results. A share is only a cache: its failures cause warnings and never
//! fail the job, so nothing here returns an error.
//!
//! A reader sees a complete object or none, whenever the publisher is killed: a file gets its name in one
//! operation of the server, after all its bytes were written. A killed publisher leaves only temporary files,
//! which readers ignore. The next run continues, because it skips existing objects.

pub(crate) mod copy;
pub(crate) mod local;
pub(crate) mod put;
mod tally;
mod target;
mod used;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::errno::Errno;

pub use tally::{Published, Tally, Trouble, TroubleKind};

use agent_fs::pool::{self, WIDTH};
use agent_fs::tree::Tree;
use agent_process::Interrupt;
use agent_types::tiers::{Tier, Tiers};
use copy::Failure;
use local::{Area, Local, Object};
use put::{PutOutcome, Upload};
use target::Target;

/// Objects of at least this size are published after all smaller ones, so that they do not delay them.
const LARGE: u64 = 32 * 1024 * 1024;

/// The local directories to publish.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The local `SSTATE_DIR`.
    pub sstate: PathBuf,
    /// The local `DL_DIR`.
    pub downloads: PathBuf,
    /// Code name of the release that the shared state belongs to.
    pub release: String,
}

/// Publishes new objects to the tier that may be written, and finds out what was used from the tiers that are
/// read. Blocks; `tally` has the state at any moment and at the end.
///
/// `interrupt` stops it between two pieces of a file.
pub fn publish(sources: &Sources, tiers: &Tiers, interrupt: &Interrupt, tally: &Tally) {
    let begun = Instant::now();
    let trees = Trees::open(sources, tally);
    let mut local = Local::new(trees.sstate.as_ref(), trees.downloads.as_ref());
    let publisher = Publisher::new(sources, tiers, &trees, interrupt, tally);
    let handle = |object, _: &mut pool::Output<'_, Object, ()>| publisher.handle(&object);
    // Remaining objects are counted after a stop, so the workers and not the pool handle the stop.
    let _ = pool::run(WIDTH, &mut local, || false, handle, |()| {});
    publisher.large();
    tally.skip(local.skipped());
    publisher.sum_up(begun);
}

/// The local directories.
pub(crate) struct Trees {
    pub sstate: Option<Tree>,
    pub downloads: Option<Tree>,
}

impl Trees {
    pub fn open(sources: &Sources, tally: &Tally) -> Trees {
        let (sstate, downloads) = (&sources.sstate, &sources.downloads);
        Trees { sstate: open_local(sstate, tally), downloads: open_local(downloads, tally) }
    }

    pub fn of(&self, area: Area) -> Option<&Tree> {
        match area {
            Area::Sstate => self.sstate.as_ref(),
            Area::Downloads => self.downloads.as_ref(),
        }
    }
}

/// A directory that does not exist is empty.
fn open_local(path: &Path, tally: &Tally) -> Option<Tree> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return None;
    }
    Tree::open(path).map_err(|error| tally.refuse(error.to_string().replace('\n', ";"))).ok()
}

struct Publisher<'a> {
    trees: &'a Trees,
    release: &'a str,
    tiers: &'a [Tier],
    /// One per tier; `None`, if it cannot be opened.
    targets: Vec<Option<Target>>,
    /// The tier that is written.
    writer: Option<usize>,
    interrupt: &'a Interrupt,
    tally: &'a Tally,
    /// Deferred objects, with their sizes.
    later: Mutex<Vec<(u64, Object)>>,
}

impl<'a> Publisher<'a> {
    fn new(
        sources: &'a Sources,
        tiers: &'a Tiers,
        trees: &'a Trees,
        interrupt: &'a Interrupt,
        tally: &'a Tally,
    ) -> Publisher<'a> {
        let writer = tiers.read.iter().position(|tier| Some(tier) == tiers.write.as_ref());
        let open = |(index, tier): (usize, &Tier)| {
            let opened = Target::open(tier, writer == Some(index));
            if writer == Some(index)
                && let Err(error) = &opened
            {
                tally.end(&tier.share.root().display().to_string(), error);
            }
            opened.ok()
        };
        Publisher {
            trees,
            release: &sources.release,
            tiers: &tiers.read,
            targets: tiers.read.iter().enumerate().map(open).collect(),
            writer,
            interrupt,
            tally,
            later: Mutex::default(),
        }
    }

    fn stopped(&self) -> bool {
        self.tally.has_ended() || self.interrupt.state().is_some()
    }

    fn handle(&self, object: &Object) {
        match object.linked {
            true => self.look_at_use(object),
            false => self.publish(object, LARGE),
        }
    }

    fn look_at_use(&self, object: &Object) {
        if self.interrupt.state().is_some() {
            return;
        }
        let Some(tree) = self.trees.of(object.area) else { return };
        let read = used::read(tree, object, (self.tiers, &self.targets), self.writer);
        // A failure to count bytes is ignored.
        if let Ok(Some(read)) = read {
            self.tally.read(self.tiers[read.tier].kind, read.bytes);
        }
    }

    /// Defers objects of at least `large` bytes.
    fn publish(&self, object: &Object, large: u64) {
        let (Some(writer), Some(tree)) = (self.writer, self.trees.of(object.area)) else { return };
        let Some(target) = self.targets[writer].as_ref().filter(|_| !self.stopped()) else {
            return self.tally.leave();
        };
        let part = object.area.part(self.release);
        let way = Upload { local: tree, target, part: &part };
        let stop = || self.stopped();
        let put = match way.put(object, large, &stop) {
            // A cached or just created directory was deleted.
            Err(Failure::Share(error)) if is_stale(&error) => {
                target.forget();
                way.put(object, large, &stop)
            }
            put => put,
        };
        if let Ok(PutOutcome::Large(bytes)) = put {
            let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
            return later.push((bytes, object.clone()));
        }
        let name = part.join(&object.to).join(&object.primary);
        self.tally.add(&name.display().to_string(), object.is_alarming(), put);
    }

    /// Publishes the deferred objects, smallest first, so that more are published before the time is over.
    fn large(&self) {
        let mut later = std::mem::take(&mut *self.later.lock().unwrap_or_else(PoisonError::into_inner));
        later.sort_by_key(|(bytes, _)| *bytes);
        let objects = later.into_iter().map(|(_, object)| object);
        let publish = |object: Object, _: &mut pool::Output<'_, Object, ()>| self.publish(&object, u64::MAX);
        let _ = pool::run(WIDTH, objects, || false, publish, |()| {});
    }

    /// Completes the traffic. The time is divided in proportion to the operations.
    fn sum_up(&self, begun: Instant) {
        let operations: Vec<u64> =
            self.targets.iter().map(|target| target.as_ref().map_or(0, Target::operations)).collect();
        let all = operations.iter().sum::<u64>().max(1);
        let seconds = begun.elapsed().as_secs_f64();
        self.tally.with(|sum| {
            sum.complete = true;
            for (index, tier) in self.tiers.iter().enumerate() {
                let traffic = sum.traffic.entry(tier.kind).or_default();
                traffic.operations += operations[index];
                traffic.seconds_waited += seconds * operations[index] as f64 / all as f64;
                if self.writer == Some(index) {
                    traffic.objects_written += sum.counts.published;
                    traffic.bytes_written += sum.counts.bytes;
                }
            }
        });
    }
}

fn is_stale(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ESTALE | Errno::ENOENT))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "tests.rs"]
mod tests;
