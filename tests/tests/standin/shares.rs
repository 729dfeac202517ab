//! Jobs with a share: BitBake's configuration for each source, and the effects of a faulty share.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{Ran, Sandbox, SlowFs, skip};

/// A job that builds `hello` with a share.
struct Job {
    sandbox: Sandbox,
}

impl Job {
    fn new(test: &str) -> Option<Job> {
        let sandbox = Sandbox::new(test)?;
        let job = Job { sandbox };
        std::fs::create_dir(job.share()).unwrap();
        job.cache(&format!("share = {:?}", job.share()));
        Some(job)
    }

    fn share(&self) -> PathBuf {
        self.sandbox.path().join("share")
    }

    /// The content of `[cache]`.
    fn cache(&self, lines: &str) {
        let text = self.sandbox.manifest_text();
        self.sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n[cache]\n{lines}\n"));
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.sandbox.run_command();
        command.args(["--only", "build"]).args(more);
        command
    }

    /// Runs the job; it must pass.
    #[track_caller]
    fn passes(&self, command: Command) -> Ran {
        let ran = self.sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran
    }

    fn work(&self) -> PathBuf {
        self.sandbox.work().join("meta-tested-scarthgap")
    }

    fn local_conf(&self) -> String {
        std::fs::read_to_string(self.work().join("build/conf/local.conf")).unwrap()
    }

    #[track_caller]
    fn assert_conf(&self, has: &[&str], has_not: &[&str]) {
        let text = self.local_conf();
        for words in has {
            assert!(text.contains(words), "no {words:?} in\n{text}");
        }
        for words in has_not {
            assert!(!text.contains(words), "{words:?} in\n{text}");
        }
    }

    /// The tiers of the result as `tier state`.
    fn tiers(&self) -> Vec<String> {
        let result = self.sandbox.result();
        let word = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
        let tiers = result["cache"].as_array().cloned().unwrap_or_default();
        tiers.iter().map(|tier| format!("{} {}", word(&tier["tier"]), word(&tier["state"]))).collect()
    }

