//! Clones that hold exactly one commit's tree, made anew in an empty place.
//!
//! What is left at the end is the work tree and the least that git needs to answer questions about
//! it: one commit with its objects in one pack, a detached HEAD, an index, the agent's own
//! configuration. No reference, no hook, no way back to the server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fs_err as fs;

use agent_fs::remove::remove_tree;
use agent_types::error::{Error, Result};
use agent_types::source::GitSource;

use super::failure::{Failure, Kind};
use super::fetch::Fetch;
use super::program::Git;
use super::remote::explain;
use super::worktree::entries;

/// What git's configuration in a clone is.
///
/// Nobody changes a clone, so that its files count as unchanged unasked (`ignoreStat`): BitBake asks git
/// for changes in each layer at each start, and on a share that is thousands of round trips. So the
/// index also fits where the clone is copied, or its modes are changed.
pub const CONFIGURATION: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
    \tlogallrefupdates = false\n\tignoreStat = true\n";

/// A clone of the same repository on this machine, whose objects need not be fetched again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The work tree.
    pub path: PathBuf,
    pub commit: String,
}

/// A clone that lies ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloned {
    pub commit: String,
    /// The commit as git keeps it, decoded lossily.
    pub object: String,
    /// The id of its tree.
    pub tree: String,
}

/// Makes `place`, which is not there yet, a work tree of exactly the wanted commit.
///
/// # Errors
/// Upstream when the server cannot be reached; usage when it does not have what is wanted; machine
/// for the disk and permissions, and for a seed that is broken; cancelled and out of time.
pub async fn clone(
    git: &Git<'_>,
    place: &Path,
    name: &str,
    source: &GitSource,
    seed: Option<&Seed>,
) -> Result<Cloned> {
    let fetch = Fetch::new(git, name, source)?;
    let job = Job { git, place };
    let cloned = match job.clone(&fetch, seed).await {
        // The seed may be what is broken.
        Err(failure) if seed.is_some() && failure.mended_by_new_clone() => {
            remove_tree(place, job.home()?)?;
            job.clone(&fetch, None).await
        }
        other => other,
    };
    match cloned {
        Ok(cloned) => Ok(cloned),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, job.home()?, failure).await),
    }
}

/// Finds out whether the wanted commit is on the wanted branch, with a repository in `place`, which is
/// not there yet.
///
/// # Errors
/// As [`clone`]; usage when the commit does not lie there.
pub async fn prove(
    git: &Git<'_>,
    place: &Path,
    name: &str,
    source: &GitSource,
    seed: Option<&Seed>,
) -> Result<()> {
    let fetch = Fetch::new(git, name, source)?;
    let job = Job { git, place };
    let fetched = async {
        job.begin(seed).await?;
        fetch.run(place).await
    };
    match fetched.await {
        Ok(_) => Ok(()),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, job.home()?, failure).await),
    }
}

/// Finds out which commit is wanted now and that it is one, in the repository `place`, which is not there yet. No
/// files are fetched where the server can leave them out.
///
/// # Errors
/// As [`clone`]; usage for what is not a commit, is not there, or does not lie on its branch.
pub async fn verify(git: &Git<'_>, place: &Path, name: &str, source: &GitSource) -> Result<String> {
    let fetch = Fetch::new(git, name, source)?.without_files();
    let job = Job { git, place };
    let fetched = async {
        job.begin(None).await?;
        fetch.run(place).await
    };
    match fetched.await {
        Ok(commit) => Ok(commit),
        Err(failure) => Err(explain(git, name, &source.url, &source.wanted, job.home()?, failure).await),
    }
}

/// Reads every object of a clone: all that the commit needs is there, and each is what its id says.
/// `None`: so it is. Else git's words.
///
/// # Errors
/// When git cannot be run to its end.
pub async fn damage(git: &Git<'_>, path: &Path) -> Result<Option<String>> {
    match examine(git, path).await {
        Ok(()) => Ok(None),
        Err(failure @ Failure::Git { .. }) => Ok(Some(failure.brief())),
        Err(Failure::Error(error)) => Err(error),
    }
}

