//! A signal during a check.

use std::time::{Duration, Instant};

use build_agent_tests::{cases, survivors};
use nix::sys::signal::Signal;

use crate::POKY;
use crate::fixture::{Fixture, SMALL_WORLD, TIMEOUT};

/// yocto-check-layer takes a signal as a request to restore bblayers.conf, and then goes on to its next test.
#[test]
fn a_signal_fails_no_test() {
    let Some(fixture) = Fixture::long("a_signal_fails_no_test", "meta-good", &[POKY]) else { return };
    let running = fixture.start(&["run", "--set", &format!("config.local_conf={SMALL_WORLD}")]);
    let log = fixture.out().join("logs/yocto-check-layer-meta-good.log");
    let since = Instant::now();
    // test_parse runs BitBake, and comes after the tests that only read files.
    while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains("INFO: test_parse")) {
        assert!(since.elapsed() < TIMEOUT, "the tests never began");
        std::thread::sleep(Duration::from_millis(50));
    }
    running.signal(Signal::SIGTERM);
    let since = Instant::now();
    let ran = running.wait_for(TIMEOUT);
    ran.assert_code(&[130]);
    println!("{:.1} s from the signal to the end\n{}", since.elapsed().as_secs_f64(), ran.stdout);
    assert!(since.elapsed() < Duration::from_secs(60), "the grace");
    ran.assert_says(&["SIGTERM: stopping, up to 60 s: yocto-check-layer meta-good"]);
    let result = fixture.result();
    assert_eq!(result["outcome"], "cancelled");
    let cases = cases(&result);
    assert!(cases.iter().all(|(_, outcome)| outcome != "failed"), "{cases:?}");
    assert!(cases.contains(&("test_world_inherit_class".into(), "cancelled".into())), "{cases:?}");
    assert_eq!(survivors(fixture.directory.path()), []);
}
