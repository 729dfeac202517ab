//! What the change under test affects: the difference between the task signatures of its base and of its head.

use crate::config::Settings;
use agent_git::Access;
use agent_process::Runner;
use agent_types::affected::Affected;
use agent_types::error::{Error, Result};

use super::configure::BuildEnvironment;

/// Compares the checkout under test with its base. `dirty`: it has uncommitted changes.
///
/// # Errors
/// When the job is stopped, or the machine cannot do its part.
pub async fn find(
    _settings: &Settings,
    _configured: &BuildEnvironment,
    _runner: &Runner,
    _access: &Access,
    _dirty: bool,
) -> Result<Affected> {
    Err(Error::internal("what a change affects is not known yet"))
}
