//! Fetches one commit into a clone, with as little history as possible.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use url::Url;

use agent_types::error::{Error, Result};
use agent_types::source::{GitSource, Wanted, is_commit};

use super::address::{bare, display_url};
use super::failure::{Failure, Kind};
use super::program::Git;

/// Depths that are tried in order until the branch's history contains the commit. The last is git's
/// "infinite" depth (`INFINITE_DEPTH`, 0x7fffffff).
const DEPTHS: [&str; 4] = ["50", "500", "5000", FULL_DEPTH];
const FULL_DEPTH: &str = "2147483647";

/// Largest clock error between a commit and its parent. The search ends when all fetched history is older than
/// the commit by more than this.
const CLOCK_SKEW: Duration = Duration::from_secs(90 * 24 * 3600);

/// The fetch of a source.
pub struct Fetch<'a> {
    git: &'a Git<'a>,
    name: &'a str,
    source: &'a GitSource,
    /// The commit that the lock or the manifest names.
    pin: Option<String>,
    without_files: bool,
}

impl<'a> Fetch<'a> {
    /// # Errors
    /// Usage, if the lock contradicts the manifest, or a commit id is abbreviated.
    pub fn new(git: &'a Git<'a>, name: &'a str, source: &'a GitSource) -> Result<Fetch<'a>> {
        Ok(Fetch { git, name, source, pin: pinned(name, source)?, without_files: false })
    }

    /// The same, but fetches only commits.
    pub fn without_files(self) -> Fetch<'a> {
        Fetch { without_files: true, ..self }
    }

    /// Fetches the wanted commit with the least history, and returns its id.
    pub async fn run(&self, path: &Path) -> Result<String, Failure> {
        let commit = match self.fetch(path).await {
            // A server may not have a new commit on all its machines yet.
            Err(failure) if failure.kind() == Some(Kind::CommitMissing) => {
                self.git
                    .pause(&format!(
                        "{} is not on the server yet",
                        self.pin.as_deref().unwrap_or("the commit")
                    ))
                    .await;
                match self.fetch(path).await {
                    Err(failure) if failure.kind() == Some(Kind::CommitMissing) => {
                        return Err(self.no_such_commit(self.pin.as_deref().unwrap_or_default()));
                    }
                    other => other?,
                }
            }
            other => other?,
        };
        self.must_be_commit(path, &commit).await?;
        Ok(commit)
    }

    async fn fetch(&self, path: &Path) -> Result<String, Failure> {
        match (&self.pin, &self.source.wanted) {
            (None, Wanted::Tag(tag)) => self.fetch_reference(path, &format!("refs/tags/{tag}")).await,
            (None, Wanted::Branch(branch)) => {
                self.fetch_reference(path, &format!("refs/heads/{branch}")).await
            }
            (Some(commit), Wanted::CommitOnBranch { branch, .. }) => {
                // The commit's date avoids a fetch of the whole history if it is not on the branch.
                if !self.has(path, commit).await? && self.fetch_by_id(path, commit).await? {
                    self.must_be_commit(path, commit).await?;
                }
                if !self.reaches(path, branch, commit).await? {
                    self.deepen(path, branch, commit).await?;
                }
                Ok(commit.clone())
            }
            (Some(commit), Wanted::CommitOfTag { tag, .. }) => {
                self.must_be_of_tag(path, commit, tag).await?;
                Ok(commit.clone())
            }
            (Some(commit), _) => {
                self.fetch_commit(path, commit).await?;
                Ok(commit.clone())
            }
            (
                None,
                Wanted::Commit(commit)
                | Wanted::CommitOnBranch { commit, .. }
                | Wanted::CommitOfTag { commit, .. },
            ) => Err(Error::internal(format!("commit {commit} of {} is not pinned", self.name)).into()),
        }
    }

    /// Fetches the tip of a branch, or a tag and its commit.
    async fn fetch_reference(&self, path: &Path, reference: &str) -> Result<String, Failure> {
        let here = local_ref(reference);
        self.transfer(path, "1", &[&format!("+{reference}:{here}")]).await?;
        // A tag may point to any object, also through other tags.
        let object = self.git.object_of(path, &format!("{here}^{{}}")).await?;
        if let Some(kind) = self.non_commit_kind(path, &object).await? {
            let (name, url) = (self.name, display_url(&self.source.url));
            let tag = reference.trim_start_matches("refs/tags/");
            let message =
                format!("`repos.{name}.tag`: `{tag}` of `{url}` is a tag of {kind}, not of a commit");
            return Err(Error::usage(message).hint("name a tag of a commit, a branch, or a commit").into());
        }
        Ok(object)
    }

    /// Fetches the tag, and rejects one of another commit.
    async fn must_be_of_tag(&self, path: &Path, commit: &str, tag: &str) -> Result<(), Failure> {
        let found = self.fetch_reference(path, &format!("refs/tags/{tag}")).await?;
        if found == *commit {
            return Ok(());
        }
        let url = display_url(&self.source.url);
        let message =
            format!("`repos.{}`: tag `{tag}` of `{url}` is commit {found}, not {commit}", self.name);
        Err(Error::usage(message).hint(self.pin_hint()).into())
    }

    /// Rejects an id that is not a commit.
    async fn must_be_commit(&self, path: &Path, id: &str) -> Result<(), Failure> {
        let Some(kind) = self.non_commit_kind(path, id).await? else { return Ok(()) };
        let url = display_url(&self.source.url);
        let message = format!("`repos.{}`: {id} of `{url}` is {kind}, not a commit", self.name);
        let meant = match kind {
            "a tag" => self.git.commit_of(path, id).await.ok(),
            _ => None,
        };
        let hint = match meant {
            Some(commit) => format!("pin the commit that the tag points to: {commit}"),
            None => self.pin_hint(),
        };
        Err(Error::usage(message).hint(hint).into())
    }

    /// The type of the object, if it is not a commit.
    async fn non_commit_kind(&self, path: &Path, id: &str) -> Result<Option<&'static str>, Failure> {
        let said = self.git.local(path, ["cat-file", "-t", id]).await?;
        // Warnings may come before the type.
        Ok(match said.lines().last().map(str::trim) {
            Some("tag") => Some("a tag"),
            Some("tree") => Some("a tree (a directory)"),
            Some("blob") => Some("a blob (a file's content)"),
            _ => None,
        })
    }

    /// Fetches one commit. A server may refuse commits that no branch or tag names; then history is fetched
    /// until it contains the commit.
    async fn fetch_commit(&self, path: &Path, commit: &str) -> Result<(), Failure> {
        if self.fetch_by_id(path, commit).await? {
            return Ok(());
        }
        match &self.source.wanted {
            Wanted::Branch(branch) | Wanted::CommitOnBranch { branch, .. } => {
                return self.deepen(path, branch, commit).await;
            }
            Wanted::Tag(tag) | Wanted::CommitOfTag { tag, .. } => {
                self.fetch_reference(path, &format!("refs/tags/{tag}")).await?;
            }
            Wanted::Commit(_) => {
                let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
                self.transfer(path, FULL_DEPTH, &all).await?;
            }
        }
        if self.has(path, commit).await? { Ok(()) } else { Err(self.no_such_commit(commit)) }
    }

    /// Fetches the commit by its id; false, if the server does not serve commits by id.
    async fn fetch_by_id(&self, path: &Path, commit: &str) -> Result<bool, Failure> {
        match self.transfer(path, "1", &[commit]).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.kind() == Some(Kind::CommitRefused) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Fetches more and more history of the branch until it contains the commit.
    async fn deepen(&self, path: &Path, branch: &str, commit: &str) -> Result<(), Failure> {
        let reference = format!("refs/heads/{branch}");
        let refspec = format!("+{reference}:{}", local_ref(&reference));
        for depth in DEPTHS {
            self.transfer(path, depth, &[&refspec]).await?;
            if self.reaches(path, branch, commit).await? {
                return Ok(());
            }
            if self.cannot_reach(path, branch, commit).await? {
                break;
            }
        }
        let message = format!(
            "`repos.{}`: commit {commit} is not on branch `{branch}` of `{}`",
            self.name,
            display_url(&self.source.url)
        );
        Err(Error::usage(message).hint(self.pin_hint()).into())
    }

    /// Whether more history of the branch cannot contain the commit: there is no more, or all of it is much
    /// older than the commit.
    async fn cannot_reach(&self, path: &Path, branch: &str, commit: &str) -> Result<bool, Failure> {
        // This file lists the commits whose parents were not fetched.
        let Ok(shallow) = fs::read_to_string(path.join(".git/shallow")) else { return Ok(true) };
        let cut: HashSet<&str> = shallow.lines().collect();
        if !self.has(path, commit).await? {
            return Ok(false);
        }
        let tip = local_ref(&format!("refs/heads/{branch}"));
        let dates = async |args: &[&str]| {
            let listed = self.git.local(path, [&["log", "--format=%H %ct"], args].concat()).await?;
            Ok::<_, Failure>(commit_dates(&listed))
        };
        // A commit without parents is a root commit, or the history is cut there.
        let ends = dates(&["--max-parents=0", &tip]).await?;
        let Some((_, date)) = dates(&["--no-walk", commit]).await?.into_iter().next() else {
            return Ok(false);
        };
        Ok(ends
            .iter()
            .filter(|(end, _)| cut.contains(end.as_str()))
            .all(|(_, end)| end.saturating_add(CLOCK_SKEW.as_secs()) < date))
    }

    fn no_such_commit(&self, commit: &str) -> Failure {
        let url = display_url(&self.source.url);
        let message = format!("`repos.{}`: `{url}` does not have commit {commit}", self.name);
        Error::usage(message).hint(self.pin_hint()).into()
    }

    fn pin_hint(&self) -> String {
        let name = self.name;
        match (&self.source.locked, &self.source.wanted) {
            (Some(_), _) => format!("run `build-agent lock --update {name}` to pin an existing commit"),
            (None, Wanted::CommitOnBranch { .. }) => {
                format!("check `repos.{name}.commit` and `repos.{name}.branch`")
            }
            (None, Wanted::CommitOfTag { .. }) => {
                format!("check `repos.{name}.commit` and `repos.{name}.tag`")
            }
            (None, _) => format!("check `repos.{name}.commit`"),
        }
    }

    async fn transfer(&self, path: &Path, depth: &str, refspecs: &[&str]) -> Result<(), Failure> {
        let address: Url = bare(&self.source.url);
        let depth = format!("--depth={depth}");
        // With --progress a transfer that works is never silent.
        let mut args = vec!["fetch", "--progress", "--no-tags", "--no-recurse-submodules", "--force"];
        // A server without filter support prints a warning and sends all objects.
        args.extend(self.without_files.then_some("--filter=tree:0"));
        args.extend([depth.as_str(), address.as_str()]);
        args.extend(refspecs);
        self.git.network(path, args).await.map(drop)
    }

    async fn has(&self, path: &Path, commit: &str) -> Result<bool, Failure> {
        Ok(self.git.succeeds(path, ["cat-file", "-e", &format!("{commit}^{{commit}}")]).await?)
    }

    /// Whether the fetched history of the branch contains the commit.
    async fn reaches(&self, path: &Path, branch: &str, commit: &str) -> Result<bool, Failure> {
        let tip = local_ref(&format!("refs/heads/{branch}"));
        Ok(self.has(path, commit).await?
            && self.git.succeeds(path, ["merge-base", "--is-ancestor", commit, &tip]).await?)
    }
}

/// The commit that the lock or the manifest pins, in lower case.
///
/// # Errors
/// Usage, if the lock contradicts the manifest, or a commit id is abbreviated.
pub fn pinned(name: &str, source: &GitSource) -> Result<Option<String>> {
    let named = source.wanted.commit().map(str::to_ascii_lowercase);
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
            let message = format!("`repos.{name}`: `{commit}` is not a full commit id");
            Err(Error::usage(message).hint("write all 40 hexadecimal digits; `git rev-parse` prints them"))
        }
        _ => Ok(pin),
    }
}

/// Parses lines of a commit id and a date in seconds. Skips warnings between them.
fn commit_dates(listed: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let (id, date) = line.trim().split_once(' ')?;
        is_commit(id).then_some(())?;
        Some((id.to_string(), date.parse().ok()?))
    };
    listed.lines().filter_map(line).collect()
}

/// The name of a server's reference in the clone.
fn local_ref(reference: &str) -> String {
    match reference.strip_prefix("refs/heads/") {
        Some(branch) => format!("refs/remotes/origin/{branch}"),
        None => reference.to_string(),
    }
}
