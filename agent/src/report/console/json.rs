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
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.to.write_all(&line)?;
        self.to.flush()
    }
}
