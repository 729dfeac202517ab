//! `build-agent publish` against a real S3 server.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use build_agent_tests::SeaweedFs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};

const MIB: u64 = 1024 * 1024;
const BUCKET: &str = "artifacts";

/// What these tests do with the server.
trait Publishes {
    fn publish(&self, tree: &Path, prefix: &str) -> Output;
    fn index(&self, prefix: &str) -> Option<Value>;
    /// Starts to publish a large file, and waits until the upload has started.
    fn start_large(&self, tree: &Path, prefix: &str) -> Child;
}

impl Publishes for SeaweedFs {
    fn publish(&self, tree: &Path, prefix: &str) -> Output {
        self.agent().arg("publish").arg(tree).arg(format!("s3://{BUCKET}/{prefix}")).output().unwrap()
    }

    fn index(&self, prefix: &str) -> Option<Value> {
        let body = self.get(BUCKET, &format!("{prefix}/index.json"))?;
        Some(serde_json::from_slice(&body).unwrap())
    }

    fn start_large(&self, tree: &Path, prefix: &str) -> Child {
        let file = std::fs::File::create(tree.join("large.wic")).unwrap();
        file.set_len(1024 * MIB).unwrap();
        let mut child = self
            .agent()
            .arg("publish")
            .arg(tree)
            .arg(format!("s3://{BUCKET}/{prefix}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while !self.uploads(BUCKET) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before its upload was seen");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

fn tree(files: &[(&[u8], &[u8])]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = tree.path().join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    tree
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn ended(output: &Output, status: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = format!("{error}\n{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(status), "{all}");
    all
}

#[test]
fn published_files_are_identical() {
    let Some(server) = SeaweedFs::start("publish::published_files_are_identical") else { return };
    let names: [(&[u8], &str); 8] = [
        (b"plain.wic", "plain.wic"),
        (b"d/gcc-cross_1.0+gitAUTOINC+abc:1.ipk", "d/gcc-cross_1.0+gitAUTOINC+abc:1.ipk"),
        (b"d/a b#c?d&e=f", "d/a b#c?d&e=f"),
        (b"d/100%20%.txt", "d/100%20%.txt"),
        ("d/[häß]{日本}~^*\"'<>|".as_bytes(), "d/[häß]{日本}~^*\"'<>|"),
        (b".hidden/..x", ".hidden/..x"),
        (b"d/two\nlines\xff%", "d/two%0Alines%FF%25"),
        (b"empty", "empty"),
    ];
    let files: Vec<(&[u8], &[u8])> =
        names.iter().map(|(name, _)| (*name, if *name == b"empty" { &b""[..] } else { name })).collect();
    let tree = tree(&files);
    for (link, target) in
        [("latest", "plain.wic"), ("loop", "."), ("passwd", "/etc/passwd"), ("up", "../../x")]
    {
        symlink(target, tree.path().join(link)).unwrap();
    }
    // More than one part, a short last part, and no equal parts.
    let large: Vec<u8> = (0..40 * MIB / 8 + 12345).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    std::fs::write(tree.path().join("large.wic"), &large).unwrap();

    ended(&server.publish(tree.path(), "a/b c"), 0);
    let index = server.index("a/b c").expect("an index");
    assert_eq!(index["schema"], "build-agent/index/v1");
    let objects = index["objects"].as_array().unwrap();
    let object = |path: &str| objects.iter().find(|o| o["path"] == path).unwrap_or_else(|| panic!("{path}"));
    for ((_, content), (_, path)) in files.iter().zip(names) {
        let key = format!("a/b c/{path}");
        assert_eq!(server.get(BUCKET, &key).as_deref(), Some(*content), "{path}");
        assert_eq!(object(path)["key"], key);
        assert_eq!(object(path)["sha256"], sha256(content), "{path}");
    }
    assert_eq!(object("d/two%0Alines%FF%25")["encoded"], true);
    assert!(server.get(BUCKET, "a/b c/large.wic").unwrap() == large, "the large file differs");
    assert_eq!(object("large.wic")["sha256"], sha256(&large));

    assert_eq!(object("latest")["target"], "plain.wic");
    assert_eq!(object("passwd")["escaping"], true);
    assert_eq!(object("up")["escaping"], true);
    assert_eq!(object("loop")["link"], ".");
    assert_eq!(server.get(BUCKET, "a/b c/latest"), None, "a link is not uploaded");
    assert_eq!(index["totals"]["objects"], 9);
    assert_eq!(index["totals"]["links"], 4);

    // Published objects never change.
    std::fs::write(tree.path().join("plain.wic"), "other").unwrap();
    let output_text = ended(&server.publish(tree.path(), "a/b c"), 2);
    assert!(output_text.contains("index.json"), "{output_text}");
    assert_eq!(server.get(BUCKET, "a/b c/plain.wic").as_deref(), Some(&b"plain.wic"[..]));
}

#[test]
fn nothing_to_publish_is_not_a_success() {
    let Some(server) = SeaweedFs::start("publish::nothing_to_publish_is_not_a_success") else { return };
    let tree = tree(&[]);
    symlink("nothing", tree.path().join("dangling")).unwrap();
    ended(&server.publish(tree.path(), "empty"), 1);
    ended(&server.publish(&tree.path().join("missing"), "empty"), 2);
    assert_eq!(server.index("empty"), None);
}

#[test]
fn credentials_that_are_refused_or_missing() {
    let Some(server) = SeaweedFs::start("publish::credentials_that_are_refused_or_missing") else { return };
    let tree = tree(&[(b"a", b"1")]);
    let destination = format!("s3://{BUCKET}/x");
    let run =
        |command: &mut Command| command.arg("publish").arg(tree.path()).arg(&destination).output().unwrap();

    let output_text = ended(&run(server.agent().env("AWS_SECRET_ACCESS_KEY", "wr0ng-s3cret")), 4);
    assert!(output_text.contains("SignatureDoesNotMatch") && output_text.contains("hint"), "{output_text}");
    assert!(!output_text.contains("wr0ng-s3cret"), "{output_text}");

    let mut none = server.agent();
    none.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let output_text = ended(&run(none.env("AWS_EC2_METADATA_DISABLED", "true")), 4);
    assert!(output_text.contains("AWS_PROFILE"), "{output_text}");
    assert_eq!(server.index("x"), None);
}

#[test]
fn a_server_that_dies_during_the_upload_is_an_error_and_leaves_no_index() {
    let Some(mut server) = SeaweedFs::start("publish::a_server_that_dies_on_the_way") else { return };
    let tree = tree(&[(b"a", b"1")]);
    let child = server.start_large(tree.path(), "dying");
    server.kill();
    let output_text = ended(&child.wait_with_output().unwrap(), 4);
    assert!(output_text.contains(&format!("s3://{BUCKET}/dying/")), "{output_text}");
    server.restart();
    assert_eq!(server.index("dying"), None);
}

#[test]
fn a_signal_stops_the_upload_without_an_index_or_unfinished_parts() {
    let Some(server) = SeaweedFs::start("publish::a_signal_stops_it") else { return };
    let tree = tree(&[(b"a", b"1")]);
    let child = server.start_large(tree.path(), "stopped");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    ended(&child.wait_with_output().unwrap(), 130);
    assert_eq!(server.index("stopped"), None);
    assert!(!server.uploads(BUCKET), "a multipart upload was left behind");
}

#[test]
fn a_manifest_can_be_in_a_bucket() {
    let Some(server) = SeaweedFs::start("publish::a_manifest_can_be_in_a_bucket") else { return };
    let manifest = b"version = 1\nname = \"from-s3\"\nrelease = \"scarthgap\"\n\
        [repos.poky]\nurl = \"https://host/poky\"\nbranch = \"scarthgap\"\n";
    let tree = tree(&[(b"a b+c.toml", manifest)]);
    ended(&server.publish(tree.path(), "jobs"), 0);
    let plan =
        |words: &[&str]| server.agent().arg("plan").args(words).current_dir(tree.path()).output().unwrap();
    let address = format!("s3://{BUCKET}/jobs/a b+c.toml");
    let output_text = ended(&plan(&[&address, "--manifest-sha256", &sha256(manifest)]), 0);
    assert!(
        output_text.contains("from-s3 on scarthgap") && !output_text.contains("was not verified"),
        "{output_text}"
    );
    ended(&plan(&[&address, "--manifest-sha256", &sha256(b"other")]), 2);
    let output_text = ended(&plan(&[&format!("s3://{BUCKET}/jobs/missing.toml")]), 2);
    assert!(output_text.contains("missing.toml"), "{output_text}");
}
