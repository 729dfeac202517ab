//! devtool's workspace in the build directory: a layer with the recipes that a person works on, and their sources.
//!
//! devtool adds its layer to `bblayers.conf`. Shells and devtool use it. A job does not: its result is that of the
//! manifest. The sources may be nowhere else, so the workspace outlives an emptied build directory, except in CI.

use std::path::{Path, PathBuf};

use fs_err as fs;

use agent_types::error::{Error, Result};

/// The name of the workspace in the build directory.
const NAME: &str = "workspace";

/// Where it is while the build directory is emptied, in the work directory. For each trust in the source there is one:
/// what one leaves must not get into another's builds.
const KEPT: &str = "devtool-workspace";

/// What a person can have changed.
const CONTENT: [&str; 4] = ["appends", "recipes", "sources", "attic"];

/// The end of BBLAYERS as the agent and devtool write it.
const END: &str = "  \"\n";

/// The workspace of a build directory.
#[derive(Clone, Debug)]
pub struct Workspace {
    path: PathBuf,
    kept: PathBuf,
}

impl Workspace {
    /// `trust`: that in the source, in a few words.
    pub fn new(build: &Path, work: &Path, trust: &str) -> Workspace {
        Workspace { path: build.join(NAME), kept: work.join(KEPT).join(trust.replace(' ', "-")) }
    }

    /// Whether this work directory of a job has a workspace with recipes or sources.
    pub fn is_in(work: &Path) -> bool {
        has_entries(&work.join("build").join(NAME), &CONTENT)
            || fs::read_dir(work.join(KEPT)).is_ok_and(|mut kept| kept.next().is_some())
    }

    /// Whether devtool made its layer there.
    pub fn is_layer(&self) -> bool {
        fs::symlink_metadata(self.path.join("conf/layer.conf")).is_ok_and(|meta| meta.is_file())
    }

    /// Whether recipes are in work.
    pub fn has_recipes(&self) -> bool {
        has_entries(&self.path, &["appends", "recipes"])
    }

    /// The notice of a job, which does not use it.
    pub fn unused_notice(&self) -> String {
        format!(
            "the recipes in devtool's workspace {} are not part of this job; `build-agent devtool -- finish RECIPE LAYER` \
             puts them into a layer",
            self.path.display()
        )
    }

    /// The notice that it was kept when the build directory was emptied.
    pub fn kept_notice(&self) -> String {
        format!("the build directory was emptied, except for devtool's workspace {}", self.path.display())
    }

    /// `bblayers.conf` of the agent with this layer, as devtool adds it.
    pub fn with_layer(&self, bblayers: &str) -> String {
        match bblayers.strip_suffix(END) {
            Some(start) => format!("{start}{}{END}", self.line()),
            None => bblayers.to_owned(),
        }
    }

    /// `bblayers.conf` without this layer; `None` if it is not the last one.
    pub fn without_layer(&self, bblayers: &str) -> Option<String> {
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
        if !has_entries(&self.path, &CONTENT) {
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
        if let Some(parent) = self.kept.parent() {
            fs::create_dir_all(parent)?;
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

fn has_entries(workspace: &Path, directories: &[&str]) -> bool {
    let has = |name: &&str| {
        let directory = workspace.join(name);
        let is_directory = fs::symlink_metadata(&directory).is_ok_and(|meta| meta.is_dir());
        is_directory && fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
    };
    directories.iter().any(has)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use agent_yocto::conf;

    #[test]
    fn the_layer_is_added_as_devtool_does_and_removed_again() {
        let workspace = Workspace::new(Path::new("/w/build"), Path::new("/w"), "untrusted");
        let layers: Vec<PathBuf> = vec!["/r/poky/meta".into(), "/src/meta-x".into()];
        let plain = conf::bblayers(&layers).unwrap();
        let with: Vec<PathBuf> = [layers, vec!["/w/build/workspace".into()]].concat();
        let with = conf::bblayers(&with).unwrap();
        assert_eq!(workspace.with_layer(&plain), with);
        assert_eq!(workspace.without_layer(&with), Some(plain.clone()));
        assert_eq!(workspace.without_layer(&plain), None);
        assert_eq!(workspace.without_layer("BBLAYERS = \"\"\n"), None);
    }
}
