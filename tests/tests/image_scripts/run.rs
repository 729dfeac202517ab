//! `docker/run`: what it mounts and passes on, and what never appears on a command line.

use std::path::Path;
use std::process::Output;

use build_agent_tests::{commit, git};

use crate::fixture::{ScriptFixture, output_text};

/// Runs `docker/run` with these arguments in this directory; returns the output and the last call of the engine.
pub fn run(
    fixture: &ScriptFixture,
    directory: &Path,
    words: &[&str],
    variables: &[(&str, &str)],
) -> (Output, String) {
    let mut command = fixture.command("run");
    let output = command.current_dir(directory).args(words).envs(variables.iter().copied()).output().unwrap();
    (output, fixture.notes().pop().unwrap_or_default())
}

#[test]
fn run_mounts_the_work_tree_and_keeps_the_current_directory() {
    let fixture = ScriptFixture::new();
    let layer = fixture.0.path().join("my layers/meta-x");
    std::fs::create_dir_all(layer.join("conf")).unwrap();
    git(&layer, ["init", "--quiet"]);
    let top = layer.canonicalize().unwrap();
    let (output, call) = run(&fixture, &layer.join("conf"), &["check", "--release", "scarthgap"], &[]);
    assert!(output.status.success(), "{}", output_text(&output));
    let mount = format!("type=bind,source={},target=/src/meta-x --workdir /src/meta-x/conf ", top.display());
    assert!(call.contains(&mount), "{call}");
    assert!(call.contains("--security-opt seccomp=unconfined"), "{call}");
    assert!(call.ends_with(" build-agent check --release scarthgap"), "{call}");
    assert!(!call.contains("--tty"), "there is no terminal: {call}");
    assert!(!call.contains("--userns"), "{call}");
    assert_eq!(fixture.calls("build "), [""; 0], "the image was there");
}

#[test]
fn run_mounts_what_a_linked_work_tree_and_a_submodule_need() {
    let fixture = ScriptFixture::new();
    let main = fixture.0.path().join("main");
    std::fs::create_dir(&main).unwrap();
    git(&main, ["init", "--quiet"]);
    commit(&main, "Begin");
    git(&main, ["worktree", "add", "--quiet", "../linked"]);
    let (_, call) = run(&fixture, &fixture.0.path().join("linked"), &["plan"], &[]);
    let git_dir = main.join(".git").canonicalize().unwrap();
    assert!(call.contains(&format!("source={0},target={0},readonly", git_dir.display())), "{call}");
    assert!(call.contains("linked,target=/src/linked --workdir /src/linked "), "{call}");

    let submodule = main.join("layers/meta-x");
    std::fs::create_dir_all(&submodule).unwrap();
    std::fs::write(submodule.join(".git"), "gitdir: ../../.git/modules/meta-x\n").unwrap();
    let (_, call) = run(&fixture, &submodule, &["plan"], &[]);
    assert!(call.contains("main,target=/src/main --workdir /src/main/layers/meta-x "), "{call}");

    let odd = fixture.0.path().join("my layer");
    std::fs::create_dir(&odd).unwrap();
    let (_, call) = run(&fixture, &odd, &["plan"], &[]);
    assert!(call.contains("my layer,target=/src/layer --workdir /src/layer "), "{call}");

    let plain = fixture.0.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let (_, call) = run(&fixture, &plain, &["plan"], &[]);
    assert!(call.contains("plain,target=/src/plain --workdir /src/plain "), "{call}");
}

