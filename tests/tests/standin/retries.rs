//! One retry of a checkout or an upload after an upstream failure, and none of anything else.

use std::path::PathBuf;
use std::process::Command;

use build_agent_tests::{Ran, Running, Sandbox, repository};
use serde_json::Value;

/// A sandbox whose poky and whose artifacts are on a server that refuses its first requests.
struct Upstream {
    sandbox: Sandbox,
    port: String,
    _server: Running,
}

/// Refuses everything.
const ALWAYS: &str = "1000000";

impl Upstream {
    fn new(test: &str, failures: &str) -> Option<Upstream> {
        let sandbox = Sandbox::new(test)?;
        let port_file = sandbox.path().join("port");
        let mut command = Command::new("python3");
        command.arg(repository().join("tests/stand-ins/upstream.py")).arg(&port_file);
        command.arg(sandbox.path().join("requests")).arg(sandbox.upstream().parent().unwrap());
        command.arg(failures);
        let mut server = Running::start(command, sandbox.path());
        server.wait_until("the server listens", || port_file.exists());
        let port = std::fs::read_to_string(&port_file).unwrap();
        Some(Upstream { sandbox, port, _server: server })
    }

    fn clone_from_it(&self) {
        let file = format!("file://{}", self.sandbox.upstream().display());
        self.sandbox.change_manifest(&file, &format!("http://127.0.0.1:{}/git/poky", self.port));
    }

    fn publish_to_it(&self) {
        let directory = format!("destination = \"{}\"", self.sandbox.artifacts().display());
        let rule = "destination = \"s3://bucket/builds\"\n[[artifacts.rules]]\ninclude = \"conf/local.conf\"\nrequired = true";
        self.sandbox.change_manifest(&directory, rule);
    }

    fn run(&self) -> Ran {
        let mut command = self.sandbox.run_command();
        command.env("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", self.port));
        command.envs([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret-of-tests"),
            ("AWS_ALLOW_HTTP", "true"),
        ]);
        self.sandbox.start(command).wait()
    }

    /// Fails unless the artifact is in `result.json`, once.
    #[track_caller]
    fn assert_published(&self) {
        let result = self.sandbox.result();
        let artifacts = result["artifacts"].as_array().unwrap();
        let paths: Vec<&str> = artifacts.iter().map(|one| one["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["conf/local.conf"]);
        assert!(
            artifacts[0]["bytes"].as_u64() > Some(0) && artifacts[0]["sha256"].is_string(),
            "{artifacts:?}"
        );
        assert_eq!(result["published"]["objects"], 1);
    }

    /// The requests that were refused.
    fn refused(&self) -> Vec<String> {
        let requests: PathBuf = self.sandbox.path().join("requests");
        let text = std::fs::read_to_string(requests).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_suffix(" refused")).map(str::to_owned).collect()
    }

    /// The retries of `result.json`, as stage and step. Each has one line on the console.
    #[track_caller]
    fn retries(&self, ran: &Ran) -> Vec<(String, String)> {
        let result = self.sandbox.result();
        let all = result["retries"].as_array().cloned().unwrap_or_default();
        let lines = ran.output().lines().filter(|line| line.contains(": retrying once in ")).count();
        assert_eq!(lines, all.len(), "{}", ran.output());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.iter()
            .map(|retry| {
                assert!(
                    !text(&retry["reason"]).is_empty() && retry["pause"].as_f64() >= Some(1.0),
                    "{retry}"
                );
                (text(&retry["unit"]["stage"]), text(&retry["unit"]["name"]))
            })
            .collect()
    }
}

fn step(stage: &str, name: &str) -> (String, String) {
    (stage.into(), name.into())
}

#[test]
fn a_checkout_that_fails_once_is_retried_and_passes() {
    let Some(upstream) = Upstream::new("a_checkout_that_fails_once_is_retried_and_passes", "1") else {
        return;
    };
    upstream.clone_from_it();
    let ran = upstream.run();
    ran.assert_code(&[0]);
    assert_eq!(upstream.retries(&ran), [step("checkout", "repo poky")]);
    assert_eq!(upstream.refused().len(), 1);
    let result = upstream.sandbox.result();
    assert_eq!(result["outcome"], "passed");
    assert_eq!(result["errors"], Value::Array(vec![]));
    // The events contain the same.
    let events = upstream.sandbox.out().join("events.jsonl");
    let report = ["report", events.to_str().unwrap(), "--out", upstream.sandbox.path().to_str().unwrap()];
    upstream.sandbox.call(report).assert_code(&[0]);
    let again = build_agent_tests::json(&upstream.sandbox.path().join("result.json"));
    assert_eq!(again["retries"], result["retries"]);
}

#[test]
fn a_checkout_that_always_fails_is_retried_once() {
    let Some(upstream) = Upstream::new("a_checkout_that_always_fails_is_retried_once", ALWAYS) else {
        return;
    };
    upstream.clone_from_it();
    let ran = upstream.run();
    ran.assert_code(&[4]);
    assert_eq!(upstream.retries(&ran), [step("checkout", "repo poky")]);
    // Each attempt ends at its first request.
    let refused = upstream.refused();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(upstream.sandbox.result()["errors"].as_array().unwrap().len(), 1);
}

#[test]
fn an_upload_that_fails_once_is_retried_and_passes() {
    let Some(upstream) = Upstream::new("an_upload_that_fails_once_is_retried_and_passes", "1") else {
        return;
    };
    upstream.publish_to_it();
    let ran = upstream.run();
    ran.assert_code(&[0]);
    assert_eq!(upstream.retries(&ran), [step("publish", "publish")]);
    upstream.assert_published();
}

/// The retry finds an index, and sees that it is its own.
#[test]
fn an_index_whose_response_was_lost_is_not_another_publication() {
    let Some(upstream) = Upstream::new("an_index_whose_answer_got_lost_is_no_other_publication", "index")
    else {
        return;
    };
    upstream.publish_to_it();
    let ran = upstream.run();
    ran.assert_code(&[0]);
    assert_eq!(upstream.retries(&ran), [step("publish", "publish")]);
    assert_eq!(upstream.refused().len(), 2);
    upstream.assert_published();
}

#[test]
fn an_upload_that_always_fails_is_retried_once() {
    let Some(upstream) = Upstream::new("an_upload_that_always_fails_is_retried_once", ALWAYS) else { return };
    upstream.publish_to_it();
    let ran = upstream.run();
    ran.assert_code(&[4]);
    assert_eq!(upstream.retries(&ran), [step("publish", "publish")]);
}

#[test]
fn a_failing_layer_and_a_missing_branch_are_not_retried() {
    let test = "a_failing_layer_and_a_missing_branch_are_not_retried";
    let Some(upstream) = Upstream::new(test, "0") else { return };
    upstream.clone_from_it();
    upstream.sandbox.behaviour("yocto-check-layer fail test_world");
    let ran = upstream.run();
    ran.assert_code(&[1]);
    assert_eq!(upstream.retries(&ran), []);

    upstream.sandbox.change_manifest("branch = \"scarthgap\"", "branch = \"scarthgab\"");
    let ran = upstream.run();
    ran.assert_code(&[2]);
    assert_eq!(upstream.retries(&ran), []);
}
