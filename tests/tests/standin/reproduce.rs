//! `build-agent reproduce`: the script that it prints, and a job that it repeats.

use std::path::Path;

use build_agent_tests::{Ran, Sandbox, git, json};

const CANARY: &str = "hunter22-canary";

/// A job of a layer whose repository the build service names.
fn run(sandbox: &Sandbox) -> Ran {
    let mut command = sandbox.run_command();
    command.args(["--set", "check.bitbake_layers=[\"show-layers\", \"show-overlayed\"]"]);
    command.args(["--set", &format!("config.local_conf=X = \"https://me:{CANARY}@host.example/x\"")]);
    command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", sandbox.layer());
    command.env("CODEBUILD_SOURCE_REPO_URL", format!("file://{}", sandbox.layer().display()));
    command
        .env("CODEBUILD_BUILD_IMAGE", "registry.example/build-agent@sha256:00")
        .env("BUILD_AGENT_METRICS", "off");
    sandbox.start(command).wait()
}

fn reproduce(sandbox: &Sandbox, words: &[&str]) -> Ran {
    let mut command = sandbox.command(["reproduce"]);
    command.arg(sandbox.out()).args(words).current_dir(sandbox.path());
    command.env("BUILD_AGENT_WORK_DIR", sandbox.path().join("work-again"));
    sandbox.start(command).wait()
}

#[test]
fn the_script_has_all_that_decides_the_job_and_no_secret() {
    let Some(sandbox) = Sandbox::new("the_script_has_all_that_decides_the_job_and_no_secret") else { return };
    run(&sandbox).assert_code(&[0]);
    let ran = reproduce(&sandbox, &[]);
    ran.assert_code(&[0]);
    let head = git(&sandbox.layer(), ["rev-parse", "HEAD"]);
    let poky = git(&sandbox.upstream(), ["rev-parse", "HEAD"]);
    for wanted in [
        format!("git clone file://{} source", sandbox.layer().display()),
        format!("git -C source checkout --detach {}", head.trim()),
        "cat >source/build-agent.toml <<'END_OF_FILE'\nversion = 1\nname = \"meta-tested\"".into(),
        " registry.example/build-agent@sha256:00 run build-agent.toml --set 'check.bitbake_layers=".into(),
        format!("repos.\"poky\".commit={}", poky.trim()),
        "--set cache.access=off --skip publish".into(),
    ] {
        assert!(ran.stdout.contains(&wanted), "{wanted}\nin\n{}", ran.stdout);
    }
    let result = std::fs::read_to_string(sandbox.out().join("result.json")).unwrap();
    for text in [&ran.output(), &result] {
        assert!(!text.contains(CANARY), "{text}");
    }
    assert!(ran.stdout.contains("removed, because it has a secret"), "{}", ran.stdout);
    // A shell reads it.
    let script = sandbox.path().join("script");
    std::fs::write(&script, &ran.stdout).unwrap();
    assert!(std::process::Command::new("sh").arg("-n").arg(&script).status().unwrap().success());
}

#[test]
fn a_job_is_repeated_with_the_commits_that_it_had() {
    let Some(sandbox) = Sandbox::new("a_job_is_repeated_with_the_commits_that_it_had") else { return };
    sandbox.behaviour("yocto-check-layer fail test_world");
    run(&sandbox).assert_code(&[1]);
    let first = sandbox.result();
    // Since then, the branch went on and the tools pass.
    sandbox.behaviour("yocto-check-layer pass");
    let ran = reproduce(&sandbox, &["--run", "--no-container", "--dir", "again"]);
    ran.assert_code(&[1]);
    let again = json(&sandbox.path().join("again/source/build-agent-out/result.json"));
    for key in ["outcome", "exit"] {
        assert_eq!(again[key], first[key], "{key}");
    }
    for key in ["name", "release", "commit"] {
        assert_eq!(again["job"][key], first["job"][key], "{key}");
    }
    assert_eq!(again["repos"][0]["commit"], first["repos"][0]["commit"]);
    // The directory is there now.
    let ran = reproduce(&sandbox, &["--run", "--no-container", "--dir", "again"]);
    ran.assert_code(&[3]);
    ran.assert_says(&["again"]);
}

#[test]
fn what_cannot_be_repeated_is_said() {
    let Some(sandbox) = Sandbox::new("what_cannot_be_repeated_is_said") else { return };
    let result = |text: &str| {
        let path = sandbox.path().join("result.json");
        std::fs::write(&path, text).unwrap();
        sandbox.call([Path::new("reproduce"), &path])
    };
    result("{}").assert_code(&[2]);
    sandbox.call(["reproduce", "nowhere.json"]).assert_code(&[2]);
    // A job of a desk: no service names its repository, and there is no image.
    sandbox.run().assert_code(&[0]);
    let ran = reproduce(&sandbox, &[]);
    ran.assert_code(&[0]);
    ran.assert_says(&["put the checkout into ./source", "The image is not known"]);
    let ran = reproduce(&sandbox, &["--run"]);
    ran.assert_code(&[2]);
    ran.assert_says(&["--image", "--no-container"]);
    let text = std::fs::read_to_string(sandbox.out().join("result.json")).unwrap();
    let forged = text.replace("\"build-agent\",\n", "\"sh\",\n");
    assert_ne!(forged, text);
    let forged = forged.replace("\"run\",\n", "\"-c\",\n");
    result(&forged).assert_code(&[2]);
}
