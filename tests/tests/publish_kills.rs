//! Killed publications to a directory: the next one removes their files, but never the files of a running one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::agent;

const MIB: u64 = 1024 * 1024;

/// A directory whose publication takes some time.
fn large_tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for name in ["a", "b/c/d", "e"] {
        let path = tree.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().set_len(80 * MIB).unwrap();
    }
    tree
}

fn small_tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("small"), "small").unwrap();
    tree
}

fn publish(tree: &Path, destination: &Path) -> Child {
    let mut command = agent();
    command.arg("publish").arg(tree).arg(destination);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Temporary files below the directory; only those of unfinished files.
fn parts(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(".part") {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Waits for an unfinished file, in addition to the file that marks a running publication.
fn wait_for_parts(child: &mut Child, destination: &Path) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let found = parts(destination);
        let is_file = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with(".publish-");
        if found.iter().any(is_file) {
            return found;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before a file was on its way");
        assert!(Instant::now() < deadline, "no file was on its way");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// SIGSTOP takes effect in each thread only after its system call.
fn wait_until_stopped(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let is_stopped = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
    };
    while !std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| is_stopped(thread.unwrap())) {
        assert!(Instant::now() < deadline, "process {pid} did not stop");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_next_publication_removes_files_of_a_killed_one() {
    let (large, small, destination) = (large_tree(), small_tree(), tempfile::tempdir().unwrap());
    for round in 0..3 {
        let mut child = publish(large.path(), destination.path());
        wait_for_parts(&mut child, destination.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!parts(destination.path()).is_empty(), "round {round}: nothing was left to remove");
    }
    assert_eq!(publish(small.path(), destination.path()).wait().unwrap().code(), Some(0));
    assert_eq!(parts(destination.path()), [] as [PathBuf; 0]);
    assert_eq!(std::fs::read_to_string(destination.path().join("small")).unwrap(), "small");
}

#[test]
fn a_running_publication_keeps_its_files() {
    let (large, small, destination) = (large_tree(), small_tree(), tempfile::tempdir().unwrap());
    let mut slow = publish(large.path(), destination.path());
    let before = wait_for_parts(&mut slow, destination.path());
    // Stopped, so that none of its files gets its final name in the meantime.
    let pid = nix::unistd::Pid::from_raw(slow.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    wait_until_stopped(slow.id());
    let held = parts(destination.path());
    assert_eq!(publish(small.path(), destination.path()).wait().unwrap().code(), Some(0));
    assert_eq!(parts(destination.path()).len(), held.len(), "{before:?}");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    // The other one has published there in the meantime, so this one ends with that error; its files were whole.
    assert_eq!(slow.wait().unwrap().code(), Some(2));
    assert_eq!(std::fs::metadata(destination.path().join("b/c/d")).unwrap().len(), 80 * MIB);
    assert_eq!(parts(destination.path()), [] as [PathBuf; 0]);
}