/// The files and submodules of a commit: mode, id, path.
///
/// # Errors
/// When git cannot tell.
pub async fn listing(git: &Git<'_>, path: &Path, name: &str, commit: &str) -> Result<Vec<[String; 3]>> {
    let listed = git.local(path, ["ls-tree", "-r", "-z", "--full-tree", commit]).await;
    let listed = listed.map_err(|failure| failure.into_error(&format!("repos.{name}"), None))?;
    let line = |line: &str| {
        let (facts, path) = line.split_once('\t')?;
        let mut facts = facts.split(' ');
        let (mode, _, id) = (facts.next()?, facts.next()?, facts.next()?);
        Some([mode.to_owned(), id.to_owned(), path.to_owned()])
    };
    Ok(listed.split('\0').filter_map(line).collect())
}

/// Writes files of the clone's commit once more, into `place`, with the attributes that hold for them.
///
/// # Errors
/// When git cannot write them.
pub async fn write_again(
    git: &Git<'_>,
    path: &Path,
    name: &str,
    files: &[PathBuf],
    place: &Path,
) -> Result<()> {
    let mut prefix = OsString::from("--prefix=");
    prefix.push(place);
    prefix.push("/");
    for some in files.chunks(AT_ONCE) {
        let words =
            ["checkout-index".into(), "--quiet".into(), "--force".into(), prefix.clone(), "--".into()];
        let words = words.into_iter().chain(some.iter().map(|file| file.clone().into_os_string()));
        let written = git.local(path, words).await;
        written.map_err(|failure| failure.into_error(&format!("repos.{name}"), None))?;
    }
    Ok(())
}

/// File names in one command line: together shorter than what the kernel takes.
const AT_ONCE: usize = 400;

struct Job<'a> {
    git: &'a Git<'a>,
    place: &'a Path,
}

