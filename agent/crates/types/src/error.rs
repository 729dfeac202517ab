//! Errors of the agent or the machine. A failing layer is not an error but an
//! [`Outcome`](crate::outcome::Outcome).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::outcome::ExitStatus;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error; decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The manifest or the command line is wrong.
    Usage,
    /// This machine is not ready: user, tools, locale, disk, permissions.
    Machine,
    /// A git server, a mirror or AWS failed.
    Upstream,
    /// The job's time limit was reached.
    OutOfTime,
    /// The agent has a bug, or its data is inconsistent.
    Internal,
    /// A signal stopped it.
    Cancelled,
}

impl Class {
    pub const fn exit_status(self) -> ExitStatus {
        match self {
            Class::Usage => ExitStatus::Usage,
            Class::Machine => ExitStatus::Machine,
            Class::Upstream => ExitStatus::Upstream,
            Class::OutOfTime => ExitStatus::OutOfTime,
            Class::Internal => ExitStatus::Internal,
            Class::Cancelled => ExitStatus::Cancelled,
        }
    }

    /// The class of the error that ends with this exit status; `None` for a verdict on the layer.
    pub const fn of(exit: ExitStatus) -> Option<Class> {
        match exit {
            ExitStatus::Passed | ExitStatus::Failed => None,
            ExitStatus::Usage => Some(Class::Usage),
            ExitStatus::Machine => Some(Class::Machine),
            ExitStatus::Upstream => Some(Class::Upstream),
            ExitStatus::OutOfTime => Some(Class::OutOfTime),
            ExitStatus::Internal => Some(Class::Internal),
            ExitStatus::Cancelled => Some(Class::Cancelled),
        }
    }
}

/// An error: what happened, why, and what to do next.
///
/// `message` is a lower-case fragment that names the path, command or key. `causes` are the underlying
/// errors, outermost first. `hint` is one sentence about what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub class: Class,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Error {
    pub fn new(class: Class, message: impl Into<String>) -> Error {
        Error { class, message: message.into(), causes: Vec::new(), hint: None }
    }

    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Class::Usage, message)
    }

    pub fn machine(message: impl Into<String>) -> Error {
        Error::new(Class::Machine, message)
    }

    pub fn upstream(message: impl Into<String>) -> Error {
        Error::new(Class::Upstream, message)
    }

    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Class::Internal, message)
    }

    /// Adds the cause and all its sources.
    pub fn because(mut self, cause: &(dyn std::error::Error + 'static)) -> Error {
        let mut next = Some(cause);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many crates repeat the source in their message; show it once.
            if self.causes.last().is_none_or(|last| !last.contains(&text)) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, "\n  because: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// I/O errors are errors of the machine; `fs_err` has put the path into the message.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        let error_ref: &(dyn std::error::Error + 'static) = &error;
        let mut made = Error::machine(error.to_string());
        if let Some(source) = error_ref.source() {
            made = made.because(source);
        }
        made
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn shows_each_cause_once_and_the_hint_last() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::machine("cannot write `/x`").because(&io).because(&io).hint("buy a disk");
        assert_eq!(error.to_string(), "cannot write `/x`\n  because: disk on fire\n  hint: buy a disk");
    }
}
