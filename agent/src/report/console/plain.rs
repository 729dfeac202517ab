//! The console of CodeBuild and of pipes: whole lines, one for each finished step.

use std::io::{self, Write};

use crate::report::recorder::Sink;
use agent_types::events::{Event, What};

use super::steps::Steps;
use super::words::{Paint, duration};
use agent_types::safe::safe;

/// Writes lines; never a carriage return, never the same line twice to show progress.
pub struct Plain<W> {
    to: W,
    steps: Steps,
}

impl<W: Write + Send> Plain<W> {
    pub fn new(to: W, paint: Paint) -> Plain<W> {
        Plain { to, steps: Steps::new(paint) }
    }
}

impl<W: Write + Send> Sink for Plain<W> {
    fn name(&self) -> &'static str {
        "the console"
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let mut lines = self.steps.lines(event);
        if let What::Heartbeat { silent_seconds, running } = &event.what {
            let silent = duration(*silent_seconds as f64);
            lines.push(
                self.steps.stamped(event, &format!("still running, silent for {silent}: {}", safe(running))),
            );
        }
        for line in lines {
            writeln!(self.to, "{line}")?;
        }
        self.to.flush()
    }
}
