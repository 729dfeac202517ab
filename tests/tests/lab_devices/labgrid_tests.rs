//! A place of real labgrid: flashing, booting, and what is left when a lab or a person holds it.

use std::path::PathBuf;

use build_agent_tests::is_left_to_the_long_run;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::lab_host::LabHost;
use crate::labgrid::{Board, LabgridServers};
use build_agent_tests::guest::{image, packages};

struct Stand {
    host: LabHost,
    board: Board,
    labgrid: LabgridServers,
    packages: PathBuf,
    files: Vec<PathBuf>,
}

/// A lab host with a board at labgrid, and an image that works.
fn stand(test: &str) -> Option<Stand> {
    let packages = packages(test)?;
    let host = LabHost::new();
    let directory = host.path().join("image");
    std::fs::create_dir(&directory).unwrap();
    let files = image(&packages, &directory, "");
    let board = Board::start(host.path(), &files[0]);
    let labgrid = LabgridServers::start(test, host.path(), &board)?;
    host.write_lab(&labgrid.device(&board, ""));
    Some(Stand { host, board, labgrid, packages, files })
}

impl Stand {
    /// An image that does not work.
    fn bad_image(&self, mode: &str) -> Vec<PathBuf> {
        let directory = self.host.path().join(format!("image-{mode}"));
        std::fs::create_dir(&directory).unwrap();
        image(&self.packages, &directory, mode)
    }
}

#[test]
fn a_place_is_flashed_booted_tested_and_given_back() {
    let Some(stand) = stand("a_place_is_flashed_booted_tested_and_given_back") else { return };
    let Stand { host, board, labgrid, files, .. } = &stand;
    // What an older lease left: the place is held, and the board runs an image that does not answer.
    std::fs::copy(&files[1], board.storage()).unwrap();
    assert!(labgrid.client("lease-board/0-killed", &["acquire"]).0);
    board.switch("1");
    host.submit("request-1", files, &json!({}));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    assert_eq!(verdict.verdict["outcome"], "passed", "{:#}", verdict.result);
    let cases = verdict.result["units"][0]["cases"].as_array().unwrap();
    let names: Vec<&str> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["flash", "boot"]);
    assert!(verdict.console().contains("guest: ready"), "{}", verdict.console());
    assert_eq!(board.power_log(), ["on", "off", "on", "off"]);
    assert_eq!(labgrid.owner(), None, "the place is released");
    assert!(!board.is_on());
    host.stop(lab);
}

/// A lab dies while its board runs. The next one takes the place from it, and from nobody else.
#[test]
fn a_successor_takes_the_place_of_a_killed_lab() {
    let Some(stand) = stand("a_successor_takes_the_place_of_a_killed_lab") else { return };
    let Stand { host, board, labgrid, files, .. } = &stand;
    host.submit("request-1", files, &json!({ "commands": ["sleep 3", "uname"] }));
    let mut lab = host.serve();
    lab.wait_until("the board is on", || board.is_on());
    lab.signal(Signal::SIGKILL);
    lab.wait();
    let first = labgrid.owner().unwrap();
    assert!(first.starts_with("lease-board/1-"), "{first}");
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    assert_eq!((&verdict.verdict["outcome"], &verdict.verdict["attempt"]), (&json!("passed"), &json!(2)));
    assert_eq!(
        board.power_log(),
        ["off", "on", "off", "on", "off"],
        "a new lease powers the board off first"
    );
    assert_eq!(labgrid.owner(), None);
    host.stop(lab);
}

/// A person works with the board: the lab leaves it alone.
#[test]
fn a_place_that_a_person_holds_is_left_alone() {
    let Some(stand) = stand("a_place_that_a_person_holds_is_left_alone") else { return };
    let Stand { host, board, labgrid, files, .. } = &stand;
    assert!(labgrid.client("desk/me", &["acquire"]).0);
    host.submit("request-1", files, &json!({}));
    let mut lab = host.serve();
    let attempt = host.attempt(&mut lab, "request-1", 1);
    attempt.assert_unit("boot core-image-test on board", "not-run", "the place board is held by desk/me");
    assert!(!host.has_verdict("request-1"));
    assert_eq!(labgrid.owner().as_deref(), Some("desk/me"));
    assert!(board.power_log().is_empty());
    host.stop(lab);
}

/// The known good image tells a bad image from a bad board.
#[test]
fn the_known_good_image_tells_what_is_at_fault() {
    let test = "the_known_good_image_tells_what_is_at_fault";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(stand) = stand(test) else { return };
    let bad = stand.bad_image("panics");
    let Stand { host, board, labgrid, files, .. } = &stand;
    for (known_good, outcome, reason) in [
        (&files[1], "failed", "; the known good image boots on the same device"),
        (&bad[1], "not-run", "neither the tested image boots"),
    ] {
        host.write_lab(&labgrid.device(board, &format!("known_good = \"{}\"\n", known_good.display())));
        let id = format!("request-{outcome}");
        host.submit(&id, &bad, &json!({}));
        let mut lab = host.serve();
        let verdict = host.verdict(&mut lab, &id);
        verdict.assert_unit("boot core-image-test on board", outcome, reason);
        assert!(!board.is_on());
        host.stop(lab);
    }
}
