//! The whole of checkout against repositories in a temporary directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use std::fs::Permissions;

use fs_err as fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use crate::config::{GitSource, Wanted};
use crate::error::{Class, Result};
use crate::events::What;
use crate::exec::User;

use super::fixture::{Bench, Upstream, write};
use super::{Cloned, How, inspect, resolve, update};

fn branch(name: &str) -> Wanted {
    Wanted::Branch(name.into())
}

async fn get(bench: &Bench, source: &GitSource) -> Result<Cloned> {
    let safe = [bench.home().join("x"), bench.home().join(".x.new")];
    update(&bench.git(Some(&source.url), &safe), &bench.home(), "x", source).await
}

async fn two_files(bench: &Bench) -> Upstream<'_> {
    bench.upstream("up", &[("conf/layer.conf", "one\n"), ("README", "read\n")]).await
}

/// File names below, without git's own, sorted.
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
async fn a_branch_is_followed_and_only_what_differs_is_written() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let first = up.git(&["rev-parse", "HEAD"]).await;
    let source = up.source(branch("main"));
    let cloned = get(&bench, &source).await.unwrap();
    assert_eq!((cloned.commit.as_str(), cloned.how), (first.as_str(), How::Cloned));
    assert_eq!(fs::read_dir(bench.home()).unwrap().count(), 1, "nothing is left beside the clone");

    let second = up.commit(&[("conf/layer.conf", "two\n")]).await;
    let kept = fs::metadata(cloned.path.join("README")).unwrap();
    write(&cloned.path.join("new/.git/config"), "x");
    write(&cloned.path.join("__pycache__/a.pyc"), "x");
    let again = get(&bench, &source).await.unwrap();
    assert_eq!((again.commit, again.how), (second, How::Fetched));
    assert_eq!(tree(&again.path), ["README", "conf/layer.conf"]);
    assert_eq!(fs::read_to_string(again.path.join("conf/layer.conf")).unwrap(), "two\n");
    let now = fs::metadata(cloned.path.join("README")).unwrap();
    assert_eq!((now.ino(), now.mtime_nsec()), (kept.ino(), kept.mtime_nsec()), "an unchanged file is kept");
    assert!(cloned.path.join(".git/shallow").exists(), "one commit is enough");
}

#[tokio::test]
async fn whatever_happened_to_a_clone_it_is_the_commits_tree_again() {
    type Damage = (&'static str, fn(&Path), bool);
    // The last: whether git's data is whole, so that a pinned clone needs no server.
    let table: [Damage; 15] = [
        ("nothing", |_| {}, true),
        ("a change of the same size", |p| fs::write(p.join("README"), "daer\n").unwrap(), true),
        ("a file is gone", |p| fs::remove_file(p.join("README")).unwrap(), true),
        (
            "a file became a directory",
            |p| {
                fs::remove_file(p.join("README")).unwrap();
                write(&p.join("README/x"), "");
            },
            true,
        ),
        (
            "ignored files",
            |p| {
                write(&p.join(".git/info/exclude"), "*.o\n");
                write(&p.join("a.o"), "");
            },
            true,
        ),
        ("index.lock", |p| write(&p.join(".git/index.lock"), ""), true),
        ("shallow.lock", |p| write(&p.join(".git/shallow.lock"), ""), true),
        ("a locked branch", |p| write(&p.join(".git/refs/remotes/origin/main.lock"), ""), true),
        ("index broken", |p| fs::write(p.join(".git/index"), "DIRC").unwrap(), true),
        (
            "hostile configuration",
            |p| {
                fs::write(p.join(".git/config"), "[core]\n\tfsmonitor = touch /tmp/x\n\tworktree = /\n")
                    .unwrap()
            },
            true,
        ),
        ("HEAD empty", |p| fs::write(p.join(".git/HEAD"), "").unwrap(), false),
        ("no objects", |p| fs::remove_dir_all(p.join(".git/objects")).unwrap(), false),
        (
            "objects empty",
            |p| {
                for entry in walkdir::WalkDir::new(p.join(".git/objects")) {
                    let entry = entry.unwrap();
                    if entry.file_type().is_file() {
                        fs::remove_file(entry.path()).unwrap();
                        fs::write(entry.path(), "").unwrap();
                    }
                }
            },
            false,
        ),
        (
            ".git is a file",
            |p| {
                fs::remove_dir_all(p.join(".git")).unwrap();
                fs::write(p.join(".git"), "gitdir: /nowhere\n").unwrap();
            },
            false,
        ),
        (
            "the clone is a link",
            |p| {
                fs::rename(p, p.with_extension("away")).unwrap();
                std::os::unix::fs::symlink("/", p).unwrap();
            },
            false,
        ),
    ];
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    let source = GitSource { locked: Some(commit.clone()), ..up.source(branch("main")) };
    for (name, damage, whole) in table {
        let cloned = get(&bench, &source).await.unwrap();
        damage(&cloned.path);
        let again = get(&bench, &source).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again.commit, commit, "{name}");
        assert_eq!(again.how, if whole { How::Present } else { How::Cloned }, "{name}");
        assert_eq!(tree(&again.path), ["README", "conf/layer.conf"], "{name}");
        assert_eq!(fs::read_to_string(again.path.join("README")).unwrap(), "read\n", "{name}");
    }
}

