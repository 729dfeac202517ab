//! The source of a job's rules: the manifest, its lock and its known failures. They decide the verdict, so the rules of a
//! pull request come from the commit that the pull request is based on.

use std::path::{Path, PathBuf};

use super::values;

/// The source of a job's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// The checkout under test.
    #[default]
    OfCheckout,
    /// The base of a change.
    OfBase(BaseFiles),
    /// The checkout under test, because the base of the change cannot be read: no artifacts are published.
    NoBase { why: String, hint: String },
}

impl Rules {
    /// The commit of the base branch whose rules apply.
    pub fn base_commit(&self) -> Option<&str> {
        match self {
            Rules::OfBase(files) => files.trees.first().map(|tree| tree.commit.as_str()),
            Rules::OfCheckout | Rules::NoBase { .. } => None,
        }
    }
}

/// The files of a change's base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFiles {
    /// The top of the work tree with the change, absolute and without links.
    pub checkout: PathBuf,
    /// The branch or the revision, for messages.
    pub name: String,
    /// First the newest commit of the base branch: the author of a change chooses the commit in which it begins, and may
    /// choose an old one with other rules. Then that commit, for rules that the branch no longer has.
    pub trees: Vec<BaseTree>,
    /// The commit in which the change began: the change made all differences from it.
    pub began: Option<BaseTree>,
}

/// The files of one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseTree {
    pub commit: String,
    pub root: PathBuf,
}

impl BaseFiles {
    /// The part of a path below the checkout. Links in that part are not followed: the change may have made them.
    pub fn inner(&self, path: &Path) -> Option<PathBuf> {
        let path = values::normal(path);
        let above: Vec<&Path> = path.ancestors().collect();
        let top = above
            .into_iter()
            .rev()
            .find(|above| fs_err::canonicalize(above).is_ok_and(|real| real == self.checkout))?;
        path.strip_prefix(top).ok().map(Path::to_owned)
    }

    /// The first tree that has this file.
    pub fn tree_with(&self, inner: &Path) -> Option<&BaseTree> {
        self.trees.iter().find(|tree| tree.root.join(inner).is_file())
    }

    /// The same with this tree alone.
    #[must_use]
    pub fn narrowed(&self, tree: &BaseTree) -> BaseFiles {
        BaseFiles { trees: vec![tree.clone()], ..self.clone() }
    }

    /// The file as it was where the change began.
    pub fn before(&self, path: &Path) -> PathBuf {
        match (self.inner(path), &self.began) {
            (Some(inner), Some(began)) => began.root.join(inner),
            _ => self.file(path),
        }
    }

    /// The path of the base's version of a file. A file outside of the checkout does not belong to the change.
    pub fn file(&self, path: &Path) -> PathBuf {
        let Some(inner) = self.inner(path) else { return path.to_owned() };
        let tree = self.tree_with(&inner).or(self.trees.first());
        tree.map_or_else(|| path.to_owned(), |tree| tree.root.join(inner))
    }

    /// `main (0123456789ab)`, for messages.
    pub fn shown(&self) -> String {
        let commit = self.trees.first().map(|tree| tree.commit.get(..12).unwrap_or(&tree.commit));
        format!("{} ({})", self.name, commit.unwrap_or("no commit"))
    }
}

impl Rules {
    /// Where the files of the base are.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        let trees = match self {
            Rules::OfBase(base) => &base.trees[..],
            Rules::OfCheckout | Rules::NoBase { .. } => &[],
        };
        trees.iter().map(|tree| tree.root.as_path())
    }

    /// Whether there is such a file where the rules come from.
    pub fn has(&self, path: &Path) -> bool {
        match self {
            Rules::OfBase(base) => base.file(path).is_file(),
            Rules::OfCheckout | Rules::NoBase { .. } => path.is_file(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn finds_the_part_below_the_checkout_without_following_links_of_the_change() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        fs_err::create_dir_all(top.join("layer/ci")).unwrap();
        symlink("/etc", top.join("layer/out")).unwrap();
        symlink(".", top.join("layer/round")).unwrap();
        symlink(top.join("layer"), top.join("linked")).unwrap();
        let base =
            BaseFiles { checkout: top.join("layer"), name: "main".into(), trees: Vec::new(), began: None };
        for (path, inner) in [
            ("layer/x.toml", Some("x.toml")),
            ("layer/ci/../ci/x.toml", Some("ci/x.toml")),
            ("layer/out/passwd", Some("out/passwd")),
            ("layer/round/x.toml", Some("round/x.toml")),
            ("linked/ci/x.toml", Some("ci/x.toml")),
            ("layer/missing/x.toml", Some("missing/x.toml")),
            ("x.toml", None),
            ("layer/../x.toml", None),
        ] {
            assert_eq!(base.inner(&top.join(path)).as_deref(), inner.map(Path::new), "{path}");
        }
    }

    #[test]
    fn a_file_is_that_of_the_first_tree_that_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        for name in ["layer", "old", "new"] {
            fs_err::create_dir(top.join(name)).unwrap();
        }
        fs_err::write(top.join("new/rules.toml"), "").unwrap();
        fs_err::write(top.join("layer/own.toml"), "").unwrap();
        fs_err::write(top.join("old/removed.toml"), "").unwrap();
        let tree = |name: &str| BaseTree { commit: name.into(), root: top.join(name) };
        let base = BaseFiles {
            checkout: top.join("layer"),
            name: "main".into(),
            trees: vec![tree("new"), tree("old")],
            began: Some(tree("old")),
        };
        assert_eq!(base.file(&top.join("layer/rules.toml")), top.join("new/rules.toml"));
        assert_eq!(base.file(&top.join("layer/removed.toml")), top.join("old/removed.toml"));
        assert_eq!(base.before(&top.join("layer/rules.toml")), top.join("old/rules.toml"));
        assert_eq!(base.file(&top.join("layer/own.toml")), top.join("new/own.toml"), "never the change's");
        assert_eq!(base.file(Path::new("/etc/passwd")), Path::new("/etc/passwd"));
        let rules = Rules::OfBase(base);
        assert!(rules.has(&top.join("layer/rules.toml")) && !rules.has(&top.join("layer/own.toml")));
    }
}
