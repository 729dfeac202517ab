//! `--output json`: the events as they come, one a line.

use std::io::{self, Write};

use crate::report::sink::Sink;
use agent_types::events::Event;

pub struct Json<W> {
    to: W,
}

impl<W: Write + Send> Json<W> {
    pub fn new(to: W) -> Json<W> {
        Json { to }
    }
}

impl<W: Write + Send> Sink for Json<W> {
    fn name(&self) -> &'static str {
        "the JSON output"
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        // The older form of a command for a log service may be anywhere in a line. In JSON it can only be in a text.
        let line =
            serde_json::to_string(event)?.replace("##[", "#\\u0023[").replace("##vso[", "#\\u0023vso[");
        writeln!(self.to, "{line}")?;
        self.to.flush()
    }
}
