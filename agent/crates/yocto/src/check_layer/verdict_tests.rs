#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::output::OutputParser;
use super::*;
use agent_types::error::Class;

fn expected() -> Vec<ExpectedCase> {
    let case = |class: &str, name: &str| ExpectedCase {
        class: class.into(),
        name: name.into(),
        expected_failure: false,
    };
    vec![
        case("bsp.BSPCheckLayer", "test_machine_world"),
        case("common.CommonCheckLayer", "test_parse"),
        case("common.CommonCheckLayer", "test_readme"),
    ]
}

const HEAD: &str = "INFO: Starting to analyze: meta-x\nINFO: setUpClass (bsp.BSPCheckLayer)\n\
                    INFO:  ... skipped \"BSPCheckLayer: Layer meta-x isn't BSP one.\"\n";

/// A whole run as Python prints it: the statuses of the two common tests and the word of the summary.
fn run(parse: &str, readme: &str, summary: &str) -> String {
    let tests = [("test_parse", parse), ("test_readme", readme)];
    let ran: Vec<_> = tests.into_iter().filter(|(_, status)| !status.is_empty()).collect();
    let why = "INFO: Traceback (most recent call last):\nAssertionError: False is not true : bad\n\n";
    let mut text = HEAD.to_owned();
    for (name, status) in &ran {
        let why = if matches!(*status, "FAIL" | "ERROR") { why } else { "" };
        text += &format!("INFO: {name} (common.CommonCheckLayer.{name})\nINFO:  ... {status}\n{why}");
    }
    if ran.is_empty() && summary != "FAIL" {
        text.clear();
    } else {
        text += &end_of_tests(&ran, why);
    }
    if !summary.is_empty() {
        text += &format!("INFO: Summary of results:\nINFO: \nINFO: meta-x ... {summary}\n");
    }
    text
}

/// The list of failures, the number of tests and unittest's result.
fn end_of_tests(ran: &[(&str, &str)], why: &str) -> String {
    let mut text = String::new();
    let mut counts = Vec::new();
    for (word, name) in [("ERROR", "errors"), ("FAIL", "failures")] {
        let of: Vec<_> = ran.iter().filter(|(_, status)| *status == word).collect();
        for (test, _) in &of {
            text +=
                &format!("INFO: {}\nINFO: {word}: {test} (common.CommonCheckLayer.{test})\n", "=".repeat(70));
            text += &format!("INFO: {}\n{why}", "-".repeat(70));
        }
        if !of.is_empty() {
            counts.insert(0, format!("{name}={}", of.len()));
        }
    }
    let result = if counts.is_empty() { "OK" } else { "FAILED" };
    counts.push("skipped=1".into());
    text + &format!(
        "INFO: {}\nINFO: Ran {} tests in 1.0s\nINFO: {result}\nINFO:  ({})\n",
        "-".repeat(70),
        ran.len(),
        counts.join(", ")
    )
}

fn judged(text: &str, end: ExitReason) -> Verdict {
    let mut parser = OutputParser::new();
    text.lines().for_each(|line| parser.line(line));
    judge(&expected(), &parser.finish(), end, "meta-x")
}

/// `passed`, `failed`, … or `error CLASS`.
fn word(verdict: &Verdict) -> String {
    match &verdict.outcome {
        Ok(outcome) => outcome.word().to_owned(),
        Err(error) => format!("error {:?}", error.class),
    }
}