#[tokio::test]
async fn a_pinned_clone_needs_no_server_and_a_half_clone_is_no_clone() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    let source = up.source(Wanted::Commit(commit.to_uppercase()));
    write(&bench.home().join(".x.new/half"), "");
    write(&bench.home().join("x/half"), "");
    assert_eq!(get(&bench, &source).await.unwrap().how, How::Cloned);
    fs::remove_dir_all(&up.path).unwrap();
    let there = get(&bench, &source).await.unwrap();
    assert_eq!((there.how, there.commit), (How::Present, commit));
    // A branch floats, so that the server has to be asked, and it is away.
    let error = get(&bench, &up.source(branch("main"))).await.unwrap_err();
    assert_eq!(error.class, Class::Upstream, "{error}");
    assert!(there.path.join("README").exists(), "the old clone is still there");
}

#[tokio::test]
async fn a_commit_must_lie_on_its_branch() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let root = up.git(&["rev-parse", "HEAD"]).await;
    // More commits than the first depth has.
    up.commits(60).await;
    up.git(&["checkout", "-q", "-b", "side", "HEAD~3"]).await;
    let side = up.commit(&[("side", "")]).await;
    let on =
        |commit: &str| up.source(Wanted::CommitOnBranch { commit: commit.into(), branch: "main".into() });
    let error = get(&bench, &on(&side)).await.unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.message.contains("does not lie on branch `main`"), "{error}");
    let deep = get(&bench, &on(&root)).await.unwrap();
    assert_eq!(deep.commit, root);
    assert_eq!(get(&bench, &on(&root)).await.unwrap().how, How::Present);
    // The clone has the other commit now, but that does not put it on the branch.
    get(&bench, &up.source(Wanted::Commit(side.clone()))).await.unwrap();
    assert_eq!(get(&bench, &on(&side)).await.unwrap_err().class, Class::Usage);
}

#[tokio::test]
async fn a_much_younger_commit_is_not_searched_in_the_whole_history() {
    let mut bench = Bench::new();
    let dated = |year: u32| vec![("GIT_COMMITTER_DATE".into(), format!("{year}-01-01T00:00:00Z").into())];
    bench.access.variables = dated(2020);
    two_files(&bench).await.commits(60).await;
    let up = bench.path("up");
    let url = Url::from_file_path(&up).unwrap();
    // The other might be further down the branch, so that all of it is fetched.
    for (year, deeper) in [(2021, false), (2020, true)] {
        bench.access.variables = dated(year);
        let made = bench.git(None, &[]).local(&up, ["commit-tree", "-m", "aside", "HEAD^{tree}"]).await;
        let commit = made.unwrap().trim().to_string();
        let wanted = Wanted::CommitOnBranch { commit, branch: "main".into() };
        let error = get(&bench, &GitSource { url: url.clone(), wanted, locked: None }).await.unwrap_err();
        assert!(error.message.contains("does not lie on branch `main`"), "{error}");
        let events = bench.events().await;
        let fetched = |depth: &str| {
            events.iter().any(|event| {
                matches!(event, What::CommandStarted { argv, .. } if argv.iter().any(|arg| arg == depth))
            })
        };
        assert!(fetched("--depth=50"));
        assert_eq!(fetched("--depth=500"), deeper, "{year}");
    }
}

