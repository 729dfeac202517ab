//! Prints to standard output and standard error, without secrets.
//!
//! Standard output may be a file on a full disk, or a pipe whose reader has ended.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::{PoisonError, RwLock};

use crate::config::Secret;
use agent_process::Redactor;
use agent_types::error::{Error, Result};
use agent_types::sanitize::sanitize;

/// Secrets that are redacted in all printed text, and their redactor.
static SECRETS: RwLock<(Vec<Secret>, Option<Redactor>)> = RwLock::new((Vec::new(), None));

/// Adds secrets to redact from now on.
pub fn hide(secrets: &[Secret]) {
    let mut known = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    known.0.extend_from_slice(secrets);
    known.1 = Some(Redactor::new(&known.0));
}

/// The redactor of all secrets that are known by now.
pub fn redactor() -> Redactor {
    SECRETS.read().unwrap_or_else(PoisonError::into_inner).1.clone().unwrap_or_default()
}

/// Prints a text, redacted.
///
/// # Errors
/// If it cannot be written. A closed pipe (`| head`) is not an error.
pub fn text(text: &str) -> Result<()> {
    raw(&redactor().redact(text))
}

/// The same on standard error.
///
/// # Errors
/// If it cannot be written.
pub fn text_on_stderr(text: &str) -> Result<()> {
    let written = io::stderr().lock().write_all(redactor().redact(text).as_bytes());
    written.map_err(|error| Error::machine("cannot write to standard error").because(&error))
}

/// Prints JSON with its strings redacted.
///
/// # Errors
/// As [`text`].
pub fn json(value: serde_json::Value) -> Result<()> {
    raw(&format!("{:#}\n", redactor().redact_json(value)))
}

/// Prints a text without redaction.
///
/// # Errors
/// As [`text`].
pub fn raw(text: &str) -> Result<()> {
    let mut to = io::stdout().lock();
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::machine("cannot write to standard output").because(&error))
        }
        _ => Ok(()),
    }
}

/// Prints a line, redacted.
///
/// # Errors
/// As [`text`].
pub fn line(line: fmt::Arguments<'_>) -> Result<()> {
    text(&format!("{line}\n"))
}

/// Prints an error or a warning on standard error. It may quote untrusted paths, values and server messages.
/// A failure to write is ignored: it cannot be reported.
pub fn diagnostic(what: fmt::Arguments<'_>) {
    to_stderr(&format!("build-agent: {what}"));
}

/// Prints text on standard error, redacted and without control characters.
pub fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(presentable(text, &redactor()).as_bytes());
}

/// Prints text on standard error as it is.
pub fn raw_to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn presentable(text: &str, redactor: &Redactor) -> String {
    let mut all = String::new();
    for line in redactor.redact(text).lines() {
        all.push_str(&sanitize(line));
        all.push('\n');
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_secrets_and_escape_sequences() {
        let secret = Secret { origin: "test".into(), value: "hunter22".into() };
        let redactor = Redactor::new(&[secret]);
        for (text, wanted) in [
            ("error: `hunt\u{1b}[31mer22` is no name", "error: `[redacted]` is no name\n"),
            ("--set url=https://me:pa\u{1b}[0mss@host: x", "--set url=https://me:[redacted]@host: x\n"),
            ("one\n\u{1b}[31mtwo", "one\ntwo\n"),
        ] {
            assert_eq!(presentable(text, &redactor), wanted);
        }
    }
}
