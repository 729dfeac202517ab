//! How secrets are recognized: by the name of the variable that holds one, and by their form in a text.
//!
//! Whoever knows a secret's value hides that value (`Redactor` of the crate `process`). This module is for what nobody has
//! announced: a password in an address on the command line, a token in a query, a header in a server's answer.

mod escapes;
mod forms;
mod names;

pub use escapes::{Stripper, strip, strip_quoted};
pub use forms::{redact, values, values_of_word};
pub use names::{is_secret, webhook_parts};

/// Stands in the place of a secret.
pub const REPLACEMENT: &str = "[redacted]";
