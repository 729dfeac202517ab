//! Signals, limits, kills: the job ends in bounded time, reports it, and leaves no processes.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use build_agent_tests::{Running, Sandbox, cases, well_formed_xml};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::signature_cache::CheckJob;

/// A job whose check hangs; returns as soon as it does.
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

/// A job in whose check `test_parse` has failed and `test_signatures` hangs until a signal. After that all tests
/// fail, and each of them calls BitBake: `notes/calls` shows whether a BitBake was started.
fn interrupted(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let notes = sandbox.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::set_permissions(&notes, std::fs::Permissions::from_mode(0o777)).unwrap();
    sandbox.behaviour(&format!(
        "yocto-check-layer interrupted test_signatures test_parse\nbitbake notes {}",
        notes.display()
    ));
    sandbox.write_manifest(&format!("{}\n[build]\ntargets = [\"hello\"]\n", sandbox.manifest_text()));
    Some(sandbox)
}

/// Tests that the stop broke have the same outcome in all reports, and tests that failed before stay failed.
fn assert_stopped(sandbox: &Sandbox, word: &str) {
    let result = sandbox.result();
    let cases = cases(&result);
    let outcome = |test: &str| {
        let found = cases.iter().find(|(name, _)| name == test);
        found.unwrap_or_else(|| panic!("no {test} in {cases:?}")).1.clone()
    };
    for (test, expected) in [
        ("test_layerseries_compat", "passed"),
        ("test_parse", "failed"),
        ("test_signatures", word),
        ("test_world", word),
        ("test_world_inherit_class", word),
    ] {
        assert_eq!(outcome(test), expected, "{test} in {cases:?}");
    }
    assert_eq!(result["totals"]["failed"], 1, "{:#}", result["totals"]);
    let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
    assert_eq!(junit.matches("<failure").count(), 1, "{junit}");
    assert!(junit.contains(&format!("type=\"{word}\"")), "{junit}");
    assert!(!sandbox.path().join("notes/calls").exists(), "a BitBake was started after the stop");
    let events = std::fs::read_to_string(sandbox.out().join("events.jsonl")).unwrap();
    if let Some((_, after)) = events.split_once(": stopping, up to ") {
        assert!(!after.contains("\"command-started\""), "something was started after the stop:\n{after}");
    }
}

#[test]
fn tests_that_a_signal_breaks_are_cancelled_and_nothing_new_starts() {
    const NAME: &str = "tests_that_a_signal_breaks_are_cancelled_and_nothing_new_starts";
    for (signal, queries) in [(Signal::SIGTERM, true), (Signal::SIGINT, true), (Signal::SIGTERM, false)] {
        let Some(sandbox) = interrupted(NAME) else { return };
        sandbox.change_manifest("grace = \"2s\"", "grace = \"30s\"");
        let mut command = sandbox.run_command();
        if !queries {
            command.arg("--no-signature-cache");
        }
        let mut running = sandbox.start(command);
        sandbox.wait_for_log(&mut running, "hanging");
        running.signal(signal);
        // The tool continues after the signal, but does not get the whole grace for that.
        let ran = running.wait_for(Duration::from_secs(30));
        ran.assert_code(&[130]);
        let line = format!("{signal}: stopping, up to 30 s: yocto-check-layer meta-tested (test_signatures)");
        ran.assert_says(&[&line, "common.CommonCheckLayer.test_world: CANCELLED"]);
        assert!(!ran.output().contains("test_world: FAILED"), "{}", ran.output());
        if queries {
            assert_stopped(&sandbox, "cancelled");
        }
        assert_reported(&sandbox, "cancelled");
    }
}

#[test]
fn tests_that_a_limit_breaks_are_timed_out_and_nothing_new_starts() {
    const NAME: &str = "tests_that_a_limit_breaks_are_timed_out_and_nothing_new_starts";
    for (from, to, output_text) in [
        (
            "job = \"5m\"",
            "job = \"15s\"",
            "[limits] job is over: stopping, up to 2 s: yocto-check-layer meta-tested",
        ),
        ("stall = \"1m\"", "stall = \"2s\"", "yocto-check-layer was silent for"),
    ] {
        let Some(sandbox) = interrupted(NAME) else { return };
        sandbox.change_manifest(from, to);
        let ran = sandbox.run();
        ran.assert_code(&[5]);
        ran.assert_says(&[output_text, "common.CommonCheckLayer.test_world: TIMED-OUT"]);
        assert_stopped(&sandbox, "timed-out");
        assert_reported(&sandbox, "timed-out");
    }
}

