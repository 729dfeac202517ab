//! Several machines with one share, each with its own empty directories.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{Ran, Running, agent, commit, is_left_to_the_long_run, json, skip};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, TIMEOUT, sstate};

/// A build machine with its own work directory and output directory.
struct Machine<'a> {
    fixture: &'a Fixture,
    directory: PathBuf,
}

impl<'a> Machine<'a> {
    /// BitBake sorts a task's files by their paths: all work directories come before the layer, and the share comes
    /// after it.
    fn new(fixture: &'a Fixture, name: &str) -> Machine<'a> {
        let directory = fixture.directory.path().join(format!("machine-{name}"));
        std::fs::create_dir(&directory).unwrap();
        Machine { fixture, directory }
    }

    /// Builds, and publishes if the source may do so.
    fn build(&self, words: &[&str]) -> Ran {
        self.start(self.command(words)).wait_for(TIMEOUT)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = agent();
        command.current_dir(self.fixture.layer());
        command.args(["run", "--only", "build,publish"]);
        command.args(["--set", &format!("config.local_conf={NARROW_BUILD}")]);
        command.args(["--set", &format!("cache.share={}", share(self.fixture).display())]);
        command.arg("--work-dir").arg(self.directory.join("work")).arg("--out").arg(self.out());
        command.args(words);
        command
    }

    fn start(&self, command: Command) -> Running {
        Running::start(command, &self.directory)
    }

    fn out(&self) -> PathBuf {
        self.directory.join("out")
    }

    fn result(&self) -> Value {
        json(&self.out().join("result.json"))
    }

    /// Whether BitBake is running or has run.
    fn builds(&self) -> bool {
        std::fs::read_to_string(self.out().join("events.jsonl")).is_ok_and(|text| text.contains("build-qemu"))
    }
}

fn share(fixture: &Fixture) -> PathBuf {
    fixture.directory.path().join("share")
}

/// A fixture with a share beside it.
fn fixture(test: &str) -> Option<Fixture> {
    let fixture = Fixture::new(test, "meta-deploy", &[POKY])?;
    std::fs::create_dir(share(&fixture)).unwrap();
    Some(fixture)
}

/// Everything below, with the attributes that a change would modify.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u64, i64, u64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let facts = path.symlink_metadata().unwrap();
            if facts.is_dir() {
                open.push(path.clone());
            }
            found.insert(path, (facts.size(), facts.mtime(), facts.ino()));
        }
    }
    found
}

/// Fails unless everything came from the share's mirror.
#[track_caller]
fn assert_all_from_the_mirror(result: Value) {
    let summary = sstate(result);
    assert!(summary["wanted"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["mirrors"], summary["wanted"], "{summary}");
}

#[test]
fn a_machine_with_empty_caches_builds_everything_from_the_share() {
    let Some(fixture) = fixture("a_machine_with_empty_caches_builds_everything_from_the_share") else {
        return;
    };
    let first = Machine::new(&fixture, "first");
    first.build(&["--trusted"]).assert_code(&[0]);
    let summary = sstate(first.result());
    assert_eq!(summary["missed"], summary["wanted"], "{summary}");

    let shared = snapshot(&share(&fixture));
    let names: Vec<String> = shared
        .keys()
        .filter(|path| path.starts_with(share(&fixture).join("sstate")) && path.is_file())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.ends_with("_deploy.tar.zst")), "{names:?}");
    for name in &names {
        assert!(name.ends_with(".tar.zst") || name.ends_with(".tar.zst.siginfo"), "{name} was published");
    }

    // This job is not trusted, so it only reads.
    let second = Machine::new(&fixture, "second");
    second.build(&[]).assert_code(&[0]);
    assert_all_from_the_mirror(second.result());
    assert_eq!(snapshot(&share(&fixture)), shared, "an untrusted build wrote to the share");
}

#[test]
fn builds_survive_a_prune() {
    let test = "builds_survive_a_prune";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = fixture(test) else { return };
    Machine::new(&fixture, "first").build(&["--trusted"]).assert_code(&[0]);

    // Everything is too old, but a build with a lease is running.
    let (leasing, reading) = (Machine::new(&fixture, "leasing"), Machine::new(&fixture, "reading"));
    let mut one = leasing.start(leasing.command(&["--trusted"]));
    let mut other = reading.start(reading.command(&[]));
    one.wait_until("the build with a lease", || leasing.builds());
    other.wait_until("the build without", || reading.builds());
    prune(&fixture, &[]).assert_code(&[0]);
    one.wait_for(TIMEOUT).assert_code(&[0]);
    other.wait_for(TIMEOUT).assert_code(&[0]);
    assert_all_from_the_mirror(leasing.result());
    assert_all_from_the_mirror(reading.result());

    // Without a lease, a prune may remove objects during a build, which still passes.
    let late = Machine::new(&fixture, "late");
    let mut build = late.start(late.command(&[]));
    build.wait_until("the build", || late.builds());
    prune(&fixture, &["--ignore-leases"]).assert_code(&[0]);
    build.wait_for(TIMEOUT).assert_code(&[0]);
}

