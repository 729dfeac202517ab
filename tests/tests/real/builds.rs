//! Builds and what they publish.

use std::path::Path;

use build_agent_tests::json;

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, sstate};

#[test]
fn recipes_build_publish_and_build_again_from_sstate() {
    let test = "recipes_build_publish_and_build_again_from_sstate";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let narrow = format!("config.local_conf={NARROW_BUILD}");
    fixture
        .call(&["run", "--set", &narrow, "--set", "check.bitbake_layers=[\"show-layers\"]"])
        .assert_code(&[0]);
    let first = sstate(fixture.result());
    assert!(first["missed"].as_u64() > Some(0) && first["local"] == 0, "{first}");

    let result = fixture.result();
    // BitBake told its own events: nothing is said of the old way, and every task has a start and an end.
    let notices = result["notices"].to_string();
    assert!(!notices.contains("events cannot be read"), "{notices}");
    let runs = result["timeline"]["runs"].as_array().unwrap();
    println!("{} tasks in the timeline", runs.len());
    assert!(!runs.is_empty());
    assert!(runs.iter().all(|run| run[3].is_u64() && run[3].as_u64() <= run[4].as_u64()), "{runs:?}");

    let published = &result["published"];
    let index = json(Path::new(published["index"].as_str().unwrap()));
    let objects = index["objects"].as_array().unwrap();
    assert!(objects.iter().any(|object| object["link"].is_string()), "{index}");
    assert!(
        objects.iter().any(|object| object["bytes"].as_u64() > Some(1 << 20)),
        "the sparse image: {index}"
    );

    fixture.call(&["run", "--set", &narrow, "--only", "build"]).assert_code(&[0]);
    let kept = sstate(fixture.result());
    assert_eq!(kept["wanted"], 0, "everything is still in the build directory: {kept}");
    assert_eq!(kept["current"], first["wanted"], "{kept}");

    fixture.call(&["run", "--set", &narrow, "--only", "build", "--fresh"]).assert_code(&[0]);
    let second = sstate(fixture.result());
    assert_eq!(second["missed"], 0, "{second}");
    assert_eq!(second["local"], first["wanted"], "{second}");
}
