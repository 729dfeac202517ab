//! Recognizes secrets by the name of a variable and by their form in a text.
//!
//! `Redactor` of the crate `process` hides known values. This module finds unknown ones: a password in a URL
//! on the command line, a token in a query, a header in a server's answer.

mod escapes;
mod forms;
mod names;

pub use escapes::{Stripper, strip, strip_quoted};
pub use forms::{redact, values, values_of_word};
pub use names::{is_secret, webhook_parts};

/// The replacement for a secret.
pub const REPLACEMENT: &str = "[redacted]";
