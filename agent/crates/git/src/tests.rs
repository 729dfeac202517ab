//! Tests of clone and fetch against repositories in a temporary directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use std::fs::Permissions;

use fs_err as fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use agent_process::User;
use agent_types::error::{Class, Result};
use agent_types::events::EventKind;
use agent_types::source::{GitSource, Wanted};

use super::fixture::{Bench, Upstream, write};
use super::{Cloned, Seed, clone, find_corruption, inspect, resolve, verify, verify_on_branch};

fn branch(name: &str) -> Wanted {
    Wanted::Branch(name.into())
}

/// Clones into `<home>/x`, which must not exist.
async fn clone_into_empty(bench: &Bench, source: &GitSource) -> Result<Cloned> {
    fs::create_dir_all(bench.home()).unwrap();
    clone(&bench.git(Some(&source.url), &[]), &clone_dir(bench), "x", source, None).await
}

fn clone_dir(bench: &Bench) -> PathBuf {
    bench.home().join("x")
}

/// Deletes the last clone and clones again.
async fn reclone(bench: &Bench, source: &GitSource) -> Result<Cloned> {
    if clone_dir(bench).exists() {
        fs::remove_dir_all(clone_dir(bench)).unwrap();
    }
    clone_into_empty(bench, source).await
}

async fn two_files(bench: &Bench) -> Upstream<'_> {
    bench.upstream("up", &[("conf/layer.conf", "one\n"), ("README", "read\n")]).await
}

/// Sorted names of the files below, without `.git`.
fn tree(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = walkdir::WalkDir::new(path)
        .into_iter()
        .filter_entry(|entry| entry.file_name() != ".git")
        .map(|entry| entry.unwrap())
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| entry.path().strip_prefix(path).unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn clone_has_only_its_commit_and_no_remote() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let first = up.git(&["rev-parse", "HEAD"]).await;
    let cloned = clone_into_empty(&bench, &up.source(branch("main"))).await.unwrap();
    assert_eq!(cloned.commit, first);
    assert_eq!(cloned.tree, up.git(&["rev-parse", "HEAD^{tree}"]).await);
    assert!(
        cloned.object.starts_with(&format!("tree {}\nauthor T. Ester", cloned.tree)),
        "{}",
        cloned.object
    );
    assert_eq!(tree(&clone_dir(&bench)), ["README", "conf/layer.conf"]);
    let dot_git = clone_dir(&bench).join(".git");
    let mut kept: Vec<_> = fs::read_dir(&dot_git)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["HEAD", "config", "index", "objects", "refs", "shallow"]);
    assert_eq!(fs::read_dir(dot_git.join("refs")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(dot_git.join("HEAD")).unwrap(), format!("{first}\n"));
}

