//! `build-agent cache publish` on shares that are full, read-only, slow, faulty and hostile, and with killed agents.
//!
//! After each of them: every name that a reader would use has a whole object, and the next publish completes the
//! share.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use build_agent_tests::{BUILD_USER, Ran, Running, SlowFs, agent, skip};
use nix::sys::signal::Signal;
use nix::unistd::{User, chown, geteuid, mkfifo};
use tempfile::TempDir;

/// A share, the local directories of a build, and a directory for the output of agents.
struct PublishFixture {
    base: TempDir,
}

impl PublishFixture {
    /// Below /var/tmp and readable by all users, because other users must be able to enter it.
    fn new() -> PublishFixture {
        let base = tempfile::Builder::new().prefix("build-agent-test-").tempdir_in("/var/tmp").unwrap();
        std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for directory in ["share", "mount", "out", "sstate", "downloads"] {
            std::fs::create_dir(base.path().join(directory)).unwrap();
        }
        PublishFixture { base }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.base.path().join(below)
    }

    /// Makes objects of some KiB each, an archive with its `.siginfo`, and one download for every ten objects.
    fn fill(&self, objects: u64) {
        for number in 0..objects {
            let hash = format!("{:064x}", (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let hash = &hash[48..].repeat(4);
            let directory = self.path(&format!("sstate/{}/{}", &hash[..2], &hash[2..4]));
            std::fs::create_dir_all(&directory).unwrap();
            let name =
                format!("sstate:r{number}:core2-64-poky-linux:1.0:r0:core2-64:12:{hash}_package.tar.zst");
            std::fs::write(directory.join(&name), bytes(number, 2000 + 977 * number as usize % 90_000))
                .unwrap();
            std::fs::write(directory.join(format!("{name}.siginfo")), bytes(number, 1500)).unwrap();
            if number % 10 == 0 {
                self.download(&format!("source-{number}.tar.gz"), &bytes(number, 300_000));
            }
        }
    }

    /// A download that BitBake has verified.
    fn download(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path("downloads").join(name), content).unwrap();
        std::fs::write(self.path("downloads").join(format!("{name}.done")), "").unwrap();
    }

    fn command(&self, share: &Path) -> Command {
        let mut command = agent();
        command.args(["cache", "publish", "--release", "scarthgap", "--share"]).arg(share);
        command.arg("--sstate").arg(self.path("sstate")).arg("--downloads").arg(self.path("downloads"));
        command
    }

    fn start(&self, share: &Path) -> Running {
        Running::start(self.command(share), &self.path("out"))
    }

    fn publish(&self, share: &Path) -> Ran {
        self.start(share).wait()
    }

    /// The path that each local object would have in the share, with its content.
    fn expected(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut expected = BTreeMap::new();
        for (path, content) in files(&self.path("sstate")) {
            expected.insert(Path::new("sstate/scarthgap").join(path), content);
        }
        for (path, content) in files(&self.path("downloads")) {
            if path.extension().is_none_or(|extension| extension != "done") {
                expected.insert(Path::new("downloads").join(path), content);
            }
        }
        expected
    }

    /// Fails unless every file that a reader would find in the share is whole. Returns the number of files.
    #[track_caller]
    fn assert_whole(&self, share: &Path) -> usize {
        let expected = self.expected();
        let found: BTreeMap<_, _> = files(share).into_iter().filter(|(path, _)| !is_part(path)).collect();
        for (path, content) in &found {
            let whole = expected.get(path) == Some(content);
            assert!(whole, "{} has {} bytes that are not its source's", path.display(), content.len());
            let siginfo = PathBuf::from(format!("{}.siginfo", path.display()));
            let complete = !expected.contains_key(&siginfo) || found.contains_key(&siginfo);
            assert!(complete, "{} without its companion", path.display());
        }
        found.len()
    }

    /// Fails unless all objects are in the share.
    #[track_caller]
    fn assert_complete(&self, share: &Path) {
        assert_eq!(self.assert_whole(share), self.expected().len());
    }
}

fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.starts_with(".build-agent.") && name.ends_with(".part")
}

/// The regular files below a directory.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                found.insert(path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Unique bytes for each object.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed + 1);
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(length).collect()
}

