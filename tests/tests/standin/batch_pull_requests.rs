//! Batches of pull requests: a new commit, and the post of the result.

use std::time::Duration;

use build_agent_tests::{GitHubServer, git};
use nix::sys::signal::Signal;
use serde_json::json;

use super::batches::Batches;

/// A new commit of a pull request stops the batch of the older one, and none of another pull request or of a branch.
#[test]
fn a_new_commit_stops_the_older_batch_of_its_pull_request() {
    let test = "a_new_commit_stops_the_older_batch_of_its_pull_request";
    let Some(batches) = Batches::new(test, &json!({ "parallel": 8 })) else { return };
    batches.sandbox.behaviour("bitbake-layers hang");
    batches.push("The first commit", &[7, 70]);
    let mut older = batches.start_version("pr/7", "older", &[]);
    let mut other = batches.start_version("pr/70", "other", &[]);
    older.wait_until("the cells of two batches hang", || batches.started_cells() == 4);
    let head = git(&batches.sandbox.layer(), ["rev-parse", "HEAD"]);
    let mut branch = batches.start_version(&head, "branch", &[]);
    branch.wait_until("the cells of three batches hang", || batches.started_cells() == 6);
    batches.sandbox.behaviour("");
    batches.push("The second commit", &[7]);
    let newer = batches.start_version("pr/7", "newer", &[]);
    let older = older.wait();
    batches.assert_code(&older, &[130]);
    older.assert_says(&["the batch was stopped", "board_a  stopped"]);
    let newer = newer.wait();
    batches.assert_code(&newer, &[0]);
    let stopped = format!("{} is stopped: pull request 7 has a newer commit", Batches::ids(&older).1);
    newer.assert_says(&[&stopped]);
    assert_eq!(batches.codebuild.calls("StopBuildBatch"), 1);
    for running in [&mut other, &mut branch] {
        running.signal(Signal::SIGTERM);
    }
    for running in [other, branch] {
        batches.assert_code(&running.wait_for(Duration::from_secs(120)), &[130]);
    }
    batches.assert_no_build_runs();
}

/// The option keeps the older batch; so does a role that may not list batches, with a warning.
#[test]
fn an_older_batch_may_continue() {
    let test = "an_older_batch_may_continue";
    let Some(batches) = Batches::new(test, &json!({ "parallel": 8, "refuses-list": true })) else { return };
    batches.sandbox.behaviour("bitbake-layers hang");
    batches.push("The first commit", &[7]);
    let mut older = batches.start_version("pr/7", "older", &["--keep-older"]);
    older.wait_until("the cells hang", || batches.started_cells() == 2);
    batches.sandbox.behaviour("");
    batches.push("The second commit", &[7]);
    let kept = batches.start_version("pr/7", "kept", &["--keep-older"]).wait();
    batches.assert_code(&kept, &[0]);
    assert_eq!(batches.codebuild.calls("ListBuildBatchesForProject"), 0);
    batches.push("The third commit", &[7]);
    let refused = batches.start_version("pr/7", "refused", &[]).wait();
    batches.assert_code(&refused, &[0]);
    refused.assert_says(&[
        "the older batches of pull request 7 are not stopped: CodeBuild refused ListBuildBatchesForProject",
        "allow codebuild:ListBuildBatchesForProject on the project to this role",
    ]);
    assert_eq!(batches.codebuild.calls("StopBuildBatch"), 0);
    older.signal(Signal::SIGTERM);
    batches.assert_code(&older.wait_for(Duration::from_secs(120)), &[130]);
}

/// The one post of a batch has the findings of all cells, each once, as annotations and as SARIF.
#[test]
fn the_post_of_a_batch_has_its_findings() {
    let test = "the_post_of_a_batch_has_its_findings";
    let Some(batches) = Batches::new(test, &json!({})) else { return };
    batches.sandbox.change_manifest("yocto_check_layer = false", "yocto_check_layer = true");
    let conf = batches.sandbox.layer().join("conf/layer.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text.replace("scarthgap", "kirkstone")).unwrap();
    batches.push("A layer for another release", &[7]);
    let ran = batches.run();
    batches.assert_code(&ran, &[1]);
    let head = git(&batches.sandbox.layer(), ["rev-parse", "HEAD"]);
    let pull = json!({ "number": 7, "sha": head, "owner": "someone", "branch": "fix" });
    let server = GitHubServer::start(&json!({ "commits": { &head: [] }, "pulls": [pull] }));
    let post = |result: &str| {
        let mut command = batches.sandbox.command(["report", "post"]);
        command.arg(batches.sandbox.out().join(result)).args(["--name", "meta-tested", "--commit", &head]);
        command.args(["--repository", "example/meta-tested", "--pull-request", "7"]);
        command.args(["--post", "check,sarif"]);
        command.envs([("GITHUB_TOKEN", "ghs_actions"), ("GITHUB_API_URL", &server.url())]);
        batches.sandbox.start(command).wait()
    };
    let posted = post("result.json");
    posted.assert_code(&[0]);
    let state = server.state();
    let run = &state["check_runs"][0];
    let annotations = run["annotations"].as_array().unwrap();
    assert!(annotations.iter().any(|one| one["path"] == "conf/layer.conf"), "{run:#}");
    let places: Vec<String> =
        annotations.iter().map(|one| format!("{} {}", one["path"], one["message"])).collect();
    let unique: std::collections::BTreeSet<&String> = places.iter().collect();
    assert_eq!(unique.len(), places.len(), "{places:#?}");
    assert_eq!(state["sarifs"].as_array().unwrap().len(), 1, "{state:#}");
    assert!(batches.sandbox.out().join("results.sarif").is_file());
    // Without the findings of a cell, GitHub would take them for fixed.
    let file = batches.sandbox.out().join("result.json");
    let mut result = build_agent_tests::json(&file);
    result["unchecked_jobs"] = json!(1);
    std::fs::write(&file, result.to_string()).unwrap();
    let posted = post("result.json");
    posted.assert_says(&["sarif: no findings are uploaded, because those of 1 job are missing"]);
    assert_eq!(server.state()["sarifs"].as_array().unwrap().len(), 1);
}
