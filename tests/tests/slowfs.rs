//! Tests of slowfs itself, because other tests rely on it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

use build_agent_tests::SlowFs;
use nix::errno::Errno;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use tempfile::TempDir;

const FAST: [&str; 4] = ["--metadata-ms", "0", "--create-ms", "0"];

/// A mount, its source, and the directory of both.
struct Mounted {
    slow: SlowFs,
    source: PathBuf,
    _directory: TempDir,
}

/// `None`, with a SKIPPED line, if mounting is not possible.
fn mounted(test: &str, options: &[&str], prepare: impl FnOnce(&Path)) -> Option<Mounted> {
    let directory = tempfile::tempdir().unwrap();
    let (source, mountpoint) = (directory.path().join("source"), directory.path().join("mount"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&mountpoint).unwrap();
    prepare(&source);
    let slow = SlowFs::mount(test, &source, &mountpoint, options)?;
    Some(Mounted { slow, source, _directory: directory })
}

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
}

#[test]
fn changes_in_the_mount_appear_in_the_source() {
    let Some(mounted) = mounted("changes_in_the_mount_appear_in_the_source", &FAST, |_| ()) else { return };
    let (mount, source) = (mounted.slow.path(), &mounted.source);
    fs::create_dir_all(mount.join("ab/cd")).unwrap();
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(mount.join("ab/cd/new")).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    file.write_all(&content).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(fs::read(source.join("ab/cd/new")).unwrap(), content);
    assert_eq!(fs::read(mount.join("ab/cd/new")).unwrap(), content);
    assert_eq!(fs::metadata(source.join("ab/cd/new")).unwrap().mode() & 0o7777, 0o640);

    let again = OpenOptions::new().write(true).create_new(true).open(mount.join("ab/cd/new"));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);

    fs::hard_link(mount.join("ab/cd/new"), mount.join("ab/linked")).unwrap();
    let [one, other] = ["ab/cd/new", "ab/linked"].map(|name| fs::metadata(mount.join(name)).unwrap());
    assert_eq!((one.ino(), one.nlink()), (other.ino(), 2));
    assert_eq!(one.ino(), fs::metadata(source.join("ab/linked")).unwrap().ino());

    fs::rename(mount.join("ab/cd"), mount.join("moved")).unwrap();
    assert_eq!(fs::read(mount.join("moved/new")).unwrap().len(), content.len());
    assert!(!source.join("ab/cd").exists());

    symlink("moved/new", mount.join("symlink")).unwrap();
    assert_eq!(fs::read_link(mount.join("symlink")).unwrap(), Path::new("moved/new"));
    assert_eq!(fs::read(mount.join("symlink")).unwrap().len(), content.len());

    OpenOptions::new().append(true).open(mount.join("moved/new")).unwrap().write_all(b"end").unwrap();
    OpenOptions::new().write(true).truncate(true).open(mount.join("ab/linked")).unwrap();
    assert_eq!(fs::metadata(source.join("moved/new")).unwrap().size(), 0);

    let mut names: Vec<_> = fs::read_dir(mount).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ab", "moved", "symlink"]);
    fs::remove_file(mount.join("ab/linked")).unwrap();
    fs::remove_dir(mount.join("ab")).unwrap();
    assert_eq!(errno(fs::remove_dir(mount.join("moved"))), Some(Errno::ENOTEMPTY));
    assert!(!source.join("ab").exists());
}

#[test]
fn mode_owner_and_times_are_kept() {
    let Some(mounted) = mounted("mode_owner_and_times_are_kept", &FAST, |_| ()) else { return };
    let (file, behind) = (mounted.slow.path().join("file"), mounted.source.join("file"));
    fs::write(&file, "x").unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
    let facts = fs::metadata(&behind).unwrap();
    assert_eq!((facts.mode() & 0o7777, facts.modified().unwrap()), (0o604, then));
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), then);

    let link = mounted.slow.path().join("link");
    symlink("nowhere", &link).unwrap();
    let time = TimeSpec::new(1_400_000_000, 5);
    utimensat(nix::fcntl::AT_FDCWD, &link, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
    let facts = fs::symlink_metadata(mounted.source.join("link")).unwrap();
    assert_eq!((facts.mtime(), facts.mtime_nsec()), (1_400_000_000, 5));

    if nix::unistd::geteuid().is_root() {
        chown(&file, Some(4_711), Some(4_712)).unwrap();
        lchown(&link, Some(4_713), None).unwrap();
        assert_eq!(
            (fs::metadata(&behind).unwrap().uid(), fs::metadata(&behind).unwrap().gid()),
            (4_711, 4_712)
        );
        assert_eq!(fs::symlink_metadata(mounted.source.join("link")).unwrap().uid(), 4_713);
    }
}

