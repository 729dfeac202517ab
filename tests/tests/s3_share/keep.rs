//! `build-agent cache stats|prune|verify` on a share in a bucket.

use std::collections::BTreeSet;
use std::process::Output;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use build_agent_tests::fake_s3::{FakeS3, Fault};
use build_agent_tests::{SeaweedFs, agent};
use serde_json::Value;
use sha2::{Digest, Sha256};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An empty zstd file.
const ZSTD: [u8; 13] = [0x28, 0xb5, 0x2f, 0xfd, 0x24, 0x00, 0x01, 0x00, 0x00, 0x99, 0xe9, 0xd8, 0x51];

/// A bucket with a share below `share/`.
struct Share {
    s3: FakeS3,
}

impl Share {
    fn new() -> Share {
        Share { s3: FakeS3::new() }
    }

    fn write(&self, key: &str, content: &[u8], days: u32) {
        self.s3.put_at(&format!("share/{key}"), content, SystemTime::now() - DAY * days);
    }

    /// An object with its siginfo; returns the key of its archive below the share.
    fn object(&self, below: &str, number: u32, days: u32) -> String {
        let key = format!("{below}/{}", object(number));
        self.write(&key, &ZSTD, days);
        self.write(&format!("{key}.siginfo"), b"{}", days);
        key
    }

    /// The record of a build that ended so many days ago.
    fn used(&self, keys: &[&str], days: u32) {
        let hashes: Vec<String> =
            keys.iter().map(|key| format!("\"{}\"", &hex(key.as_bytes())[..16])).collect();
        let text = format!(
            "{{\"schema\":\"build-agent/bucket-usage/v1\",\"usage\":{{\"wanted\":10,\"local\":0,\"mirrors\":8,\
             \"missed\":2}},\"objects\":[{}]}}",
            hashes.join(",")
        );
        let name = format!("usage/scarthgap/2026010{days}T000000Z-{days:016x}.zst");
        self.write(&name, &raw_zstd(text.as_bytes()), days);
    }

    fn call(&self, words: &[&str]) -> Output {
        let mut command = agent();
        self.s3.configure(&mut command);
        command.arg("cache").args(words).args(["--share", "s3://bucket/share"]).current_dir("/");
        command.output().unwrap()
    }

    fn json(&self, words: &[&str], status: i32) -> Value {
        let output = self.call(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(status), "{}", printed(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)))
    }

    /// All keys below the share, without its index.
    fn keys(&self) -> BTreeSet<String> {
        let below = |key: String| key["share/".len()..].to_owned();
        self.s3.objects("share/").into_keys().map(below).filter(|key| !key.starts_with("index/")).collect()
    }

    /// The paths of the newest index of scarthgap.
    fn index(&self) -> String {
        let objects = self.s3.objects("share/index/scarthgap/");
        let (_, packed) = objects.iter().rfind(|(key, _)| key.ends_with(".base.zst")).expect("an index");
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), packed).unwrap();
        let unpacked = std::process::Command::new("zstd").args(["-dcq"]).arg(path.path()).output().unwrap();
        String::from_utf8(unpacked.stdout).unwrap()
    }
}

fn hex(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `XX/YY/NAME` of an object.
fn object(number: u32) -> String {
    let hash = hex(&number.to_le_bytes());
    let name = format!("sstate:zlib:core2-64-poky-linux:1.3.1+git0:r0:core2-64:12:{hash}_package.tar.zst");
    format!("{}/{}/{name}", &hash[..2], &hash[2..4])
}

/// A zstd frame with one block that is not compressed.
fn raw_zstd(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    let block = (length << 3 | 1).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &length.to_le_bytes(), &block[..3], text].concat()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn with_siginfo<'a>(keys: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    keys.into_iter().flat_map(|key| [key.clone(), format!("{key}.siginfo")]).collect()
}

