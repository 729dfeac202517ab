use super::super::build::LARGEST;
use super::*;

fn parts(value: &str) -> Parts {
    Parts::from([("conf/local.conf".to_owned(), Digest::of(value.as_bytes()))])
}

fn record(name: &str) -> Record {
    use super::super::super::key::Inputs;
    use super::super::super::listing::{Listing, Tree};
    use super::super::super::tracked::Tracked;
    let listing = Listing::parse(&format!("f 0644 0:0 1 {name}\n")).unwrap();
    let mut tracked = Tracked::default();
    let file = tempfile::NamedTempFile::new().unwrap();
    tracked.add(Path::new(name), &file.path().metadata().unwrap(), false);
    // The same each time.
    tracked.stamps.values_mut().for_each(|stamp| (stamp.seconds, stamp.nanoseconds, stamp.inode) = (1, 1, 1));
    let mut inputs = Inputs::default();
    inputs.add_tree("files of /l", Tree { listing, tracked });
    Record::of(&inputs)
}

const PATH: &str = "tmp/cache/bb_cache.dat.0123456789abcdef0123456789abcdef";

fn bundle(content: &[u8]) -> Bundle {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    let mut bundle = Bundle::default();
    let from = File::open(file.path()).unwrap();
    bundle.add(Path::new(PATH), &from, content.len() as u64).unwrap();
    bundle
}

fn store() -> (tempfile::TempDir, ParseCacheStore) {
    let place = tempfile::tempdir().unwrap();
    let store = ParseCacheStore { store: place.path().join("signatures"), most: 3, writable: true };
    (place, store)
}

fn key(value: &str) -> Key {
    key_of(&parts(value))
}

/// What the newest entry gives back.
fn unpacked(store: &ParseCacheStore, value: &str) -> Option<Result<Vec<u8>>> {
    let entry = match store.entries(&key(value)).into_iter().next()? {
        Ok(entry) => entry,
        Err(error) => return Some(Err(error)),
    };
    let mut into = tempfile::NamedTempFile::new().unwrap();
    let done = entry.unpack(Path::new(PATH), into.as_file_mut());
    Some(done.map(|()| std::fs::read(into.path()).unwrap()))
}

#[test]
fn a_cache_comes_back_for_its_configuration_alone() {
    let (_place, store) = store();
    assert!(unpacked(&store, "1").is_none());
    assert!(!store.has(&key("1"), &record("recipes/a.bb")));
    let content = vec![7; 300_000];
    store.insert(&parts("1"), &record("recipes/a.bb"), &bundle(&content)).unwrap();
    assert_eq!(unpacked(&store, "1").unwrap().unwrap(), content);
    assert!(unpacked(&store, "2").is_none());
    assert!(store.has(&key("1"), &record("recipes/a.bb")));
    assert!(!store.has(&key("1"), &record("recipes/b.bb")));
    let [Ok(entry)] = &store.entries(&key("1"))[..] else { panic!("one entry") };
    assert_eq!(entry.record, record("recipes/a.bb"));
    assert_eq!(entry.paths(), [Path::new(PATH)]);
}

/// Every byte of every file, and every file that is missing.
#[test]
fn a_damaged_cache_is_never_used() {
    let (_place, store) = store();
    let content = b"some pickles, which are code";
    store.insert(&parts("1"), &record("recipes/a.bb"), &bundle(content)).unwrap();
    let directory = store.all().remove(0);
    let names = ["entry.json", "record", "0"];
    let whole = names.map(|name| std::fs::read(directory.join(name)).unwrap());
    for (file, name) in names.into_iter().enumerate() {
        for place in 0..=whole[file].len() + 1 {
            std::fs::create_dir_all(&directory).unwrap();
            for (name, content) in names.iter().zip(&whole) {
                std::fs::write(directory.join(name), content).unwrap();
            }
            let mut bytes = whole[file].clone();
            match bytes.get_mut(place) {
                Some(byte) => *byte ^= 0x04,
                None => bytes.truncate(bytes.len() - 1),
            }
            std::fs::write(directory.join(name), &bytes).unwrap();
            if place > whole[file].len() {
                std::fs::remove_file(directory.join(name)).unwrap();
            }
            match unpacked(&store, "1").unwrap() {
                // Unused bits of the compressed form and white space are no part of the content.
                Ok(found) => assert!(found == content && place < whole[file].len(), "{name}, byte {place}"),
                Err(_) => store.discard(&directory),
            }
        }
    }
}

