//! `docker/mount-share` with a stand-in for EFS: the mounts, their order, and the state after a failure.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

use build_agent_tests::repository;
use tempfile::TempDir;

/// A build machine with the variables of the projects of `cloudformation/check_layer.yml`.
struct Machine(TempDir);

impl Machine {
    fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    fn share(&self) -> PathBuf {
        self.0.path().join("efs")
    }

    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let stand_ins = repository().join("tests/stand-ins/machine");
        let path = std::env::var("PATH").unwrap();
        Command::new(repository().join("docker/mount-share"))
            .env_clear()
            .env("PATH", format!("{}:{path}", stand_ins.display()))
            .env("TMPDIR", self.0.path())
            .env("MACHINE_NOTES", self.0.path().join("notes"))
            .env("SHARE", self.share())
            .env("FILE_SYSTEM", "fs-1")
            .env("SHARED_ACCESS_POINT", "shared")
            .envs(variables.iter().copied())
            .args(words)
            .output()
            .unwrap()
    }

    /// The started commands, oldest first, without the names of temporary directories. The watchdog is excluded,
    /// because no process waits for it.
    fn mounts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.path().join("notes")).unwrap_or_default();
        let here = self.0.path().display().to_string();
        let aside = |line: String| match (line.find("/tmp."), line.find("/pr")) {
            (Some(start), Some(end)) if start < end => format!("{}/aside{}", &line[..start], &line[end..]),
            _ => line,
        };
        text.lines().filter(|line| *line != "watchdog").map(|line| aside(line.replace(&here, ""))).collect()
    }

    #[track_caller]
    fn assert_watched(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let watched = || std::fs::read_to_string(self.0.path().join("notes")).unwrap().contains("watchdog");
        while !watched() {
            assert!(std::time::Instant::now() < end, "the watchdog was not started");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn output_text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

const PULL_REQUEST: (&str, &str) = ("PULL_REQUEST_ACCESS_POINT", "pull-requests");

#[test]
fn a_trusted_build_mounts_only_the_share() {
    let machine = Machine::new();
    let output = machine.run(&["rw"], &[]);
    assert!(output.status.success(), "{}", output_text(&output));
    assert_eq!(machine.mounts(), ["mount -t efs -o rw,tls,iam,stunnel,accesspoint=shared fs-1:/ /efs"]);
    machine.assert_watched();
}

#[test]
fn a_pull_request_mounts_its_own_directory_and_a_prune_mounts_all() {
    for (access, part) in [("ro", "pr/7"), ("rw", "pr")] {
        let machine = Machine::new();
        let output = machine.run(&[access, part], &[PULL_REQUEST]);
        assert!(output.status.success(), "{}", output_text(&output));
        let expected = [
            format!("mount -t efs -o {access},tls,iam,stunnel,accesspoint=shared fs-1:/ /efs"),
            "mount -t efs -o rw,tls,iam,stunnel,accesspoint=pull-requests fs-1:/ /aside/pr".into(),
            format!("mount --bind /aside/{part} /efs/{part}"),
        ];
        assert_eq!(machine.mounts(), expected);
        machine.assert_watched();
    }
}

#[test]
fn only_a_pull_request_gets_a_writable_directory() {
    for version in
        ["main", "refs/heads/main", "0123abc", "pr", "pr/", "pr/x", "pr/7x", "pr/../builds", "pr/7/8"]
    {
        let machine = Machine::new();
        let output = machine.run(&["ro", version], &[PULL_REQUEST]);
        assert!(output.status.success(), "{}", output_text(&output));
        let mounts = machine.mounts();
        assert_eq!(mounts.len() == 1, version != "pr", "{version}: {mounts:?}");
        let reported = output_text(&output).contains(&format!("{version} is not a pull request"));
        assert_eq!(reported, version != "pr", "{version}: {}", output_text(&output));
    }
}

#[test]
fn a_failed_mount_does_not_look_like_an_empty_share() {
    let machine = Machine::new();
    let output = machine.run(&["ro", "pr/7"], &[PULL_REQUEST, ("MACHINE_FAILS", "accesspoint=shared")]);
    assert_eq!(output.status.code(), Some(1), "{}", output_text(&output));
    assert!(
        output_text(&output).contains("access point shared of fs-1 cannot be mounted at "),
        "{}",
        output_text(&output)
    );
    assert!(!machine.share().exists());
    assert_eq!(machine.mounts().len(), 1, "nothing is mounted in what is not there");

    // The share itself is useful without the directory of pull requests, and needs the watchdog.
    let machine = Machine::new();
    let output =
        machine.run(&["ro", "pr/7"], &[PULL_REQUEST, ("MACHINE_FAILS", "accesspoint=pull-requests")]);
    assert_eq!(output.status.code(), Some(1), "{}", output_text(&output));
    assert!(machine.share().join("mounted").exists());
    machine.assert_watched();
}

#[test]
fn without_a_share_nothing_is_mounted() {
    let machine = Machine::new();
    let output = machine.run(&["ro", "pr/7"], &[PULL_REQUEST, ("SHARE", "")]);
    assert_eq!((output.status.code(), output_text(&output)), (Some(0), String::new()));
    assert_eq!(machine.mounts(), [""; 0]);
}

#[test]
fn wrong_arguments_mount_nothing() {
    for (words, variable) in [
        (&[][..], None),
        (&["rww"], None),
        (&["ro", "pr/7", "x"], None),
        (&["ro"], Some("FILE_SYSTEM")),
        (&["ro", "pr/7"], Some("PULL_REQUEST_ACCESS_POINT")),
    ] {
        let machine = Machine::new();
        let empty: Vec<_> = variable.map(|name| (name, "")).into_iter().collect();
        let output = machine.run(words, &empty);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", output_text(&output));
        assert_eq!(machine.mounts(), [""; 0], "{words:?}");
        assert!(!machine.share().exists());
    }
}
