//! Retries of requests to a bucket, on top of those of its client.
//!
//! The client repeats what is safe by the method alone: it gives up a conditional write at the first reset of
//! its connection, and any request whose answer broke off.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use object_store::Error;

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// For how long a request that failed is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// From the first try to the begin of the last.
    pub within: Duration,
    /// The first pause; each further one is twice as long.
    pub pause: Duration,
}

impl Retries {
    pub fn within(within: Duration) -> Retries {
        Retries { within, pause: Duration::from_millis(250) }
    }

    /// Runs a request that may be repeated, until it succeeds, fails for good, or time is up.
    pub async fn run<T, F>(&self, mut request: impl FnMut() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut tries = self.begin();
        loop {
            match request().await {
                Err(error) if is_transient(&error) && tries.pause().await => {}
                answer => return answer,
            }
        }
    }

    /// For a request that is looked up before it is repeated.
    pub fn begin(&self) -> Tries {
        Tries { end: Instant::now() + self.within, pause: self.pause }
    }
}

/// The tries of one request.
#[derive(Debug)]
pub struct Tries {
    end: Instant,
    pause: Duration,
}

impl Tries {
    /// Waits before the next try; `false` when there is no time for one.
    pub async fn pause(&mut self) -> bool {
        // Many requests that failed together do not come back together.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let pause = self.pause + self.pause * (now.subsec_nanos() % 1000) / 2000;
        if Instant::now() + pause > self.end {
            return false;
        }
        tokio::time::sleep(pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// Whether the same request may succeed later: no answer, half an answer, or the server's own trouble.
pub fn is_transient(error: &Error) -> bool {
    let Error::Generic { .. } = error else { return false };
    // The client says nothing but its words. 4xx other than these are answers.
    let words = error.to_string();
    let refused = words.contains("status code: 4");
    let later = ["status code: 408", "status code: 409", "status code: 429", "RequestTimeout", "SlowDown"];
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
    fn what_may_pass() {
        for (error, wanted) in [
            (generic("error sending request: connection reset by peer"), true),
            (generic("Server returned non-2xx status code: 503 Slow: busy"), true),
            (generic("Server returned non-2xx status code: 409 Conflict: ConditionalRequestConflict"), true),
            (generic("Server returned non-2xx status code: 400 Bad Request: RequestTimeout"), true),
            (generic("Server returned non-2xx status code: 400 Bad Request: InvalidRequest"), false),
            (Error::NotFound { path: "x".into(), source: "gone".into() }, false),
            (Error::AlreadyExists { path: "x".into(), source: "there".into() }, false),
        ] {
            assert_eq!(is_transient(&error), wanted, "{error}");
        }
    }

    #[tokio::test]
    async fn tried_until_it_succeeds_or_time_is_up() {
        let short = Retries { within: Duration::from_secs(60), pause: Duration::from_millis(10) };
        let tries = Cell::new(0);
        let answer = short.run(|| {
            tries.set(tries.get() + 1);
            let answer = if tries.get() < 3 { Err(generic("reset")) } else { Ok("done") };
            std::future::ready(answer)
        });
        assert_eq!((answer.await.unwrap(), tries.get()), ("done", 3));

        let none = Retries { within: Duration::ZERO, ..short };
        let tries = Cell::new(0);
        let answer = none.run(|| {
            tries.set(tries.get() + 1);
            std::future::ready(Err::<(), _>(generic("reset")))
        });
        assert!(answer.await.is_err());
        assert_eq!(tries.get(), 1);
    }
}
