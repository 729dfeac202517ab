//! `docker/steady-checkout`: where a command runs, and what it is told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use build_agent_tests::repository;

/// `SOURCE` is CodeBuild's checkout, if any.
fn call(place: &Path, source: Option<&Path>, words: &[&str]) -> Output {
    let mut command = Command::new(repository().join("docker/steady-checkout"));
    command.args(words).current_dir(place).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", place);
    command.envs(source.map(|source| ("CODEBUILD_SRC_DIR", source)));
    command.output().unwrap()
}

/// Where it runs, what it takes for the checkout, and the file there.
const TELL: [&str; 3] =
    ["sh", "-c", "pwd; echo \"${CODEBUILD_SRC_DIR:-none}\"; cat 'a file' .git/HEAD; exit 7"];

fn checkout(place: &Path, build: &str) -> PathBuf {
    let source = place.join(build).join("src/meta x");
    std::fs::create_dir_all(source.join(".git")).unwrap();
    std::fs::write(source.join("a file"), build).unwrap();
    std::fs::write(source.join(".git/HEAD"), "head").unwrap();
    source
}

#[test]
fn the_command_runs_at_the_same_place_in_each_build() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().canonicalize().unwrap();
    let steady = at.join("checkout/meta x");
    for build in ["src1", "src2"] {
        let source = checkout(&at, build);
        let ran = call(&at, Some(&source), &TELL);
        assert_eq!(ran.status.code(), Some(7));
        let wanted = format!("{0}\n{0}\n{build}head", steady.display());
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), wanted);
        assert_eq!(ran.stderr, b"");
        // What an earlier build left is no part of this one.
        std::fs::write(steady.join("left"), "").unwrap();
        call(&at, Some(&source), &["true"]);
        assert!(!steady.join("left").exists());
    }
}

#[test]
fn without_a_copy_it_runs_in_the_checkout() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().canonicalize().unwrap();
    let source = checkout(&at, "src1");
    std::fs::write(at.join("checkout"), "no directory").unwrap();
    let ran = call(&at, Some(&source), &TELL);
    let wanted = format!("{0}\n{0}\nsrc1head", source.display());
    assert_eq!((ran.status.code(), String::from_utf8(ran.stdout).unwrap()), (Some(7), wanted));
    let told = String::from_utf8(ran.stderr).unwrap();
    assert!(told.contains("there is no copy of") && told.contains("src1/src/meta x"), "{told}");
}

#[test]
fn outside_of_codebuild_it_only_runs_the_command() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().canonicalize().unwrap();
    let ran = call(&at, None, &["pwd"]);
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), format!("{}\n", at.display()));
    assert!(!at.join("checkout").exists());
    let ran = call(&at, None, &[]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8(ran.stderr).unwrap().contains("steady-checkout COMMAND"));
}
