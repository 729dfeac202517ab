//! Buildtools: an installer of host tools that the manifest names, and the environment that its tools need.
//!
//! The installer is code of the manifest, like the code of a layer: it runs as the build user, with the environment of
//! layer code. It is downloaded and installed once for each checksum. Its tools know their directory, so they cannot be
//! moved: a file next to the directory says that it is complete.

mod download;
mod environment;
mod installation;
mod prune;
mod seal;
mod variables;

use std::path::Path;

use crate::config::Settings;
use agent_fs::remove::remove_tree;
use agent_process::Runner;
use agent_types::error::Result;
use agent_yocto::environment::HostTools;

use super::empty_scratch;
use crate::stages::blocking;
use installation::Installation;

pub use installation::{Lease, Users};
pub use prune::{PrunedBuildtools, prune};

/// The host tools of the job. Buildtools stay installed while the lease exists.
///
/// # Errors
/// Upstream, if the installer cannot be downloaded; usage, if it is another one than the manifest says, or none; machine,
/// if it does not run here.
pub async fn host_tools(
    settings: &Settings,
    users: Users<'_>,
    network: &[(String, String)],
    runner: &Runner,
) -> Result<(HostTools, Option<Lease>)> {
    let Some(buildtools) = &settings.buildtools else { return Ok((HostTools::default(), None)) };
    let scratch = settings.paths.buildtools_scratch();
    empty_scratch(settings, &scratch, users.user, runner).await?;
    let installation = Installation::new(settings.paths.buildtools(), buildtools);
    let lease = loop {
        if let Some(lease) = installation.lease(runner).await? {
            break lease;
        }
        installation.install(users, &scratch, runner).await?;
    };
    let tools = environment::environment(&installation, &scratch, users, network, runner).await?;
    remove_scratch(&scratch, settings, runner).await?;
    let name = &installation.directory;
    runner
        .events
        .info(format!("BitBake runs with the buildtools {} in {}", buildtools.url, name.display()))
        .await;
    Ok((tools, Some(lease)))
}

async fn remove_scratch(scratch: &Path, settings: &Settings, runner: &Runner) -> Result<()> {
    let (dir, work) = (scratch.to_owned(), settings.paths.work.clone());
    blocking(&runner.interrupt, "a directory was deleted", move || remove_tree(&dir, &work)).await
}
