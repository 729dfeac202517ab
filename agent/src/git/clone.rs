//! Clones that hold exactly one commit's tree, made or brought up to date.
//!
//! What a killed job, a full disk or a curious person left behind does not matter: git's locks and
//! index are dropped, every file of an old clone is compared with the commit by its content, and a
//! clone that git cannot use is replaced. A new clone comes under another name and is renamed when
//! it is complete. The caller makes sure that only one job at a time is here.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::GitSource;
use crate::error::{Error, Result};
use crate::exec::lesser_owner;
use crate::exec::remove::remove_tree;
use crate::untrusted;
use fs_err as fs;

use super::failure::{Failure, Kind};
use super::fetch::Fetch;
use super::program::Git;
use super::remote::explain;
use super::worktree::entries;

/// How a clone came to hold its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Made anew.
    Cloned,
    /// There was one; the server was asked.
    Fetched,
    /// There was one with the pinned commit; no server was asked.
    Present,
}

impl How {
    pub const fn word(self) -> &'static str {
        match self {
            How::Cloned => "cloned",
            How::Fetched => "fetched",
            How::Present => "present",
        }
    }
}

/// A clone that lies ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloned {
    pub path: PathBuf,
    pub commit: String,
    pub how: How,
}

/// Makes `<home>/<name>` a work tree of exactly the wanted commit.
///
/// # Errors
/// Upstream when the server cannot be reached; usage when it does not have what is wanted; machine
/// for the disk and permissions; cancelled and out of time.
pub async fn update(git: &Git<'_>, home: &Path, name: &str, source: &GitSource) -> Result<Cloned> {
    let fetch = Fetch::new(git, name, source)?;
    match (Job { git, name, fetch }).update(home).await {
        Ok(cloned) => Ok(cloned),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, home, failure).await),
    }
}

struct Job<'a> {
    git: &'a Git<'a>,
    name: &'a str,
    fetch: Fetch<'a>,
}

