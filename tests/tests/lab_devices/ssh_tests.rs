//! Devices that are simply there, with programs of the lab.

use std::path::Path;

use build_agent_tests::is_left_to_the_long_run;
use serde_json::json;

use crate::lab_host::LabHost;
use crate::labgrid::{Board, free_port};
use build_agent_tests::guest::{image, packages};

/// A program of the lab that works like a relay: `relay on|off`.
fn relay(board: &Board) -> String {
    format!(
        "import sys, urllib.request\n\
         for value in sys.argv[1:]:\n\
         \x20   urllib.request.urlopen(urllib.request.Request('{}', data=value.encode(), method='PUT'))\n",
        board.relay()
    )
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_device_is_written_restarted_and_tested_in_its_new_boot() {
    let test = "a_device_is_written_restarted_and_tested_in_its_new_boot";
    let Some(packages) = packages(test) else { return };
    let host = LabHost::new();
    let directory = host.path().join("image");
    std::fs::create_dir(&directory).unwrap();
    let files = image(&packages, &directory, "");
    let board = Board::start(host.path(), &files[0]);
    let relay = write(&host.path().join("relay.py"), &relay(&board));
    let storage = board.storage().display().to_string();
    let restart = format!("[\"python3\", \"{relay}\", \"0\", \"1\"]");
    let write_image = "[\"sh\", \"-c\", \"cp \\\"$1\\\" \\\"$0\\\"\"";
    host.write_lab(&format!(
        "[devices.board]\npool = \"boards\"\nimage = \"*.cpio.gz\"\n\
         [devices.board.ssh]\nhost = \"127.0.0.1\"\nport = {}\nwrite = {write_image}, \"{storage}\"]\nrestart = {restart}\n",
        board.ssh
    ));
    host.submit("request-1", &files, &json!({}));
    host.submit("request-2", &files, &json!({}));
    let mut lab = host.serve();
    for id in ["request-1", "request-2"] {
        let verdict = host.verdict(&mut lab, id);
        assert_eq!(verdict.verdict["outcome"], "passed", "{:#}", verdict.result);
        verdict.assert_unit("boot core-image-test on board", "passed", "");
    }
    host.stop(lab);
}

/// What does not work is the device, not the image: the request ends without a verdict on the image.
#[test]
fn a_device_whose_programs_fail_is_at_fault() {
    let host = LabHost::new();
    let port = free_port();
    host.write_lab(&format!(
        "[devices.board]\npool = \"boards\"\nimage = \"x.wic\"\n\
         [devices.board.ssh]\nhost = \"127.0.0.1\"\nport = {port}\nwrite = [\"sh\", \"-c\", \"echo no card; exit 7\"]\n"
    ));
    let image = host.path().join("x.wic");
    std::fs::write(&image, "x").unwrap();
    host.submit("request-1", &[image], &json!({}));
    let mut lab = host.serve();
    let attempt = host.attempt(&mut lab, "request-1", 1);
    attempt.assert_unit("boot core-image-test on board", "not-run", "ended with exit status 7: no card");
    host.stop(lab);
    assert!(!host.has_verdict("request-1"));
}

#[test]
fn a_damaged_image_fails_before_the_device_is_touched() {
    let host = LabHost::new();
    host.write_lab(
        "[devices.board]\npool = \"boards\"\nimage = \"*.wic.*\"\n\
         [devices.board.ssh]\nhost = \"127.0.0.1\"\nwrite = [\"touch\", \"/does-not-exist/touched\"]\n",
    );
    for (id, name) in [
        ("request-gz", "x.wic.gz"),
        ("request-bz2", "x.wic.bz2"),
        ("request-xz", "x.wic.xz"),
        ("request-zst", "x.wic.zst"),
    ] {
        let image = host.path().join(name);
        std::fs::write(&image, "not an archive").unwrap();
        host.submit(id, &[image], &json!({}));
    }
    let mut lab = host.serve();
    for id in ["request-gz", "request-bz2", "request-xz", "request-zst"] {
        let verdict = host.verdict(&mut lab, id);
        assert_eq!(verdict.verdict["outcome"], "failed", "{:#}", verdict.verdict);
        verdict.assert_unit("boot core-image-test on board", "failed", "cannot be unpacked");
    }
    host.stop(lab);
}

/// Without a way to write the image, the report says that something else may be tested.
#[test]
fn a_device_without_a_way_to_write_it_is_tested_with_a_warning() {
    let test = "a_device_without_a_way_to_write_it_is_tested_with_a_warning";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(packages) = packages(test) else { return };
    let host = LabHost::new();
    let directory = host.path().join("image");
    std::fs::create_dir(&directory).unwrap();
    let files = image(&packages, &directory, "");
    let board = Board::start(host.path(), &files[0]);
    std::fs::copy(&files[1], board.storage()).unwrap();
    board.switch("1");
    let port = board.ssh;
    host.write_lab(&format!(
        "[devices.board]\npool = \"boards\"\nssh = {{ host = \"127.0.0.1\", port = {port} }}\n"
    ));
    host.submit("request-1", &[], &json!({}));
    let mut lab = host.serve();
    let verdict = host.verdict(&mut lab, "request-1");
    assert_eq!(verdict.verdict["outcome"], "passed", "{:#}", verdict.result);
    assert!(verdict.result["findings"].to_string().contains("image-not-written"), "{:#}", verdict.result);
    host.stop(lab);
}
