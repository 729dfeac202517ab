//! Guests of QEMU: images that work, and images that do not.

use std::path::PathBuf;

use build_agent_tests::is_left_to_the_long_run;
use serde_json::json;

use crate::lab_host::LabHost;
use build_agent_tests::guest::{image, packages};

const GUEST: &str = "[devices.guest]\npool = \"boards\"\nqemu = {}\n";

/// A lab with one guest, and an image.
fn guest_lab(test: &str, mode: &str) -> Option<(LabHost, Vec<PathBuf>)> {
    let packages = packages(test)?;
    let host = LabHost::new();
    host.write_lab(GUEST);
    let directory = host.path().join("image");
    std::fs::create_dir(&directory).unwrap();
    let files = image(&packages, &directory, mode);
    Some((host, files))
}

#[test]
fn a_guest_boots_is_tested_and_ends() {
    let Some((host, files)) = guest_lab("a_guest_boots_is_tested_and_ends", "") else { return };
    let warn = "echo '<4>WARNING: CPU: 0 PID: 1 at the test' >/dev/kmsg";
    host.submit("request-1", &files, &json!({ "commands": ["uname -a", warn, "ping -c 1 10.0.2.2"] }));
    let crash = ["uname", "sleep 1; echo c >/proc/sysrq-trigger; sleep 60", "uname"];
    host.submit("request-2", &files, &json!({ "commands": crash, "tests": ["commands", "ptest"] }));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    assert_eq!(verdict.verdict["outcome"], "passed", "{:#}", verdict.result);
    verdict.assert_unit("boot core-image-test on guest", "passed", "");
    verdict.assert_unit("commands core-image-test on guest", "passed", "");
    let boot = &verdict.result["units"].as_array().unwrap()[0]["cases"][0];
    assert_eq!((&boot["name"], &boot["outcome"]), (&json!("boot"), &json!("passed")));
    assert!(boot["seconds"].as_f64().unwrap() > 0.1, "the time of the boot: {boot}");
    let found = verdict.result["findings"].to_string();
    assert!(found.contains("kernel-warning") && found.contains("at the test"), "{found}");
    let console = verdict.console();
    for words in ["[build-agent: power on]", "Linux version", "guest: ready", "[build-agent: power off]"] {
        assert!(console.contains(words), "{words}: {console}");
    }
    // The kernel dies in the middle of the tests.
    let verdict = host.verdict(&mut lab, "request-2");
    assert_eq!(verdict.verdict["outcome"], "failed", "{:#}", verdict.result);
    verdict.assert_unit("boot core-image-test on guest", "passed", "");
    verdict.assert_unit("commands core-image-test on guest", "failed", "the kernel crashed: ");
    verdict.assert_unit("ptest core-image-test on guest", "not-run", "the kernel crashed");
    assert!(verdict.excerpt("commands core-image-test on guest").contains("Kernel panic - not syncing"));
    host.stop(lab);
}

#[test]
fn an_image_that_does_not_boot_fails_with_the_end_of_its_console() {
    let Some((host, files)) =
        guest_lab("an_image_that_does_not_boot_fails_with_the_end_of_its_console", "panics")
    else {
        return;
    };
    host.submit("request-1", &files, &json!({}));
    // A file that is missing.
    host.submit("request-2", &files[..2], &json!({}));
    host.submit("request-3", &files[1..], &json!({}));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    assert_eq!((&verdict.verdict["outcome"], &verdict.verdict["attempt"]), (&json!("failed"), &json!(1)));
    verdict.assert_unit("boot core-image-test on guest", "failed", "the kernel crashed: ");
    verdict.assert_unit("commands core-image-test on guest", "not-run", "the device was not ready");
    assert!(verdict.excerpt("boot core-image-test on guest").contains("Kernel panic - not syncing"));
    for (id, wanted) in [("request-2", "qemuboot.conf"), ("request-3", "the request has no kernel (bzImage)")]
    {
        let verdict = host.verdict(&mut lab, id);
        assert_eq!(verdict.verdict["outcome"], "failed");
        verdict.assert_unit("boot core-image-test on guest", "failed", wanted);
    }
    host.stop(lab);
}

#[test]
fn a_flood_of_the_console_fills_no_disk() {
    let test = "a_flood_of_the_console_fills_no_disk";
    let Some((host, files)) = guest_lab(test, "floods") else { return };
    host.submit("request-1", &files, &json!({}));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    verdict.assert_unit("boot core-image-test on guest", "passed", "");
    let console = verdict.console();
    assert!(console.len() < 2 << 20, "{} bytes", console.len());
    assert!(console.contains("Linux version") && console.contains("a flood of the console"));
    host.stop(lab);
}

#[test]
fn a_guest_that_hangs_does_not_boot() {
    let test = "a_guest_that_hangs_does_not_boot";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some((host, files)) = guest_lab(test, "hangs") else { return };
    host.limit_boot("20s");
    host.submit("request-1", &files, &json!({}));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    verdict.assert_unit("boot core-image-test on guest", "failed", "it does not answer ssh at 127.0.0.1:");
    host.stop(lab);
}

/// A listener on loopback of the lab host, such as a coordinator without authentication. A trusted image may reach it.
#[test]
fn a_guest_of_an_untrusted_source_reaches_nothing() {
    let Some((host, files)) = guest_lab("a_guest_of_an_untrusted_source_reaches_nothing", "") else { return };
    host.write_lab(&GUEST.replace("qemu = {}", "untrusted = true\nqemu = {}"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"hello\n");
        }
    });
    let reach = format!("nc -w 5 10.0.2.2 {port} </dev/null | grep hello");
    host.submit("request-1", &files, &json!({ "commands": [reach] }));
    host.submit(
        "request-2",
        &files,
        &json!({ "commands": [format!("! {{ {reach}; }}")], "trust": "untrusted" }),
    );
    let mut lab = host.serve();
    for id in ["request-1", "request-2"] {
        let verdict = host.verdict(&mut lab, id);
        assert_eq!(verdict.verdict["outcome"], "passed", "{id}: {:#}", verdict.result);
    }
    host.stop(lab);
}

/// The device's ssh server ends while a command runs, and one command never ends.
#[test]
fn a_guest_that_loses_ssh_fails_and_one_that_hangs_is_stopped() {
    let test = "a_guest_that_loses_ssh_fails_and_one_that_hangs_is_stopped";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some((host, files)) = guest_lab(test, "") else { return };
    host.submit("request-1", &files, &json!({ "commands": ["killall dropbear; sleep 5", "uname"] }));
    host.submit("request-2", &files, &json!({ "commands": ["sleep 1000"], "run_limit": 25 }));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    verdict.assert_unit("commands core-image-test on guest", "failed", "connection to the device ended");
    let verdict = host.verdict(&mut lab, "request-2");
    assert_eq!(verdict.verdict["outcome"], "timed-out", "{:#}", verdict.verdict);
    host.stop(lab);
}
