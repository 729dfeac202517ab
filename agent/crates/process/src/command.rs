//! What is to be run.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Apart, User};

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
    pub apart: Option<Apart>,
    /// Replaces the job's stall limit.
    pub stall: Option<Duration>,
    /// What the child has as its stdin; `None`: `/dev/null`.
    pub stdin: Option<Arc<OwnedFd>>,
    /// Stands before `argv` when the child is started, as an interpreter does; reports do not show it.
    /// Without effect when the command is `apart`.
    pub launcher: Vec<OsString>,
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
            apart: None,
            stall: None,
            stdin: None,
            launcher: Vec::new(),
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
