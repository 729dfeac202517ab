//! The files of a commit.

use std::path::Path;

use agent_types::error::Result;

use super::program::Git;

/// Lists the files and submodules of a commit: mode, id, path.
///
/// # Errors
/// If git fails.
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
