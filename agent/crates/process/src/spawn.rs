//! From a [`Command`] to a running child, or to an error that says what is missing.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::fstat;
use tokio::net::unix::pipe;
use tokio::process::Child;

use agent_fs::access::{Barrier, Credentials, Permission};
use agent_types::error::{Error, Result};

use super::forkers;
use super::running::Running;
use super::{Command, User};

/// Room for output that was not read yet: fewer and larger reads. The default is 64 KiB.
const PIPE: i32 = 256 * 1024;

/// A child that runs, and the pipe that its stdout and stderr share, so that their order is kept.
pub(super) struct Spawned {
    pub child: Child,
    pub running: Running,
    pub output: pipe::Receiver,
    /// `pipe:[4711]`, as `/proc/PID/fd` shows it.
    pub pipe: PathBuf,
}

/// Starts the child with its own stdin, or `/dev/null`, and with no environment but its own.
///
/// # Errors
/// When the program, the directory or the user cannot be had, naming them.
pub(super) fn spawn(command: &Command, number: u32) -> Result<Spawned> {
    let program = command
        .launcher
        .first()
        .or(command.argv.first())
        .ok_or_else(|| Error::internal("a command without a program"))?;
    let unpiped = |error: std::io::Error| Error::machine("cannot make a pipe").because(&error);
    let (reader, writer) = std::io::pipe().map_err(unpiped)?;
    // Only a matter of speed.
    let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE));
    let inode = fstat(reader.as_fd()).map_err(|errno| unpiped(errno.into()))?.st_ino;

    let mut child = match &command.mount_namespace {
        Some(mount_namespace) => {
            let user = command.user.as_ref();
            mount_namespace.prepare(&command.argv, &command.cwd, user, command.environment.iter())?
        }
        None => plain(command, program),
    };
    if let Some(user) = &command.user {
        forkers::runs_as(user.uid, user.gid);
    }
    child.current_dir(&command.cwd);
    let stdin = match &command.stdin {
        Some(stdin) => Stdio::from(stdin.try_clone().map_err(unpiped)?),
        None => Stdio::null(),
    };
    child.stdin(stdin).stdout(writer.try_clone().map_err(unpiped)?).stderr(writer);
    let started = Running::start(&mut child, number, &command.activity);
    // It holds the pipe's other end.
    drop(child);
    let (child, running) = started.map_err(|error| explain(command, program, error))?;
    let output = pipe::Receiver::from_owned_fd(reader.into()).map_err(unpiped)?;
    Ok(Spawned { child, running, output, pipe: format!("pipe:[{inode}]").into() })
}

fn plain(command: &Command, program: &OsStr) -> tokio::process::Command {
    let mut child = tokio::process::Command::new(program);
    child
        .args(command.launcher.iter().chain(&command.argv).skip(1))
        .env_clear()
        .envs(command.environment.iter());
    if let Some(user) = &command.user {
        // Root's supplementary groups are dropped by the standard library when the uid changes.
        child.uid(user.uid).gid(user.gid);
    }
    child
}

pub(super) fn explain(command: &Command, program: &OsStr, error: std::io::Error) -> Error {
    let name = program.to_string_lossy();
    let user = command.user.as_ref().map_or(String::new(), |user| format!(" as user {}", user.name));
    let failed = Error::machine(format!("cannot start `{name}` in {}{user}", command.cwd.display()));
    let path = command.environment.get("PATH");
    let hint = match error.kind() {
        ErrorKind::NotFound if !command.cwd.is_dir() => {
            format!("the directory {} does not exist", command.cwd.display())
        }
        ErrorKind::NotFound => match (resolve(program, path), path) {
            (Some(found), _) => {
                format!("{} exists, but the interpreter that it names does not", found.display())
            }
            (None, _) if name.contains('/') => "no such program; install it".into(),
            (None, Some(path)) => format!("no such program in PATH={}; install it", path.to_string_lossy()),
            (None, None) => "no such program, and the command has no PATH".into(),
        },
        ErrorKind::PermissionDenied => match barrier(command.user.as_ref(), &command.cwd) {
            Some(closed) => {
                format!("{} lets {} not in: change its mode or owner", closed.path.display(), who(command))
            }
            None => format!("`{name}` may not be executed by {}", who(command)),
        },
        ErrorKind::ArgumentListTooLong => {
            "its arguments and environment are longer than the kernel takes".into()
        }
        _ => "look at the limits of processes and memory".into(),
    };
    failed.because(&error).hint(hint)
}

fn who(command: &Command) -> String {
    command.user.as_ref().map_or("the agent's user".into(), |user| format!("user {}", user.name))
}

fn resolve(program: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if program.to_string_lossy().contains('/') {
        return Some(PathBuf::from(program)).filter(|program| program.exists());
    }
    std::env::split_paths(path?).map(|directory| directory.join(program)).find(|program| program.exists())
}

/// What keeps the user from entering the directory.
fn barrier(user: Option<&User>, directory: &Path) -> Option<Barrier> {
    let who = user.map_or_else(Credentials::own, |user| Credentials::of(user.uid, user.gid));
    who.barrier(directory, Permission::EXECUTE)
}
