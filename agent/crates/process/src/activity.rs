//! When a command last did something. The stall limit and the notice about silence use it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time of the last sign of life of a command. All clones are the same clock, and anybody who sees the
/// command work may [`touch`](ActivityClock::touch) it: the reader of its output, or whoever receives its events.
///
/// A command that waits for others has a clock with [`child`](ActivityClock::child) clocks. Touching a child also
/// touches the clock of the waiting command, but not the reverse: a program that waits for a busy one is not silent.
#[derive(Clone, Debug)]
pub struct ActivityClock(Arc<Clock>);

#[derive(Debug)]
struct Clock {
    start: Instant,
    /// Milliseconds from the start to the last sign of life.
    last: AtomicU64,
    /// How many have something of it that waits for the agent itself.
    held: AtomicUsize,
    /// The clock of the command that waits for this one.
    waiting: Option<ActivityClock>,
}

impl Default for ActivityClock {
    fn default() -> ActivityClock {
        ActivityClock::new(None)
    }
}

impl ActivityClock {
    fn new(waiting: Option<ActivityClock>) -> ActivityClock {
        let (last, held) = (AtomicU64::new(0), AtomicUsize::new(0));
        ActivityClock(Arc::new(Clock { start: Instant::now(), last, held, waiting }))
    }

    /// The clock of a command that works for the one with this clock.
    pub fn child(&self) -> ActivityClock {
        ActivityClock::new(Some(self.clone()))
    }

    /// The command did something just now: output, an event. Cheap enough for every line.
    pub fn touch(&self) {
        for clock in self.upwards() {
            clock.0.last.fetch_max(clock.0.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Until the guard is dropped, it is the agent that is slow, and not the command.
    pub(super) fn hold(&self) -> Held<'_> {
        for clock in self.upwards() {
            clock.0.held.fetch_add(1, Ordering::Relaxed);
        }
        Held(self)
    }

    /// The time since the last sign of life.
    pub fn silent(&self) -> Duration {
        if self.0.held.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
        self.0.start.elapsed().saturating_sub(last)
    }

    /// Whether the command with this clock works for the one with that clock, directly or by way of others.
    pub(super) fn works_for(&self, other: &ActivityClock) -> bool {
        self.upwards().skip(1).any(|clock| Arc::ptr_eq(&clock.0, &other.0))
    }

    /// This clock, and those of all that wait for it.
    fn upwards(&self) -> impl Iterator<Item = &ActivityClock> {
        std::iter::successors(Some(self), |clock| clock.0.waiting.as_ref())
    }
}

/// See [`ActivityClock::hold`].
pub(super) struct Held<'a>(&'a ActivityClock);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.touch();
        for clock in self.0.upwards() {
            clock.0.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How a command is getting on, for those who watch it.
#[derive(Debug)]
pub(super) struct Activity {
    pub clock: ActivityClock,
    /// What the command does, as far as its listener knows.
    status: Mutex<Option<String>>,
}

impl Activity {
    pub fn new(clock: ActivityClock) -> Activity {
        Activity { clock, status: Mutex::default() }
    }

    pub fn status(&self) -> Option<String> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_status(&self, status: Option<String>) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clocks count milliseconds.
    const TICK: Duration = Duration::from_millis(1);
    const SILENCE: Duration = Duration::from_millis(50);

    /// Whether each clock was touched after this moment, and not [`SILENCE`] before it.
    fn touched_since<const N: usize>(start: Instant, clocks: [&ActivityClock; N]) -> [bool; N] {
        clocks.map(|clock| {
            loop {
                let before = start.elapsed();
                let silent = clock.silent();
                let after = start.elapsed();
                // Otherwise the machine was busy in between, and the numbers say nothing.
                if after - before < SILENCE / 2 {
                    return silent <= after + TICK;
                }
            }
        })
    }

    #[test]
    fn a_child_touches_its_waiting_command_and_not_the_reverse() {
        let tool = ActivityClock::default();
        let [first, second] = [tool.child(), tool.child()];
        let below = second.child();
        std::thread::sleep(SILENCE);
        let start = Instant::now();
        below.touch();
        assert_eq!(touched_since(start, [&tool, &first, &second, &below]), [true, false, true, true]);
        std::thread::sleep(SILENCE);
        let start = Instant::now();
        tool.touch();
        assert_eq!(touched_since(start, [&tool, &first, &second, &below]), [true, false, false, false]);
    }

    #[test]
    fn a_command_is_not_silent_while_the_agent_holds_it_up() {
        let tool = ActivityClock::default();
        let child = tool.child();
        let holds = [child.hold(), child.hold()];
        std::thread::sleep(SILENCE);
        assert_eq!((tool.silent(), child.silent()), (Duration::ZERO, Duration::ZERO));
        let [first, second] = holds;
        drop(first);
        std::thread::sleep(SILENCE);
        assert_eq!((tool.silent(), child.silent()), (Duration::ZERO, Duration::ZERO));
        let start = Instant::now();
        drop(second);
        assert_eq!(touched_since(start, [&tool, &child]), [true, true], "the silence starts again");
        assert_eq!(child.0.held.load(Ordering::Relaxed) + tool.0.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_works_for_whom_is_known() {
        let tool = ActivityClock::default();
        let child = tool.child();
        let grandchild = child.child();
        assert!(
            grandchild.works_for(&tool) && grandchild.works_for(&child) && child.works_for(&tool.clone())
        );
        assert!(!tool.works_for(&tool) && !tool.works_for(&child) && !tool.child().works_for(&child));
    }
}
