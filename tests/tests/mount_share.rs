//! `docker/mount-share` with a stand-in for EFS: the mounts, their order, and the state after a failure.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use build_agent_tests::{agent, repository};
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
        let agent = agent();
        let programs = Path::new(agent.get_program()).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
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

/// The directory that `mount-share` mounts for writing, with the variables of the build.
#[track_caller]
fn writable(version: &str, variables: &[(&str, &str)]) -> Option<String> {
    let machine = Machine::new();
    let output = machine.run(&["ro", version], &[variables, &[PULL_REQUEST]].concat());
    assert!(output.status.success(), "{version}: {}", output_text(&output));
    let mounts = machine.mounts();
    let own = mounts.get(2).map(|mount| mount.rsplit_once("/efs/").unwrap().1.to_owned());
    let reported = output_text(&output).contains(&format!("{version} is not a pull request"));
    assert_eq!((mounts.len(), reported), if own.is_some() { (3, false) } else { (1, true) }, "{version}");
    own
}

/// As `build-agent share-tier` prints it, with these variables.
fn share_tier(words: &[&str], variables: &[(&str, &str)]) -> String {
    let output = agent().arg("share-tier").args(words).envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", output_text(&output));
    output_text(&output).trim_end().to_owned()
}

const VERSION: &str = "CODEBUILD_SOURCE_VERSION";
const TRIGGER: &str = "CODEBUILD_WEBHOOK_TRIGGER";

#[test]
fn every_form_of_a_pull_requests_source_version_is_understood() {
    for (version, number) in [
        ("pr/7", 7),
        ("pr/007", 7),
        ("pr/7^{0123456789abcdef0123456789abcdef01234567}", 7),
        ("pr/7/8", 7),
        ("refs/pull/12/head", 12),
        ("refs/pull/12/merge", 12),
        ("refs/pull/12/head^{0123456}", 12),
        ("pull/12/head", 12),
        ("refs/pull-requests/12/from", 12),
        ("refs/merge-requests/3/head", 3),
    ] {
        assert_eq!(writable(version, &[]), Some(format!("pr/{number}")), "{version}");
        // What the agent itself writes to, by the variable.
        assert_eq!(share_tier(&[], &[(VERSION, version)]), format!("pr/{number}"), "{version}");
    }
    assert_eq!(writable("pr/7", &[(TRIGGER, "pr/7"), (VERSION, "pr/7")]), Some("pr/7".into()));
}

#[test]
fn only_a_pull_request_gets_a_writable_directory() {
    for version in [
        "main",
        "refs/heads/main",
        "refs/heads/pr/7",
        "0123abc",
        "pr/",
        "pr/x",
        "pr/7x",
        "pr/-7",
        "pr/../builds",
        "pr/7\n8",
        "pr/99999999999999999999999",
        "--help",
        "arn:aws:s3:::bucket/pr/7",
    ] {
        assert_eq!(writable(version, &[]), None, "{version}");
        assert_eq!(share_tier(&[], &[(VERSION, version)]), "none", "{version}");
    }
    assert_eq!(writable("pr/7", &[(TRIGGER, "pr/8")]), None, "the variables do not agree");
    assert_eq!(share_tier(&[], &[]), "none");
    let machine = Machine::new();
    assert!(machine.run(&["ro", "pr"], &[PULL_REQUEST]).status.success());
    assert_eq!(machine.mounts().len(), 3, "all pull requests, for a prune");
}

/// If the agent fails, the script fails too, and does not mount only a part.
#[test]
fn without_the_agents_answer_nothing_is_mounted() {
    let machine = Machine::new();
    let variables = [PULL_REQUEST, ("BUILD_AGENT_TRUSTED_BRANCHES", "[")];
    let output = machine.run(&["ro", "pr/7"], &variables);
    assert_eq!(output.status.code(), Some(1), "{}", output_text(&output));
    assert!(output_text(&output).contains("nothing is mounted"), "{}", output_text(&output));
    assert_eq!((machine.mounts(), machine.share().exists()), (vec![], false));
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
