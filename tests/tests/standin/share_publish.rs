//! Jobs that publish their caches to the share: after a success, a failure and a stop, and only if they may.

use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{Sandbox, SlowFs};
use nix::sys::signal::Signal;

/// A job that builds `hello` with a share.
fn job(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    std::fs::create_dir(share(&sandbox)).unwrap();
    let text = sandbox.manifest_text();
    let share = share(&sandbox);
    sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n[cache]\nshare = {share:?}\n"));
    Some(sandbox)
}

fn share(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("share")
}

fn command(sandbox: &Sandbox, more: &[&str]) -> Command {
    let mut command = sandbox.run_command();
    command.args(["--only", "build,publish"]).args(more);
    command
}

/// The tasks whose objects are in the share, and the downloads.
fn published_files(sandbox: &Sandbox) -> Vec<String> {
    let files = ["sstate", "downloads"].into_iter().flat_map(|part| files(&share(sandbox).join(part)));
    let task = |name: String| name.rsplit_once('_').map(|(_, task)| task.to_owned()).unwrap_or(name);
    let mut found: Vec<String> = files.map(task).collect();
    found.sort();
    found
}

/// The names of all files below.
fn files(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.exists() {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

const FETCHED: [&str; 3] = ["fetch.tar.zst", "fetch.tar.zst.siginfo", "hello-1.0.tar.gz"];
const COMPILED: [&str; 2] = ["compile.tar.zst", "compile.tar.zst.siginfo"];
const DEPLOYED: [&str; 2] = ["deploy.tar.zst", "deploy.tar.zst.siginfo"];

#[test]
fn a_trusted_build_publishes_its_objects_and_finds_them_the_next_time() {
    let Some(sandbox) = job("a_trusted_build_publishes_its_objects_and_finds_them_the_next_time") else {
        return;
    };
    let ran = sandbox.start(command(&sandbox, &["--trusted"])).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["4 objects", "cache publish"]);
    assert_eq!(published_files(&sandbox), [&COMPILED[..], &DEPLOYED, &FETCHED].concat());
    let counts = |name: &str| sandbox.result()["cache"][0]["published"][name].clone();
    assert_eq!(
        (counts("published"), counts("failed")),
        (4.into(), 0.into()),
        "{:#}",
        sandbox.result()["cache"]
    );
    sandbox.start(command(&sandbox, &["--trusted"])).wait().assert_code(&[0]);
    assert_eq!((counts("published"), counts("present")), (0.into(), 4.into()));
    // Each build has written a usage record.
    assert_eq!(files(&share(&sandbox).join("usage/scarthgap")).len(), 2);
}

#[test]
fn a_job_has_a_lease_while_it_runs_and_removes_it_at_any_end() {
    let test = "a_job_has_a_lease_while_it_runs_and_removes_it_at_any_end";
    let Some(sandbox) = job(test) else { return };
    let leases = || files(&share(&sandbox).join("leases"));
    sandbox.behaviour("bitbake slow 5000");
    let mut running = sandbox.start(command(&sandbox, &["--trusted"]));
    sandbox.wait_for_log(&mut running, "task do_fetch: Succeeded");
    assert!(matches!(&leases()[..], [lease] if lease.starts_with("scarthgap.")), "{:?}", leases());
    running.signal(Signal::SIGTERM);
    running.wait().assert_code(&[130]);
    assert_eq!(leases(), [] as [&str; 0]);
    sandbox.behaviour("bitbake fail do_deploy");
    sandbox.start(command(&sandbox, &["--trusted"])).wait().assert_code(&[1]);
    assert_eq!(leases(), [] as [&str; 0]);
}

/// An untrusted build does not publish the objects of a trusted build that failed to publish them, either.
#[test]
fn an_untrusted_build_publishes_nothing() {
    let Some(sandbox) = job("an_untrusted_build_publishes_nothing") else { return };
    let ran = sandbox.start(command(&sandbox, &[])).wait();
    ran.assert_code(&[0]);
    assert_eq!(published_files(&sandbox), [] as [&str; 0]);
}

#[test]
fn a_failed_build_publishes_finished_objects_and_stays_failed() {
    let Some(sandbox) = job("a_failed_build_publishes_finished_objects_and_stays_failed") else { return };
    sandbox.behaviour("bitbake fail do_deploy");
    sandbox.start(command(&sandbox, &["--trusted"])).wait().assert_code(&[1]);
    assert_eq!(sandbox.result()["outcome"], "failed");
    assert_eq!(published_files(&sandbox), [&COMPILED[..], &FETCHED].concat());
}

#[test]
fn a_cancelled_build_publishes_finished_objects_within_the_grace() {
    let Some(sandbox) = job("a_cancelled_build_publishes_finished_objects_within_the_grace") else { return };
    sandbox.change_manifest("grace = \"2s\"", "grace = \"20s\"");
    sandbox.behaviour("bitbake slow 5000");
    let mut running = sandbox.start(command(&sandbox, &["--trusted"]));
    sandbox.wait_for_log(&mut running, "task do_fetch: Succeeded");
    running.signal(Signal::SIGTERM);
    running.wait().assert_code(&[130]);
    assert_eq!(sandbox.result()["outcome"], "cancelled");
    let published_files = published_files(&sandbox);
    assert!(
        FETCHED.iter().all(|name| published_files.iter().any(|published_files| published_files == name)),
        "{published_files:?}"
    );
    sandbox.assert_nothing_runs();
}

/// The stop comes while the share, which is slow, is being read: the rest of the work gets the same grace as if the
/// stop had come before.
#[test]
fn a_stop_during_publish_leaves_it_the_grace() {
    let test = "a_stop_during_publish_leaves_it_the_grace";
    let Some(sandbox) = job(test) else { return };
    sandbox.change_manifest("grace = \"2s\"", "grace = \"60s\"");
    let behind = sandbox.path().join("behind");
    std::fs::create_dir(&behind).unwrap();
    let slow = ["--metadata-ms", "100", "--create-ms", "500"];
    let Some(slow) = SlowFs::mount(test, &behind, &share(&sandbox), &slow) else { return };
    let mut running = sandbox.start(command(&sandbox, &["--trusted"]));
    let events = sandbox.out().join("events.jsonl");
    let is_publishing = || {
        let events = std::fs::read_to_string(&events).unwrap_or_default();
        events.lines().any(|line| line.contains("\"unit-started\"") && line.contains("cache publish"))
    };
    running.wait_until("the beginning of publishing", is_publishing);
    running.signal(Signal::SIGTERM);
    running.wait().assert_says(&["SIGTERM: stopping, up to 60 s"]);
    drop(slow);
    let published = ["sstate", "downloads"].iter().flat_map(|part| files(&behind.join(part))).count();
    assert_eq!(published, COMPILED.len() + DEPLOYED.len() + FETCHED.len());
    sandbox.assert_nothing_runs();
}

/// A share that accepts no objects causes a warning, and does not change the verdict.
#[test]
fn a_share_with_files_in_place_of_directories_causes_a_warning() {
    let Some(sandbox) = job("a_share_with_files_in_place_of_directories_causes_a_warning") else { return };
    for name in ["sstate", "downloads"] {
        std::fs::write(Path::new(&share(&sandbox)).join(name), "in the way").unwrap();
    }
    let ran = sandbox.start(command(&sandbox, &["--trusted"])).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["the share did not take all", "4 failed", "Not a directory"]);
    assert_eq!(sandbox.result()["outcome"], "passed");
}
