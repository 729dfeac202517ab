//! `[device]`: requests to labs, and their results. The labs here are stand-ins: the test writes what a lab would write.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use build_agent_tests::{Ran, Sandbox, commit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A job that builds `img`, checks nothing, and has it tested on a device.
pub fn requester(test: &str, lines: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    let text = text.replace("bitbake_layers = [\"show-layers\"]\n", "");
    let device = format!("[device]\npool = \"pi\"\nimage = \"img\"\nfiles = [\"img*.bin\"]\n{lines}\n");
    sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"img\"]\n\n{device}"));
    Some(sandbox)
}

pub fn run(sandbox: &Sandbox, more: &[&str]) -> Ran {
    let mut command = sandbox.run_command();
    command.args(more);
    sandbox.start(command).wait()
}

/// The only unit of the device.
fn unit(sandbox: &Sandbox) -> (String, String) {
    let result = sandbox.result();
    let units = result["units"].as_array().unwrap();
    let unit = units.iter().find(|unit| unit["name"] == "device pi (qemux86-64) img").unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&unit["outcome"]), text(&unit["reason"]))
}

pub fn requests(sandbox: &Sandbox) -> Vec<PathBuf> {
    let all = std::fs::read_dir(sandbox.artifacts().join("devices/v1/requests"));
    let mut all: Vec<PathBuf> = all.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    all.retain(|request| request.join("request.json").exists());
    all.sort();
    all
}

pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_request_has_the_files_of_the_build_and_the_job_does_not_wait() {
    let test = "a_request_has_the_files_of_the_build_and_the_job_does_not_wait";
    let Some(sandbox) = requester(test, "priority = 3\nsuites = [\"ssh\"]") else { return };
    run(&sandbox, &["--trusted"]).assert_code(&[0]);
    let (outcome, reason) = unit(&sandbox);
    assert_eq!(outcome, "skipped");
    assert!(reason.contains("the result is posted when a device has tested it"), "{reason}");
    let result = sandbox.result();
    let stage = result["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "test").unwrap();
    assert_eq!(stage["outcome"], "skipped", "a stage that tested nothing has not passed");

    let all = requests(&sandbox);
    assert_eq!(all.len(), 1);
    let request = read(&all[0].join("request.json"));
    assert_eq!(request["id"], result["job"]["id"]);
    assert_eq!(request["job"]["commit"], result["job"]["commit"]);
    let expected = json!({"trust": "trusted", "pool": "pi", "machine": "qemux86-64", "image": "img", "tests": ["runtime"],
        "suites": ["ssh"], "priority": 3, "required": true, "queue_limit": 86400, "run_limit": 3600});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&request[key], value, "{key}");
    }
    assert_eq!(result["device"]["id"], request["id"]);
    assert_eq!(result["device"]["waits"], false);
    let files = request["files"].as_array().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["img-qemux86-64.bin", "testexport-img-qemux86-64.tar"], "one name for each file");
    for file in files {
        let digest = file["sha256"].as_str().unwrap();
        let stored = std::fs::read(sandbox.artifacts().join("devices/v1/files").join(digest)).unwrap();
        assert_eq!((sha256(&stored).as_str(), Some(stored.len() as u64)), (digest, file["bytes"].as_u64()));
        if file["role"] == "image" {
            assert_eq!(stored, b"the deployed img\n");
        } else {
            assert!(String::from_utf8_lossy(&stored).contains("./oe-test"));
        }
    }
    // The same tests are the same file.
    run(&sandbox, &["--trusted"]).assert_code(&[0]);
    let all = requests(&sandbox);
    assert_eq!(all.len(), 2);
    assert_eq!(read(&all[1].join("request.json"))["files"], request["files"]);
}

/// A lab that answers the next request as `answer` says. `None`: it never answers.
pub fn lab(sandbox: &Sandbox, known: usize, answer: Option<&Answer>) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while requests(sandbox).len() <= known {
        assert!(Instant::now() < deadline, "there is no request");
        std::thread::sleep(Duration::from_millis(50));
    }
    let Some(answer) = answer else { return };
    let request = requests(sandbox).pop().unwrap();
    let content = answer.result.to_string().into_bytes();
    if !answer.result.is_null() {
        let reports = request.join("reports/1");
        std::fs::create_dir_all(&reports).unwrap();
        std::fs::write(reports.join("result.json"), &content).unwrap();
    }
    let mut verdict = json!({"attempt": 1, "lab": "desk", "device": "pi-1", "time": "2026-01-01T00:00:00Z",
        "result_sha256": sha256(&content)});
    verdict.as_object_mut().unwrap().extend(answer.verdict.as_object().unwrap().clone());
    let part = request.join("verdict.part");
    std::fs::write(&part, verdict.to_string()).unwrap();
    std::fs::rename(part, request.join("verdict.json")).unwrap();
}

