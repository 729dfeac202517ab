use std::process::Command;

use super::super::fixture::Bench;
use super::*;

/// Runs git, and returns what it prints.
fn git(directory: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(directory).args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
    command.args(["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"]);
    let output = command.args(words).env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
    assert!(output.status.success(), "git {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit(directory: &Path, file: &str, text: &str) -> String {
    fs_err::write(directory.join(file), text).unwrap();
    git(directory, &["add", "--all"]);
    git(directory, &["commit", "--quiet", "-m", text]);
    git(directory, &["rev-parse", "HEAD"])
}

/// A repository whose branch `main` went on after the branch `change` began.
struct History {
    bench: Bench,
    server: PathBuf,
    start: String,
    tip: String,
}

impl History {
    fn new() -> History {
        let bench = Bench::new();
        let server = bench.path("server");
        fs_err::create_dir_all(&server).unwrap();
        fs_err::create_dir_all(bench.path("scratch")).unwrap();
        git(&server, &["init", "--quiet"]);
        git(&server, &["config", "uploadpack.allowFilter", "true"]);
        commit(&server, "rules", "first");
        let start = commit(&server, "rules", "of the base");
        git(&server, &["switch", "--quiet", "-c", "change"]);
        commit(&server, "rules", "of the change");
        commit(&server, "more", "of the change");
        git(&server, &["switch", "--quiet", "main"]);
        let tip = commit(&server, "rules", "newest");
        History { bench, server, start, tip }
    }

    fn url(&self) -> Url {
        Url::from_file_path(&self.server).unwrap()
    }

    fn clone(&self, words: &[&str]) -> PathBuf {
        let checkout = self.bench.path("checkout");
        let url = self.url();
        let all: Vec<&str> =
            ["clone", "--quiet"].iter().chain(words).copied().chain([url.as_str(), "checkout"]).collect();
        git(self.bench.root.path(), &all);
        checkout
    }

    async fn base(
        &self,
        checkout: &Path,
        local: &[&str],
        remote: Option<(&Url, &str)>,
    ) -> Result<Vec<(String, String)>> {
        let local: Vec<String> = local.iter().map(ToString::to_string).collect();
        let query = BaseQuery { checkout, local: &local, remote };
        let found =
            base_of(&self.bench.runner, &self.bench.access, &query, &self.bench.path("scratch")).await?;
        let rules =
            |files: CommitFiles| (files.commit, fs_err::read_to_string(files.root.join("rules")).unwrap());
        Ok(found.into_iter().map(rules).collect())
    }

    fn wanted(&self) -> Vec<(String, String)> {
        vec![(self.start.clone(), "of the base".into()), (self.tip.clone(), "newest".into())]
    }
}

#[tokio::test]
async fn a_full_clone_has_the_base() {
    let history = History::new();
    let checkout = history.clone(&["--branch", "change"]);
    let unreachable = Url::parse("file:///nowhere").unwrap();
    let found = history.base(&checkout, &["refs/remotes/origin/main"], Some((&unreachable, "main"))).await;
    assert_eq!(found.unwrap(), history.wanted());
}

#[tokio::test]
async fn for_a_shallow_clone_the_server_is_asked() {
    let history = History::new();
    let checkout = history.clone(&["--depth=1", "--branch", "change"]);
    let found = history.base(&checkout, &["refs/remotes/origin/main"], Some((&history.url(), "main"))).await;
    assert_eq!(found.unwrap(), history.wanted());
    let log = git(&checkout, &["rev-list", "--all"]);
    assert_eq!(log.lines().count(), 1, "the checkout stays as it is");
}

#[tokio::test]
async fn a_merge_of_both_is_based_on_the_newest() {
    let history = History::new();
    git(&history.server, &["switch", "--quiet", "-c", "merged"]);
    git(&history.server, &["merge", "--quiet", "-s", "ours", "-m", "merge", "change"]);
    let checkout = history.clone(&["--depth=1", "--branch", "merged"]);
    let found = history.base(&checkout, &[], Some((&history.url(), "main"))).await;
    assert_eq!(found.unwrap(), [(history.tip.clone(), "newest".into())]);
}

/// A push names the commit before it, which need not be in the history of the checkout.
#[tokio::test]
async fn a_known_commit_is_taken_from_the_checkout_or_from_the_server() {
    let history = History::new();
    let url = history.url();
    let nowhere = Url::parse("file:///nowhere").unwrap();
    for (words, remote, wanted) in [
        (&["--branch", "change"][..], &nowhere, true),
        (&["--depth=1", "--branch", "change"], &url, true),
        (&["--depth=1", "--branch", "change"], &nowhere, false),
    ] {
        let checkout = history.clone(words);
        let query = BaseQuery { checkout: &checkout, local: &[], remote: Some((remote, "main")) };
        let scratch = history.bench.path("scratch");
        let (bench, start) = (&history.bench, Some(history.start.as_str()));
        let found = base_files(&bench.runner, &bench.access, &query, start, &scratch).await;
        assert_eq!(found.is_ok(), wanted, "{words:?} {remote}: {found:?}");
        if let Ok(files) = found {
            assert_eq!(files.commit, history.start);
            assert_eq!(fs_err::read_to_string(files.root.join("rules")).unwrap(), "of the base");
        }
        for directory in [checkout, scratch.clone()] {
            fs_err::remove_dir_all(directory).unwrap();
        }
        fs_err::create_dir(&scratch).unwrap();
    }
}

/// The history before the change: from a full clone, from the server, and as far as a shallow clone has it.
#[tokio::test]
async fn the_commits_before_a_change_are_listed_the_nearest_first() {
    let history = History::new();
    let first = git(&history.server, &["rev-parse", &format!("{}^", history.start)]);
    let both = [history.start.clone(), first.clone()];
    let (url, nowhere) = (history.url(), Url::parse("file:///nowhere").unwrap());
    let main = "refs/remotes/origin/main".to_owned();
    let start = Some(history.start.as_str());
    // Words of the clone, the server, the known commit, how many, and the result.
    type Row<'a> = (&'a [&'a str], &'a Url, Option<&'a str>, usize, Option<&'a [String]>);
    let table: [Row; 8] = [
        (&["--branch", "change"], &nowhere, None, 50, Some(&both)),
        (&["--branch", "change"], &nowhere, None, 0, Some(&both[..1])),
        (&["--depth=1", "--branch", "change"], &url, None, 50, Some(&both)),
        (&["--depth=1", "--branch", "change"], &nowhere, None, 50, None),
        (&["--branch", "change"], &nowhere, start, 50, Some(&both)),
        (&["--depth=1", "--branch", "change"], &url, start, 50, Some(&both)),
        (&["--depth=1", "--branch", "change"], &nowhere, start, 50, None),
        // The third commit of the clone is the one in which the change began.
        (&["--depth=3", "--branch", "change"], &nowhere, start, 50, Some(&both[..1])),
    ];
    for (words, server, commit, most, wanted) in table {
        let checkout = history.clone(words);
        let scratch = history.bench.path("scratch");
        let local = [main.clone()];
        let query = BaseQuery { checkout: &checkout, local: &local, remote: Some((server, "main")) };
        let bench = &history.bench;
        let found = ancestry(&bench.runner, &bench.access, &query, commit, most, &scratch).await;
        assert_eq!(found.as_deref().ok(), wanted, "{words:?} {server} {commit:?} {most}: {found:?}");
        for directory in [checkout, scratch.clone()] {
            fs_err::remove_dir_all(directory).unwrap();
        }
        fs_err::create_dir(&scratch).unwrap();
    }
}

/// Commits of a merged branch do not belong to the branch.
#[tokio::test]
async fn commits_of_merged_branches_are_not_listed() {
    let history = History::new();
    git(&history.server, &["merge", "--quiet", "-s", "ours", "-m", "merge", "change"]);
    git(&history.server, &["switch", "--quiet", "-c", "next"]);
    let checkout = history.clone(&["--branch", "next"]);
    let local = ["refs/remotes/origin/main".to_owned()];
    let query = BaseQuery { checkout: &checkout, local: &local, remote: None };
    let bench = &history.bench;
    let scratch = bench.path("scratch");
    let found = ancestry(&bench.runner, &bench.access, &query, None, 50, &scratch).await.unwrap();
    let merge = git(&history.server, &["rev-parse", "main"]);
    assert_eq!(found[..3], [merge, history.tip.clone(), history.start.clone()]);
    assert_eq!(found.len(), 4);
}

/// Whatever history the change has, the rules are those of the branch.
#[tokio::test]
async fn a_change_without_a_common_history_is_based_on_the_newest() {
    let history = History::new();
    let checkout = history.bench.path("checkout");
    fs_err::create_dir(&checkout).unwrap();
    git(&checkout, &["init", "--quiet"]);
    commit(&checkout, "rules", "of the change");
    let newest = [(history.tip.clone(), "newest".to_owned())];
    // The server does not know the commit.
    let found = history.base(&checkout, &[], Some((&history.url(), "main"))).await;
    assert_eq!(found.unwrap(), newest);
    // The server has the commit, and the histories have no commit in common.
    git(&history.server, &["fetch", "--quiet", checkout.to_str().unwrap(), "HEAD:refs/pull/7/head"]);
    fs_err::remove_dir_all(history.bench.path("scratch")).unwrap();
    fs_err::create_dir(history.bench.path("scratch")).unwrap();
    let found = history.base(&checkout, &[], Some((&history.url(), "main"))).await;
    assert_eq!(found.unwrap(), newest);
}

#[tokio::test]
async fn a_base_that_cannot_be_fetched_is_an_error() {
    let history = History::new();
    let checkout = history.clone(&["--depth=1", "--branch", "change"]);
    let unreachable = Url::parse("file:///nowhere").unwrap();
    let error = history.base(&checkout, &["refs/remotes/origin/main"], Some((&unreachable, "main"))).await;
    assert_eq!(error.unwrap_err().class, agent_types::error::Class::Upstream);
    fs_err::remove_dir_all(history.bench.path("scratch")).unwrap();
    fs_err::create_dir(history.bench.path("scratch")).unwrap();
    let error = history.base(&checkout, &["missing"], None).await.unwrap_err();
    assert!(error.message.contains("git does not find `missing`"), "{error}");
    // The shallow clone's copy of the base branch is used.
    git(&checkout, &["fetch", "--quiet", "--depth=1", "origin", "main:refs/remotes/origin/main"]);
    let found = history.base(&checkout, &["refs/remotes/origin/main"], Some((&unreachable, "main"))).await;
    assert_eq!(found.unwrap(), [(history.tip.clone(), "newest".into())]);
}
