//! `build-agent cache`: the real binary on generated shares, some of them with hostile content.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use build_agent_tests::{Ran, Running, agent, skip};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const DAY: u64 = 24 * 3600;

/// An empty zstd file.
const ZSTD: [u8; 13] = [0x28, 0xb5, 0x2f, 0xfd, 0x24, 0x00, 0x01, 0x00, 0x00, 0x99, 0xe9, 0xd8, 0x51];

struct Share {
    base: TempDir,
}

impl Share {
    fn new() -> Share {
        let share = Share { base: tempfile::tempdir().unwrap() };
        fs::create_dir(share.root()).unwrap();
        share
    }

    fn root(&self) -> PathBuf {
        self.base.path().join("share")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn write(&self, path: &str, content: &[u8], days: u64) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        age(&path, days);
        path
    }

    /// Makes an object with its siginfo; returns the path of the archive, relative to the share.
    fn object(&self, below: &str, number: u32, days: u64) -> String {
        let path = format!("{below}/{}", object(number));
        self.write(&path, &ZSTD, days);
        self.write(&format!("{path}.siginfo"), b"{}", days);
        path
    }

    fn call(&self, words: &[&str]) -> Output {
        agent().arg("cache").args(words).arg("--share").arg(self.root()).current_dir("/").output().unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.call(&[words, &["--json"]].concat());
        assert!(output.status.code().is_some(), "{}", printed(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)))
    }

    fn start(&self, words: &[&str]) -> Running {
        let mut command = agent();
        command.arg("cache").args(words).arg("--share").arg(self.root()).current_dir("/");
        Running::start(command, self.base.path())
    }

    /// All paths except directories, relative to the share, without the trash.
    fn files(&self) -> Vec<String> {
        let mut found: Vec<String> = below(&self.root())
            .iter()
            .map(|path| path.strip_prefix(self.root()).unwrap().to_string_lossy().into_owned())
            .filter(|path| !path.starts_with("trash/") && !path.starts_with("pr/trash/"))
            .collect();
        found.sort();
        found
    }

    fn has(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    /// Sets the time of the trash back by years.
    fn age_trash(&self) {
        for (number, run) in fs::read_dir(self.at("trash")).unwrap().enumerate() {
            let old = format!("20200101T000000Z-{number:016x}");
            fs::rename(run.unwrap().path(), self.at("trash").join(old)).unwrap();
        }
    }
}

fn hash(number: u32) -> String {
    Sha256::digest(number.to_le_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `XX/YY/NAME` of an object.
fn object(number: u32) -> String {
    let hash = hash(number);
    let name = format!("sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:{hash}_package.tar.zst");
    format!("{}/{}/{name}", &hash[..2], &hash[2..4])
}

fn age(path: &Path, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * DAY);
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => found.extend(below(&path)),
            false => found.push(path),
        }
    }
    found
}

/// All files, each once: an interrupted or late operation can leave a second name of a file.
fn names(directory: &Path) -> BTreeSet<OsString> {
    below(directory).iter().map(|path| path.file_name().unwrap().to_owned()).collect()
}

fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

fn lease(share: &Share, name: &str, start_days: u64, layers: &[&str]) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let release = name.split('.').next().unwrap();
    let paper = json!({
        "schema": "build-agent/lease/v1",
        "release": release,
        "start": now - start_days * DAY,
        "end": now + DAY,
        "layers": layers,
    });
    share.write(&format!("leases/{name}"), paper.to_string().as_bytes(), start_days);
}

