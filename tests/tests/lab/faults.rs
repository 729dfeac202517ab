//! Stores that answer late, wrongly or not at all, stores with another clock, and stores with hostile content.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use build_agent_tests::fake_s3::{FakeS3, Fault};
use serde_json::json;

use crate::fixture::{Bench, Kind, Store, stop};

const LIMITS: &str = "poll = \"200ms\"\nlease = \"20s\"\nboot = \"60s\"\nattempts = 100";

fn server(bench: &Bench) -> FakeS3 {
    match &bench.store {
        Store::S3(server) => server.clone(),
        _ => unreachable!("the test asked for it"),
    }
}

/// Every sixth request fails in one of the ways that S3 and networks have.
#[test]
fn a_store_with_faults_loses_no_request() {
    let test = "a_store_with_faults_loses_no_request";
    let Some(bench) = Bench::new(test, Kind::S3, &["pi-1", "pi-2"]) else { return };
    let ids: Vec<String> = (0..8).map(|number| format!("request-{number}")).collect();
    for id in &ids {
        bench.submit(id, &["true"], |_| {});
    }
    server(&bench).faults(|number, request| {
        let faults = [
            Fault::Before,
            Fault::After,
            Fault::Refused(503, "SlowDown"),
            Fault::Late(Duration::from_millis(1500)),
            Fault::Refused(500, "InternalError"),
            // Only requests with a condition are refused like this.
            if request.only_new {
                Fault::Refused(409, "ConditionalRequestConflict")
            } else {
                Fault::Truncated
            },
        ];
        // All kinds of requests meet all kinds of faults.
        match number % 6 {
            5 => faults[(number / 6 % 6) as usize].clone(),
            _ => Fault::No,
        }
    });
    let mut labs = ["lab-a", "lab-b"].map(|name| bench.serve(&bench.lab(name, LIMITS, "")));
    for id in &ids {
        let verdict = bench.verdict(&mut labs[0], id);
        assert_eq!(verdict["outcome"], "passed", "{id}: {verdict}");
        bench.assert_consistent(id);
    }
    labs[1].wait_until("anything", || true);
    server(&bench).faults(|_, _| Fault::No);
    for lab in labs {
        stop(lab).assert_code(&[0]);
    }
    bench.devices.assert_driven_by_one();
}

/// While the store is gone for longer than the lease, the lab stops what it runs. Then the request runs again.
#[test]
fn a_lab_without_its_store_stops_to_touch_the_device() {
    let test = "a_lab_without_its_store_stops_to_touch_the_device";
    let Some(bench) = Bench::new(test, Kind::S3, &["pi-1"]) else { return };
    let seconds = bench.devices.directory.join("pi-1/seconds");
    let started = bench.devices.directory.join("pi-1/started");
    std::fs::write(&seconds, "600").unwrap();
    bench.submit("request-again", &["touch started; sleep $(cat seconds)"], |_| {});
    let limits = "poll = \"200ms\"\nlease = \"4s\"\nboot = \"60s\"\nattempts = 100";
    let mut lab = bench.serve(&bench.lab("desk", limits, ""));
    lab.wait_until("the start of the command", || started.exists());
    let gone = Arc::new(AtomicBool::new(true));
    {
        let gone = Arc::clone(&gone);
        server(&bench).faults(move |_, _| match gone.load(Ordering::Relaxed) {
            true => Fault::Before,
            false => Fault::No,
        });
    }
    lab.wait_until("the end of the session", || bench.devices.log("pi-1").contains("end session"));
    std::fs::write(&seconds, "0").unwrap();
    gone.store(false, Ordering::Relaxed);
    let verdict = bench.verdict(&mut lab, "request-again");
    assert_eq!(verdict["outcome"], "passed", "{verdict}");
    assert!(verdict["attempt"].as_u64().unwrap() > 1, "{verdict}");
    bench.assert_consistent("request-again");
    stop(lab).assert_code(&[0]);
    bench.devices.assert_driven_by_one();
}