/// A prune that removes objects of any age.
fn prune(fixture: &Fixture, words: &[&str]) -> Ran {
    let mut command = agent();
    command.args(["cache", "prune", "--sstate-max-age", "0s", "--downloads-max-age", "0s", "--grace", "0s"]);
    command.arg("--share").arg(share(fixture)).args(words);
    Running::start(command, fixture.directory.path()).wait()
}

/// Mounts the share as an account would for pull requests: read-only, except for their own part.
#[test]
fn a_pull_request_writes_only_its_own_directory() {
    let test = "a_pull_request_writes_only_its_own_directory";
    if is_left_to_the_long_run(test) {
        return;
    }
    if !geteuid().is_root() {
        return skip(test, "only root can mount");
    }
    let Some(fixture) = fixture(test) else { return };
    let part = fixture.directory.path().join("pull-requests");
    std::fs::create_dir(&part).unwrap();
    std::fs::create_dir(share(&fixture).join("pr")).unwrap();
    Machine::new(&fixture, "trusted").build(&["--trusted"]).assert_code(&[0]);
    let shared = snapshot(&share(&fixture));

    // It changes a recipe, and one of its tasks tries to write to all directories that others read.
    std::fs::write(
        fixture.layer().join("recipes-fixture/deploy-files/deploy-files_1.0.bbappend"),
        format!(
            "do_deploy:append() {{\n\
             \x20   for place in . sstate/scarthgap downloads layers leases pr; do\n\
             \x20       if touch {share}/$place/written; then bbfatal \"$place can be written\"; fi\n\
             \x20   done\n\
             }}\n",
            share = share(&fixture).display()
        ),
    )
    .unwrap();
    commit(&fixture.layer(), "Change a recipe");
    let first = Machine::new(&fixture, "first-push");
    first.start(first.of_pull_request(&part)).wait_for(TIMEOUT).assert_code(&[0]);
    assert!(sstate(first.result())["missed"].as_u64() > Some(0));
    assert_eq!(snapshot(&share(&fixture)), shared, "a pull request wrote to the share");
    assert!(!snapshot(&part.join("7/sstate/scarthgap")).is_empty(), "its own part has its work");

    let second = Machine::new(&fixture, "second-push");
    second.start(second.of_pull_request(&part)).wait_for(TIMEOUT).assert_code(&[0]);
    assert_all_from_the_mirror(second.result());

    // The same sources after the merge: everything that the pull request had changed is built again.
    let before = snapshot(&part);
    let accepted = Machine::new(&fixture, "accepted");
    accepted.start(accepted.with_mounts(&part, "rw", &["--trusted"])).wait_for(TIMEOUT).assert_code(&[0]);
    assert_eq!(sstate(accepted.result())["missed"], sstate(first.result())["missed"]);
    assert_eq!(snapshot(&part), before, "a trusted build touched what a pull request wrote");
}

impl Machine<'_> {
    /// Like a start by CodeBuild's webhook for pull request 7.
    fn of_pull_request(&self, part: &Path) -> Command {
        let mut command = self.with_mounts(part, "ro", &[]);
        command.env("CODEBUILD_BUILD_ID", "checks:1").env("CODEBUILD_SRC_DIR", self.fixture.layer());
        command.env("CODEBUILD_SOURCE_VERSION", "pr/7");
        command.env("CODEBUILD_WEBHOOK_TRIGGER", "pr/7");
        command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
        command
    }

    /// The same command, with mounts that only this command sees.
    fn with_mounts(&self, part: &Path, mode: &str, words: &[&str]) -> Command {
        let inner = self.command(words);
        let mut command = Command::new("unshare");
        command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
        command.arg(
            "share=$1 part=$2 mode=$3; shift 3\n\
             mount --bind \"$share\" \"$share\"\n\
             mount -o \"remount,bind,$mode\" \"$share\"\n\
             mount --bind \"$part\" \"$share/pr\"\n\
             exec \"$@\"",
        );
        command.arg("sh").arg(share(self.fixture)).arg(part).arg(mode);
        command.arg(inner.get_program()).args(inner.get_args());
        command.current_dir(self.fixture.layer());
        command
    }
}
