//! Applies known failures and reruns to a judgement.

use agent_types::events::{Finding, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::verdict::{ENDED_WITH, Expected, JudgedTest, Judgement, RUN_PTEST, is_of_suite, outcome_of};
use crate::check_layer::{KNOWN_FAILURE, KnownFailure, names_test};

/// Applies the known failures of the test stage. The findings name entries that are no longer needed, and suites that
/// were skipped although the manifest names them.
pub fn apply_known(
    judgement: &mut Judgement,
    known: &[KnownFailure],
    expected: &Expected,
    unit: &Unit,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in known.iter().filter(|entry| entry.stage == Stage::Test) {
        for test in &mut judgement.tests {
            if !names_test(&entry.test, &test.id()) {
                continue;
            }
            match &test.outcome {
                // A ptest that hangs is stopped.
                Outcome::Failed(why) | Outcome::TimedOut(why) => test.outcome = entry.forgive(why),
                Outcome::Passed => findings.push(entry.passes(unit)),
                _ => {}
            }
        }
    }
    forgive_status(&mut judgement.tests);
    for suite in &expected.suites {
        let of_suite: Vec<&JudgedTest> =
            judgement.tests.iter().filter(|test| is_of_suite(&test.id(), suite)).collect();
        let skipped = of_suite.iter().filter(|test| matches!(test.outcome, Outcome::Skipped(_)));
        if !of_suite.is_empty() && skipped.count() == of_suite.len() {
            let why = of_suite.first().and_then(|test| test.outcome.reason()).unwrap_or_default();
            let message =
                format!("the manifest names the suite `{suite}`, and all of its tests were skipped: {why}");
            let hint = "let the image have what the suite needs, or remove it from [test] suites";
            findings.push(Finding::warning(unit, "suite-skipped", message, hint));
        }
    }
    if judgement.by_tests {
        judgement.outcome = Ok(outcome_of(&judgement.tests, expected));
    }
    findings
}

/// A ptest ends with a status other than 0 because tests in it failed. If all of these are known failures, so is that.
fn forgive_status(tests: &mut [JudgedTest]) {
    for index in 0..tests.len() {
        let ptest = &tests[index];
        let by_status = matches!(&ptest.outcome, Outcome::Failed(why) if why.starts_with(ENDED_WITH));
        if ptest.name != RUN_PTEST || !by_status {
            continue;
        }
        let inner = || tests.iter().filter(|test| test.class == ptest.class && test.name != RUN_PTEST);
        let is_known = |test: &JudgedTest| matches!(&test.outcome, Outcome::Skipped(why) if why.starts_with(KNOWN_FAILURE));
        if inner().all(|test| test.outcome.is_success()) && inner().any(is_known) {
            tests[index].outcome = Outcome::Skipped("all of its failures are known failures".into());
        }
    }
}

/// Merges the results of a rerun into those of earlier runs. A test that passed once and failed once is flaky.
pub fn merge_rerun(earlier: &mut Judgement, rerun: Judgement, expected: &Expected) {
    for test in rerun.tests {
        let same = |known: &&mut JudgedTest| known.class == test.class && known.name == test.name;
        let Some(known) = earlier.tests.iter_mut().find(same) else {
            earlier.tests.push(test);
            continue;
        };
        known.outcome = match (&known.outcome, &test.outcome) {
            (Outcome::Flaky(why), _) => Outcome::Flaky(why.clone()),
            (Outcome::Passed, bad) if is_failure(bad) => Outcome::Flaky(format!(
                "passed, then failed in a rerun: {}",
                bad.reason().unwrap_or_default()
            )),
            (bad, Outcome::Passed) if is_failure(bad) => Outcome::Flaky(format!(
                "failed, then passed in a rerun: {}",
                bad.reason().unwrap_or_default()
            )),
            // Not reached before.
            (Outcome::NotRun(_), newer) => newer.clone(),
            (Outcome::Skipped(_), bad) if is_failure(bad) => bad.clone(),
            (known, _) => known.clone(),
        };
        if known.message.is_empty() {
            known.message = test.message;
        }
    }
    earlier.by_tests &= rerun.by_tests;
    earlier.outcome = match (&earlier.outcome, rerun.outcome) {
        _ if earlier.by_tests => Ok(outcome_of(&earlier.tests, expected)),
        (_, Err(error)) => Err(error),
        (Ok(_), Ok(stopped)) if stopped.was_stopped() => Ok(stopped),
        (first, _) => first.clone(),
    };
}

fn is_failure(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(_) | Outcome::TimedOut(_))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::verdict::tests::{BROKEN, SSH, expected, failed, judged, passed, runs, said};
    use super::super::verdict::{Evidence, judge};
    use super::*;
    use agent_types::error::{Error, Result};

    fn entry(test: &str, expired: bool) -> KnownFailure {
        KnownFailure {
            test: test.into(),
            stage: Stage::Test,
            layer: None,
            reason: "waits".into(),
            expires: "2030-01-01".into(),
            expired,
        }
    }

    fn applied(
        tool: Result<Outcome>,
        results: &str,
        known: &[KnownFailure],
        only: bool,
    ) -> (String, Vec<String>) {
        let expected = expected(&["ssh"], &[]);
        let evidence = Evidence { tool, runs: runs(results), only_tests_failed: only };
        let mut judgement = judge(&expected, &evidence);
        let findings = apply_known(&mut judgement, known, &expected, &Unit::new(Stage::Test, "u"));
        (said(&judgement), findings.into_iter().map(|finding| finding.rule).collect())
    }

    #[test]
    fn known_failures_forgive_what_failed_and_nothing_else() {
        let broken = format!("{SSH}, {BROKEN}");
        for name in ["test_ping", "PingTest.test_ping", "ping.PingTest.test_ping"] {
            assert_eq!(
                applied(failed(), &broken, &[entry(name, false)], true),
                ("passed".into(), vec![]),
                "{name}"
            );
        }
        // The failure of a ptest shows in the test that runs all ptests, too.
        let ptest = format!(
            r#"{SSH}, "ptestresult.sections": {{"zlib": {{"log": ""}}}}, "ptestresult.zlib.a": {{"status": "FAILED"}},
               "ptestresult.zlib.b": {{"status": "PASSED"}},
               "ptest.PtestRunnerTest.test_ptestrunner_expectsuccess": {{"status": "FAILED", "log": "Failed ptests"}}"#
        );
        assert_eq!(applied(failed(), &ptest, &[entry("ptest.zlib.a", false)], true).0, "passed");
        // So does its exit status.
        let with_status = ptest.replace(r#""zlib": {"log": ""}"#, r#""zlib": {"log": "", "exitcode": "1"}"#);
        assert_eq!(applied(failed(), &with_status, &[entry("ptest.zlib.a", false)], true).0, "passed");
        let all_passed = with_status.replace("FAILED", "PASSED");
        assert!(applied(failed(), &all_passed, &[], true).0.starts_with("failed: ptest.zlib.run-ptest"));
        let hangs = format!(
            r#"{SSH}, "ptestresult.sections": {{"zlib": {{"log": "", "timeout": true}}}}, "ptestresult.zlib.a": {{"status": "PASSED"}}"#
        );
        assert!(applied(failed(), &hangs, &[], true).0.starts_with("failed: ptest.zlib.run-ptest"));
        assert_eq!(applied(failed(), &hangs, &[entry("ptest.zlib.run-ptest", false)], true).0, "passed");
        let (expired, _) = applied(failed(), &broken, &[entry("test_ping", true)], true);
        assert!(expired.contains("no route (known failure, but expired on 2030-01-01: waits)"), "{expired}");
        // Of another stage, of another test; not run; the tool failed for more than its tests.
        let of_check = KnownFailure { stage: Stage::Check, ..entry("test_ping", false) };
        assert!(applied(failed(), &broken, &[of_check], true).0.starts_with("failed: ping.PingTest"));
        assert!(
            applied(failed(), &broken, &[entry("est_ping", false)], true)
                .0
                .starts_with("failed: ping.PingTest")
        );
        let unknown = format!(r#"{SSH}, "a.B.test_c": {{"status": "UNKNOWN"}}"#);
        assert!(
            applied(failed(), &unknown, &[entry("test_c", false)], true).0.starts_with("failed: a.B.test_c")
        );
        let more = applied(failed(), &broken, &[entry("test_ping", false)], false).0;
        assert_eq!(more, "failed: img:do_testimage failed");
        assert!(applied(passed(), &broken, &[entry("test_ping", false)], true).0.starts_with("error: "));
        // All that ran is forgiven: nothing was proved.
        assert!(
            applied(failed(), BROKEN, &[entry("test_ping", false)], true).0.starts_with("failed: ssh.suite")
        );
        assert_eq!(applied(passed(), SSH, &[entry("test_ssh", false)], true).1, ["known-failure-passes"]);
    }

    #[test]
    fn a_suite_that_was_skipped_whole_is_a_warning() {
        let results = r#""ssh.SSHTest.test_ssh": {"status": "SKIPPED", "log": "no sshd"}, "a.B.test_c": {"status": "PASSED"}"#;
        assert_eq!(applied(passed(), results, &[], true), ("passed".into(), vec!["suite-skipped".into()]));
    }

    #[test]
    fn a_rerun_shows_what_is_flaky_and_hides_nothing() {
        let table = [
            ("FAILED", "PASSED", "flaky: failed, then passed in a rerun"),
            ("ERROR", "PASSED", "flaky: failed, then passed in a rerun"),
            ("PASSED", "FAILED", "flaky: passed, then failed in a rerun"),
            ("FAILED", "FAILED", "failed"),
            ("FAILED", "SKIPPED", "failed"),
            ("FAILED", "UNKNOWN", "failed"),
            ("UNKNOWN", "PASSED", "passed"),
            ("UNKNOWN", "FAILED", "failed"),
            ("PASSED", "UNKNOWN", "passed"),
            ("SKIPPED", "FAILED", "failed"),
        ];
        for (first, second, wanted) in table {
            let results = |status: &str| format!(r#"{SSH}, "a.B.test_c": {{"status": "{status}"}}"#);
            let tool = |status: &str| {
                if ["FAILED", "ERROR", "UNKNOWN"].contains(&status) { failed() } else { passed() }
            };
            let expected = expected(&[], &[]);
            let mut judgement = judged(&expected, tool(first), &results(first));
            merge_rerun(&mut judgement, judged(&expected, tool(second), &results(second)), &expected);
            let test = judgement.tests.iter().find(|test| test.name == "test_c").unwrap();
            let outcome = format!("{}: {}", test.outcome.word(), test.outcome.reason().unwrap_or_default());
            assert!(outcome.starts_with(wanted), "{first} {second}: {outcome}");
            let is_fine = test.outcome.is_success();
            assert_eq!(judgement.outcome.as_ref().unwrap().is_success(), is_fine, "{first} {second}");
        }
    }

    #[test]
    fn a_broken_rerun_does_not_pass() {
        let expected = expected(&[], &[]);
        let broken = format!("{SSH}, {BROKEN}");
        for (rerun, wanted) in [
            (Err(Error::internal("x")), "error: x"),
            (Ok(Outcome::TimedOut("30m".into())), "timed-out: 30m"),
            (Ok(Outcome::Cancelled("signal".into())), "cancelled: signal"),
        ] {
            let mut judgement = judged(&expected, failed(), &broken);
            merge_rerun(&mut judgement, judged(&expected, rerun, ""), &expected);
            assert_eq!(said(&judgement), wanted);
        }
        let mut judgement = judged(&expected, failed(), &broken);
        let nothing = Evidence { tool: failed(), runs: Ok(Vec::new()), only_tests_failed: true };
        merge_rerun(&mut judgement, judge(&expected, &nothing), &expected);
        assert!(said(&judgement).starts_with("failed: ping.PingTest.test_ping"));
    }
}
