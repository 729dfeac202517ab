//! Repositories with submodules or Git LFS files: a complete work tree of the job's own. The stored checkouts of the
//! repository and of its submodules never change; they are copied.

use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest, Sha256};

use crate::config::{self, GitSource, Repo, Settings, Wanted};
use crate::stages::blocking;
use agent_fs::remove::remove_tree;
use agent_git::{Access, Git};
use agent_process::Runner;
use agent_types::error::{Error, Result};
use agent_types::words::hexadecimal;

use super::stored::Stores;
use super::tree_copy::copy_work_tree;

/// How deep submodules may have submodules.
const MAX_DEPTH: usize = 5;

/// How many submodules a repository may have.
const MAX_SUBMODULES: usize = 200;

/// The names of the completed work trees begin with the repo's; this is their directory in that of the job.
const DIRECTORY: &str = "completed";

/// A checkout of a part of the work tree.
#[derive(Clone, Debug)]
struct Part {
    /// Empty for the repository itself.
    path: PathBuf,
    source: GitSource,
    /// The stored checkout.
    tree: PathBuf,
    commit: String,
    pointers: Vec<String>,
}

/// How a repo is completed.
pub struct Completion<'a> {
    pub settings: &'a Settings,
    pub stores: &'a Stores,
    pub runner: &'a Runner,
    pub access: &'a Access,
    pub repo: &'a Repo,
}

