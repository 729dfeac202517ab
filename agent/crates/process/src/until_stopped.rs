//! Output up to the moment when the agent begins to stop the child.

use tokio_util::sync::CancellationToken;

use agent_types::events::EventKind;

use super::LineHandler;

/// Passes on the lines that came before the stop. After it a child breaks because of the stop, and what it
/// says of itself then is no verdict on anything.
#[derive(Debug)]
pub struct UntilStopped<L> {
    pub lines: L,
    stopping: CancellationToken,
}

impl<L: LineHandler> UntilStopped<L> {
    /// `stopping` is the command's: see [`super::Command::stopping`].
    pub fn new(lines: L, stopping: &CancellationToken) -> UntilStopped<L> {
        UntilStopped { lines, stopping: stopping.clone() }
    }
}

impl<L: LineHandler> LineHandler for UntilStopped<L> {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        if self.stopping.is_cancelled() { Vec::new() } else { self.lines.line(line) }
    }

    fn event(&mut self, line: &str) -> Vec<EventKind> {
        if self.stopping.is_cancelled() { Vec::new() } else { self.lines.event(line) }
    }

    fn progress(&mut self) -> Option<EventKind> {
        self.lines.progress()
    }

    fn status(&self) -> Option<String> {
        self.lines.status()
    }
}