#[test]
fn the_three_witnesses_have_to_agree() {
    let exit = ExitReason::Exited;
    let table = [
        (run("ok", "ok", "PASS"), exit(0), "passed"),
        (run("ok", "unexpected success", "PASS"), exit(0), "passed"),
        (run("ok", "expected failure", "PASS"), exit(0), "passed"),
        (run("ok", "skipped 'x'", "PASS"), exit(0), "passed"),
        (run("ok", "FAIL", "FAIL"), exit(2), "failed"),
        (run("ERROR", "", "FAIL"), exit(2), "failed"),
        // Contradictions, none of which is a pass.
        (run("ok", "ok", "PASS"), exit(2), "error Internal"),
        (run("ok", "ok", "PASS"), exit(1), "error Internal"),
        (run("ok", "ok", "PASS"), exit(3), "error Internal"),
        (run("ok", "ok", ""), exit(0), "error Internal"),
        (run("ok", "ok", ""), exit(2), "error Internal"),
        (run("ok", "ok", "FAIL"), exit(0), "error Internal"),
        (run("ok", "ok", "FAIL"), exit(2), "error Internal"),
        (run("ok", "FAIL", "PASS"), exit(0), "error Internal"),
        (run("ok", "", "PASS"), exit(0), "error Internal"),
        (run("skipped 'x'", "skipped 'x'", "PASS"), exit(0), "failed"),
        (run("ok", "ok", "SKIPPED (Unknown)"), exit(0), "error Internal"),
        (run("ok", "ok", "SOMETHING"), exit(2), "error Internal"),
        (String::new(), exit(0), "error Internal"),
        (String::new(), exit(1), "error Internal"),
        (run("ok", "ok", "PASS").replace("meta-x ...", "meta-y ..."), exit(0), "error Internal"),
        (run("ok", "ok", "PASS").replace("Ran 2 tests", "Ran 0 tests"), exit(0), "error Internal"),
        // Not tested is not passed.
        (run("", "", "SKIPPED (Missing dependencies)"), exit(2), "failed"),
        (run("", "", "FAIL (Generating world signatures)"), exit(2), "failed"),
        (run("ok", "ok", "PASS"), exit(127), "error Machine"),
        // Ends that the tool did not choose.
        (run("ok", "ok", "PASS"), exit(137), "error Machine"),
        (run("ok", "ok", "PASS"), ExitReason::Signalled(9), "error Machine"),
        (run("ok", "ok", "PASS"), ExitReason::Cancelled, "cancelled"),
        (run("ok", "", ""), ExitReason::TimedOut, "timed-out"),
        (run("ok", "", ""), ExitReason::Stalled(Duration::from_secs(60)), "timed-out"),
    ];
    for (text, end, wanted) in table {
        let verdict = judged(&text, end);
        assert_eq!(word(&verdict), wanted, "{end:?}\n{text}\n{:?}", verdict.outcome);
    }
}

