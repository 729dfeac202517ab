//! How children end.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
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

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Exited(status) => write!(f, "exit status {status}"),
            ExitReason::Signalled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
            ExitReason::Cancelled => f.write_str("cancelled"),
            ExitReason::TimedOut => f.write_str("out of time"),
            ExitReason::Stalled(silent) => write!(f, "stalled for {}", humantime::format_duration(*silent)),
        }
    }
}

impl From<ExitStatus> for ExitReason {
    fn from(status: ExitStatus) -> ExitReason {
        match (status.code(), status.signal()) {
            (Some(code), _) => ExitReason::Exited(code),
            (None, signal) => ExitReason::Signalled(signal.unwrap_or(0)),
        }
    }
}