/// The same numbers in each run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A mount that ends with the value. `None`, with a SKIPPED line, if mounting is not allowed.
struct Mount(PathBuf);

impl Mount {
    fn new(test: &str, at: &Path, words: &[&str]) -> Option<Mount> {
        let mounted = Command::new("mount").args(words).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Mount(at.into())),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                skip(test, &format!("mount {} is refused: {why}", words.join(" ")));
                None
            }
            Err(error) => {
                skip(test, &format!("mount: {error}"));
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", options]).arg(&self.0).status().unwrap();
        assert!(done.success(), "mount -o {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_publish_killed_at_any_moment_leaves_only_whole_objects() {
    const ROUNDS: u32 = 200;
    let fixture = PublishFixture::new();
    fixture.fill(150);
    let share = fixture.path("share");
    let begun = Instant::now();
    fixture.publish(&share).assert_code(&[0]);
    let usual = begun.elapsed();
    fixture.assert_complete(&share);
    let all = fixture.expected().len();
    let mut random = Random(0x5eed);
    let mut amid = 0;
    for round in 0..ROUNDS {
        // Starts again when everything is published; the rounds in between continue after the killed agent.
        if fixture.assert_whole(&share) == all {
            std::fs::remove_dir_all(&share).unwrap();
            std::fs::create_dir(&share).unwrap();
        }
        let running = fixture.start(&share);
        std::thread::sleep(usual.mul_f64(random.next() as f64 / u64::MAX as f64));
        running.signal(Signal::SIGKILL);
        running.wait();
        let found = fixture.assert_whole(&share);
        let parts = files(&share).keys().filter(|path| is_part(path)).count();
        amid += u32::from((found > 0 && found < all) || parts > 0);
        assert!(found <= all, "round {round}");
    }
    assert!(amid > ROUNDS / 20, "only {amid} of {ROUNDS} kills came while objects were on their way");
    fixture.publish(&share).assert_code(&[0]);
    fixture.assert_complete(&share);
}

#[test]
fn two_agents_at_once_complete_one_share() {
    let fixture = PublishFixture::new();
    fixture.fill(300);
    let share = fixture.path("share");
    let both = [fixture.start(&share), fixture.start(&share)];
    for running in both {
        running.wait().assert_code(&[0]);
    }
    fixture.assert_complete(&share);
    assert!(!files(&share).keys().any(|path| is_part(path)));
}

#[test]
fn a_share_without_hard_links_is_published_by_rename() {
    let fixture = PublishFixture::new();
    fixture.fill(100);
    let (source, options) =
        (fixture.path("share"), ["--metadata-ms", "0", "--create-ms", "1", "--no-hard-links"]);
    let test = "a_share_without_hard_links_is_published_by_rename";
    let Some(slow) = SlowFs::mount(test, &source, &fixture.path("mount"), &options) else { return };
    let both = [fixture.start(slow.path()), fixture.start(slow.path())];
    for running in both {
        running.wait().assert_code(&[0]);
    }
    fixture.assert_complete(&source);
    assert!(!files(&source).keys().any(|path| is_part(path)));
}

/// On NFS, a request whose reply was lost is sent again, and fails because it was already done.
#[test]
fn an_operation_that_succeeded_despite_an_error_counts_as_done() {
    let test = "an_operation_that_succeeded_despite_an_error_counts_as_done";
    let table: [&[&str]; 3] = [
        &["--late", "link:5:EEXIST"],
        &["--late", "link:5:ENOENT"],
        &["--no-hard-links", "--late", "rename:5:ENOENT"],
    ];
    for fault in table {
        let fixture = PublishFixture::new();
        fixture.fill(40);
        let options = [&["--metadata-ms", "0", "--create-ms", "0"], fault].concat();
        let Some(slow) = SlowFs::mount(test, &fixture.path("share"), &fixture.path("mount"), &options) else {
            return;
        };
        let ran = fixture.publish(slow.path());
        ran.assert_code(&[0]);
        ran.assert_says(&["44 objects"]);
        fixture.assert_complete(&fixture.path("share"));
        assert!(!files(&fixture.path("share")).keys().any(|path| is_part(path)), "{fault:?}");
    }
}

/// Each fault affects only the objects that it hits. Every final name has a whole object, and the next run completes
/// the share.
#[test]
fn a_faulty_share_has_only_whole_objects_and_is_completed_later() {
    let test = "a_faulty_share_has_only_whole_objects_and_is_completed_later";
    let table = [
        ("write:EIO:every=7", 3, "Input/output error"),
        ("fsync:EIO:every=7", 3, "Input/output error"),
        ("create:EIO:every=7", 3, "Input/output error"),
        ("link:EIO:every=7", 3, "Input/output error"),
        ("fsync:ENOSPC:after=20", 3, "No space left on device"),
        ("fsync:EDQUOT:after=20", 3, "quota exceeded"),
        ("write:EDQUOT:after=20", 3, "quota exceeded"),
        ("create:EACCES", 3, "Permission denied"),
        ("create:EROFS", 3, "Read-only file system"),
        ("create:ESTALE:every=9", 0, "99 objects"),
        ("unlink:EIO:every=3", 0, "99 objects"),
    ];
    for (fault, code, says) in table {
        let fixture = PublishFixture::new();
        fixture.fill(90);
        let share = fixture.path("share");
        let options = ["--metadata-ms", "0", "--create-ms", "0", "--fault", fault];
        let Some(slow) = SlowFs::mount(test, &share, &fixture.path("mount"), &options) else { return };
        let ran = fixture.publish(slow.path());
        println!("{fault}:\n{}", ran.output());
        ran.assert_code(&[code]);
        ran.assert_says(&[says]);
        drop(slow);
        fixture.assert_whole(&share);
        fixture.publish(&share).assert_code(&[0]);
        fixture.assert_complete(&share);
    }
}

#[test]
fn a_hanging_share_does_not_block_the_agent() {
    let fixture = PublishFixture::new();
    fixture.fill(20);
    let options = ["--metadata-ms", "0", "--create-ms", "0", "--hang", "fsync"];
    let test = "a_hanging_share_does_not_block_the_agent";
    let share = fixture.path("share");
    let Some(slow) = SlowFs::mount(test, &share, &fixture.path("mount"), &options) else { return };
    let mut running = fixture.start(slow.path());
    running.wait_until("a file on its way", || files(&share).keys().any(|path| is_part(path)));
    running.signal(Signal::SIGTERM);
    let says = |word: &str| {
        files(&fixture.path("out"))
            .values()
            .any(|output_text| String::from_utf8_lossy(output_text).contains(word))
    };
    running.wait_until("its last word", || says("the share did not answer in time"));
    // Unlike NFS, FUSE does not release a process that waits for it, not even a killed one.
    drop(slow);
    running.wait().assert_code(&[130]);
    assert_eq!(fixture.assert_whole(&share), 0);
}

#[test]
fn a_full_share_keeps_published_objects_and_is_reported() {
    let fixture = PublishFixture::new();
    fixture.fill(150);
    let share = fixture.path("share");
    let test = "a_full_share_keeps_published_objects_and_is_reported";
    let Some(mount) = Mount::new(test, &share, &["-t", "tmpfs", "-o", "size=3m", "build-agent-test"]) else {
        return;
    };
    let ran = fixture.publish(&share);
    ran.assert_code(&[3]);
    ran.assert_says(&[
        "the share did not take all",
        "No space left on device",
        "failed",
        "left",
        "cache prune",
    ]);
    assert!(fixture.assert_whole(&share) > 0, "{}", ran.output());
    assert!(!files(&share).keys().any(|path| is_part(path)), "what did not fit takes no room");
    mount.remount("remount,size=200m");
    fixture.publish(&share).assert_code(&[0]);
    fixture.assert_complete(&share);
}

#[test]
fn a_read_only_share_is_reported() {
    let fixture = PublishFixture::new();
    fixture.fill(60);
    let share = fixture.path("share");
    let bound = share.to_str().unwrap().to_owned();
    let test = "a_read_only_share_is_reported";
    let Some(mount) = Mount::new(test, &fixture.path("mount"), &["--bind", &bound]) else { return };
    mount.remount("remount,bind,ro");
    let ran = fixture.publish(&fixture.path("mount"));
    ran.assert_code(&[3]);
    ran.assert_says(&["Read-only file system", "0 objects (0 bytes) published"]);
    drop(mount);
    assert!(files(&share).is_empty());
}

/// The build user's id, for tests that need a second user. Prints SKIPPED if there is none.
fn other_user(test: &str) -> Option<User> {
    let user = User::from_name(BUILD_USER).ok().flatten();
    if !geteuid().is_root() || user.is_none() {
        skip(test, &format!("it needs root and a user `{BUILD_USER}`"));
        return None;
    }
    user
}

#[test]
fn a_share_of_another_user_is_reported() {
    let test = "a_share_of_another_user_is_reported";
    let Some(user) = other_user(test) else { return };
    let fixture = PublishFixture::new();
    fixture.fill(60);
    let mut command = fixture.command(&fixture.path("share"));
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    let ran = Running::start(command, &fixture.path("out")).wait();
    ran.assert_code(&[3]);
    ran.assert_says(&["Permission denied", "0 objects (0 bytes) published", "docs/trust.md"]);
}

#[test]
fn planted_links_in_local_caches_are_not_followed() {
    let test = "planted_links_in_local_caches_are_not_followed";
    let Some(user) = other_user(test) else { return };
    let fixture = PublishFixture::new();
    fixture.fill(3);
    let secret = fixture.path("secret");
    std::fs::write(&secret, "nobody else may read this").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    fixture.download("honest.tar.gz", b"source");
    for (name, plant) in [
        ("linked.tar.gz", &(|path: &Path| symlink(&secret, path).unwrap()) as &dyn Fn(&Path)),
        ("shared.tar.gz", &|path| std::fs::hard_link(&secret, path).unwrap()),
        ("fifo.tar.gz", &|path| mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("directory.tar.gz", &|path| std::fs::create_dir(path).unwrap()),
        ("two\nlines.tar.gz", &|path| std::fs::write(path, "x").unwrap()),
        ("\u{1b}[31mred.tar.gz", &|path| std::fs::write(path, "x").unwrap()),
    ] {
        plant(&fixture.path("downloads").join(name));
        std::fs::write(fixture.path("downloads").join(format!("{name}.done")), "").unwrap();
    }
    let long = format!("{}.tar.gz", "n".repeat(243));
    fixture.download(&long, b"long");
    // All of the shared state is a link to another directory.
    std::fs::create_dir(fixture.path("elsewhere")).unwrap();
    symlink(fixture.path("elsewhere"), fixture.path("sstate/zz")).unwrap();
    for path in ["downloads", "sstate"] {
        chown(&fixture.path(path), Some(user.uid), Some(user.gid)).unwrap();
    }
    let ran = fixture.publish(&fixture.path("share"));
    ran.assert_says(&["shared.tar.gz: it belongs to another user", "neither a file nor a link"]);
    let found: BTreeSet<_> = files(&fixture.path("share/downloads")).into_keys().collect();
    let expected = ["honest.tar.gz", "source-0.tar.gz", &long].map(PathBuf::from);
    assert_eq!(found, expected.into());
    assert!(!ran.output().contains('\u{1b}') || ran.output().contains("\u{1b}[0m"), "{:?}", ran.output());
}

#[test]
fn a_file_that_grows_while_it_is_read_is_not_published() {
    let fixture = PublishFixture::new();
    let name = "growing.tar.gz";
    fixture.download(name, &vec![b'x'; 100 << 20]);
    // Newer than everything that is written from now on.
    let stamp =
        std::fs::File::options().write(true).open(fixture.path("downloads/growing.tar.gz.done")).unwrap();
    stamp.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    let mut growing =
        std::fs::File::options().append(true).open(fixture.path("downloads").join(name)).unwrap();
    let share = fixture.path("share");
    let running = fixture.start(&share);
    let ended = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        // Many times while this many bytes are read.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                growing.write_all(b"more").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ran = running.wait();
        ended.store(true, Ordering::Relaxed);
        ran
    });
    ran.assert_code(&[3]);
    ran.assert_says(&["growing.tar.gz: it changed during the copy"]);
    assert!(files(&share).is_empty());
}
