//! Checks who could have changed an entry.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fs_err as fs;
use nix::unistd::{getegid, geteuid};

use agent_process::User;

use super::Entry;

/// Whether layer code can write an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnershipCheck {
    /// Only the agent's user can, or another user that runs no layer code.
    Kept,
    /// Layer code could have written or replaced it.
    Open {
        /// For people.
        why: String,
    },
}

/// Checks owners and modes of the entry and of the directories above it.
///
/// `layer_user` runs layer code; `None`: the agent's user does.
///
/// # Errors
/// If something is missing or not a directory.
pub fn check_ownership(entry: &Entry, layer_user: Option<&User>) -> std::io::Result<OwnershipCheck> {
    let (uid, gid) = match layer_user {
        Some(user) => (user.uid, user.gid),
        None => (geteuid().as_raw(), getegid().as_raw()),
    };
    let tree = entry.tree();
    for path in [&entry.root, &entry.home(), &entry.directory(), &tree, &tree.join(".git")] {
        if let Some(why) = open_to(path, uid, gid)? {
            return Ok(OwnershipCheck::Open { why });
        }
    }
    Ok(OwnershipCheck::Kept)
}

fn open_to(path: &Path, uid: u32, gid: u32) -> std::io::Result<Option<String>> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(std::io::Error::other(format!("`{}` is not a directory", path.display())));
    }
    let shown = path.display();
    Ok(if found.uid() == uid {
        Some(format!("`{shown}` belongs to uid {uid}, which runs layer code"))
    } else if found.mode() & 0o002 != 0 || (found.mode() & 0o020 != 0 && found.gid() == gid) {
        Some(format!("`{shown}` is writable for layer code (mode {:04o})", found.mode() & 0o7777))
    } else {
        None
    })
}
