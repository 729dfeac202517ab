//! The share's store against repositories in a temporary directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use fs_err as fs;

use agent_git::fixture::{Bench, write};
use agent_types::tiers::{Access as ShareAccess, Tiers, Trust};

use super::tests::{HARM, Harm, change, get, job, main_of, other, pinned, state, two_files};
use super::*;

fn tiers(bench: &Bench, trust: &Trust) -> Tiers {
    fs::create_dir_all(bench.path("share")).unwrap();
    Tiers::new(&Share::new(bench.path("share")), ShareAccess::ReadWrite, trust)
}

fn trusted() -> Trust {
    Trust::Trusted { why: "a test".into() }
}

#[tokio::test]
async fn a_trusted_job_shares_what_others_then_use_in_place() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = main_of(&up);
    let trusted = tiers(&bench, &trusted());
    let (first, traffic) = job(&bench, "one", &trusted, other(), &source).await;
    let first = first.unwrap();
    assert_eq!((first.how, first.is_shared), (Origin::Cloned, false), "the first job goes on with its own");
    assert_eq!(traffic.objects_written, 1);
    assert!(traffic.bytes_written > 100 && traffic.operations > 20, "{traffic:?}");
    let (second, traffic) = job(&bench, "two", &trusted, other(), &source).await;
    let second = second.unwrap();
    assert_eq!((second.how, second.is_shared), (Origin::Stored, true));
    assert_eq!((traffic.objects_read, traffic.objects_written), (1, 0));
    assert!(second.entry.tree().starts_with(bench.path("share/layers")));
    assert_eq!(layers::verify(&second.entry.directory(), Witness::CommitAlone), Ok(()));
    // Git does not look at the files there: `h` is what it assumes to be unchanged.
    let git = bench.git(None, &[second.entry.tree()]);
    let listed = git.local(&second.entry.tree(), ["ls-files", "-v"]).await.unwrap();
    assert_eq!(listed, "h README\nh conf/layer.conf\n");
    assert_eq!(git.local(&second.entry.tree(), ["status", "--porcelain"]).await.unwrap(), "");

    // Who comes without trust reads, and leaves no trace.
    for pull_request in [None, Some(7)] {
        let untrusted = tiers(&bench, &Trust::Untrusted { why: String::new(), pull_request });
        let before = state(&bench.path("share"));
        let read = job(&bench, "three", &untrusted, other(), &source).await.0.unwrap();
        assert_eq!((read.how, read.is_shared), (Origin::Stored, true));
        up.commit(&[("README", &format!("{pull_request:?}"))]).await;
        let new = job(&bench, "three", &untrusted, other(), &source).await.0.unwrap();
        assert_eq!((new.how, new.is_shared), (Origin::Cloned, false));
        assert_eq!(state(&bench.path("share")), before);
        up.git(&["reset", "-q", "--hard", "HEAD~1"]).await;
    }
    // What is here already is shared by the next trusted job, and used in place after that.
    up.commit(&[("README", "None")]).await;
    let pin = pinned(&up).await;
    get(&bench, other(), &pin).await.unwrap();
    let (local, traffic) = job(&bench, "layers", &trusted, other(), &pin).await;
    assert_eq!((local.unwrap().is_shared, traffic.objects_written), (false, 1));
    assert!(job(&bench, "layers", &trusted, other(), &pin).await.0.unwrap().is_shared);
}

/// A machine that is new has nothing of its own, and only what is new comes from the server.
#[tokio::test]
async fn what_the_share_has_is_not_fetched_again() {
    let bench = Bench::new();
    let up = bench.upstream("up", &[("a", "1\n"), ("b", "2\n"), ("c", "3\n")]).await;
    let tiers = tiers(&bench, &trusted());
    job(&bench, "one", &tiers, other(), &main_of(&up)).await.0.unwrap();
    up.commit(&[("a", "4\n")]).await;
    let new = job(&bench, "two", &tiers, other(), &main_of(&up)).await.0.unwrap();
    assert_eq!((new.how, new.is_shared), (Origin::Cloned, false));
    assert_eq!(layers::verify(&new.entry.directory(), Witness::CommitAlone), Ok(()));
    let log = fs::read_to_string(bench.runner.logs.join("git-x-fetch-2.log")).unwrap();
    assert!(log.contains("remote: Total 3 "), "a commit, its tree and a file: {log}");
}