/// Of fifty files one changes, and the server sends only that one.
#[tokio::test]
async fn clone_with_seed_fetches_only_new_objects_and_keeps_no_old_ones() {
    let bench = Bench::new();
    let files: Vec<(String, String)> = (0..50).map(|n| (format!("f{n}"), format!("{n} {n}\n"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let up = bench.upstream("up", &files).await;
    let old = clone_into_empty(&bench, &up.source(branch("main"))).await.unwrap().commit;
    let sent = |log: &str| {
        let text = fs::read_to_string(bench.runner.logs.join(log)).unwrap();
        let line =
            text.split(['\n', '\r']).find_map(|line| line.strip_prefix("remote: Total ")).unwrap().to_owned();
        line.split(' ').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(sent("git-x-fetch.log"), 52, "a commit, its tree, its files");

    let seed = Seed { path: bench.home().join("old"), commit: old.clone() };
    fs::rename(clone_dir(&bench), &seed.path).unwrap();
    let new = up.commit(&[("f7", "other\n")]).await;
    let source = up.source(branch("main"));
    let git = bench.git(Some(&source.url), &[]);
    let cloned = clone(&git, &clone_dir(&bench), "x", &source, Some(&seed)).await.unwrap();
    assert_eq!(cloned.commit, new);
    assert_eq!(sent("git-x-fetch-2.log"), 3, "a commit, its tree, a file");
    assert_eq!(find_corruption(&git, &clone_dir(&bench)).await.unwrap(), None);
    assert!(git.commit_of(&clone_dir(&bench), &old).await.is_err(), "the old commit is not in the new clone");
    assert_eq!(fs::read_to_string(clone_dir(&bench).join(".git/shallow")).unwrap(), format!("{new}\n"));
    assert_eq!(find_corruption(&git, &seed.path).await.unwrap(), None, "the seed is as it was");

    // A corrupt seed is ignored.
    for entry in walkdir::WalkDir::new(seed.path.join(".git/objects")).into_iter().map(|entry| entry.unwrap())
    {
        if entry.file_type().is_file() {
            fs::remove_file(entry.path()).unwrap();
            fs::write(entry.path(), "no pack").unwrap();
        }
    }
    assert!(find_corruption(&git, &seed.path).await.unwrap().is_some());
    fs::remove_dir_all(clone_dir(&bench)).unwrap();
    assert_eq!(clone(&git, &clone_dir(&bench), "x", &source, Some(&seed)).await.unwrap().commit, new);
}

#[tokio::test]
async fn rejects_a_commit_that_is_not_on_its_branch() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let root = up.git(&["rev-parse", "HEAD"]).await;
    // More commits than the first depth.
    up.commits(60).await;
    up.git(&["checkout", "-q", "-b", "side", "HEAD~3"]).await;
    let side = up.commit(&[("side", "")]).await;
    let on =
        |commit: &str| up.source(Wanted::CommitOnBranch { commit: commit.into(), branch: "main".into() });
    let error = clone_into_empty(&bench, &on(&side)).await.unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.message.contains("is not on branch `main`"), "{error}");
    assert_eq!(reclone(&bench, &on(&root)).await.unwrap().commit, root);
    // A seed that has the commit does not put it on the branch.
    for (commit, right) in [(&root, true), (&side, false)] {
        reclone(&bench, &up.source(Wanted::Commit(commit.clone()))).await.unwrap();
        let seed = Seed { path: clone_dir(&bench), commit: commit.clone() };
        let (source, scratch) = (on(commit), bench.home().join(commit));
        let proven =
            verify_on_branch(&bench.git(Some(&source.url), &[]), &scratch, "x", &source, Some(&seed)).await;
        assert_eq!(proven.is_ok(), right, "{proven:?}");
        assert!(right || proven.unwrap_err().class == Class::Usage);
    }
}

#[tokio::test]
async fn does_not_search_the_whole_history_for_a_much_newer_commit() {
    let mut bench = Bench::new();
    let dated = |year: u32| vec![("GIT_COMMITTER_DATE".into(), format!("{year}-01-01T00:00:00Z").into())];
    bench.access.variables = dated(2020);
    two_files(&bench).await.commits(60).await;
    let up = bench.path("up");
    let url = Url::from_file_path(&up).unwrap();
    // The other commit might be further down the branch, so the whole history is fetched.
    for (year, deeper) in [(2021, false), (2020, true)] {
        bench.access.variables = dated(year);
        let made = bench.git(None, &[]).local(&up, ["commit-tree", "-m", "aside", "HEAD^{tree}"]).await;
        let commit = made.unwrap().trim().to_string();
        let wanted = Wanted::CommitOnBranch { commit, branch: "main".into() };
        let error = reclone(&bench, &GitSource { url: url.clone(), wanted, locked: None }).await.unwrap_err();
        assert!(error.message.contains("is not on branch `main`"), "{error}");
        let events = bench.events().await;
        let fetched = |depth: &str| {
            events.iter().any(|event| {
                matches!(event, EventKind::CommandStarted { argv, .. } if argv.iter().any(|arg| arg == depth))
            })
        };
        assert!(fetched("--depth=50"));
        assert_eq!(fetched("--depth=500"), deeper, "{year}");
    }
}

#[tokio::test]
async fn fetches_branches_from_servers_that_do_not_serve_commits_by_id() {
    let mut bench = Bench::new();
    // With the old protocol, a server serves only commits that a branch or tag names.
    let old = ("GIT_CONFIG_PARAMETERS".into(), "'protocol.version'='0'".into());
    bench.access.variables.push(old);
    let up = two_files(&bench).await;
    let first = up.git(&["rev-parse", "HEAD"]).await;
    up.commit(&[("README", "new\n")]).await;
    let locked = GitSource { locked: Some(first.clone()), ..up.source(branch("main")) };
    for source in [locked, up.source(Wanted::Commit(first.clone()))] {
        assert_eq!(reclone(&bench, &source).await.unwrap().commit, first);
    }
    let (url, nowhere) = (up.url(), "1".repeat(40));
    for variables in [bench.access.variables.clone(), Vec::new()] {
        bench.access.variables = variables;
        let wanted = Wanted::Commit(nowhere.clone());
        let error = reclone(&bench, &GitSource { url: url.clone(), wanted, locked: None }).await.unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains(&nowhere), "{error}");
    }
}

#[tokio::test]
async fn resolves_tags_to_commits() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    up.git(&["tag", "-a", "v1", "-m", "one"]).await;
    up.git(&["tag", "light"]).await;
    let tag_id = up.git(&["rev-parse", "v1"]).await;
    assert_ne!(tag_id, commit);
    for name in ["v1", "light"] {
        let tag = Wanted::Tag(name.into());
        assert_eq!(reclone(&bench, &up.source(tag.clone())).await.unwrap().commit, commit);
        let url = up.url();
        let found = resolve(&bench.git(Some(&url), &[]), "x", &url, &tag, bench.root.path()).await;
        assert_eq!(found.unwrap(), commit);
    }
    let error = reclone(&bench, &up.source(Wanted::Commit(tag_id))).await.unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.to_string().contains(&commit), "{error}");
}

