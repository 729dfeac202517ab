use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{Attribute, ObjectStore, ObjectStoreExt};

use super::*;
use agent_objects::Objects;

const INDEX: &str = "latest.json";

fn in_bucket(store: Arc<dyn ObjectStore>, prefix: &str) -> RecordStore {
    let objects = Objects::new(store, Retries::within(Duration::ZERO));
    RecordStore::at(Place::Bucket(Bucket::of(objects, "b", prefix)))
}

fn in_directory(root: &Path) -> RecordStore {
    RecordStore::at(Place::Directory(Directory::new(root.to_owned())))
}

#[tokio::test]
async fn files_are_replaced_as_a_whole_in_a_bucket_and_in_a_directory() {
    let place = tempfile::tempdir().unwrap();
    let bucket = Arc::new(InMemory::new());
    let in_bucket = in_bucket(bucket.clone(), "p");
    let in_directory = in_directory(&place.path().join("store"));
    for store in [&in_bucket, &in_directory] {
        assert_eq!(store.read("a/b/latest.json", 10).await.unwrap(), None);
        for content in ["one", "two"] {
            store.write("a/b/latest.json", content.into()).await.unwrap();
            assert_eq!(store.read("a/b/latest.json", 10).await.unwrap().unwrap(), content.as_bytes());
        }
        assert!(store.read("a/b/latest.json", 2).await.is_err(), "it is larger");
        assert!(store.write("a/../b", Vec::new()).await.is_err());
    }
    assert_eq!(in_bucket.shown("a/x"), "s3://b/p/a/x");
    let page = Key::from("p/a/report.html");
    in_bucket.write("a/report.html", b"x".to_vec()).await.unwrap();
    let got = bucket.get(&page).await.unwrap();
    assert_eq!(got.attributes.get(&Attribute::ContentType).unwrap().as_ref(), "text/html; charset=utf-8");
    let directory = place.path().join("store/a/b");
    let names: Vec<_> =
        fs_err::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["latest.json"]);
    let mode = fs_err::metadata(directory.join("latest.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[tokio::test]
async fn links_in_a_directory_are_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let (root, outside) = (place.path().join("store"), place.path().join("outside"));
    fs_err::create_dir_all(root.join("a")).unwrap();
    fs_err::create_dir(&outside).unwrap();
    fs_err::write(outside.join("x"), "secret").unwrap();
    symlink(&outside, root.join("a/b")).unwrap();
    symlink(outside.join("x"), root.join("a/x")).unwrap();
    let store = in_directory(&root);
    for path in ["a/b/x", "a/x"] {
        assert!(store.read(path, 10).await.is_err(), "{path}");
    }
    assert!(store.write("a/b/y", b"z".to_vec()).await.is_err());
    assert!(!outside.join("y").exists());
    store.write("a/x", b"own".to_vec()).await.unwrap();
    assert_eq!(fs_err::read(outside.join("x")).unwrap(), b"secret");
}

#[tokio::test]
async fn a_share_that_is_not_mounted_is_not_made() {
    let place = tempfile::tempdir().unwrap();
    let missing = Destination::Directory(place.path().join("efs"));
    assert!(RecordStore::open(&missing, true, None, INDEX).await.is_err());
    assert!(RecordStore::open(&missing, false, None, INDEX).await.is_ok());
    assert!(!place.path().join("efs").exists());
}

#[tokio::test]
async fn a_new_file_never_replaces_another_and_lists_say_what_is_there() {
    let place = tempfile::tempdir().unwrap();
    let bucket = Arc::new(InMemory::new());
    for store in [in_bucket(bucket.clone(), "p"), in_bucket(bucket, ""), in_directory(place.path())] {
        assert_eq!(store.list("a", 9).await.unwrap(), []);
        for (path, content, wanted) in [
            ("a/b/1.json", "one", Created::New),
            ("a/b/1.json", "one", Created::Equal),
            ("a/b/1.json", "two", Created::Different),
            ("a/b/1.json", "longer", Created::Different),
            ("a/c", "", Created::New),
            ("a/c", "", Created::Equal),
            ("ab/d", "", Created::New),
        ] {
            assert_eq!(store.create(path, content.into()).await.unwrap(), wanted, "{path} {content}");
        }
        assert_eq!(store.read("a/b/1.json", 9).await.unwrap().unwrap(), b"one");
        let list = async |below: &str, most| {
            let listed = store.list(below, most).await.unwrap();
            listed.into_iter().map(|record| (record.path, record.bytes)).collect::<Vec<_>>()
        };
        assert_eq!(list("a", 9).await, [("a/b/1.json".into(), 3), ("a/c".into(), 0)]);
        assert_eq!(list("a", 1).await, [("a/b/1.json".into(), 3)]);
        for path in ["a/c", "a/c", "x/y"] {
            store.remove(path).await.unwrap();
        }
        assert_eq!(list("a", 9).await, [("a/b/1.json".into(), 3)]);
    }
}

#[tokio::test]
async fn of_many_who_create_a_file_one_is_first() {
    let place = tempfile::tempdir().unwrap();
    for store in [in_bucket(Arc::new(InMemory::new()), "p"), in_directory(place.path())] {
        let store = Arc::new(store);
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..20 {
            let store = Arc::clone(&store);
            racers.spawn(async move { store.create("a/1", format!("{racer}").into()).await.unwrap() });
        }
        let results = racers.join_all().await;
        assert_eq!(results.iter().filter(|created| **created == Created::New).count(), 1);
        assert_eq!(results.iter().filter(|created| **created == Created::Different).count(), 19);
    }
}

#[tokio::test]
async fn large_files_lie_under_their_digest_and_damage_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("store");
    let (from, to) = (place.path().join("image"), place.path().join("copy"));
    for store in [in_bucket(Arc::new(InMemory::new()), "p"), in_directory(&root)] {
        // One in parts, one in a single request, one that is empty.
        for size in [17 << 20, 5, 0] {
            fs_err::write(&from, vec![b'x'; size]).unwrap();
            let upload = async || {
                let file = std::fs::File::open(&from).unwrap();
                store.upload("files", file, &from).await.unwrap()
            };
            let digest = upload().await;
            assert_eq!(digest.bytes, size as u64);
            assert_eq!(upload().await, digest);
            store.download("files", &digest, &to).await.unwrap();
            assert!(fs_err::read(&to).unwrap() == fs_err::read(&from).unwrap());
            fs_err::remove_file(&to).unwrap();
            // Another content, and another length.
            for content in [vec![b'y'; size.max(1)], vec![b'x'; size + 1]] {
                store.write(&format!("files/{}", digest.sha256), content).await.unwrap();
                assert!(store.download("files", &digest, &to).await.is_err());
                assert!(!to.exists() && !place.path().join("copy.part").exists());
            }
            store.remove(&format!("files/{}", digest.sha256)).await.unwrap();
            assert!(store.download("files", &digest, &to).await.is_err());
        }
    }
}
