//! Submodules: what a commit says of them, and which a work tree lacks.

use std::collections::BTreeMap;
use std::path::Path;

use url::Url;

use agent_types::error::Result;

use super::address::bare;
use super::failure::Failure;
use super::listing::listing;
use super::program::Git;

/// The mode of a submodule in a tree.
const MODE: &str = "160000";

/// A submodule of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submodule {
    /// Relative to the top of the work tree.
    pub path: String,
    pub commit: String,
    /// As written in `.gitmodules`; `None`, if that has none.
    pub url: Option<String>,
}

/// The submodules of a commit.
///
/// # Errors
/// If git fails.
pub async fn submodules(git: &Git<'_>, path: &Path, name: &str, commit: &str) -> Result<Vec<Submodule>> {
    let links = listing(git, path, name, commit).await?.into_iter().filter(|[mode, ..]| mode == MODE);
    let links: Vec<_> = links.collect();
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let blob = format!("--blob={commit}:.gitmodules");
    let words = ["config", "-z", &blob, "--get-regexp", r"^submodule\..*\.(path|url)$"];
    let written = match git.local(path, words).await {
        Ok(text) => urls(&text),
        // There is no such file, or it is not valid.
        Err(Failure::Git { .. }) => BTreeMap::new(),
        Err(Failure::Error(error)) => return Err(error),
    };
    let submodule = |[_, commit, path]: [String; 3]| {
        let url = written.get(path.trim_end_matches('/')).cloned();
        Submodule { path, commit, url }
    };
    Ok(links.into_iter().map(submodule).collect())
}

/// The URLs by path, from git's list of `submodule.NAME.path` and `submodule.NAME.url`.
fn urls(listed: &str) -> BTreeMap<String, String> {
    let mut by_name: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for record in listed.split('\0') {
        let Some((key, value)) = record.split_once('\n') else { continue };
        let Some((name, key)) = key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.')) else {
            continue;
        };
        let entry = by_name.entry(name).or_default();
        match key {
            "path" => entry.0 = Some(value),
            _ => entry.1 = Some(value),
        }
    }
    let known = by_name.into_values().filter_map(|(path, url)| Some((path?, url?)));
    known.map(|(path, url)| (path.trim_end_matches('/').to_owned(), url.to_owned())).collect()
}

/// The complete URL of a submodule. As for git, `./` and `../` are relative to the repository that has it.
pub fn submodule_url(of: &Url, written: &str) -> String {
    if written.starts_with("./") || written.starts_with("../") {
        let mut url = bare(of);
        let base = of.path().trim_end_matches('/').to_owned();
        let mut parts: Vec<&str> = base.split('/').collect();
        let mut rest = written;
        loop {
            if let Some(next) = rest.strip_prefix("../") {
                // The first part is empty.
                if parts.len() > 1 {
                    parts.pop();
                }
                rest = next;
            } else if let Some(next) = rest.strip_prefix("./") {
                rest = next;
            } else {
                break;
            }
        }
        parts.push(rest.trim_end_matches('/'));
        url.set_path(&parts.join("/"));
        return url.into();
    }
    // git@host:path
    let colon = written.split_once(':').filter(|(host, path)| !host.contains('/') && !path.starts_with("//"));
    match colon {
        Some((host, path)) if host.contains('@') => format!("ssh://{host}/{}", path.trim_start_matches('/')),
        _ => written.to_owned(),
    }
}

/// The submodules whose directories are empty in a work tree of another user, with relative paths.
pub(super) async fn empty_submodules(git: &Git<'_>, directory: &Path) -> Result<Vec<String>, Failure> {
    let listed = git.local(directory, ["ls-files", "-s", "-z", "--", "."]).await?;
    let path = |record: &str| Some(record.rsplit_once("160000 ")?.1.split_once('\t')?.1.to_owned());
    let is_empty = |path: &String| {
        let entries = fs_err::read_dir(directory.join(path));
        entries.map_or(true, |mut entries| entries.next().is_none())
    };
    Ok(listed.split('\0').filter_map(path).filter(is_empty).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fixture::Bench;

    #[test]
    fn relative_urls_start_at_the_repository() {
        for (of, written, wanted) in [
            ("https://h.example/group/top.git", "../sub.git", "https://h.example/group/sub.git"),
            ("https://u:secret@h.example/group/top/", "../../other/sub/", "https://h.example/other/sub"),
            ("https://h.example/top", "./sub", "https://h.example/top/sub"),
            ("https://h.example/top", "../../../sub", "https://h.example/sub"),
            ("ssh://git@h.example/group/top.git", "../sub", "ssh://git@h.example/group/sub"),
            ("https://h.example/top", "https://x.example/y", "https://x.example/y"),
            ("https://h.example/top", "git@x.example:y/z.git", "ssh://git@x.example/y/z.git"),
            ("https://h.example/top", "/srv/x", "/srv/x"),
        ] {
            assert_eq!(submodule_url(&Url::parse(of).unwrap(), written), wanted, "{of} {written}");
        }
    }

    #[tokio::test]
    async fn a_commit_names_its_submodules() {
        let bench = Bench::new();
        let up = bench.upstream("up", &[("a", "")]).await;
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        for (commit, path) in [(&one, "deep/one"), (&two, "two")] {
            up.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]).await;
        }
        let file = "[submodule \"x.path\"]\n\tpath = deep/one\n\turl = ../one.git\n[submodule \"old\"]\n\tpath = gone\n\turl = u\n";
        super::super::fixture::write(&up.path.join(".gitmodules"), file);
        up.git(&["add", ".gitmodules"]).await;
        up.git(&["commit", "-q", "-m", "submodules"]).await;
        let head = up.git(&["rev-parse", "HEAD"]).await;
        let git = bench.git(None, &[]);
        let found = submodules(&git, &up.path, "up", &head).await.unwrap();
        let wanted = [
            Submodule { path: "deep/one".into(), commit: one, url: Some("../one.git".into()) },
            Submodule { path: "two".into(), commit: two, url: None },
        ];
        assert_eq!(found, wanted);
        assert_eq!(empty_submodules(&git, &up.path).await.unwrap(), ["deep/one", "two"]);
        super::super::fixture::write(&up.path.join("two/file"), "");
        assert_eq!(empty_submodules(&git, &up.path).await.unwrap(), ["deep/one"]);
    }
}