/// An object that is not a commit is a usage error, whether manifest, lock or tag names it.
#[tokio::test]
async fn rejects_objects_that_are_not_commits() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    let [tree, blob] =
        [up.git(&["rev-parse", "HEAD^{tree}"]).await, up.git(&["rev-parse", "HEAD:README"]).await];
    up.git(&["tag", "of-tree", &tree]).await;
    up.git(&["tag", "of-blob", &blob]).await;
    up.git(&["tag", "-a", "-m", "x", "of-commit", &commit]).await;
    up.git(&["tag", "-a", "-m", "x", "noted-blob", &blob]).await;
    up.git(&["tag", "-a", "-m", "x", "over-blob", "noted-blob"]).await;
    up.git(&["tag", "-a", "-m", "x", "over-commit", "of-commit"]).await;
    let of = async |name: &str| up.git(&["rev-parse", name]).await;
    let (tag_id, blob_tag_id) = (of("of-commit").await, of("noted-blob").await);
    let gone = "1".repeat(40);
    let tag = |name: &str| Wanted::Tag(name.into());
    let id = |id: &str| Wanted::Commit(id.to_owned());
    let on = |id: &str| Wanted::CommitOnBranch { commit: id.to_owned(), branch: "main".into() };
    let of_tag = |tag: &str, id: &str| Wanted::CommitOfTag { commit: id.to_owned(), tag: tag.to_owned() };
    up.commit(&[("other", "")]).await;
    let other = of("HEAD").await;
    up.git(&["tag", "other"]).await;
    let table = [
        (tag("of-tree"), "`of-tree` of", "a tag of a tree"),
        (tag("of-blob"), "`of-blob` of", "a tag of a blob"),
        (tag("noted-blob"), "`noted-blob` of", "a tag of a blob"),
        (tag("over-blob"), "`over-blob` of", "a tag of a blob"),
        (id(&tag_id), tag_id.as_str(), "is a tag, not a commit"),
        (id(&blob_tag_id), blob_tag_id.as_str(), "is a tag, not a commit"),
        (id(&tree), tree.as_str(), "is a tree (a directory), not a commit"),
        (id(&blob), blob.as_str(), "is a blob (a file's content), not a commit"),
        (id(&gone), gone.as_str(), "does not have commit"),
        (on(&blob), blob.as_str(), "is a blob (a file's content), not a commit"),
        (on(&tag_id), tag_id.as_str(), "is a tag, not a commit"),
        (on(&gone), gone.as_str(), "does not have commit"),
        (of_tag("of-blob", &commit), "`of-blob` of", "a tag of a blob"),
        (of_tag("other", &commit), "tag `other` of", &format!("is commit {other}, not {commit}")),
        (of_tag("of-commit", &tag_id), "tag `of-commit` of", &format!("is commit {commit}, not {tag_id}")),
    ];
    let verified = async |wanted: Wanted| {
        let (source, scratch) = (up.source(wanted), tempfile::tempdir_in(bench.root.path()).unwrap());
        verify(&bench.git(Some(&source.url), &[]), &scratch.path().join("x"), "x", &source).await
    };
    for (wanted, name, words) in table {
        for error in [
            reclone(&bench, &up.source(wanted.clone())).await.unwrap_err(),
            verified(wanted.clone()).await.unwrap_err(),
        ] {
            assert_eq!(error.class, Class::Usage, "{wanted:?}: {error}");
            assert!(error.message.contains(name) && error.message.contains(words), "{wanted:?}: {error}");
            assert!(error.hint.is_some(), "{wanted:?}");
        }
    }
    for wanted in
        [tag("of-commit"), tag("over-commit"), id(&commit), on(&commit), of_tag("over-commit", &commit)]
    {
        assert_eq!(reclone(&bench, &up.source(wanted.clone())).await.unwrap().commit, commit, "{wanted:?}");
        assert_eq!(verified(wanted.clone()).await.unwrap(), commit, "{wanted:?}");
    }
    // The lock names the commit.
    let locked = GitSource { locked: Some(blob.clone()), ..up.source(branch("main")) };
    let error = reclone(&bench, &locked).await.unwrap_err();
    assert_eq!((error.class, error.hint.unwrap().contains("lock --update x")), (Class::Usage, true));
}