#[tokio::test]
async fn servers_that_refuse_bare_commits_are_asked_for_their_branches() {
    let mut bench = Bench::new();
    // In the old protocol only what a branch or tag names is given out.
    let old = ("GIT_CONFIG_PARAMETERS".into(), "'protocol.version'='0'".into());
    bench.access.variables.push(old);
    let up = two_files(&bench).await;
    let first = up.git(&["rev-parse", "HEAD"]).await;
    up.commit(&[("README", "new\n")]).await;
    let locked = GitSource { locked: Some(first.clone()), ..up.source(branch("main")) };
    for source in [locked, up.source(Wanted::Commit(first.clone()))] {
        let cloned = get(&bench, &source).await.unwrap();
        assert_eq!((cloned.commit, cloned.how), (first.clone(), How::Cloned));
        fs::remove_dir_all(cloned.path).unwrap();
    }
    let (url, nowhere) = (up.url(), "1".repeat(40));
    for variables in [bench.access.variables.clone(), Vec::new()] {
        bench.access.variables = variables;
        let wanted = Wanted::Commit(nowhere.clone());
        let error = get(&bench, &GitSource { url: url.clone(), wanted, locked: None }).await.unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains(&nowhere), "{error}");
        assert_eq!(fs::read_dir(bench.home()).unwrap().count(), 0, "nothing is left of it");
    }
}

#[tokio::test]
async fn tags_mean_their_commit() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    up.git(&["tag", "-a", "v1", "-m", "one"]).await;
    up.git(&["tag", "light"]).await;
    let tag_id = up.git(&["rev-parse", "v1"]).await;
    assert_ne!(tag_id, commit);
    for name in ["v1", "light"] {
        let tag = Wanted::Tag(name.into());
        assert_eq!(get(&bench, &up.source(tag.clone())).await.unwrap().commit, commit);
        let url = up.url();
        let found = resolve(&bench.git(Some(&url), &[]), "x", &url, &tag, bench.root.path()).await;
        assert_eq!(found.unwrap(), commit);
    }
    let error = get(&bench, &up.source(Wanted::Commit(tag_id))).await.unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.to_string().contains(&commit), "{error}");
}

#[tokio::test]
async fn a_branch_that_is_not_there_is_the_manifests_fault() {
    let bench = Bench::new();
    let up = bench.upstream("up/poky", &[("a", "")]).await;
    up.git(&["branch", "scarthgap"]).await;
    up.git(&["tag", "yocto-5.0"]).await;
    for (wanted, key, hint) in [
        (branch("scarthgab"), "`repos.x.branch`", "near branches there: scarthgap"),
        (Wanted::Tag("yocto-5.1".into()), "`repos.x.tag`", "near tags there: yocto-5.0"),
        (branch("wrynose"), "`repos.x.branch`", "ends with walnascar"),
    ] {
        let url = up.url();
        let by_fetch = get(&bench, &up.source(wanted.clone())).await.unwrap_err();
        let by_lock = resolve(&bench.git(Some(&url), &[]), "x", &url, &wanted, bench.root.path()).await;
        for error in [by_fetch, by_lock.unwrap_err()] {
            assert_eq!(error.class, Class::Usage, "{error}");
            assert!(error.message.starts_with(key), "{error}");
            assert!(error.hint.as_ref().unwrap().contains(hint), "{error}");
        }
    }
    let typo = get(&bench, &up.source(Wanted::Commit("abc1234".into()))).await.unwrap_err();
    assert_eq!(typo.class, Class::Usage);
    let two = GitSource { locked: Some("1".repeat(40)), ..up.source(Wanted::Commit("2".repeat(40))) };
    assert!(get(&bench, &two).await.unwrap_err().hint.unwrap().contains("lock --update x"));
}

