#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn parse(text: &str) -> Parsed {
    let mut parser = OutputParser::new();
    text.lines().for_each(|line| parser.line(line));
    parser.finish()
}

/// `class name verdict`
fn brief(parsed: &Parsed) -> Vec<String> {
    parsed
        .cases
        .iter()
        .map(|case| {
            let verdict = match &case.verdict {
                CaseVerdict::Skipped(reason) => format!("skipped {reason}"),
                other => format!("{other:?}"),
            };
            format!("{} {} {verdict}", case.class, case.name)
        })
        .collect()
}

/// Python 3.11 and later.
const GOOD: &str = r#"INFO: Detected layers:
INFO: meta-good: LayerType.SOFTWARE, /layers/meta-good
INFO: 
INFO: Setting up for meta-good(LayerType.SOFTWARE), /layers/meta-good
INFO: Getting initial bitbake variables ...
INFO: Getting initial signatures ...
INFO: Adding layer meta-good
INFO: Starting to analyze: meta-good
INFO: ----------------------------------------------------------------------
INFO: setUpClass (bsp.BSPCheckLayer)
INFO:  ... skipped "BSPCheckLayer: Layer meta-good isn't BSP one."
INFO: test_parse (common.CommonCheckLayer.test_parse)
INFO:  ... ok
INFO: test_patches_upstream_status (common.CommonCheckLayer.test_patches_upstream_status)
INFO:  ... unexpected success
INFO: test_readme (common.CommonCheckLayer.test_readme)
Layer README references another README; skipping further README checks.
INFO:  ... ok
INFO: setUpClass (distro.DistroCheckLayer)
INFO:  ... skipped "DistroCheckLayer: Layer meta-good isn't Distro one."
INFO: ======================================================================
INFO: UNEXPECTED SUCCESS: test_patches_upstream_status (common.CommonCheckLayer.test_patches_upstream_status)
INFO: ----------------------------------------------------------------------
INFO: Ran 3 tests in 401.780s
INFO: OK
INFO:  (skipped=2, unexpected successes=1)
INFO: 
INFO: Summary of results:
INFO: 
INFO: meta-good ... PASS
"#;

#[test]
fn a_run_that_passes() {
    let parsed = parse(GOOD);
    assert_eq!(parsed.layers, [SeenLayer { name: "meta-good".into(), kind: "SOFTWARE".into() }]);
    assert_eq!(
        brief(&parsed),
        [
            "bsp.BSPCheckLayer setUpClass skipped BSPCheckLayer: Layer meta-good isn't BSP one.",
            "common.CommonCheckLayer test_parse Ok",
            "common.CommonCheckLayer test_patches_upstream_status UnexpectedSuccess",
            "common.CommonCheckLayer test_readme Ok",
            "distro.DistroCheckLayer setUpClass skipped DistroCheckLayer: Layer meta-good isn't Distro one.",
        ]
    );
    assert_eq!(parsed.tests_run, Some(3));
    assert_eq!(parsed.summary, [("meta-good".into(), "PASS".into())]);
    assert!(parsed.traceback.is_empty() && parsed.trouble.is_empty());
}

