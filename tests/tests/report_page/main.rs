//! `report.html` in a real browser: hostile text, accessibility, phones, dark mode, the keyboard, the timeline.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hostile;
mod job;

use build_agent_tests::{Browser, npm_package};
use serde_json::json;

use crate::job::{failing, page_of_several, passing};

/// The version of axe-core.
const AXE: &str = "4.14.1";

#[test]
fn axe_finds_no_violation() {
    const NAME: &str = "axe_finds_no_violation";
    let Some(mut browser) = Browser::start(NAME) else { return };
    let Some(package) = npm_package(NAME, "axe-core", AXE) else { return };
    let axe = std::fs::read_to_string(package.join("axe.min.js")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let place = directory.path().join(name);
        std::fs::create_dir(&place).unwrap();
        place
    };
    let several = [failing(""), failing("").on("walnascar")];
    let pages = [
        ("failing", failing("").page(&place("failing"))),
        ("passing", passing().page(&place("passing"))),
        ("several", page_of_several(&several, &place("several"))),
    ];
    for (name, page) in pages {
        for (width, dark) in [(1280, false), (1280, true), (390, false)] {
            browser.resize(width, 900);
            browser.prefer_dark(dark);
            browser.open(&page);
            browser.evaluate("document.querySelectorAll('details').forEach(found => { found.open = true; })");
            browser.evaluate(&format!("{axe}; 1"));
            let found = browser.evaluate(
                "axe.run(document, { resultTypes: ['violations'] }).then(result => result.violations.map(found => \
                 [found.id, found.help, ...found.nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary)]))",
            );
            assert_eq!(found, json!([]), "{name}, {width} pixels, dark: {dark}");
        }
    }
}

#[test]
fn the_page_fits_a_phone_and_follows_the_colours_of_the_system() {
    let Some(mut browser) = Browser::start("the_page_fits_a_phone") else { return };
    let directory = tempfile::tempdir().unwrap();
    // A name without a place to break it.
    let page = failing(&"x".repeat(300)).page(directory.path());
    for width in [320, 390, 768, 1280] {
        browser.resize(width, 800);
        browser.open(&page);
        browser.evaluate("document.querySelectorAll('details').forEach(found => { found.open = true; })");
        browser.painted();
        let wide = browser.evaluate("document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= u64::from(width), "{wide} at {width}");
    }
    let mut brightness = |dark| {
        browser.prefer_dark(dark);
        browser.painted();
        let colour =
            browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)");
        let canvas = "(() => { const found = document.querySelector('.lanes'); const { data } = \
                      found.getContext('2d').getImageData(0, 0, found.width, found.height); let sum = 0; \
                      for (let i = 0; i < data.length; i++) sum = (sum * 31 + data[i]) % 1000003; return sum; })()";
        (colour[0].as_u64().unwrap(), browser.evaluate(canvas))
    };
    let (light, light_canvas) = brightness(false);
    let (dark, dark_canvas) = brightness(true);
    assert!(light > 200 && dark < 50, "{light} {dark}");
    assert_ne!(light_canvas, dark_canvas, "the timeline has other colours");
}

#[test]
fn the_keyboard_reaches_everything() {
    let Some(mut browser) = Browser::start("the_keyboard_reaches_everything") else { return };
    let directory = tempfile::tempdir().unwrap();
    browser.resize(1280, 900);
    browser.open(&failing("").page(directory.path()));
    let focused = "(() => { const found = document.activeElement; return found.className || found.name || found.localName; })()";
    browser.press("Tab");
    assert_eq!(browser.evaluate(focused), "skip");
    let mut reached = Vec::new();
    for _ in 0..120 {
        browser.press("Tab");
        let name = browser.evaluate(focused).as_str().unwrap().to_owned();
        match name.as_str() {
            "summary" => {
                let open = "document.activeElement.parentElement.open";
                let before = browser.evaluate(open);
                browser.press("Enter");
                assert_ne!(browser.evaluate(open), before);
                browser.press("Enter");
            }
            "chart" => {
                assert_eq!(browser.evaluate("document.querySelector('.live').textContent"), "");
                let live = |browser: &mut Browser, key: &str| {
                    browser.press(key);
                    let text = browser.evaluate("document.querySelector('.live').textContent");
                    text.as_str().unwrap().to_owned()
                };
                let first = live(&mut browser, "Home");
                assert!(
                    first.starts_with("recipe0-1.0-r0:do_fetch: 2.5s, CPU time 2.0s, peak memory 100 MiB"),
                    "{first}"
                );
                let next = live(&mut browser, "ArrowRight");
                let below = live(&mut browser, "ArrowDown");
                let last = live(&mut browser, "End");
                assert!(last.starts_with("recipe24-1.0-r0:do_x"), "{last}");
                assert!(first != next && next != below && below != last, "{first} {next} {below} {last}");
                assert_eq!(live(&mut browser, "Escape"), "");
            }
            _ => {}
        }
        reached.push(name);
    }
    for name in ["a", "summary", "text", "filter", "button", "chart", "scroll"] {
        assert!(reached.iter().any(|found| found == name), "{name} is not reached: {reached:?}");
    }
}

