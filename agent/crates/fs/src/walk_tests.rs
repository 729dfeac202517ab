#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use fs_err as fs;

use super::*;

/// Path → what it is and its size, and the operations that it took.
fn walked(
    root: &Path,
    facts: bool,
    enter: impl Fn(&Path) -> bool + Sync,
) -> (BTreeMap<PathBuf, (Kind, Option<u64>)>, u64) {
    let operations = AtomicU64::new(0);
    let walk = Walk { width: 8, facts, operations: &operations, stop: &|| false };
    let mut found = BTreeMap::new();
    let visit = |listing: Listing| {
        let facts = |entry: &Entry| entry.facts.map(|facts| facts.size);
        let entry = |entry: Entry| (listing.path.join(&entry.name), (entry.kind, facts(&entry)));
        listing.entries.into_iter().map(entry).collect::<Vec<_>>()
    };
    let each = |seen| match seen {
        Seen::Directory(entries) => found.extend(entries),
        Seen::Trouble(trouble) => panic!("{trouble:?}"),
    };
    assert_eq!(walk.run(&DirHandle::open(root).unwrap(), enter, visit, each), Ended::Complete);
    (found, operations.into_inner())
}

#[test]
fn the_whole_tree_is_seen_once_with_one_look_at_each_file() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("root");
    fs::create_dir_all(root.join("a/b/empty")).unwrap();
    fs::create_dir_all(base.path().join("outside/secret")).unwrap();
    symlink("../../outside", root.join("a/link")).unwrap();
    for number in 0..100 {
        fs::write(root.join(format!("a/b/file{number}")), "x".repeat(number)).unwrap();
    }
    let (found, operations) = walked(&root, true, |_| true);
    assert_eq!(found.len(), 104);
    assert_eq!(found[Path::new("a/b/file7")], (Kind::File, Some(7)));
    assert_eq!(found[Path::new("a/link")].0, Kind::Link);
    assert_eq!(found[Path::new("a/b/empty")], (Kind::Directory, None));
    assert_eq!(operations, 4 * 2 + 101);
    let (found, operations) = walked(&root, false, |path| path != Path::new("a/b"));
    assert_eq!(found.keys().map(|path| path.to_str().unwrap()).collect::<Vec<_>>(), ["a", "a/b", "a/link"]);
    assert_eq!(operations, 2 * 2);
}

#[test]
fn trouble_is_told_and_the_rest_is_seen() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir_all(base.path().join("swapped")).unwrap();
    fs::create_dir_all(base.path().join("vanished")).unwrap();
    fs::write(base.path().join("file"), "").unwrap();
    let operations = AtomicU64::new(0);
    let walk = Walk { width: 1, facts: true, operations: &operations, stop: &|| false };
    // Between the listing and the visit of a directory everything may change.
    let enter = |path: &Path| {
        fs::remove_dir(base.path().join(path)).unwrap();
        if path == Path::new("swapped") {
            symlink("/", base.path().join(path)).unwrap();
        }
        true
    };
    let (mut seen, mut trouble) = (0, Vec::new());
    let each = |what| match what {
        Seen::Directory(entries) => seen += entries,
        Seen::Trouble(what) => trouble.push(what.path),
    };
    let ended =
        walk.run(&DirHandle::open(base.path()).unwrap(), enter, |listing| listing.entries.len(), each);
    assert_eq!((ended, seen, trouble), (Ended::Complete, 3, vec![PathBuf::from("swapped")]));
}

#[test]
fn a_walk_can_be_stopped() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir_all(base.path().join("a")).unwrap();
    let operations = AtomicU64::new(0);
    let stop = || operations.load(Ordering::Relaxed) > 0;
    let walk = Walk { width: 1, facts: false, operations: &operations, stop: &stop };
    let mut seen = 0;
    let ended = walk.run(&DirHandle::open(base.path()).unwrap(), |_| true, |_| (), |_| seen += 1);
    assert_eq!((ended, seen), (Ended::Early, 1));
}

/// Three ways to see the same tree: side by side, one directory after another, and as the standard library does.
#[test]
fn a_walk_sees_what_a_tree_lists() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let base = tempfile::tempdir().unwrap();
    let root = base.path();
    for number in 0..300 {
        let directory = root.join(format!("{}/{}/{number}", number % 7, number % 5));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "x".repeat(number)).unwrap();
        symlink("..", directory.join("link")).unwrap();
    }
    nix::unistd::mkfifo(&root.join("0/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"0/\xff\n")), "").unwrap();
    for number in 0..100 {
        fs::write(root.join(format!("many{number}")), "").unwrap();
    }

    let mut by_std = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(root.join(&path)).unwrap() {
            let (entry, metadata) =
                entry.map(|entry| (entry.file_name(), entry.metadata().unwrap())).unwrap();
            let kind = match metadata.file_type() {
                kind if kind.is_dir() => Kind::Directory,
                kind if kind.is_symlink() => Kind::Link,
                kind if kind.is_file() => Kind::File,
                _ => Kind::Special,
            };
            if kind == Kind::Directory {
                pending.push(path.join(&entry));
            }
            by_std.insert(path.join(&entry), (kind, (kind != Kind::Directory).then_some(metadata.len())));
        }
    }

    let tree = crate::tree::Tree::open(root).unwrap();
    let mut by_tree = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        for (name, kind) in tree.list(&path).unwrap() {
            let path = path.join(name);
            let meta = tree.metadata(&path).unwrap();
            assert_eq!(meta.kind(), kind);
            if kind == Kind::Directory {
                pending.push(path.clone());
            }
            by_tree.insert(path, (kind, (kind != Kind::Directory).then_some(meta.size)));
        }
    }
    assert_eq!(by_tree, by_std);
    assert_eq!(walked(root, true, |_| true).0, by_std);
    let kinds = |seen: BTreeMap<PathBuf, (Kind, Option<u64>)>| -> BTreeMap<PathBuf, Kind> {
        seen.into_iter().map(|(path, (kind, _))| (path, kind)).collect()
    };
    assert_eq!(kinds(walked(root, false, |_| true).0), kinds(by_std));
}