#[test]
fn a_deleted_file_can_be_used_while_it_is_open() {
    let Some(mounted) = mounted("a_deleted_file_can_be_used_while_it_is_open", &FAST, |_| ()) else { return };
    let path = mounted.slow.path().join("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all(b"still here").unwrap();
    file.set_len(5).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), file.metadata().unwrap().len()), ("still", 5));
}

#[test]
fn another_user_owns_its_files_and_permissions_apply() {
    let test = "another_user_owns_its_files_and_permissions_apply";
    if !nix::unistd::geteuid().is_root() {
        return build_agent_tests::skip(test, "only root can be another user");
    }
    let Some(mounted) = mounted(test, &FAST, |_| ()) else { return };
    let directory = mounted.slow.path().join("theirs");
    fs::create_dir(&directory).unwrap();
    fs::write(mounted.slow.path().join("ours"), "").unwrap();
    for above in [mounted._directory.path(), &mounted.source] {
        fs::set_permissions(above, Permissions::from_mode(0o755)).unwrap();
    }
    chown(&directory, Some(65_534), Some(65_534)).unwrap();
    fs::set_permissions(mounted.slow.path().join("ours"), Permissions::from_mode(0o600)).unwrap();
    let run = |script: &str| {
        use std::os::unix::process::CommandExt;
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .current_dir(mounted.slow.path())
            .uid(65_534)
            .gid(65_534)
            .stderr(Stdio::null());
        shell.status().unwrap().success()
    };
    assert!(run("umask 022; echo hello > theirs/file; mkdir theirs/directory"));
    for name in ["theirs/file", "theirs/directory"] {
        let facts = fs::metadata(mounted.source.join(name)).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o022), (65_534, 65_534, 0), "{name}");
    }
    assert!(!run("cat ours"));
    assert!(!run("echo > new"));
}

#[test]
fn operations_wait_in_parallel() {
    let prepare = |source: &Path| (0..64).for_each(|at| fs::write(source.join(at.to_string()), "").unwrap());
    let options = ["--metadata-ms", "400"];
    let Some(mut mounted) = mounted("operations_wait_in_parallel", &options, prepare) else { return };
    let start = Barrier::new(64);
    std::thread::scope(|scope| {
        for at in 0..64 {
            let (start, path) = (&start, mounted.slow.path().join(at.to_string()));
            scope.spawn(move || {
                start.wait();
                fs::metadata(path).unwrap();
            });
        }
    });
    let counts = mounted.slow.counts();
    assert_eq!(counts["operations"]["lookup"], 64, "a stat is one operation: {counts}");
    // In series it would be 1. It is not always the maximum, because some operations may start late.
    assert!(counts["max_in_flight"].as_u64().unwrap() >= 32, "{counts}");
}

#[test]
fn each_access_to_a_file_name_costs_an_operation() {
    let prepare = |source: &Path| {
        fs::create_dir(source.join("directory")).unwrap();
        (0..10).for_each(|at| fs::write(source.join(format!("directory/{at}")), "").unwrap());
    };
    let Some(mut mounted) = mounted("each_access_to_a_file_name_costs_an_operation", &FAST, prepare) else {
        return;
    };
    let directory = mounted.slow.path().join("directory");
    for _ in 0..2 {
        for entry in fs::read_dir(&directory).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    }
    let counts = mounted.slow.counts();
    assert_eq!(counts["operations"]["lookup"], 21, "the directory once, each file twice: {counts}");
    assert_eq!(counts["operations"]["readdir"], 2, "{counts}");
}

