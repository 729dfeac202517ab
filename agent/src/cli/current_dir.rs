//! The directory that the agent was started in.

use std::path::PathBuf;

use agent_types::error::{Error, Result};

use crate::config;

/// The current directory; all relative paths of the command line start there.
///
/// # Errors
/// Machine, if it was removed or is not readable; usage, if it is not UTF-8.
pub fn current_dir() -> Result<PathBuf> {
    let directory = std::env::current_dir()
        .map_err(|error| Error::machine("cannot find the current directory").because(&error))?;
    config::is_text("the current directory", &directory)?;
    Ok(directory)
}
