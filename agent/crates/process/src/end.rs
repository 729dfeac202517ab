//! How children end.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    /// By a signal that the agent did not send.
    Signalled(i32),
    /// By the agent, because of a signal to the job.
    Cancelled,
    /// By the agent, because of the job's limit or the command's own.
    TimedOut,
    /// By the agent, because it was silent for this long, in whole seconds.
    Stalled(Duration),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(status) => write!(f, "exit status {status}"),
            End::Signalled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
            End::Cancelled => f.write_str("cancelled"),
            End::TimedOut => f.write_str("out of time"),
            End::Stalled(silent) => write!(f, "stalled for {}", humantime::format_duration(*silent)),
        }
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> End {
        match (status.code(), status.signal()) {
            (Some(code), _) => End::Exited(code),
            (None, signal) => End::Signalled(signal.unwrap_or(0)),
        }
    }
}
