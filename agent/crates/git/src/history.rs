//! The commits between two commits of a repository, as its server has them.

use std::path::Path;

use url::Url;

use agent_types::error::{Error, Result};
use agent_types::source::is_commit;

use super::address::bare;
use super::failure::Failure;
use super::program::Git;

/// Depths of history that are tried in order; the last is git's "infinite" depth.
const DEPTHS: [&str; 3] = ["100", "2000", "2147483647"];

/// Commits that are listed of each direction.
const LISTED: usize = 100;

/// What lies between two commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// `ID SUBJECT` of the commits that only the new one has, the newest first.
    pub added: Vec<String>,
    /// Likewise of the old one.
    pub removed: Vec<String>,
    /// Whether there are more of either than are listed.
    pub is_cut: bool,
}

/// Asks the server for the commits between `old` and `new`. `directory` is empty; it gets a repository without files.
///
/// # Errors
/// Upstream, if the server does not answer; usage, if it lacks one of the commits.
pub async fn history(git: &Git<'_>, directory: &Path, url: &Url, old: &str, new: &str) -> Result<History> {
    between(git, directory, url, old, new).await.map_err(|failure| failure.into_error("history", Some(url)))
}

async fn between(
    git: &Git<'_>,
    directory: &Path,
    url: &Url,
    old: &str,
    new: &str,
) -> Result<History, Failure> {
    if ![old, new].iter().all(|commit| is_commit(commit)) {
        return Err(Error::usage("a commit has no full id").into());
    }
    git.local(directory, ["init", "--quiet", "--bare", "--template="]).await?;
    for depth in DEPTHS {
        let depth = format!("--depth={depth}");
        let words =
            ["fetch", "--progress", "--no-tags", "--no-recurse-submodules", "--filter=tree:0", &depth];
        git.network(directory, [&words[..], &[bare(url).as_str(), old, new]].concat()).await?;
        // Where history is cut, nothing says that there is a common commit.
        if git.succeeds(directory, ["merge-base", old, new]).await? {
            break;
        }
    }
    let added = log(git, directory, old, new).await?;
    let removed = log(git, directory, new, old).await?;
    let is_cut = added.len() > LISTED || removed.len() > LISTED;
    let first = |mut lines: Vec<String>| {
        lines.truncate(LISTED);
        lines
    };
    Ok(History { added: first(added), removed: first(removed), is_cut })
}

/// The commits that `to` has and `from` has not.
async fn log(git: &Git<'_>, directory: &Path, from: &str, to: &str) -> Result<Vec<String>, Failure> {
    let (most, range) = (format!("--max-count={}", LISTED + 1), format!("{from}..{to}"));
    let words =
        ["log", "-z", "--no-color", "--no-show-signature", "--abbrev=12", "--format=%h %s", &most, &range];
    let listed = git.local(directory, words).await?;
    Ok(listed.split('\0').map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fixture::Bench;

    #[tokio::test]
    async fn lists_the_commits_of_both_sides() {
        let bench = Bench::new();
        let up = bench.upstream("up", &[("a", "")]).await;
        let begin = up.git(&["rev-parse", "HEAD"]).await;
        up.git(&["commit", "-q", "--allow-empty", "-m", "one"]).await;
        let one = up.git(&["rev-parse", "HEAD"]).await;
        up.git(&["checkout", "-q", "-b", "side", &begin]).await;
        up.commits(120).await;
        let side = up.git(&["rev-parse", "HEAD"]).await;
        let url = up.url();
        let git = bench.git(Some(&url), &[]);
        let ask = async |name: &str, old: &str, new: &str| {
            let directory = bench.path(name);
            fs_err::create_dir(&directory).unwrap();
            history(&git, &directory, &url, old, new).await
        };
        let found = ask("x", &begin, &one).await.unwrap();
        let wanted = History { added: vec![format!("{} one", &one[..12])], ..History::default() };
        assert_eq!(found, wanted);
        let found = ask("y", &one, &side).await.unwrap();
        assert_eq!((found.added.len(), found.removed.len(), found.is_cut), (LISTED, 1, true));
        assert!(found.added[0].ends_with(" 120"), "{:?}", found.added[0]);
        assert!(ask("z", &begin, &"1".repeat(40)).await.is_err());
    }
}
