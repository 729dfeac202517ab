//! Clones that hold exactly one commit's tree, made or brought up to date.
//!
//! What a killed job, a full disk or a curious person left behind does not matter: git's locks and
//! index are dropped, every file of an old clone is compared with the commit by its content, and a
//! clone that git cannot use is replaced. A new clone comes under another name and is renamed when
//! it is complete. The caller makes sure that only one job at a time is here.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs_err as fs;
use url::Url;

use crate::config::{GitSource, Wanted};
use crate::error::{Error, Result};
use crate::exec::remove::remove_tree;

use super::address::{bare, display_url};
use super::failure::{Failure, Kind};
use super::program::Git;
use super::remote::{explain, is_commit};
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

/// Depths of history that are tried, one after the other, until a branch reaches a commit; git's
/// "infinite" depth is last (`INFINITE_DEPTH`, 0x7fffffff).
const DEPTHS: [&str; 4] = ["50", "500", "5000", WHOLE];
const WHOLE: &str = "2147483647";

/// Makes `<home>/<name>` a work tree of exactly the wanted commit.
///
/// # Errors
/// Upstream when the server cannot be reached; usage when it does not have what is wanted; machine
/// for the disk and permissions; cancelled and out of time.
pub async fn update(git: &Git<'_>, home: &Path, name: &str, source: &GitSource) -> Result<Cloned> {
    let pin = pinned(name, source)?;
    let job = Job { git, name, source, pin };
    match job.update(home).await {
        Ok(cloned) => Ok(cloned),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, home, failure).await),
    }
}

/// The commit that the lock or the manifest names.
fn pinned(name: &str, source: &GitSource) -> Result<Option<String>> {
    let named = match &source.wanted {
        Wanted::Commit(commit) | Wanted::CommitOnBranch { commit, .. } => Some(commit.to_ascii_lowercase()),
        Wanted::Branch(_) | Wanted::Tag(_) => None,
    };
    let locked = source.locked.as_ref().map(|commit| commit.to_ascii_lowercase());
    if let (Some(named), Some(locked)) = (&named, &locked)
        && named != locked
    {
        let message = format!("`repos.{name}.commit` is {named}, but the lock pins {locked}");
        return Err(Error::usage(message).hint(format!("run `build-agent lock --update {name}`")));
    }
    let pin = locked.or(named);
    match &pin {
        Some(commit) if !is_commit(commit) => {
            let message = format!("`repos.{name}`: `{commit}` is not a whole commit id");
            Err(Error::usage(message).hint("write all 40 hexadecimal digits; `git rev-parse` tells them"))
        }
        _ => Ok(pin),
    }
}

struct Job<'a> {
    git: &'a Git<'a>,
    name: &'a str,
    source: &'a GitSource,
    pin: Option<String>,
}

