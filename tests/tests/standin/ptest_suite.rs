//! The agent's own suite for ptests, with stand-ins for ssh, ptest-runner and OE-Core's base class
//! (`tests/stand-ins/oeqa`).

use std::path::Path;
use std::process::Command;

use build_agent_tests::{json, repository};
use serde_json::{Value, json};

/// Runs the suite; each ptest is a shell script. The plan's `ptests`.
fn run(ptests: &[(&str, &str)], plan: &Value) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["guest", "logs"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    for (name, script) in ptests {
        std::fs::write(at("guest").join(name), script).unwrap();
    }
    std::fs::write(at("logs").join("qemu_boot_log.1"), "[ 0.0] Linux\n").unwrap();
    let plan = json!({"ptests": plan, "silence": 3, "logs": at("logs")});
    std::fs::write(at("plan"), plan.to_string()).unwrap();
    let mut python = Command::new("python3");
    python.arg(repository().join("tests/stand-ins/oeqa/run.py"));
    python.arg(repository().join("agent/crates/yocto/src/testimage/build_agent_ptest.py"));
    python.arg(at("plan")).arg(at("results")).env("GUEST", at("guest"));
    assert!(python.status().unwrap().success());
    let mut answer = json(&at("results"));
    answer["logs"] = json!(Path::new(&at("logs")).read_dir().unwrap().count());
    answer
}

/// Each ptest, how it behaves, and what its section must have; the results of its tests.
#[test]
fn each_ptest_has_its_own_end_and_the_others_go_on() {
    let scripts = [
        ("bad", "echo PASS: one; echo 'FAIL: two (why)'; exit 1"),
        ("empty", "echo nothing"),
        ("good", "echo PASS: one; echo 'SKIP: two (no use)'"),
        ("hangs", "echo PASS: one; sleep 60 & wait"),
        ("hog", "echo PASS: one; echo '[ 1.0] Out of memory: Killed process 7 (x)' >>$GUEST/../dmesg"),
        ("killed", "echo PASS: one; kill -9 $1"),
        (
            "panics",
            "echo PASS: one; echo '[ 2.0] Kernel panic - not syncing: x' >>$GUEST/../logs/qemu_boot_log.1; sleep 5",
        ),
        ("zlast", "echo PASS: one"),
    ];
    let names: Vec<&str> = scripts.iter().map(|(name, _)| *name).chain(["gone"]).collect();
    let answer = run(&scripts, &json!(names));
    assert_eq!(answer["passed"], false);
    let results = &answer["results"];
    let sections = &results["ptestresult.sections"];
    let section = |name: &str, field: &str| sections[name][field].clone();
    for (name, field, wanted) in [
        ("bad", "exitcode", json!("1")),
        ("good", "exitcode", Value::Null),
        ("good", "timeout", Value::Null),
        ("hangs", "timeout", json!(true)),
        ("hog", "oom", json!("[ 1.0] Out of memory: Killed process 7 (x)")),
        ("killed", "exitcode", json!("-9, before it completed")),
        ("panics", "panic", json!("Kernel panic - not syncing: x")),
    ] {
        assert_eq!(section(name, field), wanted, "{name} {field}: {sections:#}");
    }
    // After a panic nothing answers: it is for the agent to start another guest.
    assert!(sections["zlast"].is_null() && sections["gone"].is_null(), "{sections:#}");
    for (test, wanted) in [
        ("bad.one", "PASSED"),
        ("bad.two", "FAILED"),
        ("good.one", "PASSED"),
        ("good.two__no_use_", "SKIPPED"),
        ("hangs.one", "PASSED"),
        ("panics.one", "PASSED"),
    ] {
        assert_eq!(results[format!("ptestresult.{test}")]["status"], wanted, "{test}");
    }
    let log = section("hangs", "log").to_string();
    assert!(log.contains("running processes, and the end of dmesg") && log.contains("sleep"), "{log}");
    assert!(log.contains("BEGIN: /usr/lib/hangs/ptest") && !log.contains("BUILD-AGENT-PID"), "{log}");
    let said = answer["said"].to_string();
    for name in ["bad", "empty", "gone", "hangs", "hog", "killed", "panics"] {
        assert!(said.contains(&format!("'{name}'")), "{name}: {said}");
    }
}

#[test]
fn without_a_list_all_ptests_run_and_an_empty_list_runs_none() {
    let scripts = [("a", "echo PASS: one"), ("b", "echo PASS: one")];
    let answer = run(&scripts, &Value::Null);
    assert_eq!(answer["passed"], true, "{answer:#}");
    assert_eq!(answer["results"]["ptestresult.sections"].as_object().unwrap().len(), 2);
    let answer = run(&scripts, &json!([]));
    assert_eq!((&answer["skipped"], &answer["results"]), (&json!(1), &json!({})));
    // An empty run never passes.
    assert_eq!(run(&[], &Value::Null)["passed"], false);
    assert_eq!(run(&scripts, &json!(["gone"]))["passed"], false);
}
