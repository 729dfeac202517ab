//! Programs that run in this process's own place: with its streams, its process group and its
//! terminal, as whoever started this process expects them. For the shim before BitBake.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{SigSet, Signal, raise};

use super::ExitReason;

/// A program with its whole environment.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    pub program: PathBuf,
    /// The first is what the program sees as its own name.
    pub argv: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
}

impl ExecSpec {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        let mut words = self.argv.iter();
        if let Some(name) = words.next() {
            command.arg0(name);
        }
        command.args(words).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Becomes the program. Comes back only with the reason why it could not.
    pub fn replace(&self) -> io::Error {
        self.command().exec()
    }
}

/// Ends this process as another one ended: with its exit status or by its signal.
pub fn exit_like(end: ExitReason) -> ! {
    if let ExitReason::Signalled(number) = end
        && let Ok(signal) = Signal::try_from(number)
    {
        let mut set = SigSet::empty();
        set.add(signal);
        let _ = set.thread_unblock();
        let _ = raise(signal);
    }
    std::process::exit(match end {
        ExitReason::Exited(status) => status,
        ExitReason::Signalled(number) => 128 + number,
        ExitReason::Cancelled | ExitReason::TimedOut | ExitReason::Stalled(_) => 128 + Signal::SIGTERM as i32,
    })
}
