#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use agent_types::error::Class;
use agent_types::events::channel;
use agent_types::stage::Stage;

/// A tree to publish and a directory to publish to.
struct World {
    kept: tempfile::TempDir,
}

impl World {
    fn new(files: &[(&str, &str)]) -> World {
        let world = World { kept: tempfile::tempdir().unwrap() };
        fs_err::create_dir(world.root()).unwrap();
        for (name, content) in files {
            let path = world.root().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        }
        world
    }

    fn root(&self) -> PathBuf {
        self.kept.path().join("tree")
    }

    fn out(&self) -> PathBuf {
        self.kept.path().join("out")
    }

    /// Publishes with these rules; `?` marks one that is not required. Also returns the events.
    async fn publish(&self, rules: &[&str], interrupt: &Interrupt) -> (Result<Outcome>, Vec<EventKind>) {
        let rules: Vec<ArtifactRule> = rules
            .iter()
            .map(|rule| ArtifactRule {
                include: rule.trim_start_matches('?').into(),
                exclude: Vec::new(),
                required: !rule.starts_with('?'),
            })
            .collect();
        let destination = Destination::Directory(self.out());
        let publication = Publication {
            unit: Unit::new(Stage::Publish, "publish"),
            root: &self.root(),
            rules: &rules,
            destination: &destination,
            below: "meta-x/scarthgap/1".into(),
            kms_key_id: None,
            job: None,
            incomplete: None,
            grace: std::time::Duration::from_secs(1),
        };
        let (events, mut receiver) = channel();
        let listener = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(event) = receiver.recv().await {
                all.push(event.what);
            }
            all
        });
        let outcome = publication.run(&events, interrupt).await;
        drop(events);
        (outcome, listener.await.unwrap())
    }

    async fn outcome(&self, rules: &[&str]) -> Outcome {
        self.publish(rules, &Interrupt::new(None)).await.0.unwrap()
    }

    fn index(&self) -> Option<Index> {
        let text = fs_err::read(self.out().join("meta-x/scarthgap/1/index.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// All files below the destination, relative to the prefix.
    fn published(&self) -> Vec<String> {
        let below = self.out().join("meta-x/scarthgap/1");
        let files = walkdir::WalkDir::new(&below).sort_by_file_name().into_iter().map(|entry| entry.unwrap());
        files
            .filter(|entry| !entry.file_type().is_dir())
            .map(|entry| entry.path().strip_prefix(&below).unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn publishes_a_tree_with_its_index() {
    let world = World::new(&[("d/a+b: #1%20.bin", "abc"), ("d/sub/empty", ""), ("other", "no")]);
    symlink("a+b: #1%20.bin", world.root().join("d/latest")).unwrap();
    symlink("/etc/passwd", world.root().join("d/out")).unwrap();
    symlink("loop", world.root().join("d/loop")).unwrap();
    fs_err::write(world.root().join("d").join(std::ffi::OsStr::from_bytes(b"bad\xff\n%")), "x").unwrap();
    let (outcome, events) = world.publish(&["d/**"], &Interrupt::new(None)).await;
    assert_eq!(outcome.unwrap(), Outcome::Passed);

    let names = ["d/a+b: #1%20.bin", "d/bad%FF%0A%25", "d/sub/empty", "index.json"];
    assert_eq!(world.published(), names);
    let index = world.index().unwrap();
    let object = |path: &str| index.objects.iter().find(|object| object.path == path).unwrap();
    let file = object("d/a+b: #1%20.bin");
    assert_eq!(file.key.as_deref(), Some("meta-x/scarthgap/1/d/a+b: #1%20.bin"));
    // FIPS 180-2, appendix B.1: the digest of "abc".
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((file.bytes, file.sha256.as_deref(), file.encoded), (Some(3), Some(abc), false));
    assert!(object("d/bad%FF%0A%25").encoded);
    assert_eq!(object("d/latest").target.as_deref(), Some("d/a+b: #1%20.bin"));
    assert!(object("d/out").escaping && !object("d/out").dangling);
    assert!(object("d/loop").dangling);
    assert_eq!((index.totals.objects, index.totals.bytes, index.totals.links), (3, 4, 3));

    let artifacts = events.iter().filter(|what| matches!(what, EventKind::Artifact(_))).count();
    assert_eq!(artifacts, 6);
    assert!(matches!(events.last(), Some(EventKind::Published { objects: 3, links: 3, .. })));
    // An event with a hostile name is still one line of JSON.
    events.iter().for_each(|what| assert!(!serde_json::to_string(what).unwrap().contains('\n')));
}

#[tokio::test]
async fn published_files_are_readable_and_never_overwritten() {
    let world = World::new(&[("a", "1")]);
    fs_err::set_permissions(world.root().join("a"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(world.outcome(&["a"]).await, Outcome::Passed);
    let there = world.out().join("meta-x/scarthgap/1/a");
    assert_eq!(fs_err::metadata(&there).unwrap().mode() & 0o7777, 0o644);

    fs_err::write(world.root().join("a"), "2").unwrap();
    let (second, _) = world.publish(&["a"], &Interrupt::new(None)).await;
    assert_eq!(second.unwrap_err().class, Class::Usage);
    assert_eq!(fs_err::read_to_string(there).unwrap(), "1");
}

#[tokio::test]
async fn required_rule_without_a_file_fails_before_any_upload() {
    let world = World::new(&[("d/a", "1")]);
    let Outcome::Failed(why) = world.outcome(&["d/*", "images/**"]).await else { panic!() };
    assert!(why.contains("`images/**`") && why.contains("contains d/"), "{why}");
    assert!(!world.out().exists());
}

#[tokio::test]
async fn optional_rule_may_match_nothing() {
    let world = World::new(&[("d/a", "1")]);
    let (outcome, events) = world.publish(&["d/*", "?images/**"], &Interrupt::new(None)).await;
    assert_eq!(outcome.unwrap(), Outcome::Passed);
    let told =
        |what: &EventKind| matches!(what, EventKind::Notice { message, .. } if message.contains("images/**"));
    assert!(events.iter().any(told), "{events:?}");

    let world = World::new(&[("d/a", "1")]);
    assert_eq!(world.outcome(&["?images/**"]).await, Outcome::Skipped("no file matched".into()));
}

#[tokio::test]
async fn one_bad_file_fails_the_publication_but_others_are_uploaded() {
    // Two names that are equal once one is encoded, and the reserved name of the index.
    let world = World::new(&[("a%0Ab", "plain"), ("a\nb", "encoded"), ("good", "1"), ("index.json", "mine")]);
    let (outcome, events) = world.publish(&["*"], &Interrupt::new(None)).await;
    let Ok(Outcome::Failed(why)) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("a%0Ab") && why.contains("index.json"), "{why}");
    assert_eq!(world.published(), ["a%0Ab", "good"]);
    assert_eq!(fs_err::read_to_string(world.out().join("meta-x/scarthgap/1/a%0Ab")).unwrap(), "plain");
    assert_eq!(world.index(), None);
    assert_eq!(events.iter().filter(|what| matches!(what, EventKind::Finding(_))).count(), 2);
}

#[tokio::test]
async fn too_long_name_is_reported_and_leaves_no_temporary_file() {
    // 200 bytes in the tree, 598 once most are encoded as three.
    let world = World::new(&[("good", "1")]);
    let long = std::ffi::OsString::from("\u{1}".repeat(200));
    fs_err::write(world.root().join(&long), "x").unwrap();
    let Outcome::Failed(why) = world.outcome(&["*"]).await else { panic!() };
    assert!(why.contains("%01%01"), "{why}");
    assert_eq!(world.published(), ["good"]);
}

#[tokio::test]
async fn does_not_write_through_links_in_the_destination() {
    let world = World::new(&[("a", "1"), ("d/b", "2")]);
    let elsewhere = world.kept.path().join("elsewhere");
    fs_err::create_dir(&elsewhere).unwrap();
    fs_err::write(elsewhere.join("victim"), "untouched").unwrap();
    let prefix = world.out().join("meta-x/scarthgap/1");
    fs_err::create_dir_all(&prefix).unwrap();
    symlink(elsewhere.join("victim"), prefix.join("a")).unwrap();
    symlink(&elsewhere, prefix.join("d")).unwrap();

    let Outcome::Failed(why) = world.outcome(&["**"]).await else { panic!() };
    assert!(why.contains("d/b"), "{why}");
    assert_eq!(fs_err::read_to_string(elsewhere.join("victim")).unwrap(), "untouched");
    assert_eq!(fs_err::read_dir(&elsewhere).unwrap().count(), 1);
    assert!(fs_err::symlink_metadata(prefix.join("a")).unwrap().is_file(), "the link itself was replaced");

    let world = World::new(&[("a", "1")]);
    symlink("/", world.out()).unwrap();
    let (outcome, _) = world.publish(&["a"], &Interrupt::new(None)).await;
    assert_eq!(outcome.unwrap_err().class, Class::Machine);
}

#[tokio::test]
async fn interrupt_writes_no_index() {
    let world = World::new(&[("a", "1")]);
    let interrupt = Interrupt::new(None);
    interrupt.signal();
    let (outcome, _) = world.publish(&["a"], &interrupt).await;
    assert!(matches!(outcome.unwrap(), Outcome::Cancelled(_)));
    let late = Interrupt::new(Some(std::time::Instant::now()));
    let (outcome, _) = world.publish(&["a"], &late).await;
    assert!(matches!(outcome.unwrap(), Outcome::TimedOut(_)));
    assert_eq!(world.index(), None);
}
