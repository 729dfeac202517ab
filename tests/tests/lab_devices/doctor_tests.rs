//! `build-agent doctor --lab` on a lab host with real labgrid.

use std::os::unix::fs::PermissionsExt;

use build_agent_tests::Running;
use serde_json::Value;

use crate::lab_host::LabHost;
use crate::labgrid::{Board, LabgridServers};

/// The state and the text of each finding, by its name.
fn findings(host: &LabHost, codes: &[i32]) -> Vec<(String, String, String)> {
    let ran = Running::start(host.command(&["doctor", "--lab", "lab.toml", "--json"]), host.path()).wait();
    ran.assert_code(codes);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = found["findings"].as_array().unwrap().iter();
    findings.map(|found| (text(&found["name"]), text(&found["state"]), text(&found["found"]))).collect()
}

#[track_caller]
fn assert_finding(findings: &[(String, String, String)], name: &str, state: &str, words: &str) {
    let found = findings.iter().find(|(found, _, _)| found == name);
    let Some((_, is, said)) = found else { panic!("no {name} in {findings:#?}") };
    assert!(is == state && said.contains(words), "{name} is {is}: {said}");
}

#[test]
fn a_lab_host_is_checked_before_it_serves() {
    let host = LabHost::new();
    let board = Board::start(host.path(), "/kernel".as_ref());
    let Some(labgrid) = LabgridServers::start("a_lab_host_is_checked_before_it_serves", host.path(), &board)
    else {
        return;
    };
    let key = host.path().join("key");
    std::fs::write(&key, "").unwrap();
    let device = labgrid.device(&board, "") + &format!("ssh_key = \"{}\"\n", key.display());
    host.write_lab(&device);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let found = findings(&host, &[0]);
    for name in ["state directory", "programs", "store", "clock", "board: place", "board: ssh key"] {
        assert_finding(&found, name, "ok", "");
    }
    assert_finding(&found, "board: labgrid", "ok", "2");
    let leftover: Vec<_> = std::fs::read_dir(host.path().join("store/devices/v1/labs")).unwrap().collect();
    assert!(leftover.is_empty(), "{leftover:?}");
    // Each mistake is a finding with its own words.
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    host.write_lab(
        &device.replace("place = \"board\"", "place = \"other\"").replace("\"sh\"", "\"no-such-program\""),
    );
    let found = findings(&host, &[3]);
    assert_finding(&found, "board: place", "failed", "other");
    assert_finding(&found, "board: ssh key", "failed", "others can read");
    assert_finding(&found, "programs", "failed", "no-such-program is not there");
    drop(labgrid);
    assert_finding(&findings(&host, &[3]), "board: labgrid", "failed", "");
    assert!(board.power_log().is_empty(), "the doctor touches no device");
}