#[test]
fn a_task_that_a_signal_breaks_is_not_failed() {
    let Some(sandbox) = Sandbox::new("a_task_that_a_signal_breaks_is_not_failed") else { return };
    sandbox.write_manifest(&format!("{}\n[build]\ntargets = [\"hello\"]\n", sandbox.manifest_text()));
    sandbox.behaviour("bitbake interrupted do_compile");
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "hanging");
    running.signal(Signal::SIGTERM);
    let ran = running.wait();
    ran.assert_code(&[130]);
    ran.assert_says(&["SIGTERM: stopping, up to 2 s: hello (qemux86-64)"]);
    assert!(!ran.output().contains("FAILED"), "{}", ran.output());
    let totals = &sandbox.result()["totals"];
    assert_eq!((&totals["failed"], &totals["failed-tasks"]), (&0.into(), &0.into()), "{totals:#}");
    assert_reported(&sandbox, "cancelled");
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace_time() {
    let Some(sandbox) = Sandbox::new("a_second_signal_does_not_wait_for_the_grace_time") else { return };
    // The timeout of the harness is shorter than this grace.
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
    ran.assert_says(&["yocto-check-layer was silent for", "`limits.stall` is the limit"]);
    assert_reported(&sandbox, "timed-out");
}

/// The ends of all commands of the job with this argument.
fn ends(sandbox: &Sandbox, word: &str) -> Vec<String> {
    let events = std::fs::read_to_string(sandbox.out().join("events.jsonl")).unwrap();
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = events.iter().filter(|event| event["event"] == "command-started");
    let expected =
        started.filter(|event| event["argv"].as_array().unwrap()[0].as_str().unwrap().contains(word));
    let end = |command: &Value| {
        let ended = events.iter().filter(|event| event["event"] == "command-finished");
        let mut ended = ended.filter(|event| event["command"] == *command);
        ended.next().map_or("no end".into(), |event| event["end"].as_str().unwrap().to_owned())
    };
    expected.map(|event| end(&event["command"])).collect()
}

/// The tool waits for a BitBake that the agent runs: for this query, or as a prefetch.
#[test]
fn a_tool_whose_bitbake_is_silent_is_stopped_after_the_stall_limit_and_not_run_again() {
    const NAME: &str = "a_tool_whose_bitbake_is_silent_is_stopped_after_the_stall_limit_and_not_run_again";
    for (order, questions) in [("hang", 1), ("hold yocto-check-layer", 4)] {
        let Some(check) = CheckJob::new(NAME) else { return };
        check.0.change_manifest("stall = \"1m\"", "stall = \"4s\"");
        std::fs::write(check.note(order), "").unwrap();
        let ran = check.0.run();
        ran.assert_code(&[5]);
        ran.assert_says(&["yocto-check-layer was silent for", "`limits.stall` is the limit"]);
        let tool = ends(&check.0, "/yocto-check-layer");
        let [end] = tool.as_slice() else { panic!("{order}: the tool ran more than once: {tool:?}") };
        // In whole seconds; a busy machine detects it a little later.
        assert!(["stalled for 4s", "stalled for 5s", "stalled for 6s"].contains(&&**end), "{order}: {end}");
        let calls = check.calls();
        assert_eq!(calls.len(), questions, "{order}: what was silent was asked again: {calls:#?}");
        let bitbake = ends(&check.0, "/bin/bitbake");
        assert!(!bitbake.iter().any(|end| end.contains("stalled")), "{order}: {bitbake:?}");
        assert_reported(&check.0, "timed-out");
    }
}

#[test]
fn output_of_bitbake_counts_as_activity_of_the_waiting_tool() {
    let test = "output_of_bitbake_counts_as_activity_of_the_waiting_tool";
    let Some(check) = CheckJob::new(test) else { return };
    check.0.change_manifest("stall = \"1m\"", "stall = \"4s\"");
    std::fs::write(check.note("talk"), "10").unwrap();
    check.run(0);
    assert_reported(&check.0, "passed");
}

