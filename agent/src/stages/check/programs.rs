//! Finds the programs of checks that neither BitBake nor OE-Core brings.

use std::path::PathBuf;

use crate::config::Settings;
use agent_types::error::{Error, Result};
use agent_yocto::environment::HOST_PATH;

/// The program in the agent's own PATH, or in that of BitBake. `install`: how to get it.
///
/// # Errors
/// Machine, if it is not installed.
pub fn find(settings: &Settings, program: &str, install: &str) -> Result<PathBuf> {
    let own = settings.program_path.as_deref().unwrap_or_default();
    let directories = std::env::split_paths(own).chain(std::env::split_paths(HOST_PATH));
    let found =
        directories.filter(|directory| directory.is_absolute()).map(|directory| directory.join(program));
    found
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Error::machine(format!("`{program}` is not installed")).hint(install))
}