/// The tool's exit status is 0 in all of them, and its own output contradicts the pass.
#[test]
fn no_contradiction_passes() {
    let good = run("ok", "ok", "PASS");
    assert_eq!(word(&judged(&good, ExitReason::Exited(0))), "passed", "{good}");
    let with = |old: &str, new: &str| {
        assert!(good.contains(old), "{old}");
        good.replacen(old, new, 1)
    };
    let readme = "INFO: test_readme (common.CommonCheckLayer.test_readme)\nINFO:  ... ok\n";
    let parse = readme.replace("readme", "parse");
    let ran = "INFO: Ran 2 tests in 1.0s\n";
    let result = "INFO: OK\nINFO:  (skipped=1)\n";
    let summary = "INFO: Summary of results:\nINFO: \nINFO: meta-x ... PASS\n";
    let table = [
        ("unittest failed", with(result, "INFO: FAILED\nINFO:  (failures=1)\n")),
        ("unittest failed, on one line", with(result, "INFO: FAILED (failures=1)\n")),
        ("unittest failed without counts", with(result, "INFO: FAILED\n")),
        ("counts of failures after OK", with("(skipped=1)", "(errors=1, skipped=1)")),
        ("no result", with(result, "")),
        ("two results", with(result, &format!("{result}INFO: OK\n"))),
        ("a failure, then its good result", with(ran, &format!("INFO: FAILED\nINFO:  (failures=1)\n{ran}"))),
        ("more tests than shown", with("Ran 2", "Ran 3")),
        ("fewer tests than shown", with("Ran 2", "Ran 1")),
        ("no number of tests", with(ran, "")),
        ("two numbers of tests", with(ran, &format!("{ran}INFO: Ran 9 tests in 1.0s\n"))),
        ("two summaries", format!("{good}{summary}")),
        (
            "a bad summary before the good one",
            with(summary, &format!("{}{summary}", summary.replace("PASS", "FAIL"))),
        ),
        ("a good and a bad line of the summary", format!("{good}INFO: meta-x ... FAIL\n")),
        ("ok, then FAIL", with(readme, &format!("{readme}INFO:  ... FAIL\n"))),
        ("FAIL, then ok", with(readme, &readme.replace("ok", "FAIL\nINFO:  ... ok"))),
        ("a test that ran twice", with(readme, &format!("{readme}{readme}")).replace("Ran 2", "Ran 3")),
        (
            "a listed failure",
            with(readme, &format!("{readme}INFO: FAIL: test_readme (common.CommonCheckLayer)\n")),
        ),
        (
            "a listed failure at the end",
            with(result, &format!("{result}INFO: FAIL: test_readme (common.CommonCheckLayer)\n")),
        ),
        (
            "a listed failure of a test that never ran",
            with(ran, &format!("INFO: FAIL: test_z (common.C)\n{ran}")),
        ),
        (
            "a subtest that failed",
            with(ran, &format!("INFO: FAIL: test_parse (common.CommonCheckLayer.test_parse) (i=1)\n{ran}")),
        ),
        ("a test after the end", with(result, &format!("{result}INFO: test_z (common.C)\nINFO:  ... ok\n"))),
        ("all tests fail as expected", run("expected failure", "expected failure", "PASS")),
        ("expected failures and skips", run("expected failure", "skipped 'x'", "PASS")),
        (
            "a traceback after the summary",
            format!("{good}Traceback (most recent call last):\n  File \"x\"\nKeyError: 'x'\n"),
        ),
        (
            "a traceback after the summary, and more",
            format!("{good}Traceback (most recent call last):\nKeyError: 'x'\nINFO: bye\n"),
        ),
        ("no result of a test", with(&parse, &parse.replace("INFO:  ... ok\n", ""))),
        ("the end comes first", with(HEAD, &format!("{ran}{result}{HEAD}"))),
    ];
    for (what, text) in table {
        let verdict = judged(&text, ExitReason::Exited(0));
        assert_eq!(word(&verdict), "error Internal", "{what}\n{text}\n{:?}", verdict.outcome);
        assert!(!verdict.by_cases, "{what}: nothing may be forgiven");
    }
}

/// Before Python 3.11: no method behind the class, no name for the set-up of a class.
#[test]
fn older_pythons_agree_with_themselves() {
    let old = |text: String| {
        text.replace("INFO: setUpClass (bsp.BSPCheckLayer)\nINFO:  ... skipped", "INFO: skipped")
            .replace("CommonCheckLayer.test_parse)", "CommonCheckLayer)")
            .replace("CommonCheckLayer.test_readme)", "CommonCheckLayer)")
    };
    for (text, status, wanted) in [
        (run("ok", "ok", "PASS"), 0, "passed"),
        (run("FAIL", "ERROR", "FAIL"), 2, "failed"),
        (run("FAIL", "ok", "FAIL"), 2, "failed"),
        (run("FAIL", "ok", "PASS"), 0, "error Internal"),
    ] {
        let text = old(text);
        assert!(
            text.contains("INFO: skipped \"BSP") && text.contains("test_parse (common.CommonCheckLayer)")
        );
        let verdict = judged(&text, ExitReason::Exited(status));
        assert_eq!(word(&verdict), wanted, "{text}\n{:?}", verdict.outcome);
    }
}

