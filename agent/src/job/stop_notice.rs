//! The word that the job is being stopped, at once and whatever the stages are doing.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use agent_process::{Interrupt, Interrupted};
use agent_types::events::Emitter;

/// For listeners that are behind.
const MOMENT: Duration = Duration::from_secs(1);

/// Tells as soon as there is a reason to stop. Until it is dropped: the listeners wait for its end, too.
#[derive(Debug)]
pub struct StopNotice {
    telling: JoinHandle<()>,
    interrupt: Interrupt,
    told: oneshot::Receiver<()>,
}

impl StopNotice {
    /// `grace`: how long a stop may take.
    pub fn watch(interrupt: &Interrupt, events: &Emitter, grace: Duration) -> StopNotice {
        let (tell, told) = oneshot::channel();
        let (inner, events) = (interrupt.clone(), events.clone());
        let telling = tokio::spawn(async move {
            let why = inner.interrupted().await;
            events.info(stopping(reason(why, &inner), grace, &events.what_runs())).await;
            let _ = tell.send(());
            inner.force_kill().await;
            events.info("a second signal: stopping at once").await;
        });
        StopNotice { telling, interrupt: interrupt.clone(), told }
    }

    /// The end of the work: a stop that came in its last moment is told as well.
    pub async fn end(mut self) {
        if self.interrupt.state().is_some() {
            let _ = timeout(MOMENT, &mut self.told).await;
        }
    }
}

impl Drop for StopNotice {
    fn drop(&mut self) {
        self.telling.abort();
    }
}

fn reason(why: Interrupted, interrupt: &Interrupt) -> &'static str {
    match why {
        Interrupted::Cancelled => interrupt.signal_name().unwrap_or("cancelled"),
        Interrupted::OutOfTime => "[limits] job is over",
    }
}

/// `SIGTERM: stopping, up to 60 s: yocto-check-layer meta-x (test_world)`
fn stopping(reason: &str, grace: Duration, what: &str) -> String {
    let seconds = grace.as_secs_f64();
    let digits = if grace.subsec_millis() == 0 { 0 } else { 1 };
    format!("{reason}: stopping, up to {seconds:.digits$} s: {what}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Instant;

    use super::*;
    use agent_types::events::{EventKind, Unit, channel};
    use agent_types::stage::Stage;

    #[test]
    fn the_grace_is_told_in_seconds() {
        for (grace, wanted) in [
            (Duration::from_secs(60), "SIGTERM: stopping, up to 60 s: check"),
            (Duration::from_secs(3600), "SIGTERM: stopping, up to 3600 s: check"),
            (Duration::from_millis(500), "SIGTERM: stopping, up to 0.5 s: check"),
        ] {
            assert_eq!(stopping("SIGTERM", grace, "check"), wanted);
        }
    }

    #[tokio::test]
    async fn the_first_signal_is_told_at_once_and_the_second_as_well() {
        let (events, mut received) = channel();
        let interrupt = Interrupt::new(None);
        let notice = StopNotice::watch(&interrupt, &events, Duration::from_secs(60));
        events
            .emit(EventKind::UnitStarted { unit: Unit::new(Stage::Check, "yocto-check-layer meta-x") })
            .await;
        received.recv().await.unwrap();
        let mut told = async || match received.recv().await.unwrap().what {
            EventKind::Notice { message, .. } => message,
            what => panic!("{what:?}"),
        };
        interrupt.received("SIGTERM");
        assert_eq!(told().await, "SIGTERM: stopping, up to 60 s: yocto-check-layer meta-x");
        interrupt.received("SIGINT");
        assert_eq!(told().await, "a second signal: stopping at once");
        drop((notice, events));
        assert!(received.recv().await.is_none(), "nobody waits for it");
    }

    #[tokio::test]
    async fn a_signal_in_the_last_moment_is_told() {
        let (events, mut received) = channel();
        let interrupt = Interrupt::new(None);
        StopNotice::watch(&interrupt, &events, Duration::from_secs(2)).end().await;
        let notice = StopNotice::watch(&interrupt, &events, Duration::from_secs(2));
        interrupt.received("SIGTERM");
        notice.end().await;
        drop(events);
        let EventKind::Notice { message, .. } = received.recv().await.unwrap().what else { panic!() };
        assert_eq!(message, "SIGTERM: stopping, up to 2 s: the job");
        assert!(received.recv().await.is_none());
    }

    #[tokio::test]
    async fn the_end_of_the_jobs_time_is_told_at_once() {
        let (events, mut received) = channel();
        let interrupt = Interrupt::new(Some(Instant::now() + Duration::from_millis(20)));
        let _notice = StopNotice::watch(&interrupt, &events, Duration::from_secs(2));
        let EventKind::Notice { message, .. } = received.recv().await.unwrap().what else { panic!() };
        assert_eq!(message, "[limits] job is over: stopping, up to 2 s: the job");
    }
}
