//! The base of a change: the commit of the target branch in which the change began, and its files.
//!
//! The checkout of a change is mostly shallow and lacks the base. Then the commits are fetched from the repository of the
//! base, without files. The change cannot influence the result: if its history cannot be fetched, or has no commit in
//! common with the branch, the newest commit of the branch is the base.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use agent_process::{Runner, lesser_owner};
use agent_types::error::{Error, Result};
use agent_types::source::{GitSource, Wanted, is_commit};

use super::access::Access;
use super::address::bare;
use super::clone::clone;
use super::failure::Failure;
use super::program::Git;

/// Depths of history that are tried in order; the last is git's "infinite" depth.
const DEPTHS: [&str; 3] = ["50", "1000", "2147483647"];

/// Time limit for the history. A change can have a history of any size, and must not use up the time for the files of
/// the base.
const HISTORY_LIMIT: Duration = Duration::from_secs(100);

const BASE: &str = "refs/build-agent/base";
const HEAD: &str = "refs/build-agent/head";

/// Describes the base to find.
#[derive(Clone, Copy, Debug)]
pub struct BaseQuery<'a> {
    /// The top of the work tree with the change. It is only read.
    pub checkout: &'a Path,
    /// Names of the base in the repository of the checkout, best first.
    pub local: &'a [String],
    /// The repository of the base and its branch.
    pub remote: Option<(&'a Url, &'a str)>,
}

/// A commit and the directory with its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitFiles {
    pub commit: String,
    pub root: PathBuf,
}

/// The commits of the base.
#[derive(Debug)]
struct Commits {
    /// The newest commit of the branch.
    tip: String,
    /// The commit in which the change began; the same as `tip` if that is not known.
    start: String,
}

/// Checks out the base into `scratch`, an empty directory: first the commit in which the change began, then the newest
/// commit of the base if that differs.
///
/// # Errors
/// If neither the checkout nor the server has the base.
pub async fn base_of(
    runner: &Runner,
    access: &Access,
    query: &BaseQuery<'_>,
    scratch: &Path,
) -> Result<Vec<CommitFiles>> {
    let checkout = Checkout::new(runner, query.checkout)?;
    let local = checkout.base(query.local).await?;
    // A shallow repository may lack the commit in which the change began.
    if let Some((commits, false)) = &local {
        return checkout.files(commits, scratch).await;
    }
    let Some((url, branch)) = query.remote else {
        let Some((commits, _)) = local else { return Err(unknown(query)) };
        return checkout.files(&commits, scratch).await;
    };
    let git = Git::new(runner, access, "base", Some(url), &[])?;
    let interrupt = runner.interrupt.child().limited(HISTORY_LIMIT);
    let limited = Runner { interrupt, ..runner.clone() };
    let history = Git::new(&limited, access, "base", Some(url), &[])?;
    let head = checkout.head().await?;
    let commits = match fetched(&git, &history, url, branch, head.as_deref(), scratch).await {
        Ok(commits) => commits,
        Err(failure) => {
            let error = into_error(failure, url);
            let Some((commits, _)) = local else { return Err(error) };
            // The checkout's copy of the base branch is the second choice.
            tracing::info!("{error}");
            return checkout.files(&commits, scratch).await;
        }
    };
    files(&git, url, &commits, scratch).await
}

/// Checks out the commit in which a change began into `scratch`, an empty directory: this one, if it is known.
///
/// # Errors
/// If neither the checkout nor the server has it.
pub async fn base_files(
    runner: &Runner,
    access: &Access,
    query: &BaseQuery<'_>,
    commit: Option<&str>,
    scratch: &Path,
) -> Result<CommitFiles> {
    let nothing = || Error::internal("git names no base");
    let Some(commit) = commit else {
        return base_of(runner, access, query, scratch).await?.into_iter().next().ok_or_else(nothing);
    };
    let commits = Commits { tip: commit.to_owned(), start: commit.to_owned() };
    let checkout = Checkout::new(runner, query.checkout)?;
    let tree = format!("{commit}^{{tree}}");
    let files = if checkout.git.succeeds(query.checkout, ["cat-file", "-e", tree.as_str()]).await? {
        checkout.files(&commits, scratch).await?
    } else if let Some((url, _)) = query.remote {
        files(&Git::new(runner, access, "base", Some(url), &[])?, url, &commits, scratch).await?
    } else {
        return Err(unknown(query));
    };
    files.into_iter().next().ok_or_else(nothing)
}