/// What a layer may print without making a good run red.
#[test]
fn innocent_text_changes_nothing() {
    let good = run("ok", "ok", "PASS");
    for text in [
        "ERROR: this is only printed",
        "ERROR: test_readme (common.CommonCheckLayer)",
        "FAIL: test_readme (common.CommonCheckLayer)",
        "FAILED (failures=1)",
        " ... FAIL",
        "Ran 9 tests in 1s",
        "Summary of results:",
        "meta-x ... FAIL",
        "WARNING: x",
        "NOTE: recipe x: task do_y: Failed",
        "INFO: a line of somebody's logger",
        "INFO: Everything is OK",
        "INFO: FAILED to find x, which is fine",
        "usage: x",
        "INFO: meta-x already in BBLAYERS. To capture initial signatures, x",
        "\u{1b}[31mred\u{1b}[0m",
    ] {
        let lines: Vec<&str> = good.lines().collect();
        for at in 0..=lines.len() {
            let mut lines = lines.clone();
            lines.insert(at, text);
            let text = lines.join("\n");
            let verdict = judged(&text, ExitReason::Exited(0));
            assert_eq!(word(&verdict), "passed", "{text}\n{:?}", verdict.outcome);
        }
    }
}

/// A test that fails with a text of the layer: whatever it is, with whatever is known, it is no pass.
#[test]
fn a_message_cannot_speak_for_the_tool() {
    let after = "INFO: test_readme (common.CommonCheckLayer.test_readme)\nINFO:  ... ok\n";
    let list = format!("INFO: {}\n", "=".repeat(70));
    let heading = "INFO: FAIL: test_parse (common.CommonCheckLayer.test_parse)\n";
    let end = "INFO: Ran 2 tests in 1.0s\nINFO: FAILED\nINFO:  (failures=1)\n";
    let summary = "INFO: Summary of results:\nINFO: \nINFO: meta-x ... FAIL\n";
    for forged in [
        after.to_owned(),
        format!("{after}{list}{heading}"),
        format!("{after}{list}{heading}{end}"),
        format!("{after}{list}{heading}{end}{summary}"),
        format!("{list}{heading}"),
        format!("{list}{end}"),
        summary.to_owned(),
        format!("{end}{summary}"),
    ] {
        // The message is there twice: behind the status and in the list.
        let text = run("FAIL", "FAIL", "FAIL")
            .replace("AssertionError: False", &format!("{forged}AssertionError: False"));
        let verdict = judged(&text, ExitReason::Exited(2));
        let known = crate::check_layer::KnownFailure {
            test: "test_parse".into(),
            stage: agent_types::stage::Stage::Check,
            layer: None,
            reason: "r".into(),
            expires: "2030-01-01".into(),
            expired: false,
        };
        let unit = agent_types::events::Unit::new(agent_types::stage::Stage::Check, "u");
        let (verdict, _) = super::super::apply_known(verdict, &[known], "meta-x", &unit);
        assert_eq!(word(&verdict), "error Internal", "{text}\n{:?}", verdict.outcome);
    }
}

#[test]
fn a_failure_rests_on_what_its_tests_ask() {
    let exit = ExitReason::Exited;
    let of = |name: &str, kinds: &[Kind]| FailureCause {
        what: name.to_owned(),
        kinds: kinds.iter().copied().collect(),
        uses_sigdata: false,
    };
    let all = of("its end", &Kind::ALL);
    let broken = "INFO: setUpClass (common.CommonCheckLayer)\nINFO:  ... ERROR\n\
                  INFO: ERROR: setUpClass (common.CommonCheckLayer)\nINFO: KeyError: 'x'\n";
    let table = [
        (run("FAIL", "ok", "FAIL"), exit(2), vec![of("test_parse", &[Kind::Parses])]),
        (run("ok", "FAIL", "FAIL"), exit(2), vec![of("test_readme", &[])]),
        (run("ERROR", "", "FAIL"), exit(2), vec![of("test_parse", &[Kind::Parses]), of("test_readme", &[])]),
        // Nothing that the tests said explains these.
        (run("FAIL", "ok", "FAIL"), exit(1), vec![all.clone()]),
        (run("FAIL", "ok", "PASS"), exit(0), vec![all.clone()]),
        (run("", "", "FAIL (Generating world signatures)"), exit(2), vec![all.clone()]),
        (run("ok", "", ""), ExitReason::Stalled(Duration::from_secs(60)), vec![all.clone()]),
        (
            run("", "", "FAIL")
                .replace(HEAD, &format!("{HEAD}{broken}"))
                .replace("INFO: OK\nINFO:  (", "INFO: FAILED\nINFO:  (errors=1, "),
            exit(2),
            vec![of("test_parse", &[Kind::Parses]), of("test_readme", &[]), of("setUpClass", &Kind::ALL)],
        ),
    ];
    for (text, end, wanted) in table {
        assert_eq!(judged(&text, end).failure_causes(), wanted, "{end:?}\n{text}");
    }
}

