//! What the checks compare with: the files of the base, and the lines that the change touches.

use std::path::PathBuf;

use crate::config::{BaseTree, Settings};
use crate::stages::{base_files, blocking};
use agent_git::Access;
use agent_process::Runner;
use agent_types::error::Result;
use agent_yocto::changed_lines::Changes;

/// The base of the change, and what the change touches.
#[derive(Debug)]
pub struct Comparison {
    /// Otherwise why it is not known.
    pub base: std::result::Result<BaseTree, String>,
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
        let base = base_files::check_out(settings, dirty, runner, access).await?;
        let changes = match &base {
            Ok(tree) => {
                let (base, head) = (tree.root.clone(), settings.checkout.clone());
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

/// The layers under test, relative to the checkout.
pub fn layer_directories(settings: &Settings) -> Vec<PathBuf> {
    let inside = settings.layers.iter().filter_map(|layer| layer.strip_prefix(&settings.checkout).ok());
    inside.map(PathBuf::from).collect()
}
