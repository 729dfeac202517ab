//! Requests from the submission to the verdict.

use build_agent_tests::leaks_of;
use serde_json::json;

use crate::fixture::{Bench, Kind, eventually, stop};

const QUICK: &str = "poll = \"200ms\"\nlease = \"20s\"\nboot = \"30s\"";

#[test]
fn requests_pass_fail_and_come_with_reports() {
    for kind in [Kind::Directory, Kind::S3, Kind::Weed] {
        let Some(bench) = Bench::new("requests_pass_fail_and_come_with_reports", kind, &["pi-1"]) else {
            return;
        };
        bench.submit("request-passes", &["true", "echo from the device"], |_| {});
        bench.submit("request-fails", &["true", "exit 3"], |request| {
            request["task_token"] = json!(null);
        });
        let mut lab = bench.serve(&bench.lab("desk", QUICK, ""));
        let passed = bench.verdict(&mut lab, "request-passes");
        assert_eq!((&passed["outcome"], &passed["exit"]), (&json!("passed"), &json!("passed")), "{passed}");
        let failed = bench.verdict(&mut lab, "request-fails");
        assert_eq!((&failed["outcome"], &failed["exit"]), (&json!("failed"), &json!("failed")), "{failed}");
        assert!(failed["reason"].as_str().unwrap().contains("exit 3"), "{failed}");
        for id in ["request-passes", "request-fails"] {
            bench.assert_consistent(id);
            for name in ["result.json", "report.html", "junit.xml", "events.jsonl"] {
                assert!(bench.store.get(&format!("requests/{id}/reports/1/{name}")).is_some(), "{name}");
            }
        }
        let result = bench.store.json("requests/request-passes/reports/1/result.json").unwrap();
        assert_eq!(result["job"]["name"], "meta-x", "{result}");
        assert_eq!(result["job"]["commit"], "0123456789abcdef");
        eventually("the end of the queue", || bench.store.names("open").is_empty());
        bench.devices.assert_driven_by_one();
        stop(lab).assert_code(&[0]);
        // The lease was released.
        let leases = bench.store.names("leases/pi-1");
        assert!(leases.contains(&"2.released.json".to_owned()), "{leases:?}");
        let status = bench.store.json("labs/desk.json").unwrap();
        assert_eq!((&status["stopped"], &status["history"].as_array().unwrap().len()), (&json!(true), &2));
    }
}

#[test]
fn a_request_runs_only_where_it_may() {
    let Some(bench) = Bench::new("a_request_runs_only_where_it_may", Kind::Directory, &["pi-1"]) else {
        return;
    };
    bench.submit("request-other-pool", &["true"], |request| {
        request["pool"] = json!("other");
        request["queue_limit"] = json!(1);
    });
    bench.submit("request-untrusted", &["true"], |request| request["trust"] = json!("untrusted"));
    bench.submit("request-feature", &["true"], |request| request["features"] = json!(["wifi"]));
    bench.submit("request-runs", &["true"], |request| request["priority"] = json!(-5));
    let mut lab = bench.serve(&bench.lab("desk", QUICK, ""));
    assert_eq!(bench.verdict(&mut lab, "request-runs")["outcome"], "passed");
    let late = bench.verdict(&mut lab, "request-other-pool");
    assert_eq!((&late["outcome"], &late["attempt"]), (&json!("timed-out"), &json!(null)), "{late}");
    for id in ["request-untrusted", "request-feature"] {
        assert_eq!(bench.store.verdict(id), None, "{id}");
        assert!(bench.store.names(&format!("requests/{id}")) == ["request.json"], "{id}");
    }
    stop(lab).assert_code(&[0]);
    // A lab that has what they want.
    let mut lab = bench.serve(&bench.lab("desk", QUICK, "untrusted = true\nfeatures = [\"wifi\"]"));
    for id in ["request-untrusted", "request-feature"] {
        assert_eq!(bench.verdict(&mut lab, id)["outcome"], "passed", "{id}");
    }
    stop(lab).assert_code(&[0]);
}

#[test]
fn a_request_is_cancelled_at_any_time() {
    let Some(bench) = Bench::new("a_request_is_cancelled_at_any_time", Kind::Directory, &["pi-1"]) else {
        return;
    };
    bench.submit("request-before", &["true"], |_| {});
    bench.command(&["cancel", "request-before"]).assert_code(&[0]);
    bench.command(&["cancel", "request-unknown"]).assert_code(&[2]);
    bench.submit("request-runs", &["touch started; sleep 600"], |_| {});
    let mut lab = bench.serve(&bench.lab("desk", QUICK, ""));
    let before = bench.verdict(&mut lab, "request-before");
    assert_eq!((&before["outcome"], &before["attempt"]), (&json!("cancelled"), &json!(null)), "{before}");
    let started = bench.devices.directory.join("pi-1/started");
    lab.wait_until("the start of the command", || started.exists());
    let shown = bench.command(&["requests", "--json"]);
    assert!(shown.stdout.contains("\"running\"") && shown.stdout.contains("attempt 1 on pi-1"), "{shown:?}");
    bench.command(&["cancel", "request-runs"]).assert_code(&[0]);
    let cancelled = bench.verdict(&mut lab, "request-runs");
    assert_eq!((&cancelled["outcome"], &cancelled["exit"]), (&json!("cancelled"), &json!("cancelled")));
    assert!(cancelled["reason"].as_str().unwrap().contains("cancelled by"), "{cancelled}");
    bench.command(&["cancel", "request-runs"]).assert_says(&["has a verdict"]);
    // The device is free again.
    bench.submit("request-after", &["true"], |_| {});
    assert_eq!(bench.verdict(&mut lab, "request-after")["outcome"], "passed");
    bench.devices.assert_driven_by_one();
    stop(lab).assert_code(&[0]);
}

