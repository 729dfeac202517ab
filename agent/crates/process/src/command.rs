//! What is to be run.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ActivityClock, MountNamespace, User};

/// The whole environment of a child. It starts empty: nothing is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.0.insert(name.into(), value.into());
        self
    }

    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        self.0.get(name.as_ref()).map(OsString::as_os_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

/// A longer name is cut.
const LONGEST_NAME: usize = 120;

/// A child process to be.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program and its arguments; never a shell string.
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    pub environment: Environment,
    /// Runs as this user; `None`: as the agent itself.
    pub user: Option<User>,
    /// Name of the log below the runner's log directory, e.g. `check-meta-x`; `.log` is added.
    pub log: String,
    /// A limit of its own, besides the job's.
    pub timeout: Option<Duration>,
    /// Sees another directory at a path than everybody else.
    pub mount_namespace: Option<MountNamespace>,
    /// Replaces the job's stall limit.
    pub stall: Option<Duration>,
    /// When it last did something: each output touches it, and so may anybody who sees the command work.
    pub activity: ActivityClock,
    /// The agent's end of the socket on which the child tells what it does: see
    /// [`Command::listen_to_events`].
    pub(crate) events: Option<Arc<UnixStream>>,
    /// What the child has as its stdin; `None`: `/dev/null`.
    pub stdin: Option<Arc<OwnedFd>>,
    /// Stands before `argv` when the child is started, as an interpreter does; reports do not show it.
    /// Without effect when the command is `mount_namespace`.
    pub launcher: Vec<OsString>,
    /// What it does, for people: `yocto-check-layer meta-x: BitBake parses the world`.
    pub status: Option<String>,
    /// A shorter time from the first signal to SIGKILL than the job's grace, for a program whose work is
    /// worth nothing once it was stopped.
    pub grace: Option<Duration>,
    /// At the end of the job's time, the first SIGINT gets most of the grace: BitBake then ends the tasks that run,
    /// and what they made can be saved.
    pub finish_running: bool,
    /// It is this program itself, which ends its commands and writes its reports when it is stopped. A second signal to the
    /// job reaches it as a second signal, before SIGKILL.
    pub is_agent: bool,
    /// Cancelled as soon as the agent begins to stop it: what fails from then on fails because of that.
    pub stopping: CancellationToken,
}

impl Command {
    pub fn new(program: impl Into<OsString>, cwd: impl Into<PathBuf>, log: impl Into<String>) -> Command {
        Command {
            argv: vec![program.into()],
            cwd: cwd.into(),
            environment: Environment::default(),
            user: None,
            log: log.into(),
            timeout: None,
            mount_namespace: None,
            stall: None,
            activity: ActivityClock::default(),
            events: None,
            stdin: None,
            launcher: Vec::new(),
            status: None,
            grace: None,
            finish_running: false,
            is_agent: false,
            stopping: CancellationToken::new(),
        }
    }

    pub fn status(mut self, status: impl Into<String>) -> Command {
        self.status = Some(status.into());
        self
    }

    /// Works for the command with this clock, which waits for it. What it does counts as activity of that one,
    /// and it has no stall limit of its own: what is silent ends with the command that waits for it.
    pub fn on_behalf_of(mut self, waiting: &ActivityClock) -> Command {
        self.activity = waiting.child();
        self.stall = Some(Duration::MAX);
        self
    }

    /// For people: what it does, or its `words` (its `argv` without secrets), paths without directories.
    pub fn name(&self, words: &[String]) -> String {
        if let Some(status) = &self.status {
            return status.clone();
        }
        let words: Vec<&str> = words.iter().map(|word| brief(word)).collect();
        let name = words.join(" ");
        match name.char_indices().nth(LONGEST_NAME) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name,
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Command {
        self.argv.push(arg.into());
        self
    }

    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Command {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }
}

/// The last part of a path; any other word as it is.
fn brief(word: &str) -> &str {
    let is_path = word.starts_with('/') && !word.contains(char::is_whitespace);
    let last = word.trim_end_matches('/').rsplit('/').next().filter(|last| is_path && !last.is_empty());
    last.unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_it_does_or_its_words_without_directories() {
        let store = "/efs/layers/oe-core/1d54d1c4736a0000000000000000000000000000";
        let words = [&*format!("{store}/scripts/yocto-check-layer"), "-k", "/", "a /b", "https://x/y"];
        let words = words.map(str::to_owned);
        let tool = Command::new(words[0].clone(), "/", "x");
        assert_eq!(tool.name(&words), "yocto-check-layer -k / a /b https://x/y");
        assert_eq!(tool.status("meta-x: parses").name(&words), "meta-x: parses");
        let long = Command::new("echo", "/", "x").name(&["é".repeat(500)]);
        assert_eq!((long.chars().count(), long.chars().last()), (LONGEST_NAME + 1, Some('…')));
    }
}
