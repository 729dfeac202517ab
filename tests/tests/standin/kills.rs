//! SIGKILL at any moment: the reports that can be made, and the next job in the same place.

use std::path::Path;

use build_agent_tests::{Running, Sandbox, json, skip, survivors, well_formed_xml};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::remains::look_for;

/// Kills a job that has reached a stand-in which hangs.
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

/// Nothing but the events is there, cut off anywhere; the reports come from them. An earlier job's
/// green result must not be taken for this one's.
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
        let result = json(&sandbox.out().join("result.json"));
        assert_eq!(result["outcome"], "not-run", "killed after {milliseconds} ms: {result:#}");
        let ran = sandbox.call([Path::new("report"), &events]);
        // 2: the file is empty and says so.
        assert!(matches!(ran.code, Some(2 | 70)), "{ran:?}");
        assert_ne!(json(&sandbox.out().join("result.json"))["outcome"], "passed");
        well_formed_xml(&sandbox.out().join("junit.xml"), "testcase");
    }
}

#[test]
fn what_a_killed_agent_left_running_is_ended_by_the_next() {
    const NAME: &str = "what_a_killed_agent_left_running_is_ended_by_the_next";
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

/// They have no marker, and none of them lives long enough to be looked at. They are in the killed agent's group.
#[test]
fn what_forks_without_end_is_ended_by_the_next_job() {
    const NAME: &str = "what_forks_without_end_is_ended_by_the_next_job";
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

/// BitBake's server has no marker, and whoever started it is gone.
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

/// What cannot even be read is this job's outcome, and not that of the one before.
#[test]
fn a_broken_manifest_withdraws_the_last_verdict() {
    let Some(sandbox) = Sandbox::new("a_broken_manifest_withdraws_the_last_verdict") else { return };
    sandbox.run().assert_code(&[0]);
    sandbox.write_manifest("this is no TOML");
    sandbox.run().assert_code(&[2]);
    assert_eq!(sandbox.result()["outcome"], "not-run");
    sandbox.call([Path::new("report"), &sandbox.out().join("events.jsonl")]).assert_code(&[2]);
}
