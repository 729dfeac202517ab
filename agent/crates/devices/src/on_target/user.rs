//! The user who runs what a job or a lab brought along, and directories for that user.

use std::path::Path;

use agent_fs::access::{Credentials, Permission};
use agent_process::{User, build_user};
use agent_types::error::{Error, Result};

use crate::provider::Attempt;

/// The build user of the lab; `None`: the lab's own user, who is not root.
///
/// # Errors
/// If the lab is root, and there is no such user.
pub fn test_user(attempt: &Attempt<'_>) -> Result<Option<User>> {
    build_user(attempt.lab.build_user.as_deref(), attempt.work).map_err(|error| {
        error
            .hint("name the user with `build_user` in lab.toml; leave it out if the lab does not run as root")
    })
}

/// Makes an empty directory that belongs to the user.
///
/// # Errors
/// If it cannot be made, or the user cannot reach it.
pub fn user_directory(directory: &Path, user: Option<&User>) -> Result<()> {
    fs_err::create_dir(directory)?;
    let Some(user) = user else { return Ok(()) };
    fs_err::os::unix::fs::chown(directory, Some(user.uid), Some(user.gid))?;
    match Credentials::of(user.uid, user.gid).barrier(directory, Permission::RUN) {
        None => Ok(()),
        Some(barrier) => {
            let message = format!("the user {} cannot reach {}", user.name, directory.display());
            Err(Error::machine(message)
                .hint(format!("let others enter it: `chmod o+x {}`", barrier.path.display())))
        }
    }
}