/// A server that supports `--filter`, as most do.
#[tokio::test]
async fn verify_fetches_no_files() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let older = up.git(&["rev-parse", "HEAD"]).await;
    up.commit(&[("b", "")]).await;
    let blob = up.git(&["rev-parse", "HEAD:README"]).await;
    up.git(&["tag", "-a", "-m", "x", "v1", &older]).await;
    up.git(&["config", "uploadpack.allowFilter", "true"]).await;
    let on_main = Wanted::CommitOnBranch { commit: older.clone(), branch: "main".into() };
    for wanted in [Wanted::Commit(older.clone()), Wanted::Tag("v1".into()), on_main] {
        let (source, scratch) = (up.source(wanted.clone()), tempfile::tempdir_in(bench.root.path()).unwrap());
        let dir = scratch.path().join("x");
        let git = bench.git(Some(&source.url), &[]);
        assert_eq!(verify(&git, &dir, "x", &source).await.unwrap(), older, "{wanted:?}");
        let objects = git.local(&dir, ["cat-file", "--batch-all-objects", "--batch-check"]).await.unwrap();
        assert!(!objects.contains(" tree ") && !objects.contains(" blob "), "{wanted:?}: {objects}");
    }
    let (source, scratch) =
        (up.source(Wanted::Commit(blob)), tempfile::tempdir_in(bench.root.path()).unwrap());
    let git = bench.git(Some(&source.url), &[]);
    let error = verify(&git, &scratch.path().join("x"), "x", &source).await.unwrap_err();
    assert!(error.message.contains("is a blob"), "{error}");
}

#[tokio::test]
async fn missing_branch_is_a_usage_error_with_similar_names() {
    let bench = Bench::new();
    let up = bench.upstream("up/poky", &[("a", "")]).await;
    up.git(&["branch", "scarthgap"]).await;
    up.git(&["tag", "yocto-5.0"]).await;
    for (wanted, key, hint) in [
        (branch("scarthgab"), "`repos.x.branch`", "similar branches: scarthgap"),
        (Wanted::Tag("yocto-5.1".into()), "`repos.x.tag`", "similar tags: yocto-5.0"),
        (branch("wrynose"), "`repos.x.branch`", "walnascar is the last release"),
    ] {
        let url = up.url();
        let by_fetch = reclone(&bench, &up.source(wanted.clone())).await.unwrap_err();
        let by_lock = resolve(&bench.git(Some(&url), &[]), "x", &url, &wanted, bench.root.path()).await;
        for error in [by_fetch, by_lock.unwrap_err()] {
            assert_eq!(error.class, Class::Usage, "{error}");
            assert!(error.message.starts_with(key), "{error}");
            assert!(error.hint.as_ref().unwrap().contains(hint), "{error}");
        }
    }
    let typo = reclone(&bench, &up.source(Wanted::Commit("abc1234".into()))).await.unwrap_err();
    assert_eq!(typo.class, Class::Usage);
    let two = GitSource { locked: Some("1".repeat(40)), ..up.source(Wanted::Commit("2".repeat(40))) };
    assert!(reclone(&bench, &two).await.unwrap_err().hint.unwrap().contains("lock --update x"));
}

