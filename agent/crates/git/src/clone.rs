//! Makes clones that have exactly one commit's tree, in a new directory.
//!
//! A clone is the work tree and the minimum that git needs for queries about it: one commit with its objects
//! in one pack, a detached HEAD, an index, and the agent's configuration. It has no references, no hooks and
//! no remote.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fs_err as fs;

use agent_fs::remove::remove_tree;
use agent_process::blocking;
use agent_types::error::{Error, Result};
use agent_types::source::GitSource;

use super::failure::{Failure, Kind};
use super::fetch::Fetch;
use super::program::Git;
use super::remote::explain;
use super::worktree::entries;

/// Git's configuration in a clone.
///
/// A clone never changes, so git treats its files as unchanged without a check (`ignoreStat`). BitBake asks
/// git for changes in each layer at each start; on a share that takes thousands of round trips. The index also
/// stays valid when the clone is copied or its modes change.
pub const CONFIGURATION: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
    \tlogallrefupdates = false\n\tignoreStat = true\n";

/// A local clone of the same repository, whose objects need not be fetched again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The work tree.
    pub path: PathBuf,
    pub commit: String,
}

/// A finished clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloned {
    pub commit: String,
    /// The commit object, decoded lossily.
    pub object: String,
    /// The id of its tree.
    pub tree: String,
}

/// Clones the wanted commit into `directory`, which must not exist.
///
/// # Errors
/// Upstream, if the server cannot be reached; usage, if it does not have the branch, tag or commit; machine,
/// for disk and permission errors and a corrupt seed; cancelled; out of time.
pub async fn clone(
    git: &Git<'_>,
    directory: &Path,
    name: &str,
    source: &GitSource,
    seed: Option<&Seed>,
) -> Result<Cloned> {
    let fetch = Fetch::new(git, name, source)?;
    let job = CloneJob { git, directory };
    let cloned = match job.clone(&fetch, seed).await {
        // The seed may be corrupt.
        Err(failure) if seed.is_some() && failure.may_succeed_with_new_clone() => {
            let (failed, home) = (directory.to_owned(), job.home()?.to_owned());
            blocking(move || remove_tree(&failed, &home)).await?;
            job.clone(&fetch, None).await
        }
        other => other,
    };
    match cloned {
        Ok(cloned) => Ok(cloned),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, job.home()?, failure).await),
    }
}

/// Verifies that the wanted commit is on the wanted branch, with a repository in `directory`, which must not
/// exist.
///
/// # Errors
/// As [`clone`]; usage, if the commit is not on the branch.
pub async fn verify_on_branch(
    git: &Git<'_>,
    directory: &Path,
    name: &str,
    source: &GitSource,
    seed: Option<&Seed>,
) -> Result<()> {
    let fetch = Fetch::new(git, name, source)?;
    let job = CloneJob { git, directory };
    let fetched = async {
        job.init(seed).await?;
        fetch.run(directory).await
    };
    match fetched.await {
        Ok(_) => Ok(()),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, job.home()?, failure).await),
    }
}

/// Finds the current commit of the source and verifies it, with a repository in `directory`, which must not
/// exist. Fetches no files if the server supports that.
///
/// # Errors
/// As [`clone`]; usage, if the object is not a commit, does not exist, or is not on its branch.
pub async fn verify(git: &Git<'_>, directory: &Path, name: &str, source: &GitSource) -> Result<String> {
    let fetch = Fetch::new(git, name, source)?.without_files();
    let job = CloneJob { git, directory };
    let fetched = async {
        job.init(None).await?;
        fetch.run(directory).await
    };
    match fetched.await {
        Ok(commit) => Ok(commit),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, job.home()?, failure).await),
    }
}

/// Reads every object of a clone: checks that none is missing and that each matches its id. Returns git's
/// message if the clone is corrupt.
///
/// # Errors
/// If git cannot run or is stopped.
pub async fn find_corruption(git: &Git<'_>, path: &Path) -> Result<Option<String>> {
    match check_objects(git, path).await {
        Ok(()) => Ok(None),
        Err(failure @ Failure::Git { .. }) => Ok(Some(failure.brief())),
        Err(Failure::Error(error)) => Err(error),
    }
}

