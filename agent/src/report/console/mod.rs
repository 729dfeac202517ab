//! What people see while a job runs and when it ends.

mod affected;
mod echo;
mod failures;
mod final_summary;
mod format;
mod json;
mod output_timeout;
mod plain;
mod progress;
mod steps;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod threaded_sink;
mod tty;

pub(super) use failures::{Failure, failures};
pub(super) use final_summary::{bare_verdict, job_name, plain_verdict};
pub use final_summary::{final_summary, shell_word};
pub use format::{Style, duration};
pub(super) use format::{finding_line, level_word, short_commit};
pub use json::Json;
pub use output_timeout::with_output_timeout;
pub use plain::Plain;
pub(super) use progress::JobProgress;
pub use threaded_sink::ThreadedSink;
pub use tty::Terminal;
