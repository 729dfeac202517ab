//! A matrix with real BitBake on two releases.

use build_agent_tests::json;
use serde_json::Value;

use crate::POKY;
use crate::fixture::{Fixture, SMALL_WORLD};
use crate::signature_cache::outcomes;

const CELLS: [&str; 2] = ["kirkstone_qemux86_64", "scarthgap_qemux86_64"];

/// A layer for kirkstone and scarthgap, whose branches of poky follow the release.
fn fixture(test: &str) -> Option<Fixture> {
    let fixture = Fixture::long(test, "meta-good", &[POKY])?;
    let manifest = fixture.layer().join("build-agent.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text
        .replace("release = \"scarthgap\"\n", "")
        .replace("branch = \"scarthgap\"", "branch = \"{release}\"");
    let matrix =
        "[matrix]\nmachine = [\"qemux86-64\"]\nrelease = [\"kirkstone\", \"scarthgap\"]\n\n[repos.poky]";
    std::fs::write(&manifest, text.replace("[repos.poky]", matrix)).unwrap();
    build_agent_tests::commit(&fixture.layer(), "A matrix");
    Some(fixture)
}

fn assert_both_passed(fixture: &Fixture) -> Vec<Value> {
    let results = json(&fixture.out().join("results.json"));
    let jobs = results["jobs"].as_array().unwrap().clone();
    let found: Vec<_> = jobs.iter().map(|job| (&job["job"]["cell"], &job["outcome"])).collect();
    assert_eq!(found.len(), CELLS.len(), "{found:?}");
    for (cell, (found, outcome)) in CELLS.iter().zip(found) {
        assert_eq!((found.as_str().unwrap(), outcome.as_str().unwrap()), (*cell, "passed"));
    }
    jobs
}

#[test]
fn the_layers_of_two_releases_are_those_of_their_branches() {
    let test = "the_layers_of_two_releases_are_those_of_their_branches";
    let Some(fixture) = fixture(test) else { return };
    fixture.call(&["run", "--jobs", "2", "--set", "check.yocto_check_layer=false"]).assert_code(&[0]);
    let jobs = assert_both_passed(&fixture);
    let commit = |job: &Value| job["repos"][0]["commit"].as_str().unwrap().to_owned();
    assert_ne!(commit(&jobs[0]), commit(&jobs[1]));
    for (cell, version) in CELLS.iter().zip(["2.0.", "2.8."]) {
        let init = fixture
            .directory
            .path()
            .join(format!("work/meta-good-{cell}/repos/poky/bitbake/lib/bb/__init__.py"));
        let text = std::fs::read_to_string(init).unwrap();
        assert!(text.contains(&format!("__version__ = \"{version}")), "{cell}");
    }
}

#[test]
fn a_layer_passes_its_check_on_two_releases() {
    let test = "a_layer_passes_its_check_on_two_releases";
    let Some(fixture) = fixture(test) else { return };
    let small_world = format!("config.local_conf={SMALL_WORLD}");
    fixture.call(&["run", "--jobs", "2", "--set", &small_world]).assert_code(&[0]);
    let jobs = assert_both_passed(&fixture);
    for job in &jobs {
        let tests = build_agent_tests::cases(job);
        assert!(tests.len() >= 7, "{tests:?}");
    }
    // The second run has the answers of the first one.
    fixture.call(&["run", "--jobs", "2", "--set", &small_world]).assert_code(&[0]);
    for job in assert_both_passed(&fixture) {
        let outcomes = outcomes(&job);
        assert!(!outcomes.is_empty() && outcomes.iter().all(|outcome| *outcome == "hit"), "{outcomes:?}");
    }
}
