//! Stops asking a tier that does not answer: thousands of objects must not each wait for the time limit.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Consecutive failures after which the tier is not asked.
const FAILURES: u32 = 4;
/// The time until it is asked again, with one request.
const PAUSE: Duration = Duration::from_secs(30);

/// Whether a tier answers.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    consecutive: u32,
    closed_until: Option<Instant>,
}

impl Breaker {
    /// Whether a request may be sent now. In a pause, one request each [`PAUSE`] tries whether the tier is back.
    pub fn lets_through(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.closed_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.closed_until = Some(now + PAUSE);
                true
            }
            None => true,
        }
    }

    /// Whether requests are refused. Does not count as a try.
    pub fn is_open(&self, now: Instant) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed_until.is_some_and(|until| now < until)
    }

    pub fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    pub fn failed(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.consecutive = state.consecutive.saturating_add(1);
        if state.consecutive >= FAILURES {
            state.closed_until = Some(now + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_consecutive_failures() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..2 {
            (1..FAILURES).for_each(|_| breaker.failed(start));
            assert!(breaker.lets_through(start));
            breaker.succeeded();
        }
        (0..FAILURES).for_each(|_| breaker.failed(start));
        assert!(!breaker.lets_through(start) && breaker.is_open(start));
        let later = start + PAUSE;
        assert!(!breaker.is_open(later));
        assert!(breaker.lets_through(later), "one request tries it");
        assert!(!breaker.lets_through(later), "the others wait for its result");
        breaker.failed(later);
        assert!(!breaker.lets_through(later + PAUSE / 2));
        assert!(breaker.lets_through(later + PAUSE));
        breaker.succeeded();
        assert!(breaker.lets_through(later) && breaker.lets_through(later));
    }
}
