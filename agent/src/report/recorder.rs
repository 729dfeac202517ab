//! The one listener of a job: each event is redacted and numbered, then every sink and the reducer see it. At the end
//! it runs the report stage.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use agent_process::{Interrupt, Redactor};
use agent_types::error::{Class, Error};
use agent_types::events::{Event, EventKind, Level, Unit};
use agent_types::job_id::JobId;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;

use super::reports::{self, NotMade, Report, Reports, broke};
use super::summary::{StageError, Summary};
use super::verdict;

/// Takes the events of a job as they come: a file, a console.
pub trait Sink: Send {
    /// Names its step in the report stage, and messages about it.
    fn name(&self) -> &'static str;

    /// Whether a job that passed ends with an error if the sink broke.
    fn is_required(&self) -> bool {
        false
    }

    /// # Errors
    /// When it cannot take the event. It is not asked again.
    fn event(&mut self, event: &Event) -> std::io::Result<()>;

    /// Waits until all events are where they belong, as long as the sink's deadline allows.
    ///
    /// # Errors
    /// When they are not.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a job's listener needs.
pub struct Recording {
    pub redactor: Redactor,
    pub sinks: Vec<Box<dyn Sink>>,
    pub reports: Reports,
    pub interrupt: Interrupt,
    /// Ends the listening although somebody may still emit: the job broke.
    pub over: CancellationToken,
}

/// What came of a job and its reports.
#[derive(Debug)]
pub struct Recorded {
    pub summary: Summary,
    /// What the program ends with.
    pub exit: ExitStatus,
    /// The reports that could not be made, each with its reason.
    pub lost: Vec<Error>,
}

/// Listens until the last [`Emitter`](agent_types::events::Emitter) is gone, then makes the reports.
///
/// When the job has not said by then how it ended, its end is decided here, from all that was
/// heard ([`verdict::outcome`]), and told to the sinks as the last event. So the exit status, the
/// console and all reports say the same, also when the job's own code broke off.
///
/// The sinks block as files and terminals do; they run on a thread of their own.
pub async fn record(receiver: mpsc::Receiver<Event>, recording: Recording) -> Recorded {
    record_with(receiver, recording, Summary::apply).await
}

/// The same with another reducer, for tests.
async fn record_with(
    receiver: mpsc::Receiver<Event>,
    recording: Recording,
    apply: fn(&mut Summary, &Event),
) -> Recorded {
    let handle = Handle::current();
    let recording = tokio::task::spawn_blocking(move || {
        let over = recording.over.clone();
        let mut recorder = Recorder::new(recording, handle, apply);
        recorder.listen(receiver, &over);
        recorder.finish()
    });
    match recording.await {
        Ok(recorded) => recorded,
        Err(broken) => std::panic::resume_unwind(broken.into_panic()),
    }
}

/// Shows the events of what is no job and has no reports. It has to tell its own end.
pub async fn show(receiver: mpsc::Receiver<Event>, redactor: Redactor, console: Box<dyn Sink>) -> Recorded {
    let recording = Recording {
        redactor,
        sinks: vec![console],
        reports: Reports::default(),
        interrupt: Interrupt::new(None),
        over: CancellationToken::new(),
    };
    record(receiver, recording).await
}

/// A sink, until it breaks.
struct Open {
    sink: Box<dyn Sink>,
    broken: Option<Error>,
}

struct Recorder {
    summary: Summary,
    job_id: Option<JobId>,
    /// Of the last event.
    seq: u64,
    redactor: Redactor,
    sinks: Vec<Open>,
    reports: Reports,
    interrupt: Interrupt,
    /// Runs what is async in the report stage.
    handle: Handle,
    /// [`Summary::apply`]; tests have others.
    apply: fn(&mut Summary, &Event),
    /// An own fault was told; it may come again with each event.
    told_fault: bool,
    lost: Vec<Error>,
}

impl Recorder {
    fn new(recording: Recording, handle: Handle, apply: fn(&mut Summary, &Event)) -> Recorder {
        let Recording { redactor, sinks, reports, interrupt, over: _ } = recording;
        Recorder {
            summary: Summary::default(),
            job_id: None,
            seq: 0,
            redactor,
            sinks: sinks.into_iter().map(|sink| Open { sink, broken: None }).collect(),
            reports,
            interrupt,
            handle,
            apply,
            told_fault: false,
            lost: Vec::new(),
        }
    }

