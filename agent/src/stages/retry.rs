//! Retries a step once if an upstream server failed: then one job does what a second job would have done.

use std::time::{Duration, Instant};

use agent_process::Interrupt;
use agent_types::error::{Class, Error, Result};
use agent_types::events::{Emitter, EventKind, Retry, RetryCause, Unit};

/// A failed attempt that took this long is not repeated: a second one may take as long.
const MAX_SPENT: Duration = Duration::from_secs(5 * 60);

/// The pause is as long as the failed attempt, because a server that failed late may need longer to recover.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Runs `attempt`, and once more if an upstream server failed, if the first attempt was short, and if the job's time
/// allows it. `job` is the interrupt of the whole job.
///
/// # Errors
/// The error of the last attempt.
pub async fn once<T>(
    unit: &Unit,
    events: &Emitter,
    job: &Interrupt,
    attempt: impl AsyncFn() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    let error = match attempt().await {
        Err(error) => error,
        answer => return answer,
    };
    let spent = began.elapsed();
    let Some(pause) = pause_before(&error, spent, job) else { return Err(error) };
    events
        .emit(EventKind::Retry(Retry {
            unit: unit.clone(),
            cause: RetryCause::Upstream,
            reason: error.message,
            seconds: spent.as_secs_f64(),
            pause: pause.as_secs_f64(),
        }))
        .await;
    wait(pause, job).await;
    attempt().await
}

/// The pause before a retry after this error; `None`, if there is none. `spent`: the time of the failed attempt.
pub fn pause_before(error: &Error, spent: Duration, job: &Interrupt) -> Option<Duration> {
    let is_worth_it = error.class == Class::Upstream && job.state().is_none();
    pause(spent, job.time_left()).filter(|_| is_worth_it)
}

/// Waits; a stop of the job ends the wait.
pub async fn wait(pause: Duration, job: &Interrupt) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        // The next attempt ends at once and reports the reason.
        _ = job.interrupted() => {}
    }
}

/// The pause before the retry, or `None` if there is no retry. `left` is the rest of the job's time.
fn pause(spent: Duration, left: Option<Duration>) -> Option<Duration> {
    let pause = spent.clamp(MIN_PAUSE, MAX_PAUSE);
    let has_time = left.is_none_or(|left| left > pause + spent);
    (spent < MAX_SPENT && has_time).then_some(pause)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use agent_types::events;
    use agent_types::stage::Stage;

    #[test]
    fn only_a_short_attempt_with_time_left_is_repeated() {
        let seconds = Duration::from_secs_f64;
        // Seconds spent, seconds left, the pause.
        let table: [(f64, Option<f64>, Option<f64>); 10] = [
            (0.0, None, Some(1.0)),
            (0.5, None, Some(1.0)),
            (12.0, None, Some(12.0)),
            (120.0, None, Some(30.0)),
            (299.9, None, Some(30.0)),
            (300.0, None, None),
            (12.0, Some(24.0), None),
            (12.0, Some(24.1), Some(12.0)),
            (0.0, Some(1.0), None),
            (0.0, Some(0.0), None),
        ];
        for (spent, left, wanted) in table {
            let found = pause(seconds(spent), left.map(seconds));
            assert_eq!(found, wanted.map(seconds), "{spent} s spent, {left:?} left");
        }
    }

    /// Runs attempts that fail with these errors, one after another; returns the number of attempts, the result and
    /// the events.
    async fn attempts(errors: &[Class], job: &Interrupt) -> (usize, Result<()>, Vec<EventKind>) {
        let unit = Unit::new(Stage::Checkout, "repo poky");
        let (emitter, mut receiver) = events::channel();
        let made = Cell::new(0);
        let answer = once(&unit, &emitter, job, async || {
            let place = made.replace(made.get() + 1);
            errors.get(place).map_or(Ok(()), |class| Err(Error::new(*class, format!("error {place}"))))
        })
        .await;
        drop(emitter);
        let mut all = Vec::new();
        while let Some(event) = receiver.recv().await {
            all.push(event.what);
        }
        (made.get(), answer, all)
    }

    #[tokio::test]
    async fn an_upstream_failure_is_retried_once_and_reported_once() {
        use Class::{Cancelled, Internal, Machine, OutOfTime, Upstream, Usage};
        let free = Interrupt::new(None);
        for (errors, made, error) in [
            (&[][..], 1, None),
            (&[Upstream], 2, None),
            (&[Upstream, Upstream], 2, Some("error 1")),
            (&[Upstream, Usage], 2, Some("error 1")),
            (&[Usage], 1, Some("error 0")),
            (&[Machine], 1, Some("error 0")),
            (&[Internal], 1, Some("error 0")),
            (&[OutOfTime], 1, Some("error 0")),
            (&[Cancelled], 1, Some("error 0")),
        ] {
            let (count, answer, events) = attempts(errors, &free).await;
            assert_eq!(
                (count, answer.err().map(|error| error.message).as_deref()),
                (made, error),
                "{errors:?}"
            );
            assert_eq!(events.len(), made - 1, "{errors:?}: {events:?}");
            if let [EventKind::Retry(retry)] = events.as_slice() {
                assert_eq!((retry.reason.as_str(), retry.pause), ("error 0", 1.0));
            }
        }
    }

    #[tokio::test]
    async fn a_stopped_job_retries_nothing() {
        let cancelled = Interrupt::new(None);
        cancelled.received("SIGTERM");
        let over = Interrupt::new(Some(Instant::now()));
        for job in [cancelled, over] {
            let (count, answer, events) = attempts(&[Class::Upstream], &job).await;
            assert_eq!((count, answer.is_err(), events.len()), (1, true, 0));
        }
    }
}
