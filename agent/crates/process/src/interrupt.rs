//! Why work has to stop early: a signal, or the job's time.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// For a step of the stop when the time for the whole of it is used up.
const MOMENT: Duration = Duration::from_millis(500);

/// Tells work that it has to stop. Cheap to clone; all clones see the same.
#[derive(Clone, Debug)]
pub struct Interrupt {
    cancel: CancellationToken,
    /// A second signal: stop at once, without grace.
    force: CancellationToken,
    /// The end of the job's time.
    deadline: Option<Instant>,
    /// How long a stop may take in all, where somebody has said so.
    grace: Option<Duration>,
    /// The first signal to the agent; all parts of the job know it.
    first: Arc<OnceLock<FirstSignal>>,
    /// Why it was cancelled, where that was not a signal.
    why: Arc<OnceLock<Interrupted>>,
}

/// The signal that cancelled the job.
#[derive(Clone, Copy, Debug)]
struct FirstSignal {
    /// E.g. `SIGTERM`.
    name: &'static str,
    at: Instant,
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
        let (cancel, force) = (CancellationToken::new(), CancellationToken::new());
        Interrupt { cancel, force, deadline, grace: None, first: Arc::default(), why: Arc::default() }
    }

    /// The same, with a limit that counts from now.
    pub fn limited(mut self, limit: Duration) -> Interrupt {
        self.deadline = Instant::now().checked_add(limit);
        self
    }

    /// The same, with the time that a stop may take in all.
    pub fn with_grace(self, grace: Duration) -> Interrupt {
        Interrupt { grace: Some(grace), ..self }
    }

    /// For a part of the work: it stops with the whole, and can be stopped alone.
    pub fn child(&self) -> Interrupt {
        let (cancel, force) = (self.cancel.child_token(), self.force.child_token());
        Interrupt { cancel, force, first: self.first.clone(), why: self.why.clone(), ..*self }
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

    /// For work that saves what is done: it goes on after the first signal and after the end of the job's time,
    /// as long as [`Interrupt::end_of_saving`] lets it. A part of the grace is for its own stop.
    pub fn saving(&self, grace: Duration) -> Interrupt {
        let (cancel, force) = (self.force.child_token(), self.force.clone());
        let (first, why) = (Arc::default(), Arc::default());
        Interrupt { cancel, force, deadline: None, grace: Some(grace / 4), first, why }
    }

    /// Stops `saving` when the grace that a stop of this work may take is used up but for a quarter. Waits for
    /// that time, whenever the stop comes: before the saving began or in the middle of it.
    pub async fn end_of_saving(&self, saving: &Interrupt, grace: Duration) {
        let why = self.interrupted().await;
        let _ = saving.why.set(why);
        let left = self.grace_left(grace);
        tokio::time::sleep(left - left / 4).await;
        saving.cancel.cancel();
    }

    /// Called for each signal: the first cancels, the second means now.
    pub fn signal(&self) {
        if self.cancel.is_cancelled() {
            self.force.cancel();
        }
        self.cancel.cancel();
    }

    /// The same for a signal that the agent itself received, by its name.
    pub fn received(&self, name: &'static str) {
        let _ = self.first.set(FirstSignal { name, at: Instant::now() });
        self.signal();
    }

    /// The name of the signal that cancelled the job.
    pub fn signal_name(&self) -> Option<&'static str> {
        self.first.get().map(|first| first.name)
    }

    /// What is left of the time that a stop may take in all, counted from the signal or from the end of the
    /// job's time. The whole of it as long as the job may go on, and always a moment.
    pub fn grace_left(&self, grace: Duration) -> Duration {
        let now = Instant::now();
        let signal = self.first.get().map(|first| first.at);
        let limit = self.deadline.filter(|deadline| *deadline <= now);
        match signal.into_iter().chain(limit).min() {
            Some(began) => grace.saturating_sub(now - began).max(MOMENT.min(grace)),
            None => grace,
        }
    }

    /// How long to wait for what is under way when work has to stop: `most`, or what is left of the grace.
    pub fn last_wait(&self, most: Duration) -> Duration {
        self.grace.map_or(most, |grace| most.min(self.grace_left(grace)))
    }

    /// The rest of the job's time; `None`: no limit.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether work has to stop, and why.
    pub fn state(&self) -> Option<Interrupted> {
        if self.cancel.is_cancelled() {
            Some(self.why_cancelled())
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Interrupted::OutOfTime)
        } else {
            None
        }
    }

    fn why_cancelled(&self) -> Interrupted {
        self.why.get().copied().unwrap_or(Interrupted::Cancelled)
    }

    /// Whether there was a second signal.
    pub fn is_urgent(&self) -> bool {
        self.force.is_cancelled()
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
            () = self.cancel.cancelled() => self.why_cancelled(),
            () = deadline => Interrupted::OutOfTime,
        }
    }

    /// Waits for a signal, whatever else is over.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Waits for the second signal.
    pub async fn force_kill(&self) {
        self.force.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    #[test]
    fn the_grace_counts_from_the_first_signal() {
        let interrupt = Interrupt::new(None);
        assert_eq!((interrupt.grace_left(GRACE), interrupt.signal_name()), (GRACE, None));
        // A part that is stopped alone says nothing of the job.
        let child = interrupt.child();
        child.signal();
        assert_eq!((child.grace_left(GRACE), interrupt.state()), (GRACE, None));
        interrupt.received("SIGTERM");
        std::thread::sleep(Duration::from_millis(20));
        interrupt.received("SIGINT");
        assert_eq!((interrupt.signal_name(), child.signal_name()), (Some("SIGTERM"), Some("SIGTERM")));
        for interrupt in [interrupt, child] {
            assert!(interrupt.is_urgent());
            let left = interrupt.grace_left(GRACE);
            assert!(left <= GRACE - Duration::from_millis(20), "{left:?}");
        }
    }

    #[test]
    fn the_last_words_have_what_is_left_of_the_grace() {
        let interrupt = Interrupt::new(None);
        assert_eq!(interrupt.last_wait(GRACE), GRACE);
        let interrupt = interrupt.with_grace(Duration::from_secs(2));
        assert_eq!(interrupt.last_wait(GRACE), Duration::from_secs(2));
        assert_eq!(interrupt.last_wait(MOMENT), MOMENT);
    }

    /// Whether the stop comes before the saving begins or in the middle of it.
    #[tokio::test]
    async fn saving_has_the_grace_whenever_the_stop_comes() {
        const SHORT: Duration = Duration::from_millis(400);
        for (before, by_signal) in [(true, true), (true, false), (false, true), (false, false)] {
            let now = Instant::now();
            let interrupt = Interrupt::new((!by_signal).then_some(now + Duration::from_millis(20)));
            let early = before.then(|| interrupt.saving(SHORT));
            if by_signal {
                interrupt.received("SIGTERM");
            }
            let why = interrupt.interrupted().await;
            let saving = early.unwrap_or_else(|| interrupt.saving(SHORT));
            assert_eq!(saving.last_wait(GRACE), SHORT / 4);
            assert_eq!(saving.state(), None, "the stop alone does not end it");
            interrupt.end_of_saving(&saving, SHORT).await;
            assert!(now.elapsed() >= SHORT / 4 * 3, "{:?}", now.elapsed());
            assert_eq!(saving.state(), Some(why));
            assert_eq!(saving.interrupted().await, why);
        }
        let interrupt = Interrupt::new(None);
        let saving = interrupt.saving(GRACE);
        interrupt.received("SIGTERM");
        assert_eq!(saving.state(), None);
        interrupt.received("SIGTERM");
        assert_eq!(saving.state(), Some(Interrupted::Cancelled), "a second signal means now");
    }

    #[test]
    fn the_grace_counts_from_the_end_of_the_jobs_time() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        let left = |deadline| Interrupt::new(deadline).grace_left(GRACE);
        assert_eq!(left(Some(Instant::now() + GRACE)), GRACE);
        if let Some(deadline) = ago(10) {
            let left = left(Some(deadline));
            assert!(left <= Duration::from_secs(50) && left > Duration::from_secs(40), "{left:?}");
        }
        // Something is always left for the last steps, but never more than the grace.
        if let Some(deadline) = ago(100) {
            assert_eq!(left(Some(deadline)), MOMENT);
            let short = Duration::from_millis(100);
            assert_eq!(Interrupt::new(Some(deadline)).grace_left(short), short);
        }
    }
}