    fn listen(&mut self, mut receiver: mpsc::Receiver<Event>, over: &CancellationToken) {
        let handle = self.handle.clone();
        handle.block_on(async {
            loop {
                let event = tokio::select! {
                    event = receiver.recv() => event,
                    () = over.cancelled(), if !receiver.is_closed() => {
                        // What was sent before is still heard.
                        receiver.close();
                        continue;
                    }
                };
                match event {
                    Some(event) => self.take(event),
                    None => break,
                }
            }
        });
    }

    /// Hands an event to everybody. No panic comes out of here: what else is known must get into the reports.
    fn take(&mut self, event: Event) {
        let event = self.stamped(event);
        // The sinks first: they get the event even if the reducer breaks on it.
        let mut failed = Vec::new();
        for open in self.sinks.iter_mut().filter(|open| open.broken.is_none()) {
            let name = open.sink.name();
            let taken = catch_unwind(AssertUnwindSafe(|| open.sink.event(&event)));
            let error = match taken {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Error::machine(format!("{name} cannot be written any more: {error}")),
                Err(panic) => broke(name, &*panic),
            };
            failed.push(error.message.clone());
            open.broken = Some(error);
        }
        let applied = catch_unwind(AssertUnwindSafe(|| (self.apply)(&mut self.summary, &event)));
        if let Err(panic) = applied {
            self.fault(&format!("the reducer of {}", event_name(&event.what)), &*panic);
        }
        for message in failed {
            let message = format!("{message}; the job goes on without it");
            // The console may be the one that failed.
            let _ = writeln!(std::io::stderr(), "build-agent: {message}");
            let hint = Some("result.json and junit.xml are written at the end all the same".to_owned());
            self.tell(EventKind::Notice { level: Level::Warning, message, hint });
        }
    }

    /// The event as listeners get it: without secrets, with the job's id and its number.
    fn stamped(&mut self, event: Event) -> Event {
        let started = match &event.what {
            EventKind::JobStarted(job) => Some(job.job.id.clone()),
            _ => None,
        };
        if let Some(id) = &started {
            self.job_id = Some(id.clone()).filter(|id| !id.is_empty());
        }
        let lost = Event::at(
            event.time,
            event.clock,
            EventKind::Heartbeat { silent_seconds: 0, running: "".into() },
        );
        let fit = catch_unwind(AssertUnwindSafe(|| fit_to_record(event, &self.redactor)));
        let mut event = fit.unwrap_or_else(|_| unreadable(lost));
        // The agent made it, so that it is no secret, whatever it looks like.
        if let (EventKind::JobStarted(job), Some(id)) = (&mut event.what, started) {
            job.job.id = id;
        }
        self.seq += 1;
        Event { job_id: self.job_id.clone(), seq: Some(self.seq), ..event }
    }

    /// A fault of the agent itself. It decides the exit status, and the reports are made all the same.
    fn fault(&mut self, what: &str, panic: &(dyn std::any::Any + Send)) {
        if std::mem::replace(&mut self.told_fault, true) {
            return;
        }
        let error = broke(what, panic);
        let known = self.summary.errors.len();
        self.tell(EventKind::Error { stage: None, error: error.clone() });
        if self.summary.errors.len() == known {
            // The reducer breaks on everything.
            self.summary.errors.push(StageError { stage: None, error });
        }
    }

    fn tell(&mut self, what: EventKind) {
        self.take(Event::now(what));
    }