#[tokio::test]
async fn clones_unusual_names_links_and_line_endings_unchanged() {
    let bench = Bench::new();
    let files = [
        ("with\nnewline", "1"),
        ("\"quoted\" $(name)", "2"),
        ("grün 日本", "3"),
        // The attributes declare this file as text, but it has CRLF line endings.
        ("dos.txt", "a\r\nb\r\n"),
    ];
    let up = bench.upstream("up", &files).await;
    write(&up.path.join(".gitattributes"), "*.txt text\n");
    std::os::unix::fs::symlink("/etc/passwd", up.path.join("link")).unwrap();
    // `update-index` stores the file unchanged; `add` would convert its line endings.
    up.git(&["update-index", "--add", "link", ".gitattributes"]).await;
    up.git(&["commit", "-q", "-m", "attributes"]).await;
    let source = up.source(branch("main"));
    clone_into_empty(&bench, &source).await.unwrap();
    for (name, text) in files {
        assert_eq!(fs::read_to_string(clone_dir(&bench).join(name)).unwrap(), text, "{name:?}");
    }
    assert_eq!(fs::read_link(clone_dir(&bench).join("link")).unwrap(), Path::new("/etc/passwd"));
}

/// Answers every request with this status, and sends the request headers to the receiver.
async fn server(status: &'static str) -> (Url, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://me:s3cret@{}/r", listener.local_addr().unwrap());
    let (heard, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 16384];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let _ = heard.send(String::from_utf8_lossy(&head[..length]).into_owned());
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (Url::parse(&url).unwrap(), requests)
}

#[tokio::test]
async fn retries_only_transient_failures_and_hides_credentials() {
    for (status, class, tries) in [
        ("503 Service Unavailable", Class::Upstream, 3),
        ("429 Too Many Requests", Class::Upstream, 3),
        ("404 Not Found", Class::Upstream, 1),
        ("403 Forbidden", Class::Upstream, 1),
        ("401 Unauthorized", Class::Upstream, 1),
    ] {
        let bench = Bench::new();
        let (url, mut requests) = server(status).await;
        let source = GitSource { url, wanted: branch("main"), locked: None };
        let error = clone_into_empty(&bench, &source).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        let notices = bench.notices().await;
        let retries = notices.iter().filter(|notice| notice.contains("retrying")).count();
        assert_eq!(retries, tries - 1, "{status}: {notices:?}");
        let mut heard = 0;
        while let Ok(head) = requests.try_recv() {
            heard += 1;
            // `printf me:s3cret | base64`
            assert!(head.contains("Authorization: Basic bWU6czNjcmV0\r\n"), "{head}");
        }
        assert!(heard >= tries, "{status}: {heard}");
        let shown = format!("{error} {:?}", bench.events().await);
        assert!(!shown.contains("s3cret") && !shown.contains("bWU6"), "{shown}");
        let logs = walkdir::WalkDir::new(&bench.runner.logs).into_iter().map(|entry| entry.unwrap());
        for log in logs.filter(|entry| entry.file_type().is_file()) {
            assert!(!fs::read_to_string(log.path()).unwrap().contains("s3cret"), "{}", log.path().display());
        }
    }
}

/// Three times the stall limit could be the time of the whole job.
#[tokio::test]
async fn a_git_that_was_silent_is_not_run_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("git://{}/r", listener.local_addr().unwrap())).unwrap();
    let mut callers = Vec::new();
    let accept = async {
        loop {
            callers.push(listener.accept().await.unwrap());
        }
    };
    let mut bench = Bench::new();
    bench.runner.stall = Duration::from_secs(1);
    let source = GitSource { url, wanted: branch("main"), locked: None };
    let error = tokio::select! {
        got = clone_into_empty(&bench, &source) => got.unwrap_err(),
        () = accept => return,
    };
    assert_eq!((error.class, callers.len()), (Class::Upstream, 1), "{error}");
    let text = error.to_string();
    assert!(text.contains("was stopped: it was silent for") && text.contains("`limits.stall`"), "{text}");
}

#[tokio::test]
async fn cancelled_clone_has_class_cancelled() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    bench.runner.interrupt.signal();
    let error = clone_into_empty(&bench, &up.source(branch("main"))).await.unwrap_err();
    assert_eq!(error.class, Class::Cancelled, "{error}");
}

