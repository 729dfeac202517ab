//! `lab.html` in a browser.

use std::path::PathBuf;

use build_agent_tests::Browser;
use serde_json::json;

use crate::fixture::{Bench, Kind, Store, eventually, stop};

#[test]
fn the_page_shows_devices_queue_and_history_and_escapes_all() {
    let test = "the_page_shows_devices_queue_and_history_and_escapes_all";
    let Some(mut browser) = Browser::start(test) else { return };
    let Some(bench) = Bench::new(test, Kind::Directory, &["pi-1", "pi-2"]) else { return };
    let Store::Directory(root) = &bench.store else { return };
    let evil = "<img src=x onerror=alert(1)>";
    bench.submit("request-evil", &["true"], |request| {
        request["image"] = json!(evil);
        request["job"]["name"] = json!(evil);
    });
    bench.submit("request-waits", &["true"], |request| {
        request["pool"] = json!("elsewhere");
        request["image"] = json!(evil);
    });
    let mut lab = bench.serve(&bench.lab("desk", "poll = \"200ms\"\nboot = \"30s\"", ""));
    bench.verdict(&mut lab, "request-evil");
    bench.command(&["drain", "pi-2"]).assert_code(&[0]);
    let page: PathBuf = root.join("devices/v1/lab.html");
    let has = |words: &[&str]| {
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        words.iter().all(|word| text.contains(word))
    };
    eventually("the page with all", || has(&["drained", "request-waits", "reports/1/report.html"]));
    stop(lab).assert_code(&[0]);
    browser.open(&page);
    browser.painted();
    let text = browser.evaluate("document.body.innerText");
    for word in ["pi-1", "pi-2", "request-waits", "attempt 1", evil, "was stopped"] {
        assert!(text.as_str().unwrap().contains(word), "{word}: {text}");
    }
    assert_eq!(browser.evaluate("document.images.length"), 0);
    let link = "document.querySelector('#history a').getAttribute('href')";
    assert_eq!(browser.evaluate(link), "requests/request-evil/reports/1/report.html");
    assert!(root.join("devices/v1/requests/request-evil/reports/1/report.html").exists());
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    let requests = browser.requests();
    assert!(requests.iter().all(|address| address.starts_with("file:")), "{requests:?}");
}
