//! `junit.xml`: the tests for CodeBuild's report groups and whatever else reads JUnit.
//!
//! A failure is the layer's, an error the agent's, the machine's or the clock's. A test that the agent
//! stopped together with its unit is skipped; the unit is the error. What did not run because of something else is
//! skipped, too, if a failure or an error of the job says why. CodeBuild keeps
//! 500 tests of a report and prefers those that failed (its user guide, "Test report statuses").

use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use agent_types::error::{Class, Error, Result};
use agent_types::events::{CacheOutcome, CacheQuery, Level};
use agent_types::listing;
use agent_types::outcome::Outcome;

use super::cache::{sstate_numbers, tier_words};
use super::console::finding_line;
use super::cost::Cost;
use super::merged::label;
use super::output_file::replace;
use super::summary::{Summary, UnitResult};
use super::totals::{AGENT, Status, Suite, Test, suites};
use agent_types::sanitize::clean;

/// The whole file.
pub fn render(summary: &Summary) -> Result<String> {
    let mut report = Report::new(text(&format!("{} {}", summary.job.name, summary.job.release)));
    report.set_time(duration(summary.seconds));
    report.add_test_suites(test_suites(summary));
    to_xml(&report)
}

/// One file for several jobs: the name of each suite begins with its job.
fn render_all(jobs: &[Summary]) -> Result<String> {
    let mut report = Report::new("build-agent");
    for summary in jobs {
        let label = label(&summary.job);
        report.add_test_suites(test_suites(summary).into_iter().map(|mut suite| {
            suite.name = text(&format!("{label}: {}", suite.name.as_str())).into();
            suite
        }));
    }
    to_xml(&report)
}

fn to_xml(report: &Report) -> Result<String> {
    report.to_string().map_err(|error| Error::internal("cannot render junit.xml").because(&error))
}

pub fn write(summary: &Summary, out: &Path) -> Result<()> {
    replace(&out.join("junit.xml"), render(summary)?.as_bytes())
}

/// Writes one file for these jobs.
///
/// # Errors
/// When it cannot be written.
pub fn write_all(jobs: &[Summary], out: &Path) -> Result<()> {
    match jobs {
        [summary] => write(summary, out),
        jobs => replace(&out.join("junit.xml"), render_all(jobs)?.as_bytes()),
    }
}

fn test_suites(summary: &Summary) -> Vec<TestSuite> {
    let suites = suites(summary);
    let explained = suites.iter().flat_map(|suite| &suite.tests).any(says_why);
    suites.iter().map(|suite| test_suite(suite, summary, explained)).collect()
}

/// Whether this test is not fine, and for a reason of its own.
fn says_why(test: &Test) -> bool {
    match test.status {
        Status::Error(_) => true,
        Status::Outcome(outcome) => !outcome.is_success() && !matches!(outcome, Outcome::NotRun(_)),
    }
}

/// `explained`: something in the job says why other things did not run.
fn test_suite(suite: &Suite, summary: &Summary, explained: bool) -> TestSuite {
    let mut made = TestSuite::new(text(&suite.name));
    if let Some(started) = suite.started {
        made.extra.insert("timestamp".into(), started.to_string().into());
    }
    if let Some(seconds) = suite.seconds {
        made.set_time(duration(seconds));
    }
    let job = &summary.job;
    let commit = job.commit.as_deref().unwrap_or("none");
    let known = [
        ("job", job.name.as_str()),
        ("release", &job.release),
        ("commit", commit),
        ("build", &job.build),
        ("agent", &summary.agent),
    ];
    made.add_properties(known.map(|(name, value)| Property::new(name, text(value))));
    if let Some(log) = suite.log {
        made.add_property(Property::new("log", text(&log.to_string_lossy())));
    }
    if !suite.cache_queries.is_empty() {
        made.add_property(Property::new("stored-answers", cache_summary(suite.cache_queries)));
    }
    let numbers = suite.sstate.iter().flat_map(sstate_numbers);
    made.add_properties(numbers.map(|(name, number)| Property::new(name, number.to_string())));
    let tiers = summary.cache.iter().flat_map(tier_words);
    made.add_properties(tiers.map(|(name, value)| Property::new(name, value)));
    let cost = Cost::of_job(summary).map(|cost| Property::new("cost", text(&cost.line())));
    made.add_properties(cost);
    made.add_test_cases(suite.tests.iter().map(|test| test_case(test, summary, explained)));
    made
}

