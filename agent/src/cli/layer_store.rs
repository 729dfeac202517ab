//! The store of layer checkouts for repositories that are needed before the job has settings.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::config::{self, AgentEnvironment, Request};
use agent_types::error::Result;

use super::current_dir::current_dir;

/// The store that the job uses: that of the shared caches or, if it cannot be written, the one next to the work
/// directories.
///
/// # Errors
/// If neither is configured.
pub fn layer_store(request: &Request, environment: &AgentEnvironment) -> Result<PathBuf> {
    let [shared, own] = config::layer_stores(request.work_dir.as_deref(), environment, &current_dir()?)?;
    Ok(if is_writable(&shared) { shared } else { own })
}

fn is_writable(store: &Path) -> bool {
    fs_err::create_dir_all(store).is_ok() && access(store, AccessFlags::W_OK).is_ok()
}