impl Job<'_> {
    async fn update(&self, home: &Path) -> Result<Cloned, Failure> {
        fs::create_dir_all(home)?;
        let path = home.join(self.name);
        // Layer code of another time could have written into a clone that its user owns.
        let whose = lesser_owner([path.as_path(), &path.join(".git")])?;
        if let Some(owner) = &whose {
            let message = format!("the clone {} belongs to {} and is replaced", path.display(), owner.name);
            self.git.runner.events.warn(message, None).await;
        }
        if whose.is_none() && is_directory(&path)? && is_directory(&path.join(".git"))? {
            match self.refresh(&path).await {
                Err(failure) if failure.mended_by_new_clone() => {
                    let message = format!(
                        "the clone {} is broken and is replaced: {}",
                        path.display(),
                        failure.brief()
                    );
                    self.git.runner.events.warn(message, None).await;
                }
                other => return other,
            }
        }
        self.clone(home, path).await
    }

    /// Brings an existing clone to the wanted commit.
    async fn refresh(&self, path: &Path) -> Result<Cloned, Failure> {
        sweep(&path.join(".git"))?;
        let (commit, how) = match self.fetch.at_hand(path).await? {
            Some(commit) => (commit, How::Present),
            None => (self.fetch.run(path).await?, How::Fetched),
        };
        self.check_out(path, &commit).await?;
        Ok(Cloned { path: path.to_path_buf(), commit, how })
    }

    /// Clones beside the final place, then takes that place.
    async fn clone(&self, home: &Path, path: PathBuf) -> Result<Cloned, Failure> {
        let new = home.join(format!(".{}.new", self.name));
        remove_tree(&new, home)?;
        fs::create_dir(&new)?;
        let commit = match self.fill(&new).await {
            Ok(commit) => commit,
            Err(failure) => {
                // A half clone is of no use to the next job and may be what filled the disk.
                remove_tree(&new, home)?;
                return Err(failure);
            }
        };
        remove_tree(&path, home)?;
        fs::rename(&new, &path)?;
        Ok(Cloned { path, commit, how: How::Cloned })
    }

    async fn fill(&self, new: &Path) -> Result<String, Failure> {
        self.git.local(new, ["init", "--quiet", "--template="]).await?;
        sweep(&new.join(".git"))?;
        let commit = self.fetch.run(new).await?;
        self.check_out(new, &commit).await?;
        Ok(commit)
    }

    /// Makes the work tree exactly the commit's. Files that are right already keep their time and
    /// inode: BitBake's parse cache knows them by these.
    async fn check_out(&self, path: &Path, commit: &str) -> Result<(), Failure> {
        let git = self.git;
        let meant = self.git.commit_of(path, commit).await?;
        if meant != commit {
            let message = format!("`repos.{}`: {commit} is a tag's own id and no commit", self.name);
            return Err(Error::usage(message)
                .hint(format!("pin the commit that it stands for: {meant}"))
                .into());
        }
        git.local(path, ["update-ref", "--no-deref", "HEAD", commit]).await?;
        git.local(path, ["read-tree", commit]).await?;
        // The new index knows nothing of the files: each is read and compared by content. The exit
        // status only says whether some differ.
        git.agrees(path, ["update-index", "-q", "--really-refresh"]).await?;
        git.local(path, ["reset", "--hard", "--quiet", commit]).await?;
        git.local(path, ["clean", "-ffdxq"]).await?;
        self.verify(path, commit).await
    }

    async fn verify(&self, path: &Path, commit: &str) -> Result<(), Failure> {
        let head = self.git.commit_of(path, "HEAD").await?;
        if head != commit {
            let message = format!("{} holds {head} instead of {commit}", path.display());
            return Err(Error::internal(message).into());
        }
        let status = ["status", "--porcelain", "-z", "--ignored", "--untracked-files=all", "--no-renames"];
        let status = self.git.local(path, [&status[..], &["--ignore-submodules=all"]].concat()).await?;
        // ` M` right after a reset: git wrote the file, and the repository's own attributes (line
        // ends, filters) would store it otherwise. It is so in every clone of that commit.
        let left = entries(&status).into_iter().find(|entry| entry.code != " M");
        match left {
            None => Ok(()),
            Some(left) => Err(Failure::Git {
                kind: Kind::Other,
                verb: "clean".into(),
                remote: false,
                said: vec![format!(
                    "`{}` in {} could not be put right",
                    left.path.escape_debug(),
                    path.display()
                )],
                log: self.git.runner.logs.clone(),
            }),
        }
    }
}

/// A directory itself; a link to one is something that the agent did not make.
fn is_directory(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What git's configuration in a clone is: nothing that a layer's code may have put there.
const CONFIGURATION: &str =
    "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = false\n";

/// Drops what a killed git leaves behind (locks, half packs) and what decides how files are seen
/// (index, attributes, configuration): it is all made anew.
fn sweep(dot_git: &Path) -> Result<()> {
    for index in
        ["index", "info/attributes", "info/sparse-checkout", "info/grafts", "objects/info/alternates"]
    {
        remove_tree(&dot_git.join(index), dot_git)?;
    }
    // Git does not make a reference whose name ends in `.lock`, so each of these is a lock.
    let top = walkdir::WalkDir::new(dot_git).max_depth(1);
    let below =
        ["refs", "objects/pack", "objects/info"].map(|name| walkdir::WalkDir::new(dot_git.join(name)));
    for entry in [top].into_iter().chain(below).flatten().filter_map(|entry| entry.ok()) {
        let name = entry.file_name().to_string_lossy();
        if entry.file_type().is_file() && (name.ends_with(".lock") || name.starts_with("tmp_")) {
            remove_tree(entry.path(), dot_git)?;
        }
    }
    let config = dot_git.join("config");
    if untrusted::read_text(&config, untrusted::PAGE).ok().as_deref() != Some(CONFIGURATION) {
        remove_tree(&config, dot_git)?;
        fs::write(&config, CONFIGURATION)?;
    }
    Ok(())
}
