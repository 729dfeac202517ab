//! Runs the tests of a request on a device that answers ssh: one unit for each test.

use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;

use crate::board::SshAddress;
use crate::provider::Attempt;

/// What the console of a device says while its tests run.
pub trait Console: Send + Sync {
    /// A unit starts. What the console said before does not count against it.
    fn begin_unit(&self);

    /// The line that says that the kernel crashed since `begin_unit` (panic, oops, BUG).
    fn crash(&self) -> Option<String>;

    /// The last lines, for the excerpt of a unit that failed.
    fn last_lines(&self) -> Vec<String>;
}

/// Runs the tests of the request in their order. Its units and cases are events of `attempt.runner`. Returns the worst
/// outcome. `console`: that of the device, if the lab has it.
///
/// # Errors
/// The lab host could not do its part. The image is not to blame.
pub async fn run(
    attempt: Attempt<'_>,
    address: &SshAddress,
    console: Option<&dyn Console>,
) -> Result<Outcome> {
    let _ = (attempt, address, console);
    Err(Error::internal("tests on devices do not run yet"))
}
