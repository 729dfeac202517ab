//! A place of real labgrid: flashing, booting, and what is left when a lab or a person holds it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use build_agent_tests::is_left_to_the_long_run;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::lab_host::LabHost;
use crate::labgrid::{Board, LabgridServers, free_port};
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

/// A stand-in for labgrid-client, with a switch for the memory card, which these machines do not have.
#[test]
fn a_memory_card_is_written_by_the_host_and_then_given_to_the_device() {
    let host = LabHost::new();
    let path = |name: &str| host.path().join(name);
    let client = format!(
        "#!/bin/sh\ncd '{}'\nshift 4\necho \"$@\" >>calls\ncase $1 in\n\
         who) echo 'User Host Place Changed'; [ ! -e held ] || cat held ;;\n\
         acquire) echo \"$LG_USERNAME $LG_HOSTNAME board x\" >held ;;\n\
         show) cat show ;;\n\
         release-from) rm held ;;\nesac\n",
        host.path().display()
    );
    std::fs::write(path("client"), client).unwrap();
    std::fs::set_permissions(path("client"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let port = free_port();
    let show = format!(
        "Acquired resource 'NetworkUSBSDMuxDevice' (lab/board/x/y):\n  {{'cls': 'NetworkUSBSDMuxDevice', 'params': {{}}}}\n\
         Acquired resource 'NetworkService' (lab/board/x/y):\n  {{'cls': 'NetworkService',\n   \
         'params': {{'address': '127.0.0.1', 'port': {port}, 'username': 'root'}}}}\n"
    );
    std::fs::write(path("show"), show).unwrap();
    let text = "[devices.board]\npool = \"boards\"\nimage = \"*.wic.gz\"\n\
                [devices.board.labgrid]\nplace = \"board\"\nclient = \"./client\"\n";
    host.write_lab(text);
    host.limit_boot("3s");
    std::fs::write(path("x.wic"), "the image").unwrap();
    std::fs::write(path("x.wic.bmap"), "the block map").unwrap();
    assert!(std::process::Command::new("gzip").arg(path("x.wic")).status().unwrap().success());
    host.submit("request-1", &[path("x.wic.gz"), path("x.wic.bmap")], &json!({}));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    verdict.assert_unit("boot core-image-test on board", "failed", "it does not answer ssh");
    lab.wait_until("the place is released", || !path("held").exists());
    let calls = std::fs::read_to_string(path("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().filter(|call| *call != "who").collect();
    let owner = calls.last().unwrap().strip_prefix("release-from ").unwrap();
    assert!(owner.starts_with("lease-board/1-"), "{owner}");
    let image = calls.iter().find_map(|call| call.strip_prefix("write-image --mode bmaptool ")).unwrap();
    let wanted =
        ["acquire", "show", "power off", "sd-mux host", &format!("write-image --mode bmaptool {image}")];
    let then = ["sd-mux dut", "power on", "power off", &format!("release-from {owner}")];
    assert_eq!(calls, [wanted.as_slice(), &then].concat());
    assert!(image.ends_with("/image/x.wic"), "{image}");
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
        (&bad[1], "not-run", "neither the tested image works"),
    ] {
        host.write_lab(&labgrid.device(board, &format!("known_good = \"{}\"\n", known_good.display())));
        let id = format!("request-{outcome}");
        host.submit(&id, &bad, &json!({}));
        let mut lab = host.serve();
        // A device that is at fault leads to no verdict on the image.
        let attempt = match outcome {
            "failed" => host.verdict(&mut lab, &id),
            _ => host.attempt(&mut lab, &id, 1),
        };
        attempt.assert_unit("boot core-image-test on board", outcome, reason);
        host.stop(lab);
        assert!(!board.is_on());
        assert!(outcome == "failed" || !host.has_verdict(&id));
    }
}
