//! Finds Git LFS files of which a work tree has only the pointers.

use std::path::Path;

use agent_fs::remove::remove_tree;
use agent_fs::untrusted;
use agent_process::blocking;
use url::Url;

use super::address::bare;
use super::failure::Failure;
use super::program::Git;

/// Start and maximum size of a pointer (docs/spec.md of git-lfs).
const POINTER_START: &[u8] = b"version https://git-lfs.github.com/spec/";
const MAX_POINTER: u64 = 1024;

/// Files per command line, so that it stays below the kernel's limit.
const FILES_PER_CALL: usize = 400;

/// Maximum number of files to check. A repository with more LFS files is recognized by then.
const MAX_FILES: usize = 10_000;

/// Lists the files below the directory that are LFS pointers, with relative paths.
pub async fn lfs_pointers(git: &Git<'_>, directory: &Path) -> Result<Vec<String>, Failure> {
    // Checks the index first, because few repositories have such files.
    let attributes =
        ["grep", "--cached", "-q", "-F", "-e", "filter=lfs", "--", ":(top,glob)**/.gitattributes"];
    if !git.succeeds(directory, attributes).await? {
        return Ok(Vec::new());
    }
    let listed = git.local(directory, ["ls-files", "-z", "--", ":(attr:filter=lfs)"]).await?;
    let is_pointer = |name: &&str| {
        let bytes = untrusted::read(&directory.join(name), MAX_POINTER);
        bytes.is_ok_and(|bytes| bytes.starts_with(POINTER_START))
    };
    let names = listed.split('\0').filter(|name| !name.is_empty()).take(MAX_FILES);
    Ok(names.filter(is_pointer).map(str::to_owned).collect())
}

/// Replaces these pointers in a work tree of the agent's own by their files, with git-lfs. For git, the work tree has no
/// changes afterwards.
pub async fn lfs_pull(
    git: &Git<'_>,
    directory: &Path,
    url: &Url,
    pointers: &[String],
) -> Result<(), Failure> {
    let address = bare(url);
    git.local(directory, ["config", "remote.origin.url", address.as_str()]).await?;
    git.local(directory, ["lfs", "install", "--local", "--skip-repo"]).await?;
    git.server(directory, ["lfs", "pull", "origin"]).await?;
    for section in ["remote.origin", "filter.lfs"] {
        git.local(directory, ["config", "--remove-section", section]).await?;
    }
    let objects = directory.join(".git/lfs");
    blocking(move || remove_tree(&objects, objects.parent().unwrap_or(&objects))).await?;
    for some in pointers.chunks(FILES_PER_CALL) {
        let words = ["update-index", "--assume-unchanged", "--"].map(str::to_owned);
        git.local(directory, words.into_iter().chain(some.iter().cloned())).await?;
    }
    Ok(())
}

/// The notice about LFS pointers; `None` if there are none. `whose` is the start of the sentence.
pub fn lfs_notice(whose: &str, pointers: &[String]) -> Option<String> {
    let shown = shown_paths(pointers);
    (!pointers.is_empty())
        .then(|| format!("{whose} has Git LFS pointers instead of files; LFS files are not fetched: {shown}"))
}

/// The first paths of a list, for a message.
pub fn shown_paths(paths: &[String]) -> String {
    const NAMED: usize = 3;
    let shown: Vec<String> =
        paths.iter().take(NAMED).map(|name| format!("`{}`", name.escape_debug())).collect();
    let more = paths.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::fixture::Bench;

    #[tokio::test]
    async fn lists_pointers_and_skips_fetched_files() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
        let bench = Bench::new();
        let up = bench
            .upstream(
                "up",
                &[
                    ("sub/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n"),
                    ("sub/a.bin", pointer),
                    ("sub/fetched.bin", "hello"),
                    ("sub/deep/\u{fc} b.bin", pointer),
                    ("outside.bin", pointer),
                ],
            )
            .await;
        let git = bench.git(None, &[]);
        let found = lfs_pointers(&git, &up.path).await.unwrap();
        assert_eq!(found, ["sub/a.bin", "sub/deep/\u{fc} b.bin"]);
        let plain = bench.upstream("plain", &[("a.bin", pointer)]).await;
        assert!(lfs_pointers(&git, &plain.path).await.unwrap().is_empty(), "no attribute, no LFS");
    }

    #[test]
    fn notice_names_at_most_three_files() {
        assert_eq!(lfs_notice("repo x", &[]), None);
        let names: Vec<String> = ["a", "b", "c", "d\n", "e"].map(str::to_owned).into();
        assert_eq!(
            lfs_notice("repo x", &names).unwrap(),
            "repo x has Git LFS pointers instead of files; LFS files are not fetched: `a`, `b`, `c` and 2 more"
        );
    }
}
