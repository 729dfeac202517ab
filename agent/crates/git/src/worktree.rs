//! Inspects a work tree of another user: its commit, its branch, and whether it has changes. Never writes to it.

use std::path::{Path, PathBuf};

use agent_process::{Runner, User};
use agent_types::error::{Class, Result};
use agent_types::source::is_commit;

use super::failure::Failure;
use super::lfs::lfs_pointers;
use super::program::Git;
use super::submodules::empty_submodules;

/// The state of a local directory in git.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkTree {
    /// `None`: not a git work tree, no commit yet, or git failed (`trouble`).
    pub commit: Option<String>,
    /// Git's id of all files of the commit.
    pub tree: Option<String>,
    /// `None` for a detached HEAD.
    pub branch: Option<String>,
    /// Uncommitted changes or new files in the directory.
    pub dirty: bool,
    /// Git LFS files of which only the pointer exists.
    pub lfs_pointers: Vec<String>,
    /// Submodules whose directories are empty.
    pub empty_submodules: Vec<String>,
    /// Git's message, if it failed.
    pub trouble: Option<String>,
}

/// Inspects a directory inside or at the top of a work tree. Changes below `ignored` (the agent's own output)
/// do not count. Git runs as `reader` instead of the owner, if it is set.
///
/// # Errors
/// If git cannot start, or the job is stopped. A failure of git is not an error; see [`WorkTree::trouble`].
pub async fn inspect(
    runner: &Runner,
    label: &str,
    directory: &Path,
    ignored: &[PathBuf],
    reader: Option<&User>,
) -> Result<WorkTree> {
    // Git compares resolved paths; older versions compare the path as given.
    let real = fs_err::canonicalize(directory)?;
    let Some(top) = top_of(&real) else { return Ok(WorkTree::default()) };
    let mut safe = vec![top.clone(), real.clone(), directory.to_path_buf()];
    safe.dedup();
    let git = Git::for_inspection(runner, label, &top, &safe, reader)?;
    match look(&git, &top, &real, ignored).await {
        Ok(tree) => Ok(tree),
        Err(failure @ Failure::Git { .. }) => {
            Ok(WorkTree { trouble: Some(failure.brief()), ..WorkTree::default() })
        }
        // The owner may have no access to a directory that root can read.
        Err(Failure::Error(error)) if error.class == Class::Machine => {
            Ok(WorkTree { trouble: Some(error.message), ..WorkTree::default() })
        }
        Err(Failure::Error(error)) => Err(error),
    }
}

/// The commit that is checked out in the directory; `None` if there is none or git cannot find it.
///
/// # Errors
/// If git cannot be started, or the job was stopped.
pub async fn head(runner: &Runner, label: &str, directory: &Path) -> Result<Option<String>> {
    let real = fs_err::canonicalize(directory)?;
    let Some(top) = top_of(&real) else { return Ok(None) };
    let safe = [top.clone(), real.clone(), directory.to_path_buf()];
    let git = Git::for_inspection(runner, label, &top, &safe, None)?;
    let commit = async {
        match knows(&git, &top, &real).await? {
            true => commit(&git, &real).await,
            false => Ok(None),
        }
    };
    match commit.await {
        Ok(commit) => Ok(commit),
        Err(Failure::Git { .. }) => Ok(None),
        Err(Failure::Error(error)) => Err(error),
    }
}

/// Whether the repository contains the directory. Otherwise the directory does not belong to its commits.
/// Fails with git's message if the repository is corrupt or not safe.
async fn knows(git: &Git<'_>, top: &Path, directory: &Path) -> Result<bool, Failure> {
    git.local(directory, ["rev-parse", "--git-dir"]).await?;
    Ok(directory == top || git.succeeds(directory, ["rev-parse", "--verify", "--quiet", "HEAD:./"]).await?)
}