#[test]
fn run_warns_if_the_host_forbids_isolation() {
    let unshare = ("ENGINE_FAILS", "unshare");
    let table = [("1", "this host forbids user namespaces", true), ("125", "refuses to run without", false)];
    for (status, words, unconfined) in table {
        let fixture = ScriptFixture::new();
        let (output, call) =
            run(&fixture, &fixture.sources(), &["check"], &[unshare, ("ENGINE_STATUS", status)]);
        assert!(output.status.success() && output_text(&output).contains(words), "{}", output_text(&output));
        assert_eq!(call.contains("seccomp=unconfined"), unconfined, "{call}");
    }
    // An engine that cannot start anything does not complain about the profile: the job's own error is printed.
    let fixture = ScriptFixture::new();
    let broken = [("ENGINE_FAILS", "run --rm"), ("ENGINE_STATUS", "125")];
    let (output, _) = run(&fixture, &fixture.sources(), &["check"], &broken);
    assert_eq!((output.status.code(), &*output_text(&output)), (Some(125), "the stand-in engine fails\n"));

    let fixture = ScriptFixture::new();
    let (output, call) = run(&fixture, &fixture.sources(), &["schema"], &[unshare]);
    assert_eq!(output_text(&output), "", "nothing of a layer runs");
    assert!(!call.contains("unconfined"), "{call}");
}

#[test]
fn run_gives_kvm_to_boot_alone_if_the_host_has_it() {
    let has_kvm = nix::unistd::access("/dev/kvm", nix::unistd::AccessFlags::W_OK).is_ok();
    for (word, gets_kvm, is_isolated) in [("boot", has_kvm, false), ("devtool", false, true)] {
        let fixture = ScriptFixture::new();
        let (_, call) = run(&fixture, &fixture.sources(), &[word], &[]);
        assert_eq!(call.contains("--device /dev/kvm "), gets_kvm, "{call}");
        assert_eq!(call.contains("seccomp=unconfined"), is_isolated, "{call}");
    }
}