#[tokio::test]
async fn odd_names_links_and_line_ends_arrive_as_they_are() {
    let bench = Bench::new();
    let files = [
        ("with\nnewline", "1"),
        ("\"quoted\" $(name)", "2"),
        ("grün 日本", "3"),
        // The repository says that this is text with plain line ends, and lies.
        ("dos.txt", "a\r\nb\r\n"),
    ];
    let up = bench.upstream("up", &files).await;
    write(&up.path.join(".gitattributes"), "*.txt text\n");
    std::os::unix::fs::symlink("/etc/passwd", up.path.join("link")).unwrap();
    // `update-index` takes the file as it is; `add` would mend its line ends.
    up.git(&["update-index", "--add", "link", ".gitattributes"]).await;
    up.git(&["commit", "-q", "-m", "attributes"]).await;
    let source = up.source(branch("main"));
    for _ in 0..2 {
        let cloned = get(&bench, &source).await.unwrap();
        for (name, text) in files {
            assert_eq!(fs::read_to_string(cloned.path.join(name)).unwrap(), text, "{name:?}");
        }
        assert_eq!(fs::read_link(cloned.path.join("link")).unwrap(), Path::new("/etc/passwd"));
    }
}

/// Answers every request with this status; gives the heads of the requests.
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
async fn only_what_may_pass_is_tried_again_and_credentials_go_to_the_server_alone() {
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
        let error = get(&bench, &source).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert_eq!(bench.notices().await.len(), tries - 1, "{status}: {:?}", bench.notices().await);
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

#[tokio::test]
async fn a_cancelled_job_says_so() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    bench.runner.interrupt.signal();
    let error = get(&bench, &up.source(branch("main"))).await.unwrap_err();
    assert_eq!(error.class, Class::Cancelled, "{error}");
}

#[tokio::test]
async fn a_local_work_tree_is_told_and_not_touched() {
    let bench = Bench::new();
    let up = bench.upstream("up", &[("a", "1\n"), ("sub/b", "1\n")]).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    let own = [up.path.join("build-agent-out")];
    let look = async |path: &Path| inspect(&bench.runner, "x", path, &own).await.unwrap();

    let index = fs::read(up.path.join(".git/index")).unwrap();
    write(&up.path.join("build-agent-out/result.json"), "{}");
    // The same content at another time: `status` would like to note that in the index.
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

    // Inside the work tree, but not in the repository.
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

/// Filters are commands; whoever owns a repository must not choose what root runs.
#[tokio::test]
async fn commands_of_a_repository_run_as_its_owner_if_at_all() {
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
    let tree = inspect(&bench.runner, "x", &up.path, &[]).await.unwrap();
    assert_eq!((tree.commit, tree.dirty, tree.trouble), (Some(commit), true, None));
    let ran_as = fs::read_to_string(&proof).unwrap_or_default();
    assert!(["".to_owned(), format!("{}\n", nobody.uid)].contains(&ran_as), "{ran_as}");
}

#[tokio::test]
async fn a_clone_that_layer_code_could_write_is_replaced() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let cloned = get(&bench, &up.source(branch("main"))).await.unwrap();
    let Some(nobody) = User::find("nobody").unwrap().filter(|_| nix::unistd::geteuid().is_root()) else {
        return;
    };
    std::os::unix::fs::chown(cloned.path.join(".git"), Some(nobody.uid), None).unwrap();
    assert_eq!(get(&bench, &up.source(branch("main"))).await.unwrap().how, How::Cloned);
    assert_eq!(get(&bench, &up.source(branch("main"))).await.unwrap().how, How::Fetched);
}

#[tokio::test]
async fn a_branch_that_is_a_tag_and_the_other_way_round() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    up.git(&["tag", "v1"]).await;
    let error = get(&bench, &up.source(branch("v1"))).await.unwrap_err();
    assert_eq!(error.hint.unwrap(), "it is a tag there: write `tag = …`");
    let error = get(&bench, &up.source(Wanted::Tag("main".into()))).await.unwrap_err();
    assert_eq!(error.hint.unwrap(), "it is a branch there: write `branch = …`");
}
