//! Signals that reach exactly the process that is meant.
//!
//! The number of a process is given away again as soon as the process has ended and was waited for. Between a
//! look at `/proc` and `kill(2)` it may belong to somebody else. A file descriptor of a process (pidfd) does not:
//! it is opened first, and if `/proc` then shows the process that is meant, it is that one's for ever.
//!
//! Linux before 5.3, gVisor and the seccomp filters of old container engines refuse it. There a look at `/proc`
//! is followed by `kill(2)` at once, which leaves a gap of microseconds.

use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::processes::Process;

/// Sends the signal to exactly this process, not to another that was given its number. Whether it was sent.
/// Why not is of no interest: the process is gone, or may not be signalled, and the caller looks again anyway.
///
/// A child that was not waited for keeps its number, and needs none of this.
pub fn signal(process: &Process, signal: Signal) -> bool {
    send(process, signal, |pid| pidfd_open(pid, PidfdFlags::empty()))
}

fn send(
    process: &Process,
    signal: Signal,
    open: impl FnOnce(rustix::process::Pid) -> Result<OwnedFd, Errno>,
) -> bool {
    let raw = (process.pid > 1).then(|| rustix::process::Pid::from_raw(process.pid)).flatten();
    let (Some(pid), Some(number)) = (raw, rustix::process::Signal::from_named_raw(signal as i32)) else {
        return false;
    };
    let opened = open(pid);
    // After the descriptor was opened: then the number was this process's at that time, too.
    if opened.as_ref().is_err_and(|error| *error == Errno::SRCH) || !process.is_alive() {
        return false;
    }
    match opened.and_then(|descriptor| pidfd_send_signal(descriptor, number)) {
        Ok(()) => true,
        Err(Errno::SRCH) => false,
        Err(_) => kill(Pid::from_raw(process.pid), signal).is_ok(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Process) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::find(child.id() as i32).unwrap();
        (child, process)
    }

    fn own_descriptor(pid: rustix::process::Pid) -> Result<OwnedFd, Errno> {
        pidfd_open(pid, PidfdFlags::empty())
    }

    /// As each kernel has it: with pidfds, without (ENOSYS), forbidden by a filter (EPERM), no descriptors left.
    const OPENERS: [fn(rustix::process::Pid) -> Result<OwnedFd, Errno>; 4] =
        [own_descriptor, |_| Err(Errno::NOSYS), |_| Err(Errno::PERM), |_| Err(Errno::MFILE)];

    #[test]
    fn the_process_that_is_meant_gets_the_signal_with_and_without_pidfds() {
        for open in OPENERS {
            let (mut child, process) = sleeper();
            assert!(send(&process, Signal::SIGTERM, open));
            assert_eq!(child.wait().unwrap().signal(), Some(15));
            assert!(!send(&process, Signal::SIGTERM, open), "it is gone");
        }
    }

    #[test]
    fn whoever_was_given_the_number_gets_no_signal() {
        let (mut child, process) = sleeper();
        let earlier = Process { started: process.started - 1, ..process.clone() };
        for open in OPENERS {
            assert!(!send(&earlier, Signal::SIGKILL, open));
        }
        // It was gone when the descriptor was to be opened, and whoever has the number now is another one.
        assert!(!send(&process, Signal::SIGKILL, |_| Err(Errno::SRCH)));
        for pid in [0, 1, -1, i32::MIN] {
            assert!(!signal(&Process { pid, ..process.clone() }, Signal::SIGKILL), "{pid}");
        }
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