#[test]
fn what_builds_use_stays_and_the_rest_goes() {
    let share = Share::new();
    let fresh = share.object("sstate/scarthgap", 1, 2);
    let used = share.object("sstate/scarthgap", 2, 50);
    let unused = share.object("sstate/scarthgap", 3, 50);
    share.write("downloads/old.tar.gz", b"old", 70);
    share.write("downloads/used.tar.gz", b"used", 70);
    share.used(&[&used, "downloads/used.tar.gz"], 3);
    let before = share.keys();

    let stats = share.json(&["stats"], 0);
    assert_eq!(stats["schema"], "build-agent/cache-stats/v1");
    assert_eq!(stats["share"], "s3://bucket/share");
    let release = &stats["sstate"][0];
    assert_eq!((&release["release"], &release["versions"]["12"]["units"]), (&"scarthgap".into(), &3.into()));
    assert_eq!((&release["builds"], &release["hit_rate"]), (&1.into(), &0.8.into()));
    let ages: Vec<_> = release["ages"].as_array().unwrap().iter().map(|age| age["units"].as_u64()).collect();
    assert_eq!(ages, [0, 2, 0, 1, 0].map(Some));
    assert!(stats["usd_per_month"].as_f64().unwrap() > 0.);
    let text = printed(&share.call(&["stats"]));
    assert!(text.contains("storage costs about") && text.contains("USD a month"), "{text}");

    let dry_run = share.json(&["prune", "--dry-run"], 0);
    assert_eq!((&dry_run["taken"]["units"], &dry_run["dry_run"]), (&2.into(), &true.into()));
    assert_eq!(share.keys(), before);
    let pruned = share.json(&["prune"], 0);
    assert_eq!(pruned["schema"], "build-agent/cache-prune/v1");
    assert_eq!(pruned["taken"], dry_run["taken"]);
    let mut left = with_siginfo([&fresh, &used]);
    left.insert("downloads/used.tar.gz".into());
    let mut found = share.keys();
    found.retain(|key| !key.starts_with("usage/"));
    assert_eq!(found, left, "{unused}");
    let index = share.index();
    assert!(
        index.contains(&object(1)) && index.contains(&object(2)) && !index.contains(&object(3)),
        "{index}"
    );
}

#[test]
fn the_least_recently_used_go_first() {
    let share = Share::new();
    let objects: Vec<String> = (0..6).map(|n| share.object("sstate/scarthgap", n, 20 - n)).collect();
    // By the time of writing, 0 is the oldest; by use, 1 is.
    share.used(&[&objects[0], &objects[5]], 2);
    let one = ZSTD.len() as u64 + 2;
    let size = (3 * one).to_string();
    share.json(&["prune", "--max-size", &size], 0);
    let mut left = share.keys();
    left.retain(|key| !key.starts_with("usage/"));
    assert_eq!(left, with_siginfo([&objects[0], &objects[4], &objects[5]]));
    // What was used within the grace period stays.
    let pruned = share.json(&["prune", "--max-size", "0", "--grace", "3d"], 0);
    assert_eq!((&pruned["taken"]["units"], &pruned["held_by_grace"]["units"]), (&1.into(), &2.into()));
}

#[test]
fn json_has_the_fields_of_a_directory() {
    let share = Share::new();
    share.object("sstate/scarthgap", 1, 2);
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("sstate/scarthgap")).unwrap();
    for command in ["stats", "prune", "verify"] {
        let bucket = share.json(&[command], 0);
        let output =
            agent().args(["cache", command, "--json", "--share"]).arg(directory.path()).output().unwrap();
        let other: Value = serde_json::from_slice(&output.stdout).unwrap();
        for field in other.as_object().unwrap().keys() {
            assert!(bucket.get(field).is_some(), "{command}: {field}");
        }
        assert_eq!(bucket["schema"], other["schema"]);
    }
}

