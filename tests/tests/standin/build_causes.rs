//! Builds that fail, but not because of the layer: memory, disks, servers, the end of the job's time.

use build_agent_tests::Sandbox;
use serde_json::Value;

use crate::builds::builder;

fn retries(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.result()["retries"].as_array().cloned().unwrap_or_default()
}

fn log(sandbox: &Sandbox, name: &str) -> String {
    std::fs::read_to_string(sandbox.out().join("logs").join(name)).unwrap()
}

/// The number in the line that the stand-in prints.
fn jobs(log: &str) -> usize {
    let line = log.lines().find_map(|line| line.strip_prefix("PARALLEL_MAKE is -j ")).unwrap();
    line.parse().unwrap()
}

/// On one processor, nothing can be halved.
fn has_processors(test: &str) -> bool {
    let has = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    if !has {
        build_agent_tests::skip(test, "there is one processor");
    }
    has
}

#[test]
fn a_task_that_lacks_memory_is_retried_once_with_half_the_parallelism() {
    let test = "a_task_that_lacks_memory_is_retried_once_with_half_the_parallelism";
    if !has_processors(test) {
        return;
    }
    let Some(sandbox) = builder(test) else { return };
    // The manifest can allow less than the machine, and the retry halves that.
    sandbox.change_manifest("[build]", "[config]\nlocal_conf = 'PARALLEL_MAKE = \"-j 2\"'\n[build]");
    sandbox.behaviour("bitbake no-memory 1");
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    ran.assert_says(&[
        "retrying once with half the parallelism, because memory ran out: hello-1.0-r0:do_compile",
    ]);
    let retries = retries(&sandbox);
    assert_eq!(retries.len(), 1, "{retries:?}");
    assert_eq!(retries[0]["cause"], "memory", "{retries:?}");
    assert_eq!(jobs(&log(&sandbox, "build-qemux86-64.log")), 2);
    assert_eq!(jobs(&log(&sandbox, "build-qemux86-64-again.log")), 1);
    assert_eq!(sandbox.result()["outcome"], "passed");

    // The second time, it is an error of the machine.
    let Some(sandbox) = builder(test) else { return };
    sandbox.behaviour("bitbake no-memory 9");
    let ran = sandbox.run();
    ran.assert_code(&[3]);
    ran.assert_says(&["memory ran out: hello-1.0-r0:do_compile", "PARALLEL_MAKE:pn-RECIPE"]);
    assert_eq!(crate::build_causes::retries(&sandbox).len(), 1);
    assert_ne!(sandbox.result()["outcome"], "passed");
    sandbox.assert_nothing_runs();
}

/// BitBake's output, the exit status, the number of retries, and messages on the console.
#[test]
fn a_dead_server_and_a_full_disk_are_not_failures_of_the_layer() {
    let test = "a_dead_server_and_a_full_disk_are_not_failures_of_the_layer";
    let dead = "a source cannot be fetched, because its server does not answer: hello-1.0-r0:do_fetch";
    for (behaviour, code, retried, says) in [
        ("dead-server 1", 0, 1, "retrying once in 1s, because an upstream server failed"),
        ("dead-server 9", 4, 1, dead),
        ("not-found 9", 1, 0, "hello-1.0-r0:do_fetch failed"),
        ("full 9", 3, 0, "the disk is full: hello-1.0-r0:do_compile"),
        ("disk-monitor", 3, 0, "No new tasks can be executed since the disk space monitor action is"),
    ] {
        let Some(sandbox) = builder(test) else { return };
        sandbox.behaviour(&format!("bitbake {behaviour}"));
        let ran = sandbox.run();
        ran.assert_code(&[code]);
        ran.assert_says(&[says]);
        assert_eq!(retries(&sandbox).len(), retried, "{behaviour}");
        assert_eq!(sandbox.result()["outcome"] == "passed", code == 0, "{behaviour}");
    }
}

#[test]
fn what_counts_in_bitbakes_configuration_is_read_back() {
    let Some(sandbox) = builder("what_counts_in_bitbakes_configuration_is_read_back") else { return };
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    assert!(!ran.output().contains("BitBake uses "), "{}", ran.output());
    sandbox.change_manifest("[build]", "[config]\nlocal_conf = 'BB_NUMBER_THREADS = \"999\"'\n[build]");
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["BitBake uses BB_NUMBER_THREADS = \"999\", and not \"", "[config] local_conf sets it"]);
}

/// At the end of the job's time, the running task can complete, and counts.
#[test]
fn a_running_task_completes_after_the_jobs_time() {
    let Some(sandbox) = builder("a_running_task_completes_after_the_jobs_time") else { return };
    sandbox.change_manifest("job = \"5m\"", "job = \"20s\"");
    sandbox.change_manifest("grace = \"2s\"", "grace = \"15s\"");
    sandbox.behaviour("bitbake finish do_compile");
    let ran = sandbox.run();
    ran.assert_code(&[5]);
    ran.assert_says(&["[limits] job is over: stopping, up to 15 s: hello (qemux86-64)"]);
    let log = log(&sandbox, "build-qemux86-64.log");
    assert!(log.contains("task do_compile: Succeeded"), "{log}");
    let result = sandbox.result();
    assert_eq!(result["outcome"], "timed-out");
    assert_eq!(result["totals"]["failed-tasks"], 0);
    let events = std::fs::read_to_string(sandbox.out().join("events.jsonl")).unwrap();
    let ended = |line: &&str| line.contains("\"task-finished\"") && line.contains("\"do_compile\"");
    let ended: Vec<&str> = events.lines().filter(ended).collect();
    assert!(matches!(ended[..], [line] if line.contains("\"outcome\":\"passed\"")), "{ended:?}");
    sandbox.assert_nothing_runs();
}

/// Nothing is cloned on a machine where BitBake cannot work.
#[test]
fn a_missing_host_tool_ends_the_job_before_anything_is_cloned() {
    let test = "a_missing_host_tool_ends_the_job_before_anything_is_cloned";
    let Some(sandbox) = builder(test) else { return };
    let local_conf = "[config]\nlocal_conf = 'HOSTTOOLS += \"no-such-tool-anywhere\"'\n[build]";
    sandbox.change_manifest("[build]", local_conf);
    let ran = sandbox.run();
    ran.assert_code(&[3]);
    ran.assert_says(&[
        "this machine is not ready",
        "missing: no-such-tool-anywhere",
        "remove it from HOSTTOOLS",
    ]);
    assert!(!sandbox.work().join("layers").exists(), "nothing was cloned");
}
