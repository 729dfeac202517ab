use super::*;

/// A file with one run that has these results.
fn file(results: &str) -> String {
    let configuration = r#"{"TEST_TYPE": "runtime", "IMAGE_BASENAME": "img", "MACHINE": "qemux86-64"}"#;
    format!(
        r#"{{"runtime_img_qemux86-64_1": {{"configuration": {configuration}, "result": {{{results}}}}}}}"#
    )
}

fn only(results: &str) -> Run {
    let mut runs = parse(&file(results)).unwrap();
    assert_eq!(runs.len(), 1);
    runs.remove(0)
}

#[test]
fn statuses_logs_and_times_are_read() {
    let run = only(
        r#""ssh.SSHTest.test_ssh": {"status": "PASSED", "duration": 1.5, "oetags": ["x"]},
           "ping.PingTest.test_ping": {"status": "FAILED", "log": "no route"},
           "a.B.test_e": {"status": "ERROR"}, "a.B.test_s": {"status": "SKIPPED", "log": "no python3"},
           "a.B.test_x": {"status": "EXPECTEDFAIL"}, "a.B.test_u": {"status": "UNKNOWN"},
           "a.B.test_z": {"status": "passed"}"#,
    );
    assert_eq!((run.image.as_str(), run.machine.as_str()), ("img", "qemux86-64"));
    let statuses: Vec<_> = run.tests.iter().map(|test| (test.id.as_str(), test.status.clone())).collect();
    let wanted = [
        ("a.B.test_e", Status::Error),
        ("a.B.test_s", Status::Skipped),
        ("a.B.test_u", Status::Unknown),
        ("a.B.test_x", Status::ExpectedFailure),
        // Not a status that OE-Core writes.
        ("a.B.test_z", Status::Other("passed".into())),
        ("ping.PingTest.test_ping", Status::Failed),
        ("ssh.SSHTest.test_ssh", Status::Passed),
    ];
    assert_eq!(statuses, wanted);
    assert_eq!((run.tests[5].log.as_str(), run.tests[6].seconds), ("no route", Some(1.5)));
}

#[test]
fn sections_and_their_tests_are_put_together() {
    let run = only(
        r#""ptestresult.sections": {
             "glib-2.0": {"log": "words", "duration": "12", "exitcode": "1"},
             "glib": {"log": "", "duration": 3, "exitcode": "0"},
             "hung": {"log": "", "timeout": true}, "silent": {"log": "BEGIN"},
             "poor": {"log": "", "oom": "Killed process 7 (x)", "panic": "Kernel panic - not syncing"}},
           "ptestresult.glib-2.0.test.one": {"status": "PASSED"},
           "ptestresult.glib.two": {"status": "FAILED"},
           "ptestresult.cut.three": {"status": "SKIPPED"},
           "ptestresult.rawlogs": {"log": "all"},
           "ltpresult.sections": {"mm": {"log": "l", "duration": "1.5"}},
           "ltpresult.mm.mmap01": {"status": "PASSED"}"#,
    );
    let of = |name: &str| run.sections[&SectionId::ptest(name)].clone();
    let glib2 = of("glib-2.0");
    assert_eq!(glib2.tests, [("test.one".to_owned(), Status::Passed)]);
    assert_eq!((glib2.exit.as_deref(), glib2.seconds, glib2.log.as_str()), (Some("1"), Some(12.0), "words"));
    assert_eq!(of("glib").tests, [("two".to_owned(), Status::Failed)]);
    assert_eq!((of("glib").exit, of("glib").seconds), (None, Some(3.0)));
    assert!(of("hung").timed_out && of("hung").ended && of("hung").tests.is_empty());
    assert_eq!(of("silent"), Section { ended: true, log: "BEGIN".into(), ..Section::default() });
    assert_eq!(of("poor").out_of_memory.as_deref(), Some("Killed process 7 (x)"));
    assert_eq!(of("poor").panic.as_deref(), Some("Kernel panic - not syncing"));
    // Results without an end of their section.
    assert!(!of("cut").ended);
    assert_eq!(run.sections[&SectionId { kind: "ltp", name: "mm".into() }].tests.len(), 1);
    assert!(run.tests.is_empty());
}