pub struct Answer {
    pub result: Value,
    pub verdict: Value,
}

fn result(exit: &str, outcome: Value, case: Value) -> Value {
    let mut unit = json!({"stage": "test", "name": "runtime img on pi-1", "started": "2026-01-01T00:00:00Z",
        "cases": [{"class": "ssh.SSHTest", "name": "test_ssh", "seconds": 1.5}],
        "excerpt": ["[    1.0] on the console"]});
    unit.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
    unit["cases"][0].as_object_mut().unwrap().extend(case.as_object().unwrap().clone());
    let finding = json!({"unit": {"stage": "test", "name": "runtime img on pi-1"}, "level": "warning",
        "rule": "kernel-warning", "message": "WARNING: CPU: 0", "file": "x.c", "line": 3});
    let mut result = json!({"schema": "build-agent/result/v1", "complete": true, "exit": exit, "units": [unit],
        "findings": [finding]});
    result.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
    result
}

#[test]
fn the_result_of_a_lab_becomes_that_of_the_job_and_nothing_else_does() {
    let test = "the_result_of_a_lab_becomes_that_of_the_job_and_nothing_else_does";
    let Some(sandbox) = requester(test, "tests = [\"commands\"]\ncommands = [\"true\"]\nwait = \"10m\"")
    else {
        return;
    };
    let (passed, failed) = (json!({"outcome": "passed"}), json!({"outcome": "failed", "reason": "no ssh"}));
    let skipped = json!({"outcome": "skipped", "reason": "nothing"});
    let good = || result("passed", passed.clone(), passed.clone());
    let bad = || result("failed", failed.clone(), failed.clone());
    let verdict = |exit: &str, outcome: &Value, more: Value| {
        let mut all = json!({ "exit": exit });
        all.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let none = || json!({});
    let stale = || json!({"result_sha256": "0".repeat(64)});
    let never = || json!({"attempt": null, "device": null, "result_sha256": null});
    let broken = json!({"outcome": "not-run", "reason": "no device works"});
    let late = json!({"outcome": "timed-out", "reason": "no device took it"});
    let cancelled = json!({"outcome": "cancelled", "reason": "a person"});
    let table: Vec<(&str, Value, Value, i32, &str, &str)> = vec![
        ("passed", good(), verdict("passed", &passed, none()), 0, "passed", ""),
        ("failed", bad(), verdict("failed", &failed, none()), 1, "failed", "pi-1: no ssh"),
        (
            "of another run",
            good(),
            verdict("passed", &passed, stale()),
            4,
            "not-run",
            "not the one of the verdict",
        ),
        ("missing", Value::Null, verdict("passed", &passed, none()), 4, "not-run", "result.json is missing"),
        ("no JSON object", json!([]), verdict("passed", &passed, none()), 4, "not-run", "is not valid"),
        (
            "a failed case",
            result("passed", passed.clone(), failed.clone()),
            verdict("passed", &passed, none()),
            4,
            "not-run",
            "contradicts the verdict",
        ),
        (
            "another verdict",
            bad(),
            verdict("passed", &passed, none()),
            4,
            "not-run",
            "contradicts the verdict",
        ),
        (
            "nothing tested",
            result("passed", skipped.clone(), skipped.clone()),
            verdict("passed", &skipped, none()),
            1,
            "failed",
            "nothing was tested",
        ),
        (
            "no device works",
            Value::Null,
            verdict("machine", &broken, never()),
            4,
            "not-run",
            "no device works",
        ),
        (
            "too long in the queue",
            Value::Null,
            verdict("out-of-time", &late, never()),
            5,
            "timed-out",
            "no device took it",
        ),
        (
            "cancelled by a person",
            Value::Null,
            verdict("cancelled", &cancelled, never()),
            1,
            "not-run",
            "the request was cancelled",
        ),
    ];
    for (what, result, verdict, code, outcome, reason) in table {
        let answer = Answer { result, verdict };
        let known = requests(&sandbox).len();
        let ran = std::thread::scope(|scope| {
            scope.spawn(|| lab(&sandbox, known, Some(&answer)));
            run(&sandbox, &["--trusted"])
        });
        ran.assert_code(&[code]);
        let found = unit(&sandbox);
        assert!(found.0 == outcome && found.1.contains(reason), "{what}: {found:?}");
        if what == "failed" {
            let result = sandbox.result();
            let units = result["units"].as_array().unwrap();
            let of_lab = units.iter().find(|unit| unit["name"] == "runtime img on pi-1").unwrap();
            assert_eq!(of_lab["excerpt"], json!(["[    1.0] on the console"]));
            assert_eq!(of_lab["cases"][0]["outcome"], "failed");
            let finding = &result["findings"][0];
            assert_eq!(
                (&finding["rule"], finding.get("file")),
                (&json!("kernel-warning"), None),
                "{finding}"
            );
            let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
            assert!(junit.contains("runtime img on pi-1"), "{junit}");
        }
    }
    // What is not required does not fail the job, and is not hidden.
    sandbox.change_manifest("wait =", "required = false\nwait =");
    let answer = Answer { result: bad(), verdict: verdict("failed", &failed, none()) };
    let known = requests(&sandbox).len();
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| lab(&sandbox, known, Some(&answer)));
        run(&sandbox, &["--trusted"])
    });
    ran.assert_code(&[0]);
    assert_eq!(unit(&sandbox).0, "skipped");
    let findings = sandbox.result()["findings"].to_string();
    assert!(findings.contains("failed: pi-1: no ssh"), "{findings}");
    sandbox.assert_nothing_runs();
}

