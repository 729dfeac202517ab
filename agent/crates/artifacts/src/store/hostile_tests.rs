//! Layer code owns the tree that root publishes. It must not get root's files published by any name or race.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Publication;
use agent_process::Interrupt;
use agent_types::artifact::{ArtifactRule, Destination};
use agent_types::error::Result;
use agent_types::events::{Unit, channel};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

const SECRET: &str = "only root may read this";
const OWNER: u32 = 12345;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A tree of another user, and root's secrets next to it.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Scene {
        let scene = Scene(tempfile::tempdir().unwrap());
        fs_err::create_dir_all(scene.at("tree/d")).unwrap();
        fs_err::write(scene.at("tree/d/own"), "own").unwrap();
        fs_err::create_dir(scene.at("closed")).unwrap();
        for (name, mode) in [("secret", 0o600), ("group", 0o640), ("closed/secret", 0o600)] {
            fs_err::write(scene.at(name), SECRET).unwrap();
            fs_err::set_permissions(scene.at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        fs_err::set_permissions(scene.at("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["tree", "tree/d", "tree/d/own"] {
            chown(scene.at(name), Some(OWNER), Some(OWNER)).unwrap();
        }
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn publish(&self, out: &str, include: &str) -> Result<Outcome> {
        let rule = ArtifactRule { include: include.into(), exclude: Vec::new(), required: false };
        let (root, destination) = (self.at("tree"), Destination::Directory(self.at(out)));
        let publication = Publication {
            unit: Unit::new(Stage::Publish, "publish"),
            root: &root,
            rules: &[rule],
            destination: &destination,
            below: String::new(),
            kms_key_id: None,
            job: None,
            incomplete: None,
            grace: Duration::from_secs(1),
        };
        let (events, mut receiver) = channel();
        let listener = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
        let outcome = publication.run(&events, &Interrupt::new(None)).await;
        drop(events);
        listener.await.unwrap();
        outcome
    }

    /// Whether a published file contains the secret.
    fn leaked(&self, out: &str) -> bool {
        let files = walkdir::WalkDir::new(self.at(out)).into_iter().flatten();
        files
            .filter(|entry| entry.file_type().is_file())
            .any(|entry| String::from_utf8_lossy(&fs_err::read(entry.path()).unwrap()).contains(SECRET))
    }
}

/// Creates a link of this kind at `path` of the tree.
fn plant(way: &str, scene: &Scene, path: &Path) {
    let secret = |name: &str| scene.at(name);
    let up = "../".repeat(20);
    match way {
        "hard link" => fs_err::hard_link(secret("secret"), path).unwrap(),
        "hard link to a group's file" => fs_err::hard_link(secret("group"), path).unwrap(),
        "hard link out of a closed directory" => fs_err::hard_link(secret("closed/secret"), path).unwrap(),
        "absolute link" => symlink(secret("secret"), path).unwrap(),
        "relative link" => symlink(format!("{up}{}", secret("secret").display()), path).unwrap(),
        "link by /proc" => symlink(format!("/proc/self/root{}", secret("secret").display()), path).unwrap(),
        "link to the directory" => symlink(scene.0.path(), path).unwrap(),
        "link to the closed directory" => symlink(secret("closed"), path).unwrap(),
        "link to a link" => {
            let _ = symlink(secret("secret"), scene.at("tree/d/first"));
            symlink(scene.at("tree/d/first"), path).unwrap();
        }
        "link through a link" => {
            let _ = symlink(scene.0.path(), scene.at("tree/d/through"));
            symlink("through/secret", path).unwrap();
        }
        "link to a hard link" => {
            let _ = fs_err::hard_link(secret("secret"), scene.at("tree/d/hard"));
            symlink(scene.at("tree/d/hard"), path).unwrap();
            fs_err::remove_file(path).unwrap();
            symlink("hard", path).unwrap();
        }
        "link to the agent's descriptors" => symlink("/proc/self/fd", path).unwrap(),
        "link to the agent's memory" => symlink("/proc/self/environ", path).unwrap(),
        "fifo" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        _ => panic!("{way}"),
    }
}

#[tokio::test]
async fn never_publishes_files_that_only_root_can_read() {
    if !is_root() {
        return;
    }
    let ways = [
        "hard link",
        "hard link to a group's file",
        "hard link out of a closed directory",
        "absolute link",
        "relative link",
        "link by /proc",
        "link to the directory",
        "link to the closed directory",
        "link to a link",
        "link through a link",
        "link to a hard link",
        "link to the agent's descriptors",
        "link to the agent's memory",
        "fifo",
    ];
    // All kinds of links, rules and paths: 14 × 4 × 2 = 112.
    let mut tried = 0;
    for way in ways {
        for place in ["planted", "d/planted"] {
            let scene = Scene::new();
            plant(way, &scene, &scene.at("tree").join(place));
            for (n, include) in ["**", place, "**/planted*", "**/planted/**"].into_iter().enumerate() {
                let out = format!("out-{n}");
                // The publication may fail or skip the file, but must not contain the secret.
                let _ = scene.publish(&out, include).await;
                assert!(!scene.leaked(&out), "{way} at {place} by {include}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 112);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_publishes_secrets_through_paths_that_change_during_publication() {
    if !is_root() {
        return;
    }
    let scene = Arc::new(Scene::new());
    let stop = Arc::new(AtomicBool::new(false));
    for n in 0..20 {
        fs_err::write(scene.at(&format!("tree/d/file-{n}")), "own").unwrap();
    }
    fs_err::create_dir(scene.at("links")).unwrap();
    for n in 0..20 {
        symlink(scene.at("secret"), scene.at(&format!("links/file-{n}"))).unwrap();
    }
    // The directory, and then single files, are replaced by links to root's secrets and back.
    let swapper = {
        let (scene, stop) = (scene.clone(), stop.clone());
        std::thread::spawn(move || {
            let (d, spare, links) = (scene.at("tree/d"), scene.at("spare"), scene.at("links"));
            let (file, kept, hard) = (scene.at("links/swap"), scene.at("links/kept"), scene.at("secret"));
            let mut swaps = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                fs_err::rename(&d, &spare).unwrap();
                symlink(&links, &d).unwrap();
                fs_err::remove_file(&d).unwrap();
                fs_err::rename(&spare, &d).unwrap();
                let target = d.join(format!("file-{}", swaps % 20));
                fs_err::hard_link(&hard, &file).unwrap();
                fs_err::rename(&target, &kept).unwrap();
                fs_err::rename(&file, &target).unwrap();
                fs_err::remove_file(&target).unwrap();
                fs_err::rename(&kept, &target).unwrap();
                swaps += 1;
            }
            swaps
        })
    };
    for n in 0..40 {
        let out = format!("out-{n}");
        let _ = scene.publish(&out, "**").await;
        assert!(!scene.leaked(&out), "publication {n}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swapper.join().unwrap() > 0);
}