#[test]
fn faults_occur_as_configured() {
    let options = [
        "--faults-off",
        "--no-hard-links",
        "--fault",
        "rename:EIO:every=2",
        "--fault",
        "write:ENOSPC:after=1",
    ];
    let options = [&FAST[..], &options[..]].concat();
    let Some(mounted) = mounted("faults_occur_as_configured", &options, |_| ()) else { return };
    let [a, b] = ["a", "b"].map(|name| mounted.slow.path().join(name));
    fs::write(&a, "x").unwrap();
    fs::write(&a, "x").unwrap();
    assert_eq!(errno(fs::hard_link(&a, &b)), Some(Errno::EPERM));
    mounted.slow.enable_faults();
    // The signal may still be pending, so the first operations may have no faults.
    let deadline = Instant::now() + Duration::from_secs(60);
    while errno(fs::rename(&a, &b).and_then(|()| fs::rename(&b, &a))) != Some(Errno::EIO) {
        assert!(Instant::now() < deadline, "no rename ever failed");
    }
    let written = |path: &Path| errno(fs::write(path, "x"));
    assert_eq!([written(&b), written(&b), written(&b)], [None, Some(Errno::ENOSPC), Some(Errno::ENOSPC)]);
}

#[test]
fn a_late_reply_can_deny_an_operation_that_succeeded() {
    let options = [&FAST[..], &["--late", "rename:20:ENOENT"][..]].concat();
    let Some(mounted) = mounted("a_late_reply_can_deny_an_operation_that_succeeded", &options, |_| ()) else {
        return;
    };
    fs::write(mounted.slow.path().join("a"), "x").unwrap();
    let answer = fs::rename(mounted.slow.path().join("a"), mounted.slow.path().join("b"));
    assert_eq!(errno(answer), Some(Errno::ENOENT));
    assert_eq!(fs::read_to_string(mounted.slow.path().join("b")).unwrap(), "x");
    assert!(!mounted.source.join("a").exists());
}

/// Hanging operations block even SIGKILL, as on a hard NFS mount. Unmounting ends them, and more hangs than
/// slots do not block other operations.
#[test]
fn hanging_operations_end_with_the_mount() {
    let options = [&FAST[..], &["--hang", "statfs", "--slots", "4"][..]].concat();
    let Some(mut mounted) = mounted("hanging_operations_end_with_the_mount", &options, |_| ()) else {
        return;
    };
    let stat = |_| {
        let mut stat = Command::new("stat");
        stat.arg("--file-system").arg(mounted.slow.path()).stdout(Stdio::null()).stderr(Stdio::null());
        stat.spawn().unwrap()
    };
    let mut hung: Vec<_> = (0..8).map(stat).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while mounted.slow.counts()["operations"]["statfs"] != 8 {
        assert!(Instant::now() < deadline, "not all of them asked");
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::write(mounted.slow.path().join("file"), "x").unwrap();
    hung.iter_mut().for_each(|child| child.kill().unwrap());
    let state = |pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    while !hung.iter().all(|child| state(child.id()).contains(") D ")) {
        assert!(Instant::now() < deadline, "not all of them are beyond SIGKILL");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(mounted);
    assert!(hung.iter_mut().all(|child| !child.wait().unwrap().success()));
}

#[test]
fn nothing_stays_mounted() {
    let Some(mounted) = mounted("nothing_stays_mounted", &FAST, |_| ()) else { return };
    let mountpoint = mounted.slow.path().to_path_buf();
    let is_mounted =
        || fs::read_to_string("/proc/self/mounts").unwrap().contains(&*mountpoint.to_string_lossy());
    let in_use = File::create(mountpoint.join("file")).unwrap();
    assert!(is_mounted());
    let Mounted { slow, _directory: directory, .. } = mounted;
    drop(slow);
    assert!(!is_mounted());
    drop((in_use, directory));
}

/// As on NFS, where the reply to the change contains the directory's new state.
#[test]
fn a_change_of_a_directory_costs_one_operation() {
    let Some(mut mounted) = mounted("a_change_of_a_directory_costs_one_operation", &FAST, |_| ()) else {
        return;
    };
    fs::create_dir(mounted.slow.path().join("directory")).unwrap();
    for at in 0..10 {
        fs::create_dir(mounted.slow.path().join(format!("directory/{at}"))).unwrap();
    }
    let operations = mounted.slow.counts()["operations"].clone();
    assert_eq!(
        operations,
        serde_json::json!({"getattr": 1, "lookup": 11, "mkdir": 11}),
        "the top is asked about once"
    );
}
