//! The layer store with whole jobs: each job uses the checkouts of earlier jobs, however those ended.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use build_agent_tests::{BUILD_USER, Sandbox, skip};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

/// The local store of the sandbox.
fn store(sandbox: &Sandbox) -> PathBuf {
    sandbox.work().join("layers")
}

/// Directories two levels below the store: entries and unfinished entries.
fn entries(sandbox: &Sandbox) -> BTreeSet<String> {
    let names = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let all = names(&store(sandbox)).into_iter().flat_map(|repo| names(&repo));
    all.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// How the job got poky, and the path of the checkout.
fn poky(sandbox: &Sandbox) -> (String, PathBuf) {
    let events = std::fs::read_to_string(sandbox.out().join("events.jsonl")).unwrap();
    let repo = events
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|event| event["event"] == "repo")
        .expect("the repo's event");
    (repo["how"].as_str().unwrap().to_owned(), repo["path"].as_str().unwrap().into())
}

#[test]
fn the_next_job_uses_the_checkout_of_the_first() {
    let Some(sandbox) = Sandbox::new("the_next_job_uses_the_checkout_of_the_first") else { return };
    sandbox.run().assert_code(&[0]);
    let (how, path) = poky(&sandbox);
    assert_eq!(how, "cloned");
    assert!(path.starts_with(store(&sandbox)) && path.ends_with("poky"), "{path:?}");
    let file = path.join("bitbake/bin/bitbake");
    let known = |path: &Path| {
        let meta = std::fs::metadata(path).unwrap();
        (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size())
    };
    let before = known(&file);
    sandbox.run().assert_code(&[0]);
    assert_eq!(poky(&sandbox), ("stored".to_owned(), path));
    assert_eq!(known(&file), before, "BitBake's parse cache knows a file by these");
    // A job with another name has another work directory below the same top.
    sandbox.change_manifest("name = \"meta-tested\"", "name = \"other\"");
    sandbox.run().assert_code(&[0]);
    assert_eq!(poky(&sandbox).0, "stored");
    sandbox.behaviour("yocto-check-layer say something new");
    sandbox.run().assert_code(&[0]);
    assert_eq!((poky(&sandbox).0.as_str(), entries(&sandbox).len()), ("cloned", 2));
}

#[test]
fn two_parallel_jobs_share_one_checkout() {
    let Some(sandbox) = Sandbox::new("two_parallel_jobs_share_one_checkout") else { return };
    let jobs: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|name| {
            let mut command = sandbox.command(["run"]);
            command.arg(sandbox.manifest()).args(["--set", &format!("name={name}")]);
            command.arg("--work-dir").arg(sandbox.work()).arg("--out").arg(sandbox.path().join(name));
            sandbox.start(command)
        })
        .collect();
    for job in jobs {
        job.wait().assert_code(&[0]);
    }
    assert_eq!(entries(&sandbox).len(), 1, "{:?}", entries(&sandbox));
}

#[test]
fn a_job_killed_during_checkout_does_not_disturb_the_next_one() {
    let Some(sandbox) = Sandbox::new("a_job_killed_during_checkout_does_not_disturb_the_next_one") else {
        return;
    };
    for milliseconds in [0, 5, 15, 30, 60, 90, 120, 160, 200, 250] {
        let mut running = sandbox.start(sandbox.run_command());
        let known = entries(&sandbox);
        running.wait_until("something in the store", || entries(&sandbox) != known);
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.signal(Signal::SIGKILL);
        assert_eq!(running.wait().signal, Some(9), "the kill came after the end");
        // The next commit must be checked out again, so that each kill interrupts a checkout.
        sandbox.behaviour(&format!("yocto-check-layer say {milliseconds}"));
    }
    sandbox.run().assert_code(&[0]);
    let left = entries(&sandbox);
    // A new, empty directory could belong to a job that is about to lock it.
    let empty = |name: &str| {
        let repos = std::fs::read_dir(store(&sandbox)).unwrap();
        repos
            .flatten()
            .any(|repo| std::fs::read_dir(repo.path().join(name)).is_ok_and(|mut all| all.next().is_none()))
    };
    assert!(left.iter().all(|name| !name.ends_with(".part") || empty(name)), "{left:?}");
    sandbox.run().assert_code(&[0]);
    assert_eq!(poky(&sandbox).0, "stored");
}

