//! `action.yml`: its steps run as GitHub's runner runs them, on recorded events of a push, a pull request and a fork.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{GitHubServer, Sandbox, agent, commit, git, github, repository, skip};
use serde_json::{Value, json};

/// A workspace with the layer, and a runner.
struct Runner {
    sandbox: Sandbox,
    programs: PathBuf,
}

/// What the steps of the action did.
struct Steps(Value);

impl Steps {
    fn output(&self) -> &str {
        self.0["output"].as_str().unwrap()
    }

    #[track_caller]
    fn assert_verdict(&self, verdict: &str, status: i64) {
        assert_eq!(self.0["outputs"]["verdict"], verdict, "{}", self.output());
        assert_eq!(self.0["outputs"]["exit-status"], status.to_string());
        assert_eq!(self.0["status"], status);
    }

    #[track_caller]
    fn assert_says(&self, words: &[&str]) {
        for words in words {
            assert!(self.output().contains(words), "no {words:?} in\n{}", self.output());
        }
    }
}

impl Runner {
    fn new(test: &str) -> Option<Runner> {
        let has_yaml = Command::new("python3")
            .args(["-c", "import yaml"])
            .output()
            .is_ok_and(|run| run.status.success());
        if !has_yaml {
            skip(test, "python3 has no module yaml (apt-get install -y python3-yaml)");
            return None;
        }
        let sandbox = Sandbox::new(test)?;
        commit(&sandbox.layer(), "Add the manifest");
        // In place of GitHub's server: the rules of a pull request come from there.
        let words = ["clone", "--quiet", "--bare", "meta-tested", "example/meta-tested"];
        git(sandbox.path(), words);
        git(&sandbox.path().join("example/meta-tested"), ["branch", "--quiet", "--force", "main", "HEAD"]);
        let programs = Path::new(agent().get_program()).parent().unwrap().to_owned();
        std::fs::create_dir(sandbox.path().join("temp")).unwrap();
        Some(Runner { sandbox, programs })
    }

    fn binary(&self) -> String {
        self.programs.join("build-agent").display().to_string()
    }

    fn notes(&self) -> String {
        std::fs::read_to_string(self.sandbox.path().join("notes")).unwrap_or_default()
    }

    fn command(&self, event: &str, inputs: &Value) -> Command {
        let workspace = self.sandbox.layer();
        let head = git(&workspace, ["rev-parse", "HEAD"]);
        let mut command = Command::new(repository().join("tests/action"));
        command
            .arg(repository())
            .arg(&workspace)
            .arg(self.sandbox.path().join("temp"))
            .arg(inputs.to_string());
        let stand_ins = repository().join("tests/stand-ins");
        let path = std::env::var("PATH").unwrap();
        let path =
            format!("{}:{}:{path}", stand_ins.join("runner").display(), stand_ins.join("engine").display());
        command.env_clear().env("PATH", path).envs(github::variables(event, &workspace, &head));
        command.env("HOME", self.sandbox.path()).env("RUNNER_ENVIRONMENT", "github-hosted");
        command.env("GITHUB_SERVER_URL", format!("file://{}", self.sandbox.path().display()));
        command.env("RUNNER_NOTES", self.sandbox.path().join("notes"));
        command.env("ENGINE_NOTES", self.sandbox.path().join("notes"));
        command
    }

    fn run_command(&self, mut command: Command) -> Steps {
        let ran = command.output().unwrap();
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(!Path::new("/tmp/hostile").exists(), "a text of the event was executed");
        Steps(serde_json::from_str(&text).unwrap())
    }

    fn run(&self, event: &str, inputs: Value) -> Steps {
        self.run_command(self.command(event, &inputs))
    }

    /// The inputs of a job with the agent under test and the manifest.
    fn inputs(&self, more: Value) -> Value {
        let mut inputs = json!({
            "binary": self.binary(),
            "manifest": "build-agent.toml",
            "work-dir": self.sandbox.work(),
        });
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        inputs
    }
}