impl Job<'_> {
    fn home(&self) -> Result<&Path> {
        let nowhere = || Error::internal(format!("`{}` is no place for a clone", self.place.display()));
        self.place.parent().ok_or_else(nowhere)
    }

    async fn clone(&self, fetch: &Fetch<'_>, seed: Option<&Seed>) -> Result<Cloned, Failure> {
        self.begin(seed).await?;
        let commit = fetch.run(self.place).await?;
        self.check_out(&commit).await?;
        self.verify(&commit).await?;
        self.settle().await?;
        examine(self.git, self.place).await?;
        let object = self.git.local(self.place, ["cat-file", "commit", &commit]).await?;
        let tree =
            self.git.local(self.place, ["rev-parse", "--verify", &format!("{commit}^{{tree}}")]).await?;
        Ok(Cloned { commit, object: from_first(&object, "tree ").to_owned(), tree: tree.trim().to_owned() })
    }

    async fn begin(&self, seed: Option<&Seed>) -> Result<(), Failure> {
        fs::create_dir(self.place)?;
        self.git.local(self.place, ["init", "--quiet", "--template="]).await?;
        // Before git reads it: the site's `init` settings have no say in what a clone is.
        let config = self.place.join(".git/config");
        remove_tree(&config, self.place)?;
        fs::write(&config, CONFIGURATION)?;
        match seed {
            Some(seed) => self.sow(seed).await,
            None => Ok(()),
        }
    }

    /// Takes over the objects of another clone: the server then sends only what is new.
    async fn sow(&self, seed: &Seed) -> Result<(), Failure> {
        let (from, to) = (seed.path.join(".git"), self.place.join(".git"));
        for pack in fs::read_dir(from.join("objects/pack"))? {
            let pack = pack?;
            let target = to.join("objects/pack").join(pack.file_name());
            // Packs are never written to, only deleted. Another file system has no links to this one.
            if fs::hard_link(pack.path(), &target).is_err() {
                fs::copy(pack.path(), &target)?;
            }
        }
        if from.join("shallow").exists() {
            fs::write(to.join("shallow"), fs::read(from.join("shallow"))?)?;
        }
        // What a server is told that we have are references.
        self.git.local(self.place, ["update-ref", "refs/seed", &seed.commit]).await.map(drop)
    }

    async fn check_out(&self, commit: &str) -> Result<(), Failure> {
        let (git, place) = (self.git, self.place);
        git.local(place, ["update-ref", "--no-deref", "HEAD", commit]).await?;
        git.local(place, ["reset", "--hard", "--quiet", commit]).await.map(drop)
    }

    /// HEAD is the commit, and nothing else is in the work tree. What its files hold is for who seals
    /// them to find out.
    async fn verify(&self, commit: &str) -> Result<(), Failure> {
        let (git, place) = (self.git, self.place);
        let head = git.commit_of(place, "HEAD").await?;
        if head != commit {
            let message = format!("{} holds {head} instead of {commit}", place.display());
            return Err(Error::internal(message).into());
        }
        let status = ["status", "--porcelain", "-z", "--ignored", "--untracked-files=all", "--no-renames"];
        let status = git.local(place, [&status[..], &["--ignore-submodules=all"]].concat()).await?;
        match entries(&status).into_iter().next() {
            None => Ok(()),
            Some(left) => Err(self.other(
                "status",
                format!("`{}` in {} is not the commit's", left.path.escape_debug(), place.display()),
            )),
        }
    }

    /// Leaves HEAD alone to say what is needed, and drops all else.
    async fn settle(&self) -> Result<(), Failure> {
        let (git, place) = (self.git, self.place);
        let dot_git = place.join(".git");
        for name in ["refs", "packed-refs", "logs", "FETCH_HEAD", "ORIG_HEAD"] {
            remove_tree(&dot_git.join(name), &dot_git)?;
        }
        fs::create_dir(dot_git.join("refs"))?;
        // One pack of what HEAD needs; `prune` forgets where the history of the seed was cut.
        let repack = ["repack", "-a", "-d", "-q", "-n", "--no-write-bitmap-index"];
        git.local(place, repack).await?;
        git.local(place, ["prune", "--expire=now"]).await?;
        let kept = ["HEAD", "config", "index", "shallow", "objects", "refs"];
        keep(&dot_git, |name| kept.contains(&name))?;
        keep(&dot_git.join("objects"), |name| ["pack", "info"].contains(&name))?;
        keep(&dot_git.join("objects/info"), |_| false)?;
        let pack_file = |name: &str| [".pack", ".idx", ".rev"].iter().any(|end| name.ends_with(end));
        keep(&dot_git.join("objects/pack"), pack_file)?;
        fs::create_dir_all(dot_git.join("objects/info"))?;
        Ok(())
    }

    fn other(&self, verb: &str, said: String) -> Failure {
        let log = self.git.runner.logs.clone();
        Failure::Git { kind: Kind::Other, verb: verb.into(), remote: false, said: vec![said], log }
    }
}

/// Each object's bytes have the digest that is its id, and all that HEAD needs is there: what `git fsck`
/// does, without its opinions on how objects should look. Real histories hold dates and modes that it
/// calls errors.
async fn examine(git: &Git<'_>, path: &Path) -> Result<(), Failure> {
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

/// Deletes what is in the directory, except for some names.
fn keep(directory: &Path, is_kept: impl Fn(&str) -> bool) -> Result<()> {
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

/// Warnings of git may stand before the answer: both come as one stream.
fn from_first<'a>(text: &'a str, begin: &str) -> &'a str {
    let start = text.match_indices(begin).find(|(at, _)| *at == 0 || text[..*at].ends_with('\n'));
    start.map_or(text, |(at, _)| &text[at..])
}