/// The commit of HEAD.
async fn commit(git: &Git<'_>, directory: &Path) -> Result<Option<String>, Failure> {
    match git.local(directory, ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await {
        Ok(answer) => Ok(answer.lines().map(str::trim).find(|line| is_commit(line)).map(str::to_string)),
        Err(Failure::Git { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn look(git: &Git<'_>, top: &Path, directory: &Path, ignored: &[PathBuf]) -> Result<WorkTree, Failure> {
    if !knows(git, top, directory).await? {
        return Ok(WorkTree::default());
    }
    let (head, tree) = match commit(git, directory).await? {
        Some(head) => {
            let tree = git.object_of(directory, &format!("{head}^{{tree}}")).await?;
            (Some(head), Some(tree))
        }
        None => (None, None),
    };
    let branch = match git.local(directory, ["symbolic-ref", "--quiet", "--short", "HEAD"]).await {
        Ok(answer) => answer.lines().find(|line| !line.starts_with("warning:")).map(str::to_string),
        Err(Failure::Git { .. }) => None,
        Err(error) => return Err(error),
    };
    // Git runs in submodules without our `safe.directory`, so only their commit is compared.
    let args = [
        "status",
        "--porcelain",
        "-z",
        "--no-renames",
        "--untracked-files=normal",
        "--ignore-submodules=dirty",
    ];
    let status = git.local(directory, [&args[..], &["--", "."]].concat()).await?;
    let ignored: Vec<PathBuf> =
        ignored.iter().map(|path| fs_err::canonicalize(path).unwrap_or_else(|_| path.clone())).collect();
    let counts = |entry: &Entry| {
        let path = top.join(entry.path.trim_end_matches('/'));
        !ignored.iter().any(|own| path.starts_with(own))
    };
    let dirty = entries(&status).iter().any(counts);
    let lfs_pointers = lfs_pointers(git, directory).await?;
    let empty_submodules = empty_submodules(git, directory).await?;
    Ok(WorkTree { commit: head, tree, branch, dirty, lfs_pointers, empty_submodules, trouble: None })
}

/// The nearest ancestor that contains `.git`.
fn top_of(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().find(|path| path.join(".git").exists()).map(Path::to_path_buf)
}

/// One entry of `git status --porcelain -z --no-renames`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The two letters, e.g. ` M` or `??`.
    pub code: String,
    /// Relative to the top of the work tree; ends with `/` for a directory.
    pub path: String,
}

/// Parses `git status --porcelain -z --no-renames`. Names are not escaped, even with newlines and quotes.
/// Standard error (`warning: …`) may come before an entry, because both are one stream.
pub fn entries(status: &str) -> Vec<Entry> {
    status.split('\0').filter_map(entry).collect()
}

fn entry(mut record: &str) -> Option<Entry> {
    loop {
        let code = record.get(..2)?;
        let is_code = code != "  " && code.bytes().all(|b| b" MTADRCU?!".contains(&b));
        if is_code && let Some(path) = record.get(2..).and_then(|rest| rest.strip_prefix(' ')) {
            return Some(Entry { code: code.to_string(), path: path.to_string() });
        }
        record = record.split_once('\n')?.1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn parses_status_with_unusual_names() {
        let table: [(&str, &[(&str, &str)]); 7] = [
            ("", &[]),
            ("\n", &[]),
            (" M meta/a\0?? new/\0", &[(" M", "meta/a"), ("??", "new/")]),
            ("?? line one\nline two\0 D gone\0", &[("??", "line one\nline two"), (" D", "gone")]),
            ("?? \"quoted\" name\0", &[("??", "\"quoted\" name")]),
            ("A  grün/日本\0!! x.pyc\0", &[("A ", "grün/日本"), ("!!", "x.pyc")]),
            (
                "warning: could not open directory 'x/': Permission denied\n?? y\0warning: again\n",
                &[("??", "y")],
            ),
        ];
        for (given, wanted) in table {
            let found = entries(given);
            let found: Vec<_> = found.iter().map(|e| (e.code.as_str(), e.path.as_str())).collect();
            assert_eq!(found, wanted, "{given:?}");
        }
    }
}