    fn finish(mut self) -> Recorded {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.end())) {
            self.make_what_can_be_made(&*panic);
        }
        let mut exit = self.summary.exit;
        if exit == ExitStatus::Passed
            && let Some(lost) = verdict::worst_exit(&self.lost)
        {
            exit = lost;
        }
        Recorded { summary: self.summary, exit, lost: self.lost }
    }

    /// The end of the job: the verdict, then the report stage.
    fn end(&mut self) {
        if self.summary.complete {
            // The job has ended itself: nothing may come after that.
            return self.make_silently();
        }
        for wrong in verdict::contradictions(&self.summary) {
            self.tell(EventKind::Error { stage: wrong.stage, error: wrong.error });
        }
        self.end_units();
        let (outcome, exit) = verdict::outcome(&self.summary);
        let started = Event::now(EventKind::StageStarted { stage: Stage::Report });
        // What the reports see: the job as it is, with its end.
        let end = EventKind::JobFinished { exit, outcome };
        let seen = Event { what: end, ..started.clone() };
        let seen = Arc::new(self.summary_after(&[seen]));
        // `--skip report` leaves no stage to tell of; the files are made all the same.
        let skipped = self.summary.stage_outcome(Stage::Report).is_some();
        if !skipped {
            self.take(started);
        }
        let mut outcomes = self.flush_sinks();
        outcomes.extend(self.make_reports(&seen));
        self.make_result(&outcomes, skipped);
        self.lose_late();
    }

    /// The summary as these events will make it.
    fn summary_after(&self, events: &[Event]) -> Summary {
        let mut summary = self.summary.clone();
        for event in events {
            let event = fit_to_record(event.clone(), &self.redactor);
            // A reducer that breaks was told of, or will be.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.apply)(&mut summary, &event)));
        }
        summary
    }

    /// Every step has an end, also one whose stage broke off.
    fn end_units(&mut self) {
        let open: Vec<Unit> = self.summary.open_units().collect();
        for unit in open {
            let outcome = Outcome::NotRun("it did not finish: its stage ended before it".to_owned());
            self.tell(EventKind::UnitFinished { unit, outcome, log: None, excerpt: Vec::new() });
        }
    }

    /// Ends the step of each sink. They still get the last events.
    fn flush_sinks(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for place in 0..self.sinks.len() {
            let Some(open) = self.sinks.get_mut(place) else { continue };
            let (name, required) = (open.sink.name(), open.sink.is_required());
            let unit = Unit::new(Stage::Report, name);
            self.tell(EventKind::UnitStarted { unit: unit.clone() });
            let Some(open) = self.sinks.get_mut(place) else { continue };
            if open.broken.is_none() {
                open.broken = match catch_unwind(AssertUnwindSafe(|| open.sink.flush())) {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => {
                        Some(Error::machine(format!("{name} cannot be written any more: {error}")))
                    }
                    Err(panic) => Some(broke(name, &*panic)),
                };
            }
            let made = open.broken.clone().map_or(Ok(()), |error| Err(NotMade::from(error)));
            outcomes.extend(self.report_ended(unit, made, required));
        }
        outcomes
    }

    fn make_reports(&mut self, seen: &Arc<Summary>) -> Vec<Outcome> {
        let reports = std::mem::take(&mut self.reports.reports);
        let unit = |report: &dyn Report| Unit::new(Stage::Report, report.name());
        for report in &reports {
            self.tell(EventKind::UnitStarted { unit: unit(&**report) });
        }
        let mut outcomes = Vec::new();
        let (handle, interrupt) = (self.handle.clone(), self.interrupt.clone());
        handle.block_on(reports::make(&reports, seen, &interrupt, |place, made| {
            if let Some(report) = reports.get(place) {
                outcomes.extend(self.report_ended(unit(&**report), made, report.is_required()));
            }
        }));
        self.reports.reports = reports;
        outcomes
    }

    /// Tells the end of a report; returns its outcome if the stage depends on it.
    fn report_ended(&mut self, unit: Unit, made: Result<(), NotMade>, required: bool) -> Option<Outcome> {
        let outcome = made.as_ref().err().map_or(Outcome::Passed, |not_made| not_made.outcome.clone());
        if let Err(NotMade { error, .. }) = made
            && required
        {
            self.lost.push(error.clone());
            self.tell(EventKind::Error { stage: Some(Stage::Report), error });
        }
        let told = outcome.clone();
        self.tell(EventKind::UnitFinished { unit, outcome, log: None, excerpt: Vec::new() });
        required.then_some(told)
    }

    /// The result holds everything, its own making as well: it is written as it will be when it could be written,
    /// and only then the events say so.
    fn make_result(&mut self, outcomes: &[Outcome], skipped: bool) {
        let result = self.reports.result.take();
        let unit = result.as_ref().map(|result| Unit::new(Stage::Report, result.name()));
        if let Some(unit) = &unit {
            self.tell(EventKind::UnitStarted { unit: unit.clone() });
        }
        let end = |own: Outcome, summary: &Summary| -> Vec<Event> {
            let stage = Outcome::worst(outcomes.iter().chain([&own])).cloned().unwrap_or(Outcome::Passed);
            let own = |unit| EventKind::UnitFinished { unit, outcome: own, log: None, excerpt: Vec::new() };
            let mut events: Vec<EventKind> = unit.clone().map(own).into_iter().collect();
            if !skipped {
                events.push(EventKind::StageFinished { stage: Stage::Report, outcome: stage });
            }
            let (outcome, exit) = verdict::outcome(summary);
            events.push(EventKind::JobFinished { exit, outcome });
            events.into_iter().map(Event::now).collect()
        };
        let good = end(Outcome::Passed, &self.summary);
        let whole = Arc::new(self.summary_after(&good));
        let made = self.write_result(result.as_deref(), &whole);
        self.reports.result = result;
        let events = match made {
            Ok(()) => good,
            Err(NotMade { outcome, error }) => {
                self.lost.push(error.clone());
                self.tell(EventKind::Error { stage: Some(Stage::Report), error });
                end(outcome, &self.summary)
            }
        };
        for event in events {
            self.take(event);
        }
    }

    /// A sink that broke on the very last events changes the exit status as well, and the result says so.
    fn lose_late(&mut self) {
        let lost: Vec<Error> = self
            .sinks
            .iter()
            .filter(|open| open.sink.is_required())
            .filter_map(|open| open.broken.clone())
            .filter(|error| !self.lost.contains(error))
            .collect();
        if lost.is_empty() {
            return;
        }
        for error in &lost {
            self.summary.errors.push(StageError { stage: Some(Stage::Report), error: error.clone() });
        }
        self.lost.extend(lost);
        (self.summary.outcome, self.summary.exit) = verdict::outcome(&self.summary);
        let whole = Arc::new(self.summary.clone());
        if let Err(not_made) = self.write_result(self.reports.result.as_deref(), &whole) {
            self.lost.push(not_made.error);
        }
    }

    fn write_result(&self, result: Option<&dyn Report>, whole: &Arc<Summary>) -> Result<(), NotMade> {
        let making = async |result| reports::make_one(result, whole, &self.interrupt).await;
        result.map_or(Ok(()), |result| self.handle.block_on(making(result)))
    }

    /// All reports of a job that has told its own end.
    fn make_silently(&mut self) {
        let seen = Arc::new(self.summary.clone());
        let (handle, reports, interrupt) = (self.handle.clone(), &self.reports, &self.interrupt);
        let mut lost = Vec::new();
        handle.block_on(async {
            reports::make(&reports.reports, &seen, interrupt, |_, made| lost.extend(made.err())).await;
            if let Some(result) = &reports.result {
                lost.extend(reports::make_one(&**result, &seen, interrupt).await.err());
            }
        });
        self.lost.extend(lost.into_iter().map(|not_made| not_made.error));
    }

    /// The last resort: the agent broke while it ended the job. Nothing is green then.
    fn make_what_can_be_made(&mut self, panic: &(dyn std::any::Any + Send)) {
        let error = broke("the report stage", panic);
        self.summary.complete = true;
        self.summary.exit = Class::Internal.exit_status();
        self.summary.outcome = Outcome::NotRun(error.message.clone());
        self.summary.errors.push(StageError { stage: Some(Stage::Report), error: error.clone() });
        self.lost.push(error);
        let _ = catch_unwind(AssertUnwindSafe(|| self.make_silently()));
    }
}