#[test]
fn a_request_that_takes_too_long_times_out() {
    let Some(bench) = Bench::new("a_request_that_takes_too_long_times_out", Kind::Directory, &["pi-1"])
    else {
        return;
    };
    bench.submit("request-long", &["sleep 600"], |request| request["run_limit"] = json!(4));
    let mut lab = bench.serve(&bench.lab("desk", QUICK, ""));
    let verdict = bench.verdict(&mut lab, "request-long");
    assert_eq!((&verdict["outcome"], &verdict["exit"]), (&json!("timed-out"), &json!("out-of-time")));
    bench.assert_consistent("request-long");
    stop(lab).assert_code(&[0]);
}

#[test]
fn a_device_that_fails_twice_is_sick_and_its_request_goes_to_another() {
    let test = "a_device_that_fails_twice_is_sick_and_its_request_goes_to_another";
    let Some(bench) = Bench::new(test, Kind::Directory, &["pi-1", "pi-2"]) else { return };
    let good = bench.home.path().join("good.img");
    std::fs::write(&good, "boots for certain").unwrap();
    bench.devices.set("pi-1", "broken", true);
    // Names decide which free device is asked first.
    bench.submit("request-moves", &["true"], |_| {});
    let known_good = format!("known_good = \"{}\"", good.display());
    let mut lab = bench.serve(&bench.lab("desk", QUICK, &known_good));
    let verdict = bench.verdict(&mut lab, "request-moves");
    assert_eq!((&verdict["outcome"], &verdict["device"]), (&json!("passed"), &json!("pi-2")), "{verdict}");
    bench.assert_consistent("request-moves");
    let state = |device: usize| {
        let status = bench.store.json("labs/desk.json").unwrap_or_default();
        status["devices"][device]["state"].as_str().unwrap_or_default().to_owned()
    };
    lab.wait_until("the sick device", || state(0) == "sick");
    let shown = bench.command(&["devices"]);
    shown.assert_says(&["pi-1", "sick", "cannot write its storage"]);
    // The attempt on it has a report, too.
    let reports = bench.store.names("requests/request-moves/reports");
    assert_eq!(reports.len() as u64, verdict["attempt"].as_u64().unwrap(), "{reports:?}");
    bench.devices.set("pi-1", "broken", false);
    bench.command(&["clear", "pi-1"]).assert_code(&[0]);
    bench.command(&["drain", "pi-2"]).assert_code(&[0]);
    bench.submit("request-after", &["true"], |_| {});
    assert_eq!(bench.verdict(&mut lab, "request-after")["device"], "pi-1");
    bench.devices.assert_driven_by_one();
    stop(lab).assert_code(&[0]);
}

#[test]
fn a_request_ends_after_its_attempts_and_a_task_token_is_a_secret() {
    let test = "a_request_ends_after_its_attempts_and_a_task_token_is_a_secret";
    let Some(bench) = Bench::new(test, Kind::Directory, &["pi-1"]) else { return };
    bench.devices.set("pi-1", "broken", true);
    let token = "a-secret-token-of-an-execution";
    bench.submit("request-breaks", &["true"], |request| request["task_token"] = json!(token));
    let mut lab = bench.serve(&bench.lab("desk", &format!("{QUICK}\nattempts = 2"), ""));
    let verdict = bench.verdict(&mut lab, "request-breaks");
    assert_eq!((&verdict["outcome"], &verdict["exit"]), (&json!("not-run"), &json!("machine")), "{verdict}");
    assert_eq!(verdict["attempt"], 2);
    assert!(verdict["reason"].as_str().unwrap().contains("cannot write its storage"), "{verdict}");
    let ran = stop(lab);
    ran.assert_code(&[0]);
    // Only the request itself has it.
    let leaks = leaks_of(&[token.to_owned()], bench.home.path());
    assert_eq!(leaks, [bench.home.path().join("store/devices/v1/requests/request-breaks/request.json")]);
    assert!(!ran.output().contains(token));
}

#[test]
fn a_lab_that_is_stopped_gives_its_requests_back() {
    let Some(bench) = Bench::new("a_lab_that_is_stopped_gives_its_requests_back", Kind::Directory, &["pi-1"])
    else {
        return;
    };
    bench.submit("request-goes-on", &["touch started; sleep $(cat seconds)"], |_| {});
    let seconds = bench.devices.directory.join("pi-1/seconds");
    std::fs::write(&seconds, "600").unwrap();
    let file = bench.lab("desk", QUICK, "");
    let mut lab = bench.serve(&file);
    let started = bench.devices.directory.join("pi-1/started");
    lab.wait_until("the start of the command", || started.exists());
    stop(lab).assert_code(&[0]);
    assert!(bench.store.names("leases/pi-1").contains(&"1.released.json".to_owned()));
    assert_eq!(bench.store.verdict("request-goes-on"), None);
    std::fs::write(&seconds, "0").unwrap();
    let mut lab = bench.serve(&file);
    let verdict = bench.verdict(&mut lab, "request-goes-on");
    assert_eq!((&verdict["outcome"], &verdict["attempt"]), (&json!("passed"), &json!(2)), "{verdict}");
    bench.devices.assert_driven_by_one();
    stop(lab).assert_code(&[0]);
}