#[test]
fn run_keeps_the_paths_of_the_host_with_a_work_directory() {
    let fixture = ScriptFixture::new();
    let layer = fixture.0.path().join("meta-x");
    std::fs::create_dir_all(layer.join("conf")).unwrap();
    git(&layer, ["init", "--quiet"]);
    let top = layer.canonicalize().unwrap().display().to_string();
    let work = fixture.0.path().canonicalize().unwrap().join("new/work");
    let variable = work.display().to_string();
    let (_, call) = run(&fixture, &layer.join("conf"), &["shell"], &[("BUILD_AGENT_WORK", &variable)]);
    assert!(call.contains(&format!("source={top},target={top} --workdir {top}/conf ")), "{call}");
    assert!(call.contains(&format!("source={variable},target={variable} ")), "{call}");
    assert!(call.contains(&format!("--env BUILD_AGENT_WORK_DIR={variable} ")), "{call}");
    assert!(!call.contains("type=volume") && work.is_dir(), "{call}");

    let odd = fixture.0.path().join("my work").display().to_string();
    let (output, _) = run(&fixture, &layer, &["shell"], &[("BUILD_AGENT_WORK", &odd)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output_text(&output).contains("BitBake and"), "{}", output_text(&output));
}

/// For `build-agent reproduce`.
#[test]
fn run_tells_the_agent_its_image_with_its_digest() {
    let fixture = ScriptFixture::new();
    let registry = ("IMAGE_REPOSITORY", "registry.example/build-agent");
    let (_, call) = run(&fixture, &fixture.sources(), &["check"], &[registry]);
    let digest = format!("--env BUILD_AGENT_IMAGE=registry.example/build-agent@sha256:{:064} ", 7);
    assert!(call.contains(&digest), "{call}");
    // An image that is in no registry.
    let fixture = ScriptFixture::new();
    let (_, call) = run(&fixture, &fixture.sources(), &["check"], &[("ENGINE_FAILS", "RepoDigests")]);
    assert!(call.contains("--env BUILD_AGENT_IMAGE=build-agent "), "{call}");
}

#[test]
fn run_gets_a_missing_image() {
    let missing = ("ENGINE_FAILS", "image inspect");
    let fixture = ScriptFixture::new();
    let (output, _) = run(&fixture, &fixture.sources(), &["plan"], &[missing]);
    assert!(output.status.success(), "{}", output_text(&output));
    assert!(fixture.calls("build --tag build-agent ").len() == 1, "{:#?}", fixture.notes());

    let fixture = ScriptFixture::new();
    let other = ("BUILD_AGENT_IMAGE", "registry.example/build-agent:stable");
    run(&fixture, &fixture.sources(), &["plan"], &[missing, other]);
    assert_eq!(fixture.calls("pull"), ["pull registry.example/build-agent:stable"]);
    assert_eq!(fixture.calls("build "), [""; 0]);

    let fixture = ScriptFixture::new();
    let (output, _) = run(&fixture, &fixture.sources(), &["--help"], &[missing]);
    assert!(
        output.status.success() && output_text(&output).contains("BUILD_AGENT_OPTIONS"),
        "{}",
        output_text(&output)
    );
    assert_eq!(fixture.calls("build "), [""; 0], "help builds nothing");
}

/// Not on the command line and not in the container's environment, which all processes of one user can read.
#[test]
fn run_passes_secrets_in_a_file_and_deletes_it() {
    let secrets = [
        ("GITHUB_TOKEN", "hunter22 $x"),
        ("AWS_SECRET_ACCESS_KEY", "hunter33"),
        ("AWS_SESSION_TOKEN", "hunter44"),
    ];
    for version in ["Docker version 28.2.2", "podman version 5.4.2"] {
        let fixture = ScriptFixture::new();
        let variables = [
            ("ENGINE_VERSION", version),
            ("AWS_REGION", "eu-west-1"),
            ("BUILD_AGENT_OPTIONS", "--cpus=4 --memory=16g"),
        ];
        let (output, call) =
            run(&fixture, &fixture.sources(), &["check"], &[&secrets[..], &variables].concat());
        assert!(output.status.success(), "{}", output_text(&output));
        let file = "--env BUILD_AGENT_SECRETS_FILE=/run/build-agent/secrets ";
        assert!(call.contains(file) && call.contains("--env AWS_REGION "), "{call}");
        assert!(call.contains(" --cpus=4 --memory=16g "), "{call}");
        for (name, value) in secrets {
            assert!(!call.contains(value) && !call.contains(&format!("--env {name}")), "{name}: {call}");
        }
        let read = fixture.calls("secret ");
        assert_eq!(read, secrets.map(|(name, value)| format!("secret {name}={value}")));
        assert_eq!(fixture.calls("directory "), ["directory 700"]);
        assert_no_secrets_are_left(&fixture);
    }
}

#[test]
fn run_removes_unread_secrets_and_writes_no_empty_file() {
    let fixture = ScriptFixture::new();
    // The engine ends without a container.
    let variables =
        [("GITHUB_TOKEN", "hunter22"), ("ENGINE_IGNORES", "secrets"), ("ENGINE_FAILS", "run --rm --inter")];
    let (output, _) = run(&fixture, &fixture.sources(), &["plan"], &variables);
    assert!(!output.status.success());
    assert_no_secrets_are_left(&fixture);
    let (_, call) = run(&fixture, &fixture.sources(), &["plan"], &[("GITHUB_TOKEN", "")]);
    assert!(!call.contains("secrets"), "{call}");
}

/// The script removes the directory in the background.
#[track_caller]
pub fn assert_no_secrets_are_left(fixture: &ScriptFixture) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let left = || {
        let names = std::fs::read_dir(fixture.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains("secrets")).count()
    };
    while left() > 0 {
        assert!(std::time::Instant::now() < deadline, "the secrets are still there");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn rootless_podman_keeps_the_user() {
    let fixture = ScriptFixture::new();
    let podman = [("ENGINE_VERSION", "podman version 5.4.2")];
    let (_, call) = run(&fixture, &fixture.sources(), &["plan"], &podman);
    let root = nix::unistd::geteuid().is_root();
    assert_eq!(call.contains("--userns keep-id"), !root, "{call}");
}