#[tokio::test]
async fn inspects_a_local_work_tree_without_writing() {
    let bench = Bench::new();
    let up = bench.upstream("up", &[("a", "1\n"), ("sub/b", "1\n")]).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    let own = [up.path.join("build-agent-out")];
    let look = async |path: &Path| inspect(&bench.runner, "x", path, &own, None).await.unwrap();

    let index = fs::read(up.path.join(".git/index")).unwrap();
    write(&up.path.join("build-agent-out/result.json"), "{}");
    // The same content with another time: `status` would normally update the index.
    write(&up.path.join("a"), "1\n");
    let clean = look(&up.path).await;
    assert_eq!((clean.commit.as_deref(), clean.branch.as_deref()), (Some(commit.as_str()), Some("main")));
    assert!(!clean.dirty);
    assert_eq!(fs::read(up.path.join(".git/index")).unwrap(), index);

    write(&up.path.join("a"), "2\n");
    assert!(look(&up.path).await.dirty);
    let below = look(&up.path.join("sub")).await;
    assert_eq!((below.commit.as_deref(), below.dirty), (Some(commit.as_str()), false), "only below itself");
    write(&up.path.join("sub/new\nline"), "");
    assert!(look(&up.path.join("sub")).await.dirty);

    // Inside the work tree, but not tracked.
    write(&up.path.join("other/x"), "");
    assert_eq!(look(&up.path.join("other")).await.commit, None);
    up.git(&["checkout", "-q", "--detach"]).await;
    assert_eq!(look(&up.path).await.branch, None);
    write(&bench.path("plain/x"), "");
    let plain = look(&bench.path("plain")).await;
    assert_eq!((plain.commit, plain.dirty, plain.trouble), (None, false, None));
    fs::write(up.path.join(".git/HEAD"), "").unwrap();
    assert!(look(&up.path).await.trouble.is_some());
}

/// Filters are commands, and the owner of a repository must not choose what root runs.
#[tokio::test]
async fn runs_filters_of_a_repository_only_as_its_owner() {
    let bench = Bench::new();
    let up = bench.upstream("up", &[("a", "1\n"), (".gitattributes", "* filter=x\n")]).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    let Some(nobody) = User::find("nobody").unwrap().filter(|_| nix::unistd::geteuid().is_root()) else {
        return;
    };
    let proof = bench.path("open/proof");
    fs::create_dir(bench.path("open")).unwrap();
    fs::set_permissions(bench.path("open"), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(bench.root.path(), Permissions::from_mode(0o755)).unwrap();
    let clean = format!("id -u > {}; cat", proof.display());
    up.git(&["config", "filter.x.clean", &clean]).await;
    up.git(&["config", "core.fsmonitor", &clean]).await;
    write(&up.path.join("a"), "2\n");
    for path in [".git/config", ".git", "."] {
        std::os::unix::fs::chown(up.path.join(path), Some(nobody.uid), None).unwrap();
    }
    let tree = inspect(&bench.runner, "x", &up.path, &[], None).await.unwrap();
    assert_eq!((tree.commit, tree.dirty, tree.trouble), (Some(commit), true, None));
    let ran_as = fs::read_to_string(&proof).unwrap_or_default();
    assert!(["".to_owned(), format!("{}\n", nobody.uid)].contains(&ran_as), "{ran_as}");
}

#[tokio::test]
async fn suggests_tag_for_branch_and_branch_for_tag() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    up.git(&["tag", "v1"]).await;
    let error = reclone(&bench, &up.source(branch("v1"))).await.unwrap_err();
    assert_eq!(error.hint.unwrap(), "it is a tag: write `tag = …`");
    let error = reclone(&bench, &up.source(Wanted::Tag("main".into()))).await.unwrap_err();
    assert_eq!(error.hint.unwrap(), "it is a branch: write `branch = …`");
}

/// A server may not have a new commit on all its machines yet.
#[tokio::test]
async fn a_commit_that_is_not_there_yet_gets_one_more_attempt() {
    let bench = Bench::new();
    let up = bench.upstream("up", &[("a", "")]).await;
    let other = bench.upstream("other", &[("b", "")]).await;
    let new = other.git(&["rev-parse", "HEAD"]).await;
    let url = up.url();
    let source = up.source(Wanted::Commit("1".repeat(40)));
    let git = bench.git(Some(&url), &[]);
    let error = clone(&git, &bench.path("gone"), "x", &source, None).await.unwrap_err();
    assert!(error.message.contains("does not have commit"), "{error}");
    let notices = bench.notices().await;
    assert_eq!(notices.iter().filter(|notice| notice.contains("one more attempt")).count(), 1, "{notices:?}");

    let mut git = bench.git(Some(&url), &[]);
    git.retry_delays = [Duration::ZERO, Duration::from_secs(2)];
    let source = up.source(Wanted::Commit(new.clone()));
    let arrives = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let path = other.path.display().to_string();
        up.git(&["fetch", "-q", &path, "main:arrived"]).await;
    };
    let target = bench.path("late");
    let (cloned, ()) = tokio::join!(clone(&git, &target, "x", &source, None), arrives);
    assert_eq!(cloned.unwrap().commit, new);
}