/// Writes files of the clone's commit into `directory`, converted by their git attributes.
///
/// # Errors
/// If git cannot write them.
pub async fn checkout_files(
    git: &Git<'_>,
    path: &Path,
    name: &str,
    files: &[PathBuf],
    directory: &Path,
) -> Result<()> {
    let mut prefix = OsString::from("--prefix=");
    prefix.push(directory);
    prefix.push("/");
    for some in files.chunks(FILES_PER_CALL) {
        let words =
            ["checkout-index".into(), "--quiet".into(), "--force".into(), prefix.clone(), "--".into()];
        let words = words.into_iter().chain(some.iter().map(|file| file.clone().into_os_string()));
        let written = git.local(path, words).await;
        written.map_err(|failure| failure.into_error(&format!("repos.{name}"), None))?;
    }
    Ok(())
}

/// Files per command line, so that it stays below the kernel's limit.
const FILES_PER_CALL: usize = 400;

struct CloneJob<'a> {
    git: &'a Git<'a>,
    directory: &'a Path,
}

impl CloneJob<'_> {
    fn home(&self) -> Result<&Path> {
        let nowhere = || Error::internal(format!("`{}` has no parent directory", self.directory.display()));
        self.directory.parent().ok_or_else(nowhere)
    }

    async fn clone(&self, fetch: &Fetch<'_>, seed: Option<&Seed>) -> Result<Cloned, Failure> {
        self.init(seed).await?;
        let commit = fetch.run(self.directory).await?;
        self.check_out(&commit).await?;
        self.verify(&commit).await?;
        self.remove_unneeded().await?;
        check_objects(self.git, self.directory).await?;
        let object = self.git.local(self.directory, ["cat-file", "commit", &commit]).await?;
        let tree =
            self.git.local(self.directory, ["rev-parse", "--verify", &format!("{commit}^{{tree}}")]).await?;
        Ok(Cloned { commit, object: from_first(&object, "tree ").to_owned(), tree: tree.trim().to_owned() })
    }

    async fn init(&self, seed: Option<&Seed>) -> Result<(), Failure> {
        fs::create_dir(self.directory)?;
        self.git.local(self.directory, ["init", "--quiet", "--template="]).await?;
        // The site's `init` settings must not affect a clone.
        let config = self.directory.join(".git/config");
        remove_tree(&config, self.directory)?;
        fs::write(&config, CONFIGURATION)?;
        match seed {
            Some(seed) => self.copy_objects(seed).await,
            None => Ok(()),
        }
    }

    /// Copies the objects of another clone, so that the server sends only new ones.
    async fn copy_objects(&self, seed: &Seed) -> Result<(), Failure> {
        let (from, to) = (seed.path.join(".git"), self.directory.join(".git"));
        blocking(move || copy_packs(&from, &to)).await?;
        // Git tells the server only about objects that references reach.
        self.git.local(self.directory, ["update-ref", "refs/seed", &seed.commit]).await.map(drop)
    }

    async fn check_out(&self, commit: &str) -> Result<(), Failure> {
        let (git, directory) = (self.git, self.directory);
        git.local(directory, ["update-ref", "--no-deref", "HEAD", commit]).await?;
        git.local(directory, ["reset", "--hard", "--quiet", commit]).await.map(drop)
    }

    /// Verifies that HEAD is the commit and that the work tree has no other files. The code that makes the
    /// clone read-only checks the content of the files.
    async fn verify(&self, commit: &str) -> Result<(), Failure> {
        let (git, directory) = (self.git, self.directory);
        let head = git.commit_of(directory, "HEAD").await?;
        if head != commit {
            let message = format!("{} is at {head} instead of {commit}", directory.display());
            return Err(Error::internal(message).into());
        }
        let status = ["status", "--porcelain", "-z", "--ignored", "--untracked-files=all", "--no-renames"];
        let status = git.local(directory, [&status[..], &["--ignore-submodules=all"]].concat()).await?;
        match entries(&status).into_iter().next() {
            None => Ok(()),
            Some(left) => Err(self.other(
                "status",
                format!("`{}` in {} is not in the commit", left.path.escape_debug(), directory.display()),
            )),
        }
    }

    /// Removes all references but HEAD, and every object and file that HEAD does not need.
    async fn remove_unneeded(&self) -> Result<(), Failure> {
        let (git, directory) = (self.git, self.directory);
        let dot_git = directory.join(".git");
        for name in ["refs", "packed-refs", "logs", "FETCH_HEAD", "ORIG_HEAD"] {
            remove_tree(&dot_git.join(name), &dot_git)?;
        }
        fs::create_dir(dot_git.join("refs"))?;
        // Writes one pack of what HEAD needs; `prune` removes the seed's entries from `shallow`.
        let repack = ["repack", "-a", "-d", "-q", "-n", "--no-write-bitmap-index"];
        git.local(directory, repack).await?;
        git.local(directory, ["prune", "--expire=now"]).await?;
        let kept = ["HEAD", "config", "index", "shallow", "objects", "refs"];
        remove_all_but(&dot_git, |name| kept.contains(&name))?;
        remove_all_but(&dot_git.join("objects"), |name| ["pack", "info"].contains(&name))?;
        remove_all_but(&dot_git.join("objects/info"), |_| false)?;
        let pack_file = |name: &str| [".pack", ".idx", ".rev"].iter().any(|end| name.ends_with(end));
        remove_all_but(&dot_git.join("objects/pack"), pack_file)?;
        fs::create_dir_all(dot_git.join("objects/info"))?;
        Ok(())
    }

    fn other(&self, verb: &str, said: String) -> Failure {
        let log = self.git.runner.logs.clone();
        Failure::Git { kind: Kind::Other, verb: verb.into(), remote: false, said: vec![said], log }
    }
}

