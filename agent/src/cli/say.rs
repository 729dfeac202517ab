//! What commands print: standard output may be a full disk or a pipe that nobody reads any more.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use agent_types::error::{Error, Result};
use agent_types::safe::harmless;

/// Prints a whole text.
///
/// # Errors
/// When it cannot be written. A reader who has had enough (`| head`) is no error.
pub fn text(text: &str) -> Result<()> {
    let mut to = io::stdout().lock();
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::machine("standard output cannot be written").because(&error))
        }
        _ => Ok(()),
    }
}

/// Prints a line.
///
/// # Errors
/// As [`text`].
pub fn line(line: fmt::Arguments<'_>) -> Result<()> {
    text(&format!("{line}\n"))
}

/// Tells what is wrong, on standard error. Paths, values and words of servers in it are other
/// people's text. Nobody can be told when it cannot be written.
pub fn complaint(what: fmt::Arguments<'_>) {
    let mut all = String::new();
    for line in format!("build-agent: {what}").lines() {
        all.push_str(&harmless(line));
        all.push('\n');
    }
    let _ = io::stderr().lock().write_all(all.as_bytes());
}