#[test]
fn the_action_runs_a_job_for_each_event() {
    let Some(runner) = Runner::new("the_action_runs_a_job_for_each_event") else { return };
    for (event, trust) in [("push", "main"), ("pull_request", "pull request 7"), ("fork", "pull request 7")] {
        let share = runner.sandbox.path().join("share");
        let _ = std::fs::create_dir(&share);
        let inputs = runner.inputs(json!({ "share": share, "trusted-branches": "main" }));
        let steps = runner.run(event, inputs);
        steps.assert_verdict("passed", 0);
        let trusted = if event == "push" { "is trusted" } else { "is not trusted" };
        steps.assert_says(&["build-agent 0.", trusted, trust]);
        let result = steps.0["outputs"]["result"].as_str().unwrap();
        assert_eq!(Path::new(result), runner.sandbox.layer().join("build-agent-out/result.json"));
        let result: Value = serde_json::from_str(&std::fs::read_to_string(result).unwrap()).unwrap();
        assert_eq!(result["outcome"], "passed");
        assert_eq!(result["job"]["build"].as_str().unwrap().split('-').next(), Some("4711"), "{event}");
        assert!(steps.0["summary"].as_str().unwrap().starts_with("### build-agent: **PASSED**"));
        assert_eq!(steps.0["used"], json!([]), "nothing is uploaded");
    }
}

#[test]
fn a_failing_layer_fails_the_step_and_is_annotated() {
    let Some(runner) = Runner::new("a_failing_layer_fails_the_step_and_is_annotated") else { return };
    runner.sandbox.behaviour("yocto-check-layer fail test_world");
    let steps = runner.run("fork", runner.inputs(json!({})));
    steps.assert_verdict("failed", 1);
    let commands = github::executed_in(steps.output());
    assert!(
        commands
            .iter()
            .any(|command| command.starts_with("::error title=") && command.contains("test_world")),
        "{commands:#?}"
    );
    assert!(steps.0["summary"].as_str().unwrap().contains("test_world"));
    // A layer elsewhere in the workspace, and a check without a manifest.
    let Some(runner) = Runner::new("a_failing_layer_fails_the_step_and_is_annotated") else { return };
    let steps = runner.run("push", json!({ "binary": runner.binary(), "layer": ".", "release": "nonesuch" }));
    steps.assert_verdict("error", 2);
    steps.assert_says(&["--release \"nonesuch\" is not one of"]);
    let early = github::executed_in(steps.output());
    assert!(
        early.iter().any(|command| command.starts_with("::error title=build-agent::--release")),
        "{early:?}"
    );
}

/// The text of an input is a value, and never a part of a command.
#[test]
fn inputs_are_never_executed() {
    let Some(runner) = Runner::new("inputs_are_never_executed") else { return };
    let hostile = "'; touch /tmp/hostile; '$(touch /tmp/hostile)`touch /tmp/hostile`\n::error::x";
    let names = [
        "layer",
        "release",
        "command",
        "manifest",
        "only",
        "skip",
        "set",
        "share",
        "trusted-branches",
        "trusted",
        "base",
        "arguments",
        "out",
        "work-dir",
        "token",
        "manifest-sha256",
        "accept-manifest",
    ];
    for name in names {
        let mut inputs = runner.inputs(json!({}));
        inputs[name] = hostile.into();
        let ran = runner.command("fork", &inputs).output().unwrap();
        assert!(!Path::new("/tmp/hostile").exists(), "the input {name} was executed");
        let steps = Steps(serde_json::from_slice(&ran.stdout).unwrap());
        let commands = github::executed_in(steps.output());
        assert!(!commands.iter().any(|command| command == "::error::x"), "{name}: {commands:#?}");
        let outside = runner.sandbox.path().join("hostile");
        assert!(!outside.exists());
    }
    for (inputs, words) in [
        (json!({ "layer": "../upstream/poky" }), "is not in the workspace"),
        (json!({ "layer": "missing" }), "does not exist"),
        (json!({ "trusted": "yes" }), "write true or false"),
        (json!({ "command": "shell" }), "write check, run, plan, merge or post"),
        (json!({ "command": "check", "only": "build", "manifest": "" }), "need \"command: run\""),
        (json!({ "binary": "/dev/null" }), "is not an executable file"),
        (json!({ "image": "x" }), "exclude each other"),
    ] {
        let steps = runner.run("fork", runner.inputs(inputs));
        assert_eq!(steps.0["status"], 2, "{}", steps.output());
        steps.assert_says(&[words]);
    }
    // A link of the layer to a directory outside of the workspace is refused.
    std::os::unix::fs::symlink(runner.sandbox.upstream().join("meta"), runner.sandbox.layer().join("linked"))
        .unwrap();
    let steps =
        runner.run("fork", json!({ "binary": runner.binary(), "layer": "linked", "release": "scarthgap" }));
    assert_eq!(steps.0["status"], 2);
    steps.assert_says(&["is not in the workspace"]);
}

