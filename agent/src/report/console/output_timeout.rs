//! How long to wait for people who read slowly or not at all: a terminal held by Ctrl-S, a pager, a
//! dead collector of logs.

use std::thread;
use std::time::{Duration, Instant};

use agent_process::Interrupt;

/// Between two looks at somebody who is slow.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// Prints on a thread of its own: a job that was told to stop does not wait for a reader who does
/// not read.
pub fn with_output_timeout(interrupt: &Interrupt, print: impl FnOnce() + Send + 'static) {
    let printing = thread::spawn(print);
    let mut timeout = OutputTimeout::new(interrupt);
    while !printing.is_finished() && timeout.lasts(0) {
        thread::sleep(LOOK);
    }
}

/// How long to wait for a reader: as long as the job may go on and a moment longer, or up to a deadline.
pub(super) struct OutputTimeout<'a> {
    interrupt: &'a Interrupt,
    /// For one that stands still while the job goes on; `None`: it may.
    deadline: Option<Duration>,
    /// How far the reader was when it was last seen to read, and when that was.
    seen: (u64, Instant),
}

impl<'a> OutputTimeout<'a> {
    /// For a reader who stands still when the job has to stop.
    const STOPPED: Duration = Duration::from_secs(5);
    /// After the second signal.
    const NOW: Duration = Duration::from_millis(500);

    pub fn new(interrupt: &'a Interrupt) -> OutputTimeout<'a> {
        OutputTimeout { interrupt, deadline: None, seen: (0, Instant::now()) }
    }

    pub fn with_deadline(self, deadline: Option<Duration>) -> OutputTimeout<'a> {
        OutputTimeout { deadline, ..self }
    }

    /// Whether to wait on for a reader who is `far`.
    pub fn lasts(&mut self, far: u64) -> bool {
        let goes_on = self.interrupt.state().is_none();
        if (goes_on && self.deadline.is_none()) || self.seen.0 != far {
            self.seen = (far, Instant::now());
        }
        let stopped = if self.interrupt.is_urgent() { Self::NOW } else { Self::STOPPED };
        let limit = match self.deadline {
            Some(deadline) if goes_on => deadline,
            Some(deadline) => deadline.min(stopped),
            None => stopped,
        };
        self.seen.1.elapsed() < limit
    }
}
