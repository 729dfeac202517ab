//! What people see while a job runs and when it ends.

mod apart;
mod closing;
mod failures;
mod json;
mod patience;
mod plain;
mod steps;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod tty;
mod words;

pub use apart::Apart;
pub use closing::closing;
pub use json::Json;
pub use patience::patiently;
pub use plain::Plain;
pub(super) use steps::finding_line;
pub use tty::Terminal;
pub use words::Paint;
