//! Files that the manifest names for its rules, such as patches and keys: `REPO:PATH`, or a path relative to the manifest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::paths::ProjectRoot;
use super::problem::Diagnostic;
use super::validate::below_checkout;
use super::values;

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepoFile {
    /// In a repository, relative to it.
    Repo { repo: String, path: PathBuf },
    /// In the checkout under test, absolute. A change can edit it, so [`ProjectRoot::rules_file`] applies.
    Checkout(PathBuf),
}

/// Finds the files.
#[derive(Debug)]
pub struct RepoFiles<'a> {
    pub project_root: &'a ProjectRoot,
    /// The names of all repositories.
    pub names: Vec<String>,
    /// Of the repositories that are local directories: their absolute paths.
    pub local: BTreeMap<String, PathBuf>,
}

impl RepoFiles<'_> {
    /// # Errors
    /// If the text names no repository of the manifest, or leads out of the repository.
    pub fn find(&self, text: &str) -> Result<RepoFile, Diagnostic> {
        let Some((repo, path)) = text.split_once(':') else {
            return below_checkout(text, self.project_root).map(RepoFile::Checkout);
        };
        if !self.names.iter().any(|name| name == repo) {
            let hint = format!("write REPO:PATH with one of {}", self.names.join(", "));
            return Err(Diagnostic::new(format!("`{repo}` is not one of [repos]")).hint(hint));
        }
        let path = values::inner_path(path, "the repository")?;
        let inside = |directory: &&PathBuf| directory.starts_with(&self.project_root.checkout);
        Ok(match self.local.get(repo).filter(inside) {
            Some(directory) => RepoFile::Checkout(values::normal(&directory.join(path))),
            None => RepoFile::Repo { repo: repo.to_owned(), path },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::rules::Rules;

    #[test]
    fn a_local_repository_inside_the_checkout_is_a_part_of_it() {
        let project_root = ProjectRoot {
            base: "/w/layer/ci".into(),
            checkout: "/w/layer".into(),
            manifest: None,
            manifest_name: "ci/build-agent.toml".into(),
            rules: Rules::OfCheckout,
        };
        let local = [("own", "/w/layer"), ("part", "/w/layer/meta-a"), ("other", "/w/layer-2")];
        let files = RepoFiles {
            project_root: &project_root,
            names: ["poky", "own", "part", "other"].map(str::to_owned).to_vec(),
            local: local.map(|(name, path)| (name.to_owned(), path.into())).into(),
        };
        let repo = |repo: &str, path: &str| RepoFile::Repo { repo: repo.into(), path: path.into() };
        for (text, wanted) in [
            ("a.patch", RepoFile::Checkout("/w/layer/ci/a.patch".into())),
            ("own:keys/a.asc", RepoFile::Checkout("/w/layer/keys/a.asc".into())),
            ("part:a.asc", RepoFile::Checkout("/w/layer/meta-a/a.asc".into())),
            ("other:a.asc", repo("other", "a.asc")),
            ("poky:keys/a.asc", repo("poky", "keys/a.asc")),
        ] {
            assert_eq!(files.find(text).unwrap(), wanted, "{text}");
        }
        for text in ["pokyy:a.asc", "own:../a.asc", "poky:/etc/passwd", "../../a.patch"] {
            assert!(files.find(text).is_err(), "{text}");
        }
    }
}