fn test_case(test: &Test, summary: &Summary, explained: bool) -> TestCase {
    let mut made = TestCase::new(text(test.name), status(test, summary, explained));
    made.set_classname(text(&class_name(test)));
    if let Some(seconds) = test.seconds {
        made.set_time(duration(seconds));
    }
    made
}

/// `3 of 4 used, 873 seconds saved`, in the run that gave the verdict.
fn cache_summary(queries: &[CacheQuery]) -> String {
    let last = queries.iter().map(|query| query.rerun).max();
    let queries: Vec<_> = queries.iter().filter(|query| Some(query.rerun) == last).collect();
    let hits = queries.iter().filter(|query| query.outcome == CacheOutcome::Hit).count();
    let saved: f64 = queries.iter().filter_map(|query| query.seconds_saved).sum();
    format!("{hits} of {} used, {saved:.0} seconds saved", queries.len())
}

/// `stage.unit.class`, as far as there is one.
fn class_name(test: &Test) -> String {
    let parts = match test.unit {
        Some(unit) if test.is_unit() => vec![unit.stage.name()],
        Some(unit) => vec![unit.stage.name(), &unit.name, test.class],
        None => vec![AGENT, test.class],
    };
    parts.join(".")
}

fn status(test: &Test, summary: &Summary, explained: bool) -> TestCaseStatus {
    let (mut status, kind, reason) = match test.status {
        Status::Outcome(Outcome::Passed) => return TestCaseStatus::success(),
        Status::Outcome(Outcome::Flaky(why)) => return flaky(why, test.message),
        Status::Outcome(outcome) => {
            let status = match outcome {
                Outcome::Skipped(_) => TestCaseStatus::skipped(),
                Outcome::NotRun(_) if explained => TestCaseStatus::skipped(),
                stopped if stopped.was_stopped() && is_case(test) => TestCaseStatus::skipped(),
                Outcome::Failed(_) => TestCaseStatus::non_success(NonSuccessKind::Failure),
                _ => TestCaseStatus::non_success(NonSuccessKind::Error),
            };
            (status, outcome.word(), outcome.reason().unwrap_or_default().to_owned())
        }
        Status::Error(error) => {
            (TestCaseStatus::non_success(NonSuccessKind::Error), word(error.class), error.to_string())
        }
    };
    // An attribute cannot hold lines; the text holds all of them.
    status.set_message(text(reason.lines().next().unwrap_or_default()));
    status.set_type(text(kind));
    let mut words = vec![reason, test.message.to_owned()];
    words
        .extend(test.unit.filter(|_| test.is_unit()).into_iter().flat_map(|unit| explanation(unit, summary)));
    words.retain(|words| !words.is_empty());
    status.set_description(text(&words.join("\n")));
    status
}

/// A test that passed in the end, with the run in which it failed.
fn flaky(why: &str, message: &str) -> TestCaseStatus {
    let mut failed = TestRerun::new(NonSuccessKind::Failure);
    failed.set_message(text(why.lines().next().unwrap_or_default()));
    failed.set_type("flaky");
    failed.set_description(text(&[why, message].join("\n")));
    let mut status = TestCaseStatus::success();
    status.add_rerun(failed);
    status
}

/// Whether it is one of a unit's tests.
fn is_case(test: &Test) -> bool {
    test.unit.is_some() && !test.is_unit()
}