/// Messages that contain `...` share a line with what is written next.
const BAD: &str = r#"INFO: Starting to analyze: meta-bad
INFO: test_parse (common.CommonCheckLayer.test_parse)
INFO:  ... ERROR
INFO: Traceback (most recent call last):
  File "/oe/scripts/lib/checklayer/cases/common.py", line 44, in test_parse
    check_command('Layer %s failed to parse.' % self.tc.layer['name'],
RuntimeError: Layer meta-bad failed to parse.
Command: bitbake -p
Output:
Loading cache...done.
Parsing recipes...ERROR: ParseError at /layers/meta-bad/recipes-x/x/x_1.0.bb:3: unparsed line: 'foo bar baz'
ERROR: Parsing halted due to errors, see error messages above


INFO: test_readme (common.CommonCheckLayer.test_readme)
INFO:  ... FAIL
INFO: Traceback (most recent call last):
  File "/oe/scripts/lib/checklayer/cases/common.py", line 20, in test_readme
AssertionError: False is not true : Layer doesn't contain a README file.

INFO: test_show_environment (common.CommonCheckLayer.test_show_environment)
INFO:  ... ok
INFO: ======================================================================
INFO: ERROR: test_parse (common.CommonCheckLayer.test_parse)
INFO: ----------------------------------------------------------------------
INFO: Traceback (most recent call last):
RuntimeError: Layer meta-bad failed to parse.
Loading cache...done.
ERROR: Parsing halted due to errors, see error messages above

======================================================================
INFO: FAIL: test_readme (common.CommonCheckLayer.test_readme)
INFO: ----------------------------------------------------------------------
INFO: Traceback (most recent call last):
AssertionError: False is not true : Layer doesn't contain a README file.

INFO: ----------------------------------------------------------------------
INFO: Ran 3 tests in 133.678s
INFO: FAILED
INFO:  (failures=1, errors=1)
INFO: 
INFO: Summary of results:
INFO: 
INFO: meta-bad ... FAIL
"#;

#[test]
fn a_run_that_fails_keeps_each_message_once() {
    let parsed = parse(BAD);
    assert_eq!(
        brief(&parsed),
        [
            "common.CommonCheckLayer test_parse Error",
            "common.CommonCheckLayer test_readme Fail",
            "common.CommonCheckLayer test_show_environment Ok",
        ]
    );
    let parse_error = parsed.cases[0].message.text();
    assert!(parse_error.starts_with("Traceback (most"), "{parse_error}");
    assert!(parse_error.ends_with("ERROR: Parsing halted due to errors, see error messages above"));
    assert_eq!(parse_error.matches("RuntimeError").count(), 1);
    assert_eq!(parsed.cases[1].message.text().lines().count(), 3);
    assert!(parsed.cases[2].message.is_empty());
    assert_eq!(parsed.summary, [("meta-bad".into(), "FAIL".into())]);
    assert_eq!(parsed.tests_run, Some(3));
    assert!(parsed.traceback.is_empty());
}

#[test]
fn older_pythons_name_neither_method_in_the_class_nor_the_set_up() {
    let parsed = parse(
        "INFO: Starting to analyze: meta-x\n\
         INFO: skipped \"BSPCheckLayer: Layer meta-x isn't BSP one.\"\n\
         INFO: test_parse (common.CommonCheckLayer)\nINFO:  ... ok\n\
         INFO: test_signatures (common.CommonCheckLayer)\n\
         INFO:  ... skipped 'Not testing for signature changes in a software layer meta-x.'\n\
         INFO: Not testing for signature changes in a software layer meta-x.\n\
         INFO: test_world (common.CommonCheckLayer)\nINFO:  ... expected failure\n\
         INFO: Traceback (most recent call last):\nAssertionError: no\n\n\
         INFO: ERROR\n\
         INFO: ======================================================================\n\
         INFO: ERROR: setUpClass (distro.DistroCheckLayer)\n\
         INFO: ----------------------------------------------------------------------\n\
         INFO: Traceback (most recent call last):\nKeyError: 'type'\n\n\
         INFO: ----------------------------------------------------------------------\n\
         INFO: Ran 3 tests in 1.000s\n",
    );
    assert_eq!(
        brief(&parsed),
        [
            "BSPCheckLayer setUpClass skipped BSPCheckLayer: Layer meta-x isn't BSP one.",
            "common.CommonCheckLayer test_parse Ok",
            "common.CommonCheckLayer test_signatures skipped Not testing for signature changes in a software layer meta-x.",
            "common.CommonCheckLayer test_world ExpectedFailure",
            "distro.DistroCheckLayer setUpClass Error",
        ]
    );
    assert!(parsed.cases[2].message.is_empty());
    assert_eq!(parsed.cases[3].message.text().lines().last(), Some("AssertionError: no"));
    assert!(parsed.cases[4].message.text().contains("KeyError: 'type'"));
}

#[test]
fn a_held_back_reason_does_not_swallow_the_next_test() {
    let parsed = parse(
        "INFO: Starting to analyze: meta-x\n\
         INFO: setUpClass (bsp.BSPCheckLayer)\n\
         INFO:  ... skipped \"BSPCheckLayer: Layer a...b isn't BSP one.\"test_parse (common.CommonCheckLayer.test_parse)\n\
         INFO:  ... FAIL\n",
    );
    assert_eq!(
        brief(&parsed),
        [
            "bsp.BSPCheckLayer setUpClass skipped BSPCheckLayer: Layer a...b isn't BSP one.",
            "common.CommonCheckLayer test_parse Fail",
        ]
    );
}

#[test]
fn colours_and_carriage_returns_do_not_matter() {
    let parsed = parse(
        "\u{1b}[32mINFO: Starting to analyze: meta-x\u{1b}[0m\r\nINFO: test_parse (a.B)\nINFO:  \u{1b}[1;31m... ok\u{1b}[m\n",
    );
    assert_eq!(brief(&parsed), ["a.B test_parse Ok"]);
}

#[test]
fn what_a_test_prints_cannot_speak_for_the_tool() {
    let parsed = parse(
        "INFO: Starting to analyze: meta-x\n\
         INFO: test_world (common.CommonCheckLayer.test_world)\n\
         zlib:do_compile changed 1 -> 2\n ... ok\nok\nINFO: FAIL: nonsense\n\
         INFO:  ... ERROR\n\
         INFO: Traceback (most recent call last):\n... ok\nERROR: test_readme (common.CommonCheckLayer)\n\
         INFO:  ... ok\n\
         INFO: Summary of results:\nINFO: \nINFO: meta-x ... PASS\n\
         INFO: Summary of results:\nINFO: \nINFO: meta-x ... FAIL\n",
    );
    assert_eq!(brief(&parsed), ["common.CommonCheckLayer test_world Error"]);
    assert_eq!(parsed.summary, [("meta-x".into(), "FAIL".into())]);
}

#[test]
fn the_list_at_the_end_can_only_make_it_worse() {
    let parsed = parse(
        "INFO: Starting to analyze: meta-x\n\
         INFO: test_world (common.CommonCheckLayer)\nINFO:  ... ok\n\
         INFO: ======================================================================\n\
         INFO: ERROR: test_world (common.CommonCheckLayer)\nINFO: why\n",
    );
    assert_eq!(brief(&parsed), ["common.CommonCheckLayer test_world Error"]);
    assert_eq!(parsed.cases[0].message.text(), "why");
}

#[test]
fn a_test_that_was_cut_off_is_unfinished() {
    let mut parser = OutputParser::new();
    for line in ["INFO: Starting to analyze: x", "INFO: test_world (common.CommonCheckLayer)", "some output"]
    {
        parser.line(line);
    }
    assert_eq!(parser.running(), Some("test_world"));
    assert_eq!(brief(&parser.finish()), ["common.CommonCheckLayer test_world Unfinished"]);
}

#[test]
fn what_happens_before_the_tests_is_kept_apart() {
    let parsed = parse(
        "ERROR: meta-y: Can't be DISTRO and BSP type at the same time. Both conf/distro and conf/machine folders were found.\n\
         INFO: meta-z: Doesn't have conf/layer.conf file, so ignoring\n\
         INFO: meta-x already in /b/conf/bblayers.conf. To capture initial signatures, layer under test should not present in BBLAYERS. Please remove meta-x from BBLAYERS.\n\
         INFO: meta-w is already in /b/conf/bblayers.conf\n\
         ERROR: Layer meta-x depends on foo and isn't found.\n\
         INFO: Skipping meta-x due to missing dependencies.\n\
         INFO: Getting initial signatures ...\n\
         INFO: Generating signatures failed. \nCommand: bitbake\nERROR: ParseError at /a.bb:1: no\n\
         INFO: Summary of results:\nINFO: \nINFO: meta-x ... SKIPPED (Missing dependencies)\n",
    );
    assert_eq!(parsed.already_in_bblayers, ["meta-x"]);
    assert_eq!(parsed.trouble.len(), 5);
    assert!(parsed.before_the_layer.text().contains("ParseError at /a.bb:1"));
    assert_eq!(parsed.summary, [("meta-x".into(), "SKIPPED (Missing dependencies)".into())]);
}

#[test]
fn a_traceback_of_the_tool_is_told_from_one_of_a_test() {
    let crash = "Traceback (most recent call last):\n  File \"x\", line 1\nRuntimeError: first\n\n\
                 During handling of the above exception, another exception occurred:\n\n\
                 Traceback (most recent call last):\nRuntimeError: second\n";
    assert!(parse(crash).traceback.text().ends_with("RuntimeError: second"));
    // Inside a test's message, something follows.
    let inside = format!(
        "INFO: Starting to analyze: x\nINFO: test_a (b.C)\nINFO:  ... ERROR\nINFO: x\n{crash}INFO: on\n"
    );
    assert!(parse(&inside).traceback.is_empty());
}

#[test]
fn a_flood_stays_small() {
    let mut parser = OutputParser::new();
    parser.line("INFO: Starting to analyze: x");
    for n in 0..20_000 {
        parser.line(&format!("INFO: test_{n} (a.B)"));
        parser.line("noise");
    }
    let parsed = parser.finish();
    assert_eq!(parsed.cases.len(), MOST_CASES);
}
