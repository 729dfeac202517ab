//! What commands print: standard output may be a full disk or a pipe that nobody reads any more.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::{PoisonError, RwLock};

use crate::config::Secret;
use agent_process::Redactor;
use agent_types::error::{Error, Result};
use agent_types::sanitize::sanitize;

/// What is hidden in all that is printed here.
static HIDDEN: RwLock<(Vec<Secret>, Option<Redactor>)> = RwLock::new((Vec::new(), None));

/// Hides these secrets, too, from now on.
pub fn hide(secrets: &[Secret]) {
    let mut hidden = HIDDEN.write().unwrap_or_else(PoisonError::into_inner);
    hidden.0.extend_from_slice(secrets);
    hidden.1 = Some(Redactor::new(&hidden.0));
}

/// Hides all secrets that are known by now.
pub fn redactor() -> Redactor {
    HIDDEN.read().unwrap_or_else(PoisonError::into_inner).1.clone().unwrap_or_default()
}

/// Prints a whole text, without secrets.
///
/// # Errors
/// When it cannot be written. A reader who has had enough (`| head`) is no error.
pub fn text(text: &str) -> Result<()> {
    raw(&redactor().redact(text))
}

/// Prints JSON, without secrets in its texts.
///
/// # Errors
/// As [`text`].
pub fn json(value: serde_json::Value) -> Result<()> {
    raw(&format!("{:#}\n", redactor().redact_json(value)))
}

/// Prints a text that holds no secret, as it is.
///
/// # Errors
/// As [`text`].
pub fn raw(text: &str) -> Result<()> {
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
    words(&format!("build-agent: {what}"));
}

/// Prints a message on standard error as it is, but for secrets and what a terminal would act on.
pub fn words(text: &str) {
    let _ = io::stderr().lock().write_all(presentable(text, &redactor()).as_bytes());
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
    fn messages_hold_neither_secrets_nor_escape_sequences() {
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
