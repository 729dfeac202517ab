//! `events.jsonl`: one event a line, each on disk as soon as it happened, so that a job that was
//! killed can still be told.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::events::{Event, SCHEMA, What};

use super::output;
use super::recorder::Sink;

/// Writes the file.
pub struct EventsFile {
    file: fs_err::File,
}

impl EventsFile {
    pub const NAME: &str = "events.jsonl";

    /// Begins a new file in the output directory; that of an earlier job is gone then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(out: &Path) -> Result<EventsFile> {
        Ok(EventsFile { file: output::create(&out.join(Self::NAME))? })
    }
}

impl Sink for EventsFile {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn event(&mut self, event: &Event) -> std::io::Result<()> {
        // Progress is worth nothing a second later, and there is much of it.
        if matches!(event.what, What::Progress { .. }) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        // One write for each line, without a buffer: a killed agent tears at most the last one.
        self.file.write_all(&line)
    }
}

/// The last line of a file whose writer was killed in the middle of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Counts from 1.
    pub line: u64,
    /// Of the remains.
    pub bytes: usize,
}

/// Reads the file from its start and hands over one event after the other.
///
/// # Errors
/// When the file cannot be read, is no event file, is of another layout, or is damaged before its
/// last line.
pub fn read(path: &Path, mut each: impl FnMut(&Event)) -> Result<Option<Torn>> {
    let mut reader = BufReader::new(fs_err::File::open(path)?);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return match number {
                1 => Err(Error::usage(format!("{}: empty", path.display()))
                    .hint("the agent was killed before its first event; the job has to run again")),
                _ => Ok(None),
            };
        }
        let whole = line.ends_with(b"\n");
        match parse(&line, number == 1) {
            Ok(event) => each(&event),
            Err(Bad::Json(_)) if !whole && number > 1 => {
                return Ok(Some(Torn { line: number, bytes: line.len() }));
            }
            Err(bad) => return Err(bad.at(path, number)),
        }
    }
    Ok(None)
}

/// What is wrong with a line.
enum Bad {
    Json(serde_json::Error),
    NoHead,
    Schema(String),
    Event(String, serde_json::Error),
}

fn parse(line: &[u8], first: bool) -> Result<Event, Bad> {
    let value: Value = serde_json::from_slice(line).map_err(Bad::Json)?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, schema) = (text("event"), text("schema"));
    if first && kind != "job-started" {
        return Err(Bad::NoHead);
    }
    if first && schema != SCHEMA {
        return Err(Bad::Schema(schema));
    }
    serde_json::from_value(value).map_err(|error| Bad::Event(kind, error))
}

impl Bad {
    fn at(self, path: &Path, line: u64) -> Error {
        let place = format!("{}:{line}", path.display());
        let this = env!("CARGO_PKG_VERSION");
        match self {
            Bad::Json(error) => Error::usage(format!("{place}: this is not a line of JSON"))
                .because(&error)
                .hint("the file is damaged; name an events.jsonl as build-agent has written it"),
            Bad::NoHead => Error::usage(format!("{place}: the first event is not `job-started`"))
                .hint("name an events.jsonl or a result.json that build-agent has written"),
            Bad::Schema(schema) => Error::usage(format!(
                "{place}: its schema is `{schema}`, and this build-agent {this} reads `{SCHEMA}`"
            ))
            .hint("use the build-agent that wrote it, or a newer one"),
            Bad::Event(kind, error) => Error::usage(format!(
                "{place}: build-agent {this} does not understand this `{kind}` event"
            ))
            .because(&error)
            .hint(format!(
                "a newer build-agent with the same schema `{SCHEMA}` wrote it, or the line is damaged; \
                         use the version that the first line names"
            )),
        }
    }
}
