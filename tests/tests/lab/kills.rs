//! Labs that are killed at any moment: no device is driven by two, no request is lost, and each has one verdict.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use build_agent_tests::is_left_to_the_long_run;
use nix::sys::signal::Signal;

use crate::fixture::{Bench, Kind, LONG, stop};

const DEVICES: [&str; 3] = ["pi-1", "pi-2", "pi-3"];

const LIMITS: &str = "poll = \"200ms\"\nlease = \"6s\"\nboot = \"60s\"\nattempts = 100";

/// A number sequence that looks random and can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn twenty_kills_on_a_directory() {
    kill_labs("twenty_kills_on_a_directory", Kind::Directory, 20, 20);
}

#[test]
fn two_hundred_kills() {
    if is_left_to_the_long_run("two_hundred_kills") {
        return;
    }
    for kind in [Kind::Directory, Kind::S3] {
        kill_labs("two_hundred_kills", kind, 100, 150);
    }
}

/// Two labs serve the same three devices. Each is killed and started again until there were so many kills.
fn kill_labs(test: &str, kind: Kind, kills: u32, requests: usize) {
    let Some(bench) = Bench::new(test, kind, &DEVICES) else { return };
    let ids: Vec<String> = (0..requests).map(|number| format!("request-{number:03}")).collect();
    for (number, id) in ids.iter().enumerate() {
        let work = format!("echo {id}; sleep 0.{}", number % 7);
        bench.submit(id, &[&work], |_| {});
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    let (killed, outputs) = (AtomicU32::new(0), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for (number, name) in ["lab-a", "lab-b"].into_iter().enumerate() {
            let (bench, killed, outputs) = (&bench, &killed, &outputs);
            let mut random = Random(u64::from(seed) + number as u64);
            scope.spawn(move || {
                let file = bench.lab(name, LIMITS, "");
                while killed.fetch_add(1, Ordering::Relaxed) < kills {
                    let lab = bench.serve(&file);
                    std::thread::sleep(Duration::from_millis(random.below(2_500)));
                    lab.signal(Signal::SIGKILL);
                    // Its children go on: this does not end them.
                    let ran = lab.wait();
                    assert_eq!(ran.signal, Some(9), "it ended by itself: {ran:?}");
                    outputs.lock().unwrap().push_str(&ran.stdout);
                }
            });
        }
    });
    let mut labs = ["lab-a", "lab-b"].map(|name| bench.serve(&bench.lab(name, LIMITS, "")));
    let deadline = Instant::now() + LONG * 2;
    for id in &ids {
        while bench.store.verdict(id).is_none() {
            assert!(Instant::now() < deadline, "seed {seed}: {id} was lost");
            for lab in &mut labs {
                lab.wait_until("anything", || true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    for lab in labs {
        let ran = stop(lab);
        ran.assert_code(&[0]);
        outputs.lock().unwrap().push_str(&ran.stdout);
    }
    let outputs = outputs.into_inner().unwrap();
    bench.devices.assert_driven_by_one();
    for id in &ids {
        let verdict = bench.store.verdict(id).unwrap();
        assert_eq!(verdict["outcome"], "passed", "seed {seed}: {id}: {verdict}\n{outputs}");
        bench.assert_consistent(id);
        let decided = outputs.lines().filter(|line| line.contains(&format!("{id}: passed"))).count();
        assert!(decided <= 1, "seed {seed}: {id} has {decided} verdicts\n{outputs}");
    }
    // All leases are over.
    for device in DEVICES {
        let names = bench.store.names(&format!("leases/{device}"));
        let newest = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u64>().ok()).max();
        let newest = newest.unwrap_or_else(|| panic!("{device} was never used: {names:?}"));
        assert!(names.contains(&format!("{newest}.released.json")), "{device}: {names:?}");
    }
    assert!(bench.store.names("open").is_empty());
}