#[test]
fn the_program_is_kept_in_the_cache_by_its_sources() {
    let Some(runner) = Runner::new("the_program_is_kept_in_the_cache_by_its_sources") else { return };
    let inputs = || {
        let mut inputs = runner.inputs(json!({}));
        inputs.as_object_mut().unwrap().remove("binary");
        inputs
    };
    let mut command = runner.command("push", &inputs());
    command.env("CACHED_PROGRAMS_OF_TEST", &runner.programs);
    let steps = runner.run_command(command);
    steps.assert_verdict("passed", 0);
    assert_eq!(steps.0["used"], json!(["actions/cache@v4"]));
}

#[test]
fn an_image_runs_with_names_of_variables_on_its_command_line() {
    let Some(runner) = Runner::new("an_image_runs_with_names_of_variables_on_its_command_line") else {
        return;
    };
    let inputs = json!({ "image": "registry.example/build-agent:v1", "manifest": "build-agent.toml", "token": "hunter22-token" });
    let steps = runner.run("fork", inputs);
    steps.assert_verdict("passed", 0);
    let notes = runner.notes();
    let call = notes
        .lines()
        .find(|line| line.contains(" run ") || line.starts_with("run "))
        .unwrap_or_else(|| panic!("{notes}"));
    let layer = runner.sandbox.layer().display().to_string();
    for words in [
        "--env GITHUB_EVENT_PATH",
        "--env GITHUB_TOKEN",
        &format!("--mount type=bind,source={layer},target={layer}"),
        "fork.json,readonly",
        &format!("--workdir {layer}"),
        "--entrypoint build-agent registry.example/build-agent:v1 run build-agent.toml",
    ] {
        assert!(call.contains(words), "no {words:?} in\n{call}");
    }
    assert!(!call.contains("hunter22"), "{call}");
}

/// The user of the runner on GitHub's machines: neither root nor the user who runs layer code. As the latter, its processes
/// would show `GITHUB_TOKEN` to the layer code of the other tests.
const RUNNER_USER: &str = "nobody";
const RUNNER_GROUP: &str = "nogroup";

