//! Batches: a stand-in of CodeBuild runs each cell as a process of the real agent.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use build_agent_tests::{
    CodeBuild, PROJECT, Ran, Running, Sandbox, commit, json, skip, survivors, unmet_by_codebuild,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CELLS: [&str; 2] = ["board_a", "board_b"];

/// A layer with two cells that are quick, and CodeBuild.
struct Batches {
    codebuild: CodeBuild,
    sandbox: Sandbox,
}

impl Batches {
    fn new(test: &str, more: &Value) -> Option<Batches> {
        if let Some(reason) = unmet_by_codebuild() {
            skip(test, &reason);
            return None;
        }
        let sandbox = Sandbox::new(test)?;
        let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
        sandbox.write_manifest(&(text + "\n[matrix]\nmachine = [\"board-a\", \"board-b\"]\n"));
        commit(&sandbox.layer(), "Add the manifest");
        let codebuild = CodeBuild::start(&sandbox, more);
        Some(Batches { codebuild, sandbox })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(words);
        command.arg("--out").arg(self.sandbox.out());
        self.codebuild.configure(&mut command);
        command
    }

    fn start(&self) -> Running {
        let words = ["batch", "--project", PROJECT, "--interval", "100ms"];
        self.sandbox.start(self.command(&words))
    }

    fn run(&self) -> Ran {
        self.start().wait()
    }

    /// The exit status of a batch, with all logs if it is not one of these.
    #[track_caller]
    fn assert_code(&self, ran: &Ran, codes: &[i32]) {
        let fits = ran.code.is_some_and(|code| codes.contains(&code));
        assert!(fits, "{:?} and not {codes:?}\n{}\n{}", ran.code, ran.output(), self.codebuild.logs());
    }

    /// The id of the batch, and what CodeBuild calls it.
    fn ids(ran: &Ran) -> (String, String) {
        let line = ran.stdout.lines().find(|line| line.starts_with("batch ")).expect("the line of the batch");
        let words: Vec<&str> = line.split([' ', ':']).collect();
        let codebuild = line.rsplit(' ').next().unwrap();
        (words[1].to_owned(), codebuild.to_owned())
    }

    fn merge(&self, id: &str) -> Ran {
        self.sandbox.start(self.command(&["merge", "--batch", id])).wait()
    }

    fn outcomes(&self) -> Vec<(String, String)> {
        let jobs = json(&self.sandbox.out().join("results.json"))["jobs"].clone();
        let text = |job: &Value, key: &str| job[key].as_str().unwrap_or_default().to_owned();
        let job = |job: &Value| (text(&job["job"], "cell"), text(job, "outcome"));
        jobs.as_array().unwrap().iter().map(job).collect()
    }

    /// Fails if a process of a build is left.
    #[track_caller]
    fn assert_no_build_runs(&self) {
        let left = survivors(&self.sandbox.path().join("codebuild/builds"));
        assert!(left.is_empty(), "{left:?}");
    }

    fn stored(&self, name: &str) -> Vec<PathBuf> {
        fn walk(directory: &std::path::Path, name: &str, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.file_name().is_some_and(|last| last == name) {
                    found.push(path);
                } else if path.is_dir() {
                    walk(&path, name, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.sandbox.artifacts(), name, &mut found);
        found
    }
}

fn outcomes(all: [&str; 2]) -> Vec<(String, String)> {
    CELLS.iter().zip(all).map(|(cell, outcome)| ((*cell).to_owned(), outcome.to_owned())).collect()
}

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
    assert_eq!(logs.matches("warming the caches for board_a").count(), 1, "{logs}");
    assert!(!logs.contains("warming the caches for board_b") && !logs.contains("warming for"), "{logs}");
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
    let calls: [(&[&str], &str); 4] = [
        (&["batch"], "--project is missing"),
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
