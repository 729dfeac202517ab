//! What the checks compare with: the files of the base, and the lines that the change touches.

use std::path::PathBuf;

use crate::config::{Settings, work_tree};
use crate::stages::base_files::{self, Wanted};
use crate::stages::blocking;
use agent_fs::remove::remove_tree;
use agent_git::Access;
use agent_process::Runner;
use agent_types::error::Result;
use agent_yocto::changed_lines::Changes;

/// The base of the change, and what the change touches.
#[derive(Debug)]
pub struct Comparison {
    /// The directory of the base that is the checkout's; otherwise why the base is not known.
    pub base: std::result::Result<PathBuf, String>,
    /// Everything, if the base is not known.
    pub changes: Changes,
}

impl Comparison {
    /// Compares the layers under test. `dirty`: the checkout has uncommitted changes.
    ///
    /// # Errors
    /// When the job is stopped, or the machine cannot do its part.
    pub async fn of(
        settings: &Settings,
        dirty: bool,
        runner: &Runner,
        access: &Access,
    ) -> Result<Comparison> {
        if !settings.check.needs_base() {
            let base = Err("no check compares with it".to_owned());
            return Ok(Comparison { base, changes: Changes::everything() });
        }
        let base = check_out(settings, dirty, runner, access).await?;
        let changes = match &base {
            Ok(root) => {
                let (base, head) = (root.clone(), settings.checkout.clone());
                let layers = layer_directories(settings);
                let compare = move || Ok(Changes::between(&base, &head, &layers));
                blocking(&runner.interrupt, "the change was compared with its base", compare).await?
            }
            Err(why) => {
                let message = format!("all files count as changed: the base is not known ({why})");
                let hint = "name it with --base, or clone with more history";
                runner.events.warn(message, Some(hint.into())).await;
                Changes::everything()
            }
        };
        Ok(Comparison { base, changes })
    }
}

/// The directory of the base that is the checkout's. The inner error is the reason why there is none.
async fn check_out(
    settings: &Settings,
    dirty: bool,
    runner: &Runner,
    access: &Access,
) -> Result<std::result::Result<PathBuf, String>> {
    let top = work_tree(&settings.checkout);
    let inner = settings.checkout.strip_prefix(&top).map(PathBuf::from).unwrap_or_default();
    let (scratch, work) = (settings.paths.base_files(), settings.paths.work.clone());
    let empty = scratch.clone();
    blocking(&runner.interrupt, "the base was checked out", move || {
        remove_tree(&empty, &work)?;
        fs_err::create_dir_all(&empty)?;
        Ok(())
    })
    .await?;
    let wanted = Wanted { top: &top, dirty, scratch: &scratch };
    match base_files::check_out(settings, wanted, runner, access).await {
        // Without a slash at its end, which would belong to a layer's name.
        Ok(files) => Ok(Ok(files.root.join(inner).components().collect())),
        Err(error) if base_files::must_stop(&error) => Err(error),
        Err(error) => Ok(Err(error.message)),
    }
}

/// The layers under test, relative to the checkout.
pub fn layer_directories(settings: &Settings) -> Vec<PathBuf> {
    let inside = settings.layers.iter().filter_map(|layer| layer.strip_prefix(&settings.checkout).ok());
    inside.map(PathBuf::from).collect()
}

/// Writes a file of a layer, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub fn write(root: &std::path::Path, name: &str, text: &str) {
    fs_err::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    fs_err::write(root.join(name), text).unwrap();
}