impl Runner {
    /// Runs the action as a user who is not root, from a copy of its sources that this user can read.
    fn run_without_root(&self, inputs: &Value) -> Steps {
        let plain = self.command("fork", inputs);
        let of = |program: &str, words: &[&str]| {
            let status = Command::new(program).args(words).arg(self.sandbox.path()).status();
            assert!(status.unwrap().success());
        };
        let sources = self.sandbox.path().join("sources");
        if !sources.exists() {
            of("chown", &["-R", RUNNER_USER]);
            std::fs::create_dir(&sources).unwrap();
            for name in ["action.yml", ".ci", "tests/stand-ins/runner", "tests/stand-ins/engine"] {
                let to = sources.join(name);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                let status = Command::new("cp").arg("-r").arg(repository().join(name)).arg(&to).status();
                assert!(status.unwrap().success());
            }
            std::fs::copy(github::event_path("fork"), sources.join("fork.json")).unwrap();
            std::fs::copy(repository().join("tests/action"), sources.join("action")).unwrap();
            for name in ["build-agent", "build-agent-shim"] {
                std::fs::copy(self.programs.join(name), self.sandbox.path().join(name)).unwrap();
            }
            of("chmod", &["-R", "a+rX"]);
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", RUNNER_USER, "--regid", RUNNER_GROUP, "--init-groups"])
            .arg(sources.join("action"));
        command.arg(&sources).args(plain.get_args().skip(1)).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let stand_ins = sources.join("tests/stand-ins");
        let path = std::env::var("PATH").unwrap();
        let path =
            format!("{}:{}:{path}", stand_ins.join("runner").display(), stand_ins.join("engine").display());
        command.env("PATH", path).env("GITHUB_EVENT_PATH", sources.join("fork.json"));
        self.run_command(command)
    }
}

/// On GitHub's machines the runner is not root, and may use sudo.
#[test]
fn without_root_the_agent_gets_it_with_the_variables_that_it_needs() {
    const TEST: &str = "without_root_the_agent_gets_it_with_the_variables_that_it_needs";
    if !nix::unistd::geteuid().is_root() {
        return skip(TEST, "only root can become another user");
    }
    let Some(runner) = Runner::new(TEST) else { return };
    let program = runner.sandbox.path().join("build-agent");
    let mut inputs = runner.inputs(json!({ "share": "" }));
    inputs["binary"] = program.display().to_string().into();
    runner.run_without_root(&inputs).assert_verdict("passed", 0);
    let notes = runner.notes();
    let start =
        notes.lines().find(|line| line.contains("--preserve-env=")).unwrap_or_else(|| panic!("{notes}"));
    let names = start.split("--preserve-env=").nth(1).unwrap().split(' ').next().unwrap();
    for name in ["GITHUB_ACTIONS", "GITHUB_EVENT_PATH", "GITHUB_SHA", "GITHUB_STEP_SUMMARY", "GITHUB_TOKEN"] {
        assert!(names.split(',').any(|one| one == name), "no {name} in {names}");
    }
    assert!(!names.contains("INPUT_") && !names.contains("GITHUB_OUTPUT"), "{names}");
}

/// In the image the agent is root, also for the merged reports; later steps are not.
#[test]
fn merged_reports_of_an_image_belong_to_the_user_of_the_runner() {
    const TEST: &str = "merged_reports_of_an_image_belong_to_the_user_of_the_runner";
    if !nix::unistd::geteuid().is_root() {
        return skip(TEST, "only root can become another user");
    }
    let Some(runner) = Runner::new(TEST) else { return };
    let merged = runner.sandbox.layer().join("merged");
    for directory in [&merged, &runner.sandbox.layer().join("downloaded")] {
        std::fs::create_dir(directory).unwrap();
    }
    let image = "registry.example/build-agent:v1";
    let inputs = json!({
        "command": "merge", "cells": "{}", "result": "downloaded", "out": "merged", "image": image,
    });
    runner.run_without_root(&inputs).assert_verdict("passed", 0);
    let notes = runner.notes();
    let wrote = notes.lines().position(|line| line.contains(&format!("{image} report --cells={{}} --out=")));
    let owned =
        |line: &str| line.starts_with("sudo -n chown") && line.ends_with(&merged.display().to_string());
    let given = notes.lines().position(owned);
    assert!(wrote.is_some() && wrote < given, "{notes}");
}

/// `actions/checkout` leaves its token in git's configuration, or since version 6 in a file that it includes.
#[test]
fn the_token_of_the_checkout_is_hidden_while_layer_code_runs() {
    let test = "the_token_of_the_checkout_is_hidden_while_layer_code_runs";
    let Some(runner) = Runner::new(test) else { return };
    let layer = runner.sandbox.layer();
    let header = "AUTHORIZATION: basic hunter22";
    git(&layer, ["config", "http.https://github.com/.extraheader", header]);
    let temp = runner.sandbox.path().join("temp");
    let included = temp.join("git-credentials-1.config");
    std::fs::write(&included, format!("[http]\n\textraheader = {header}\n")).unwrap();
    git(&layer, ["config", "includeIf.gitdir:/x/.git.path", included.to_str().unwrap()]);
    let config = layer.join(".git/config");
    let before = std::fs::read_to_string(&config).unwrap();
    assert!(before.contains("hunter22") && before.contains("git-credentials-1"), "{before}");
    runner.sandbox.behaviour(&format!("yocto-check-layer file {}", config.display()));
    for (inputs, verdict, status) in [
        (runner.inputs(json!({})), "passed", 0),
        (runner.inputs(json!({ "manifest": "missing.toml" })), "error", 2),
    ] {
        let mut command = runner.command("fork", &inputs);
        command.env("RUNNER_TEMP", &temp);
        let steps = runner.run_command(command);
        steps.assert_verdict(verdict, status);
        assert_eq!(std::fs::read_to_string(&config).unwrap(), before, "for later steps");
        if status == 0 {
            assert!(!steps.output().contains("can reach the build's credentials: "), "{}", steps.output());
            let logs = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
            let all = std::fs::read_dir(layer.join("build-agent-out/logs")).unwrap();
            let all: String = all.map(|entry| logs(entry.unwrap().path())).collect();
            assert!(all.contains("file: [core]"), "layer code reads the rest of the file: {all}");
            assert!(!all.contains("hunter22") && !all.contains("git-credentials"), "{all}");
        }
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&included).unwrap().permissions().mode() & 0o077, 0);
    }
}

