//! A running agent, and one that has ended.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::processes;

/// The maximum run time of an agent; after that the harness kills it and fails.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The time between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running agent. When it is dropped, it and all processes of its sandbox are killed.
pub struct Running {
    child: Child,
    /// Paths in command lines that mark processes of the sandbox.
    marker: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    peak_kib: u64,
}

/// How an agent ended.
#[derive(Debug)]
pub struct Ran {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The peak resident size that was seen, in KiB.
    pub peak_kib: u64,
}

impl Running {
    /// Starts the command with its output in files of `directory`, which can have any size.
    pub fn start(mut command: Command, directory: &Path) -> Running {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|name| directory.join(format!("agent-{number}.{name}")));
        command.stdin(Stdio::null());
        command.stdout(File::create(&stdout).expect("a file for output"));
        command.stderr(File::create(&stderr).expect("a file for output"));
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running { child, marker: directory.into(), stdout, stderr, peak_kib: 0 }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal only to the agent, not to its children.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the agent still runs");
    }

    /// Waits until `what` is true; fails if the agent ends before.
    pub fn wait_until(&mut self, name: &str, what: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !what() {
            let ended = self.child.try_wait().expect("the agent can be waited for");
            assert!(ended.is_none(), "the agent ended with {ended:?} before {name}\n{}", self.output());
            assert!(Instant::now() < deadline, "{name} never happened\n{}", self.output());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// What it printed on standard output until now.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Waits until it ends.
    pub fn wait(self) -> Ran {
        self.wait_for(TIMEOUT)
    }

    /// Waits this long until it ends.
    pub fn wait_for(mut self, deadline: Duration) -> Ran {
        let deadline = Instant::now() + deadline;
        let status = loop {
            self.peak_kib = self.peak_kib.max(processes::peak_kib(self.pid()).unwrap_or(0));
            if let Some(status) = self.child.try_wait().expect("the agent can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "the agent did not end\n{}", self.output());
            std::thread::sleep(POLL_INTERVAL);
        };
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|path| text(path));
        Ran { code: status.code(), signal: status.signal(), stdout, stderr, peak_kib: self.peak_kib }
    }

    fn output(&self) -> String {
        format!("--- stdout\n{}--- stderr\n{}", text(&self.stdout), text(&self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            processes::end_all(&self.marker);
        }
    }
}

impl Ran {
    /// Both streams, for messages and searches.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Fails unless the exit status is one of these.
    #[track_caller]
    pub fn assert_code(&self, codes: &[i32]) {
        let fits = self.code.is_some_and(|code| codes.contains(&code));
        assert!(
            fits,
            "exit status {:?} (signal {:?}) and not {codes:?}\n{}",
            self.code,
            self.signal,
            self.output()
        );
    }

    /// Fails unless the output contains each of these texts.
    #[track_caller]
    pub fn assert_says(&self, words: &[&str]) {
        for word in words {
            assert!(self.output().contains(word), "{word:?} was not said\n{}", self.output());
        }
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
