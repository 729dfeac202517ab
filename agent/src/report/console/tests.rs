//! Whole texts of the consoles, written by hand.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::report::Summary;
use crate::report::sample::{
    at, case, check_layer, failing_job, image, job_started, passing_job, reduce, with_bucket, with_share,
};
use crate::report::sink::Sink;
use agent_types::events::{Event, EventKind, Level, TaskFailed};
use agent_types::outcome::{ExitStatus, Outcome};

fn end(summary: &Summary) -> String {
    final_summary(summary, Path::new("out"), Style::PLAIN)
}

fn finished(mut events: Vec<Event>, exit: ExitStatus, outcome: Outcome) -> Summary {
    events.retain(|event| !matches!(event.what, EventKind::JobFinished { .. }));
    events.push(at(200_000, EventKind::JobFinished { exit, outcome }));
    reduce(&events)
}

#[test]
fn the_end_of_a_failing_job() {
    let wanted = "\
ERROR  meta-x on scarthgap (3f2a1b4c5d6e): upstream (git, mirror, AWS) not reachable: cannot upload `index.json` to s3://bucket/builds

  checkout   passed          12s  1 of 1
  configure  passed         0.3s
  check      failed        1m50s  2 of 3  yocto-check-layer meta-x failed
  build      failed          28s  0 of 1  core-image-minimal failed
  test       skipped              nothing asks for test
  publish    not-run          2s  AWS was not reachable

1) check / yocto-check-layer meta-x / common.CommonCheckLayer.test_readme: failed
   AssertionError: README is empty
   | Traceback (most recent call last):
   |   File \"common.py\", line 30, in test_readme
   | AssertionError: README is empty
   the whole log: out/logs/check-meta-x.log

2) build / core-image-minimal / zlib:do_compile: failed
   | zlib.c:3:1: error: expected ';'
   | make: *** [Makefile:9: zlib.o] Error 1
   the whole log: out/logs/zlib-do_compile.log

error in publish (upstream (git, mirror, AWS) not reachable): cannot upload `index.json` to s3://bucket/builds
   because: connection reset
   hint: run the job again; what was uploaded is not uploaded twice

warning: the bucket has no lifecycle rule for unfinished uploads

findings   1 warning
sstate     core-image-minimal: 100 wanted, 20 local, 30 from mirrors, 50 missed; 10 current
reports    out/report.html  out/result.json  out/junit.xml  out/events.jsonl
logs       out/logs
repeat     build-agent run 'it'\\''s here.toml'
";
    assert_eq!(end(&reduce(&failing_job())), wanted);
}

