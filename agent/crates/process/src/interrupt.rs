//! Why work has to stop early: a signal, or the job's time.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Tells work that it has to stop. Cheap to clone; all clones see the same.
#[derive(Clone, Debug)]
pub struct Interrupt {
    cancel: CancellationToken,
    /// A second signal: stop at once, without grace.
    now: CancellationToken,
    /// The end of the job's time.
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// By a signal.
    Cancelled,
    /// By the job's limit.
    OutOfTime,
}

impl Interrupt {
    pub fn new(deadline: Option<Instant>) -> Interrupt {
        Interrupt { cancel: CancellationToken::new(), now: CancellationToken::new(), deadline }
    }

    /// The same, with a limit that counts from now.
    pub fn limited(mut self, limit: Duration) -> Interrupt {
        self.deadline = Instant::now().checked_add(limit);
        self
    }

    /// For a part of the work: it stops with the whole, and can be stopped alone.
    pub fn part(&self) -> Interrupt {
        Interrupt { cancel: self.cancel.child_token(), now: self.now.child_token(), deadline: self.deadline }
    }

    /// The work's answer, unless a stop comes first.
    ///
    /// # Errors
    /// The stop.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            why = self.interrupted() => Err(why),
            answer = work => Ok(answer),
        }
    }

    /// For the work that is still to be done after the first signal or the end of the time: only a
    /// second signal or the given deadline stops it.
    pub fn last_words(&self, deadline: Instant) -> Interrupt {
        Interrupt { cancel: self.now.clone(), now: self.now.clone(), deadline: Some(deadline) }
    }

    /// Called for each signal: the first cancels, the second means now.
    pub fn signal(&self) {
        if self.cancel.is_cancelled() {
            self.now.cancel();
        }
        self.cancel.cancel();
    }

    /// Whether work has to stop, and why.
    pub fn state(&self) -> Option<Interrupted> {
        if self.cancel.is_cancelled() {
            Some(Interrupted::Cancelled)
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Interrupted::OutOfTime)
        } else {
            None
        }
    }

    /// Whether there was a second signal.
    pub fn is_urgent(&self) -> bool {
        self.now.is_cancelled()
    }

    /// Waits until work has to stop.
    pub async fn interrupted(&self) -> Interrupted {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Interrupted::Cancelled,
            () = deadline => Interrupted::OutOfTime,
        }
    }

    /// Waits for the second signal.
    pub async fn now(&self) {
        self.now.cancelled().await;
    }
}
