#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::output::OutputParser;
use super::*;

const TEXT: &str = "INFO: Starting to analyze: meta-x\nINFO: setUpClass (bsp.BSPCheckLayer)\n\
    INFO:  ... skipped \"BSPCheckLayer: Layer meta-x isn't BSP one.\"\n\
    INFO: test_parse (common.C.test_parse)\nINFO:  ... ok\n\
    INFO: test_world (common.C.test_world)\nINFO:  ... FAIL\n\
    INFO: FAIL: test_world (common.C.test_world)\nINFO: Ran 2 tests in 1.0s\nINFO: FAILED\n\
    INFO:  (failures=1, skipped=1)\nINFO: Summary of results:\nINFO: \nINFO: meta-x ... FAIL\n";

const RUN: &str = r#"{"ran": 2, "successful": false, "failures": ["common.C.test_world"], "errors": [],
    "skipped": ["setUpClass (bsp.BSPCheckLayer)"], "expectedFailures": [], "unexpectedSuccesses": [],
    "successes": ["common.C.test_parse"]}"#;
const END: &str = r#"{"status": 2, "unittest": true, "summary": ["", "meta-x ... FAIL"]}"#;

fn told(text: &str, record: &str) -> Option<String> {
    let mut parser = OutputParser::new();
    text.lines().for_each(|line| parser.line(line));
    contradiction(&parser.finish(), &Record::parse(record.as_bytes()), 2, "meta-x")
}

#[test]
fn text_and_process_have_to_agree() {
    let run = RUN.replace('\n', " ");
    let record = format!("{run}\n{END}\n");
    assert_eq!(told(TEXT, &record), None);
    for (what, text, record) in [
        ("nothing was told", TEXT.to_owned(), String::new()),
        ("no end", TEXT.into(), format!("{run}\n")),
        ("two ends", TEXT.into(), format!("{record}{END}\n")),
        ("no run", TEXT.into(), format!("{END}\n")),
        ("two runs", TEXT.into(), format!("{run}\n{record}")),
        ("nonsense", TEXT.into(), format!("x\n{record}")),
        ("another status", TEXT.into(), record.replace("\"status\": 2", "\"status\": 0")),
        ("a success", TEXT.into(), record.replace("false", "true")),
        ("another count", TEXT.into(), record.replace("\"ran\": 2", "\"ran\": 3")),
        ("another summary", TEXT.into(), record.replace("meta-x ... FAIL", "meta-x ... PASS")),
        (
            "a failure that is not printed",
            TEXT.replace("... FAIL\nINFO: FAIL", "... ok\nINFO: x"),
            record.clone(),
        ),
        ("a test that is not printed", TEXT.replace("test_parse", "test_other"), record.clone()),
        (
            "a printed test that did not run",
            format!("{TEXT}INFO: FAIL: test_z (common.C)\n"),
            record.replace("[\"common.C.test_world", "[\"common.C.test_world\", \"setUpClass (x.Y)"),
        ),
    ] {
        assert!(told(&text, &record).is_some(), "{what}");
    }
    // A stand-in for the tool without unittest.
    let other = END.replace("true", "false");
    assert_eq!(told(TEXT, &other), None);
}

/// Runs a script as the agent does, and gives its output before the sentinel, its status and what it told.
fn run(script: &str) -> (String, Option<i32>, Record) {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("yocto-check-layer");
    fs_err::write(&path, format!("#!/usr/bin/env python3\n{script}")).unwrap();
    let mut command = Command::new(&path, top.path(), "x").args(["one", "two words"]);
    let recorder = Recorder::attach(&mut command).unwrap().unwrap();
    let stdin = command.stdin.take().unwrap().try_clone().unwrap();
    let child = std::process::Command::new(&command.launcher[0])
        .args(command.launcher[1..].iter().chain(&command.argv))
        .stdin(stdin)
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    let output = String::from_utf8(child.stdout).unwrap();
    let output = output.split(&recorder.sentinel).next().unwrap_or_default().to_owned();
    (output, child.status.code(), recorder.read())
}

