//! Packages of npm that tests use. They lie in `target/test-npm` and are installed once.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::repository;
use crate::skipping::skip;

/// The directory of an installed package. `None` if npm or its registry cannot be reached; the test is then skipped.
pub fn npm_package(test: &str, name: &str, version: &str) -> Option<PathBuf> {
    let directory =
        repository().join("target/test-npm").join(format!("{}-{version}", name.replace('/', "-")));
    let package = directory.join("node_modules").join(name);
    if package.join("package.json").is_file() {
        return Some(package);
    }
    std::fs::create_dir_all(&directory).expect("a directory for packages of npm");
    let mut npm = Command::new("timeout");
    npm.args([
        "120",
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
    ]);
    npm.arg(&directory).arg(format!("{name}@{version}"));
    let installed = npm.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_ok_and(|status| status.success()) && package.join("package.json").is_file() {
        return Some(package);
    }
    skip(test, &format!("npm cannot install {name}@{version}"));
    None
}
