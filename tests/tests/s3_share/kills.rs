//! `cache publish` to a bucket, killed at many moments: every name that a reader would use has a whole object, and the
//! next publication continues.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use build_agent_tests::fake_s3::{FakeS3, Fault};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const OBJECTS: u64 = 40;
const MOMENTS: u64 = 200;

/// The local caches of a build.
struct Caches {
    base: TempDir,
}

impl Caches {
    fn new() -> Caches {
        let caches = Caches { base: tempfile::tempdir().unwrap() };
        let mut random = Random(1);
        for number in 0..OBJECTS {
            let hash = format!("{:016x}", random.next()).repeat(4);
            let directory = caches.path(&format!("sstate/{}/{}", &hash[..2], &hash[2..4]));
            std::fs::create_dir_all(&directory).unwrap();
            let name =
                format!("sstate:r{number}:core2-64-poky-linux:1.0:r0:core2-64:12:{hash}_package.tar.zst");
            // One of them comes in parts.
            let bytes = if number == 7 { 17 << 20 } else { 500 + 977 * number as usize };
            std::fs::write(directory.join(&name), random.bytes(bytes)).unwrap();
            std::fs::write(directory.join(format!("{name}.siginfo")), random.bytes(300)).unwrap();
        }
        std::fs::create_dir(caches.path("downloads")).unwrap();
        for number in 0..5 {
            let path = caches.path(&format!("downloads/source-{number}.tar.gz"));
            std::fs::write(&path, random.bytes(5000)).unwrap();
            std::fs::write(path.with_extension("gz.done"), "").unwrap();
        }
        caches
    }

    fn path(&self, below: &str) -> PathBuf {
        self.base.path().join(below)
    }

    fn publish(&self, s3: &FakeS3) -> Command {
        let mut command = build_agent_tests::agent();
        s3.configure(&mut command);
        command.args(["cache", "publish", "--release", "scarthgap", "--share", "s3://bucket/share"]);
        command.arg("--sstate").arg(self.path("sstate")).arg("--downloads").arg(self.path("downloads"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Key and content of each object that the share should have.
    fn expected(&self) -> BTreeMap<String, Vec<u8>> {
        let mut expected = BTreeMap::new();
        for (from, to) in [("sstate", "share/sstate/scarthgap"), ("downloads", "share/downloads")] {
            for (path, content) in files(&self.path(from)) {
                if !path.ends_with(".done") {
                    expected.insert(format!("{to}/{path}"), content);
                }
            }
        }
        expected
    }
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
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

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(length).collect()
    }
}

/// The objects that a reader would find. Fails if one of them is not whole.
#[track_caller]
fn whole(s3: &FakeS3, expected: &BTreeMap<String, Vec<u8>>, moment: u64) -> usize {
    let mut found = s3.objects("share/sstate/");
    found.extend(s3.objects("share/downloads/"));
    for (key, content) in &found {
        assert!(expected.get(key) == Some(content), "moment {moment}: {key} is not its source");
        let sidecar = format!("{key}.siginfo");
        assert!(
            !expected.contains_key(&sidecar) || found.contains_key(&sidecar),
            "moment {moment}: {key} alone"
        );
    }
    found.len()
}

#[test]
fn a_publication_that_is_killed_at_any_moment_leaves_whole_objects() {
    let (caches, s3) = (Caches::new(), FakeS3::new());
    let expected = caches.expected();
    let (mut random, mut completed) = (Random(5), 0);
    for moment in 0..MOMENTS {
        let pid = Arc::new(AtomicI32::new(0));
        let victim = Arc::clone(&pid);
        let (last, how) = (random.next() % 250, random.next() % 3);
        s3.faults(move |number, _| {
            let pid = victim.load(Ordering::Relaxed);
            if number < last || pid == 0 {
                return Fault::No;
            }
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            // Whether the server still executes what it has received.
            if how == 0 { Fault::Before } else { Fault::No }
        });
        let child = caches.publish(&s3).spawn().unwrap();
        pid.store(child.id().cast_signed(), Ordering::Relaxed);
        let output = child.wait_with_output().unwrap();
        let there = whole(&s3, &expected, moment);
        if there == expected.len() || output.status.success() {
            completed += 1;
            s3.clear();
        }
    }
    // Killed publications complete the share together, because each continues.
    assert!(completed > 5 && completed < MOMENTS, "{completed}");
    s3.faults(|_, _| Fault::No);
    let output = caches.publish(&s3).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert_eq!(whole(&s3, &expected, MOMENTS), expected.len(), "{text}");
    // Nothing is sent again.
    s3.faults(|_, _| Fault::No);
    assert!(caches.publish(&s3).status().unwrap().success());
    let writes = s3.requests().into_iter().filter(|(method, _)| method != "GET" && method != "HEAD");
    assert_eq!(writes.collect::<Vec<_>>(), []);
}

/// A third of all requests fails.
#[test]
fn faults_of_a_third_of_all_requests_lose_nothing() {
    let (caches, s3) = (Caches::new(), FakeS3::new());
    let mut random = Random(9);
    s3.faults(move |_, request| match random.next() % 12 {
        0 => Fault::Before,
        1 => Fault::After,
        2 => Fault::Refused(503, "SlowDown"),
        3 if !request.is_write() => Fault::Truncated,
        _ => Fault::No,
    });
    let output = caches.publish(&s3).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let expected = caches.expected();
    assert_eq!(whole(&s3, &expected, 0), expected.len());
}
