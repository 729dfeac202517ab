//! `build-agent lab …`: what people see and change.

use serde_json::{Value, json};

use crate::fixture::{Bench, Kind, stop};

#[test]
fn people_see_labs_devices_and_requests() {
    let Some(bench) = Bench::new("people_see_labs_devices_and_requests", Kind::Directory, &["pi-1", "pi-2"])
    else {
        return;
    };
    bench.command(&["status"]).assert_says(&["no lab", "no request waits"]);
    bench.command(&["drain", "all"]).assert_code(&[2]);
    bench.submit("request-waits", &["true"], |request| request["pool"] = json!("elsewhere"));
    bench.store.put("requests/request-broken/request.json", b"{");
    bench.store.put("open/request-broken", b"");
    bench.command(&["requests"]).assert_says(&["request-waits", "waiting", "request-broken", "invalid"]);
    let file = bench.lab("desk", "poll = \"200ms\"\nboot = \"30s\"", "");
    let mut lab = bench.serve(&file);
    // No lab can run it, so it ends.
    let verdict = bench.verdict(&mut lab, "request-broken");
    assert_eq!((&verdict["outcome"], &verdict["exit"]), (&json!("not-run"), &json!("usage")), "{verdict}");
    let state = || {
        let shown = bench.command(&["status", "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        let devices = shown["labs"][0]["devices"].as_array().unwrap().clone();
        devices.iter().map(|device| device["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    lab.wait_until("idle devices", || state() == ["idle", "idle"]);
    let wrong = bench.command(&["drain", "pi-3"]);
    wrong.assert_code(&[2]);
    wrong.assert_says(&["no lab of this store has the device `pi-3`", "pi-1, pi-2"]);
    bench.command(&["drain", "pi-2"]).assert_code(&[0]);
    lab.wait_until("the drained device", || state() == ["idle", "drained"]);
    bench.command(&["drain", "all"]).assert_code(&[0]);
    lab.wait_until("the drained devices", || state() == ["drained", "drained"]);
    bench.submit("request-drained", &["true"], |_| {});
    bench.command(&["drain", "all", "--undo"]).assert_code(&[0]);
    assert_eq!(bench.verdict(&mut lab, "request-drained")["outcome"], "passed");
    // A second lab with the same directory must not start.
    let second = bench.serve(&file).wait();
    second.assert_code(&[3]);
    second.assert_says(&["another lab uses the state directory"]);
    stop(lab).assert_code(&[0]);
}

#[test]
fn a_store_must_be_named() {
    let place = tempfile::tempdir().unwrap();
    let mut command = build_agent_tests::agent();
    command.current_dir(place.path()).args(["lab", "status"]);
    let ran = build_agent_tests::Running::start(command, place.path()).wait();
    ran.assert_code(&[2]);
    ran.assert_says(&["--store"]);
}