/// All results of a commit go together, and the newest of them counts.
#[test]
fn results_of_jobs_are_pruned_by_commit() {
    let share = Share::new();
    let job = "results/v1/meta-x/scarthgap/qemux86-64";
    for (commit, file, days) in [
        ("old", "latest.json", 200),
        ("old", "17/result.json", 200),
        ("built-again", "latest.json", 3),
        ("built-again", "17/result.json", 200),
        ("new", "latest.json", 100),
    ] {
        share.write(&format!("{job}/{commit}/{file}"), b"{}", days);
    }
    for commit in ["old", "built-again", "new"] {
        let directory = share.at(&format!("{job}/{commit}"));
        for path in [directory.join("17"), directory].into_iter().filter(|path| path.is_dir()) {
            age(&path, 200);
        }
    }
    share.write("results/README", b"x", 300);
    let stats = share.json(&["stats"]);
    assert_eq!(stats["results"]["units"], 3, "{stats}");
    let pruned = share.json(&["prune"]);
    assert_eq!(
        share.files(),
        [
            "results/README".to_owned(),
            format!("{job}/built-again/17/result.json"),
            format!("{job}/built-again/latest.json"),
            format!("{job}/new/latest.json"),
        ],
        "{pruned}"
    );
    assert_eq!(pruned["unknown"]["first"], json!(["results/README"]), "{pruned}");
    share.json(&["prune", "--results-max-age", "50d"]);
    assert!(!share.has(&format!("{job}/new/latest.json")) && share.has(&format!("{job}/built-again")));
}

