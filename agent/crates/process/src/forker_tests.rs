//! Processes that fork on and on, in new sessions, without their environment and under other names.
//! Everything that the test's own process left behind counts, so each test is a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::tests::{Bench, QUICK, warnings_of};
use super::*;
use crate::processes::Processes;
use crate::{User, control_group};

const ALONE: &str = "BUILD_AGENT_TEST_ALONE";

/// As often as the fault was looked for when it was found; it was there in 13 of 30.
const ROUNDS: usize = 30;

/// Arguments: a file that grows while it lives, and how many fork side by side.
const FORKER: &str = include_str!("../../../../tests/stand-ins/poky/scripts/lib/forker.py");

/// Runs the test `name` in a process of its own; `true` there.
fn alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut own = std::process::Command::new(std::env::current_exe().unwrap());
    let full = format!("runner::forker_tests::{name}");
    let done = own.args(["--exact", &full, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{done:?}");
    false
}

fn rounds(width: usize, user: Option<User>) {
    let times = Times {
        output: Duration::from_millis(30),
        daemons: Duration::from_millis(30),
        term_grace: Duration::from_millis(30),
        ..QUICK
    };
    let body = async {
        for round in 0..ROUNDS {
            let mut bench = Bench::new();
            let (script, beat) = (bench.base.path().join("forker.py"), bench.base.path().join("beat"));
            std::fs::write(&script, FORKER).unwrap();
            std::fs::write(&beat, "").unwrap();
            for (path, mode) in [(bench.base.path(), 0o755), (&script, 0o644), (&beat, 0o666)] {
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            }
            let line = format!(
                "env -i {} {} {} {width} >/dev/null 2>&1 & while ! [ -s {} ]; do sleep 0.01; done",
                "/usr/bin/env python3",
                script.display(),
                beat.display(),
                beat.display()
            );
            let mut command = bench.sh(&line);
            command.user.clone_from(&user);
            let started = Instant::now();
            let finished = bench.runner.run_with(command, &mut (), times).await.unwrap();
            assert_eq!(finished.end, ExitReason::Exited(0), "{:?}", finished.tail);
            assert!(started.elapsed() < Duration::from_secs(30), "round {round}: {:?}", started.elapsed());
            let beats = || std::fs::metadata(&beat).unwrap().len();
            let before = beats();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(beats(), before, "round {round}: it goes on");
            let warnings = warnings_of(&mut bench);
            assert!(warnings.contains("; ended"), "round {round}: {warnings:?}");
            assert_eq!(Processes::now().descendants([std::process::id() as i32]).len(), 1);
        }
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body);
}

#[test]
fn forkers_are_ended_in_the_control_group() {
    if alone("forkers_are_ended_in_the_control_group") {
        rounds(3, None);
    }
}

#[test]
fn one_forker_is_ended_without_control_groups() {
    if alone("one_forker_is_ended_without_control_groups") {
        control_group::refuse();
        rounds(1, None);
    }
}

#[test]
fn several_forkers_are_ended_without_control_groups() {
    if alone("several_forkers_are_ended_without_control_groups") {
        control_group::refuse();
        rounds(3, None);
    }
}

/// A user that nobody else has.
#[test]
fn forkers_of_another_user_are_ended_without_control_groups() {
    if alone("forkers_of_another_user_are_ended_without_control_groups") {
        control_group::refuse();
        if nix::unistd::geteuid().is_root() {
            let uid = 1_879_048_192 + std::process::id();
            rounds(3, Some(User { name: "nobody's".into(), uid, gid: uid, home: "/".into() }));
            let lock = format!("/run/build-agent-{uid}.lock");
            let _ = agent_fs::remove::remove_file(Path::new(&lock), Path::new("/run"));
        }
    }
}
