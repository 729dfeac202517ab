//! A directory mounted again as a slow and faulty share.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Part, build, skip_without};

/// A mount of `slowfs`. It ends with this value, with the test's process, and even if operations hang.
pub struct SlowFs {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    mountpoint: PathBuf,
}

impl SlowFs {
    /// Mounts `source` at `mountpoint`; both exist. The options are those of `slowfs --help`; without `--metadata-ms
    /// 0 --create-ms 0` every operation has a delay. `None`, with a SKIPPED line for the test, if the machine cannot
    /// mount it.
    pub fn mount(test: &str, source: &Path, mountpoint: &Path, options: &[&str]) -> Option<SlowFs> {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            skip_without(Part::Fuse, test, &format!("/dev/fuse does not open: {error}"));
            return None;
        }
        let mut command = Command::new(BINARY.get_or_init(|| build("slowfs")));
        command.args([source, mountpoint]).args(options).arg("--until-eof");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("slowfs starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        if let Some(Ok(line)) = lines.next() {
            assert_eq!(line, "ready", "`{command:?}`");
            return Some(SlowFs { child, lines, mountpoint: mountpoint.into() });
        }
        let mut error = String::new();
        let _ = child.stderr.take().expect("its errors").read_to_string(&mut error);
        let code = child.wait().expect("slowfs ends").code();
        // Its own message for what the machine lacks; a wrong option is a mistake of the test.
        assert!(code == Some(1) && !error.contains("slowfs: one of"), "`{command:?}`: {error}");
        skip_without(
            Part::Fuse,
            test,
            &format!("a FUSE file system cannot be mounted here: {}", error.trim()),
        );
        None
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Enables faults, hangs and late answers after a start with `--faults-off`.
    pub fn enable_faults(&self) {
        self.signal(Signal::SIGUSR2);
    }

    /// The operations so far, without zeros: `{"max_in_flight": N, "operations": {"lookup": N, …}}`.
    pub fn counts(&mut self) -> serde_json::Value {
        self.signal(Signal::SIGUSR1);
        let line = self.lines.next().expect("slowfs answers").expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("slowfs runs");
    }
}

impl Drop for SlowFs {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
        // Has an effect only if something killed it before.
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(&self.mountpoint).output();
    }
}