/// Two machines with one share, each with its own work directories.
#[test]
fn a_trusted_job_stores_its_checkout_on_the_share_for_all_jobs() {
    const NAME: &str = "a_trusted_job_stores_its_checkout_on_the_share_for_all_jobs";
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    let share = sandbox.path().join("share");
    std::fs::create_dir(&share).unwrap();
    sandbox.write_manifest(&format!("{}\n[cache]\nshare = {share:?}\n", sandbox.manifest_text()));
    let run = |machine: &str, more: &[&str]| {
        let mut command = sandbox.command(["run"]);
        command.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.path().join(machine));
        command.arg("--out").arg(sandbox.out()).args(more);
        sandbox.start(command).wait().assert_code(&[0]);
        let (how, path) = poky(&sandbox);
        (how, path.starts_with(&share))
    };
    // Stamps that no other job can use would reveal an untrusted one.
    let there = || -> BTreeSet<PathBuf> { files(&share.join("layers")) };
    assert_eq!(run("stranger", &[]), ("cloned".into(), false));
    assert!(there().is_empty(), "{:?}", there());
    assert_eq!(run("first", &["--trusted"]), ("cloned".into(), false));
    let stored = there();
    assert!(stored.iter().any(|path| path.ends_with("poky/bitbake/bin/bitbake")), "{stored:?}");
    let cache = sandbox.result()["cache"][0].clone();
    assert_eq!(
        (cache["tier"].as_str(), cache["traffic"]["objects_written"].as_u64()),
        (Some("shared"), Some(1)),
        "{cache}"
    );
    assert_eq!(run("second", &["--trusted"]), ("stored".into(), true));
    assert!(files(&sandbox.path().join("second/layers")).is_empty(), "nothing was copied");
    let stored = there();
    assert_eq!(run("stranger", &[]), ("stored".into(), true), "BitBake works on the share's checkout");
    assert_eq!(there(), stored);
}

/// Everything below except directories.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path());
        }
    }
    found
}

/// The build user can read a checkout with git and BitBake, but cannot change it.
#[test]
fn layer_code_can_read_but_not_write_a_checkout() {
    const NAME: &str = "layer_code_can_read_but_not_write_a_checkout";
    if !geteuid().is_root() {
        return skip(NAME, "layer code has a user of its own only where the agent is root");
    }
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    sandbox.run().assert_code(&[0]);
    let (_, tree) = poky(&sandbox);
    let shell = |words: &[&str]| {
        let mut command = sandbox.command(["shell"]);
        command.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.work()).arg("--").args(words);
        sandbox.start(command).wait()
    };
    let tree = tree.to_str().unwrap();
    // The git calls of BitBake in each layer (`oe/buildcfg.py`).
    for words in [
        vec!["git", "-C", tree, "rev-parse", "HEAD"],
        vec!["git", "-C", tree, "diff", "--quiet", "--no-ext-diff"],
        vec!["git", "-C", tree, "diff", "--quiet", "--no-ext-diff", "--cached"],
        vec!["test", "-r", "meta/conf/layer.conf"],
    ] {
        let words: Vec<String> =
            words.into_iter().map(|word| word.replace("meta/conf", &format!("{tree}/meta/conf"))).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        shell(&words).assert_code(&[0]);
    }
    let output_text = shell(&["id", "-un"]);
    assert!(output_text.output().contains(BUILD_USER), "{}", output_text.output());
    for path in ["meta/new", ".git/hooks", "../entry.json", "../../new"] {
        let path = format!("{tree}/{path}");
        shell(&["touch", &path]).assert_code(&[1]);
    }
}