/// Checks that each object matches its id, and that HEAD's objects are complete. `git fsck` does the same, but
/// also rejects dates and modes that real histories have.
async fn check_objects(git: &Git<'_>, path: &Path) -> Result<(), Failure> {
    let mut words: Vec<OsString> = vec!["verify-pack".into(), "--".into()];
    for entry in fs::read_dir(path.join(".git/objects/pack"))? {
        let pack = entry?.path();
        if pack.extension().is_some_and(|end| end == "idx") {
            words.push(pack.into());
        }
    }
    for words in [words, ["rev-list", "--objects", "--quiet", "HEAD"].map(OsString::from).into()] {
        git.local(path, words).await.map_err(|failure| match failure {
            Failure::Git { kind: Kind::Other, verb, remote, said, log } => {
                Failure::Git { kind: Kind::Corrupt, verb, remote, said, log }
            }
            other => other,
        })?;
    }
    Ok(())
}

/// Copies the packs of one `.git` to another, and its list of shallow commits.
fn copy_packs(from: &Path, to: &Path) -> Result<()> {
    for pack in fs::read_dir(from.join("objects/pack"))? {
        let pack = pack?;
        let target = to.join("objects/pack").join(pack.file_name());
        // Hard links are safe: git never writes to packs. They fail across file systems.
        if fs::hard_link(pack.path(), &target).is_err() {
            fs::copy(pack.path(), &target)?;
        }
    }
    if from.join("shallow").exists() {
        fs::write(to.join("shallow"), fs::read(from.join("shallow"))?)?;
    }
    Ok(())
}

/// Deletes all entries of the directory except those that `is_kept` accepts.
fn remove_all_but(directory: &Path, is_kept: impl Fn(&str) -> bool) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !is_kept(&entry.file_name().to_string_lossy()) {
            remove_tree(&entry.path(), directory)?;
        }
    }
    Ok(())
}

/// Skips git's warnings before the answer: both arrive in one stream.
fn from_first<'a>(text: &'a str, begin: &str) -> &'a str {
    let start = text.match_indices(begin).find(|(at, _)| *at == 0 || text[..*at].ends_with('\n'));
    start.map_or(text, |(at, _)| &text[at..])
}