impl Job<'_> {
    async fn update(&self, home: &Path) -> Result<Cloned, Failure> {
        fs::create_dir_all(home)?;
        let path = home.join(self.name);
        if is_directory(&path)? && is_directory(&path.join(".git"))? {
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
        let (commit, how) = match self.at_hand(path).await? {
            Some(commit) => (commit, How::Present),
            None => (self.fetch(path).await?, How::Fetched),
        };
        self.check_out(path, &commit).await?;
        Ok(Cloned { path: path.to_path_buf(), commit, how })
    }

    /// Clones beside the final place, then takes that place.
    async fn clone(&self, home: &Path, path: PathBuf) -> Result<Cloned, Failure> {
        let new = home.join(format!(".{}.new", self.name));
        remove_tree(&new, home)?;
        fs::create_dir(&new)?;
        self.git.local(&new, ["init", "--quiet", "--template="]).await?;
        sweep(&new.join(".git"))?;
        let commit = self.fetch(&new).await?;
        self.check_out(&new, &commit).await?;
        remove_tree(&path, home)?;
        fs::rename(&new, &path)?;
        Ok(Cloned { path, commit, how: How::Cloned })
    }

    /// The pinned commit, when the clone has it, and has it on its branch.
    async fn at_hand(&self, path: &Path) -> Result<Option<String>, Failure> {
        let Some(commit) = &self.pin else { return Ok(None) };
        let there = match &self.source.wanted {
            Wanted::CommitOnBranch { branch, .. } => self.reaches(path, branch, commit).await?,
            _ => self.has(path, commit).await?,
        };
        Ok(there.then(|| commit.clone()))
    }

    /// Fetches what is wanted, as shallow as can be; gives the commit.
    async fn fetch(&self, path: &Path) -> Result<String, Failure> {
        match (&self.pin, &self.source.wanted) {
            (None, Wanted::Tag(tag)) => self.fetch_reference(path, &format!("refs/tags/{tag}")).await,
            (None, Wanted::Branch(branch)) => {
                self.fetch_reference(path, &format!("refs/heads/{branch}")).await
            }
            (Some(commit), Wanted::CommitOnBranch { branch, .. }) => {
                self.deepen(path, branch, commit).await?;
                Ok(commit.clone())
            }
            (Some(commit), _) => {
                self.fetch_commit(path, commit).await?;
                Ok(commit.clone())
            }
            (None, Wanted::Commit(commit) | Wanted::CommitOnBranch { commit, .. }) => {
                Err(Error::internal(format!("commit {commit} of {} is no pin", self.name)).into())
            }
        }
    }

    /// Fetches the tip of a branch, or a tag and the commit that it stands for.
    async fn fetch_reference(&self, path: &Path, reference: &str) -> Result<String, Failure> {
        let here = kept_as(reference);
        self.transfer(path, "1", &[&format!("+{reference}:{here}")]).await?;
        self.commit_of(path, &here).await
    }

    /// Fetches one commit. Servers may refuse to give out what no branch or tag names; then history
    /// has to be fetched until it is in there.
    async fn fetch_commit(&self, path: &Path, commit: &str) -> Result<(), Failure> {
        match self.transfer(path, "1", &[commit]).await {
            Err(failure) if failure.kind() == Some(Kind::CommitRefused) => {}
            other => return other,
        }
        match &self.source.wanted {
            Wanted::Branch(branch) | Wanted::CommitOnBranch { branch, .. } => {
                return self.deepen(path, branch, commit).await;
            }
            Wanted::Tag(tag) => {
                self.fetch_reference(path, &format!("refs/tags/{tag}")).await?;
            }
            Wanted::Commit(_) => {
                let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
                self.transfer(path, WHOLE, &all).await?;
            }
        }
        if self.has(path, commit).await? {
            return Ok(());
        }
        let message = format!(
            "`repos.{}`: `{}` does not have commit {commit}",
            self.name,
            display_url(&self.source.url)
        );
        Err(Error::usage(message).hint(self.pin_hint()).into())
    }

    /// Fetches the branch deeper and deeper until the commit is found on it.
    async fn deepen(&self, path: &Path, branch: &str, commit: &str) -> Result<(), Failure> {
        let reference = format!("refs/heads/{branch}");
        let refspec = format!("+{reference}:{}", kept_as(&reference));
        for depth in DEPTHS {
            self.transfer(path, depth, &[&refspec]).await?;
            if self.reaches(path, branch, commit).await? {
                return Ok(());
            }
            // Without this file the history is complete: deeper there is nothing.
            if !path.join(".git/shallow").exists() {
                break;
            }
        }
        let message = format!(
            "`repos.{}`: commit {commit} does not lie on branch `{branch}` of `{}`; its whole history was searched",
            self.name,
            display_url(&self.source.url)
        );
        Err(Error::usage(message).hint(self.pin_hint()).into())
    }

    fn pin_hint(&self) -> String {
        match self.source.locked {
            Some(_) => format!("run `build-agent lock --update {}` to pin a commit that is there", self.name),
            None => format!("check `repos.{}.commit` and the branch it should lie on", self.name),
        }
    }

    async fn transfer(&self, path: &Path, depth: &str, refspecs: &[&str]) -> Result<(), Failure> {
        let address: Url = bare(&self.source.url);
        let depth = format!("--depth={depth}");
        // With --progress a living transfer is never silent.
        let mut args = vec!["fetch", "--progress", "--no-tags", "--no-recurse-submodules", "--force"];
        args.extend([depth.as_str(), address.as_str()]);
        args.extend(refspecs);
        self.git.network(path, args).await.map(drop)
    }

    async fn has(&self, path: &Path, commit: &str) -> Result<bool, Failure> {
        Ok(self.git.agrees(path, ["cat-file", "-e", &format!("{commit}^{{commit}}")]).await?)
    }

    /// Whether the branch, as far as it was fetched, has the commit in its history.
    async fn reaches(&self, path: &Path, branch: &str, commit: &str) -> Result<bool, Failure> {
        let tip = kept_as(&format!("refs/heads/{branch}"));
        Ok(self.has(path, commit).await?
            && self.git.agrees(path, ["merge-base", "--is-ancestor", commit, &tip]).await?)
    }

    async fn commit_of(&self, path: &Path, name: &str) -> Result<String, Failure> {
        let answer = self.git.local(path, ["rev-parse", "--verify", &format!("{name}^{{commit}}")]).await?;
        answer.lines().map(str::trim).find(|line| is_commit(line)).map(str::to_string).ok_or_else(|| {
            Failure::Error(Error::internal(format!(
                "git rev-parse {name} gave no commit in {}",
                path.display()
            )))
        })
    }

    /// Makes the work tree exactly the commit's. Files that are right already keep their time and
    /// inode: BitBake's parse cache knows them by these.
    async fn check_out(&self, path: &Path, commit: &str) -> Result<(), Failure> {
        let git = self.git;
        let meant = self.commit_of(path, commit).await?;
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
        let head = self.commit_of(path, "HEAD").await?;
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

/// Where a reference of the server is kept in the clone.
fn kept_as(reference: &str) -> String {
    match reference.strip_prefix("refs/heads/") {
        Some(branch) => format!("refs/remotes/origin/{branch}"),
        None => reference.to_string(),
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
    if fs::read_to_string(&config).ok().as_deref() != Some(CONFIGURATION) {
        remove_tree(&config, dot_git)?;
        fs::write(&config, CONFIGURATION)?;
    }
    Ok(())
}
