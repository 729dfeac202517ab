//! Retries requests to a bucket, in addition to the retries of its client.
//!
//! The client decides by the HTTP method alone. It never retries a conditional write after a connection reset,
//! nor a request whose answer was incomplete.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use object_store::Error;

/// The longest delay between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// How long and how often failed requests are retried.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Time from the first attempt to the start of the last one.
    pub within: Duration,
    /// The first delay; it doubles with each attempt.
    pub delay: Duration,
}

impl Retries {
    pub fn within(within: Duration) -> Retries {
        Retries { within, delay: Duration::from_millis(250) }
    }

    /// Repeats an idempotent request until it succeeds, fails permanently, or the time is over.
    pub async fn run<T, F>(&self, mut request: impl FnMut() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut state = self.begin();
        loop {
            match request().await {
                Err(error) if is_transient(&error) && state.delay().await => {}
                answer => return answer,
            }
        }
    }

    /// Starts the retries of a request that the caller repeats.
    pub fn begin(&self) -> RetryState {
        RetryState { end: Instant::now() + self.within, delay: self.delay }
    }
}

/// The retries of one request.
#[derive(Debug)]
pub struct RetryState {
    end: Instant,
    delay: Duration,
}

impl RetryState {
    /// Waits before the next attempt; false, if there is no time for one.
    pub async fn delay(&mut self) -> bool {
        // A random part, so that requests that failed together are retried at different times.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let delay = self.delay + self.delay * (now.subsec_nanos() % 1000) / 2000;
        if Instant::now() + delay > self.end {
            return false;
        }
        tokio::time::sleep(delay).await;
        self.delay = (self.delay * 2).min(MAX_DELAY);
        true
    }
}

/// Whether the same request may succeed later: no answer, an incomplete one, or a server error.
pub fn is_transient(error: &Error) -> bool {
    let Error::Generic { .. } = error else { return false };
    // The client reports only text. 4xx other than these are permanent.
    let words = error.to_string();
    // A request that deletes many objects has an answer for each.
    let refused = words.contains("status code: 4") || words.contains("(code: ");
    let later = [
        "(code: InternalError)",
        "(code: ServiceUnavailable)",
        "status code: 408",
        "status code: 409",
        "status code: 429",
        "RequestTimeout",
        "SlowDown",
    ];
    !refused || later.iter().any(|word| words.contains(word))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn generic(words: &'static str) -> Error {
        Error::Generic { store: "S3", source: words.into() }
    }

    #[test]
    fn recognizes_transient_errors() {
        for (error, wanted) in [
            (generic("error sending request: connection reset by peer"), true),
            (generic("Server returned non-2xx status code: 503 Slow: busy"), true),
            (generic("Server returned non-2xx status code: 409 Conflict: ConditionalRequestConflict"), true),
            (generic("Server returned non-2xx status code: 400 Bad Request: RequestTimeout"), true),
            (generic("Server returned non-2xx status code: 400 Bad Request: InvalidRequest"), false),
            (generic("DeleteObjects request failed for key k: Access Denied (code: AccessDenied)"), false),
            (generic("DeleteObjects request failed for key k: try again (code: InternalError)"), true),
            (generic("DeleteObjects request failed for key k: slower (code: SlowDown)"), true),
            (Error::NotFound { path: "x".into(), source: "gone".into() }, false),
            (Error::AlreadyExists { path: "x".into(), source: "there".into() }, false),
        ] {
            assert_eq!(is_transient(&error), wanted, "{error}");
        }
    }

    #[tokio::test]
    async fn retries_until_success_or_timeout() {
        let short = Retries { within: Duration::from_secs(60), delay: Duration::from_millis(10) };
        let attempts = Cell::new(0);
        let answer = short.run(|| {
            attempts.set(attempts.get() + 1);
            let answer = if attempts.get() < 3 { Err(generic("reset")) } else { Ok("done") };
            std::future::ready(answer)
        });
        assert_eq!((answer.await.unwrap(), attempts.get()), ("done", 3));

        let none = Retries { within: Duration::ZERO, ..short };
        let attempts = Cell::new(0);
        let answer = none.run(|| {
            attempts.set(attempts.get() + 1);
            std::future::ready(Err::<(), _>(generic("reset")))
        });
        assert!(answer.await.is_err());
        assert_eq!(attempts.get(), 1);
    }
}
