//! Removes old entries from a local store.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;

use agent_fs::remove::{remove_file, remove_tree};
use agent_types::error::{Error, Result};

use super::{USED, is_commit, staging_entry};

/// Removes the entries of a local store that were not used for `age`, and returns their number. A use is
/// marked once a day, so `age` should be several days.
///
/// Continues after failures.
///
/// # Errors
/// The first entry that could not be removed.
pub fn expire(root: &Path, age: Duration, now: SystemTime) -> Result<usize> {
    let Some(before) = now.checked_sub(age) else { return Ok(0) };
    let mut removed = 0;
    let mut first: Option<Error> = None;
    for home in directories(root) {
        if let Err(error) = staging_entry::sweep(&home) {
            first.get_or_insert(error);
        }
        for entry in directories(&home) {
            let Some(commit) =
                entry.file_name().and_then(|name| name.to_str()).filter(|name| is_commit(name))
            else {
                continue;
            };
            match expire_one(root, &home, commit, before) {
                Ok(done) => removed += usize::from(done),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
    }
    first.map_or(Ok(removed), Err)
}

fn expire_one(root: &Path, home: &Path, commit: &str, before: SystemTime) -> Result<bool> {
    let directory = home.join(commit);
    let used = home.join(format!("{commit}{USED}"));
    let time = |path: &Path| fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
    let last = time(&used).or_else(|| time(&directory));
    if last.is_none_or(|last| last >= before) {
        return Ok(false);
    }
    let aside = staging_entry::fresh_path(home, commit);
    fs::rename(&directory, &aside)?;
    for beside in [used, home.join(format!("{commit}.json"))] {
        remove_file(&beside, root)?;
    }
    remove_tree(&aside, root)?;
    Ok(true)
}

/// The directories in a directory, without links.
fn directories(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}
