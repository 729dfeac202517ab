//! Builds and their publications.

use std::path::Path;

use build_agent_tests::json;
use serde_json::Value;

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
    // BitBake reported its own events: there is no notice of the fallback, and every task has a start and an end.
    let notices = result["notices"].to_string();
    assert!(!notices.contains("events cannot be read"), "{notices}");
    let runs = result["timeline"]["runs"].as_array().unwrap();
    println!("{} tasks in the timeline", runs.len());
    assert!(!runs.is_empty());
    assert!(runs.iter().all(|run| run[3].is_u64() && run[3].as_u64() <= run[4].as_u64()), "{runs:?}");
    assert_order_and_usage_are_known(&result);

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
    assert_order_and_usage_are_known(&fixture.result());
    assert_eq!(second["missed"], 0, "{second}");
    assert_eq!(second["local"], first["wanted"], "{second}");

    // As `build-agent batch warm` does.
    let fetch = ["run", "--set", &narrow, "--only", "build", "--fetch-only", "--fresh"];
    fixture.call(&fetch).assert_code(&[0]);
    let tasks = fixture.result()["timeline"]["tasks"].to_string();
    assert!(tasks.contains("do_fetch") && !tasks.contains("do_compile"), "{tasks}");
}

/// Each task that ran has its numbers of the class buildstats, and tasks start after those for which they waited.
fn assert_order_and_usage_are_known(result: &Value) {
    let timeline = &result["timeline"];
    let runs = timeline["runs"].as_array().unwrap();
    let name = |run: &Value| {
        let word = |table: &str, place: usize| timeline[table][run[place].as_u64().unwrap() as usize].clone();
        (word("recipes", 1), word("tasks", 2))
    };
    let usage: Vec<&Value> = result["task_usage"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|unit| unit["tasks"].as_array().unwrap())
        .collect();
    for run in runs {
        let (recipe, task) = name(run);
        let used = usage.iter().find(|used| used["recipe"] == recipe && used["task"] == task);
        let used = used.unwrap_or_else(|| panic!("nothing is known of {recipe}:{task}"));
        assert!(
            used["cpu_seconds"].as_f64() > Some(0.0) && used["peak_memory"].as_u64() > Some(1 << 20),
            "{used}"
        );
    }
    let after = timeline["after"].as_array().unwrap_or_else(|| panic!("no task waited: {timeline}"));
    let waited: Vec<(usize, usize)> =
        after.iter().enumerate().filter_map(|(run, after)| Some((run, after.as_u64()? as usize))).collect();
    println!("{} of {} tasks waited for another one", waited.len(), runs.len());
    assert!(!waited.is_empty());
    for (run, before) in waited {
        let (run, before) = (&runs[run], &runs[before]);
        assert!(
            before[4].as_u64() <= run[3].as_u64(),
            "{:?} before {:?}: {before} {run}",
            name(before),
            name(run)
        );
        // Of real tasks of one recipe, each waits for one of the same recipe, or of another one that it depends on.
        assert_ne!(name(before), name(run));
    }
}