#[test]
fn a_lease_protects_a_running_build() {
    let share = Share::new();
    let own = share.object("sstate/scarthgap", 1, 20);
    let other = share.object("sstate/kirkstone", 2, 20);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let lease = serde_json::json!({ "schema": "build-agent/lease/v1", "release": "scarthgap", "start": now - 60,
        "end": now + 3600, "layers": [] });
    share.write("leases/scarthgap.host-1-0123456789abcdef", lease.to_string().as_bytes(), 0);
    let prune = ["prune", "--max-size", "0", "--grace", "0s"];
    let pruned = share.json(&prune, 0);
    assert_eq!(
        (pruned["leases"].as_array().unwrap().len(), &pruned["held_by_leases"]["units"]),
        (1, &1.into())
    );
    assert!(share.keys().contains(&own) && !share.keys().contains(&other));
    share.json(&[&prune[..], &["--ignore-leases"]].concat(), 0);
    assert!(!share.keys().contains(&own));
    assert_eq!(share.keys().len(), 1, "{:?}", share.keys());
}

#[test]
fn keys_of_strangers_are_told_and_never_followed() {
    let share = Share::new();
    let own = share.object("sstate/scarthgap", 1, 2);
    let old = share.object("pr/7/sstate/scarthgap", 2, 50);
    share.write("pr/7/downloads/new.tar.gz", b"new", 1);
    let hostile = [
        "pr/7//double",
        "pr/7/../../sstate/scarthgap/up",
        "pr/7/downloads/a\u{1b}[2Jb",
        "pr/7/downloads/two\nlines",
        "pr/7/",
        "pr//x",
        "pr/007/x",
        "pr/\u{7}/x",
        "pr/7/sstate/scarthgap/ab/12/README",
        "pr/7/pr/8/x",
        "pr/7/downloads/%2e%2e%2fx",
    ];
    for key in hostile {
        share.write(key, b"x", 50);
    }
    for words in [&["stats"][..], &["prune", "--grace", "0s"], &["verify"]] {
        let output = share.call(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", printed(&output));
        let text = printed(&output);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("007"), "{text}");
    }
    assert!(share.keys().contains(&own) && !share.keys().contains(&old));
    let pruned = share.json(&["prune"], 0);
    let unknown: Vec<&str> =
        pruned["unknown"]["first"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for wanted in ["pr/7//double", "pr/7/downloads/a\\x1b[2Jb", "pr/7/downloads/two\\nlines", "pr/007/"] {
        assert!(unknown.iter().any(|name| name.ends_with(wanted)), "{wanted}: {unknown:?}");
    }
    assert!(share.keys().contains("pr/7/downloads/%2e%2e%2fx"), "a young file of a live tier stays");
    // A tier that is left alone goes; what cannot be named stays for the bucket's lifecycle rule.
    share.json(&["prune", "--pull-requests-max-age", "1h", "--grace", "0s"], 0);
    let left = share.keys();
    assert!(!left.contains("pr/7/downloads/new.tar.gz") && left.contains("pr/007/x"), "{left:?}");
    assert!(left.contains(&own));
}

#[test]
fn one_fault_in_five_changes_nothing() {
    let share = Share::new();
    let mut kept = Vec::new();
    for number in 0..1000 {
        let days = if number % 2 == 0 { 3 } else { 50 };
        let key = share.object("sstate/scarthgap", number, days);
        if days == 3 {
            kept.push(key);
        }
    }
    let mut state = 20_u64;
    share.s3.faults(move |_, _| {
        // Knuth's generator: the same faults each time.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (state >> 33) % 20 {
            0 => Fault::Before,
            1 => Fault::After,
            2 => Fault::Refused(503, "SlowDown"),
            3 => Fault::Truncated,
            _ => Fault::No,
        }
    });
    let pruned = share.json(&["prune"], 0);
    let gone = pruned["taken"]["units"].as_u64().unwrap() + pruned["gone_meanwhile"].as_u64().unwrap();
    assert_eq!((gone, &pruned["failed"]), (500, &0.into()));
    assert_eq!(share.keys(), with_siginfo(&kept));
    let verified = share.json(&["verify"], 0);
    assert_eq!(verified["files"], 1000);
}