#[test]
fn prune_removes_old_units_completely_and_nothing_else() {
    let share = Share::new();
    let s = "sstate/scarthgap";
    let mut kept = Vec::new();
    // The youngest part decides the age of an object.
    let old = share.object(s, 1, 31);
    let native = share.object(&format!("{s}/universal"), 2, 31);
    let young = share.object(s, 3, 29);
    let read = share.object(s, 4, 31);
    age(&share.at(&format!("{read}.siginfo")), 1);
    for object in [&young, &read] {
        kept.extend([object.clone(), format!("{object}.siginfo")]);
    }
    share.write(&format!("{old}.sig"), b"signed", 31);
    // Other versions, shortened names.
    let (h5, h6) = (hash(5), hash(6));
    let tgz = format!("sstate/dunfell/{}/{}/sstate:zlib::::core2-64:3:{h5}_package.tgz", &h5[..2], &h5[2..4]);
    let fetch =
        format!("{s}/{}/{}/sstate:zlib::1.3.1:r0::14:{h6}_fetch.tar.zst.siginfo", &h6[..2], &h6[2..4]);
    for path in [&tgz, &fetch] {
        share.write(path, b"x", 31);
    }
    // Downloads: the stamp has the time of the last use.
    share.write("downloads/a.tar.gz", b"x", 61);
    share.write("downloads/stamped.tar.gz", b"x", 600);
    share.write("downloads/stamped.tar.gz.done", b"x", 1);
    share.write("downloads/unused.tar.gz", b"x", 600);
    share.write("downloads/unused.tar.gz.done", b"x", 61);
    share.write("downloads/unused.tar.gz.lock", b"", 600);
    share.write("downloads/git2/h.old/objects/pack", b"x", 61);
    share.write("downloads/git2/h.young/objects/pack", b"x", 1);
    for directory in ["h.old/objects", "h.young/objects", "h.old", "h.young"] {
        age(&share.at(&format!("downloads/git2/{directory}")), 61);
    }
    kept.extend(
        ["stamped.tar.gz", "stamped.tar.gz.done", "unused.tar.gz.lock", "git2/h.young/objects/pack"]
            .map(|name| format!("downloads/{name}")),
    );
    // Unfinished files, which a prune removes after one day.
    share.write("downloads/.build-agent.0.part", b"x", 2);
    share.write(&format!("{young}x0y1z2a3"), b"x", 2);
    kept.push(format!("{young}x0y1z2a4"));
    share.write(kept.last().unwrap(), b"x", 0);
    // Layers.
    let commit = "0123456789012345678901234567890123456789";
    for (repo, used) in [("old", 31), ("young", 1)] {
        share.write(&format!("layers/{repo}/{commit}/conf/layer.conf"), b"x", 600);
        share.write(&format!("layers/{repo}/{commit}.json"), b"{}", 600);
        share.write(&format!("layers/{repo}/{commit}.used"), b"", used);
        age(&share.at(&format!("layers/{repo}/{commit}")), 600);
    }
    kept.extend(["/conf/layer.conf", ".json", ".used"].map(|name| format!("layers/young/{commit}{name}")));
    // Unknown.
    for unknown in ["README", &format!("{s}/1a/2b/notes.txt"), "downloads/CVE_CHECK2/nvdcve.db"] {
        share.write(unknown, b"x", 600);
        kept.push(unknown.to_owned());
    }
    kept.sort();

    let before = share.files();
    let dry = share.json(&["prune", "--dry-run"]);
    assert_eq!(share.files(), before);
    let output = share.call(&["prune"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(share.files(), kept, "{}", printed(&output));
    for reported in ["README", "notes.txt", "CVE_CHECK2", "10 units"] {
        assert!(printed(&output).contains(reported), "{reported}\n{}", printed(&output));
    }
    assert_eq!(dry["taken"]["units"], 10);
    assert_eq!(dry["unknown"]["count"], 3);
    // The object can be moved back until the grace period is over.
    let trashed: Vec<String> =
        below(&share.at("trash")).iter().map(|path| path.display().to_string()).collect();
    for path in [old, native, format!("{s}/git2/h.old/objects/pack")] {
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap();
        assert!(trashed.iter().any(|trashed| trashed.ends_with(&format!("/{name}"))), "{name} {trashed:#?}");
    }
    assert_eq!(share.json(&["prune"])["trash"]["runs_waiting"], 1);
    share.age_trash();
    let again = share.json(&["prune"]);
    assert_eq!((&again["trash"]["runs_deleted"], &again["taken"]["units"]), (&json!(1), &json!(0)));
    assert_eq!(fs::read_dir(share.at("trash")).unwrap().count(), 0);
    assert_eq!(share.files(), kept);
}

#[test]
fn prune_removes_the_least_recently_used_units_above_the_limit() {
    let share = Share::new();
    for number in 0..10 {
        share.object("sstate/scarthgap", number, u64::from(number));
    }
    // Each object has 15 bytes.
    let dry = share.json(&["prune", "--dry-run", "--max-size", "60"]);
    let pruned = share.json(&["prune", "--max-size", "60"]);
    assert_eq!(dry["taken"], pruned["taken"]);
    assert_eq!(dry["areas"], pruned["areas"]);
    assert_eq!(pruned["taken"], json!({ "units": 6, "bytes": 90 }));
    for number in 0..10 {
        assert_eq!(share.has(&format!("sstate/scarthgap/{}", object(number))), number < 4, "{number}");
    }
    assert_eq!(share.json(&["prune", "--max-size", "60"])["taken"]["units"], 0);
    assert_eq!(share.json(&["prune", "--max-size", "0", "--grace", "0s"])["taken"]["units"], 4);
    assert!(share.files().is_empty());
}

#[test]
fn leases_protect_objects_that_running_builds_may_use() {
    let share = Share::new();
    let commit = "0123456789012345678901234567890123456789";
    share.object("sstate/scarthgap", 1, 60);
    share.object("sstate/scarthgap", 2, 31);
    share.object("sstate/scarthgap", 3, 10);
    share.object("sstate/kirkstone", 4, 31);
    share.write(&format!("layers/repo/{commit}/file"), b"x", 600);
    age(&share.at(&format!("layers/repo/{commit}")), 600);
    // 31 days old now, and 29 days when the build began. The longest lease has two days.
    lease(&share, "scarthgap.host-1-a", 1, &[&format!("repo/{commit}")]);
    age(&share.at(&format!("sstate/scarthgap/{}", object(2))), 30);
    age(&share.at(&format!("sstate/scarthgap/{}.siginfo", object(2))), 30);
    // Objects used in the day before a build began count as young, whatever the rule.
    let recent = share.object("sstate/scarthgap", 5, 1);
    let impatient = share.json(&["prune", "--sstate-max-age", "0s", "--dry-run"]);
    assert_eq!(impatient["taken"]["units"], 4);
    for name in [recent.clone(), format!("{recent}.siginfo")] {
        fs::remove_file(share.at(&name)).unwrap();
    }
    let pruned = share.json(&["prune", "--max-size", "0"]);
    let left = |number: u32, release: &str| share.has(&format!("sstate/{release}/{}", object(number)));
    assert!(!left(1, "scarthgap") && left(2, "scarthgap") && left(3, "scarthgap") && !left(4, "kirkstone"));
    assert!(share.has(&format!("layers/repo/{commit}/file")));
    assert_eq!(pruned["held_by_leases"]["units"], 3);
    let output = share.call(&["prune", "--max-size", "0", "--dry-run"]);
    assert!(printed(&output).contains("kept because of 1 lease, the oldest since"), "{}", printed(&output));
    // An unreadable lease also protects everything, until it is two days old.
    share.write("leases/scarthgap.host-1-a", b"torn", 1);
    let output = share.call(&["prune", "--max-size", "0"]);
    assert!(left(2, "scarthgap") && left(3, "scarthgap"), "{}", printed(&output));
    assert!(printed(&output).contains("is not readable"), "{}", printed(&output));
    age(&share.at("leases/scarthgap.host-1-a"), 3);
    assert_eq!(share.json(&["prune", "--max-size", "0"])["taken"]["units"], 3);
    assert!(!share.has("leases/scarthgap.host-1-a"));
}

#[test]
fn prune_stops_if_leases_cannot_be_listed() {
    let share = Share::new();
    share.object("sstate/scarthgap", 1, 60);
    fs::create_dir(share.base.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", share.at("leases")).unwrap();
    let output = share.call(&["prune"]);
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    assert!(printed(&output).contains("--ignore-leases"), "{}", printed(&output));
    assert!(share.has(&format!("sstate/scarthgap/{}", object(1))));
    assert_eq!(share.json(&["prune", "--ignore-leases"])["taken"]["units"], 1);
}

#[test]
fn prune_follows_no_planted_link_and_planted_leases_expire() {
    let share = Share::new();
    let precious = share.base.path().join("precious");
    fs::create_dir_all(precious.join("1a/2b")).unwrap();
    let old = |path: &Path| age(path, 100);
    let name = object(1);
    fs::create_dir_all(precious.join(&name).parent().unwrap()).unwrap();
    fs::write(precious.join(&name), ZSTD).unwrap();
    old(&precious.join(&name));
    let outside = below(&precious);
    // A live tier with many links that lead out of it.
    share.object("pr/7/sstate/scarthgap", 2, 1);
    for link in ["pr/7/downloads", "pr/7/layers", "pr/7/sstate/kirkstone", "pr/7/leases", "pr/7/trash"] {
        symlink(&precious, share.at(link)).unwrap();
    }
    let first = &name[..2];
    symlink(precious.join(first), share.at("pr/7/sstate/scarthgap").join(first)).unwrap();
    nix::unistd::mkfifo(&share.at("pr/7/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A dead tier, read-only, with links and hostile names, and with a lease from the next year.
    share.object("pr/8/sstate/scarthgap", 3, 100);
    fs::create_dir_all(share.at("pr/8/closed/deeper")).unwrap();
    symlink(&precious, share.at("pr/8/closed/link")).unwrap();
    fs::write(share.at("pr/8/two\nlines\x1b[31m"), "").unwrap();
    nix::unistd::mkfifo(&share.at("pr/8/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    fs::set_permissions(share.at("pr/8/closed/deeper"), closed).unwrap();
    share.write("pr/9/leases/scarthgap.x", b"not read", 0);
    let tomorrow = SystemTime::now() + Duration::from_secs(3650 * DAY);
    File::open(share.at("pr/9/leases/scarthgap.x")).unwrap().set_modified(tomorrow).unwrap();
    // A tier that is not a directory, and a name that is not a number.
    symlink(&precious, share.at("pr/10")).unwrap();
    symlink(&precious, share.at("pr/x")).unwrap();

    // No user can set a ctime back, so the age of a tier counts from now.
    let output = share.call(&["prune", "--pull-requests-max-age", "1ns", "--pull-requests-max-size", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(!printed(&output).contains('\x1b'));
    assert!(!share.has("pr/7") && !share.has("pr/8"), "{}", printed(&output));
    assert!(share.has("pr/9"), "a lease holds it for now");
    assert_eq!(below(&precious), outside);
    share.age_trash();
    let output = share.call(&["prune"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(fs::read_dir(share.at("trash")).unwrap().count(), 0, "{}", printed(&output));
    assert_eq!(below(&precious), outside);
    assert!(share.has("pr/10") && share.has("pr/x"));
}

/// Like the machine that prunes an EFS share: all of `pr/` is mounted through another access point.
#[test]
fn directories_of_pull_requests_can_be_another_mount() {
    let test = "directories_of_pull_requests_can_be_another_mount";
    if !nix::unistd::geteuid().is_root() {
        return skip(test, "only root can mount");
    }
    let share = Share::new();
    let old = share.object("pr/7/sstate/scarthgap", 1, 40);
    let young = share.object("pr/7/sstate/scarthgap", 2, 1);
    let own = share.object("sstate/scarthgap", 3, 40);
    let prune = |words: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
        command.arg("mount --bind \"$1/pr\" \"$1/pr\"; shift; exec \"$@\"").arg("sh").arg(share.root());
        command.arg(agent().get_program()).args(["cache", "prune", "--json", "--share"]).arg(share.root());
        let output = command.args(words).output().unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let pruned = prune(&[]);
    assert_eq!(pruned["failed"], 0, "{pruned}");
    for path in [&old, &own] {
        assert!(!share.at(path).exists(), "{path}");
    }
    assert!(share.at(&young).exists());
    let trashed = |home: &str| below(&share.at(home)).len();
    assert_eq!((trashed("trash"), trashed("pr/trash")), (2, 2), "{:?}", below(&share.root()));
    // Without a grace period, units are deleted at once. The directory of the trash is not part of a pull request.
    let again = prune(&["--grace", "0s"]);
    assert_eq!(trashed("trash") + trashed("pr/trash"), 0, "{again}");
    assert_eq!(again["unknown"]["count"], 0, "{again}");
}

#[test]
fn prune_ignores_links_in_the_share() {
    let share = Share::new();
    let precious = share.base.path().join("precious");
    fs::create_dir_all(&precious).unwrap();
    let object = share.object("sstate/scarthgap", 1, 60);
    let moved = precious.join("moved");
    fs::rename(share.at(&object), &moved).unwrap();
    age(&moved, 60);
    symlink(&moved, share.at(&object)).unwrap();
    symlink(&precious, share.at("sstate/scarthgap/universal")).unwrap();
    let pruned = share.json(&["prune"]);
    assert!(moved.exists() && share.has(&object));
    // The siginfo without an archive is a separate unit.
    assert_eq!((&pruned["taken"]["units"], &pruned["unknown"]["count"]), (&json!(1), &json!(2)));
}

#[test]
fn two_prunes_can_run_at_the_same_time() {
    let share = Share::new();
    for number in 0..400 {
        share.object("sstate/scarthgap", number, if number < 300 { 60 } else { 1 });
    }
    let words = ["prune", "--json"];
    let running = [share.start(&words), share.start(&words)];
    let ran = running.map(Running::wait);
    let taken = |ran: &Ran| {
        ran.assert_code(&[0]);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["taken"]["units"].as_u64().unwrap()
    };
    assert!(ran.iter().map(taken).sum::<u64>() >= 300);
    assert_eq!(share.files().len(), 200);
    assert_eq!(names(&share.at("trash")).len(), 600);
}

#[test]
fn a_killed_prune_leaves_no_archive_without_sidecars_and_the_next_one_continues() {
    let share = Share::new();
    for number in 0..1500 {
        share.object("sstate/scarthgap", number, 60);
    }
    for kills in 0..2 {
        let mut running = share.start(&["prune", "--width", "1"]);
        let trash = share.at("trash");
        let runs = || fs::read_dir(&trash).map_or(0, Iterator::count);
        running.wait_until("a first unit in the trash", || runs() > kills);
        running.signal(Signal::SIGKILL);
        running.wait();
        let left = share.files();
        assert!(!left.is_empty());
        for archive in left.iter().filter(|path| path.ends_with(".tar.zst")) {
            assert!(share.has(&format!("{archive}.siginfo")), "{archive}");
        }
    }
    let output = share.call(&["prune"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(share.files().is_empty());
    assert_eq!(names(&share.at("trash")).len(), 3000);
}

#[test]
fn a_prune_reports_a_time_limit_and_a_signal() {
    let share = Share::new();
    for number in 0..2000 {
        share.object("sstate/scarthgap", number, 60);
    }
    let output = share.call(&["prune", "--time-limit", "1ms", "--width", "1"]);
    assert_eq!(output.status.code(), Some(5), "{}", printed(&output));
    assert!(printed(&output).contains("out of time"), "{}", printed(&output));
    let mut running = share.start(&["prune", "--width", "1"]);
    running.wait_until("a first unit in the trash", || share.has("trash"));
    running.signal(Signal::SIGTERM);
    let ran = running.wait();
    ran.assert_code(&[130]);
    ran.assert_says(&["cancelled", "the next run continues"]);
    assert_eq!(share.call(&["prune"]).status.code(), Some(0));
    assert!(share.files().is_empty());
}

#[test]
fn share_comes_from_the_manifest_or_the_command_line() {
    let share = Share::new();
    let output = agent().args(["cache", "prune", "--share", "/no/such/share"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    let manifest = share.base.path().join("build-agent.toml");
    let text = "version = 1\nname = 'x'\nrelease = 'scarthgap'\n[repos.poky]\nurl = 'https://example.org/poky'\nbranch = 'scarthgap'\nlayers = ['meta']\n";
    fs::write(&manifest, text).unwrap();
    let call = |words: &[&str]| {
        let mut command = agent();
        command.arg("cache").args(words).arg(&manifest).current_dir(share.base.path());
        command.env("BUILD_AGENT_CACHE", "off").output().unwrap()
    };
    let output = call(&["stats"]);
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    assert!(printed(&output).contains("--share"), "{}", printed(&output));
    let with_share = format!("{text}[cache]\nshare = '{}'\nsstate_max_age = '5d'\n", share.root().display());
    fs::write(&manifest, with_share).unwrap();
    share.object("sstate/scarthgap", 1, 6);
    share.object("sstate/scarthgap", 2, 4);
    let output = call(&["prune", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let pruned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(pruned["taken"]["units"], 1);
    for wrong in [["--max-size", "1GB"], ["--width", "0"], ["--grace", "soon"]] {
        let output = share.call(&[&["prune"], &wrong[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?} {}", printed(&output));
    }
}

#[test]
fn statistics() {
    let share = Share::new();
    share.object("sstate/scarthgap", 1, 0);
    share.object("sstate/scarthgap/universal", 2, 20);
    let fetch = object(3).replace("_package.tar.zst", "_fetch.tar.zst.siginfo");
    share.write(&format!("sstate/scarthgap/{fetch}"), b"{}", 100);
    share.write("downloads/a.tar.gz", b"12345", 0);
    share.write("downloads/git2_h.tar.gz", b"12345", 0);
    share.write("downloads/git2/h/objects/x", b"12345", 0);
    share.write("layers/repo/0123456789012345678901234567890123456789/file", b"12345", 0);
    share.write("pr/7/sstate/x", b"12345", 0);
    share.write("trash/20200101T000000Z-0123456789abcdef/x", b"12345", 0);
    share.write("what is this", b"", 0);
    lease(&share, "scarthgap.host-1-a", 0, &[]);
    for (name, mirrors) in
        [("20251122T173500Z-0123456789abcdef", 60), ("20251122T173600Z-0123456789abcdef", 80)]
    {
        let usage = json!({ "wanted": 100, "local": 10, "mirrors": mirrors, "missed": 90 - mirrors });
        share.write(&format!("usage/scarthgap/{name}.json"), usage.to_string().as_bytes(), 0);
    }
    let stats = share.json(&["stats"]);
    let release = &stats["sstate"][0];
    assert_eq!(release["versions"], json!({ "12": { "units": 2, "bytes": 30 } }));
    assert_eq!((&release["siginfo_only"], &release["builds"]), (&json!(1), &json!(2)));
    assert_eq!(release["hit_rate"], 0.8);
    let ages: Vec<_> =
        release["ages"].as_array().unwrap().iter().map(|age| age["units"].as_u64().unwrap()).collect();
    assert_eq!(ages, [1, 0, 1, 0, 1]);
    let one = json!({ "units": 1, "bytes": 5 });
    assert_eq!(stats["downloads"], json!({ "files": one, "git tarballs": one, "clones": one }));
    assert_eq!((&stats["layers"], &stats["trash"]), (&one, &one));
    assert_eq!(
        (&stats["pull_requests"][0]["number"], &stats["pull_requests"][0]["bytes"]),
        (&json!(7), &json!(5))
    );
    assert_eq!(
        (stats["leases"].as_array().unwrap().len(), &stats["unknown"]["first"][0]),
        (1, &json!("what is this"))
    );
    let text = printed(&share.call(&["stats"]));
    for reported in
        ["version 12", "2 objects, 30 bytes", "80% of 200 wanted objects", "git tarballs", "what is this"]
    {
        assert!(text.contains(reported), "{reported}\n{text}");
    }
}

#[test]
fn verify_finds_damage_and_moves_it_to_the_trash() {
    let share = Share::new();
    let s = "sstate/scarthgap";
    let good = share.object(s, 1, 0);
    let output = share.call(&["verify", "--full"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let torn = share.object(s, 2, 0);
    fs::write(share.at(&torn), &ZSTD[..11]).unwrap();
    let empty = share.object(s, 3, 0);
    fs::write(share.at(&empty), "").unwrap();
    let misplaced = format!("{s}/{}", object(4).replacen(&object(4)[..5], "00/00", 1));
    share.write(&misplaced, &ZSTD, 0);
    let link = format!("{s}/{}", object(5));
    fs::create_dir_all(share.at(&link).parent().unwrap()).unwrap();
    symlink("/etc/passwd", share.at(&link)).unwrap();
    let damaged = share.object(s, 6, 0);
    let mut bytes = ZSTD;
    bytes[12] ^= 1;
    fs::write(share.at(&damaged), bytes).unwrap();
    let lone = format!("{s}/{}", object(7));
    share.write(&lone, &ZSTD, 0);

    let verified = share.json(&["verify"]);
    let found =
        |verified: &Value, what: &str| verified["bad"][what]["first"].as_array().cloned().unwrap_or_default();
    assert_eq!(found(&verified, "not whole"), [torn.as_str()]);
    assert_eq!(found(&verified, "empty"), [empty.as_str()]);
    assert_eq!(found(&verified, "in a directory that is not that of its hash"), [misplaced.as_str()]);
    assert_eq!(found(&verified, "a link, directory or pipe in the place of a file"), [link.as_str()]);
    assert_eq!(verified["without_siginfo"], 1);
    assert_eq!(found(&share.json(&["verify", "--full"]), "damaged"), [damaged.as_str()]);
    let output = share.call(&["verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("--remove-bad"), "{}", printed(&output));
    let before = share.files();
    let output = share.call(&["verify", "--full", "--remove-bad"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let mut kept = vec![good.clone(), format!("{good}.siginfo"), lone];
    kept.sort();
    assert_eq!(share.files(), kept, "{before:#?}");
    assert_eq!(share.call(&["verify", "--full"]).status.code(), Some(0));
    // A person must fix a mode.
    fs::set_permissions(share.at(&good), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = share.call(&["verify", "--remove-bad"]);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains("chmod -R a+rX") && share.has(&good), "{}", printed(&output));
}