#[test]
fn an_entry_that_names_other_files_is_not_used() {
    let (_place, store) = store();
    for path in ["conf/local.conf", "../x", "/etc/passwd", "tmp/cache/x", "cache/bb_persist_data.sqlite3"] {
        store.insert(&parts("1"), &record("recipes/a.bb"), &bundle(b"x")).unwrap();
        let file = store.all().remove(0).join("entry.json");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(PATH, path)).unwrap();
        assert!(store.entries(&key("1"))[0].is_err(), "{path}");
    }
    store.insert(&parts("1"), &record("recipes/a.bb"), &bundle(b"x")).unwrap();
    let file = store.all().remove(0).join("entry.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"bytes\": 1", &format!("\"bytes\": {}", LARGEST + 1))).unwrap();
    assert!(store.entries(&key("1"))[0].is_err());
}

/// A small file that grows without end when it is unpacked.
#[test]
fn unpacking_ends_at_the_size_that_was_told() {
    let (place, store) = store();
    store.insert(&parts("1"), &record("recipes/a.bb"), &bundle(b"x")).unwrap();
    let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap();
    std::fs::write(store.all().remove(0).join("0"), bomb).unwrap();
    let [Ok(entry)] = &store.entries(&key("1"))[..] else { panic!("one entry") };
    let path = place.path().join("unpacked");
    let mut into = File::create(&path).unwrap();
    assert!(entry.unpack(Path::new(PATH), &mut into).is_err());
    assert_eq!(path.metadata().unwrap().len(), 2);
}

#[test]
fn the_longest_unused_entries_go_and_what_killed_runs_left() {
    let (_place, store) = store();
    let old = |path: &Path, seconds: u64| {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::open(path).unwrap().set_modified(time).unwrap();
    };
    for number in 0..store.most {
        store.insert(&parts(&number.to_string()), &record("recipes/a.bb"), &bundle(b"x")).unwrap();
        let place = store.place(&key(&number.to_string()), &Digest::of(&record("recipes/a.bb").encode()));
        old(&place.join("entry.json"), 1000 + number as u64);
    }
    let left = store.root().join("new-left");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("entry.json"), "{}").unwrap();
    // The oldest is used, so that the next one goes.
    assert!(store.has(&key("2"), &record("recipes/a.bb")));
    store.insert(&parts("new"), &record("recipes/a.bb"), &bundle(b"x")).unwrap();
    let there = ["0", "1", "2", "new"].map(|value| store.has(&key(value), &record("recipes/a.bb")));
    assert_eq!(there, [true, false, true, true]);
    assert!(left.exists(), "it may be another run's that is still at it");
    old(&left, ABANDONED.as_secs() + 1);
    store.insert(&parts("newer"), &record("recipes/a.bb"), &bundle(b"x")).unwrap();
    assert!(!left.exists());
}

#[test]
fn many_write_and_read_at_once() {
    let (_place, store) = store();
    let store = ParseCacheStore { most: 100, ..store };
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..6 {
                    let value = ((number + thread) % 6).to_string();
                    store.insert(&parts(&value), &record("recipes/a.bb"), &bundle(value.as_bytes())).unwrap();
                    assert_eq!(unpacked(store, &value).unwrap().unwrap(), value.as_bytes());
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(store.root()).unwrap().count(), 6);
}

/// The shared part, as a pull request sees it.
#[test]
fn a_shelf_that_may_not_be_written_stays_as_it_is() {
    let (_place, store) = store();
    store.insert(&parts("1"), &record("recipes/a.bb"), &bundle(b"x")).unwrap();
    let file = store.all().remove(0).join("entry.json");
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    let reader = ParseCacheStore { writable: false, ..store.clone() };
    assert_eq!(unpacked(&reader, "1").unwrap().unwrap(), b"x");
    reader.used(reader.entries(&key("1"))[0].as_ref().unwrap());
    assert!(reader.has(&key("1"), &record("recipes/a.bb")));
    assert_eq!(file.metadata().unwrap().modified().unwrap(), long_ago);
    assert!(reader.insert(&parts("2"), &record("recipes/a.bb"), &bundle(b"x")).is_err());
    std::fs::write(&file, "{}").unwrap();
    assert!(reader.entries(&key("1"))[0].is_err());
    assert!(file.exists());
}