#[test]
fn two_prunes_and_a_publisher_at_once_lose_nothing() {
    let share = Share::new();
    let mut kept = BTreeSet::new();
    for number in 0..400 {
        let key = share.object("sstate/scarthgap", number, if number % 2 == 0 { 1 } else { 50 });
        if number % 2 == 0 {
            kept.extend(with_siginfo([&key]));
        }
    }
    // While they run, objects that both plan to delete are written again, as by a build that made them anew.
    let again: Vec<String> =
        (1..400).step_by(20).map(|n| format!("sstate/scarthgap/{}", object(n))).collect();
    let (s3, keys, done) = (share.s3.clone(), again.clone(), AtomicU64::new(0));
    share.s3.faults(move |_, request| {
        // Between the plan and the deletion: at the first look at an object.
        if request.method == "HEAD" && done.fetch_add(1, Ordering::Relaxed) == 0 {
            let (s3, keys) = (s3.clone(), keys.clone());
            std::thread::spawn(move || {
                for key in keys {
                    s3.put_at(&format!("share/{key}.siginfo"), b"{}", SystemTime::now());
                    s3.put_at(&format!("share/{key}"), &ZSTD, SystemTime::now());
                }
            })
            .join()
            .unwrap();
        }
        Fault::No
    });
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| share.call(&["prune"]))).collect();
        for run in runs {
            let output = run.join().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
        }
    });
    let left = share.keys();
    assert!(left.is_superset(&kept), "{:?}", kept.difference(&left).collect::<Vec<_>>());
    for key in &left {
        // No archive without its sidecar file.
        assert!(!key.ends_with(".tar.zst") || left.contains(&format!("{key}.siginfo")), "{key}");
    }
    let lost = again.iter().filter(|key| !left.contains(*key)).count();
    // The other prune may have looked at the first objects before.
    assert!(lost <= 1, "{lost} of {} objects that were written meanwhile are gone", again.len());
}

#[test]
fn missing_permissions_are_named() {
    let share = Share::new();
    share.object("sstate/scarthgap", 1, 50);
    let before = share.keys();
    let denied = |wanted: fn(&str, bool) -> bool| {
        share.s3.faults(move |_, request| {
            let is_list = request.key.is_empty() && request.method == "GET";
            match wanted(&request.method, is_list) {
                true => Fault::Refused(403, "AccessDenied"),
                false => Fault::No,
            }
        });
    };
    denied(|method, _| method == "POST" || method == "DELETE");
    let output = share.call(&["prune"]);
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    assert!(printed(&output).contains("s3:DeleteObject"), "{}", printed(&output));
    assert_eq!(share.keys(), before);
    for command in ["prune", "stats", "verify"] {
        denied(|_, is_list| is_list);
        let output = share.call(&[command]);
        assert_eq!(output.status.code(), Some(3), "{command}: {}", printed(&output));
        assert!(printed(&output).contains("s3:ListBucket"), "{command}: {}", printed(&output));
    }
    // Without an index that lacks what goes, nothing goes.
    denied(|method, _| method == "PUT");
    let output = share.call(&["prune"]);
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    assert!(printed(&output).contains("s3:PutObject"), "{}", printed(&output));
    assert_eq!(share.keys(), before);
}