#[test]
fn every_value_but_false_is_a_timeout() {
    for (value, wanted) in
        [("true", true), ("false", false), ("null", false), ("\"450\"", true), ("0", true), ("[]", true)]
    {
        let run = only(&format!(r#""ptestresult.sections": {{"x": {{"timeout": {value}}}}}"#));
        assert_eq!(run.sections[&SectionId::ptest("x")].timed_out, wanted, "{value}");
    }
}

/// Each of these makes the file unreadable. None of them may give a list of tests.
#[test]
fn malformed_files_are_refused_with_the_key() {
    let good = file(r#""a.B.test_c": {"status": "PASSED"}"#);
    let table: Vec<(String, &str)> = vec![
        (String::new(), "it is not JSON"),
        ("\0".into(), "it is not JSON"),
        ("null".into(), "`the file` is not a table"),
        ("[]".into(), "`the file` is not a table"),
        ("\"PASSED\"".into(), "`the file` is not a table"),
        (r#"{"x": []}"#.into(), "`x` is not a table"),
        (r#"{"x": {}}"#.into(), "`x` has no `configuration`"),
        (
            r#"{"x": {"configuration": {"TEST_TYPE": "runtime", "IMAGE_BASENAME": "i", "MACHINE": "m"}}}"#
                .into(),
            "`x` has no `result`",
        ),
        (r#"{"x": {"configuration": 1, "result": {}}}"#.into(), "`x configuration` is not a table"),
        (r#"{"x": {"configuration": {}, "result": {}}}"#.into(), "has no TEST_TYPE"),
        (r#"{"x": {"configuration": {"TEST_TYPE": 1}, "result": {}}}"#.into(), "has no TEST_TYPE"),
        (good.replace("\"runtime\"", "\"sdk\""), "its TEST_TYPE is `sdk`"),
        (good.replace("\"IMAGE_BASENAME\"", "\"IMAGE\""), "has no IMAGE_BASENAME"),
        (good.replace("\"qemux86-64\"", "null"), "has no MACHINE"),
        (file("").replace("\"result\": {}", "\"result\": []"), "result` is not a table"),
        (format!("{good}{good}"), "it is not JSON"),
        (file(r#""a.B.test_c": "PASSED""#), "`a.B.test_c` is not a table"),
        (file(r#""a.B.test_c": {}"#), "`a.B.test_c` has no status"),
        (file(r#""a.B.test_c": {"status": true}"#), "its status is `true`"),
        (file(r#""a.B.test_c": {"status": null}"#), "its status is `null`"),
        (file(r#""a.B.test_c": {"status": "PASSED", "duration": "1"}"#), "its duration is"),
        (file(r#""a.B.test_c": {"status": "PASSED", "duration": -1}"#), "its duration is"),
        (file(r#""a.B.test_c": {"status": "PASSED", "log": {}}"#), "its log is not text"),
        (file(r#""x": {"status": 1}"#), "`x`: its status is `1`"),
        (file(r#""ptestresult.sections": []"#), "`ptestresult.sections` is not a table"),
        (file(r#""ptestresult.sections": {"x": "y"}"#), "`ptestresult.sections x` is not a table"),
        (file(r#""ptestresult.sections": {"x": {"log": []}}"#), "its `log` is not text"),
        (file(r#""ptestresult.sections": {"x": {"exitcode": true}}"#), "its `exitcode` is not text"),
        (file(r#""ptestresult.sections": {"x": {"duration": "soon"}}"#), "its duration is `soon`"),
        (file(r#""ptestresult.sections": {"x": {"duration": "-3"}}"#), "its duration is `-3`"),
        (file(r#""ptestresult.x": {"status": "PASSED"}"#), "`ptestresult.x` names no test"),
        (file(r#""ptestresult.x.": {"status": "PASSED"}"#), "names no test"),
        (file(r#""ptestresult..x": {"status": "PASSED"}"#), "names no test"),
        (file(r#""ptestresult.x.y": "PASSED""#), "`ptestresult.x.y` is not a table"),
        (file(r#""ptestresult.x.y": {}"#), "`ptestresult.x.y` has no status"),
        (file(r#""ltpresult.x.y": {"status": 3}"#), "its status is `3`"),
    ];
    for (text, wanted) in table {
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(wanted), "{wanted}: {error}\n{text}");
    }
    // A cut file, wherever it is cut.
    for end in 0..good.len() {
        assert!(parse(&good[..end]).is_err(), "{}", &good[..end]);
    }
    assert_eq!(parse("{}").unwrap(), []);
}

#[test]
fn what_a_test_adds_for_itself_is_no_test() {
    let run =
        only(r#""buildstats": {"x": 1}, "notes": "words", "a.b": [1], "a.B.test_c": {"status": "PASSED"}"#);
    assert_eq!(run.tests.len(), 1);
}
