//! `docker/stable-path-checkout`: where a command runs, and what the script prints.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use build_agent_tests::repository;

/// Runs the script in `directory`; `source` is CodeBuild's checkout, if there is one.
fn call(directory: &Path, source: Option<&Path>, words: &[&str]) -> Output {
    let mut command = Command::new(repository().join("docker/stable-path-checkout"));
    command.args(words).current_dir(directory).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", directory);
    command.envs(source.map(|source| ("CODEBUILD_SRC_DIR", source)));
    command.output().unwrap()
}

/// Prints its directory, the checkout that it sees, and the content of that checkout; exits with status 7.
const PRINT: [&str; 3] =
    ["sh", "-c", "pwd; echo \"${CODEBUILD_SRC_DIR:-none}\"; cat 'a file' .git/HEAD; exit 7"];

fn checkout(directory: &Path, build: &str) -> PathBuf {
    let source = directory.join(build).join("src/meta x");
    std::fs::create_dir_all(source.join(".git")).unwrap();
    std::fs::write(source.join("a file"), build).unwrap();
    std::fs::write(source.join(".git/HEAD"), "head").unwrap();
    source
}

#[test]
fn command_runs_at_the_same_path_in_every_build() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().canonicalize().unwrap();
    let copy = at.join("checkout/meta x");
    for build in ["src1", "src2"] {
        let source = checkout(&at, build);
        let ran = call(&at, Some(&source), &PRINT);
        assert_eq!(ran.status.code(), Some(7));
        let expected = format!("{0}\n{0}\n{build}head", copy.display());
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), expected);
        assert_eq!(ran.stderr, b"");
        // The next copy has no files of an earlier build.
        std::fs::write(copy.join("left"), "").unwrap();
        call(&at, Some(&source), &["true"]);
        assert!(!copy.join("left").exists());
    }
}

#[test]
fn command_runs_in_the_checkout_if_the_copy_fails() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().canonicalize().unwrap();
    let source = checkout(&at, "src1");
    std::fs::write(at.join("checkout"), "not a directory").unwrap();
    let ran = call(&at, Some(&source), &PRINT);
    let expected = format!("{0}\n{0}\nsrc1head", source.display());
    assert_eq!((ran.status.code(), String::from_utf8(ran.stdout).unwrap()), (Some(7), expected));
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert!(stderr.contains("cannot copy") && stderr.contains("src1/src/meta x"), "{stderr}");
}

/// The buildspec of a batch has no command for the mount.
#[test]
fn it_mounts_the_share_if_the_project_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().canonicalize().unwrap();
    let source = checkout(&at, "src1");
    let stand_in = at.join("mount-share");
    std::fs::write(&stand_in, "#!/bin/sh\necho mount-share \"$@\"\nexit \"$STATUS\"\n").unwrap();
    std::fs::set_permissions(&stand_in, Permissions::from_mode(0o755)).unwrap();
    for status in ["0", "1"] {
        for (mode, in_codebuild, expected) in [
            ("ro", true, "mount-share ro pr/7\n"),
            ("rw", true, "mount-share rw\n"),
            ("", true, ""),
            ("rw", false, ""),
        ] {
            let mut command = Command::new(repository().join("docker/stable-path-checkout"));
            command.arg("true").current_dir(&at).env_clear().env("TMPDIR", &at);
            command.env("PATH", format!("{}:{}", at.display(), std::env::var("PATH").unwrap()));
            command.env("MOUNT_SHARE", mode).env("STATUS", status).env("CODEBUILD_SOURCE_VERSION", "pr/7");
            command.envs(in_codebuild.then_some(("CODEBUILD_SRC_DIR", &source)));
            let ran = command.output().unwrap();
            assert_eq!(
                (ran.status.code(), String::from_utf8(ran.stdout).unwrap().as_str()),
                (Some(0), expected)
            );
            let warns = String::from_utf8(ran.stderr).unwrap().contains("continues without the share");
            assert_eq!(warns, status == "1" && !expected.is_empty(), "{mode}");
        }
    }
}

#[test]
fn outside_codebuild_it_only_runs_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().canonicalize().unwrap();
    let ran = call(&at, None, &["pwd"]);
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), format!("{}\n", at.display()));
    assert!(!at.join("checkout").exists());
    let ran = call(&at, None, &[]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8(ran.stderr).unwrap().contains("stable-path-checkout COMMAND"));
}

/// Buildspecs of layers may still call the script by its old name.
#[test]
fn the_image_has_the_script_under_its_old_name_too() {
    let dockerfile = std::fs::read_to_string(repository().join("docker/Dockerfile")).unwrap();
    assert!(dockerfile.contains("docker/stable-path-checkout /usr/local/bin/"));
    assert!(dockerfile.contains("ln -s stable-path-checkout /usr/local/bin/steady-checkout"));
}
