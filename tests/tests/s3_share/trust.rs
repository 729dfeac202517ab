//! A server that enforces the role of a pull request: whatever the agent is told, S3 says who may write where.

use std::process::{Command, Stdio};

use build_agent_tests::SeaweedFs;

use crate::jobs::sandbox;

#[test]
fn the_role_of_a_pull_request_writes_only_its_own_tier() {
    let test = "the_role_of_a_pull_request_writes_only_its_own_tier";
    let Some(server) = SeaweedFs::start(test) else { return };
    let Some(sandbox) = sandbox(test, "s3://share/cache") else { return };
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("a"), "a").unwrap();
    // The first write makes the bucket.
    let publish = |to: &str, mut command: Command| {
        command.arg("publish").arg(tree.path()).arg(format!("s3://share/{to}"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(publish("first", server.agent()));
    let job = |words: &[&str]| {
        let mut command = sandbox.run_command();
        command.args(["--only", "build,publish"]).args(words);
        server.configure(&mut command);
        command
    };
    let run = |command: Command| {
        sandbox.start(command).wait().assert_code(&[0]);
        sandbox.result()["cache"].clone()
    };
    let written = |cache: &serde_json::Value| cache["published"]["published"].as_u64();
    assert_eq!(written(&run(job(&["--trusted"]))[0]), Some(4));
    let shared = server.keys("share", "cache/");
    assert!(shared.iter().any(|key| key.starts_with("cache/sstate/")), "{shared:?}");

    // The agent takes the source for trusted.
    let mut lie = job(&["--trusted"]);
    server.configure_for_pull_request(&mut lie);
    let cache = run(lie);
    assert_eq!(cache[0]["state"], "read-only", "{cache:#}");
    assert_eq!(server.keys("share", "cache/"), shared);

    let of_pull_request = |number: u64| {
        let mut command = job(&[]);
        server.configure_for_pull_request(&mut command);
        command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", sandbox.layer());
        command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
        command.env("CODEBUILD_WEBHOOK_TRIGGER", format!("pr/{number}"));
        command
    };
    let states = |number| {
        let cache = run(of_pull_request(number));
        [cache[0]["state"].clone(), cache[1]["state"].clone()]
    };
    assert_eq!(states(8), ["read-only", "read-only"]);
    assert_eq!(server.keys("share", "cache/"), shared);
    assert_eq!(states(7), ["read-write", "read-only"]);
    let all = server.keys("share", "cache/");
    let own = &all - &shared;
    assert!(!own.is_empty() && own.iter().all(|key| key.starts_with("cache/pr/7/")), "{own:?}");
    assert!(shared.is_subset(&all));

    // With the commands of the agent.
    let agent = || {
        let mut agent = server.agent();
        server.configure_for_pull_request(&mut agent);
        agent
    };
    for to in ["cache/sstate/scarthgap", "cache/index/scarthgap", "cache/signatures/parses", "cache/pr/8"] {
        assert!(!publish(to, agent()), "{to}");
    }
    let mut prune = agent();
    prune.args(["cache", "prune", "--sstate-max-age", "0s", "--downloads-max-age", "0s", "--grace", "0s"]);
    prune.args(["--share", "s3://share/cache", "--ignore-leases"]).stdout(Stdio::null());
    assert!(!prune.stderr(Stdio::null()).status().unwrap().success());
    assert!(shared.is_subset(&server.keys("share", "cache/")));
}
