//! Signals, limits, kills: the end comes in bounded time, is told, and leaves nothing running.

use std::path::Path;
use std::time::Duration;

use build_agent_tests::{Running, Sandbox, json, well_formed_xml};
use nix::sys::signal::Signal;

/// A job whose check hangs, at the moment when it does.
fn hanging(sandbox: &Sandbox, behaviour: &str) -> Running {
    sandbox.behaviour(&format!("yocto-check-layer {behaviour}"));
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "hanging");
    running
}

fn assert_reported(sandbox: &Sandbox, outcome: &str) {
    let result = sandbox.result();
    assert_eq!(result["outcome"], outcome, "{result:#}");
    well_formed_xml(&sandbox.out().join("junit.xml"), "testcase");
    sandbox.assert_nothing_runs();
}

#[test]
fn signals_cancel_with_status_130_and_reports() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for behaviour in ["hang", "stubborn"] {
            let Some(sandbox) = Sandbox::new("signals_cancel_with_status_130_and_reports") else { return };
            let running = hanging(&sandbox, behaviour);
            running.signal(signal);
            running.wait().assert_code(&[130]);
            assert_reported(&sandbox, "cancelled");
        }
    }
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace_time() {
    let Some(sandbox) = Sandbox::new("a_second_signal_does_not_wait_for_the_grace_time") else { return };
    // The harness's patience is shorter than this grace.
    sandbox.change_manifest("grace = \"2s\"", "grace = \"1h\"");
    sandbox.change_manifest("job = \"5m\"", "job = \"2h\"");
    let running = hanging(&sandbox, "stubborn");
    running.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(200));
    running.signal(Signal::SIGINT);
    running.wait().assert_code(&[130]);
    assert_reported(&sandbox, "cancelled");
}

#[test]
fn a_silent_tool_is_stopped_after_the_stall_limit() {
    let Some(sandbox) = Sandbox::new("a_silent_tool_is_stopped_after_the_stall_limit") else { return };
    sandbox.change_manifest("stall = \"1m\"", "stall = \"2s\"");
    sandbox.behaviour("yocto-check-layer hang");
    let ran = sandbox.run();
    ran.assert_code(&[5]);
    ran.assert_says(&["2s"]);
    assert_reported(&sandbox, "timed-out");
}

#[test]
fn a_tool_that_talks_is_stopped_by_the_jobs_limit_only() {
    let Some(sandbox) = Sandbox::new("a_tool_that_talks_is_stopped_by_the_jobs_limit_only") else { return };
    sandbox.change_manifest("job = \"5m\"", "job = \"6s\"");
    // Ten steps of 3 s, each with output.
    sandbox.behaviour("yocto-check-layer slow 3000");
    sandbox.run().assert_code(&[5]);
    assert_reported(&sandbox, "timed-out");
}

#[test]
fn a_server_in_its_own_session_is_found_and_ended() {
    let Some(sandbox) = Sandbox::new("a_server_in_its_own_session_is_found_and_ended") else { return };
    // It holds the pipes, so that their end never comes by itself.
    sandbox.behaviour("yocto-check-layer daemon");
    sandbox.run().assert_code(&[0]);
    assert_reported(&sandbox, "passed");
}

#[test]
fn one_work_directory_has_one_job() {
    let Some(sandbox) = Sandbox::new("one_work_directory_has_one_job") else { return };
    let first = hanging(&sandbox, "hang");
    let before = std::fs::read(sandbox.out().join("events.jsonl")).unwrap();
    let mut second = sandbox.command(["run"]);
    second.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.work());
    second.arg("--out").arg(sandbox.path().join("out-of-the-second"));
    let ran = sandbox.start(second).wait();
    ran.assert_code(&[3]);
    ran.assert_says(&[&*sandbox.work().to_string_lossy()]);
    // The first has not been disturbed.
    let after = std::fs::read(sandbox.out().join("events.jsonl")).unwrap();
    assert!(after.starts_with(&before));
    first.signal(Signal::SIGINT);
    first.wait().assert_code(&[130]);
    // And the lock died with it.
    sandbox.behaviour("yocto-check-layer pass");
    sandbox.run().assert_code(&[0]);
}

/// After SIGKILL nothing but the events is there, cut off anywhere; the reports come from them.
#[test]
fn reports_are_rebuilt_after_a_kill_at_any_moment() {
    for milliseconds in [30, 100, 250, 500, 900, 1500] {
        let Some(sandbox) = Sandbox::new("reports_are_rebuilt_after_a_kill_at_any_moment") else { return };
        sandbox.behaviour("yocto-check-layer slow 200");
        let running = sandbox.start(sandbox.run_command());
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.signal(Signal::SIGKILL);
        assert_eq!(running.wait().signal, Some(9), "the kill came after the end");
        let events = sandbox.out().join("events.jsonl");
        let written = std::fs::metadata(&events).map(|file| file.len()).unwrap_or(0);
        if written == 0 {
            println!("killed after {milliseconds} ms, before the first event");
            continue;
        }
        let ran = sandbox.call([Path::new("report"), &events]);
        assert!(matches!(ran.code, Some(0 | 1 | 5 | 70 | 130)), "{ran:?}");
        let result = json(&sandbox.out().join("result.json"));
        assert_ne!(result["outcome"], "passed", "killed after {milliseconds} ms: {result:#}");
        well_formed_xml(&sandbox.out().join("junit.xml"), "testcase");
    }
}

/// What a kill leaves behind does not harm the next job in the same place.
#[test]
fn the_next_job_works_after_a_kill() {
    let Some(sandbox) = Sandbox::new("the_next_job_works_after_a_kill") else { return };
    let running = hanging(&sandbox, "hang");
    running.signal(Signal::SIGKILL);
    running.wait();
    sandbox.behaviour("yocto-check-layer pass");
    sandbox.run().assert_code(&[0]);
}

#[test]
fn memory_stays_flat_in_a_flood() {
    let Some(sandbox) = Sandbox::new("memory_stays_flat_in_a_flood") else { return };
    let mebibytes = std::env::var("BUILD_AGENT_TEST_FLOOD_MIB").unwrap_or_else(|_| "256".into());
    sandbox.behaviour(&format!("yocto-check-layer flood {mebibytes}"));
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    assert!(ran.peak_kib > 0, "the size was never seen");
    assert!(ran.peak_kib <= 64 * 1024, "{} KiB while {mebibytes} MiB were printed", ran.peak_kib);
    let logs = std::fs::read_dir(sandbox.out().join("logs")).unwrap();
    let written: u64 = logs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let printed = mebibytes.parse::<u64>().unwrap() * 1024 * 1024;
    assert!(written >= printed * 99 / 100, "{written} bytes of {printed} are in the log");
}