/// On a self-hosted runner, the runner may have the uid that layer code has in the image.
#[test]
fn layer_code_in_the_image_is_not_the_owner_of_the_workspace() {
    let test = "layer_code_in_the_image_is_not_the_owner_of_the_workspace";
    if !nix::unistd::geteuid().is_root() {
        return skip(test, "only root can give the workspace away");
    }
    let Some(runner) = Runner::new(test) else { return };
    let inputs = json!({ "image": "registry.example/build-agent:v1", "manifest": "build-agent.toml" });
    let command = runner.command("fork", &inputs);
    std::os::unix::fs::chown(runner.sandbox.layer(), Some(1000), None).unwrap();
    runner.run_command(command).assert_verdict("passed", 0);
    let words = "--entrypoint sh registry.example/build-agent:v1 -c usermod --uid 61000 builder && exec build-agent \"$@\" \
                 build-agent run build-agent.toml";
    assert!(runner.notes().contains(words), "{}", runner.notes());
}

/// A workflow that `workflow_run` starts: the result is in the workspace, and no layer.
#[test]
fn the_action_posts_the_result_of_another_run() {
    let Some(runner) = Runner::new("the_action_posts_the_result_of_another_run") else { return };
    runner.run("fork", runner.inputs(json!({}))).assert_verdict("passed", 0);
    let head = git(&runner.sandbox.layer(), ["rev-parse", "HEAD"]);
    let server = GitHubServer::start(&json!({ "commits": { &head: [] } }));
    let event = runner.sandbox.path().join("event.json");
    let text = std::fs::read_to_string(github::event_path("workflow_run")).unwrap();
    std::fs::write(&event, text.replace(&"1".repeat(40), &head)).unwrap();
    let post = |inputs: Value| {
        let mut all = json!({ "binary": runner.binary(), "command": "post", "token": "ghs_actions" });
        all.as_object_mut().unwrap().extend(inputs.as_object().unwrap().clone());
        let mut command = runner.command("push", &all);
        command.env("GITHUB_EVENT_NAME", "workflow_run").env("GITHUB_EVENT_PATH", &event);
        command.env("GITHUB_API_URL", server.url()).env("GITHUB_SHA", "2".repeat(40));
        runner.run_command(command)
    };
    let result = "build-agent-out/result.json";
    let steps = post(json!({ "name": "meta-tested scarthgap", "result": result, "post": "status" }));
    steps.assert_verdict("passed", 0);
    let state = server.state();
    assert_eq!(state["statuses"][0]["sha"], json!(head));
    assert_eq!(state["statuses"][0]["state"], "success");
    assert_eq!(post(json!({ "name": "x" })).0["status"], 2);
    assert_eq!(post(json!({ "result": result })).0["status"], 2);
}

#[test]
fn a_matrix_runs_as_jobs_of_a_workflow() {
    let Some(runner) = Runner::new("a_matrix_runs_as_jobs_of_a_workflow") else { return };
    let sandbox = &runner.sandbox;
    sandbox.change_manifest("release =", "matrix.machine = [\"qemux86-64\", \"qemuarm\"]\nrelease =");
    let work = sandbox.work().display().to_string();
    sandbox.call(["lock", "--work-dir", &work]).assert_code(&[0]);
    commit(&sandbox.layer(), "A matrix with a lock");
    let layer = sandbox.layer();
    let steps = runner.run("push", runner.inputs(json!({ "command": "plan" })));
    steps.assert_verdict("passed", 0);
    let cells = steps.0["outputs"]["cells"].as_str().unwrap().to_owned();
    let matrix: Value = serde_json::from_str(&cells).unwrap();
    assert_eq!(matrix["include"][1]["cell"], "qemuarm");
    std::fs::create_dir(layer.join("downloaded")).unwrap();
    let merge = || {
        let inputs = json!({ "command": "merge", "cells": cells, "result": "downloaded", "out": "merged" });
        runner.run("push", runner.inputs(inputs))
    };
    for (place, cell) in ["qemux86_64", "qemuarm"].iter().enumerate() {
        let out = format!("downloaded/cell-{cell}");
        let steps = runner.run("push", runner.inputs(json!({ "cell": cell, "out": out })));
        steps.assert_verdict("passed", 0);
        let merged = merge();
        match place {
            0 => merged.assert_verdict("error", 3),
            _ => merged.assert_verdict("passed", 0),
        }
        if place == 0 {
            merged.assert_says(&["the cell qemuarm has no result"]);
        }
        let result: Value =
            serde_json::from_str(&std::fs::read_to_string(layer.join("merged/results.json")).unwrap())
                .unwrap();
        assert_eq!(result["jobs"].as_array().unwrap().len(), 2);
    }
    let wrong = runner.run("push", runner.inputs(json!({ "cell": "qemuarmm" })));
    wrong.assert_verdict("error", 2);
}
