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
mod tests {
    use std::process::Command;

    use super::super::fixture::Bench;
    use super::*;

    /// Runs git, and returns what it prints.
    fn git(directory: &Path, words: &[&str]) -> String {
        let mut command = Command::new("git");
        command.current_dir(directory).args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
        command.args(["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"]);
        let output = command.args(words).env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
        assert!(output.status.success(), "git {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(directory: &Path, file: &str, text: &str) -> String {
        fs_err::write(directory.join(file), text).unwrap();
        git(directory, &["add", "--all"]);
        git(directory, &["commit", "--quiet", "-m", text]);
        git(directory, &["rev-parse", "HEAD"])
    }

    /// A repository whose branch `main` went on after the branch `change` began.
    struct History {
        bench: Bench,
        server: PathBuf,
        start: String,
        tip: String,
    }

    impl History {
        fn new() -> History {
            let bench = Bench::new();
            let server = bench.path("server");
            fs_err::create_dir_all(&server).unwrap();
            fs_err::create_dir_all(bench.path("scratch")).unwrap();
            git(&server, &["init", "--quiet"]);
            git(&server, &["config", "uploadpack.allowFilter", "true"]);
            commit(&server, "rules", "first");
            let start = commit(&server, "rules", "of the base");
            git(&server, &["switch", "--quiet", "-c", "change"]);
            commit(&server, "rules", "of the change");
            commit(&server, "more", "of the change");
            git(&server, &["switch", "--quiet", "main"]);
            let tip = commit(&server, "rules", "newest");
            History { bench, server, start, tip }
        }

        fn url(&self) -> Url {
            Url::from_file_path(&self.server).unwrap()
        }

        fn clone(&self, words: &[&str]) -> PathBuf {
            let checkout = self.bench.path("checkout");
            let url = self.url();
            let all: Vec<&str> =
                ["clone", "--quiet"].iter().chain(words).copied().chain([url.as_str(), "checkout"]).collect();
            git(self.bench.root.path(), &all);
            checkout
        }

        async fn base(
            &self,
            checkout: &Path,
            local: &[&str],
            remote: Option<(&Url, &str)>,
        ) -> Result<Vec<(String, String)>> {
            let local: Vec<String> = local.iter().map(ToString::to_string).collect();
            let query = BaseQuery { checkout, local: &local, remote };
            let found =
                base_of(&self.bench.runner, &self.bench.access, &query, &self.bench.path("scratch")).await?;
            let rules = |files: CommitFiles| {
                (files.commit, fs_err::read_to_string(files.root.join("rules")).unwrap())
            };
            Ok(found.into_iter().map(rules).collect())
        }

        fn wanted(&self) -> Vec<(String, String)> {
            vec![(self.start.clone(), "of the base".into()), (self.tip.clone(), "newest".into())]
        }
    }

    #[tokio::test]
    async fn a_full_clone_has_the_base() {
        let history = History::new();
        let checkout = history.clone(&["--branch", "change"]);
        let unreachable = Url::parse("file:///nowhere").unwrap();
        let found =
            history.base(&checkout, &["refs/remotes/origin/main"], Some((&unreachable, "main"))).await;
        assert_eq!(found.unwrap(), history.wanted());
    }

    #[tokio::test]
    async fn for_a_shallow_clone_the_server_is_asked() {
        let history = History::new();
        let checkout = history.clone(&["--depth=1", "--branch", "change"]);
        let found =
            history.base(&checkout, &["refs/remotes/origin/main"], Some((&history.url(), "main"))).await;
        assert_eq!(found.unwrap(), history.wanted());
        let log = git(&checkout, &["rev-list", "--all"]);
        assert_eq!(log.lines().count(), 1, "the checkout stays as it is");
    }

    #[tokio::test]
    async fn a_merge_of_both_is_based_on_the_newest() {
        let history = History::new();
        git(&history.server, &["switch", "--quiet", "-c", "merged"]);
        git(&history.server, &["merge", "--quiet", "-s", "ours", "-m", "merge", "change"]);
        let checkout = history.clone(&["--depth=1", "--branch", "merged"]);
        let found = history.base(&checkout, &[], Some((&history.url(), "main"))).await;
        assert_eq!(found.unwrap(), [(history.tip.clone(), "newest".into())]);
    }

    /// A push names the commit before it, which need not be in the history of the checkout.
    #[tokio::test]
    async fn a_known_commit_is_taken_from_the_checkout_or_from_the_server() {
        let history = History::new();
        let url = history.url();
        let nowhere = Url::parse("file:///nowhere").unwrap();
        for (words, remote, wanted) in [
            (&["--branch", "change"][..], &nowhere, true),
            (&["--depth=1", "--branch", "change"], &url, true),
            (&["--depth=1", "--branch", "change"], &nowhere, false),
        ] {
            let checkout = history.clone(words);
            let query = BaseQuery { checkout: &checkout, local: &[], remote: Some((remote, "main")) };
            let scratch = history.bench.path("scratch");
            let (bench, start) = (&history.bench, Some(history.start.as_str()));
            let found = base_files(&bench.runner, &bench.access, &query, start, &scratch).await;
            assert_eq!(found.is_ok(), wanted, "{words:?} {remote}: {found:?}");
            if let Ok(files) = found {
                assert_eq!(files.commit, history.start);
                assert_eq!(fs_err::read_to_string(files.root.join("rules")).unwrap(), "of the base");
            }
            for directory in [checkout, scratch.clone()] {
                fs_err::remove_dir_all(directory).unwrap();
            }
            fs_err::create_dir(&scratch).unwrap();
        }
    }

    /// The history before the change: from a full clone, from the server, and as far as a shallow clone has it.
    #[tokio::test]
    async fn the_commits_before_a_change_are_listed_the_nearest_first() {
        let history = History::new();
        let first = git(&history.server, &["rev-parse", &format!("{}^", history.start)]);
        let both = [history.start.clone(), first.clone()];
        let (url, nowhere) = (history.url(), Url::parse("file:///nowhere").unwrap());
        let main = "refs/remotes/origin/main".to_owned();
        let start = Some(history.start.as_str());
        // Words of the clone, the server, the known commit, how many, and the result.
        type Row<'a> = (&'a [&'a str], &'a Url, Option<&'a str>, usize, Option<&'a [String]>);
        let table: [Row; 8] = [
            (&["--branch", "change"], &nowhere, None, 50, Some(&both)),
            (&["--branch", "change"], &nowhere, None, 0, Some(&both[..1])),
            (&["--depth=1", "--branch", "change"], &url, None, 50, Some(&both)),
            (&["--depth=1", "--branch", "change"], &nowhere, None, 50, None),
            (&["--branch", "change"], &nowhere, start, 50, Some(&both)),
            (&["--depth=1", "--branch", "change"], &url, start, 50, Some(&both)),
            (&["--depth=1", "--branch", "change"], &nowhere, start, 50, None),
            // The third commit of the clone is the one in which the change began.
            (&["--depth=3", "--branch", "change"], &nowhere, start, 50, Some(&both[..1])),
        ];
        for (words, server, commit, most, wanted) in table {
            let checkout = history.clone(words);
            let scratch = history.bench.path("scratch");
            let local = [main.clone()];
            let query = BaseQuery { checkout: &checkout, local: &local, remote: Some((server, "main")) };
            let bench = &history.bench;
            let found = ancestry(&bench.runner, &bench.access, &query, commit, most, &scratch).await;
            assert_eq!(found.as_deref().ok(), wanted, "{words:?} {server} {commit:?} {most}: {found:?}");
            for directory in [checkout, scratch.clone()] {
                fs_err::remove_dir_all(directory).unwrap();
            }
            fs_err::create_dir(&scratch).unwrap();
        }
    }

    /// The commits of a merged branch are none of the branch.
    #[tokio::test]
    async fn commits_of_merged_branches_are_not_listed() {
        let history = History::new();
        git(&history.server, &["merge", "--quiet", "-s", "ours", "-m", "merge", "change"]);
        git(&history.server, &["switch", "--quiet", "-c", "next"]);
        let checkout = history.clone(&["--branch", "next"]);
        let local = ["refs/remotes/origin/main".to_owned()];
        let query = BaseQuery { checkout: &checkout, local: &local, remote: None };
        let bench = &history.bench;
        let scratch = bench.path("scratch");
        let found = ancestry(&bench.runner, &bench.access, &query, None, 50, &scratch).await.unwrap();
        let merge = git(&history.server, &["rev-parse", "main"]);
        assert_eq!(found[..3], [merge, history.tip.clone(), history.start.clone()]);
        assert_eq!(found.len(), 4);
    }

    /// Whatever history the change has, the rules are those of the branch.
    #[tokio::test]
    async fn a_change_without_a_common_history_is_based_on_the_newest() {
        let history = History::new();
        let checkout = history.bench.path("checkout");
        fs_err::create_dir(&checkout).unwrap();
        git(&checkout, &["init", "--quiet"]);
        commit(&checkout, "rules", "of the change");
        let newest = [(history.tip.clone(), "newest".to_owned())];
        // The server does not know the commit.
        let found = history.base(&checkout, &[], Some((&history.url(), "main"))).await;
        assert_eq!(found.unwrap(), newest);
        // The server has the commit, and the histories have no commit in common.
        git(&history.server, &["fetch", "--quiet", checkout.to_str().unwrap(), "HEAD:refs/pull/7/head"]);
        fs_err::remove_dir_all(history.bench.path("scratch")).unwrap();
        fs_err::create_dir(history.bench.path("scratch")).unwrap();
        let found = history.base(&checkout, &[], Some((&history.url(), "main"))).await;
        assert_eq!(found.unwrap(), newest);
    }

    #[tokio::test]
    async fn a_base_that_cannot_be_fetched_is_an_error() {
        let history = History::new();
        let checkout = history.clone(&["--depth=1", "--branch", "change"]);
        let unreachable = Url::parse("file:///nowhere").unwrap();
        let error =
            history.base(&checkout, &["refs/remotes/origin/main"], Some((&unreachable, "main"))).await;
        assert_eq!(error.unwrap_err().class, agent_types::error::Class::Upstream);
        fs_err::remove_dir_all(history.bench.path("scratch")).unwrap();
        fs_err::create_dir(history.bench.path("scratch")).unwrap();
        let error = history.base(&checkout, &["missing"], None).await.unwrap_err();
        assert!(error.message.contains("git does not find `missing`"), "{error}");
        // The shallow clone's copy of the base branch is used.
        git(&checkout, &["fetch", "--quiet", "--depth=1", "origin", "main:refs/remotes/origin/main"]);
        let found =
            history.base(&checkout, &["refs/remotes/origin/main"], Some((&unreachable, "main"))).await;
        assert_eq!(found.unwrap(), [(history.tip.clone(), "newest".into())]);
    }
}