/// Nothing compares the clock of the lab with that of the store.
#[test]
fn a_clock_that_is_ten_minutes_wrong_changes_nothing() {
    let test = "a_clock_that_is_ten_minutes_wrong_changes_nothing";
    let Some(bench) = Bench::new(test, Kind::S3, &["pi-1"]) else { return };
    for (name, wrong) in [("fast", 600), ("slow", -600)] {
        server(&bench).shift_clock(wrong);
        let (new, old) = (format!("request-new-{name}"), format!("request-old-{name}"));
        bench.submit(&new, &["true"], |request| request["queue_limit"] = json!(120));
        bench.submit(&old, &["true"], |request| request["queue_limit"] = json!(120));
        // By the store's clock it was submitted five minutes ago.
        let now = SystemTime::now();
        let wrong_by = Duration::from_secs(600);
        let store_now = if wrong > 0 { now + wrong_by } else { now - wrong_by };
        let submitted = store_now - Duration::from_secs(300);
        server(&bench).put_at(&format!("builds/devices/v1/open/{old}"), b"", submitted);
        let mut lab = bench.serve(&bench.lab("desk", LIMITS, ""));
        assert_eq!(bench.verdict(&mut lab, &new)["outcome"], "passed", "{name}");
        assert_eq!(bench.verdict(&mut lab, &old)["outcome"], "timed-out", "{name}");
        stop(lab).assert_code(&[0]);
    }
}

/// What strangers may write below the prefix hides no request, and leads nowhere.
#[test]
fn hostile_objects_hide_no_request() {
    let Some(bench) = Bench::new("hostile_objects_hide_no_request", Kind::S3, &["pi-1"]) else { return };
    let long = "x".repeat(900);
    for (path, content) in [
        ("open/..", ""),
        ("open//", ""),
        ("open/a\nb", ""),
        ("open/<script>alert(1)</script>", ""),
        ("open/../../../../etc/passwd", ""),
        (&format!("open/{long}"), ""),
        ("open/request-without-file", ""),
        ("open/request-broken/more", ""),
        ("requests/../x/request.json", "{}"),
        ("requests/request-good/attempts/x.json", "{}"),
        ("requests/request-good/attempts/0.json", "{}"),
        ("requests/request-good/attempts/-1.json", "{}"),
        ("requests/request-good/attempts/99999999999999999999.json", "{}"),
        ("requests/request-good/attempts/2/3.json", "{}"),
        ("requests/request-damaged/attempts/1.json", "{"),
        ("leases/pi-1/x.json", "{}"),
        ("leases/pi-1/0007.json", "{}"),
        ("leases/pi-1/99999999999999999999999.json", "{}"),
        ("leases/pi-1/..json", "{}"),
        ("labs/evil.json", "{\"schema\": \"build-agent/lab/v1\"}"),
        ("labs/evil2.json", "[[[[["),
        ("devices/pi-9/health.json", "{"),
    ] {
        bench.store.put(path, content.as_bytes());
    }
    bench.submit("request-good", &["true"], |_| {});
    bench.submit("request-damaged", &["true"], |_| {});
    bench.submit("request-names", &["true"], |request| {
        request["files"][0]["name"] = json!("../../../../tmp/core.img");
    });
    bench.submit("request-evil-lab", &["true"], |_| {});
    let attempt = json!({ "lab": "x", "device": "../../labs", "lease": 1, "nonce": "n",
                          "started": "2026-01-02T03:04:05Z" });
    bench.store.put("requests/request-evil-lab/attempts/1.json", attempt.to_string().as_bytes());
    let mut lab = bench.serve(&bench.lab("desk", LIMITS, ""));
    for id in ["request-good", "request-damaged", "request-evil-lab"] {
        let verdict = bench.verdict(&mut lab, id);
        assert_eq!(verdict["outcome"], "passed", "{id}: {verdict}");
    }
    let refused = bench.verdict(&mut lab, "request-names");
    assert_eq!((&refused["outcome"], &refused["exit"]), (&json!("not-run"), &json!("usage")), "{refused}");
    assert!(!std::path::Path::new("/tmp/core.img").exists());
    bench.command(&["status"]).assert_code(&[0]);
    stop(lab).assert_code(&[0]);
}
