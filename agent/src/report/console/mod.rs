//! What people see while a job runs and when it ends.

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

pub use final_summary::final_summary;
pub use format::Style;
pub(super) use format::finding_line;
pub use json::Json;
pub use output_timeout::with_output_timeout;
pub use plain::Plain;
pub use threaded_sink::ThreadedSink;
pub use tty::Terminal;
