//! Patched repositories: a work tree of the job's own, copied from the stored checkout, which never changes.

use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest, Sha256};

use crate::config::{PatchSource, RepoSource, Settings, patch_texts};
use agent_fs::remove::remove_tree;
use agent_git::{Access, Git};
use agent_process::Runner;
use agent_types::error::{Class, Error, Result};
use agent_types::events::{EventKind, RepoReady};
use agent_types::words::hexadecimal;

use super::ReadyRepo;
use super::tree_copy::copy_work_tree;
use crate::stages::blocking;

/// The text of a patch, and its name in the manifest.
struct Text {
    name: String,
    bytes: Vec<u8>,
}

/// Patches the repositories that have patches. Their paths are then those of the patched work trees.
///
/// # Errors
/// Usage, if a patch does not exist or does not apply; machine, if a work tree cannot be written.
pub async fn apply(settings: &Settings, repos: &mut [ReadyRepo], runner: &Runner) -> Result<()> {
    let top = settings.paths.work.join("patched");
    let mut used = Vec::new();
    for wanted in settings.repos.iter().filter(|repo| !repo.patches.is_empty()) {
        let texts = texts(wanted, repos)?;
        let Some(ready) = repos.iter_mut().find(|repo| repo.name == wanted.name) else { continue };
        let digest = digest(ready, &texts);
        let name = format!("{}-{}", wanted.name, &digest[..16]);
        let tree = top.join(&name).join(&wanted.name);
        // Renamed last: BitBake's parse cache is valid while the files stay the same, so a finished one is kept.
        if !tree.is_dir() {
            patch(&top, &tree, ready, &texts, runner).await?;
        }
        used.push(name);
        let inner = |layer: &PathBuf| layer.strip_prefix(&ready.path).map(|inner| tree.join(inner));
        // `join` with nothing leaves a slash at the end, which `components` drops.
        let moved = |layer: &PathBuf| inner(layer).unwrap_or_else(|_| layer.clone()).components().collect();
        ready.layers = ready.layers.iter().map(moved).collect();
        ready.path = tree.clone();
        let url = match &wanted.source {
            RepoSource::Git(source) => Some(agent_git::display_url(&source.url)),
            RepoSource::Path(_) => None,
        };
        let patches = wanted.patches.iter().map(|patch| patch.name.clone()).collect();
        let event = RepoReady {
            name: wanted.name.clone(),
            url,
            commit: ready.commit.clone(),
            wanted: None,
            path: tree,
            how: "patched".into(),
            patches,
            patches_sha256: Some(digest),
        };
        runner.events.emit(EventKind::Repo(event)).await;
    }
    let work = settings.paths.work.clone();
    blocking(&runner.interrupt, "old patched work trees were removed", move || {
        remove_unused(&top, &used, &work)
    })
    .await
}

/// The texts of all patches of a repository.
fn texts(wanted: &crate::config::Repo, repos: &[ReadyRepo]) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    for patch in &wanted.patches {
        let all = match &patch.source {
            PatchSource::Checkout { texts, .. } => texts.clone(),
            PatchSource::Repo { repo, path } => {
                let error = |why: String| {
                    Error::usage(format!(
                        "`repos.{}.patches`: cannot read `{}`: {why}",
                        wanted.name, patch.name
                    ))
                    .hint("name a patch file, or a directory with a quilt `series`")
                };
                let holder = repos.iter().find(|ready| ready.name == *repo);
                let holder = holder.ok_or_else(|| error(format!("there is no repository {repo}")))?;
                let [top, real] = [holder.path.clone(), holder.path.join(path)].map(fs::canonicalize);
                let (top, real) = (top?, real.map_err(|problem| error(problem.to_string()))?);
                if !real.starts_with(&top) {
                    return Err(error("it is a link that leads out of the repository".into()));
                }
                patch_texts(&real).map_err(error)?
            }
        };
        texts.extend(all.into_iter().map(|bytes| Text { name: patch.name.clone(), bytes }));
    }
    Ok(texts)
}

/// Of the commit and the patches, in hexadecimal digits.
fn digest(ready: &ReadyRepo, texts: &[Text]) -> String {
    let mut digest = Sha256::new();
    digest.update(ready.commit.as_deref().unwrap_or_default());
    for text in texts {
        digest.update((text.bytes.len() as u64).to_be_bytes());
        digest.update(&text.bytes);
    }
    hexadecimal(&digest.finalize())
}

/// Makes the patched work tree.
async fn patch(top: &Path, tree: &Path, ready: &ReadyRepo, texts: &[Text], runner: &Runner) -> Result<()> {
    let part = top.join("part");
    let (from, new, home) = (ready.path.clone(), part.join(&ready.name), top.to_owned());
    let copied = new.clone();
    blocking(&runner.interrupt, "a checkout was copied", move || {
        fs::create_dir_all(&home)?;
        remove_tree(&home.join("part"), &home)?;
        copy_work_tree(&from, &copied)
    })
    .await?;
    let label = format!("repos.{}", ready.name);
    let git = Git::new(runner, &Access::default(), &ready.name, None, std::slice::from_ref(&new))?;
    let run = async |args: &[&str]| git.local(&new, args.iter().copied()).await;
    // A stored checkout has an index that takes all files for unchanged.
    let config = new.join(".git/config");
    let text = fs::read_to_string(&config)?.replace("\tignoreStat = true\n", "");
    remove_tree(&config, &new)?;
    fs::write(&config, text)?;
    for args in [&["read-tree", "HEAD"][..], &["update-index", "-q", "--refresh"]] {
        run(args).await.map_err(|failure| failure.into_error(&label, None))?;
    }
    let file = part.join("patch");
    for text in texts {
        fs::write(&file, &text.bytes)?;
        let args = ["apply", "--index", "--whitespace=nowarn", &file.display().to_string()];
        if let Err(failure) = run(&args).await {
            let error = failure.into_error(&label, None);
            let commit = ready.commit.as_deref().unwrap_or_default();
            let message =
                format!("{label}: the patch `{}` does not apply to {commit}: {}", text.name, error.message);
            // git does not say that it is the patch; but a stop is one.
            let class = if error.class == Class::Machine { Class::Usage } else { error.class };
            return Err(Error { class, message, ..error }
                .hint("rebase the patch, or pin the repository to its commit"));
        }
    }
    let parent = tree.parent().unwrap_or(top);
    fs::create_dir_all(parent)?;
    Ok(fs::rename(&new, tree)?)
}

/// Removes the work trees that this job does not use.
fn remove_unused(top: &Path, used: &[String], work: &Path) -> Result<()> {
    if !top.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(top)? {
        let entry = entry?;
        if !used.iter().any(|name| entry.file_name() == name.as_str()) {
            remove_tree(&entry.path(), work)?;
        }
    }
    Ok(())
}