#[test]
fn the_script_does_not_notice_it() {
    let (output, status, record) = run(
        "import os, sys, subprocess\nprint(sys.argv[1:], __name__, os.path.basename(__file__), sys.stdin.read())\n\
         print(sys.path[0] == os.path.dirname(os.path.realpath(__file__)))\nsys.stdout.flush()\n\
         subprocess.run('ls -l /proc/self/fd | grep -c socket; readlink /proc/self/fd/0', shell=True)\nsys.exit(2)\n",
    );
    assert_eq!(output, "['one', 'two words'] __main__ yocto-check-layer \nTrue\n0\n/dev/null\n");
    assert_eq!(status, Some(2));
    assert_eq!(record.ends, [EndOfTool { status: 2, unittest: false, summary: Vec::new() }]);
    assert!(record.runs.is_empty() && !record.nonsense);
}

#[test]
fn unittests_own_results_arrive() {
    let (_, status, record) = run("import io, logging, os, sys, unittest\nclass T(unittest.TestCase):\n\
         \x20 def test_ok(self): pass\n  def test_bad(self): self.fail('x')\n\
         \x20 def test_sub(self):\n    with self.subTest(i=1): self.fail('y')\n\
         \x20 @unittest.expectedFailure\n  def test_known(self): self.fail('z')\n\
         suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n\
         unittest.TextTestRunner(stream=io.StringIO(), verbosity=2).run(suite)\n\
         logger = logging.getLogger('yocto-check-layer')\nlogger.setLevel(logging.INFO)\n\
         logger.info('before')\nlogger.info('Summary of results:')\nlogger.info('meta-x ... FAIL')\n\
         if os.fork() == 0:\n  try: channel.send(b'forged')\n  except Exception: os._exit(0)\n  os._exit(1)\n\
         sys.exit(1 if os.wait()[1] == 0 else 9)\n");
    assert_eq!(status, Some(1), "a child that only forks has lost the socket");
    let [run] = record.runs.as_slice() else { panic!("{record:?}") };
    assert_eq!((run.ran, run.successful), (4, false));
    assert_eq!(run.results().values().copied().collect::<Vec<_>>(), ["failed", "expected to fail", "failed"]);
    assert!(run.results().contains_key("__main__.T.test_sub"), "{run:?}");
    assert_eq!(record.ends[0].summary, ["meta-x ... FAIL"]);
}

#[test]
fn a_script_that_breaks_or_leaves_is_seen() {
    let (_, status, record) = run("raise KeyError('x')\n");
    assert_eq!((status, record.ends[0].status), (Some(1), 1));
    let (_, status, record) = run("import sys\nsys.exit('words')\n");
    assert_eq!((status, record.ends[0].status), (Some(1), 1));
    // Nothing is told of it, so nothing is believed.
    let (_, status, record) = run("import os\nos._exit(0)\n");
    assert_eq!((status, record.ends.len()), (Some(0), 0));
}

#[test]
fn what_a_process_prints_that_was_left_behind_is_not_the_tools() {
    let (output, status, record) = run(
        "import os, sys, time\nif os.fork() == 0:\n  time.sleep(0.2)\n  print('INFO: meta-x ... PASS')\n  sys.exit(3)\n\
         print('INFO: Summary of results:')\n",
    );
    assert_eq!(output, "INFO: Summary of results:\n");
    assert_eq!((status, record.ends.len(), record.ends[0].status), (Some(0), 1, 0), "{record:?}");
    let mut parser = OutputParser::until(Some("the end 4711".into()));
    TEXT.lines().chain(["xthe end 4711", "INFO: Ran 9 tests in 1s"]).for_each(|line| parser.line(line));
    assert_eq!(parser.finish().tests_run, Some(2));
}

#[test]
fn only_python_scripts_are_recorded() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("tool");
    for (text, wanted) in [("#!/usr/bin/env python3\nx", true), ("#!/bin/sh\n", false), ("", false)] {
        fs_err::write(&path, text).unwrap();
        let mut command = Command::new(&path, top.path(), "x");
        assert_eq!(Recorder::attach(&mut command).unwrap().is_some(), wanted, "{text}");
        assert_eq!(command.stdin.is_some(), wanted);
    }
}