    /// Fails unless the job continues without the share and says why.
    #[track_caller]
    fn assert_without_share(&self, ran: &Ran, why: &str) {
        ran.assert_says(&["the shared cache", "unusable", why]);
        assert_eq!(self.tiers(), ["shared unusable"]);
        self.assert_conf(&["SSTATE_DIR ?="], &["SSTATE_MIRRORS", "PREMIRRORS", "TARBALLS"]);
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Everything below the directory except non-empty directories.
fn left_in(directory: &Path) -> Vec<PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()).collect();
    let (directories, mut files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    files.extend(directories.into_iter().filter(|path| path.to_string_lossy().contains("probe")));
    files
}

#[test]
fn a_trusted_build_reads_and_writes_the_share_and_has_its_own_local_caches() {
    let Some(job) = Job::new("a_trusted_build_reads_and_writes_the_share_and_has_its_own_local_caches")
    else {
        return;
    };
    let ran = job.passes(job.command(&["--trusted"]));
    ran.assert_says(&["the source is trusted", "--trusted"]);
    assert_eq!(job.tiers(), ["shared read-write"]);
    let share = job.share().display().to_string();
    let sstate = job.sandbox.work().join("trusted/sstate/scarthgap").display().to_string();
    job.assert_conf(
        &[
            &format!("file://.* file://{share}/sstate/scarthgap/PATH"),
            &format!("file://{share}/downloads/"),
            "BB_GENERATE_MIRROR_TARBALLS = \"1\"",
            &format!("SSTATE_DIR ?= \"{sstate}\""),
            "BB_HASHSERVE = \"\"",
        ],
        &[],
    );
    assert_eq!(left_in(&job.share()), [] as [PathBuf; 0], "the probe left something");
    // Its local files are closed to untrusted code.
    job.passes(job.command(&[]));
    assert_eq!(job.tiers(), ["shared read-only"]);
    let own = job.sandbox.work().join("sstate/scarthgap").display().to_string();
    job.assert_conf(&["SSTATE_MIRRORS", &format!("SSTATE_DIR ?= \"{own}\"")], &["TARBALLS", "trusted"]);
    let mode = job.sandbox.work().join("trusted").metadata().unwrap().permissions().mode();
    assert!(!is_root() || mode & 0o077 == 0, "mode {mode:o}");
}

/// Trust applies to the commit that CodeBuild resolved: any other or unknown commit is not trusted.
#[test]
fn a_push_is_trusted_only_at_the_commit_that_codebuild_resolved() {
    let Some(job) = Job::new("a_push_is_trusted_only_at_the_commit_that_codebuild_resolved") else { return };
    let head = build_agent_tests::git(&job.sandbox.layer(), ["rev-parse", "HEAD"]);
    let other = "f".repeat(40);
    let in_codebuild = |resolved: Option<&str>, more: &[&str]| {
        let mut command = job.command(more);
        command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", job.sandbox.layer());
        command.env("CODEBUILD_WEBHOOK_EVENT", "PUSH").env("CODEBUILD_WEBHOOK_TRIGGER", "branch/main");
        command.env("BUILD_AGENT_TRUSTED_BRANCHES", "main");
        command.envs(resolved.map(|resolved| ("CODEBUILD_RESOLVED_SOURCE_VERSION", resolved)));
        command
    };
    let git = job.sandbox.layer().join(".git");
    // resolved, whether there is a repository, --trusted, and what the job says where it is not trusted
    let table = [
        (Some(head.as_str()), true, false, None),
        (Some(&other), true, false, Some("is checked out")),
        (Some(&other), true, true, Some("is checked out")),
        (None, true, false, Some("CODEBUILD_RESOLVED_SOURCE_VERSION")),
        (Some(&head), false, false, Some("git cannot tell which commit is checked out")),
        (Some(&head), false, true, None),
    ];
    for (resolved, has_git, flag, lost) in table {
        let aside = job.sandbox.path().join("git-aside");
        if !has_git {
            std::fs::rename(&git, &aside).unwrap();
        }
        let flags: &[&str] = if flag { &["--trusted"] } else { &[] };
        let ran = job.passes(in_codebuild(resolved, flags));
        let plan = job.sandbox.start({
            let mut command = in_codebuild(resolved, &[]);
            command.args(flags).arg("--only").arg("checkout");
            command
        });
        plan.wait().assert_code(&[0]);
        if !has_git {
            std::fs::rename(&aside, &git).unwrap();
        }
        let tiers = if lost.is_none() { "shared read-write" } else { "shared read-only" };
        assert_eq!(job.tiers(), [tiers], "{resolved:?} {has_git} {flag}");
        let output_text = lost.map(|lost| ["the source is not trusted", lost, "--trusted"]);
        ran.assert_says(output_text.as_ref().map_or(&[][..], |output_text| &output_text[..]));
    }
}

#[test]
fn a_pull_request_writes_only_its_own_part_whatever_its_flags() {
    let Some(job) = Job::new("a_pull_request_writes_only_its_own_part_whatever_its_flags") else { return };
    let in_codebuild = |more: &[&str]| {
        let mut command = job.command(more);
        command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", job.sandbox.layer());
        command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
        command.env("CODEBUILD_WEBHOOK_TRIGGER", "pr/12").env("BUILD_AGENT_TRUSTED_BRANCHES", ".*");
        command
    };
    let ran = job.passes(in_codebuild(&[]));
    ran.assert_says(&["the source is not trusted (it is pull request 12)"]);
    assert_eq!(job.tiers(), ["pull-request read-write", "shared read-only"]);
    let share = job.share().display().to_string();
    let text = job.local_conf();
    let own = text.find(&format!("file://{share}/pr/12/sstate/scarthgap/PATH")).expect("its own part");
    let shared = text.find(&format!("file://{share}/sstate/scarthgap/PATH")).expect("the shared part");
    assert!(own < shared, "its own part comes first");
    job.assert_conf(&[&format!("{}/pr/12/sstate/scarthgap", job.work().display()), "TARBALLS"], &[]);
    assert!(job.share().join("pr/12").is_dir());
    let refused = job.sandbox.start(in_codebuild(&["--trusted"])).wait();
    refused.assert_code(&[2]);
    refused.assert_says(&["--trusted cannot make this source trusted", "pull request 12"]);
}

#[test]
fn a_missing_share_causes_a_warning() {
    let Some(job) = Job::new("a_missing_share_causes_a_warning") else { return };
    std::fs::remove_dir(job.share()).unwrap();
    job.assert_without_share(&job.passes(job.command(&["--trusted"])), "No such file or directory");
    std::fs::write(job.share(), "").unwrap();
    job.assert_without_share(&job.passes(job.command(&["--trusted"])), "is not a directory");
}

#[test]
fn a_hanging_share_causes_a_warning() {
    const TEST: &str = "a_hanging_share_causes_a_warning";
    let Some(job) = Job::new(TEST) else { return };
    let source = job.sandbox.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for operation in ["getattr", "readdir"] {
        let options = ["--metadata-ms", "0", "--create-ms", "0", "--hang", operation];
        let Some(_mount) = SlowFs::mount(TEST, &source, &job.share(), &options) else { return };
        let ran = job.passes(job.command(&["--trusted"]));
        job.assert_without_share(&ran, "no answer within 10s");
        // No signal ends a process in uninterruptible sleep, so later commands must not wait for it.
        assert!(!ran.stdout.contains("cannot end"), "{}", ran.stdout);
    }
}

#[test]
fn a_share_without_hard_links_is_only_read() {
    const TEST: &str = "a_share_without_hard_links_is_only_read";
    let Some(job) = Job::new(TEST) else { return };
    let source = job.sandbox.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let quick = ["--metadata-ms", "0", "--create-ms", "0"];
    for (more, why) in [
        (&["--no-hard-links"][..], "it has no hard links"),
        (&["--fault", "mkdir:EROFS"], "Read-only file system"),
        (&["--fault", "fsync:EIO"], "Input/output error"),
        (&["--fault", "write:ENOSPC", "--fault", "flush:ENOSPC"], "No space left on device"),
    ] {
        let options = [&quick[..], more].concat();
        let Some(_mount) = SlowFs::mount(TEST, &source, &job.share(), &options) else { return };
        let ran = job.passes(job.command(&["--trusted"]));
        ran.assert_says(&["read-only", why]);
        assert_eq!(job.tiers(), ["shared read-only"], "{more:?}");
        job.assert_conf(&["SSTATE_MIRRORS"], &["TARBALLS"]);
    }
}

#[test]
fn a_share_that_the_build_user_may_not_read_is_not_used() {
    const TEST: &str = "a_share_that_the_build_user_may_not_read_is_not_used";
    let Some(job) = Job::new(TEST) else { return };
    if !is_root() {
        return skip(TEST, "the agent is its own build user here; it takes root to have another");
    }
    std::fs::set_permissions(job.share(), std::fs::Permissions::from_mode(0o700)).unwrap();
    job.assert_without_share(&job.passes(job.command(&["--trusted"])), "Permission denied");
}

#[test]
fn a_read_only_mount_is_only_read() {
    const TEST: &str = "a_read_only_mount_is_only_read";
    let Some(job) = Job::new(TEST) else { return };
    let mount = |words: &[&str]| {
        Command::new("mount").args(words).arg(job.share()).output().is_ok_and(|out| out.status.success())
    };
    let share = job.share().display().to_string();
    if !mount(&["--bind", &share]) {
        return skip(TEST, "bind mounts are not allowed here");
    }
    let read_only = mount(&["-o", "remount,ro,bind"]);
    let ran = job.sandbox.start(job.command(&["--trusted"])).wait();
    let unmounted = Command::new("umount").arg(job.share()).status();
    assert!(read_only && unmounted.is_ok_and(|status| status.success()));
    ran.assert_code(&[0]);
    ran.assert_says(&["the shared cache", "read-only", "Read-only file system"]);
    assert_eq!(job.tiers(), ["shared read-only"]);
}

/// A hash server that sends its greeting to one connection.
fn hash_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 64];
        let _ = stream.read(&mut asked).unwrap();
        stream.write_all(b"{\"requests\": {}}\n").unwrap();
        let _ = stream.read(&mut asked);
    });
    address
}