/// The event by its name in files.
fn event_name(what: &EventKind) -> String {
    let name =
        serde_json::to_value(what).ok().and_then(|value| Some(value.get("event")?.as_str()?.to_owned()));
    name.map_or_else(|| "an event".to_owned(), |name| format!("a `{name}` event"))
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
    use std::sync::Mutex;
    use std::time::Duration;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::config::Secret;
    use crate::report::sample::{
        at, case, check_layer, failing_job, finished, job_id, job_started, passing_job, reduce,
    };
    use agent_types::error::Error;
    use agent_types::events::{Artifact, channel};
    use agent_types::outcome::{ExitStatus, Outcome};
    use agent_types::stage::Stage;

    /// Remembers events; breaks in its way after so many.
    struct Memory {
        events: Arc<Mutex<Vec<Event>>>,
        breaks_after: usize,
        breaks: Breaks,
    }

    #[derive(Clone, Copy)]
    enum Breaks {
        DiskFull,
        Panics,
        /// Until the test is over.
        Hangs,
    }

    impl Sink for Memory {
        fn name(&self) -> &'static str {
            "memory"
        }

        fn is_required(&self) -> bool {
            self.breaks_after < usize::MAX
        }

        fn event(&mut self, event: &Event) -> std::io::Result<()> {
            if self.events.lock().unwrap().len() == self.breaks_after {
                match self.breaks {
                    Breaks::DiskFull => return Err(std::io::Error::other("no space left on device")),
                    Breaks::Panics => panic!("the sink is confused"),
                    Breaks::Hangs => std::thread::sleep(Duration::from_secs(600)),
                }
            }
            self.events.lock().unwrap().push(event.clone());
            Ok(())
        }
    }

    /// A report that keeps what it was made of, or cannot be made.
    struct Kept {
        name: &'static str,
        required: bool,
        seen: Arc<Mutex<Option<Summary>>>,
        breaks: Option<Breaks>,
    }

    impl Report for Kept {
        fn name(&self) -> &'static str {
            self.name
        }

        fn deadline(&self) -> Duration {
            Duration::from_millis(if self.breaks.is_some() { 50 } else { 60_000 })
        }

        fn is_required(&self) -> bool {
            self.required
        }

        fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<(), Error>> {
            let (seen, breaks) = (self.seen.clone(), self.breaks);
            Box::pin(async move {
                match breaks {
                    None => *seen.lock().unwrap() = Some(Summary::clone(&summary)),
                    Some(Breaks::DiskFull) => return Err(Error::machine("no space left on device")),
                    Some(Breaks::Panics) => panic!("the report is confused"),
                    Some(Breaks::Hangs) => std::future::pending::<()>().await,
                }
                Ok(())
            })
        }
    }

    /// A job with two sinks and two reports, whose first one breaks.
    struct Job {
        sinks: Vec<Box<dyn Sink>>,
        first_sink: Arc<Mutex<Vec<Event>>>,
        second_sink: Arc<Mutex<Vec<Event>>>,
        report: Kept,
        result: Kept,
        apply: fn(&mut Summary, &Event),
    }

    impl Job {
        fn new() -> Job {
            Job::with_sink(usize::MAX, Breaks::DiskFull)
        }

        fn with_sink(breaks_after: usize, breaks: Breaks) -> Job {
            let (first_sink, second_sink) = <(Arc<Mutex<Vec<Event>>>, Arc<Mutex<Vec<Event>>>)>::default();
            let first = Memory { events: first_sink.clone(), breaks_after, breaks };
            let second = Memory { events: second_sink.clone(), breaks_after: usize::MAX, breaks };
            let kept = |name| Kept { name, required: true, seen: Arc::default(), breaks: None };
            Job {
                sinks: vec![Box::new(first), Box::new(second)],
                first_sink,
                second_sink,
                report: kept("report"),
                result: kept("result"),
                apply: Summary::apply,
            }
        }

        async fn run(self, events: Vec<Event>) -> Ran {
            let (report, result) = (self.report.seen.clone(), self.result.seen.clone());
            let recording = Recording {
                redactor: Redactor::default(),
                sinks: self.sinks,
                reports: Reports {
                    reports: vec![Box::new(self.report)],
                    result: Some(Box::new(self.result)),
                },
                interrupt: Interrupt::new(None),
                over: CancellationToken::new(),
            };
            let (sender, receiver) = mpsc::channel(4);
            let recorder = tokio::spawn(record_with(receiver, recording, self.apply));
            for event in events {
                sender.send(event).await.unwrap();
            }
            drop(sender);
            let recorded = recorder.await.unwrap();
            let seen = |seen: Arc<Mutex<Option<Summary>>>| seen.lock().unwrap().take();
            let events = |sink: Arc<Mutex<Vec<Event>>>| sink.lock().unwrap().clone();
            Ran {
                recorded,
                first: events(self.first_sink),
                second: events(self.second_sink),
                report: seen(report),
                result: seen(result),
            }
        }
    }

    struct Ran {
        recorded: Recorded,
        first: Vec<Event>,
        second: Vec<Event>,
        /// What the reports were made of.
        report: Option<Summary>,
        result: Option<Summary>,
    }

    impl Ran {
        /// The outcome of a step of the report stage, as the events have it.
        fn step(&self, name: &str) -> Outcome {
            let unit = Unit::new(Stage::Report, name);
            let mut started = false;
            for event in &self.second {
                match &event.what {
                    EventKind::UnitStarted { unit: found } if *found == unit => started = true,
                    EventKind::UnitFinished { unit: found, outcome, .. } if *found == unit => {
                        assert!(started, "{name} ended without a start");
                        return outcome.clone();
                    }
                    _ => {}
                }
            }
            panic!("no end of {name}: {:?}", self.second)
        }
    }

    fn without_stamps(events: &[Event]) -> Vec<Event> {
        events.iter().map(|event| Event { job_id: None, seq: None, ..event.clone() }).collect()
    }

    fn whats(events: &[Event]) -> Vec<EventKind> {
        events.iter().map(|event| event.what.clone()).collect()
    }

    #[tokio::test]
    async fn every_sink_and_the_reducer_see_the_same() {
        let ran = Job::new().run(failing_job()).await;
        assert_eq!(without_stamps(&ran.first), failing_job());
        assert_eq!(ran.second, ran.first);
        assert_eq!(ran.recorded.summary, reduce(&failing_job()));
        assert_eq!((ran.report.as_ref(), ran.result), (Some(&ran.recorded.summary), ran.report.clone()));
    }

    #[tokio::test]
    async fn each_event_has_the_jobs_id_and_a_number() {
        let ran = Job::new().run(passing_job()).await;
        let seqs: Vec<u64> = ran.first.iter().map(|event| event.seq.unwrap()).collect();
        assert_eq!(seqs, (1..=ran.first.len() as u64).collect::<Vec<_>>());
        assert!(ran.first.len() > passing_job().len() + 5, "those of the report stage as well");
        assert!(ran.first.iter().all(|event| event.job_id == Some(job_id())));
        assert_eq!(ran.result.unwrap().job.id, job_id());
        // An id is no secret, even if one looks like it.
        let secret = Secret { origin: "test".into(), value: "0f5d7e0c91b2a3d4".into() };
        let recording = Recording {
            redactor: Redactor::new(&[secret]),
            sinks: Vec::new(),
            reports: Reports::default(),
            interrupt: Interrupt::new(None),
            over: CancellationToken::new(),
        };
        let mut recorder = Recorder::new(recording, Handle::current(), Summary::apply);
        let event = recorder.stamped(at(0, job_started(&[])));
        let EventKind::JobStarted(job) = event.what else { panic!() };
        assert_eq!((event.job_id, job.job.id), (Some(job_id()), job_id()));
    }

    #[tokio::test]
    async fn a_sink_that_breaks_stops_nothing_else() {
        for breaks in [Breaks::DiskFull, Breaks::Panics] {
            let ran = Job::with_sink(5, breaks).run(failing_job()).await;
            assert_eq!(without_stamps(&ran.first), failing_job()[..5]);
            assert_eq!(ran.second.len(), failing_job().len() + 1, "all events and one warning");
            let notices = &ran.recorded.summary.notices;
            let told: Vec<_> = notices.iter().filter(|notice| notice.message.starts_with("memory")).collect();
            assert_eq!(told.len(), 1);
            let why = if matches!(breaks, Breaks::Panics) { "is confused" } else { "no space left" };
            assert!(told[0].message.contains(why), "{told:?}");
        }
    }

    /// The whole report stage of a job that passes.
    #[tokio::test]
    async fn the_report_stage_has_a_step_for_each_report() {
        let ran = Job::new().run(passing_job()).await;
        for name in ["memory", "report", "result"] {
            assert_eq!(ran.step(name), Outcome::Passed, "{name}");
        }
        assert_eq!(ran.recorded.exit, ExitStatus::Passed);
        assert!(ran.recorded.lost.is_empty());
        let summary = &ran.recorded.summary;
        assert_eq!(summary.stage_outcome(Stage::Report), Some(&Outcome::Passed));
        // The result tells of everything; another report of all but the report stage.
        assert_eq!(ran.result.as_ref(), Some(summary));
        let report = ran.report.unwrap();
        assert!(report.complete && report.stage_outcome(Stage::Report).is_none());
        assert_eq!(
            (report.exit, &report.outcome, report.seconds),
            (summary.exit, &summary.outcome, summary.seconds)
        );
        // And both come back from the events.
        let rebuilt = reduce(&ran.first);
        assert_eq!(&rebuilt, summary);
        let junit = crate::report::junit::render;
        assert_eq!(junit(&rebuilt).unwrap(), junit(&report).unwrap());
    }

    #[tokio::test]
    async fn a_report_that_is_lost_is_an_outcome_and_never_silently_green() {
        for (breaks, outcome, exit, why) in [
            (Breaks::DiskFull, "not-run", ExitStatus::Machine, "no space left on device"),
            (Breaks::Panics, "not-run", ExitStatus::Internal, "report broke: the report is confused"),
            (Breaks::Hangs, "timed-out", ExitStatus::Machine, "was not written within 50ms"),
        ] {
            for required in [true, false] {
                let mut job = Job::new();
                (job.report.breaks, job.report.required) = (Some(breaks), required);
                let ran = job.run(passing_job()).await;
                assert_eq!(ran.step("report").word(), outcome, "{why}");
                assert!(ran.step("report").reason().unwrap().contains(why), "{:?}", ran.step("report"));
                let exit = if required { exit } else { ExitStatus::Passed };
                assert_eq!(
                    (ran.recorded.exit, ran.recorded.lost.len()),
                    (exit, usize::from(required)),
                    "{why}"
                );
                // The verdict on the layer stays; the result and the events tell the same.
                let result = ran.result.unwrap();
                assert_eq!((&result.outcome, result.exit), (&Outcome::Passed, exit), "{why}");
                assert_eq!(reduce(&ran.first), result);
                assert_eq!(result.stage_outcome(Stage::Report).unwrap().is_success(), !required, "{why}");
            }
            // What went wrong before counts for more.
            let mut job = Job::new();
            job.report.breaks = Some(breaks);
            let mut events = passing_job();
            events.push(at(9000, finished(Stage::Check, Outcome::Failed("broken".into()))));
            assert_eq!(job.run(events).await.recorded.exit, ExitStatus::Failed);
        }
    }

    #[tokio::test]
    async fn a_lost_result_is_told_by_the_events() {
        for (breaks, exit) in [
            (Breaks::DiskFull, ExitStatus::Machine),
            (Breaks::Panics, ExitStatus::Internal),
            (Breaks::Hangs, ExitStatus::Machine),
        ] {
            let mut job = Job::new();
            job.result.breaks = Some(breaks);
            let ran = job.run(passing_job()).await;
            assert!(!ran.step("result").is_success());
            assert_eq!((ran.recorded.exit, ran.recorded.lost.len()), (exit, 1));
            let end = EventKind::JobFinished { exit, outcome: Outcome::Passed };
            assert_eq!(ran.second.last().unwrap().what, end);
            assert!(ran.report.is_some(), "the other one is made");
        }
    }

    /// It has a deadline, or the job would wait for it forever.
    #[tokio::test]
    async fn a_required_sink_that_is_lost_is_an_outcome() {
        let all = Job::new().run(passing_job()).await.first.len();
        let table = [
            (3, Breaks::DiskFull, ExitStatus::Machine),
            (3, Breaks::Panics, ExitStatus::Internal),
            (3, Breaks::Hangs, ExitStatus::Machine),
            // It takes all but the job's last event.
            (all - 1, Breaks::DiskFull, ExitStatus::Machine),
        ];
        for (breaks_after, breaks, exit) in table {
            let mut job = Job::with_sink(breaks_after, breaks);
            let first = job.sinks.remove(0);
            let interrupt = Interrupt::new(None);
            let hurried =
                crate::report::ThreadedSink::new(first, interrupt).with_deadline(Duration::from_millis(50));
            let threaded = matches!(breaks, Breaks::Hangs | Breaks::Panics);
            if threaded {
                job.sinks.insert(0, Box::new(hurried));
            } else {
                let first = Memory { events: job.first_sink.clone(), breaks_after, breaks };
                job.sinks.insert(0, Box::new(first));
            }
            let ran = job.run(passing_job()).await;
            assert_eq!(ran.first.len(), breaks_after);
            let exit = if threaded { ExitStatus::Machine } else { exit };
            assert_eq!((ran.recorded.exit, ran.recorded.lost.len()), (exit, 1), "{breaks_after}");
            let result = ran.result.unwrap();
            assert_eq!((&result.outcome, result.exit), (&Outcome::Passed, exit), "the result says so, too");
            assert!(result.errors.iter().any(|error| error.stage == Some(Stage::Report)));
        }
    }

    /// A fault of the agent loses neither a report nor what the other events said.
    #[tokio::test]
    async fn a_reducer_that_breaks_loses_no_report() {
        let on_repos = |summary: &mut Summary, event: &Event| {
            assert!(!matches!(event.what, EventKind::Case(_)), "the reducer is confused");
            summary.apply(event);
        };
        let ran = Job { apply: on_repos, ..Job::new() }.run(passing_job()).await;
        assert_eq!(ran.recorded.exit, ExitStatus::Internal);
        let result = ran.result.unwrap();
        assert!(result.complete && result.units.len() > 2, "{result:?}");
        let error = &result.errors[0].error.message;
        assert!(error.contains("a `case` event broke: the reducer is confused"), "{error}");
        assert_eq!(ran.report.unwrap().exit, ExitStatus::Internal);
        assert_eq!(whats(&ran.first)[..10], whats(&passing_job())[..10], "the sinks got the event");

        let always = |_: &mut Summary, _: &Event| panic!("the reducer is confused");
        let ran = Job { apply: always, ..Job::new() }.run(passing_job()).await;
        assert_eq!(ran.recorded.exit, ExitStatus::Internal);
        let result = ran.result.unwrap();
        assert_ne!(result.outcome, Outcome::Passed);
        assert!(result.errors[0].error.message.contains("the reducer is confused"));
        assert!(ran.report.is_some());
    }

    #[tokio::test]
    async fn a_step_that_its_stage_left_open_gets_an_end() {
        let mut events = passing_job();
        let check = check_layer();
        events.retain(|event| !matches!(&event.what, EventKind::UnitFinished { unit, .. } if *unit == check));
        let error = EventKind::Error { stage: Some(Stage::Check), error: Error::machine("no memory") };
        events.push(at(9000, error));
        events.push(at(9000, finished(Stage::Check, Outcome::NotRun("no memory".into()))));
        let ran = Job::new().run(events).await;
        let ends = ran.first.iter().filter_map(|event| match &event.what {
            EventKind::UnitFinished { unit, outcome, .. } if *unit == check => Some(outcome.word()),
            _ => None,
        });
        assert_eq!(ends.collect::<Vec<_>>(), ["not-run"]);
        assert_eq!((ran.recorded.exit, ran.recorded.lost.len()), (ExitStatus::Machine, 0));
    }

    /// The job broke, and something of it still holds an emitter.
    #[tokio::test]
    async fn nobody_waits_for_emitters_of_a_job_that_is_over() {
        let (emitter, receiver) = channel();
        let over = CancellationToken::new();
        let recording = Recording {
            redactor: Redactor::default(),
            sinks: Vec::new(),
            reports: Reports::default(),
            interrupt: Interrupt::new(None),
            over: over.clone(),
        };
        emitter.info("hello").await;
        over.cancel();
        let recorded = record(receiver, recording).await;
        assert_eq!(recorded.summary.notices[0].message, "hello");
        assert_eq!(recorded.exit, ExitStatus::Internal);
    }

    #[tokio::test]
    async fn the_end_is_decided_here_when_nobody_said_it() {
        let ran = Job::new().run(passing_job()).await;
        let summary = ran.recorded.summary;
        assert!(summary.complete);
        assert_eq!((&summary.outcome, summary.exit), (&Outcome::Passed, ExitStatus::Passed));
        let end = EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed };
        assert_eq!(ran.first.last().unwrap().what, end);
    }

    #[tokio::test]
    async fn a_job_that_broke_off_or_did_nothing_is_an_internal_error() {
        for end in [0, 1, 4, passing_job().len() - 1] {
            let ran = Job::new().run(passing_job()[..end].to_vec()).await;
            let summary = ran.recorded.summary;
            assert!(summary.complete, "{end}");
            assert_eq!(summary.exit, ExitStatus::Internal, "{end}");
            assert_eq!(summary.errors.len(), 1, "{end}");
            let mut rebuilt = reduce(&ran.first);
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
        let Ran { recorded: Recorded { summary, .. }, first, .. } = Job::new().run(vec![event]).await;
        assert_eq!(summary.artifacts[0].path.to_str(), Some("im\u{fffd}age.wic"));
        let whole = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        assert_eq!(first[0].time, whole, "as a file holds it");
    }

    #[tokio::test]
    async fn the_emitter_and_the_recorder_fit() {
        let (emitter, receiver) = channel();
        let console =
            Box::new(Memory { events: Arc::default(), breaks_after: usize::MAX, breaks: Breaks::DiskFull });
        let recorder = tokio::spawn(show(receiver, Redactor::default(), console));
        emitter.info("hello").await;
        drop(emitter);
        assert_eq!(recorder.await.unwrap().summary.notices[0].message, "hello");
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