/// Why a unit ended as it did: its own lines that matter, its failed tasks and what it found.
fn explanation(unit: &UnitResult, summary: &Summary) -> Vec<String> {
    let mut lines = unit.excerpt.clone();
    for task in summary.failed_tasks.iter().filter(|task| unit.is(&task.unit)) {
        lines.push(format!("{}:{} failed:", task.recipe, task.task));
        lines.extend(task.excerpt.iter().cloned());
    }
    let errors = summary.findings.iter().filter(|finding| finding.level == Level::Error);
    let errors =
        errors.filter(|finding| unit.is(&finding.unit)).map(|finding| finding_line(finding, "error"));
    lines.extend(listing::shown(errors.collect()));
    lines
}

/// Nothing that XML 1.0 forbids gets in, nor what would mislead a reader.
fn text(raw: &str) -> String {
    raw.lines().map(clean).collect::<Vec<_>>().join("\n")
}

fn word(class: Class) -> &'static str {
    match class {
        Class::Usage => "usage",
        Class::Machine => "machine",
        Class::Upstream => "upstream",
        Class::OutOfTime => "out-of-time",
        Class::Internal => "internal",
        Class::Cancelled => "cancelled",
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::*;
    use crate::report::sample::{self, at, case, check_layer, failing_job, reduce};
    use crate::report::totals::Totals;
    use agent_types::events::{Event, EventKind, Unit};
    use agent_types::outcome::ExitStatus;
    use agent_types::stage::Stage;

    #[test]
    fn the_whole_file_of_a_failing_job() {
        let properties = r#"
        <properties>
            <property name="job" value="meta-x"/>
            <property name="release" value="scarthgap"/>
            <property name="commit" value="3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c"/>
            <property name="build" value="17"/>
            <property name="agent" value="0.1.0"/>"#;
        let wanted = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="meta-x scarthgap" tests="8" skipped="1" failures="2" errors="1" time="154.000">
    <testsuite name="checkout.poky" tests="1" skipped="0" errors="0" failures="0" time="12.000" timestamp="2026-01-02T03:04:05.000Z">@
        </properties>
        <testcase name="poky" classname="checkout" time="12.000"/>
    </testsuite>
    <testsuite name="check.preflight meta-x" tests="1" skipped="0" errors="0" failures="0" time="0.020" timestamp="2026-01-02T03:04:17.300Z">@
        </properties>
        <testcase name="preflight meta-x" classname="check" time="0.020"/>
    </testsuite>
    <testsuite name="check.yocto-check-layer meta-x" tests="2" skipped="0" errors="0" failures="1" time="110.000" timestamp="2026-01-02T03:04:17.320Z">@
            <property name="log" value="logs/check-meta-x.log"/>
        </properties>
        <testcase name="test_readme" classname="check.yocto-check-layer meta-x.common.CommonCheckLayer">
            <failure message="AssertionError: README is empty" type="failed">AssertionError: README is empty
Traceback (most recent call last):
  File &quot;common.py&quot;, line 30, in test_readme
AssertionError: README is empty</failure>
        </testcase>
        <testcase name="test_parse" classname="check.yocto-check-layer meta-x.common.CommonCheckLayer"/>
    </testsuite>
    <testsuite name="build.core-image-minimal" tests="1" skipped="0" errors="0" failures="1" time="28.000" timestamp="2026-01-02T03:06:08.000Z">@
            <property name="log" value="logs/build.log"/>
            <property name="sstate.wanted" value="100"/>
            <property name="sstate.local" value="20"/>
            <property name="sstate.mirrors" value="30"/>
            <property name="sstate.missed" value="50"/>
            <property name="sstate.current" value="10"/>
        </properties>
        <testcase name="core-image-minimal" classname="build" time="28.000">
            <failure message="1 task failed: zlib:do_compile" type="failed">1 task failed: zlib:do_compile
zlib:do_compile failed:
zlib.c:3:1: error: expected &apos;;&apos;
make: *** [Makefile:9: zlib.o] Error 1</failure>
        </testcase>
    </testsuite>
    <testsuite name="build-agent" tests="3" skipped="1" errors="1" failures="0" timestamp="2026-01-02T03:04:05.000Z">@
        </properties>
        <testcase name="configure" classname="build-agent.stages" time="0.300"/>
        <testcase name="test" classname="build-agent.stages">
            <skipped message="nothing asks for test" type="skipped">nothing asks for test</skipped>
        </testcase>
        <testcase name="publish" classname="build-agent.errors">
            <error message="cannot upload `index.json` to s3://bucket/builds" type="upstream">cannot upload `index.json` to s3://bucket/builds
  because: connection reset
  hint: run the job again; what was uploaded is not uploaded twice</error>
        </testcase>
    </testsuite>
</testsuites>
"#;
        assert_eq!(render(&reduce(&failing_job())).unwrap(), wanted.replace('@', properties));
    }

    #[test]
    fn every_suite_tells_of_the_share() {
        let xml = render(&reduce(&sample::with_share())).unwrap();
        let suites = xml.matches("<testsuite ").count();
        for property in [
            r#"<property name="cache.shared.state" value="read-only"/>"#,
            r#"<property name="cache.shared.bytes_read" value="3145728"/>"#,
            r#"<property name="cache.pull-request.published" value="5"/>"#,
        ] {
            assert_eq!(xml.matches(property).count(), suites, "{property} in\n{xml}");
        }
    }

    #[test]
    fn the_costs_of_a_bucket_are_properties() {
        let xml = render(&reduce(&sample::with_bucket())).unwrap();
        assert!(xml.contains(r#"<property name="cache.shared.usd" value="0.000300"/>"#), "{xml}");
        let xml = render(&reduce(&sample::with_share())).unwrap();
        assert!(!xml.contains(".usd"), "{xml}");
    }

    #[test]
    fn each_outcome_has_its_element() {
        let unit = check_layer();
        let why = || "why".to_owned();
        let table = [
            (Outcome::Passed, None),
            (Outcome::Flaky(why()), Some("<flakyFailure message=\"why\" type=\"flaky\">")),
            (Outcome::Failed(why()), Some("<failure message=\"why\" type=\"failed\">")),
            (Outcome::Skipped(why()), Some("<skipped message=\"why\" type=\"skipped\">")),
            (Outcome::NotRun(why()), Some("<error message=\"why\" type=\"not-run\">")),
            (Outcome::TimedOut(why()), Some("<skipped message=\"why\" type=\"timed-out\">")),
            (Outcome::Cancelled(why()), Some("<skipped message=\"why\" type=\"cancelled\">")),
        ];
        for (outcome, element) in table {
            let mut events = vec![at(0, case(&unit, "test_x", outcome, ""))];
            events.push(at(0, sample::unit_finished(&unit, Outcome::Passed, None)));
            events.push(at(
                1,
                EventKind::JobFinished {
                    exit: agent_types::outcome::ExitStatus::Passed,
                    outcome: Outcome::Passed,
                },
            ));
            let xml = render(&reduce(&events)).unwrap();
            let found = ["<failure", "<flakyFailure", "<skipped", "<error"]
                .iter()
                .filter(|tag| xml.contains(**tag))
                .count();
            assert_eq!(found, element.iter().count(), "{xml}");
            assert!(element.is_none_or(|element| xml.contains(element)), "{xml}");
        }
    }

    /// Whatever was stopped with it: the unit is the one error, and only what failed before is a failure.
    #[test]
    fn a_unit_that_was_stopped_is_seen() {
        let why = || "over".to_owned();
        let unit = check_layer();
        for (stopped, failures, errors) in [
            (vec![Outcome::Passed], 0, 1),
            (vec![Outcome::Passed, Outcome::TimedOut(why())], 0, 1),
            (vec![Outcome::Cancelled(why()), Outcome::Cancelled(why())], 0, 1),
            (vec![Outcome::Failed(why()), Outcome::Cancelled(why())], 1, 0),
        ] {
            for end in [Outcome::TimedOut(why()), Outcome::Cancelled(why())] {
                let cases = stopped.iter().map(|outcome| case(&unit, "test_x", outcome.clone(), ""));
                let mut events: Vec<Event> = cases.map(|case| at(0, case)).collect();
                events.push(at(1, sample::unit_finished(&unit, end.clone(), None)));
                events
                    .push(at(2, EventKind::JobFinished { exit: ExitStatus::of(&end), outcome: end.clone() }));
                let summary = reduce(&events);
                let report = Report::deserialize_from_str(&render(&summary).unwrap()).unwrap();
                assert_eq!((report.failures, report.errors), (failures, errors), "{stopped:?} {end:?}");
            }
        }
    }

    #[test]
    fn what_xml_cannot_hold_stays_out() {
        let evil =
            "]]>\u{1b}[31m<b a=\"'\">&amp;\0\u{1}\u{b}\u{fffe}\u{ffff}\u{9b}\u{1b}]0;no end\r\nnext\tline";
        let unit = Unit::new(Stage::Check, evil);
        let events: Vec<Event> = vec![at(0, case(&unit, evil, Outcome::Failed(evil.into()), evil))];
        let xml = render(&reduce(&events)).unwrap();
        let forbidden =
            |char: &char| (char.is_control() && *char != '\n') || matches!(char, '\u{fffe}' | '\u{ffff}');
        assert_eq!(xml.chars().find(forbidden), None, "{xml}");
        assert!(xml.contains("]]&gt;&lt;b a=&quot;&apos;&quot;&gt;&amp;amp;"), "{xml}");
        assert!(xml.contains("]0;no end\nnext    line"), "an unfinished sequence hides nothing: {xml}");
        assert!(Report::deserialize_from_str(&xml).is_ok());
    }

    #[test]
    fn the_counts_agree_with_those_of_the_result() {
        let mut cancelled = sample::passing_job();
        let stopped = || Outcome::Cancelled("SIGTERM".into());
        cancelled.push(at(6000, case(&check_layer(), "test_x", stopped(), "")));
        cancelled.push(at(6000, sample::unit_finished(&check_layer(), stopped(), None)));
        for events in [failing_job(), sample::passing_job(), cancelled, Vec::new()] {
            let mut killed = reduce(&events);
            killed.interrupted();
            for summary in [reduce(&events), killed] {
                let report = Report::deserialize_from_str(&render(&summary).unwrap()).unwrap();
                let totals = Totals::of(&summary);
                // Tests that were stopped with their unit are skipped; the unit is the error.
                let suites = suites(&summary);
                let cases = suites.iter().flat_map(|suite| &suite.tests).filter(|test| is_case(test));
                let stopped = cases
                    .filter(|test| matches!(test.status, Status::Outcome(outcome) if outcome.was_stopped()));
                let stopped = stopped.count() as u64;
                let own = totals.timed_out + totals.cancelled + totals.errors;
                // What did not run because of something else is skipped; the something is the error.
                let explained = if totals.failed + own > 0 { totals.not_run } else { 0 };
                let errors = totals.not_run - explained + own - stopped;
                let wanted = [totals.tests, totals.failed, errors, totals.skipped + stopped + explained];
                let found = [report.tests, report.failures, report.errors, report.skipped];
                assert_eq!(found.map(|number| number as u64), wanted);
            }
        }
    }

    #[test]
    fn cache_hits_are_counted() {
        let query = |rerun, outcome, seconds_saved| {
            let query = CacheQuery {
                query: "signatures of the world".into(),
                outcome,
                why: Some("because".into()),
                seconds_saved,
                recipes: None,
                rerun,
            };
            EventKind::CacheQuery { unit: check_layer(), query }
        };
        let summary = reduce(&[
            at(0, query(0, CacheOutcome::Hit, Some(77.0))),
            at(1, query(1, CacheOutcome::Hit, Some(290.6))),
            at(2, query(1, CacheOutcome::Miss, None)),
            at(3, query(1, CacheOutcome::Hit, Some(10.0))),
            at(4, sample::unit_finished(&check_layer(), Outcome::Passed, None)),
        ]);
        let text = render(&summary).unwrap();
        assert!(text.contains(r#"name="stored-answers" value="2 of 3 used, 301 seconds saved""#), "{text}");
        let none = render(&reduce(&failing_job())).unwrap();
        assert!(!none.contains("stored-answers"), "{none}");
    }
}