impl Completion<'_> {
    /// The complete work tree of a stored checkout; `None`, if the checkout is complete.
    ///
    /// # Errors
    /// As for a checkout; machine, if git-lfs is not installed.
    pub async fn tree(&self, source: &GitSource, tree: &Path, commit: &str) -> Result<Option<PathBuf>> {
        let part = Part {
            path: PathBuf::new(),
            source: source.clone(),
            tree: tree.to_owned(),
            commit: commit.to_owned(),
            pointers: Vec::new(),
        };
        let mut parts = vec![part];
        self.add_submodules(&mut parts).await?;
        for part in &mut parts {
            part.pointers = self.pointers(&part.tree).await?;
        }
        let names = |part: &Part| -> Vec<String> {
            part.pointers.iter().map(|name| part.path.join(name).display().to_string()).collect()
        };
        let pointers: Vec<String> = parts.iter().flat_map(names).collect();
        if !self.repo.lfs && !pointers.is_empty() {
            let whose = format!("repo {}", self.repo.name);
            let notice = agent_git::lfs_notice(&whose, &pointers).unwrap_or_default();
            self.runner.events.info(format!("{notice} ([repos.{}] lfs = false)", self.repo.name)).await;
            parts.iter_mut().for_each(|part| part.pointers.clear());
        }
        let has_pointers = parts.iter().any(|part| !part.pointers.is_empty());
        if parts.len() == 1 && !has_pointers {
            return Ok(None);
        }
        let top = self.settings.paths.work.join(DIRECTORY);
        let name = format!("{}-{}", self.repo.name, &digest(&parts)[..16]);
        let done = top.join(&name).join(&self.repo.name);
        // Renamed last: BitBake's parse cache is valid while the files stay the same, so a finished one is kept.
        if !done.is_dir() {
            if has_pointers {
                self.must_have_lfs(&parts, &pointers).await?;
            }
            self.make(parts, &top, &name, &done).await?;
        }
        let (repo, work) = (self.repo.name.clone(), self.settings.paths.work.clone());
        blocking(&self.runner.interrupt, "old work trees were removed", move || {
            remove_others(&top, &repo, &name, &work)
        })
        .await?;
        Ok(Some(done))
    }

    fn plain(&self, tree: &Path) -> Result<Git<'_>> {
        Git::new(self.runner, &Access::default(), &self.repo.name, None, &[tree.to_path_buf()])
    }

    fn key(&self) -> String {
        format!("repos.{}", self.repo.name)
    }

    async fn pointers(&self, tree: &Path) -> Result<Vec<String>> {
        let found = agent_git::lfs_pointers(&self.plain(tree)?, tree).await;
        found.map_err(|failure| failure.into_error(&self.key(), None))
    }

    /// Fetches the submodules, also those of submodules.
    async fn add_submodules(&self, parts: &mut Vec<Part>) -> Result<()> {
        let mut next = 0;
        while let Some(part) = parts.get(next).cloned() {
            next += 1;
            let git = self.plain(&part.tree)?;
            let found = agent_git::submodules(&git, &part.tree, &self.repo.name, &part.commit).await?;
            if found.is_empty() {
                continue;
            }
            let paths: Vec<String> = found.iter().map(|one| one.path.clone()).collect();
            let paths = agent_git::shown_paths(&paths);
            if !self.repo.submodules {
                let message = format!(
                    "repo {} has submodules that are not fetched ([repos.{0}] submodules = false): {paths}",
                    self.repo.name
                );
                self.runner.events.info(message).await;
                return Ok(());
            }
            if part.path.components().count() > 0 && depth(parts, &part.path) >= MAX_DEPTH
                || parts.len() + found.len() > MAX_SUBMODULES
            {
                let message = format!("`{}` has too many submodules: {paths}", self.key());
                let hint = format!(
                    "at most {MAX_DEPTH} levels and {MAX_SUBMODULES} submodules are fetched; set [{}] submodules = false",
                    self.key()
                );
                return Err(Error::usage(message).hint(hint));
            }
            for submodule in found {
                let path = part.path.join(&submodule.path);
                let Some(written) = &submodule.url else {
                    let message = format!(
                        "repo {}: .gitmodules has no url for `{}`, so it stays empty",
                        self.repo.name,
                        path.display()
                    );
                    self.runner.events.warn(message, None).await;
                    continue;
                };
                let source = self.source(&part.source, &path, written, &submodule.commit)?;
                let obtained = self.stores.obtain(self.runner, self.access, &self.repo.name, &source).await;
                let entry = obtained.map_err(|error| self.of_submodule(&path, error))?.entry;
                let (tree, commit) = (entry.tree(), entry.commit);
                parts.push(Part { path, source, tree, commit, pointers: Vec::new() });
            }
        }
        Ok(())
    }

    /// The source of a submodule. Its address is the repository's own text, and as little trusted.
    fn source(&self, of: &GitSource, path: &Path, written: &str, commit: &str) -> Result<GitSource> {
        let text = agent_git::submodule_url(&of.url, written);
        let error = |why: &str| {
            Error::usage(format!("`{}`: the submodule `{}` {why}", self.key(), path.display())).hint(format!(
                "set [{}] submodules = false, and name what it holds as a repository of its own",
                self.key()
            ))
        };
        let url = config::parse_git_address(&text)
            .map_err(|mistake| error(&format!("has an address that {}", mistake.message)))?;
        if url.scheme() == "file" && of.url.scheme() != "file" {
            return Err(error("is a local directory"));
        }
        Ok(GitSource { url, wanted: Wanted::Commit(commit.to_owned()), locked: None })
    }

    fn of_submodule(&self, path: &Path, error: Error) -> Error {
        let message =
            format!("the submodule `{}` of repo {}: {}", path.display(), self.repo.name, error.message);
        Error { message, ..error }
    }

    async fn must_have_lfs(&self, parts: &[Part], pointers: &[String]) -> Result<()> {
        let (names, key) = (agent_git::shown_paths(pointers), self.key());
        let is_installed = self.plain(&parts[0].tree)?.succeeds(&parts[0].tree, ["lfs", "version"]).await?;
        if !is_installed {
            let message = format!("`{key}` has Git LFS files, and git-lfs is not installed: {names}");
            return Err(Error::machine(message).hint(format!("install git-lfs, or set [{key}] lfs = false")));
        }
        // It may name a local repository, too.
        let is_local =
            |part: &Part| part.source.url.scheme() == "file" || part.tree.join(".lfsconfig").exists();
        if parts.iter().any(is_local) && self.access.reader.is_some() {
            let message =
                format!("`{key}` has Git LFS files, and is a local repository or has a .lfsconfig: {names}");
            let hint = "git-lfs could read local files as root for a source that is not trusted; use --trusted, or run the \
                        agent as another user";
            return Err(Error::usage(message).hint(hint));
        }
        Ok(())
    }

    async fn make(&self, parts: Vec<Part>, top: &Path, name: &str, done: &Path) -> Result<()> {
        let staging = top.join(format!("{name}.part"));
        let new = staging.join(&self.repo.name);
        let (all, home, copied) = (parts.clone(), top.to_owned(), new.clone());
        let staged = staging.clone();
        blocking(&self.runner.interrupt, "a checkout was copied", move || {
            fs::create_dir_all(&home)?;
            remove_tree(&staged, &home)?;
            all.iter().try_for_each(|part| copy_work_tree(&part.tree, &copied.join(&part.path)))
        })
        .await?;
        for part in &parts {
            let tree = new.join(&part.path);
            if !part.pointers.is_empty() {
                let safe = std::slice::from_ref(&tree);
                let git = Git::new(self.runner, self.access, &self.repo.name, Some(&part.source.url), safe)?;
                let pulled = agent_git::lfs_pull(&git, &tree, &part.source.url, &part.pointers).await;
                pulled.map_err(|failure| failure.into_error(&self.key(), Some(&part.source.url)))?;
                let left = self.pointers(&tree).await?;
                if let Some(notice) = agent_git::lfs_notice(&format!("`{}`", self.key()), &left) {
                    return Err(Error::upstream(notice).hint("ask the owner of the repository for the files"));
                }
            }
            if !part.path.as_os_str().is_empty() {
                // The files belong to the repository now, for which the submodule has no changes.
                remove_tree(&tree.join(".git"), &tree)?;
            }
        }
        fs::create_dir_all(done.parent().unwrap_or(top))?;
        fs::rename(&new, done)?;
        remove_tree(&staging, top)
    }
}

/// The number of submodules around a path.
fn depth(parts: &[Part], path: &Path) -> usize {
    parts.iter().skip(1).filter(|part| path.starts_with(&part.path)).count()
}

/// Of all parts, in hexadecimal digits.
fn digest(parts: &[Part]) -> String {
    let mut digest = Sha256::new();
    for Part { path, commit, pointers, .. } in parts {
        digest.update(format!("{}\0{commit}\0{}\0", path.display(), pointers.len()));
    }
    hexadecimal(&digest.finalize())
}

/// Removes older work trees of this repository.
fn remove_others(top: &Path, repo: &str, used: &str, work: &Path) -> Result<()> {
    for entry in fs::read_dir(top)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_of_repo = name.strip_prefix(repo).is_some_and(|rest| {
            let digits = rest.strip_prefix('-').unwrap_or_default().trim_end_matches(".part");
            digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_of_repo && name != used {
            remove_tree(&entry.path(), work)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "completed_tests.rs"]
mod tests;
