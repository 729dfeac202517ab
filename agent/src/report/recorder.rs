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
use super::sink::Sink;
use super::summary::{StageError, Summary};
use super::verdict;

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

/// One group of the reports.
type Group = fn(&mut Reports) -> &mut Vec<Box<dyn Report>>;

/// In the order in which they are made.
const GROUPS: [Group; 3] =
    [|reports| &mut reports.reports, |reports| &mut reports.uploads, |reports| &mut reports.posts];

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
        let end = Event { what: end, ..started.clone() };
        let mut seen = Arc::new(self.summary_after(std::slice::from_ref(&end)));
        // `--skip report` leaves no stage to tell of; the files are made all the same.
        let skipped = self.summary.stage_outcome(Stage::Report).is_some();
        if !skipped {
            self.take(started);
        }
        let mut outcomes = self.flush_sinks();
        for group in GROUPS {
            outcomes.extend(self.make_reports(group, &seen));
            // The posts link to what was stored.
            if !self.reports.uploads.is_empty() {
                seen = Arc::new(self.summary_after(std::slice::from_ref(&end)));
            }
        }
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

    /// Makes one group of reports.
    fn make_reports(&mut self, group: Group, seen: &Arc<Summary>) -> Vec<Outcome> {
        let reports = std::mem::take(group(&mut self.reports));
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
        *group(&mut self.reports) = reports;
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
            for group in [&reports.reports, &reports.uploads, &reports.posts] {
                reports::make(group, &seen, interrupt, |_, made| lost.extend(made.err())).await;
            }
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
#[path = "recorder_tests.rs"]
mod tests;