#[test]
fn tests_are_found_by_name_and_outcome() {
    let Some(mut browser) = Browser::start("tests_are_found_by_name_and_outcome") else { return };
    let directory = tempfile::tempdir().unwrap();
    browser.open(&failing("").page(directory.path()));
    // 150 of yocto-check-layer, the build, and four stages without steps.
    let rows = "document.querySelectorAll('.tests tbody tr').length";
    // The page itself has the first 100 rows.
    assert_eq!(browser.evaluate(rows), 100);
    let mut show = |text: &str, filter: &str| {
        browser.evaluate(&format!(
            "(() => {{ const form = document.querySelector('.tests form'); form.elements.text.value = '{text}'; \
             form.elements.filter.value = '{filter}'; form.elements.filter.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
        ));
        let first = browser.evaluate("document.querySelector('.tests tbody tr')?.textContent ?? ''");
        let found = browser.evaluate("document.querySelector('.tests .found').textContent");
        (browser.evaluate(rows).as_u64().unwrap(), first.as_str().unwrap().to_owned(), found)
    };
    let (number, first, _) = show("", "bad");
    assert_eq!(number, 2, "{first}");
    let (number, first, found) = show("TEST_149", "all");
    assert_eq!((number, found), (1, "1 of 155 tests".into()));
    assert!(first.contains("test_149"), "{first}");
    assert_eq!(show("checklayer test_14", "passed").0, 11);
    assert_eq!(show("no such test", "all").0, 0);
    assert_eq!(show("", "all").0, 155);
    // A link leads from the failed test to its lines, and opens them.
    browser.evaluate("document.querySelectorAll('details').forEach(found => { found.open = false; })");
    browser.evaluate("document.querySelector('.tests tbody a').click()");
    browser.painted();
    assert_eq!(browser.evaluate("document.querySelector(location.hash).open"), true);
}

#[test]
fn the_timeline_says_what_ran_under_the_mouse() {
    let Some(mut browser) = Browser::start("the_timeline_says_what_ran_under_the_mouse") else { return };
    let directory = tempfile::tempdir().unwrap();
    browser.resize(1280, 900);
    browser.open(&failing("").page(directory.path()));
    browser.evaluate(
        "document.querySelector('.chart').scrollIntoView({ block: 'center', behavior: 'instant' })",
    );
    let place = browser.evaluate("(() => { const box = document.querySelector('.chart').getBoundingClientRect(); return [box.left, box.top, box.width]; })()");
    let place: Vec<f64> = place.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    let tip = "(() => { const found = document.querySelector('.tip'); return found.hidden ? '' : found.innerText; })()";
    // The first task runs from 8 s to 10.5 s of 284 s, in the first lane below the axis.
    browser.point(place[0] + place[2] * 9.2 / 284.0, place[1] + 34.0 + 8.0);
    let text = browser.evaluate(tip);
    let text = text.as_str().unwrap();
    for words in
        ["recipe0-1.0-r0:do_fetch", "2.5s", "CPU time 2.0s", "peak memory 100 MiB", "started after 8s"]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
    browser.point(place[0] + 5.0, place[1] + 34.0 + 8.0);
    assert_eq!(browser.evaluate(tip), "", "nothing ran in the first seconds");
    // The curves of the machine are below the lanes.
    let curves = browser.evaluate("(() => { const box = document.querySelector('.curves').getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; })()");
    browser.point(curves[0].as_f64().unwrap(), curves[1].as_f64().unwrap());
    let text = browser.evaluate(tip);
    assert!(text.as_str().unwrap().contains("Memory 10.0 GiB of 72.0 GiB"), "{text}");
}

#[test]
fn the_page_of_several_jobs_leads_to_each_of_them() {
    let Some(mut browser) = Browser::start("the_page_of_several_jobs_leads_to_each_of_them") else { return };
    let directory = tempfile::tempdir().unwrap();
    let page = page_of_several(&[failing(""), failing("").on("walnascar")], directory.path());
    browser.open(&page);
    assert_eq!(browser.evaluate("document.querySelector('h1').innerText"), "FAILED 2 of 2 did not pass.");
    assert_eq!(browser.evaluate("document.querySelectorAll('.matrix td a').length"), 2);
    // Each job has its own timeline and its own table.
    assert_eq!(browser.evaluate("document.querySelectorAll('.chart:not([hidden])').length"), 2);
    browser.evaluate("document.querySelectorAll('.matrix td a')[1].click()");
    browser.painted();
    assert_eq!(browser.evaluate("location.hash"), "#job2-top");
    let logs = "[...document.querySelectorAll('.log a')].map(found => decodeURIComponent(found.pathname))";
    let logs = browser.evaluate(logs);
    let log = |number: u32, name: &str| {
        directory.path().join(format!("job {number}/logs/{name}.log")).display().to_string()
    };
    let wanted = [log(0, "check"), log(0, "zlib"), log(1, "check"), log(1, "zlib")];
    assert_eq!(logs, json!(wanted));
}
