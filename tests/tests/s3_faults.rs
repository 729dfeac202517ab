//! `build-agent publish` to a bucket whose connections break before or after the server executes a request.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Output;

use build_agent_tests::fake_s3::{FakeS3, Fault};

fn publish(server: &FakeS3, tree: &Path, prefix: &str) -> Output {
    let mut command = build_agent_tests::agent();
    server.configure(&mut command);
    command.arg("publish").arg(tree).arg(format!("s3://bucket/{prefix}")).output().unwrap()
}

/// Fails unless every file of the tree is stored once and listed in the index.
#[track_caller]
fn assert_published(server: &FakeS3, tree: &Path, prefix: &str) {
    let index = server.object(&format!("{prefix}/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let objects = index["objects"].as_array().unwrap();
    let files: Vec<_> = std::fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(objects.len(), files.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let there = server.object(&format!("{prefix}/{name}"));
        assert!(there == Some(std::fs::read(&file).unwrap()), "{name} differs");
    }
    assert!(!server.has_uploads(), "a multipart upload was left behind");
}

/// Files of these sizes, all different.
fn tree(sizes: impl IntoIterator<Item = usize>) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for (n, size) in sizes.into_iter().enumerate() {
        let content: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ n) as u8).collect();
        std::fs::write(tree.path().join(format!("file-{n:03}")), content).unwrap();
    }
    tree
}

#[track_caller]
fn ended(output: &Output, status: i32) {
    let output_text = [&output.stdout[..], &output.stderr].concat();
    assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output_text));
}

#[test]
fn a_reset_of_the_indexs_write_loses_nothing() {
    let server = FakeS3::new();
    let tree = tree([100, 0, 7]);
    for (prefix, fault) in [("before", Fault::Before), ("after", Fault::After)] {
        let mut first = true;
        server.faults(move |_, request| {
            let is_index = request.method == "PUT" && request.key.ends_with("/index.json");
            if is_index && std::mem::take(&mut first) { fault.clone() } else { Fault::No }
        });
        ended(&publish(&server, tree.path(), prefix), 0);
        assert_published(&server, tree.path(), prefix);
    }
    // Published objects are still never overwritten.
    server.faults(|_, request| {
        let is_index = request.method == "PUT" && request.key.ends_with("/index.json");
        if is_index { Fault::Taken } else { Fault::No }
    });
    ended(&publish(&server, tree.path(), "taken"), 2);
    assert_eq!(server.object("taken/index.json").unwrap(), b"somebody else's");
}

/// Each request of a publication in turn, including those of a multipart upload.
#[test]
fn a_reset_of_any_one_request_loses_nothing() {
    let server = FakeS3::new();
    let tree = tree([100, 17 << 20]);
    server.faults(|_, _| Fault::No);
    ended(&publish(&server, tree.path(), "calm"), 0);
    assert_published(&server, tree.path(), "calm");
    let requests = server.requests().len() as u64;
    assert!(requests >= 8, "{requests}");
    for fault in [Fault::Before, Fault::After] {
        for faulty in 0..requests {
            let (prefix, fault) = (format!("{fault:?}-{faulty}"), fault.clone());
            server.faults(move |number, _| if number == faulty { fault.clone() } else { Fault::No });
            ended(&publish(&server, tree.path(), &prefix), 0);
            // A multipart upload whose reply is lost is started again; the bucket removes the first one itself.
            server.clear_uploads();
            assert_published(&server, tree.path(), &prefix);
        }
    }
}

#[test]
fn one_fault_in_five_loses_nothing() {
    let server = FakeS3::new();
    let tree = tree((0..200).map(|n| n * 37));
    let mut state = 20_u64;
    server.faults(move |_, _| {
        // Knuth's generator: the same faults each time.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (state >> 33) % 10 {
            0 => Fault::Before,
            1 => Fault::After,
            _ => Fault::No,
        }
    });
    ended(&publish(&server, tree.path(), "storm"), 0);
    assert_published(&server, tree.path(), "storm");
    let requests = server.requests().len();
    assert!(requests > 220, "{requests} requests: there were no faults");
}
