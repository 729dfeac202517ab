//! The console of CodeBuild and of pipes: whole lines, one for each finished step.

use std::io::{self, Write};

use crate::report::sink::Sink;
use agent_types::events::{Event, EventKind};

use super::format::{Style, duration};
use super::steps::Steps;
use agent_types::sanitize::sanitize_line;

/// Writes lines; never a carriage return, never the same line twice to show progress.
pub struct Plain<W> {
    to: W,
    steps: Steps,
}

impl<W: Write + Send> Plain<W> {
    pub fn new(to: W, style: Style) -> Plain<W> {
        Plain { to, steps: Steps::new(style) }
    }
}

impl<W: Write + Send> Sink for Plain<W> {
    fn name(&self) -> &'static str {
        "the console"
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let mut lines = self.steps.lines(event);
        if let EventKind::Heartbeat { silent_seconds, running } = &event.what {
            let silent = duration(*silent_seconds as f64);
            lines.push(
                self.steps.stamped(
                    event,
                    &format!("still running, silent for {silent}: {}", sanitize_line(running)),
                ),
            );
        }
        for line in lines {
            writeln!(self.to, "{line}")?;
        }
        self.to.flush()
    }
}