#[test]
fn verify_finds_damage_and_removes_it() {
    let share = Share::new();
    let good = share.object("sstate/scarthgap", 1, 2);
    let torn = share.object("sstate/scarthgap", 2, 2);
    share.write(&torn, &ZSTD[..9], 2);
    let empty = share.object("sstate/scarthgap", 3, 2);
    share.write(&empty, b"", 2);
    let changed = share.object("sstate/scarthgap", 4, 2);
    let mut wrong = ZSTD;
    wrong[12] ^= 1;
    share.write(&changed, &wrong, 2);
    let misplaced = format!("sstate/scarthgap/00/00/{}", object(5).rsplit('/').next().unwrap());
    share.write(&misplaced, &ZSTD, 2);
    share.write("sstate/scarthgap/README", b"x", 2);

    let verified = share.json(&["verify"], 1);
    let found = |verified: &Value, what: &str| verified["bad"][what]["count"].as_u64().unwrap_or(0);
    assert_eq!(found(&verified, "not whole"), 1);
    assert_eq!((found(&verified, "empty"), found(&verified, "damaged")), (1, 0));
    assert_eq!(found(&verified, "in a directory that is not that of its hash"), 1);
    assert_eq!(verified["unknown"]["first"], serde_json::json!(["sstate/scarthgap/README"]));
    // A checksum is only known to be wrong after decompression.
    let verified = share.json(&["verify", "--full"], 1);
    assert_eq!((found(&verified, "damaged"), &verified["unpacked"]), (1, &1.into()));
    let output = share.call(&["verify", "--full", "--remove-bad"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(printed(&output).contains("4 units deleted"), "{}", printed(&output));
    let mut left = with_siginfo([&good]);
    left.insert("sstate/scarthgap/README".into());
    assert_eq!(share.keys(), left);
    share.json(&["verify", "--full"], 0);
}

#[test]
fn a_manifest_names_the_share() {
    let share = Share::new();
    share.object("sstate/scarthgap", 1, 5);
    let project = tempfile::tempdir().unwrap();
    let manifest = "version = 1\nname = \"x\"\nrelease = \"scarthgap\"\n[repos.poky]\nurl = \"https://host/poky\"\n\
        branch = \"scarthgap\"\n[cache]\nshare = \"s3://bucket/share\"\nsstate_max_age = \"4d\"\n\
        [cache.prices]\ngb_month = 1000000000\n";
    std::fs::write(project.path().join("build-agent.toml"), manifest).unwrap();
    let call = |words: &[&str]| {
        let mut command = agent();
        share.s3.configure(&mut command);
        command.arg("cache").args(words).arg("build-agent.toml").current_dir(project.path()).output().unwrap()
    };
    let output = call(&["stats", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = (ZSTD.len() + 2) as f64;
    let price = bytes / f64::from(1 << 30) * 1e9;
    assert!((stats["usd_per_month"].as_f64().unwrap() - price).abs() < 1e-6, "{stats}");
    let output = call(&["prune"]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(share.keys().is_empty());
}

#[test]
fn seaweedfs_is_pruned_and_verified() {
    let Some(server) = SeaweedFs::start("s3_share::seaweedfs_is_pruned_and_verified") else { return };
    let local = tempfile::tempdir().unwrap();
    for number in 0..30 {
        let path = local.path().join(object(number));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, ZSTD).unwrap();
        std::fs::write(format!("{}.siginfo", path.display()), "{}").unwrap();
    }
    let call = |words: &[&str]| {
        let mut command = server.agent();
        command.arg("cache").args(words).args(["--share", "s3://artifacts/a b/share"]).output().unwrap()
    };
    let sstate = local.path().to_str().unwrap();
    let output = call(&["publish", "--release", "scarthgap", "--sstate", sstate]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let json = |words: &[&str]| {
        let output = call(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let units = |stats: &Value| stats["sstate"][0]["versions"]["12"]["units"].clone();
    assert_eq!(units(&json(&["stats"])), 30);
    assert_eq!(json(&["verify", "--full"])["unpacked"], 30);
    // Everything was used just now.
    assert_eq!(json(&["prune", "--max-size", "0"])["taken"]["units"], 0);
    let pruned = json(&["prune", "--max-size", &(10 * (ZSTD.len() + 2)).to_string(), "--grace", "0s"]);
    assert_eq!((&pruned["taken"]["units"], &pruned["failed"]), (&20.into(), &0.into()));
    assert_eq!(units(&json(&["stats"])), 10);
    assert_eq!(json(&["stats"])["unknown"]["count"], 0);
}
