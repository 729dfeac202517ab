//! Jobs that publish their caches to the share: after a success, a failure and a stop, and only where
//! they may.

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
fn kept(sandbox: &Sandbox) -> Vec<String> {
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
fn a_trusted_build_publishes_what_it_made_and_finds_it_the_next_time() {
    let Some(sandbox) = job("a_trusted_build_publishes_what_it_made_and_finds_it_the_next_time") else {
        return;
    };
    let ran = sandbox.start(command(&sandbox, &["--trusted"])).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["4 objects", "cache publish"]);
    assert_eq!(kept(&sandbox), [&COMPILED[..], &DEPLOYED, &FETCHED].concat());
    let counts = |name: &str| sandbox.result()["cache"][0]["published"][name].clone();
    assert_eq!(
        (counts("published"), counts("failed")),
        (4.into(), 0.into()),
        "{:#}",
        sandbox.result()["cache"]
    );
    sandbox.start(command(&sandbox, &["--trusted"])).wait().assert_code(&[0]);
    assert_eq!((counts("published"), counts("present")), (0.into(), 4.into()));
    // Each build has told how well the caches served it.
    assert_eq!(files(&share(&sandbox).join("usage/scarthgap")).len(), 2);
}

#[test]
fn a_job_holds_a_lease_while_it_runs_and_gives_it_back_however_it_ends() {
    let test = "a_job_holds_a_lease_while_it_runs_and_gives_it_back_however_it_ends";
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

/// Not even what a trusted build could not publish is taken along by one that nobody vouches for.
#[test]
fn a_build_that_nobody_vouches_for_publishes_nothing() {
    let Some(sandbox) = job("a_build_that_nobody_vouches_for_publishes_nothing") else { return };
    let ran = sandbox.start(command(&sandbox, &[])).wait();
    ran.assert_code(&[0]);
    assert_eq!(kept(&sandbox), [] as [&str; 0]);
}

#[test]
fn a_failed_build_publishes_what_was_well_and_stays_failed() {
    let Some(sandbox) = job("a_failed_build_publishes_what_was_well_and_stays_failed") else { return };
    sandbox.behaviour("bitbake fail do_deploy");
    sandbox.start(command(&sandbox, &["--trusted"])).wait().assert_code(&[1]);
    assert_eq!(sandbox.result()["outcome"], "failed");
    assert_eq!(kept(&sandbox), [&COMPILED[..], &FETCHED].concat());
}

#[test]
fn a_cancelled_build_publishes_what_is_done_within_the_grace() {
    let Some(sandbox) = job("a_cancelled_build_publishes_what_is_done_within_the_grace") else { return };
    sandbox.change_manifest("grace = \"2s\"", "grace = \"20s\"");
    sandbox.behaviour("bitbake slow 5000");
    let mut running = sandbox.start(command(&sandbox, &["--trusted"]));
    sandbox.wait_for_log(&mut running, "task do_fetch: Succeeded");
    running.signal(Signal::SIGTERM);
    running.wait().assert_code(&[130]);
    assert_eq!(sandbox.result()["outcome"], "cancelled");
    let kept = kept(&sandbox);
    assert!(FETCHED.iter().all(|name| kept.iter().any(|kept| kept == name)), "{kept:?}");
    sandbox.assert_nothing_runs();
}

/// The stop comes when the share is already being looked at, and the share is slow: what is left of the work has
/// the same grace as if the stop had come before.
#[test]
fn a_stop_in_the_middle_of_publishing_leaves_it_the_grace() {
    let test = "a_stop_in_the_middle_of_publishing_leaves_it_the_grace";
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

/// A share that takes nothing costs words and no verdict.
#[test]
fn a_share_that_is_no_directory_below_costs_a_warning() {
    let Some(sandbox) = job("a_share_that_is_no_directory_below_costs_a_warning") else { return };
    for name in ["sstate", "downloads"] {
        std::fs::write(Path::new(&share(&sandbox)).join(name), "in the way").unwrap();
    }
    let ran = sandbox.start(command(&sandbox, &["--trusted"])).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["the share did not take all", "4 failed", "Not a directory"]);
    assert_eq!(sandbox.result()["outcome"], "passed");
}
