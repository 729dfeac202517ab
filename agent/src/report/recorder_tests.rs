//! The recorder with sinks and reports that break, and the report stage.

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
                ..Reports::default()
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
            assert_eq!((ran.recorded.exit, ran.recorded.lost.len()), (exit, usize::from(required)), "{why}");
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

/// A post links to the stored report only if it is stored.
#[tokio::test]
async fn posts_know_whether_the_report_is_stored() {
    for (breaks, stored) in [(None, true), (Some(Breaks::DiskFull), false), (Some(Breaks::Hangs), false)] {
        let kept = |name, breaks| Kept { name, required: false, seen: Arc::default(), breaks };
        let (file, post) = (kept("junit.xml", None), kept("comment", None));
        let (by_file, by_post) = (file.seen.clone(), post.seen.clone());
        let recording = Recording {
            redactor: Redactor::default(),
            sinks: Vec::new(),
            reports: Reports {
                reports: vec![Box::new(file)],
                uploads: vec![Box::new(kept(crate::report::STORED_REPORT, breaks))],
                posts: vec![Box::new(post)],
                result: None,
            },
            interrupt: Interrupt::new(None),
            over: CancellationToken::new(),
        };
        let (sender, receiver) = mpsc::channel(4);
        let recorder = tokio::spawn(record(receiver, recording));
        let address = agent_types::base_result::ReportAddress {
            address: "s3://b/x".into(),
            url: Some("https://r.example/report.html".into()),
        };
        for event in passing_job().into_iter().chain([at(6000, EventKind::ReportAddress(address))]) {
            sender.send(event).await.unwrap();
        }
        drop(sender);
        assert_eq!(recorder.await.unwrap().exit, ExitStatus::Passed, "a lost report is no verdict");
        let seen = |seen: Arc<Mutex<Option<Summary>>>| seen.lock().unwrap().clone().unwrap();
        assert!(seen(by_file).report_url().is_some(), "it is not known yet");
        let post = seen(by_post);
        assert_eq!((post.report_url().is_some(), post.report_address().is_some()), (stored, stored));
        assert!(post.complete && post.exit == ExitStatus::Passed);
    }
}
