use super::super::results::parse;
use super::*;
use agent_types::error::Class;

pub fn expected(suites: &[&str], ptests: &[&str]) -> Expected {
    Expected {
        image: "img".into(),
        machine: "qemux86-64".into(),
        suites: suites.iter().map(|suite| (*suite).to_owned()).collect(),
        ptests: ptests
            .iter()
            .map(|name| (format!("{name}-ptest"), BTreeSet::from([(*name).to_owned()])))
            .collect(),
    }
}

/// The runs of a file with these results, as OE-Core writes it.
pub fn runs(results: &str) -> Result<Vec<Run>, String> {
    let configuration = r#"{"TEST_TYPE": "runtime", "IMAGE_BASENAME": "img", "MACHINE": "qemux86-64"}"#;
    parse(&format!(r#"{{"runtime_img_1": {{"configuration": {configuration}, "result": {{{results}}}}}}}"#))
}

pub fn failed() -> Result<Outcome> {
    Ok(Outcome::Failed("img:do_testimage failed".into()))
}

pub fn passed() -> Result<Outcome> {
    Ok(Outcome::Passed)
}

pub fn judged(expected: &Expected, tool: Result<Outcome>, results: &str) -> Judgement {
    judge(expected, &Evidence { tool, runs: runs(results), only_tests_failed: true })
}

/// The outcome as one text: `passed`, `failed: …`, `error: …`.
pub fn said(judgement: &Judgement) -> String {
    match &judgement.outcome {
        Ok(outcome) => match outcome.reason() {
            Some(why) => format!("{}: {why}", outcome.word()),
            None => outcome.word().to_owned(),
        },
        Err(error) => {
            assert_eq!(error.class, Class::Internal, "{error}");
            format!("error: {}", error.message)
        }
    }
}

pub const SSH: &str = r#""ssh.SSHTest.test_ssh": {"status": "PASSED", "duration": 1.5}"#;
pub const BROKEN: &str =
    r#""ping.PingTest.test_ping": {"status": "FAILED", "log": "Traceback\nAssertionError: no route"}"#;
pub const ZLIB: &str = r#""ptestresult.sections": {"zlib": {"log": "l", "duration": "3"}}, "ptestresult.zlib.one": {"status": "PASSED"}"#;

#[test]
fn a_run_passes_when_all_sources_agree() {
    let judgement = judged(&expected(&["ssh"], &[]), passed(), SSH);
    assert_eq!(said(&judgement), "passed");
    let test = &judgement.tests[0];
    assert_eq!(
        (test.class.as_str(), test.name.as_str(), test.seconds),
        ("ssh.SSHTest", "test_ssh", Some(1.5))
    );
    let with_ptests = judged(&expected(&["ssh"], &["zlib"]), passed(), &format!("{SSH}, {ZLIB}"));
    assert_eq!(said(&with_ptests), "passed");
    let ids: Vec<String> = with_ptests.tests.iter().map(JudgedTest::id).collect();
    assert_eq!(ids, ["ptest.zlib.run-ptest", "ptest.zlib.one", "ssh.SSHTest.test_ssh"]);
    // Without suites in the manifest, those of the image count.
    assert_eq!(said(&judged(&expected(&[], &[]), passed(), SSH)), "passed");
}

/// Runs that never pass: the tool's verdict, the results, the expected tests, and the message.
#[test]
fn an_empty_or_contradictory_run_is_never_passed() {
    let sections = |fields: &str| format!(r#"{SSH}, "ptestresult.sections": {{"zlib": {{{fields}}}}}"#);
    let one = |status: &str| {
        format!(r#"{}, "ptestresult.zlib.one": {{"status": "{status}"}}"#, sections(r#""log": """#))
    };
    let expectfail = |status: &str, log: &str| {
        format!(
            r#""ptest.PtestRunnerTest.test_ptestrunner_expectfail": {{"status": "{status}", "log": "{log}"}}"#
        )
    };
    // What it is, the tool's end, the results, the suites and the ptests that were asked for, the outcome.
    type Row<'a> = (&'a str, Result<Outcome>, String, &'a [&'a str], &'a [&'a str], &'a str);
    let table: Vec<Row> = vec![
        ("0 tests", passed(), String::new(), &[], &[], "failed: not a single test ran"),
        (
            "only skipped",
            passed(),
            r#""a.B.test_c": {"status": "SKIPPED", "log": "no python"}"#.into(),
            &[],
            &[],
            "failed: every test was skipped",
        ),
        (
            "UNKNOWN",
            passed(),
            format!(r#"{SSH}, "a.B.test_c": {{"status": "UNKNOWN"}}"#),
            &[],
            &[],
            "failed: a.B.test_c: it was never reached",
        ),
        (
            "an unknown word",
            passed(),
            format!(r#"{SSH}, "a.B.test_c": {{"status": "OK"}}"#),
            &[],
            &[],
            "failed: a.B.test_c: its status is `OK`",
        ),
        (
            "an empty word",
            passed(),
            format!(r#"{SSH}, "a.B.test_c": {{"status": ""}}"#),
            &[],
            &[],
            "failed: a.B.test_c: its status is ``",
        ),
        (
            "only expected failures",
            passed(),
            r#""a.B.test_c": {"status": "EXPECTEDFAIL"}"#.into(),
            &[],
            &[],
            "failed: every test was skipped",
        ),
        (
            "FAILED and exit status 0",
            passed(),
            format!("{SSH}, {BROKEN}"),
            &[],
            &[],
            "error: the tests of img contradict themselves: the tests passed, but ping.PingTest.test_ping is FAILED",
        ),
        (
            "ERROR and exit status 0",
            passed(),
            format!(r#"{SSH}, "a.B.test_c": {{"status": "ERROR"}}"#),
            &[],
            &[],
            "error: the tests of img contradict themselves: the tests passed, but a.B.test_c is ERROR",
        ),
        (
            "the tool failed, the tests did not",
            failed(),
            SSH.into(),
            &[],
            &[],
            "failed: img:do_testimage failed, although no test failed",
        ),
        (
            "a suite without tests",
            passed(),
            SSH.into(),
            &["ssh", "parselogs"],
            &[],
            "failed: parselogs.suite: the manifest names the suite `parselogs`, and no test of it ran",
        ),
        (
            "a suite whose name another one begins with",
            passed(),
            SSH.into(),
            &["ss"],
            &[],
            "failed: ss.suite: the manifest names the suite `ss`",
        ),
        (
            "a ptest failed and the exit status is 0",
            passed(),
            one("FAILED"),
            &[],
            &[],
            "failed: ptest.zlib.one: it failed",
        ),
        (
            "a ptest with an unknown word",
            passed(),
            one("UNKNOWN"),
            &[],
            &[],
            "failed: ptest.zlib.one: its status is Unknown",
        ),
        (
            "PTEST_EXPECT_FAILURE, and a ptest failed",
            passed(),
            format!("{}, {}", one("FAILED"), expectfail("EXPECTEDFAIL", "x")),
            &[],
            &[],
            "failed: ptest.zlib.one: it failed",
        ),
        (
            "PTEST_EXPECT_FAILURE, and no ptest failed",
            passed(),
            format!("{}, {}", one("PASSED"), expectfail("EXPECTEDFAIL", "x")),
            &[],
            &[],
            "failed: ptest.PtestRunnerTest.test_ptestrunner_expectfail: it failed, no ptest did, and PTEST_EXPECT_FAILURE hides why",
        ),
        (
            "PTEST_EXPECT_FAILURE, and no ptest ran",
            passed(),
            format!("{SSH}, {}", expectfail("EXPECTEDFAIL", "x")),
            &[],
            &[],
            "failed: ptest.PtestRunnerTest.test_ptestrunner_expectfail: the ptests did not run",
        ),
        (
            "a section without results",
            passed(),
            sections(r#""log": "BEGIN""#),
            &[],
            &[],
            "failed: ptest.zlib.run-ptest: it ended without the result of a single test",
        ),
        (
            "a section with an exit status",
            passed(),
            format!(r#"{}, "ptestresult.zlib.one": {{"status": "PASSED"}}"#, sections(r#""exitcode": "2""#)),
            &[],
            &[],
            "failed: ptest.zlib.run-ptest: it ended with status 2",
        ),
        (
            "a section that hung",
            passed(),
            format!(r#"{}, "ptestresult.zlib.one": {{"status": "PASSED"}}"#, sections(r#""timeout": true"#)),
            &[],
            &[],
            "failed: ptest.zlib.run-ptest: it was silent for too long",
        ),
        (
            "a section without an end",
            passed(),
            format!(r#"{SSH}, "ptestresult.zlib.one": {{"status": "PASSED"}}"#),
            &[],
            &[],
            "failed: ptest.zlib.run-ptest: it began and did not end",
        ),
        (
            "out of memory",
            passed(),
            format!(
                r#"{}, "ptestresult.zlib.one": {{"status": "PASSED"}}"#,
                sections(r#""oom": "Out of memory: Killed process 7 (x)""#)
            ),
            &[],
            &[],
            "failed: ptest.zlib.run-ptest: the system ran out of memory while it ran: Out of memory: Killed process 7 (x)",
        ),
        (
            "a panic",
            passed(),
            sections(r#""panic": "Kernel panic - not syncing: x", "timeout": true"#),
            &[],
            &[],
            "failed: ptest.zlib.run-ptest: the kernel crashed while it ran: Kernel panic - not syncing: x",
        ),
        (
            "a package without a section",
            passed(),
            SSH.into(),
            &[],
            &["zlib"],
            "failed: ptest.zlib.run-ptest: zlib-ptest is there, but its ptest did not run",
        ),
        (
            "one of two packages without a section",
            passed(),
            format!("{SSH}, {ZLIB}"),
            &[],
            &["zlib", "curl"],
            "failed: ptest.curl.run-ptest: curl-ptest is there, but its ptest did not run",
        ),
        ("every ptest skipped", passed(), one("SKIPPED"), &[], &["zlib"], "failed: every ptest was skipped"),
        (
            "the summary failed, no ptest did",
            failed(),
            format!(
                r#"{}, "build_agent_ptest.PtestTest.test_ptests": {{"status": "FAILED", "log": "no ptest-runner"}}"#,
                one("PASSED")
            ),
            &[],
            &[],
            "failed: build_agent_ptest.PtestTest.test_ptests: no ptest-runner",
        ),
        ("stopped", Ok(Outcome::TimedOut("30m".into())), SSH.into(), &[], &[], "timed-out: 30m"),
        ("cancelled", Ok(Outcome::Cancelled("signal".into())), SSH.into(), &[], &[], "cancelled: signal"),
        (
            "the tool contradicts itself",
            Err(Error::internal("no summary")),
            SSH.into(),
            &[],
            &[],
            "error: no summary",
        ),
    ];
    for (what, tool, results, suites, ptests, wanted) in table {
        let judgement = judged(&expected(suites, ptests), tool, &results);
        let said = said(&judgement);
        assert!(said.starts_with(wanted), "{what}: wanted {wanted}, got {said}");
    }
}

/// Unreadable results, or none, with each end of the tool.
#[test]
fn without_results_nothing_passes() {
    let malformed = || Err("it is not JSON: EOF".to_owned());
    let other_image = parse(
        &r#"{"r": {"configuration": {"TEST_TYPE": "runtime", "IMAGE_BASENAME": "other", "MACHINE": "qemux86-64"},
            "result": {SSH}}}"#
            .replace("SSH", SSH),
    );
    let other_machine = runs(SSH).map(|mut runs| {
        runs[0].machine = "qemuarm64".into();
        runs
    });
    for (evidence, words) in [
        (malformed(), "cannot be read: it is not JSON: EOF"),
        (Ok(Vec::new()), "there are no results"),
        // Those of older runs and of other images are none of this one.
        (other_image, "there are no results"),
        (other_machine, "there are no results"),
    ] {
        for (tool, start) in [
            (passed(), "error: the tests of img contradict themselves"),
            (failed(), "failed: img:do_testimage failed"),
            (Ok(Outcome::TimedOut("30m".into())), "timed-out: 30m"),
            (Ok(Outcome::Cancelled("signal".into())), "cancelled: signal"),
        ] {
            let evidence = Evidence { tool: tool.clone(), runs: evidence.clone(), only_tests_failed: true };
            let judgement = judge(&expected(&[], &[]), &evidence);
            let said = said(&judgement);
            assert!(said.starts_with(start), "{said}");
            let was_stopped = tool.is_ok_and(|outcome| outcome.was_stopped());
            assert!(was_stopped || said.contains(words), "{words}: {said}");
            assert!(judgement.tests.is_empty() && !judgement.by_tests);
        }
    }
}

#[test]
fn failures_name_the_first_test_and_count_the_others() {
    let more =
        r#""a.B.test_c": {"status": "FAILED"}, "a.B.test_d": {"status": "ERROR", "log": "ImportError: x"}"#;
    let judgement = judged(&expected(&[], &[]), failed(), &format!("{SSH}, {BROKEN}, {more}"));
    assert_eq!(said(&judgement), "failed: a.B.test_c: it failed (and 2 other tests)");
    let of = |name: &str| judgement.tests.iter().find(|test| test.name == name).unwrap();
    assert_eq!(of("test_ping").outcome, Outcome::Failed("AssertionError: no route".into()));
    assert!(of("test_ping").message.starts_with("Traceback"));
    assert_eq!(of("test_d").outcome, Outcome::Failed("error in the test: ImportError: x".into()));
}

#[test]
fn what_was_not_reached_because_of_a_stop_says_so() {
    let results = format!(r#"{SSH}, "a.B.test_c": {{"status": "UNKNOWN"}}"#);
    let judgement =
        judged(&expected(&["ssh", "late"], &["zlib"]), Ok(Outcome::TimedOut("30m".into())), &results);
    let outcomes: Vec<_> = judgement.tests.iter().map(|test| (test.id(), test.outcome.word())).collect();
    let wanted = [
        ("ptest.zlib.run-ptest", "timed-out"),
        ("a.B.test_c", "timed-out"),
        ("ssh.SSHTest.test_ssh", "passed"),
        ("late.suite", "timed-out"),
    ];
    let wanted: Vec<_> = wanted.into_iter().map(|(id, word)| (id.to_owned(), word)).collect();
    assert_eq!(outcomes, wanted);
}

#[test]
fn a_guest_that_broke_and_was_started_again_has_one_set_of_results() {
    let first = r#""ptestresult.sections": {"bad": {"panic": "Kernel panic - not syncing"}, "zlib": {"log": ""}},
        "ptestresult.zlib.one": {"status": "PASSED"},
        "build_agent_ptest.PtestTest.test_ptests": {"status": "FAILED"}"#;
    let second = r#""ptestresult.sections": {"curl": {"log": ""}}, "ptestresult.curl.two": {"status": "PASSED"},
        "build_agent_ptest.PtestTest.test_ptests": {"status": "PASSED"}"#;
    let both = [runs(first).unwrap(), runs(second).unwrap()].concat();
    let evidence = Evidence { tool: failed(), runs: Ok(both), only_tests_failed: true };
    let judgement = judge(&expected(&[], &["bad", "zlib", "curl"]), &evidence);
    let failed: Vec<_> =
        judgement.tests.iter().filter(|test| !test.outcome.is_success()).map(JudgedTest::id).collect();
    assert_eq!(failed, ["ptest.bad.run-ptest"]);
    assert!(said(&judgement).starts_with("failed: ptest.bad.run-ptest: the kernel crashed"));
}