#[test]
fn a_job_that_stops_waiting_cancels_its_request() {
    let test = "a_job_that_stops_waiting_cancels_its_request";
    let Some(sandbox) = requester(test, "tests = [\"commands\"]\ncommands = [\"true\"]\nwait = \"1s\"")
    else {
        return;
    };
    run(&sandbox, &["--trusted"]).assert_code(&[5]);
    let (outcome, reason) = unit(&sandbox);
    assert_eq!(outcome, "timed-out");
    assert!(reason.contains("no device had a result within 1s"), "{reason}");
    assert!(requests(&sandbox)[0].join("cancel.json").exists());

    sandbox.change_manifest("wait = \"1s\"", "wait = \"10m\"");
    let mut command = sandbox.run_command();
    command.arg("--trusted");
    let mut running = sandbox.start(command);
    running.wait_until("a second request", || requests(&sandbox).len() == 2);
    running.signal(Signal::SIGTERM);
    running.wait().assert_code(&[130]);
    assert_eq!(unit(&sandbox).0, "cancelled");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !requests(&sandbox)[1].join("cancel.json").exists() {
        assert!(Instant::now() < deadline, "the request is not cancelled");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn untrusted_sources_request_nothing() {
    let Some(sandbox) = requester("untrusted_sources_request_nothing", "") else { return };
    run(&sandbox, &[]).assert_code(&[0]);
    assert_eq!(unit(&sandbox).0, "skipped");
    assert!(unit(&sandbox).1.contains("[device] untrusted is \"no\""), "{:?}", unit(&sandbox));
    assert_eq!(requests(&sandbox), Vec::<PathBuf>::new());
    assert_eq!(sandbox.result()["artifacts"], json!([]));

    // The base decides, not the change.
    commit(&sandbox.layer(), "Add the manifest");
    sandbox.change_manifest("pool = \"pi\"", "pool = \"pi\"\nuntrusted = \"yes\"");
    commit(&sandbox.layer(), "Open the devices");
    run(&sandbox, &["--base", "HEAD~1"]).assert_code(&[0]);
    assert!(unit(&sandbox).1.contains("[device] untrusted is \"no\""), "{:?}", unit(&sandbox));

    // The files are published, and nothing is requested.
    run(&sandbox, &["--base", "HEAD"]).assert_code(&[0]);
    assert!(unit(&sandbox).1.contains("a trusted step requests the tests"), "{:?}", unit(&sandbox));
    assert_eq!(requests(&sandbox), Vec::<PathBuf>::new());
    let artifacts = sandbox.result()["artifacts"].clone();
    let paths: Vec<&str> =
        artifacts.as_array().unwrap().iter().map(|artifact| artifact["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"testexport-img-qemux86-64.tar"), "{paths:?}");
    assert!(paths.contains(&"tmp/deploy/images/qemux86-64/img-qemux86-64-20260101000000.bin"), "{paths:?}");
}
