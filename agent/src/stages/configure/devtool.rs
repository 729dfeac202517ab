//! devtool's workspace in the build directory: a layer with the recipes that a person works on, and their sources.
//!
//! devtool adds its layer to `bblayers.conf`. Shells and devtool use it. A job does not: its result is that of the
//! manifest. The sources may be nowhere else, so the workspace outlives an emptied build directory, except in CI.

use std::path::{Path, PathBuf};

use fs_err as fs;

use agent_types::error::{Error, Result};

/// The name of the workspace in the build directory.
const NAME: &str = "workspace";

/// Where it is while the build directory is emptied, below the work directory.
const KEPT: &str = "devtool-workspace";

/// The end of BBLAYERS as the agent and devtool write it.
const END: &str = "  \"\n";

/// The workspace of a build directory.
#[derive(Clone, Debug)]
pub struct Workspace {
    path: PathBuf,
    kept: PathBuf,
}

impl Workspace {
    pub fn new(build: &Path, work: &Path) -> Workspace {
        Workspace { path: build.join(NAME), kept: work.join(KEPT) }
    }

    /// Whether devtool made its layer there.
    pub fn is_layer(&self) -> bool {
        fs::symlink_metadata(self.path.join("conf/layer.conf")).is_ok_and(|meta| meta.is_file())
    }

    /// Whether recipes are in work.
    pub fn has_recipes(&self) -> bool {
        self.has_entries(&["appends", "recipes"])
    }

    fn has_entries(&self, directories: &[&str]) -> bool {
        let has = |name: &&str| {
            let directory = self.path.join(name);
            let is_directory = fs::symlink_metadata(&directory).is_ok_and(|meta| meta.is_dir());
            is_directory && fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
        };
        directories.iter().any(has)
    }

    /// What a job has to say about it.
    pub fn notice(&self) -> String {
        format!(
            "the recipes in devtool's workspace {} are not part of this job; `build-agent devtool -- finish RECIPE LAYER` \
             puts them into a layer",
            self.path.display()
        )
    }

    /// What there is to say when the build directory was emptied around it.
    pub fn stays(&self) -> String {
        format!("the build directory was emptied, except for devtool's workspace {}", self.path.display())
    }

    /// `bblayers.conf` of the agent with this layer, as devtool adds it.
    pub fn added(&self, bblayers: &str) -> String {
        match bblayers.strip_suffix(END) {
            Some(start) => format!("{start}{}{END}", self.line()),
            None => bblayers.to_owned(),
        }
    }

    /// `bblayers.conf` without this layer; `None` if it is not the last one.
    pub fn removed(&self, bblayers: &str) -> Option<String> {
        let start = bblayers.strip_suffix(END)?.strip_suffix(&self.line())?;
        Some(format!("{start}{END}"))
    }

    fn line(&self) -> String {
        format!("  {} \\\n", self.path.display())
    }

    /// Moves it out of the build directory, which is about to be emptied. `why_foreign`: why this job cannot keep what
    /// is there.
    ///
    /// # Errors
    /// If it cannot be moved, or if it has something and this job cannot keep it.
    pub fn save(&self, why_foreign: Option<&str>) -> Result<()> {
        if !self.has_entries(&["appends", "recipes", "sources", "attic"]) {
            return Ok(());
        }
        if let Some(why) = why_foreign {
            let path = self.path.display();
            let message = format!(
                "the build directory has to be emptied ({why}), but devtool's workspace {path} may have changes that \
                 are nowhere else"
            );
            return Err(Error::usage(message).hint("move it or delete it, and repeat the command"));
        }
        if fs::symlink_metadata(&self.kept).is_ok() {
            let message = format!(
                "both {} and {} are workspaces of devtool, and the build directory has room for one",
                self.path.display(),
                self.kept.display()
            );
            return Err(Error::usage(message).hint("move one of them, and repeat the command"));
        }
        Ok(fs::rename(&self.path, &self.kept)?)
    }

    /// Moves it back; whether there is one.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn restore(&self) -> Result<bool> {
        if fs::symlink_metadata(&self.kept).is_err() {
            return Ok(false);
        }
        fs::rename(&self.kept, &self.path)?;
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use agent_yocto::conf;

    #[test]
    fn the_layer_is_added_as_devtool_does_and_removed_again() {
        let workspace = Workspace::new(Path::new("/w/build"), Path::new("/w"));
        let layers: Vec<PathBuf> = vec!["/r/poky/meta".into(), "/src/meta-x".into()];
        let plain = conf::bblayers(&layers).unwrap();
        let with: Vec<PathBuf> = [layers, vec!["/w/build/workspace".into()]].concat();
        let with = conf::bblayers(&with).unwrap();
        assert_eq!(workspace.added(&plain), with);
        assert_eq!(workspace.removed(&with), Some(plain.clone()));
        assert_eq!(workspace.removed(&plain), None);
        assert_eq!(workspace.removed("BBLAYERS = \"\"\n"), None);
    }
}
