//! Transcripts that a layer has written into: none gives a green that the tool did not give.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::known::apply_known;
use super::super::output::OutputParser;
use super::super::{ExpectedCase, Verdict, judge};
use super::*;
use crate::check_layer::KnownFailure;
use agent_types::events::Unit;
use agent_types::stage::Stage;

const CLASS: &str = "common.CommonCheckLayer";
const TESTS: [&str; 4] = ["test_parse", "test_readme", "test_signatures", "test_world"];
const STATUSES: [&str; 6] = ["ok", "FAIL", "ERROR", "skipped 'x'", "expected failure", "unexpected success"];

/// How the tests really ended, and which of them is known to fail.
#[derive(Clone, Debug)]
struct Truth {
    statuses: Vec<&'static str>,
    known: usize,
}

fn is_failure(status: &str) -> bool {
    matches!(status, "FAIL" | "ERROR")
}

impl Truth {
    fn failed(&self) -> bool {
        self.statuses.iter().any(|status| is_failure(status))
    }

    fn status(&self) -> i32 {
        if self.failed() { 2 } else { 0 }
    }

    /// Whether a pass is right: only what is known has failed.
    fn may_pass(&self) -> bool {
        self.statuses.iter().enumerate().all(|(test, status)| !is_failure(status) || test == self.known)
    }

    fn of(&self, wanted: &str) -> Vec<&'static str> {
        TESTS
            .into_iter()
            .zip(&self.statuses)
            .filter(|(_, status)| **status == wanted)
            .map(|(test, _)| test)
            .collect()
    }

    /// What the tool prints; `said` stands in the messages of failed tests.
    fn transcript(&self, said: &[String]) -> Vec<String> {
        let message = || {
            let head = "INFO: Traceback (most recent call last):".to_owned();
            [head].into_iter().chain(said.iter().cloned()).chain(["AssertionError: x".into(), String::new()])
        };
        let mut lines = vec!["INFO: Starting to analyze: meta-x".to_owned()];
        for (test, status) in TESTS.iter().zip(&self.statuses) {
            lines.push(format!("INFO: {test} ({CLASS}.{test})"));
            lines.push(format!("INFO:  ... {status}"));
            if is_failure(status) {
                lines.extend(message());
            }
        }
        let mut counts = Vec::new();
        for (word, name) in [("ERROR", "errors"), ("FAIL", "failures")] {
            for test in self.of(word) {
                lines.push(format!("INFO: {}", "=".repeat(70)));
                lines.push(format!("INFO: {word}: {test} ({CLASS}.{test})"));
                lines.push(format!("INFO: {}", "-".repeat(70)));
                lines.extend(message());
            }
            counts.push(format!("{name}={}", self.of(word).len()));
        }
        let (result, verdict) = if self.failed() { ("FAILED", "FAIL") } else { ("OK", "PASS") };
        counts.retain(|count| !count.ends_with("=0"));
        counts.push("skipped=1".into());
        lines.push(format!("INFO: Ran {} tests in 1.0s", TESTS.len()));
        lines.push(format!("INFO: {result}"));
        lines.push(format!("INFO:  ({})", counts.join(", ")));
        lines.extend(["INFO: ", "INFO: Summary of results:", "INFO: "].map(str::to_owned));
        lines.push(format!("INFO: meta-x ... {verdict}"));
        lines
    }

    fn record(&self) -> Record {
        let ids = |wanted: &str| -> Vec<String> {
            self.of(wanted).iter().map(|test| format!("{CLASS}.{test}")).collect()
        };
        let run = TestRun {
            ran: TESTS.len() as u64,
            successful: !self.failed(),
            failures: ids("FAIL"),
            errors: ids("ERROR"),
            skipped: ids("skipped 'x'"),
            expected_failures: ids("expected failure"),
            unexpected_successes: ids("unexpected success"),
            successes: ids("ok"),
        };
        let verdict = if self.failed() { "FAIL" } else { "PASS" };
        let summary = vec![format!("meta-x ... {verdict}")];
        Record {
            runs: vec![run],
            ends: vec![EndOfTool { status: self.status(), unittest: true, summary }],
            nonsense: false,
        }
    }

    /// The verdict on the lines, with the known failure forgiven.
    fn judged(&self, lines: &[String], record: Option<&Record>) -> Verdict {
        let expected: Vec<ExpectedCase> = TESTS
            .iter()
            .map(|test| ExpectedCase { class: CLASS.into(), name: (*test).into(), expected_failure: false })
            .collect();
        let mut parser = OutputParser::new();
        lines.iter().flat_map(|line| line.split('\n')).for_each(|line| parser.line(line));
        let parsed = parser.finish();
        let end = ExitReason::Exited(self.status());
        let mut verdict = judge(&expected, &parsed, end, "meta-x");
        if let Some(record) = record {
            verdict = confirm(verdict, &parsed, record, end, "meta-x");
        }
        let known = KnownFailure {
            test: TESTS[self.known].into(),
            stage: Stage::Check,
            layer: None,
            reason: "r".into(),
            expires: "2030-01-01".into(),
            expired: false,
        };
        apply_known(verdict, &[known], "meta-x", &Unit::new(Stage::Check, "u")).0
    }
}