/// The output ends at the stop: what was printed after it is no verdict, and what was said before it stays.
#[test]
fn a_stopped_run_has_failed_only_where_a_test_failed_before() {
    let silent = Duration::from_secs(60);
    let table = [
        (ExitReason::Cancelled, "cancelled"),
        (ExitReason::TimedOut, "timed-out"),
        (ExitReason::Stalled(silent), "timed-out"),
    ];
    for (end, word) in table {
        let whole = run("FAIL", "ok", "");
        for (cut, wanted) in [
            // Before any test, in the second one, and after it.
            (0, [word, word, word]),
            (whole.find("test_readme").unwrap(), ["skipped", "failed", word]),
            (whole.find("INFO: Ran").unwrap(), ["skipped", "failed", "passed"]),
        ] {
            let verdict = judged(&whole[..cut], end);
            let words: Vec<_> = verdict.cases.iter().map(|case| case.outcome.word()).collect();
            assert_eq!(words, wanted, "{end:?} after {cut} bytes");
            assert_eq!(verdict.outcome.unwrap().word(), word);
        }
    }
}

#[test]
fn without_expected_tests_nothing_passes() {
    let parsed = Parsed { summary: vec![("meta-x".into(), "PASS".into())], ..Parsed::default() };
    let verdict = judge(&[], &parsed, ExitReason::Exited(0), "meta-x");
    assert!(verdict.outcome.is_err(), "{verdict:?}");
}

#[test]
fn every_expected_test_has_an_outcome() {
    let verdict = judged(&run("ok", "FAIL", "FAIL"), ExitReason::Exited(2));
    let outcomes: Vec<_> = verdict.cases.iter().map(|case| case.outcome.clone()).collect();
    assert_eq!(
        outcomes,
        [
            Outcome::Skipped("BSPCheckLayer: Layer meta-x isn't BSP one.".into()),
            Outcome::Passed,
            Outcome::Failed("bad".into()),
        ]
    );
    assert_eq!(verdict.outcome, Ok(Outcome::Failed("test_readme: bad".into())));
    assert_eq!(verdict.tool_verdict, "FAIL, exit status 2");
    assert!(verdict.by_cases);

    // Cut off: what was seen keeps its outcome.
    let verdict = judged(&run("ok", "", ""), ExitReason::Cancelled);
    assert_eq!(verdict.cases[1].outcome, Outcome::Passed);
    assert!(matches!(verdict.cases[2].outcome, Outcome::Cancelled(_)));
    assert!(!verdict.by_cases);
}

#[test]
fn a_class_that_breaks_stands_for_its_tests() {
    let text = run("ok", "ok", "FAIL")
        .replace("skipped \"BSPCheckLayer: Layer meta-x isn't BSP one.\"", "ERROR\nINFO: KeyError: 'x'")
        .replace(
            "INFO: ----",
            "INFO: ====\nINFO: ERROR: setUpClass (bsp.BSPCheckLayer)\nINFO: KeyError: 'x'\nINFO: ----",
        )
        .replace("INFO: OK\nINFO:  (skipped=1)", "INFO: FAILED\nINFO:  (errors=1)");
    let verdict = judged(&text, ExitReason::Exited(2));
    assert_eq!(word(&verdict), "failed");
    assert!(matches!(&verdict.cases[0].outcome, Outcome::NotRun(why) if why.contains("setUpClass")));
    assert_eq!(verdict.cases[3].id(), "bsp.BSPCheckLayer.setUpClass");
    assert_eq!(verdict.cases[3].outcome, Outcome::Failed("'x'".into()));
}

