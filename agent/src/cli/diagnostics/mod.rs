//! Diagnostics for whoever looks for a fault in the agent or in what it talks to: the one place that sets up a
//! `tracing` subscriber.
//!
//! Events (`agent_types::events`) tell users what a job does, and every report is made of them. Diagnostics tell how
//! the agent does it: commands, git and S3 calls, the AWS SDK's own words. Nothing depends on them. They go to
//! `agent.log` and, when asked for, to standard error; a thread for each writes them.

mod filter;
mod layer;
mod log_file;
mod queue;
mod record;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;

use agent_types::error::{Error, Result};

use super::print;
use layer::Capture;
use log_file::LogFile;
use queue::{Queue, Writer};
use record::Record;

/// The variable that sets the filter.
pub use crate::config::LOG_VARIABLE as VARIABLE;

/// For what waits to be written when the program ends.
const LAST: Duration = Duration::from_secs(2);

/// Writes `agent.log`, in commands that have one.
static LOG_FILE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Writes to standard error, when asked for.
static CONSOLE: OnceLock<Arc<Queue>> = OnceLock::new();

/// What is drawn on the terminal that standard error leads to, too.
static SCREEN: RwLock<Option<MultiProgress>> = RwLock::new(None);

/// Checks a filter of the command line.
///
/// # Errors
/// What is wrong with it.
pub fn check_filter(text: &str) -> std::result::Result<String, String> {
    filter::parse(text).map(|_| text.to_owned())
}

/// Starts recording. `flag` is the filter of the command line, `variable` that of [`VARIABLE`]; the flag counts.
/// `has_log` says whether the command writes `agent.log`. To be called once.
///
/// # Errors
/// Usage, when the filter is none.
pub fn start(flag: Option<&str>, variable: Option<&str>, has_log: bool) -> Result<()> {
    let (text, origin) = match flag {
        Some(_) => (flag, "--log-level"),
        None => (variable, VARIABLE),
    };
    let wrong = |what: String| {
        let text = text.unwrap_or_default();
        Error::usage(format!("{origin} `{text}` is not a filter: {what}"))
            .hint("write a level, or a filter such as `info,agent_git=debug`")
    };
    let on_console = text.filter(|text| !filter::is_off(text));
    let no_thread =
        |error: io::Error| Error::machine("cannot start a thread for diagnostics").because(&error);
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    if has_log {
        let filter = filter::at_least_info(text).map_err(wrong)?;
        let queue = Queue::start(LogFile::new(print::redactor)).map_err(no_thread)?;
        let queue = LOG_FILE.get_or_init(|| queue).clone();
        layers.push(Capture { queue }.with_filter(filter).boxed());
    }
    if let Some(text) = on_console {
        let filter = filter::chosen(text).map_err(wrong)?;
        let queue = Queue::start(Console).map_err(no_thread)?;
        let queue = CONSOLE.get_or_init(|| queue).clone();
        layers.push(Capture { queue }.with_filter(filter).boxed());
    }
    if !layers.is_empty() {
        // It fails when there is one already, and then that one records.
        let _ = tracing_subscriber::registry().with(layers).try_init();
    }
    Ok(())
}

/// What was recorded so far, and what follows, goes to this file.
pub fn write_to(file: fs_err::File) {
    if let Some(queue) = LOG_FILE.get() {
        queue.open(file);
    }
}

/// The screen is cleared while a line is printed where it is drawn.
pub fn print_above(screen: MultiProgress) {
    if io::stderr().is_terminal() {
        *SCREEN.write().unwrap_or_else(PoisonError::into_inner) = Some(screen);
    }
}

/// Writes what is waiting. Nothing is recorded any more.
pub fn finish() {
    let deadline = Instant::now() + LAST;
    let endings: Vec<_> = [&LOG_FILE, &CONSOLE].iter().filter_map(|queue| Some(queue.get()?.end())).collect();
    endings.into_iter().for_each(|ending| ending.wait(deadline));
}

/// Standard error.
struct Console;

impl Writer for Console {
    fn write(&mut self, record: &Record) {
        let line = record.text(&print::redactor());
        // Nobody can be told when it cannot be written.
        let print = || drop(io::stderr().lock().write_all(line.as_bytes()));
        match SCREEN.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(screen) => screen.suspend(print),
            None => print(),
        }
    }

    fn dropped(&mut self, count: u64) {
        let message = format!("{count} records were dropped: they came faster than they could be printed");
        self.write(&Record::own(tracing::Level::WARN, message));
    }
}
