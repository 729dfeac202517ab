//! The program, called as BitBake calls it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// More than a pipe holds.
const MUCH: usize = 3 << 20;

/// What the program makes of `words` and a lot of input when its output goes to `file`; its exit status.
fn call(path: &Path, words: &[&str], file: &Path) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_build-agent-zstd"));
    command.args(words).env("PATH", path).stdin(Stdio::piped()).stdout(File::create(file).unwrap());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; MUCH]).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn signatures_are_forgotten_and_all_else_goes_to_the_next() {
    let place = tempfile::tempdir().unwrap();
    let next = place.path().join("bin/zstd");
    std::fs::create_dir(place.path().join("bin")).unwrap();
    std::fs::write(&next, "#!/bin/sh\necho \"next $*\"\nexec /bin/cat >/dev/null\n").unwrap();
    std::fs::set_permissions(&next, Permissions::from_mode(0o755)).unwrap();
    for (words, file, wanted) in [
        (&["-c", "-3"][..], "sigtask.k2x1", ""),
        (&["-c", "-3"], "other", "next -c -3\n"),
        (&["-d", "-c"], "sigtask.k2x2", "next -d -c\n"),
    ] {
        let file = place.path().join(file);
        assert_eq!(call(next.parent().unwrap(), words, &file), Some(0), "{words:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), wanted, "{words:?} {}", file.display());
    }
}