#[test]
fn the_end_tells_what_the_share_was_good_for() {
    let text = end(&reduce(&with_share()));
    for wanted in [
        "cache      pull-request /efs/pr/12 (read-write): 0 objects read (0 bytes), 5 published (4.9 KiB), \
         2 present, 1 differing, 20 operations, waited 1s\n",
        "cache      shared /efs (read-only): 33 objects read (3.0 MiB), 12 operations, waited 0.3s\n",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
}

#[test]
fn the_end_tells_what_a_bucket_costs() {
    let text = end(&reduce(&with_bucket()));
    let wanted = "cache      shared s3://bucket/yocto (read-write): 0 objects read (0 bytes), 14 requests, \
                  waited 1s, 0.00030 USD\n";
    assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
}

#[test]
fn the_end_of_a_passing_job() {
    let wanted = "\
PASSED  meta-x on scarthgap (3f2a1b4c5d6e): 4 steps passed, 2 skipped

  checkout   passed           2s  1 of 1
  configure  passed         0.0s
  check      passed           2s  1 of 1
  build      skipped              nothing asks for build
  test       skipped              nothing asks for test
  publish    passed           1s

published  1 object (3.0 GiB) and 2 links, index s3://bucket/builds/index.json
reports    out/report.html  out/result.json  out/junit.xml  out/events.jsonl
logs       out/logs
repeat     build-agent run 'it'\\''s here.toml'
";
    assert_eq!(end(&finished(passing_job(), ExitStatus::Passed, Outcome::Passed)), wanted);
}

#[test]
fn the_first_line_says_it_all() {
    let failed = || Outcome::Failed("check: one failed".into());
    let mut killed = reduce(&passing_job()[..3]);
    killed.interrupted();
    let mut dirty = reduce(&failing_job()[..1]);
    dirty.job.dirty = true;
    let name = "meta-x on scarthgap (3f2a1b4c5d6e)";
    let table = [
        (
            finished(failing_job(), ExitStatus::Failed, failed()),
            format!("FAILED  {name}: common.CommonCheckLayer.test_readme and 1 more"),
        ),
        (
            finished(failing_job(), ExitStatus::Cancelled, Outcome::Cancelled("build: SIGTERM\nmore".into())),
            format!("CANCELLED  {name}: build: SIGTERM"),
        ),
        (
            finished(failing_job(), ExitStatus::OutOfTime, Outcome::TimedOut("build: 4h are over".into())),
            format!("TIMED OUT  {name}: build: 4h are over"),
        ),
        (
            finished(failing_job(), ExitStatus::Failed, Outcome::NotRun("check: no machines".into())),
            format!("NOT RUN  {name}: check: no machines"),
        ),
        (
            killed,
            format!(
                "INTERRUPTED  {name}: the agent was killed; the last event is from 2026-01-02T03:04:06.000Z"
            ),
        ),
        (
            Summary { complete: true, exit: ExitStatus::Internal, ..dirty },
            "ERROR  meta-x on scarthgap (3f2a1b4c5d6e, with uncommitted changes): \
             internal error of the agent: the job has not ended; its events are in events.jsonl"
                .to_owned(),
        ),
    ];
    for (summary, wanted) in table {
        assert_eq!(end(&summary).lines().next().unwrap(), wanted);
    }
}

#[test]
fn many_and_long_failures_are_cut_to_what_a_person_reads() {
    let mut events = vec![at(0, job_started(&[]))];
    for n in 0..20 {
        let log: Vec<String> = (0..150).map(|line| format!("line {line}")).collect();
        events.push(at(
            1,
            EventKind::TaskFailed(TaskFailed {
                unit: image(),
                recipe: format!("recipe{n:02}"),
                task: "do_compile".into(),
                log: None,
                excerpt: log,
            }),
        ));
    }
    events.push(at(
        2,
        crate::report::sample::unit_finished(&image(), Outcome::Failed("20 tasks".into()), None),
    ));
    let text = end(&finished(events, ExitStatus::Failed, Outcome::Failed("build".into())));
    let shown = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(shown("   | "), 3 * 60, "three in full, sixty lines each");
    assert_eq!(shown("   | line 0"), 3, "the first line of each is there");
    assert_eq!(shown("   | line 149"), 3, "and the last");
    assert_eq!(shown("   | [… 91 lines omitted …]"), 3, "the first 20 and the last 39 stay");
    assert!(
        text.contains("\n17 failures more:\n   build / core-image-minimal / recipe03:do_compile\n"),
        "{text}"
    );
    assert!(text.contains("recipe12:do_compile\n   and 7 more, which result.json names\n"), "{text}");
}

#[test]
fn hostile_words_reach_no_terminal() {
    let evil = "\u{1b}[2J::set-output name=x::y\n::error::z\u{202e}\u{7}##[error]w";
    let mut events = failing_job();
    events.push(at(1, case(&check_layer(), evil, Outcome::Failed(evil.into()), evil)));
    events.push(at(
        1,
        EventKind::Notice { level: Level::Error, message: evil.into(), hint: Some(evil.into()) },
    ));
    let mut summary = finished(events.clone(), ExitStatus::Failed, Outcome::Failed(evil.into()));
    summary.job.name = evil.into();
    summary.job.commit = Some(evil.into());
    summary.job.reproduce = vec![evil.into()];
    for text in [end(&summary), live(&events)] {
        let bad = text.chars().find(|char| (char.is_control() && *char != '\n') || *char == '\u{202e}');
        assert_eq!(bad, None, "{text}");
        assert!(!text.lines().any(|line| line.trim_start().starts_with("::")), "{text}");
        assert!(!text.contains("##["), "{text}");
    }
}

/// Where a console writes in tests.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn live(events: &[Event]) -> String {
    let screen = Screen::default();
    let mut plain = Plain::new(screen.clone(), Style::PLAIN);
    events.iter().for_each(|event| plain.event(event).unwrap());
    String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn the_live_console_of_a_failing_job() {
    let wanted = "\
[      0s] build-agent 0.1.0: meta-x on scarthgap, build 17
[      0s] will run: checkout, configure, check, build, publish, report
[      0s] test       skipped: nothing asks for test
[     11s] checkout   poky: cloned scarthgap at aaaabbbbcccc
[     12s] checkout   poky: passed (12s)
[     12s] checkout   passed (12s)
[     12s] configure  passed (0.3s)
recipes-x/x/files/fix.patch:1: warning: the patch has no Upstream-Status [upstream-status]
    hint: add a line like `Upstream-Status: Pending`
[     12s] check      preflight meta-x: passed (0.0s)
[   1m12s] check: yocto-check-layer meta-x for 1m00s, no output for 1m00s: yocto-check-layer meta-x
[   2m00s] check      common.CommonCheckLayer.test_readme: FAILED: AssertionError: README is empty
[   2m02s] check      yocto-check-layer meta-x: FAILED (1m50s, 1 of 2 tests not passed): 1 of 2 tests failed
[   2m03s] check      FAILED (1m50s): yocto-check-layer meta-x failed
[   2m20s] build: core-image-minimal for 17s, task 1 of 50, running: zlib:do_compile (12s)
[   2m30s] build      zlib:do_compile: FAILED
    | zlib.c:3:1: error: expected ';'
    | make: *** [Makefile:9: zlib.o] Error 1
[   2m31s] build      core-image-minimal: FAILED (28s): 1 task failed: zlib:do_compile
[   2m31s] build      FAILED (28s): core-image-minimal failed
[   2m31s] warning: the bucket has no lifecycle rule for unfinished uploads
[   2m33s] publish    ERROR: cannot upload `index.json` to s3://bucket/builds
    because: connection reset
    hint: run the job again; what was uploaded is not uploaded twice
[   2m33s] publish    NOT-RUN (2s): AWS was not reachable
";
    assert_eq!(live(&failing_job()), wanted);
}

/// A test that is missing is named, also if all others passed.
#[test]
fn the_end_of_a_job_says_what_is_new() {
    let mut summary = finished(passing_job(), ExitStatus::Passed, Outcome::Passed);
    let id = |name: &str| agent_types::base_result::TestId {
        suite: "check.yocto-check-layer meta-x".into(),
        class: "a.B".into(),
        name: name.into(),
    };
    let test = |name: &str| agent_types::base_result::KnownTest {
        id: id(name),
        outcome: agent_types::base_result::OutcomeWord::Passed,
        signature: None,
        reason: None,
    };
    summary.base = Some(agent_types::base_result::BaseResult {
        commit: "abcdef0123456789abcdef0123456789abcdef01".into(),
        tests: vec![test("test_gone\u{1b}[2J")],
        ..Default::default()
    });
    summary.report = Some(agent_types::base_result::ReportAddress { address: "s3://b/x".into(), url: None });
    let text = end(&summary);
    let wanted = "
compared   with abcdef012345: 0 new failures, 1 vanished test
   vanished check.yocto-check-layer meta-x: a.B.test_gone
";
    assert!(text.starts_with("PASSED") && text.contains(wanted), "{text}");
    assert!(text.contains("\nstored     s3://b/x\n"), "{text}");
    summary.report = Some(agent_types::base_result::ReportAddress {
        address: "s3://b/x".into(),
        url: Some("https://r.example/x/report.html".into()),
    });
    assert!(end(&summary).contains("\nstored     https://r.example/x/report.html\n"));
}

#[test]
fn colours_are_only_there_when_they_are_wanted() {
    let summary = reduce(&failing_job());
    let coloured = final_summary(&summary, Path::new("out"), Style { colour: true });
    assert!(coloured.starts_with("\u{1b}[1;31mERROR\u{1b}[0m  meta-x"), "{coloured}");
    assert!(!end(&summary).contains('\u{1b}'));
}

#[test]
fn the_json_console_prints_every_event_on_a_line() {
    let screen = Screen::default();
    let mut json = Json::new(screen.clone());
    let mut events = failing_job();
    let message = "a ##[error]b ##vso[x]".to_owned();
    events.push(at(200_000, EventKind::Notice { level: Level::Info, message, hint: None }));
    events.iter().for_each(|event| json.event(event).unwrap());
    let text = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
    let read: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, events);
    assert!(!text.contains("##"), "{text}");
    assert!(events.iter().any(|event| matches!(event.what, EventKind::Progress { .. })));
}
