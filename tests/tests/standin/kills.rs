//! SIGKILL at any moment: the reports that can still be made, and the next job in the same directory.

use std::path::Path;

use build_agent_tests::{Running, Sandbox, json, skip, survivors, well_formed_xml};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::leftovers::look_for;

/// Kills a job after it has started a stand-in that hangs.
fn killed_while(sandbox: &Sandbox, behaviour: &str) {
    sandbox.behaviour(behaviour);
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "hanging");
    end(running);
}

fn end(running: Running) {
    running.signal(Signal::SIGKILL);
    assert_eq!(running.wait().signal, Some(9), "the kill came after the end");
}

/// Only the events exist, truncated at any position, and the reports are rebuilt from them. An earlier job's passed
/// result must not be taken for that of this job.
#[test]
fn reports_are_rebuilt_after_a_kill_at_any_moment() {
    let Some(sandbox) = Sandbox::new("reports_are_rebuilt_after_a_kill_at_any_moment") else { return };
    sandbox.behaviour("yocto-check-layer slow 200");
    for milliseconds in [30, 100, 250, 500, 900, 1500] {
        sandbox.run().assert_code(&[0]);
        let events = sandbox.out().join("events.jsonl");
        let earlier = std::fs::read(&events).unwrap();
        let mut running = sandbox.start(sandbox.run_command());
        running.wait_until("a new event file", || std::fs::read(&events).is_ok_and(|now| now != earlier));
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        end(running);
        let reports = ["result.json", "junit.xml"].map(|name| sandbox.out().join(name));
        // The verdict of the earlier job goes before the first report of this one comes.
        if reports[0].exists() {
            let result = json(&reports[0]);
            assert_eq!(result["outcome"], "not-run", "killed after {milliseconds} ms: {result:#}");
        }
        let ran = sandbox.call([Path::new("report"), &events]);
        // 2: the file is empty, and the message says so.
        assert!(matches!(ran.code, Some(2 | 70)), "{ran:?}");
        if ran.code == Some(70) || reports[0].exists() {
            assert_ne!(json(&reports[0])["outcome"], "passed");
            well_formed_xml(&reports[1], "testcase");
        }
    }
}

#[test]
fn the_next_job_ends_processes_of_a_killed_agent() {
    const NAME: &str = "the_next_job_ends_processes_of_a_killed_agent";
    for tool in ["yocto-check-layer", "bitbake-layers"] {
        let Some(sandbox) = Sandbox::new(NAME) else { return };
        killed_while(&sandbox, &format!("{tool} hang"));
        assert!(!survivors(sandbox.path()).is_empty(), "the stand-in died with the agent");
        sandbox.behaviour(&format!("{tool} pass"));
        let ran = sandbox.run();
        ran.assert_code(&[0]);
        ran.assert_says(&["an earlier job was killed here and left running"]);
        sandbox.assert_nothing_runs();
    }
}

/// They have no marker, and each ends too fast to be inspected. They are in the killed agent's process group.
#[test]
fn the_next_job_ends_processes_that_fork_forever() {
    const NAME: &str = "the_next_job_ends_processes_that_fork_forever";
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    sandbox.run().assert_code(&[0]);
    let record = look_for(&sandbox, "control-group");
    if record.is_none() {
        return skip(NAME, "the agent may make no control groups here");
    }
    killed_while(&sandbox, "yocto-check-layer forker 3 hang");
    let beat = look_for(&sandbox, "beat").unwrap();
    let beats = || std::fs::metadata(&beat).map_or(0, |beat| beat.len());
    let before = beats();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_ne!(beats(), before, "they died with the agent");
    let group = std::fs::read_to_string(record.unwrap()).unwrap();
    sandbox.behaviour("yocto-check-layer pass");
    let ran = sandbox.run();
    let left = std::fs::read_to_string(Path::new(&group).join("cgroup.procs"));
    ran.assert_code(&[0]);
    ran.assert_says(&["an earlier job was killed here and left running"]);
    assert!(left.is_err(), "{group} is still there, with {left:?}");
    sandbox.assert_nothing_runs();
}

/// BitBake's server has no marker, and its parent is gone.
#[test]
fn a_server_without_its_client_is_found_by_its_lock() {
    let Some(sandbox) = Sandbox::new("a_server_without_its_client_is_found_by_its_lock") else { return };
    killed_while(&sandbox, "yocto-check-layer server");
    let is_server = |command: &str| command.contains("bitbake-server");
    for client in survivors(sandbox.path()).iter().filter(|one| !is_server(&one.command)) {
        kill(Pid::from_raw(client.pid), Signal::SIGKILL).unwrap();
    }
    assert!(survivors(sandbox.path()).iter().any(|one| is_server(&one.command)), "there is no server");
    sandbox.behaviour("yocto-check-layer pass");
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["BitBake's server"]);
    sandbox.assert_nothing_runs();
}

/// An unreadable manifest gives the outcome of this job, not that of the one before.
#[test]
fn an_invalid_manifest_invalidates_the_last_verdict() {
    let Some(sandbox) = Sandbox::new("an_invalid_manifest_invalidates_the_last_verdict") else { return };
    sandbox.run().assert_code(&[0]);
    sandbox.write_manifest("this is no TOML");
    sandbox.run().assert_code(&[2]);
    assert_eq!(sandbox.result()["outcome"], "not-run");
    sandbox.call([Path::new("report"), &sandbox.out().join("events.jsonl")]).assert_code(&[2]);
}