#[test]
fn a_tool_with_output_is_stopped_only_by_the_time_limit_of_the_job() {
    let Some(sandbox) = Sandbox::new("a_tool_with_output_is_stopped_only_by_the_time_limit_of_the_job")
    else {
        return;
    };
    sandbox.change_manifest("job = \"5m\"", "job = \"6s\"");
    // Ten steps of 3 s, each with output.
    sandbox.behaviour("yocto-check-layer slow 3000");
    sandbox.run().assert_code(&[5]);
    assert_reported(&sandbox, "timed-out");
}

#[test]
fn a_server_in_its_own_session_is_found_and_ended() {
    let Some(sandbox) = Sandbox::new("a_server_in_its_own_session_is_found_and_ended") else { return };
    // It holds the pipes open, so they never reach their end.
    sandbox.behaviour("yocto-check-layer daemon");
    sandbox.run().assert_code(&[0]);
    assert_reported(&sandbox, "passed");
}

#[test]
fn a_work_directory_has_one_job_at_a_time() {
    let Some(sandbox) = Sandbox::new("a_work_directory_has_one_job_at_a_time") else { return };
    let first = hanging(&sandbox, "hang");
    let before = std::fs::read(sandbox.out().join("events.jsonl")).unwrap();
    let mut second = sandbox.command(["run"]);
    second.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.work());
    second.arg("--out").arg(sandbox.path().join("out-of-the-second"));
    let ran = sandbox.start(second).wait();
    ran.assert_code(&[3]);
    ran.assert_says(&[&*sandbox.work().to_string_lossy()]);
    // The first job was not disturbed.
    let after = std::fs::read(sandbox.out().join("events.jsonl")).unwrap();
    assert!(after.starts_with(&before));
    first.signal(Signal::SIGINT);
    first.wait().assert_code(&[130]);
    // The lock ended with its process.
    sandbox.behaviour("yocto-check-layer pass");
    sandbox.run().assert_code(&[0]);
}

#[test]
fn nohup_makes_the_agent_ignore_sighup() {
    let Some(sandbox) = Sandbox::new("nohup_makes_the_agent_ignore_sighup") else { return };
    sandbox.behaviour("yocto-check-layer slow 100");
    let job = sandbox.run_command();
    let mut command = std::process::Command::new("sh");
    command.env_clear().current_dir(sandbox.layer());
    command.envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(job.get_program()).args(job.get_args());
    let mut running = sandbox.start(command);
    sandbox.wait_for_log(&mut running, "Detected layers");
    running.signal(Signal::SIGHUP);
    running.wait().assert_code(&[0]);
}

/// Output of a child while the agent itself was suspended (Ctrl-Z) does not count as silence of the child.
#[test]
fn a_suspended_agent_does_not_blame_its_child() {
    let Some(sandbox) = Sandbox::new("a_suspended_agent_does_not_blame_its_child") else { return };
    sandbox.change_manifest("stall = \"1m\"", "stall = \"3s\"");
    sandbox.behaviour("yocto-check-layer slow 1000");
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "Detected layers");
    running.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(6));
    running.signal(Signal::SIGCONT);
    running.wait().assert_code(&[0]);
}

#[test]
fn a_flood_of_output_does_not_increase_memory() {
    let Some(sandbox) = Sandbox::new("a_flood_of_output_does_not_increase_memory") else { return };
    let mebibytes = std::env::var("BUILD_AGENT_TEST_FLOOD_MIB").unwrap_or_else(|_| "256".into());
    sandbox.behaviour(&format!("yocto-check-layer flood {mebibytes}"));
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    assert!(ran.peak_kib > 0, "the size was never seen");
    assert!(ran.peak_kib <= 64 * 1024, "{} KiB while {mebibytes} MiB were printed", ran.peak_kib);
    let logs = std::fs::read_dir(sandbox.out().join("logs")).unwrap();
    let written: u64 = logs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    // The log has at most `[limits] log` bytes.
    let printed = mebibytes.parse::<u64>().unwrap().min(2048) * 1024 * 1024;
    assert!(written >= printed * 74 / 100, "{written} bytes of {printed} are in the log");
}