/// The commit in which a change began, and up to `most` commits before it on its branch, the nearest first: the history of
/// first parents. `commit` is the one in which it began, if that is known. `scratch` is an empty directory.
///
/// # Errors
/// If neither the checkout nor the server has it.
pub async fn ancestry(
    runner: &Runner,
    access: &Access,
    query: &BaseQuery<'_>,
    commit: Option<&str>,
    most: usize,
    scratch: &Path,
) -> Result<Vec<String>> {
    let checkout = Checkout::new(runner, query.checkout)?;
    let start = match commit {
        Some(commit) => found(checkout.git.commit_of(query.checkout, commit).await)?,
        None => checkout.base(query.local).await?.map(|(commits, _)| commits.start),
    };
    let local = match &start {
        Some(start) => first_parents(&checkout.git, query.checkout, start, most).await?,
        None => Vec::new(),
    };
    // In a shallow repository, that may be another commit than the one in which the change began.
    let is_whole = !local.is_empty() && (local.len() > most || !checkout.is_shallow().await?);
    let Some((url, branch)) = query.remote.filter(|_| !is_whole) else {
        return if local.is_empty() { Err(unknown(query)) } else { Ok(local) };
    };
    let git = Git::new(runner, access, "base", Some(url), &[])?;
    let head = checkout.head().await?;
    let of_server = async {
        let start = match commit {
            Some(commit) => {
                let wanted = format!("+{commit}:{BASE}");
                git.local(scratch, ["init", "--quiet", "--bare", "history"]).await?;
                fetch(&git, &scratch.join("history"), url, &most.saturating_add(1).to_string(), &[&wanted])
                    .await?;
                commit.to_owned()
            }
            None => fetched(&git, &git, url, branch, head.as_deref(), scratch).await?.start,
        };
        Ok::<_, Failure>(first_parents(&git, &scratch.join("history"), &start, most).await?)
    };
    match of_server.await {
        Ok(commits) if !commits.is_empty() => Ok(commits),
        Err(Failure::Error(error)) => Err(error),
        Ok(_) | Err(Failure::Git { .. }) if !local.is_empty() => Ok(local),
        Ok(_) => Err(unknown(query)),
        Err(failure) => Err(into_error(failure, url)),
    }
}

/// A commit and up to `most` commits before it.
async fn first_parents(git: &Git<'_>, repo: &Path, start: &str, most: usize) -> Result<Vec<String>> {
    let number = format!("--max-count={}", most.saturating_add(1));
    let listed = found(git.local(repo, ["rev-list", "--first-parent", &number, start]).await)?;
    let listed = listed.unwrap_or_default();
    Ok(listed.lines().map(str::trim).filter(|line| is_commit(line)).map(str::to_owned).collect())
}

fn unknown(query: &BaseQuery) -> Error {
    let names: Vec<_> = query.local.iter().map(|name| format!("`{name}`")).collect();
    Error::usage(format!("git does not find {} in {}", names.join(" or "), query.checkout.display()))
        .hint("fetch the branch first, such as `git fetch origin main`")
}

fn into_error(failure: Failure, url: &Url) -> Error {
    failure.into_error("base", Some(url))
}

/// The repository of the change. Git runs with the rights of its owner.
struct Checkout<'a> {
    git: Git<'a>,
    runner: &'a Runner,
    top: &'a Path,
}

