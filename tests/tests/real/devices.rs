//! The job's own tests on a device: real BitBake exports them, a lab takes the request, and OE-Core's real test modules run
//! against a guest in QEMU that answers ssh.

use std::time::Duration;

use build_agent_tests::{Running, agent, commit, is_left_to_the_long_run};
use nix::sys::signal::Signal;

use crate::fixture::Fixture;
use crate::guest::{assert_nothing_runs, device, guest, tests, words};

/// A lab with one device, which is simply there. Commands run on it, too.
fn lab(fixture: &Fixture, port: u16) -> Running {
    let place = fixture.directory.path();
    let file = place.join("lab.toml");
    let text = format!(
        "version = 1\nname = 'lab'\nstore = '{store}'\nstate = '{state}'\n{user}\
         [limits]\npoll = '1s'\nboot = '5m'\n\
         [devices.guest]\npool = 'guests'\n[devices.guest.ssh]\nhost = '127.0.0.1'\nport = {port}\n",
        store = place.join("store").display(),
        state = place.join("lab").display(),
        user = if nix::unistd::geteuid().is_root() { "build_user = 'builder'\n" } else { "" },
    );
    std::fs::write(&file, text).unwrap();
    let mut serve = agent();
    serve.args(["lab", "serve"]).arg(&file).current_dir(place);
    Running::start(serve, place)
}

/// Replaces the manifest's tests in QEMU.
fn without_tests_in_qemu(fixture: &Fixture) {
    let path = fixture.layer().join("build-agent.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("[test]").unwrap();
    let (_, after) = rest.split_once("[limits]").unwrap();
    std::fs::write(&path, format!("{before}[limits]{after}")).unwrap();
    commit(&fixture.layer(), "Test on a device only");
}

/// `run` with tests on a device of the lab, as a trusted source.
fn run(fixture: &Fixture, more: &[&str]) -> build_agent_tests::Ran {
    let store = format!("artifacts.destination={}", fixture.directory.path().join("store").display());
    let sets = [
        "build.targets=[\"guest-image\"]",
        "device.pool=guests",
        "device.image=guest-image",
        "device.wait=20m",
        &store,
    ];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let more: Vec<&str> = sets.chain(more.iter().copied()).chain(["--trusted"]).collect();
    let words = words(fixture, "good bad", &more);
    fixture.call(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn exported_tests_run_on_a_device_of_a_lab() {
    let test = "exported_tests_run_on_a_device_of_a_lab";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = guest(test) else { return };
    without_tests_in_qemu(&fixture);
    let (guest, port) = device(&fixture, "good,bad");
    let lab = lab(&fixture, port);
    let ran = run(
        &fixture,
        &[
            "--set",
            "device.tests=[\"runtime\",\"ptest\",\"commands\"]",
            "--set",
            "device.commands=[\"uname -s\",\"test -d /proc\",\"exit 7\"]",
        ],
    );
    ran.assert_code(&[1]);
    let found = tests(&fixture);
    for (test, outcome, reason) in [
        ("ping.PingTest.test_ping", "passed", ""),
        ("ssh.SSHTest.test_ssh", "passed", ""),
        ("ptest.good.run-ptest", "passed", ""),
        ("ptest.good.one", "passed", ""),
        ("ptest.bad.run-ptest", "failed", "it ended with status 1"),
        ("commands.uname -s", "passed", ""),
        ("commands.test -d /proc", "passed", ""),
        ("commands.exit 7", "failed", "it ended with exit status 7"),
    ] {
        let (is, why) = found.get(test).unwrap_or_else(|| panic!("no {test} in {found:#?}"));
        assert_eq!(is, outcome, "{test}: {why}");
        assert!(why.contains(reason), "{test}: {why}");
    }
    lab.signal(Signal::SIGTERM);
    lab.wait_for(Duration::from_secs(120)).assert_code(&[0]);
    drop(guest);
    assert_nothing_runs(&fixture);
}

/// Without a lab: the job starts the guest, and tests it with OE-Core's own modules.
#[test]
fn the_job_tests_its_image_on_a_guest() {
    let test = "the_job_tests_its_image_on_a_guest";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = guest(test) else { return };
    without_tests_in_qemu(&fixture);
    let sets = [
        "build.targets=[\"guest-image\"]",
        "device.pool=qemu",
        "device.image=guest-image",
        "device.tests=[\"runtime\",\"commands\"]",
        "device.suites=[\"ping\",\"ssh\"]",
        "device.commands=[\"uname -s\",\"exit 7\"]",
        "device.files=[\"bzImage\",\"*.cpio.gz\",\"*.qemuboot.conf\"]",
    ];
    let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let words = words(&fixture, "good", &more);
    let ran = fixture.call(&words.iter().map(String::as_str).collect::<Vec<_>>());
    ran.assert_code(&[1]);
    let found = tests(&fixture);
    for (test, outcome) in [
        ("ping.PingTest.test_ping", "passed"),
        ("ssh.SSHTest.test_ssh", "passed"),
        ("commands.uname -s", "passed"),
        ("commands.exit 7", "failed"),
    ] {
        let (is, why) =
            found.get(test).unwrap_or_else(|| panic!("no {test} in {found:#?}\n{}", ran.output()));
        assert_eq!(is, outcome, "{test}: {why}");
    }
    assert_nothing_runs(&fixture);
}
