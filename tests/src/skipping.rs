//! Skipped tests: each prints a line, and is an error if the missing part is required.

use std::fmt::{self, Display};
use std::fs::OpenOptions;
use std::io::Write;

/// A part of the machine that some tests need. `BUILD_AGENT_REQUIRE` lists the parts that must be there, separated by
/// commas; `tests/run` rejects other names.
#[derive(Clone, Copy)]
pub enum Part {
    /// SeaweedFS, a real S3 server.
    S3,
    /// moto, a simulation of AWS.
    Aws,
    /// A container engine with the agent's image.
    Docker,
    /// File systems in user space.
    Fuse,
    /// Chromium.
    Browser,
    /// labgrid, which controls boards of a lab.
    Labgrid,
    /// BitBake's host packages, and addresses of BitBake and OE-Core that reply.
    BitBake,
}

impl Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Part::S3 => "s3",
            Part::Aws => "aws",
            Part::Docker => "docker",
            Part::Fuse => "fuse",
            Part::Browser => "browser",
            Part::Labgrid => "labgrid",
            Part::BitBake => "bitbake",
        })
    }
}

/// Reports a skipped test on standard error and in the list that `tests/run` prints at its end. cargo counts the test
/// as passed.
pub fn skip(name: &str, reason: &str) {
    println!("SKIPPED {name}: {reason}");
    // cargo does not show the standard output of tests that pass.
    let list = std::env::var_os("BUILD_AGENT_TEST_SKIPPED");
    for path in list.into_iter().chain(["/dev/stderr".into()]) {
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
            let _ = writeln!(file, "SKIPPED {name}: {reason}");
        }
    }
}

/// Like [`skip`], for a test that needs this part of the machine.
///
/// # Panics
///
/// If `BUILD_AGENT_REQUIRE` names the part.
#[track_caller]
pub fn skip_without(part: Part, name: &str, reason: &str) {
    let required = std::env::var("BUILD_AGENT_REQUIRE").unwrap_or_default();
    let part = part.to_string();
    assert!(
        !required.split(',').any(|word| word.trim() == part),
        "{name} needs {part}, and BUILD_AGENT_REQUIRE={required} requires it: {reason}"
    );
    skip(name, reason);
}

/// Whether only `tests/run --all` runs this long test. If so, prints that it is skipped.
pub fn is_left_to_the_long_run(name: &str) -> bool {
    let left = std::env::var_os("BUILD_AGENT_TEST_ALL").is_none_or(|value| value != "1");
    if left {
        skip(name, "it takes minutes; `tests/run --all` runs it");
    }
    left
}
