#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::output::OutputParser;
use super::*;
use crate::error::Class;

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

/// A whole run: the statuses of the two common tests and the word of the summary.
fn run(parse: &str, readme: &str, summary: &str) -> String {
    let test = |name: &str, status: &str| {
        if status.is_empty() {
            return String::new();
        }
        let why = if status == "FAIL" {
            "INFO: Traceback (most recent call last):\nAssertionError: False is not true : bad\n\n"
        } else {
            ""
        };
        format!("INFO: {name} (common.CommonCheckLayer.{name})\nINFO:  ... {status}\n{why}")
    };
    let summary = if summary.is_empty() {
        String::new()
    } else {
        format!("INFO: Summary of results:\nINFO: \nINFO: meta-x ... {summary}\n")
    };
    format!(
        "{HEAD}{}{}INFO: Ran 2 tests in 1.0s\n{summary}",
        test("test_parse", parse),
        test("test_readme", readme)
    )
}

fn judged(text: &str, end: End) -> Verdict {
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
    let exit = End::Exited;
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
        (run("ok", "ok", "PASS"), End::Signalled(9), "error Machine"),
        (run("ok", "ok", "PASS"), End::Cancelled, "cancelled"),
        (run("ok", "", ""), End::TimedOut, "timed-out"),
        (run("ok", "", ""), End::Stalled(Duration::from_secs(60)), "timed-out"),
    ];
    for (text, end, wanted) in table {
        let verdict = judged(&text, end);
        assert_eq!(word(&verdict), wanted, "{end:?}\n{text}\n{:?}", verdict.outcome);
    }
}

#[test]
fn a_failure_rests_on_what_its_tests_ask() {
    let exit = End::Exited;
    let of = |name: &str, kinds: &[Kind]| Ground {
        what: name.to_owned(),
        kinds: kinds.iter().copied().collect(),
        compares: false,
    };
    let all = of("its end", &Kind::ALL);
    let broken = "INFO: setUpClass (common.CommonCheckLayer)\nINFO:  ... ERROR\n";
    let table = [
        (run("FAIL", "ok", "FAIL"), exit(2), vec![of("test_parse", &[Kind::Parses])]),
        (run("ok", "FAIL", "FAIL"), exit(2), vec![of("test_readme", &[])]),
        (run("ERROR", "", "FAIL"), exit(2), vec![of("test_parse", &[Kind::Parses]), of("test_readme", &[])]),
        // Nothing that the tests said explains these.
        (run("FAIL", "ok", "FAIL"), exit(1), vec![all.clone()]),
        (run("FAIL", "ok", "PASS"), exit(0), vec![all.clone()]),
        (run("", "", "FAIL (Generating world signatures)"), exit(2), vec![all.clone()]),
        (run("ok", "", ""), End::Stalled(Duration::from_secs(60)), vec![all.clone()]),
        (
            run("", "", "FAIL").replace(HEAD, &format!("{HEAD}{broken}")),
            exit(2),
            vec![of("test_parse", &[Kind::Parses]), of("test_readme", &[]), of("setUpClass", &Kind::ALL)],
        ),
    ];
    for (text, end, wanted) in table {
        assert_eq!(judged(&text, end).grounds(), wanted, "{end:?}\n{text}");
    }
}

/// The output ends at the stop: what was printed after it is no verdict, and what was said before it stays.
#[test]
fn a_stopped_run_has_failed_only_where_a_test_failed_before() {
    let silent = Duration::from_secs(60);
    let table =
        [(End::Cancelled, "cancelled"), (End::TimedOut, "timed-out"), (End::Stalled(silent), "timed-out")];
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
    let verdict = judge(&[], &parsed, End::Exited(0), "meta-x");
    assert!(verdict.outcome.is_err(), "{verdict:?}");
}

#[test]
fn every_expected_test_has_an_outcome() {
    let verdict = judged(&run("ok", "FAIL", "FAIL"), End::Exited(2));
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
    let verdict = judged(&run("ok", "", ""), End::Cancelled);
    assert_eq!(verdict.cases[1].outcome, Outcome::Passed);
    assert!(matches!(verdict.cases[2].outcome, Outcome::Cancelled(_)));
    assert!(!verdict.by_cases);
}

#[test]
fn a_class_that_breaks_stands_for_its_tests() {
    let text = run("ok", "ok", "FAIL")
        .replace("skipped \"BSPCheckLayer: Layer meta-x isn't BSP one.\"", "ERROR\nINFO: KeyError: 'x'");
    let verdict = judged(&text, End::Exited(2));
    assert_eq!(word(&verdict), "failed");
    assert!(matches!(&verdict.cases[0].outcome, Outcome::NotRun(why) if why.contains("setUpClass")));
    assert_eq!(verdict.cases[3].id(), "bsp.BSPCheckLayer.setUpClass");
    assert_eq!(verdict.cases[3].outcome, Outcome::Failed("'x'".into()));
}

#[test]
fn a_test_that_shows_up_twice_counts_by_the_worse() {
    let twice = run("FAIL", "ok", "FAIL")
        .replace("INFO: Ran", "INFO: test_parse (common.CommonCheckLayer)\nINFO:  ... ok\nINFO: Ran");
    let verdict = judged(&twice, End::Exited(2));
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
        let verdict = judged(text, End::Exited(code));
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
        let error = judged(&text, End::Exited(code)).outcome.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(wanted), "{error}");
    }
    let killed = judged("", End::Signalled(9)).outcome.unwrap_err();
    assert!(killed.hint.unwrap().contains("memory"));
}
