//! Work on many files side by side.
//!
//! On a share each operation takes milliseconds, of which this machine waits for nearly all: many at
//! once take as long as one. On a local disk an operation takes microseconds and more threads than
//! processors only disturb one another. So the pool begins with as many threads as there are
//! processors and takes more, up to its width, as long as jobs turn out to be slow.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Operations in flight on a share unless told otherwise.
pub const WIDTH: usize = 64;

/// Jobs that take longer than this on average wait for somebody else than the processor.
const SLOW: Duration = Duration::from_micros(400);

/// The average is over about so many jobs: a single one that lost its processor for a while says nothing
/// about the file system.
const MEMORY: u32 = 16;

/// Results that wait for the caller before workers do.
const BACKLOG: usize = 1024;

const STACK: usize = 512 * 1024;

/// Whether all was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    Complete,
    /// By the predicate, with jobs left.
    Early,
}

/// Does `work` on each job of `source`, and on each job that work itself adds, at most `width` at a
/// time. What work gives goes to `each`, which runs in the caller's thread.
///
/// Jobs that were added come before those of the source, the latest first: a tree is walked depth
/// first and what waits stays small. When `stop` says so no further job begins; those that have begun
/// end.
pub fn run<T: Send, R: Send>(
    width: usize,
    source: impl IntoIterator<Item = T, IntoIter: Send>,
    stop: impl Fn() -> bool + Sync,
    work: impl Fn(T, &mut Output<'_, T, R>) + Sync,
    mut each: impl FnMut(R),
) -> Ended {
    let width = width.max(1);
    let pool = Pool {
        queue: Mutex::new(Queue { added: Vec::new(), source: source.into_iter().fuse(), busy: 0 }),
        changed: Condvar::new(),
        threads: AtomicUsize::new(1),
        early: AtomicBool::new(false),
        width,
        stop,
        work,
    };
    let (sender, results) = sync_channel(BACKLOG);
    std::thread::scope(|scope| {
        let (pool, first) = (&pool, sender.clone());
        scope.spawn(move || pool.work(scope, &first));
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 1..processors {
            pool.spawn_worker(scope, &sender);
        }
        drop(sender);
        results.into_iter().for_each(&mut each);
    });
    if pool.early.into_inner() { Ended::Early } else { Ended::Complete }
}

/// Where work puts what it finds.
pub struct Output<'a, T, R> {
    added: &'a mut Vec<T>,
    results: &'a SyncSender<R>,
}

impl<T, R> Output<'_, T, R> {
    /// Adds a job.
    pub fn add(&mut self, job: T) {
        self.added.push(job);
    }

    /// Hands a result to the caller.
    pub fn give(&mut self, result: R) {
        // The caller listens until all workers are gone.
        let _ = self.results.send(result);
    }
}

struct Pool<I: Iterator, S, W> {
    queue: Mutex<Queue<I>>,
    changed: Condvar,
    threads: AtomicUsize,
    early: AtomicBool,
    width: usize,
    stop: S,
    work: W,
}

struct Queue<I: Iterator> {
    added: Vec<I::Item>,
    source: I,
    /// Workers that may still add something.
    busy: usize,
}

