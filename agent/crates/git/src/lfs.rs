//! Files of Git LFS of which a work tree holds only the pointers.

use std::path::Path;

use agent_fs::untrusted;

use super::failure::Failure;
use super::program::Git;

/// A pointer begins so and is shorter than 1024 bytes (docs/spec.md of git-lfs).
const BEGIN: &[u8] = b"version https://git-lfs.github.com/spec/";
const LONGEST: u64 = 1024;

/// So many files are looked at; of a repository with more it is known by then.
const MOST: usize = 10_000;

/// Names of files, relative to the directory, that are pointers instead of what they point to.
pub async fn lfs_pointers(git: &Git<'_>, directory: &Path) -> Result<Vec<String>, Failure> {
    // One look into the index; nearly no repository has such files.
    let attributes =
        ["grep", "--cached", "-q", "-F", "-e", "filter=lfs", "--", ":(top,glob)**/.gitattributes"];
    if !git.agrees(directory, attributes).await? {
        return Ok(Vec::new());
    }
    let listed = git.local(directory, ["ls-files", "-z", "--", ":(attr:filter=lfs)"]).await?;
    let is_pointer = |name: &&str| {
        let bytes = untrusted::read(&directory.join(name), LONGEST);
        bytes.is_ok_and(|bytes| bytes.starts_with(BEGIN))
    };
    let names = listed.split('\0').filter(|name| !name.is_empty()).take(MOST);
    Ok(names.filter(is_pointer).map(str::to_owned).collect())
}

/// The notice about them and what to do; `None` where there are none. `whose` begins the sentence.
pub fn lfs_notice(whose: &str, pointers: &[String]) -> Option<String> {
    const NAMED: usize = 3;
    if pointers.is_empty() {
        return None;
    }
    let shown: Vec<String> =
        pointers.iter().take(NAMED).map(|name| format!("`{}`", name.escape_debug())).collect();
    let more = pointers.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "{whose} holds Git LFS pointers instead of the files themselves, which are not fetched: {}{more}",
        shown.join(", ")
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::fixture::Bench;

    #[tokio::test]
    async fn pointers_are_found_and_files_that_were_fetched_are_not() {
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
    fn the_notice_names_a_few() {
        assert_eq!(lfs_notice("repo x", &[]), None);
        let names: Vec<String> = ["a", "b", "c", "d\n", "e"].map(str::to_owned).into();
        assert_eq!(
            lfs_notice("repo x", &names).unwrap(),
            "repo x holds Git LFS pointers instead of the files themselves, which are not fetched: `a`, `b`, `c` and 2 more"
        );
    }
}