#[test]
fn a_test_that_shows_up_twice_counts_by_the_worse() {
    let twice = run("FAIL", "ok", "FAIL")
        .replace("INFO: Ran", "INFO: test_parse (common.CommonCheckLayer)\nINFO:  ... ok\nINFO: Ran");
    let verdict = judged(&twice, ExitReason::Exited(2));
    assert!(matches!(verdict.cases[1].outcome, Outcome::Failed(_)));
    assert_eq!(verdict.cases.len(), 3);
}

#[test]
fn stops_before_the_tests_say_what_to_do() {
    let table = [
        (
            "INFO: meta-x already in /b/conf/bblayers.conf. To capture initial signatures, layer under test should not present in BBLAYERS.\n",
            0,
            "already in BBLAYERS",
        ),
        (
            "ERROR: Layer meta-x depends on foo and isn't found.\nINFO: Skipping meta-x due to missing dependencies.\n\
             INFO: Summary of results:\nINFO: \nINFO: meta-x ... SKIPPED (Missing dependencies)\n",
            2,
            "depends on foo",
        ),
        (
            "INFO: Getting initial signatures ...\nINFO: Generating signatures failed.\nOutput:\nERROR: ParseError at /o/a.bb:1: no\n\
             INFO: Summary of results:\nINFO: \nINFO: meta-x ... FAIL (Generating world signatures)\n",
            2,
            "before `meta-x` is added, so that it was not tested: ParseError at /o/a.bb:1",
        ),
        ("ERROR: Failed to detect layers\n", 1, "Failed to detect layers"),
        (
            "ERROR: Collection a found multiple times: ^/a/, ^/b/\nERROR: Failed layer validation\n",
            1,
            "Collection a found multiple times",
        ),
        ("ERROR: meta-x: Don't have conf/layer.conf file.\n", 1, "conf/layer.conf"),
        ("ERROR: meta-x: Can't be DISTRO and BSP type at the same time.\n", 1, "DISTRO and BSP"),
        (
            "ERROR: ParseError at /l/meta-x/conf/layer.conf:3: unparsed line: 'x'\nTraceback (most recent call last):\n  File \"x\"\n\
             RuntimeError: Parsing of layer.conf from layer: /l/meta-x failed\n",
            1,
            "conf/layer.conf does not parse: ParseError at /l/meta-x/conf/layer.conf:3",
        ),
    ];
    for (text, code, wanted) in table {
        let verdict = judged(text, ExitReason::Exited(code));
        let Ok(Outcome::Failed(why)) = &verdict.outcome else { panic!("{text}\n{verdict:?}") };
        assert!(why.contains(wanted), "{why}");
        assert!(verdict.cases.iter().all(|case| matches!(case.outcome, Outcome::NotRun(_))), "{verdict:?}");
        assert!(!verdict.by_cases);
    }
}

#[test]
fn a_crash_is_not_the_layers_fault() {
    let crash = |cause: &str| format!("Traceback (most recent call last):\n  File \"x\", line 1\n{cause}\n");
    let table = [
        (crash("KeyError: 'x'"), 1, Class::Internal, "crashed: KeyError: 'x'"),
        (
            crash("RuntimeError: Parsing of layer.conf from layer: /r/meta-y failed"),
            1,
            Class::Usage,
            "dependency `/r/meta-y`",
        ),
        ("usage: yocto-check-layer [-o X]\n".to_owned(), 2, Class::Internal, "command line"),
    ];
    for (text, code, class, wanted) in table {
        let error = judged(&text, ExitReason::Exited(code)).outcome.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(wanted), "{error}");
    }
    let killed = judged("", ExitReason::Signalled(9)).outcome.unwrap_err();
    assert!(killed.hint.unwrap().contains("memory"));
}
