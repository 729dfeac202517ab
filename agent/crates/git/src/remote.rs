//! Queries to a server that need no clone.

use std::path::Path;

use url::Url;

use agent_types::error::Error;
use agent_types::source::{Wanted, is_commit};

use super::address::{bare, display_url, is_poky};
use super::failure::{Failure, Kind};
use super::program::Git;

/// Resolves a source to its current commit. The server resolves branches and tags.
///
/// # Errors
/// If the server does not answer, or has no such branch or tag (usage, with similar names).
pub async fn resolve(
    git: &Git<'_>,
    name: &str,
    url: &Url,
    wanted: &Wanted,
    cwd: &Path,
) -> Result<String, Error> {
    let key = format!("repos.{name}");
    let reference = match wanted {
        Wanted::Commit(commit)
        | Wanted::CommitOnBranch { commit, .. }
        | Wanted::CommitOfTag { commit, .. } => return Ok(commit.clone()),
        Wanted::Branch(branch) => format!("refs/heads/{branch}"),
        Wanted::Tag(tag) => format!("refs/tags/{tag}"),
    };
    let peeled = format!("{reference}^{{}}");
    let address = bare(url);
    let answer = git
        .network(cwd, ["ls-remote", "--", address.as_str(), &reference, &peeled])
        .await
        .map_err(|failure| failure.into_error(&key, Some(url)))?;
    let found = advertised(&answer);
    let commit_of = |wanted: &str| found.iter().find(|(_, name)| name == wanted).map(|(id, _)| id.clone());
    match commit_of(&peeled).or_else(|| commit_of(&reference)) {
        Some(commit) => Ok(commit),
        None => Err(missing(git, name, url, wanted, cwd).await),
    }
}

/// The error for a branch or tag that the server does not have, with similar names.
async fn missing(git: &Git<'_>, name: &str, url: &Url, wanted: &Wanted, cwd: &Path) -> Error {
    let mixed_up = async |reference: String, meant: &str| {
        has(git, url, &reference, cwd).await.then(|| format!("it is a {meant}: write `{meant} = …`"))
    };
    let (kind, asked, near) = match wanted {
        Wanted::Branch(branch) | Wanted::CommitOnBranch { branch, .. } => {
            let gone = is_poky(url) && without_poky(branch);
            let near = if gone { None } else { near(git, url, "refs/heads/", branch, cwd).await };
            let gone = gone.then(|| {
                format!(
                    "walnascar is the last release of the poky repository; for {branch} use the repositories \
                     bitbake, openembedded-core and meta-yocto"
                )
            });
            let near = near.map(|near| format!("similar branches: {near}"));
            let hint = match gone {
                None => mixed_up(format!("refs/tags/{branch}"), "tag").await.or(near),
                gone => gone,
            };
            ("branch", branch, hint)
        }
        Wanted::Tag(tag) | Wanted::CommitOfTag { tag, .. } => {
            let near = near(git, url, "refs/tags/", tag, cwd).await;
            let near = near.map(|near| format!("similar tags: {near}"));
            ("tag", tag, mixed_up(format!("refs/heads/{tag}"), "branch").await.or(near))
        }
        Wanted::Commit(commit) => ("commit", commit, None),
    };
    let error =
        Error::usage(format!("`repos.{name}.{kind}`: `{}` has no {kind} `{asked}`", display_url(url)));
    match near {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Whether the server has exactly this reference.
async fn has(git: &Git<'_>, url: &Url, reference: &str, cwd: &Path) -> bool {
    let answer = git.network(cwd, ["ls-remote", "--", bare(url).as_str(), reference]).await;
    answer.is_ok_and(|answer| advertised(&answer).iter().any(|(_, name)| name == reference))
}

/// The server's names below `prefix` that are most similar to `asked`.
async fn near(git: &Git<'_>, url: &Url, prefix: &str, asked: &str, cwd: &Path) -> Option<String> {
    let pattern = format!("{prefix}*");
    // A failure is ignored: the caller reports its error without similar names.
    let answer = git.network(cwd, ["ls-remote", "--", bare(url).as_str(), &pattern]).await.ok()?;
    let there = advertised(&answer);
    let names = there.iter().filter_map(|(_, name)| name.strip_prefix(prefix));
    let near = nearest(asked, names.filter(|name| !name.ends_with("^{}")), 5);
    (!near.is_empty()).then(|| near.join(", "))
}

/// Turns a failure into the error for the user, with similar names for a missing branch or tag.
pub async fn explain(
    git: &Git<'_>,
    name: &str,
    url: &Url,
    wanted: &Wanted,
    cwd: &Path,
    failure: Failure,
) -> Error {
    match failure.kind() {
        Some(Kind::RefNotFound) => missing(git, name, url, wanted, cwd).await,
        _ => failure.into_error(&format!("repos.{name}"), Some(url)),
    }
}

/// Whether the branch belongs to a release without the combined poky repository.
fn without_poky(branch: &str) -> bool {
    use agent_types::release::{Release, Sources};
    Release::find(branch).is_some_and(|release| matches!(release.sources, Sources::Separate { .. }))
}

/// The names most similar to `asked`, best first, without dissimilar ones.
pub fn nearest<'a>(asked: &str, there: impl IntoIterator<Item = &'a str>, most: usize) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = there
        .into_iter()
        .map(|name| (strsim::jaro_winkler(asked, name), name))
        .filter(|(s, _)| *s > 0.7)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(most).map(|(_, name)| printable(name)).collect()
}

/// Replaces control characters: names come from servers and trees and go to a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Parses the lines `<id>\t<ref>` of `ls-remote`. Skips warnings between them.
fn advertised(answer: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (id, name) = line.split_once('\t')?;
        is_commit(id).then(|| (id.to_string(), name.to_string()))
    };
    answer.lines().filter_map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn parses_refs_of_ls_remote_and_skips_other_lines() {
        let id = "1d54d1c4736a114e1cecbe85a0306e3814d5ce70";
        let answer =
            format!("warning: redirecting to https://h/\n{id}\trefs/heads/a\nabc\trefs/heads/b\n{id} x\n");
        assert_eq!(advertised(&answer), [(id.to_string(), "refs/heads/a".to_string())]);
    }

    #[test]
    fn nearest_sorts_names_and_replaces_control_characters() {
        let there = ["scarthgap", "scarthgap-next", "master", "kirkstone", "scarthg\u{1b}[2Jap"];
        let near = nearest("scarthgab", there, 3);
        assert_eq!(near[0], "scarthgap");
        assert!(!near.contains(&"master".to_string()), "{near:?}");
        assert!(near.iter().all(|name| !name.contains('\u{1b}')), "{near:?}");
    }

    #[test]
    fn poky_has_no_releases_after_walnascar() {
        for (branch, wanted) in
            [("walnascar", false), ("whinlatter", true), ("wrynose", true), ("my-branch", false)]
        {
            assert_eq!(without_poky(branch), wanted, "{branch}");
        }
    }
}
