//! What an agent that was killed in this work directory left running.

use std::path::PathBuf;

use crate::config::Settings;
use crate::stages;
use crate::stages::configure::remove_recipe_credentials;
use agent_process::Runner;
use agent_types::error::{Error, Result};
use agent_yocto::server::{Stopped, stop_server_apart};

/// Ends it, so that it does not write where this job writes: first the commands, whose marker tells
/// whose they are, then the BitBake servers, which have none, by their lock files, and last whoever else is in
/// the killed agent's control group.
///
/// # Errors
/// When something of it cannot be ended.
pub async fn end_leftovers(settings: &Settings, runner: &Runner) -> Result<()> {
    // Those of an agent that was killed.
    remove_recipe_credentials(settings)?;
    let work = &settings.paths.work;
    let grace = settings.limits.grace;
    let mut orphans = agent_process::end_orphans(work, grace, &runner.interrupt).await;
    let mut ended = std::mem::take(&mut orphans.ended);
    // Without a build user nothing of his can run, and the configure stage says what is wrong.
    if let Ok(user) = agent_process::build_user(settings.build_user.as_deref(), &settings.checkout) {
        for (directory, known_as) in build_directories(settings) {
            match stop_server_apart(&directory, &known_as, user.as_ref(), grace).await? {
                Stopped::Ended { pid } | Stopped::Killed { pid } => {
                    ended.push(format!("BitBake's server (pid {pid})"));
                }
                Stopped::NotRunning | Stopped::NotOurs(_) => {}
            }
        }
    }
    let group = agent_process::end_orphan_group(work).await;
    ended.extend(group.ended);
    orphans.still_there.extend(group.still_there);
    if !ended.is_empty() {
        let message = format!("an earlier job was killed here and left running: {}; ended", ended.join(", "));
        runner.events.warn(message, None).await;
    }
    let inside = work.clone();
    let retry = move || agent_fs::remove::retry_set_aside(&inside);
    for left in stages::blocking(&runner.interrupt, "leftovers of earlier jobs were deleted", retry).await? {
        let hint = "an earlier job left it; it only takes disk space";
        runner.events.warn(left.to_string().replace('\n', " "), Some(hint.into())).await;
    }
    if orphans.still_there.is_empty() {
        return Ok(());
    }
    let message = format!(
        "an earlier job was killed in `{}`, and what it left running cannot be ended: {}",
        work.display(),
        orphans.still_there.join(", ")
    );
    Err(Error::machine(message).hint("end them as root, or give this job another place with --work-dir"))
}

/// All that jobs make (see [`crate::config::Paths`]), and the paths by which BitBake knows them.
fn build_directories(settings: &Settings) -> Vec<(PathBuf, PathBuf)> {
    let below = |directory: PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let own = [settings.paths.build(), settings.paths.dependencies()];
    let mut directories = own.map(|directory| (directory.clone(), directory)).to_vec();
    for check in below(settings.paths.work.join("check")) {
        directories.push((check.path(), check.path()));
        let scratch_dirs = below(settings.paths.work.join("ahead").join(check.file_name()));
        directories.extend(scratch_dirs.map(|scratch_dir| (scratch_dir.path(), check.path())));
    }
    directories
}