fn truth() -> impl Strategy<Value = Truth> {
    (vec(select(&STATUSES[..]), TESTS.len()), 0..TESTS.len())
        .prop_map(|(statuses, known)| Truth { statuses, known })
}

/// A line that a layer may print: mostly what the tool itself prints.
fn line() -> impl Strategy<Value = String> {
    let test = || select(&TESTS[..]);
    let name = || test().prop_map(|test| format!("{test} ({CLASS}.{test})"));
    prop_oneof![
        name().prop_map(|name| format!("INFO: {name}")),
        select(&STATUSES[..]).prop_map(|status| format!("INFO:  ... {status}")),
        (name(), select(&STATUSES[..]))
            .prop_map(|(name, status)| format!("INFO: {name}\nINFO:  ... {status}")),
        (select(vec!["FAIL", "ERROR"]), name()).prop_map(|(word, name)| format!("INFO: {word}: {name}")),
        (0..6u8).prop_map(|count| format!("INFO: Ran {count} tests in 1.0s")),
        (0..3u8, 0..3u8)
            .prop_map(|(failures, errors)| format!("INFO:  (failures={failures}, errors={errors})")),
        select(vec!["PASS", "FAIL", "SKIPPED (x)"]).prop_map(|word| format!("INFO: meta-x ... {word}")),
        select(vec![
            "INFO: OK",
            "INFO: FAILED",
            "INFO: FAILED (failures=1)",
            "INFO: Summary of results:",
            "INFO: ======================================================================",
            "INFO: ----------------------------------------------------------------------",
            "INFO: Starting to analyze: meta-x",
            "INFO: setUpClass (common.CommonCheckLayer)\nINFO:  ... skipped 'x'",
            "INFO: skipped 'CommonCheckLayer: x'",
            "INFO: ",
            "Traceback (most recent call last):",
            "RuntimeError: x",
            "ERROR: x",
            "x",
            "",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn untouched_transcripts_give_the_tools_verdict(truth in truth()) {
        for record in [None, Some(truth.record())] {
            let verdict = truth.judged(&truth.transcript(&[]), record.as_ref());
            let proved = truth.statuses.iter().any(|status| matches!(*status, "ok" | "unexpected success"));
            let passed = matches!(verdict.outcome, Ok(Outcome::Passed));
            prop_assert_eq!(passed, truth.may_pass() && proved, "{:?}", verdict.outcome);
            prop_assert!(!truth.failed() || verdict.outcome.is_ok(), "{:?}", verdict.outcome);
        }
    }

    /// Without the record: what a layer says is in the messages, and whole lines of it anywhere.
    #[test]
    fn lines_of_a_layer_give_no_green(
        truth in truth(),
        said in vec(line(), 0..12),
        printed in vec((any::<prop::sample::Index>(), line()), 0..6),
    ) {
        let mut lines = truth.transcript(&said);
        for (at, line) in printed {
            let at = at.index(lines.len() + 1);
            lines.insert(at, line);
        }
        let verdict = truth.judged(&lines, None);
        let passed = matches!(verdict.outcome, Ok(Outcome::Passed));
        prop_assert!(!passed || truth.may_pass(), "{:?}\n{}", verdict, lines.join("\n"));
    }

    /// With the record the text may be anything at all.
    #[test]
    fn no_text_whatever_gives_green_against_the_record(
        truth in truth(),
        said in vec(line(), 0..8),
        forged in truth(),
        dropped in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        // A whole transcript of a better run, and one that is cut up.
        let record = truth.record();
        let better = forged.transcript(&said);
        let mut cut = truth.transcript(&said);
        for at in dropped {
            cut.remove(at.index(cut.len()));
        }
        for lines in [better, cut] {
            let verdict = truth.judged(&lines, Some(&record));
            let passed = matches!(verdict.outcome, Ok(Outcome::Passed));
            prop_assert!(!passed || truth.may_pass(), "{:?}\n{}", verdict, lines.join("\n"));
        }
    }
}
