//! Batches: a stand-in of CodeBuild runs each cell as a process of the real agent.

use std::time::Duration;

use build_agent_tests::{PROJECT, commit, json};
use nix::sys::signal::Signal;
use serde_json::json;

use super::batches::{Batches, outcomes};

#[test]
fn a_batch_is_one_result() {
    let Some(batches) = Batches::new("a_batch_is_one_result", &json!({})) else { return };
    batches.codebuild.throttle(1);
    let mut running = batches.start();
    running.wait_until("the pins are stored", || batches.stored("lock").len() == 1);
    // The branch moves while the batch runs: all cells get the commit that was resolved before.
    batches.sandbox.behaviour("bitbake-layers pass");
    batches.codebuild.disconnect(4);
    let ran = running.wait();
    batches.assert_code(&ran, &[0]);
    assert_eq!(batches.outcomes(), outcomes(["passed", "passed"]));
    for node in ["warm", "board_a", "board_b", "merge"] {
        ran.assert_says(&[&format!(
            "{node:<7}  succeeded  https://console.aws.amazon.com/codesuite/codebuild/"
        )]);
    }
    ran.assert_says(&["; retrying"]);
    assert_eq!(batches.codebuild.calls("StartBuildBatch"), 1);
    let result = json(&batches.sandbox.out().join("result.json"));
    assert_eq!((&result["exit"], result["units"].as_array().unwrap().len()), (&json!("passed"), 2));
    assert!(batches.sandbox.out().join("report.html").is_file());
    assert_eq!((batches.stored("lock").len(), batches.stored("memory.json").len()), (1, 1));
    let jobs = json(&batches.stored("results.json")[0])["jobs"].clone();
    let lock = std::fs::read_to_string(&batches.stored("lock")[0]).unwrap();
    for job in jobs.as_array().unwrap() {
        let commit = job["repos"][0]["commit"].as_str().unwrap();
        assert!(lock.contains(&format!("commit = \"{commit}\"")), "{commit} is not in {lock}");
    }
    assert_eq!(jobs.as_array().unwrap().len(), 2);
    batches.assert_no_build_runs();
}

/// A trusted batch with a share builds the targets of `--warm` once. A cell of a batch without pins does not run.
#[test]
fn warm_builds_what_the_cells_share() {
    let Some(batches) = Batches::new("warm_builds_what_the_cells_share", &json!({})) else { return };
    let share = batches.sandbox.path().join("share");
    std::fs::create_dir(&share).unwrap();
    let share = format!("cache.share={}", share.display());
    let words = [
        "batch",
        "--project",
        PROJECT,
        "--interval",
        "100ms",
        "--trusted",
        "--warm",
        "hello",
        "--set",
        &share,
    ];
    let ran = batches.sandbox.start(batches.command(&words)).wait();
    batches.assert_code(&ran, &[0]);
    let logs = batches.codebuild.logs();
    assert_eq!(logs.matches("warm: build hello as board_a").count(), 1, "{logs}");
    assert!(!logs.contains("as board_b") && !logs.contains("the cells do it"), "{logs}");
    assert!(logs.contains("hello"), "{logs}");
    // A cell whose batch has no pins is an error.
    let id = "20260102T030405Z-0f5d7e0c91b2a3d4";
    let cell =
        batches.sandbox.start(batches.command(&["batch", "cell", "--batch", id, "--cell", "board_a"])).wait();
    cell.assert_code(&[4]);
    cell.assert_says(&["the batch has no pins"]);
    let merged = batches.merge(id);
    merged.assert_says(&["the batch has no pins", "board_b: it has not run"]);
    merged.assert_code(&[3]);
}

#[test]
fn a_cell_that_fails_is_the_verdict() {
    let Some(batches) = Batches::new("a_cell_that_fails_is_the_verdict", &json!({})) else { return };
    batches.sandbox.behaviour("bitbake-layers crash");
    let ran = batches.run();
    batches.assert_code(&ran, &[1]);
    assert_eq!(batches.outcomes(), outcomes(["failed", "failed"]));
}

