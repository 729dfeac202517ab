//! Repositories with submodules and Git LFS files, with the real git.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::tests::{repo, settings};
use super::*;
use crate::config::RepoSource;
use crate::stages::share::OpenShare;
use agent_git::fixture::{Bench, Upstream};
use agent_types::error::Class;

/// Adds submodules to the upstream, with the texts of their URLs.
async fn add(up: &Upstream<'_>, submodules: &[(&str, &str, &str)]) -> String {
    let mut file = String::new();
    for (path, url, commit) in submodules {
        file += &format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
        up.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]).await;
    }
    agent_git::fixture::write(&up.path.join(".gitmodules"), &file);
    up.git(&["add", ".gitmodules"]).await;
    up.git(&["commit", "-q", "-m", "submodules"]).await;
    up.git(&["rev-parse", "HEAD"]).await
}

async fn complete(bench: &Bench, up: &Upstream<'_>, change: impl Fn(&mut Repo)) -> Result<Option<PathBuf>> {
    let source = up.source(Wanted::Branch("main".into()));
    let mut repo = repo("top", RepoSource::Git(source.clone()), &[]);
    change(&mut repo);
    let settings = settings(bench, "scarthgap", vec![repo.clone()]);
    fs::create_dir_all(&settings.paths.work).unwrap();
    let stores = Stores::new(bench.path("layers"), &OpenShare::default(), None).unwrap();
    let entry = stores.obtain(&bench.runner, &bench.access, "top", &source).await.unwrap().entry;
    let completion = Completion {
        settings: &settings,
        stores: &stores,
        runner: &bench.runner,
        access: &bench.access,
        repo: &repo,
    };
    completion.tree(&source, &entry.tree(), &entry.commit).await
}

#[tokio::test]
async fn submodules_are_fetched_also_those_of_submodules() {
    let bench = Bench::new();
    let inner = bench.upstream("inner", &[("i.txt", "inner")]).await;
    let inner_commit = inner.git(&["rev-parse", "HEAD"]).await;
    let sub = bench.upstream("sub", &[("s.txt", "sub")]).await;
    let sub_commit = add(&sub, &[("deep/inner", "../inner", &inner_commit)]).await;
    let top = bench.upstream("top", &[("t.txt", "top")]).await;
    assert_eq!(complete(&bench, &top, |_| {}).await.unwrap(), None, "nothing to complete");

    let url = sub.url().to_string();
    add(&top, &[("lib/sub", &url, &sub_commit)]).await;
    let tree = complete(&bench, &top, |_| {}).await.unwrap().unwrap();
    for (file, text) in [("t.txt", "top"), ("lib/sub/s.txt", "sub"), ("lib/sub/deep/inner/i.txt", "inner")] {
        assert_eq!(fs::read_to_string(tree.join(file)).unwrap(), text, "{file}");
    }
    assert!(tree.join(".git").is_dir() && !tree.join("lib/sub/.git").exists());
    let seen = agent_git::inspect(&bench.runner, "x", &tree, &[], None).await.unwrap();
    assert!(!seen.dirty && seen.trouble.is_none(), "{seen:?}");
    let again = complete(&bench, &top, |_| {}).await.unwrap().unwrap();
    assert_eq!(again, tree, "a finished one is kept");

    assert_eq!(complete(&bench, &top, |repo| repo.submodules = false).await.unwrap(), None);
    let notices = bench.notices().await;
    assert!(
        notices.iter().any(|notice| notice.contains("not fetched") && notice.contains("lib/sub")),
        "{notices:?}"
    );
}

#[tokio::test]
async fn submodules_that_cannot_be_fetched_are_named() {
    let bench = Bench::new();
    let gone = "1".repeat(40);
    let sub = bench.upstream("sub", &[("s.txt", "")]).await.url().to_string();
    for (url, words) in [
        (sub.as_str(), "does not have commit"),
        ("ext::sh -c x", "has an address that"),
        ("/srv/x", "has an address that"),
        ("https://h.example/-x", "has an address that"),
    ] {
        let name = format!("top{}", url.len());
        let top = bench.upstream(&name, &[("t.txt", "")]).await;
        add(&top, &[("lib/sub", url, &gone)]).await;
        let error = complete(&bench, &top, |_| {}).await.unwrap_err();
        assert_eq!(error.class, Class::Usage, "{url}: {error}");
        assert!(error.message.contains("`lib/sub`") && error.message.contains(words), "{url}: {error}");
    }
}

#[tokio::test]
async fn git_lfs_files_are_fetched_or_named() {
    let bench = Bench::new();
    // `printf hello | sha256sum`
    let oid = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 5\n");
    let files = [
        (".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n"),
        ("a.bin", &pointer),
        ("t.txt", ""),
    ];
    let top = bench.upstream("top", &files).await;
    let error = complete(&bench, &top, |_| {}).await.unwrap_err();
    if bench.git(None, &[]).succeeds(&top.path, ["lfs", "version"]).await.unwrap() {
        // The server has no such object.
        assert!(error.message.contains("repos.top"), "{error}");
        let object = format!(".git/lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
        agent_git::fixture::write(&top.path.join(object), "hello");
        let tree = complete(&bench, &top, |_| {}).await.unwrap().unwrap();
        assert_eq!(fs::read_to_string(tree.join("a.bin")).unwrap(), "hello");
        let seen = agent_git::inspect(&bench.runner, "x", &tree, &[], None).await.unwrap();
        assert!(!seen.dirty && seen.lfs_pointers.is_empty() && seen.trouble.is_none(), "{seen:?}");
        assert!(!tree.join(".git/lfs").exists());
    } else {
        assert!(error.message.contains("git-lfs is not installed: `a.bin`"), "{error}");
    }
    assert_eq!(complete(&bench, &top, |repo| repo.lfs = false).await.unwrap(), None);
    let notices = bench.notices().await;
    assert!(
        notices.iter().any(|notice| notice.contains("`a.bin`") && notice.contains("lfs = false")),
        "{notices:?}"
    );
}
