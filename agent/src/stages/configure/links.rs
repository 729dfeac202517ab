//! One place for each repo's files, wherever its checkout lies.
//!
//! BitBake puts the files of a task in the order of their paths before it makes a hash of them
//! (`get_taskhash` in `bitbake/lib/bb/siggen.py`, dunfell to master). The same recipe would have one hash
//! while its licence text lies on the share, and another while it lies on this machine. So builds see
//! all checkouts through links in one directory, by the names that the manifest gives them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::config::Paths;
use crate::stages::checkout::ReadyRepo;
use agent_fs::remove::remove_tree;
use agent_types::error::{Error, Result};

/// The checkouts and the links to them. Directories that the manifest names are used where they are.
#[derive(Clone, Debug, Default)]
pub struct Links(Vec<(PathBuf, PathBuf)>);

impl Links {
    /// Makes the links, in place of those of an earlier job.
    ///
    /// # Errors
    /// Machine, when they cannot be made.
    pub fn make(paths: &Paths, repos: &[ReadyRepo]) -> Result<Links> {
        let home = paths.repos();
        remove_tree(&home, &paths.work)?;
        fs::create_dir_all(&home)?;
        let mut links = Vec::new();
        for repo in repos.iter().filter(|repo| repo.is_stored) {
            let link = home.join(&repo.name);
            symlink(&repo.path, &link).map_err(|error| {
                Error::machine(format!("cannot link {} to its checkout", link.display())).because(&error)
            })?;
            links.push((repo.path.clone(), link));
        }
        Ok(Links(links))
    }

    /// The way to `path` through a link, where it lies in a checkout that has one.
    pub fn through(&self, path: &Path) -> PathBuf {
        let linked = self.0.iter().find_map(|(real, link)| Some(link.join(path.strip_prefix(real).ok()?)));
        // `join` with nothing leaves a slash at the end, which `components` drops.
        linked.map_or_else(|| path.to_owned(), |path| path.components().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_a_linked_checkout_gets_another_way() {
        let links = Links(vec![
            ("/share/layers/poky-1/c/poky".into(), "/w/repos/poky".into()),
            ("/w/layers/x-2/c/meta-x".into(), "/w/repos/x".into()),
        ]);
        for (path, wanted) in [
            ("/share/layers/poky-1/c/poky/meta", "/w/repos/poky/meta"),
            ("/w/layers/x-2/c/meta-x", "/w/repos/x"),
            ("/w/layers/x-2/c/meta-xy", "/w/layers/x-2/c/meta-xy"),
            ("/src/meta-y", "/src/meta-y"),
        ] {
            assert_eq!(links.through(Path::new(path)).as_os_str(), wanted);
        }
    }
}