#[test]
fn a_lost_cell_is_red_until_its_retry_passes() {
    let faults = json!({ "faults": { "board_a": "lost" } });
    let Some(batches) = Batches::new("a_lost_cell_is_red_until_its_retry_passes", &faults) else { return };
    let ran = batches.run();
    batches.assert_code(&ran, &[3]);
    assert_eq!(batches.outcomes(), outcomes(["not-run", "passed"]));
    ran.assert_says(&[
        "board_a  lost (FAULT)",
        "it began, and its machine was lost or stopped; CodeBuild says FAULT",
    ]);
    let (id, codebuild) = Batches::ids(&ran);
    batches.merge(&id).assert_code(&[3]);
    // What CodeBuild does for RetryBuildBatch.
    batches.codebuild.retry(&codebuild);
    assert_eq!(
        batches.codebuild.wait(&codebuild)["buildBatchStatus"],
        "SUCCEEDED",
        "{}",
        batches.codebuild.logs()
    );
    let merged = batches.merge(&id);
    batches.assert_code(&merged, &[0]);
    merged.assert_says(&["board_a ran 2 times; the last time counts"]);
    assert_eq!(batches.outcomes(), outcomes(["passed", "passed"]));
    // A batch of another id has nothing of it.
    let other = batches.merge("20260102T030405Z-0f5d7e0c91b2a3d4");
    batches.assert_code(&other, &[3]);
    other.assert_says(&["board_a: it has not run", "board_b: it has not run"]);
}

#[test]
fn two_batches_of_one_commit_do_not_mix() {
    let Some(batches) =
        Batches::new("two_batches_of_one_commit_do_not_mix", &json!({ "faults": { "board_b": "never" } }))
    else {
        return;
    };
    let red = batches.run();
    batches.assert_code(&red, &[3]);
    red.assert_says(&["board_b: it has not run; CodeBuild says FAULT"]);
    let green = batches.run();
    batches.assert_code(&green, &[0]);
    batches.merge(&Batches::ids(&red).0).assert_code(&[3]);
    batches.merge(&Batches::ids(&green).0).assert_code(&[0]);
    // Nor with another commit.
    commit(&batches.sandbox.layer(), "Another commit");
    batches.merge(&Batches::ids(&green).0).assert_code(&[3]);
}

#[test]
fn a_cell_that_runs_out_of_time_is_red() {
    let faults = json!({ "faults": { "board_b": "timed-out" } });
    let Some(batches) = Batches::new("a_cell_that_runs_out_of_time_is_red", &faults) else { return };
    let ran = batches.run();
    batches.assert_code(&ran, &[3]);
    ran.assert_says(&["board_b  timed out"]);
    assert_eq!(batches.outcomes(), outcomes(["passed", "not-run"]));
}

#[test]
fn a_signal_stops_the_batch_and_all_its_cells() {
    let Some(batches) = Batches::new("a_signal_stops_the_batch_and_all_its_cells", &json!({})) else {
        return;
    };
    batches.sandbox.behaviour("bitbake-layers hang");
    let mut running = batches.start();
    running.wait_until("the cells hang", || batches.stored("started").len() == 2);
    running.signal(Signal::SIGTERM);
    let ran = running.wait_for(Duration::from_secs(120));
    batches.assert_code(&ran, &[130]);
    ran.assert_says(&["cancelled by a signal: stopping the batch", "board_a  stopped"]);
    assert_eq!(batches.codebuild.calls("StopBuildBatch"), 1);
    assert!(batches.outcomes().iter().all(|(_, outcome)| outcome != "passed"));
    batches.assert_no_build_runs();
}

