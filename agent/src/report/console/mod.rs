//! What people see while a job runs and when it ends.

mod apart;
mod closing;
mod failures;
mod json;
mod plain;
mod safe;
mod steps;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod tty;
mod words;

pub use apart::Apart;
pub use closing::closing;
pub use json::Json;
pub use plain::Plain;
pub(super) use safe::clean;
pub use safe::safe;
pub(super) use steps::finding_line;
pub use stream::{complain, print, print_unless_stopped};
pub use tty::Terminal;
pub use words::Paint;