impl<T, I, S, W> Pool<I, S, W>
where
    T: Send,
    I: Iterator<Item = T> + Send,
    S: Fn() -> bool + Sync,
{
    /// Starts a thread, unless there are enough.
    fn spawn_worker<'scope, R>(&'scope self, scope: &'scope Scope<'scope, '_>, results: &SyncSender<R>)
    where
        W: Fn(T, &mut Output<'_, T, R>) + Sync,
        R: Send + 'scope,
    {
        if self.threads.fetch_add(1, Ordering::Relaxed) >= self.width {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let sender = results.clone();
        let thread = std::thread::Builder::new().stack_size(STACK);
        // Where the machine has no more threads, those that there are do the work.
        if thread.spawn_scoped(scope, move || self.work(scope, &sender)).is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn work<'scope, R>(&'scope self, scope: &'scope Scope<'scope, '_>, results: &SyncSender<R>)
    where
        W: Fn(T, &mut Output<'_, T, R>) + Sync,
        R: Send + 'scope,
    {
        let mut added = Vec::new();
        let mut average = Duration::ZERO;
        while let Some(job) = self.next() {
            // Also when work panics, so that the others do not wait for it for ever.
            let _busy = Busy(self);
            let begun = Instant::now();
            (self.work)(job, &mut Output { added: &mut added, results });
            average = average * (MEMORY - 1) / MEMORY + begun.elapsed() / MEMORY;
            if !added.is_empty() {
                self.lock().added.append(&mut added);
                self.changed.notify_all();
            }
            if average > SLOW {
                self.spawn_worker(scope, results);
            }
        }
    }

    /// The next job; waits while others may add one.
    fn next(&self) -> Option<T> {
        let mut queue = self.lock();
        loop {
            if self.early.load(Ordering::Relaxed) {
                return None;
            }
            // Asked only where there is a job, so that a stop after the last one is none.
            if let Some(job) = queue.added.pop().or_else(|| queue.source.next()) {
                if (self.stop)() {
                    self.early.store(true, Ordering::Relaxed);
                    self.changed.notify_all();
                    return None;
                }
                queue.busy += 1;
                return Some(job);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<I: Iterator, S, W> Pool<I, S, W> {
    fn lock(&self) -> MutexGuard<'_, Queue<I>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Busy<'a, I: Iterator, S, W>(&'a Pool<I, S, W>);

impl<I: Iterator, S, W> Drop for Busy<'_, I, S, W> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.busy -= 1;
        if queue.busy == 0 {
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_job_is_done_once_and_so_are_those_that_jobs_add() {
        for width in [0, 1, 3, 64] {
            let mut seen = Vec::new();
            let work = |job: u32, out: &mut Output<'_, u32, u32>| {
                for more in [job * 2, job * 2 + 1].into_iter().filter(|more| *more < 5000) {
                    out.add(more);
                }
                out.give(job);
            };
            let ended = run(width, [1], || false, work, |job| seen.push(job));
            assert_eq!((ended, seen.len()), (Ended::Complete, 4999), "width {width}");
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), (1..5000).collect());
        }
    }

    #[test]
    fn slow_jobs_run_in_parallel_and_never_more_than_the_width() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |_, _: &mut Output<'_, usize, ()>| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(SLOW * MEMORY);
            now.fetch_sub(1, Ordering::SeqCst);
        };
        assert_eq!(run(8, 0..200, || false, work, |()| {}), Ended::Complete);
        assert_eq!(most.into_inner(), 8);
    }

    #[test]
    fn a_stop_lets_no_further_job_begin() {
        let begun = AtomicUsize::new(0);
        let work = |_, _: &mut Output<'_, u32, ()>| {
            begun.fetch_add(1, Ordering::SeqCst);
        };
        let stop = || begun.load(Ordering::SeqCst) >= 10;
        assert_eq!(run(1, 0.., stop, work, |()| {}), Ended::Early);
        assert_eq!(begun.into_inner(), 10);
        assert_eq!(run(4, [1; 3], || true, |_, _: &mut Output<'_, u32, ()>| {}, |()| {}), Ended::Early);
        assert_eq!(run(4, [0u32; 0], || true, |_, _: &mut Output<'_, u32, ()>| {}, |()| {}), Ended::Complete);
    }

    #[test]
    fn a_panic_of_one_job_ends_all_and_does_not_hang() {
        let panicked = std::panic::catch_unwind(|| {
            run(4, 0..100, || false, |job, _: &mut Output<'_, u32, ()>| assert!(job != 50), |()| {})
        });
        assert!(panicked.is_err());
    }
}