#[tokio::test]
async fn a_share_that_cannot_be_written_costs_a_warning() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = main_of(&up);
    let tiers = tiers(&bench, &trusted());
    write(&bench.path("share/layers"), "no directory");
    let (obtained, traffic) = job(&bench, "layers", &tiers, other(), &source).await;
    assert_eq!(obtained.unwrap().how, Origin::Cloned);
    assert_eq!(traffic.objects_written, 0);
    let notices = bench.notices().await;
    assert!(notices.iter().any(|notice| notice.contains("could not be added to the share")), "{notices:?}");
    let gone = Tiers::new(&Share::new(bench.path("no-share")), ShareAccess::ReadWrite, &trusted());
    assert_eq!(job(&bench, "layers", &gone, other(), &source).await.0.unwrap().how, Origin::Stored);
    assert!(!bench.path("no-share").exists(), "a share that is not mounted is not made");
}

#[tokio::test]
async fn an_entry_of_the_share_that_git_would_be_led_astray_by_is_not_used() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = pinned(&up).await;
    let tiers = tiers(&bench, &trusted());
    job(&bench, "one", &tiers, other(), &source).await.0.unwrap();
    let entry = job(&bench, "two", &tiers, other(), &source).await.0.unwrap().entry;
    let whole = bench.path("whole");
    fs::create_dir(&whole).unwrap();
    let astray = [
        "a hook",
        "other objects",
        "attributes",
        "commands in the configuration",
        "git elsewhere",
        "git by a link",
        "HEAD elsewhere",
        "no record",
    ];
    let harms: Vec<Harm> = HARM.into_iter().filter(|(name, _)| astray.contains(name)).collect();
    assert_eq!(harms.len(), astray.len());
    for (number, (name, harm)) in harms.into_iter().enumerate() {
        change(&entry.directory(), |_| harm(&entry.tree()));
        let machine = format!("machine-{number}");
        let own = job(&bench, &machine, &tiers, other(), &source).await.0.unwrap();
        assert_eq!((own.how, own.is_shared), (Origin::Cloned, false), "{name}");
        // Other tests of this process may add notices about their commands.
        let notices = bench.notices().await;
        let refusals = notices.iter().filter(|notice| notice.contains("is not used")).count();
        assert_eq!(refusals, number + 1, "{name}: {notices:?}");
        // By hand, as the hint says; then it is shared again.
        entry.remove().unwrap();
        job(&bench, &machine, &tiers, other(), &source).await.0.unwrap();
        assert!(job(&bench, &machine, &tiers, other(), &source).await.0.unwrap().is_shared, "{name}");
    }
    assert!(!bench.path("proof").exists() && !bench.path("share/proof").exists());
}

#[tokio::test]
async fn an_entry_that_the_build_user_could_write_is_not_used() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = pinned(&up).await;
    let tiers = tiers(&bench, &trusted());
    job(&bench, "one", &tiers, other(), &source).await.0.unwrap();
    let shared = bench.path("share/layers");
    // Whoever owns the tests' files here stands for the build user.
    let owner = fs::metadata(&shared).unwrap();
    let build_user = User { name: "builder".into(), uid: owner.uid(), gid: owner.gid(), home: "/".into() };
    let refused = job(&bench, "two", &tiers, Some(build_user), &source).await.0;
    assert!(refused.is_err() || !refused.unwrap().is_shared);
    assert!(bench.notices().await.iter().any(|notice| notice.contains("which runs layer code")));
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    assert!(!job(&bench, "three", &tiers, other(), &source).await.0.unwrap().is_shared);
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    assert!(job(&bench, "three", &tiers, other(), &source).await.0.unwrap().is_shared);
    // Where there is only one user, all of it is read, and the commit's id decides.
    assert!(job(&bench, "four", &tiers, None, &source).await.0.unwrap().is_shared);
    let entry = LayerStore::new(&shared).entry(&RepoName::of(&up.url()), source.locked.as_ref().unwrap());
    change(&entry.directory(), |_| fs::write(entry.tree().join("README"), "daer\n").unwrap());
    assert!(!job(&bench, "five", &tiers, None, &source).await.0.unwrap().is_shared);
}
