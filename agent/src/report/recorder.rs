//! The one listener of a job: each event is redacted, then every sink and the fold see it.

use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;
use tokio::sync::mpsc;

use agent_process::Redactor;
use agent_types::events::{Event, EventKind, Level};

use super::summary::Summary;
use super::verdict;

/// Takes the events of a job as they come: a file, a console.
pub trait Sink: Send {
    /// For messages about the sink itself.
    fn name(&self) -> &'static str;

    /// # Errors
    /// When it cannot take the event. It is not asked again.
    fn event(&mut self, event: &Event) -> std::io::Result<()>;

    /// Called about once a second while no event comes, by whoever gives the sink a thread of its own.
    ///
    /// # Errors
    /// As [`Sink::event`].
    fn tick(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Listens until the last [`Emitter`](agent_types::events::Emitter) is gone.
///
/// When the job has not said by then how it ended, its end is decided here, from all that was
/// heard ([`verdict::outcome`]), and told to the sinks as the last event. So the exit status, the
/// console and all reports say the same, also when the job's own code broke off.
///
/// The sinks block as files and terminals do; they run on a thread of their own.
pub async fn record(
    mut receiver: mpsc::Receiver<Event>,
    redactor: Redactor,
    sinks: Vec<Box<dyn Sink>>,
) -> Summary {
    let listen = move || {
        let mut recorder = Recorder { summary: Summary::default(), redactor, sinks };
        while let Some(event) = receiver.blocking_recv() {
            recorder.take(event);
        }
        recorder.finish()
    };
    match tokio::task::spawn_blocking(listen).await {
        Ok(summary) => summary,
        Err(broken) => std::panic::resume_unwind(broken.into_panic()),
    }
}

struct Recorder {
    summary: Summary,
    redactor: Redactor,
    sinks: Vec<Box<dyn Sink>>,
}

impl Recorder {
    fn take(&mut self, event: Event) {
        let event = fit_to_record(event, &self.redactor);
        self.summary.apply(&event);
        let mut failed = Vec::new();
        self.sinks.retain_mut(|sink| match sink.event(&event) {
            Ok(()) => true,
            Err(error) => {
                failed.push((sink.name(), error));
                false
            }
        });
        for (name, error) in failed {
            let message = format!("{name} cannot be written any more: {error}; the job goes on without it");
            // The console may be the one that failed.
            let _ = writeln!(std::io::stderr(), "build-agent: {message}");
            let hint = Some("result.json and junit.xml are written at the end all the same".to_owned());
            self.tell(EventKind::Notice { level: Level::Warning, message, hint });
        }
    }

    fn tell(&mut self, what: EventKind) {
        self.take(Event::now(what));
    }

    fn finish(mut self) -> Summary {
        if !self.summary.complete {
            for wrong in verdict::contradictions(&self.summary) {
                self.tell(EventKind::Error { stage: wrong.stage, error: wrong.error });
            }
            let (outcome, exit) = verdict::outcome(&self.summary);
            self.tell(EventKind::JobFinished { exit, outcome });
        }
        self.summary
    }
}

/// The event as all listeners may see it: without secrets, and exactly as it can be read back from
/// a file, so that reports that are rebuilt from the file are the same to the byte.
fn fit_to_record(mut event: Event, redactor: &Redactor) -> Event {
    make_paths_readable(&mut event.what);
    let Ok(mut value) = serde_json::to_value(&event) else { return unreadable(event) };
    redact(&mut value, redactor);
    serde_json::from_value(value).unwrap_or_else(|_| unreadable(event))
}

/// Stands in for an event that cannot be shown. The verdict guard notices when it mattered.
fn unreadable(event: Event) -> Event {
    let message = "an event could not be recorded: it holds what JSON cannot".to_owned();
    Event { what: EventKind::Notice { level: Level::Warning, message, hint: None }, ..event }
}

/// Redacts all texts but the agent's own words: a secret that is `checkout` or `failed` is none
/// where the agent names a stage or an outcome, and without these words nobody could read the file.
fn redact(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(_) => *value = redactor.redact_json(value.take()),
        Value::Array(values) => values.iter_mut().for_each(|value| redact(value, redactor)),
        Value::Object(fields) => {
            let is_error = fields.get("event").is_some_and(|kind| kind == "error");
            for (key, value) in fields {
                // Closed lists; the class of a test case is a text, that of an error is not.
                let own = matches!(key.as_str(), "time" | "event" | "stage" | "outcome" | "level" | "exit")
                    || (is_error && key == "class");
                if !own {
                    redact(value, redactor);
                }
            }
        }
        _ => {}
    }
}

/// Replaces what is no UTF-8 in paths: layers may contain such names, and JSON cannot.
fn make_paths_readable(what: &mut EventKind) {
    let path = match what {
        EventKind::JobStarted(job) => Some(&mut job.job.layer),
        EventKind::UnitFinished { log, .. } => log.as_mut(),
        EventKind::Finding(finding) => finding.file.as_mut(),
        EventKind::Repo(repo) => Some(&mut repo.path),
        EventKind::CommandStarted { log, .. } => Some(log),
        EventKind::TaskFailed(failed) => failed.log.as_mut(),
        EventKind::Artifact(artifact) => Some(&mut artifact.path),
        _ => None,
    };
    if let Some(path) = path
        && path.to_str().is_none()
    {
        *path = PathBuf::from(path.to_string_lossy().into_owned());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::Secret;
    use crate::report::sample::{
        at, case, check_layer, failing_job, finished, job_started, passing_job, reduce,
    };
    use agent_types::error::Error;
    use agent_types::events::{Artifact, channel};
    use agent_types::outcome::{ExitStatus, Outcome};
    use agent_types::stage::Stage;

    /// Remembers events; breaks after so many.
    struct Memory {
        events: Arc<Mutex<Vec<Event>>>,
        breaks_after: usize,
    }

    impl Sink for Memory {
        fn name(&self) -> &'static str {
            "memory"
        }

        fn event(&mut self, event: &Event) -> std::io::Result<()> {
            let mut events = self.events.lock().unwrap();
            if events.len() == self.breaks_after {
                return Err(std::io::Error::other("no space left on device"));
            }
            events.push(event.clone());
            Ok(())
        }
    }

    /// Records the events in two sinks, of which the first breaks after so many.
    async fn run(events: Vec<Event>, breaks_after: usize) -> (Summary, [Vec<Event>; 2]) {
        let (first, second) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let sinks: Vec<Box<dyn Sink>> = vec![
            Box::new(Memory { events: first.clone(), breaks_after }),
            Box::new(Memory { events: second.clone(), breaks_after: usize::MAX }),
        ];
        let (sender, receiver) = mpsc::channel(4);
        let recorder = tokio::spawn(record(receiver, Redactor::default(), sinks));
        for event in events {
            sender.send(event).await.unwrap();
        }
        drop(sender);
        let summary = recorder.await.unwrap();
        let seen = [first, second].map(|events| events.lock().unwrap().clone());
        (summary, seen)
    }

    #[tokio::test]
    async fn every_sink_and_the_fold_see_the_same() {
        let (summary, [first, second]) = run(failing_job(), usize::MAX).await;
        assert_eq!(first, failing_job());
        assert_eq!(second, failing_job());
        assert_eq!(summary, reduce(&failing_job()));
    }

    #[tokio::test]
    async fn a_sink_that_breaks_stops_nothing_else() {
        let (summary, [first, second]) = run(failing_job(), 5).await;
        assert_eq!(first, failing_job()[..5]);
        assert_eq!(second.len(), failing_job().len() + 1, "all events and one warning");
        let told: Vec<_> =
            summary.notices.iter().filter(|notice| notice.message.starts_with("memory")).collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].message.contains("no space left on device"), "{told:?}");
    }

    #[tokio::test]
    async fn the_end_is_decided_here_when_nobody_said_it() {
        let (summary, [first, _]) = run(passing_job(), usize::MAX).await;
        assert!(summary.complete);
        assert_eq!((&summary.outcome, summary.exit), (&Outcome::Passed, ExitStatus::Passed));
        let end = EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed };
        assert_eq!(first.last().unwrap().what, end);
    }

    #[tokio::test]
    async fn a_job_that_broke_off_or_did_nothing_is_an_internal_error() {
        for end in [0, 1, 4, passing_job().len() - 1] {
            let (summary, [first, _]) = run(passing_job()[..end].to_vec(), usize::MAX).await;
            assert!(summary.complete, "{end}");
            assert_eq!(summary.exit, ExitStatus::Internal, "{end}");
            assert_eq!(summary.errors.len(), 1, "{end}");
            let mut rebuilt = reduce(&first);
            rebuilt.interrupted();
            assert_eq!(rebuilt, summary, "the events tell the same");
        }
    }

    #[tokio::test]
    async fn what_json_cannot_hold_is_made_readable() {
        let artifact = Artifact {
            path: OsStr::from_bytes(b"im\xffage.wic").into(),
            key: None,
            bytes: 1,
            sha256: None,
            link: Some("x".into()),
        };
        let nanoseconds = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1_000_000_001);
        let event = Event::at(nanoseconds, None, EventKind::Artifact(artifact));
        let (summary, [first, _]) = run(vec![event], usize::MAX).await;
        assert_eq!(summary.artifacts[0].path.to_str(), Some("im\u{fffd}age.wic"));
        let whole = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        assert_eq!(first[0].time, whole, "as a file holds it");
    }

    #[tokio::test]
    async fn the_emitter_and_the_recorder_fit() {
        let (emitter, receiver) = channel();
        let recorder = tokio::spawn(record(receiver, Redactor::default(), Vec::new()));
        emitter.info("hello").await;
        drop(emitter);
        assert_eq!(recorder.await.unwrap().notices[0].message, "hello");
    }

    #[test]
    fn secrets_go_and_the_agents_own_words_stay() {
        let secrets = ["hunter22", "checkout", "failed", "upstream", "message", "reason"];
        let secrets = secrets.map(|value| Secret { origin: "test".into(), value: value.into() });
        let redactor = Redactor::new(&secrets);
        let error = Error::upstream("no answer from https://u:hunter22@x").hint("hunter22");
        for what in [
            finished(Stage::Checkout, Outcome::Failed("because of hunter22".into())),
            EventKind::Error { stage: Some(Stage::Checkout), error },
            case(&check_layer(), "test_hunter22", Outcome::Failed("hunter22".into()), "hunter22"),
            job_started(&[]),
        ] {
            let event = fit_to_record(at(0, what.clone()), &redactor);
            assert_eq!(std::mem::discriminant(&event.what), std::mem::discriminant(&what));
            let text = serde_json::to_string(&event).unwrap();
            assert!(!text.contains("hunter22"), "{text}");
        }
    }
}
