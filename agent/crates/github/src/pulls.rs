//! Pull requests and their changed lines: <https://docs.github.com/en/rest/pulls/pulls>.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::client::{Call, Client};
use super::failure::Result;
use super::repository::Repository;

/// GitHub lists at most 3000 files.
const PAGES: usize = 30;

/// A pull request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullRequest {
    pub number: u64,
    pub head: Head,
}

/// The branch that a pull request proposes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Head {
    /// The newest commit.
    pub sha: String,
}

/// A pull request by its number.
///
/// # Errors
/// If it cannot be read.
pub async fn get(client: &Client, repository: &Repository, number: u64) -> Result<PullRequest> {
    let number = number.to_string();
    client.json(&Call::get(&["repos", &repository.owner, &repository.name, "pulls", &number])).await
}

/// The open pull requests whose newest commit is this one. `owner` and `branch` are those of the head, in the
/// repository or in a fork.
///
/// # Errors
/// If they cannot be listed.
pub async fn with_head(
    client: &Client,
    repository: &Repository,
    owner: &str,
    branch: &str,
    commit: &str,
) -> Result<Vec<PullRequest>> {
    let call = Call::get(&["repos", &repository.owner, &repository.name, "pulls"])
        .query("state", "open")
        .query("head", format!("{owner}:{branch}"))
        .query("per_page", super::client::PAGE);
    let mut found: Vec<PullRequest> = client.json(&call).await?;
    found.retain(|pull| pull.head.sha == commit);
    Ok(found)
}

/// The parents of a commit.
///
/// # Errors
/// If it cannot be read.
pub async fn parents(client: &Client, repository: &Repository, commit: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Commit {
        parents: Vec<Parent>,
    }
    #[derive(Deserialize)]
    struct Parent {
        sha: String,
    }
    let path = ["repos", &repository.owner, &repository.name, "git", "commits", commit];
    let commit: Commit = client.json(&Call::get(&path)).await?;
    Ok(commit.parents.into_iter().map(|parent| parent.sha).collect())
}

/// The lines of each file that the diff of a pull request shows, in the new version of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff(BTreeMap<String, BTreeSet<u32>>);

impl Diff {
    pub fn has(&self, path: &str, line: u32) -> bool {
        self.0.get(path).is_some_and(|lines| lines.contains(&line))
    }

    /// Adds a file with its patch. GitHub omits the patch of binary and of very large files.
    pub fn add(&mut self, path: &str, patch: &str) {
        self.0.entry(path.to_owned()).or_default().extend(shown_lines(patch));
    }
}

/// The lines that the diff of a pull request shows.
///
/// # Errors
/// If it cannot be read.
pub async fn diff(client: &Client, repository: &Repository, number: u64) -> Result<Diff> {
    #[derive(Deserialize)]
    struct File {
        filename: String,
        #[serde(default)]
        patch: Option<String>,
    }
    let number = number.to_string();
    let (owner, name) = (&repository.owner, &repository.name);
    let call = || Call::get(&["repos", owner, name, "pulls", &number, "files"]);
    let files: Vec<File> = client.pages(call, PAGES, |_: &[File]| false).await?;
    let mut diff = Diff::default();
    for file in &files {
        diff.add(&file.filename, file.patch.as_deref().unwrap_or_default());
    }
    Ok(diff)
}

/// The new lines in the hunks of a unified diff: added ones and those around them.
fn shown_lines(patch: &str) -> Vec<u32> {
    let mut lines = Vec::new();
    let mut next: Option<u32> = None;
    for line in patch.lines() {
        if let Some(head) = line.strip_prefix("@@ ") {
            let new = head.split(' ').find_map(|part| part.strip_prefix('+'));
            next = new.and_then(|new| new.split(',').next()?.parse().ok());
            continue;
        }
        let Some(number) = next else { continue };
        // A line of the old file, and `\ No newline at end of file`, are not in the new one.
        if !line.starts_with(['-', '\\']) {
            lines.push(number);
            next = number.checked_add(1);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_patch() {
        let table: [(&str, &[u32]); 6] = [
            (
                "@@ -1,3 +1,4 @@ context\n one\n+two\n three\n-gone\n+four\n\\ No newline at end of file",
                &[1, 2, 3, 4],
            ),
            ("@@ -10 +12 @@\n-x\n+y", &[12]),
            ("@@ -0,0 +1,2 @@\n+a\n+b", &[1, 2]),
            ("@@ -1,2 +0,0 @@\n-a\n-b", &[]),
            ("@@ -1 +1 @@\n+a\n@@ -50,2 +51,3 @@\n x\n+y\n z", &[1, 51, 52, 53]),
            (
                "no diff\n@@ nonsense @@\n+x\n@@ -1 +99999999999 @@\n+x\n@@ -1 +4294967295 @@\n+x\n+y",
                &[u32::MAX],
            ),
        ];
        for (patch, wanted) in table {
            assert_eq!(shown_lines(patch), wanted, "{patch}");
        }
        let mut diff = Diff::default();
        diff.add("a/b.bb", "@@ -0,0 +1,2 @@\n+a\n+b");
        diff.add("binary", "");
        assert!(
            diff.has("a/b.bb", 2) && !diff.has("a/b.bb", 3) && !diff.has("binary", 1) && !diff.has("x", 1)
        );
    }
}
