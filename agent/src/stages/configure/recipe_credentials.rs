//! Credentials for the private sources of recipes: a home directory of the job's own with `.netrc`, which git and wget read.
//! Layer code can read it, too. So only trusted sources get it, and it is removed at the end of the job, and at the start of
//! the next one if the agent was killed.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use crate::config::Settings;
use agent_fs::remove::remove_tree;
use agent_process::User;
use agent_types::error::Result;

use super::build_dir::hand_over;

/// Makes the home directory for layer code, in place of an older one; `None`, if recipes get no credentials.
///
/// # Errors
/// Machine, if it cannot be made.
pub fn make(settings: &Settings, user: Option<&User>) -> Result<Option<PathBuf>> {
    remove(settings)?;
    if settings.recipe_credentials.is_empty() || !settings.cache.trust.is_trusted() {
        return Ok(None);
    }
    let home = settings.paths.recipe_home();
    fs::create_dir_all(&settings.paths.work)?;
    fs::create_dir(&home)?;
    fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700))?;
    let file = home.join(".netrc");
    let mut options = fs::OpenOptions::new();
    let mut written = options.write(true).create_new(true).mode(0o600).open(&file)?;
    written.write_all(netrc(settings).as_bytes())?;
    hand_over(&file, user)?;
    hand_over(&home, user)?;
    Ok(Some(home))
}

/// Removes the credentials.
///
/// # Errors
/// Machine, if they cannot be removed.
pub fn remove(settings: &Settings) -> Result<()> {
    let home = settings.paths.recipe_home();
    match fs::symlink_metadata(&home) {
        Ok(_) => remove_tree(&home, &settings.paths.work),
        Err(_) => Ok(()),
    }
}

fn netrc(settings: &Settings) -> String {
    let line = |(host, user, password): (&str, &str, &str)| {
        format!("machine {host} login {user} password {password}\n")
    };
    let all = settings.recipe_credentials.iter();
    all.map(|one| line((&one.host, &one.user, &one.password.value))).collect()
}