/// The sources of the cells' targets are fetched once, before the cells. If that fails, the cells decide.
#[test]
fn warm_fetches_the_sources_of_the_targets() {
    let Some(batches) = Batches::new("warm_fetches_the_sources_of_the_targets", &json!({})) else { return };
    let share = batches.sandbox.path().join("share");
    std::fs::create_dir(&share).unwrap();
    let share = format!("cache.share={}", share.display());
    let set = ["--trusted", "--set", &share, "--set", "build.targets=[\"hello\"]"];
    let plan = batches.sandbox.start(batches.sandbox.command([&["plan"], &set[..]].concat())).wait();
    plan.assert_code(&[0]);
    plan.assert_says(&["in a batch, `warm` does this first\n  fetch the sources of hello as board_a\n"]);
    let words = ["batch", "--project", PROJECT, "--interval", "100ms"];
    let run =
        |more: &[&str]| batches.sandbox.start(batches.command(&[&words, &set[..], more].concat())).wait();

    let without = run(&["--no-fetch"]);
    batches.assert_code(&without, &[0]);
    assert!(!batches.codebuild.logs().contains("fetch the sources"), "{}", batches.codebuild.logs());
    let ran = run(&[]);
    batches.assert_code(&ran, &[0]);
    ran.assert_says(&["warm: fetch the sources of hello as board_a"]);
    let logs = batches.codebuild.logs();
    assert_eq!(logs.matches("warm: fetch the sources of hello as board_a").count(), 1, "{logs}");
    assert!(!logs.contains("as board_b") && !logs.contains("the cells do it"), "{logs}");
    assert!(logs.contains("fetch hello (board-a)"), "{logs}");

    batches.sandbox.behaviour("bitbake fail do_fetch");
    let failed = run(&[]);
    batches.assert_code(&failed, &[1]);
    let logs = batches.codebuild.logs();
    assert!(logs.contains("warning: warm: fetch the sources of hello as board_a: "), "{logs}");
    failed.assert_says(&["warm     succeeded", "board_a  failed"]);
    assert_eq!(batches.outcomes(), outcomes(["failed", "failed"]));
}

/// What CodeBuild would refuse after the start is reported before it.
#[test]
fn limits_and_mistakes_are_reported_before_the_start() {
    let small = json!({ "project": {
        "name": PROJECT,
        "environment": { "computeType": "BUILD_GENERAL1_LARGE" },
        "buildBatchConfig": { "serviceRole": "r", "restrictions": { "maximumBuildsAllowed": 3 } },
    }});
    let Some(batches) = Batches::new("limits_and_mistakes_are_reported_before_the_start", &small) else {
        return;
    };
    let spec = batches.sandbox.start(batches.command(&["batch", "--print-spec"])).wait();
    spec.assert_code(&[0]);
    assert!(spec.stdout.starts_with("version: 0.2\n"), "{}", spec.stdout);
    spec.assert_says(&["- identifier: \"board_a\"", "--batch", "depend-on:"]);
    let ran = batches.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["the batch has 4 builds, with `warm` and `merge`, and the project allows 3"]);
    let calls: [(&[&str], &str); 5] = [
        (&["batch"], "--project is missing"),
        (&["batch", "--print-jobs", "--no-fetch"], "cannot be used with '--no-fetch'"),
        (&["batch", "--project", "other"], "CodeBuild has no project `other`"),
        (&["batch", "--project", PROJECT, "--cell", "board_a"], "a batch runs all cells"),
        (&["merge", "--batch", "a/b"], "use at most 64 letters"),
    ];
    for (words, wanted) in calls {
        let ran = batches.sandbox.start(batches.command(words)).wait();
        ran.assert_code(&[2]);
        ran.assert_says(&[wanted]);
    }
    batches.sandbox.change_manifest("[\"board-a\", \"board-b\"]", "[\"board-a\"]");
    let ran = batches.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["changes that are not committed"]);
    assert_eq!(batches.codebuild.calls("StartBuildBatch"), 0);
}
