//! Whether free disk space is so short that builds delete their work directories.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::config::Settings;
use crate::stages::blocking;
use agent_process::Runner;
use agent_types::error::Result;
use agent_yocto::conf::SPACE_TO_BUILD;

/// Checks the free space of the work directory if the job builds something, and reports if it is short.
///
/// # Errors
/// When the job is stopped.
pub async fn is_short(settings: &Settings, runner: &Runner) -> Result<bool> {
    if !super::builds(settings) {
        return Ok(false);
    }
    let work = settings.paths.work.clone();
    let look = move || Ok(free_bytes(&work));
    let Some(free) = blocking(&runner.interrupt, "the free disk space was read", look).await? else {
        return Ok(false);
    };
    if free >= SPACE_TO_BUILD {
        return Ok(false);
    }
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let message = format!(
        "{:.0} GB are free in {}, less than the {:.0} GB that a build of an image needs: builds delete the work \
         directories of finished recipes (rm_work)",
        gb(free),
        settings.paths.work.display(),
        gb(SPACE_TO_BUILD)
    );
    runner.events.info(message).await;
    Ok(true)
}

/// Free for other users than root, on the file system of the directory or of its nearest parent.
pub fn free_bytes(directory: &Path) -> Option<u64> {
    let existing: PathBuf = directory.ancestors().find(|path| path.exists())?.to_owned();
    let found = statvfs(&existing).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_made_yet_has_the_space_of_its_parent() {
        let there = free_bytes(Path::new("/proc"));
        assert_eq!(free_bytes(Path::new("/proc/not/made/yet")), there);
        assert!(free_bytes(&std::env::temp_dir()).is_some());
    }
}
