//! The harness of the end-to-end tests: the real binary, stand-in tools, and a sandbox to run in.
//!
//! Tests use the agent like people: command line, manifest, signals. They read its results: exit status, reports,
//! logs, processes.

#![allow(clippy::expect_used)] // a harness fails by panicking

mod browser;
mod codebuild;
pub mod fake_s3;
pub mod github;
mod github_server;
pub mod guest;
mod npm;
mod processes;
mod results;
mod running;
mod sandbox;
mod seaweed;
mod skipping;
mod slow;
mod stand_in;

pub use browser::Browser;
pub use codebuild::{CodeBuild, PROJECT, unmet_by_codebuild};
pub use github_server::{GitHubServer, app_key};
pub use npm::npm_package;
pub use processes::{Survivor, survivors};
pub use results::{cases, json, leaks_of, well_formed_xml};
pub use running::{Ran, Running};
pub use sandbox::{BUILD_USER, Sandbox, commit, copy_tree, git, unmet_requirement};
pub use seaweed::SeaweedFs;
pub use skipping::{Part, is_left_to_the_long_run, skip, skip_without};
pub use slow::SlowFs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A command of the agent under test, which is first built from the current sources. From the caller's environment it
/// gets only PATH, HOME and USER.
pub fn agent() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(BINARY.get_or_init(|| build("build-agent")));
    command.env_clear();
    for name in ["PATH", "HOME", "USER"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Builds the package's program of the same name. This test runs as `target/<profile>/deps/<test>`; the program is
/// two directories above.
fn build(package: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let binary = profile.join(package);
    let name = profile.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args(["build", "--quiet", "--package", package, "--profile"]);
    cargo.arg(if name == "debug" { "dev" } else { name });
    let built = cargo.status().expect("cargo starts");
    assert!(built.success(), "`{cargo:?}` failed");
    assert!(binary.is_file(), "`{cargo:?}` made no {}", binary.display());
    binary
}

/// The top of the sources.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above tests/")
}

/// Why the agent would not run this many BitBake processes in parallel on this machine (docs/fast-check.md).
pub fn cannot_run_parallel(bitbakes: u64) -> Option<String> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let gib = 3 * bitbakes;
    if kibibytes.is_some_and(|kibibytes| kibibytes < gib << 20) {
        return Some(format!("it takes {gib} GiB of free memory"));
    }
    let words: &[&str] = if nix::unistd::geteuid().is_root() { &["--mount"] } else { &["--user", "--mount"] };
    let tried = std::process::Command::new("unshare").args(words).arg("true").output();
    let allowed = tried.is_ok_and(|output| output.status.success());
    (!allowed).then(|| "the kernel refuses mount namespaces here".into())
}