impl<'a> Checkout<'a> {
    fn new(runner: &'a Runner, top: &'a Path) -> Result<Checkout<'a>> {
        let git = Git::for_inspection(runner, "change", top, &[top.to_path_buf()], None)?;
        Ok(Checkout { git, runner, top })
    }

    async fn head(&self) -> Result<Option<String>> {
        found(self.git.commit_of(self.top, "HEAD").await)
    }

    /// Whether history is missing.
    async fn is_shallow(&self) -> Result<bool> {
        let shallow = found(self.git.local(self.top, ["rev-parse", "--is-shallow-repository"]).await)?;
        Ok(shallow.is_none_or(|text| text.lines().last().map(str::trim) != Some("false")))
    }

    /// The base by the first of these names that is known, and whether history is missing.
    async fn base(&self, names: &[String]) -> Result<Option<(Commits, bool)>> {
        for name in names {
            let Some(tip) = found(self.git.commit_of(self.top, name).await)? else { continue };
            let is_shallow = self.is_shallow().await?;
            let start = merge_base(&self.git, self.top, &tip, "HEAD").await?;
            return Ok(Some((Commits { start: start.unwrap_or_else(|| tip.clone()), tip }, is_shallow)));
        }
        Ok(None)
    }

    async fn files(&self, commits: &Commits, scratch: &Path) -> Result<Vec<CommitFiles>> {
        let url = Url::from_file_path(self.top)
            .map_err(|()| Error::internal(format!("`{}` is not absolute", self.top.display())))?;
        let dot_git = self.top.join(".git");
        let reader = lesser_owner([dot_git.join("config").as_path(), &dot_git, self.top])?;
        let access = Access { reader, ..Access::default() };
        files(&Git::new(self.runner, &access, "base", Some(&url), &[])?, &url, commits, scratch).await
    }
}

/// Fetches the history of the branch and of the change, without files, until they meet.
///
/// `limited` is git with less time, for what the change decides.
async fn fetched(
    git: &Git<'_>,
    limited: &Git<'_>,
    url: &Url,
    branch: &str,
    head: Option<&str>,
    scratch: &Path,
) -> Result<Commits, Failure> {
    let history = scratch.join("history");
    git.local(scratch, ["init", "--quiet", "--bare", "history"]).await?;
    let of_base = format!("+refs/heads/{branch}:{BASE}");
    fetch(git, &history, url, "1", &[&of_base]).await?;
    let tip = git.commit_of(&history, BASE).await?;
    let only_tip = || Ok(Commits { start: tip.clone(), tip: tip.clone() });
    let Some(head) = head else { return only_tip() };
    let of_head = format!("+{head}:{HEAD}");
    for depth in DEPTHS {
        // If the server refuses the change's commit, or the time is over, the commit of the branch is enough.
        let met = async {
            fetch(limited, &history, url, depth, &[&of_base, &of_head]).await?;
            Ok::<_, Failure>(merge_base(limited, &history, BASE, HEAD).await?)
        };
        match met.await {
            Ok(Some(start)) => return Ok(Commits { start, tip }),
            Ok(None) => {}
            Err(failure) => {
                tracing::info!("the history of the change is not known: {}", failure.brief());
                return only_tip();
            }
        }
        if !history.join("shallow").exists() {
            break;
        }
    }
    only_tip()
}

async fn fetch(git: &Git<'_>, repo: &Path, url: &Url, depth: &str, refs: &[&str]) -> Result<(), Failure> {
    let (address, depth) = (bare(url), format!("--depth={depth}"));
    let mut args =
        vec!["fetch", "--progress", "--no-tags", "--no-recurse-submodules", "--filter=tree:0", &depth];
    args.push(address.as_str());
    args.extend(refs);
    git.network(repo, args).await.map(drop)
}

/// The best common ancestor, if there is one.
async fn merge_base(git: &Git<'_>, repo: &Path, one: &str, other: &str) -> Result<Option<String>> {
    let output = found(git.local(repo, ["merge-base", one, other]).await)?;
    Ok(output.and_then(|text| text.lines().map(str::trim).find(|line| is_commit(line)).map(str::to_owned)))
}

/// The result of git; `None` if git fails.
fn found<T>(result: Result<T, Failure>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Git { .. }) => Ok(None),
        Err(Failure::Error(error)) => Err(error),
    }
}

async fn files(git: &Git<'_>, url: &Url, commits: &Commits, scratch: &Path) -> Result<Vec<CommitFiles>> {
    let mut all = Vec::new();
    for (name, commit) in [("start", &commits.start), ("tip", &commits.tip)] {
        if all.iter().any(|known: &CommitFiles| known.commit == *commit) {
            continue;
        }
        let source = GitSource { url: url.clone(), wanted: Wanted::Commit(commit.clone()), locked: None };
        let root = scratch.join(name);
        clone(git, &root, "base", &source, None).await?;
        all.push(CommitFiles { commit: commit.clone(), root });
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "base_tests.rs"]
mod tests;
