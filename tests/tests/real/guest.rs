//! OE-Core's own tests on a guest in QEMU: BitBake, testimage and `testresults.json` are real, the image is not
//! (`layers-fixtures/meta-guest`).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::survivors;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD};

/// The fixture, with the system for QEMU in its directory.
pub fn guest(test: &str) -> Option<Fixture> {
    let packages = build_agent_tests::guest::packages(test)?;
    let fixture = Fixture::new(test, "meta-guest", &[POKY])?;
    build_agent_tests::guest::pack(&packages, &system(&fixture), "");
    std::fs::set_permissions(system(&fixture), std::fs::Permissions::from_mode(0o755)).unwrap();
    Some(fixture)
}

fn system(fixture: &Fixture) -> PathBuf {
    fixture.directory.path().join("system")
}

/// The words of `run` for a guest with these ptests.
pub fn words(fixture: &Fixture, ptests: &str, more: &[&str]) -> Vec<String> {
    let conf =
        format!("{NARROW_BUILD}GUEST = \"{}\"\nGUEST_PTESTS = \"{ptests}\"\n", system(fixture).display());
    let mut words = vec!["run".to_owned(), "--set".into(), format!("config.local_conf={conf}")];
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

fn run(fixture: &Fixture, ptests: &str, more: &[&str]) -> build_agent_tests::Ran {
    let words = words(fixture, ptests, more);
    fixture.call(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The outcome and the reason of each test.
pub fn tests(fixture: &Fixture) -> BTreeMap<String, (String, String)> {
    let result = fixture.result();
    let units = result["units"].as_array().unwrap().iter().filter(|unit| unit["stage"] == "test");
    let cases = units.flat_map(|unit| unit["cases"].as_array().cloned().unwrap_or_default());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    cases
        .map(|case| {
            let id = format!("{}.{}", text(&case["class"]), text(&case["name"]));
            (id, (text(&case["outcome"]), text(&case["reason"])))
        })
        .collect()
}

#[track_caller]
pub fn assert_nothing_runs(fixture: &Fixture) {
    let left = survivors(fixture.directory.path());
    assert!(left.is_empty(), "{left:?}");
}

/// The outcomes of tests, each with a part of its reason.
#[track_caller]
fn assert_tests(fixture: &Fixture, wanted: &[(&str, &str, &str)]) {
    let found = tests(fixture);
    for (test, outcome, reason) in wanted {
        let Some((is, why)) = found.get(*test) else { panic!("no {test} in {found:#?}") };
        assert_eq!(is, outcome, "{test}: {why}");
        assert!(why.contains(reason), "{test}: {reason} not in {why}");
    }
    assert_nothing_runs(fixture);
}

#[test]
fn a_guest_is_tested_and_a_ptest_that_hangs_is_stopped() {
    let Some(fixture) = guest("a_guest_is_tested_and_a_ptest_that_hangs_is_stopped") else { return };
    let ran = run(&fixture, "bad good hangs zlast", &[]);
    ran.assert_code(&[1]);
    assert_tests(
        &fixture,
        &[
            ("ping.PingTest.test_ping", "passed", ""),
            ("ssh.SSHTest.test_ssh", "passed", ""),
            ("ptest.bad.run-ptest", "failed", "it ended with status 1"),
            ("ptest.bad.two", "failed", ""),
            ("ptest.bad.one", "passed", ""),
            ("ptest.good.run-ptest", "passed", ""),
            ("ptest.good.one", "passed", ""),
            ("ptest.good.two__of_no_use_here_", "skipped", ""),
            ("ptest.hangs.run-ptest", "timed-out", "silent"),
            ("ptest.hangs.one", "passed", ""),
            ("ptest.zlast.run-ptest", "passed", ""),
        ],
    );
}

/// One ptest is killed, one runs out of memory, one panics the kernel: all others have results, the one after the panic
/// in another boot.
#[test]
fn a_ptest_that_breaks_the_guest_does_not_take_the_others_with_it() {
    let test = "a_ptest_that_breaks_the_guest_does_not_take_the_others_with_it";
    if build_agent_tests::is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = guest(test) else { return };
    let ran = run(&fixture, "empty good hog killed panics zlast", &[]);
    ran.assert_code(&[1]);
    assert_tests(
        &fixture,
        &[
            ("ptest.empty.run-ptest", "failed", "without the result of a single test"),
            ("ptest.good.run-ptest", "passed", ""),
            ("ptest.hog.run-ptest", "failed", "Killed process"),
            ("ptest.killed.run-ptest", "failed", "before it completed"),
            ("ptest.panics.run-ptest", "failed", "Kernel panic - not syncing"),
            ("ptest.zlast.run-ptest", "passed", ""),
        ],
    );
}

/// A running system that answers ssh.
pub struct Device(Child);

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn device(fixture: &Fixture, ptests: &str) -> (Device, u16) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let system = system(fixture);
    let mut qemu = Command::new("/usr/bin/qemu-system-x86_64");
    qemu.args(["-display", "none", "-m", "192", "-no-reboot", "-cpu", "max", "-kernel"]);
    qemu.arg(system.join("vmlinuz")).arg("-initrd").arg(system.join("initrd.gz"));
    qemu.args(["-append", &format!("console=ttyS0 panic=-1 quiet guest_ptests={ptests}")]);
    qemu.args(["-netdev", &format!("user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22")]);
    qemu.args(["-device", "virtio-net-pci,netdev=net0", "-serial", "null", "-serial", "null"]);
    qemu.stdin(Stdio::null());
    (Device(qemu.spawn().unwrap()), port)
}

#[test]
fn a_system_that_answers_ssh_is_tested_with_and_without_bitbake() {
    let test = "a_system_that_answers_ssh_is_tested_with_and_without_bitbake";
    if build_agent_tests::is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = guest(test) else { return };
    let (_device, port) = device(&fixture, "good");
    let target = format!("test.target=ssh://root@127.0.0.1:{port}");
    for runner in ["bitbake", "oe-test"] {
        let runner = format!("test.runner={runner}");
        let ran = run(&fixture, "good", &["--set", &target, "--set", &runner]);
        ran.assert_code(&[0]);
        let found = tests(&fixture);
        for test in
            ["ping.PingTest.test_ping", "ssh.SSHTest.test_ssh", "ptest.good.run-ptest", "ptest.good.one"]
        {
            assert_eq!(
                found.get(test).map(|(outcome, _)| outcome.as_str()),
                Some("passed"),
                "{runner}: {found:#?}"
            );
        }
    }
    // What the image has and the device has not.
    let ran = run(&fixture, "good bad", &["--set", &target]);
    ran.assert_code(&[1]);
    assert!(
        tests(&fixture)["ptest.bad.run-ptest"].1.contains("bad-ptest is there, but its ptest did not run")
    );
}

/// While a ptest hangs, and at random moments of the job: no guest and no BitBake is left, and the reports name the stop.
#[test]
fn an_interrupt_at_any_moment_leaves_no_guest() {
    let test = "an_interrupt_at_any_moment_leaves_no_guest";
    if build_agent_tests::is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = guest(test) else { return };
    let words = words(&fixture, "hangs", &["--set", "test.silence=10m"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_millis();
    let moments = (0..4).map(|number| Some(Duration::from_secs(3 + number * 15 + u64::from(seed) % 15)));
    for moment in std::iter::once(None).chain(moments) {
        let mut running = fixture.start(&words);
        match moment {
            None => running.wait_until("a ptest that hangs", || has_file(&fixture, "ptest-hangs.log")),
            Some(after) => {
                let until = Instant::now() + after;
                running.wait_until("the moment of the signal", || Instant::now() > until);
            }
        }
        running.signal(Signal::SIGTERM);
        running.wait_for(Duration::from_secs(120)).assert_code(&[130]);
        assert_eq!(fixture.result()["outcome"], "cancelled", "{moment:?}");
        assert_nothing_runs(&fixture);
    }
}

fn has_file(fixture: &Fixture, name: &str) -> bool {
    // To walk a build directory takes a while.
    std::thread::sleep(Duration::from_secs(1));
    let found = Command::new("find").arg(fixture.directory.path()).args(["-name", name]).output().unwrap();
    !found.stdout.is_empty()
}