#[test]
fn local_links_to_pruned_objects_are_removed() {
    let Some(job) = Job::new("local_links_to_pruned_objects_are_removed") else { return };
    job.passes(job.command(&[]));
    let link = job.sandbox.work().join("sstate/scarthgap/ab/sstate:x.tar.zst");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(job.share().join("sstate/scarthgap/ab/sstate:x.tar.zst"), &link).unwrap();
    let ran = job.passes(job.command(&[]));
    ran.assert_says(&["1 local links led to what the share no longer has"]);
    assert!(link.symlink_metadata().is_err());
}

#[test]
fn a_hash_server_is_probed_first_and_untrusted_builds_only_read_it() {
    let Some(job) = Job::new("a_hash_server_is_probed_first_and_untrusted_builds_only_read_it") else {
        return;
    };
    let address = hash_server();
    job.cache(&format!("hash_server = {address:?}"));
    job.passes(job.command(&["--trusted"]));
    job.assert_conf(&[&format!("BB_HASHSERVE = \"{address}\""), "OEEquivHash"], &["UPSTREAM"]);
    // The server has ended by now.
    let ran = job.passes(job.command(&["--trusted"]));
    ran.assert_says(&["builds run without a hash server", &address]);
    job.assert_conf(&["BB_HASHSERVE = \"\""], &["OEEquivHash"]);
    let address = hash_server();
    job.cache(&format!("hash_server = {address:?}"));
    job.passes(job.command(&[]));
    let upstream = format!("BB_HASHSERVE_UPSTREAM = \"{address}\"");
    job.assert_conf(&["BB_HASHSERVE = \"auto\"", &upstream], &[]);
}

#[test]
fn plan_prints_what_the_source_may_do() {
    let Some(job) = Job::new("plan_prints_what_the_source_may_do") else { return };
    let plan = |more: &[&str]| {
        let manifest = job.sandbox.manifest().display().to_string();
        let work = job.sandbox.work().display().to_string();
        job.sandbox.call([&["plan", &manifest, "--work-dir", &work], more].concat())
    };
    let ran = plan(&["--trusted"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["\ncache\n", "trusted", "read and write", &job.share().display().to_string()]);
    let ran = plan(&["--json"]);
    ran.assert_code(&[0]);
    assert!(!job.share().join("pr").exists(), "a plan touches nothing");
    let text = ran.stdout;
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["cache"]["trusted"], false, "{text}");
    assert_eq!(value["cache"]["tiers"][0]["tier"], "shared");
    assert_eq!(value["cache"]["tiers"][0]["write"], false);
}
