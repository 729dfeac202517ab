//! The one module that starts processes, and the one that deletes files.
//!
//! A [`Command`] says all about a child: its words, its whole environment, its user, its log. A
//! [`Runner`] runs it: own process group, output read as bytes by line, redacted, written to the
//! log and offered to a [`Lines`] handler; limits and cancellation; at the end a [`Finished`] that
//! says how it ended. A child that fails is no error here; not being able to start it is.

mod command;
mod interrupt;
mod redact;
mod runner;

pub use command::{Command, Environment, User};
pub use interrupt::{Interrupt, Interrupted};
pub use redact::Redactor;
pub use runner::{End, Finished, Lines, Runner};
