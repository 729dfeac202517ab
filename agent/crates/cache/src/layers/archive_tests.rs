use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::super::RepoName;
use super::super::record::Record;
use super::super::tree::{Content, object_id};
use super::*;

/// A store with one entry, whose commit is made up.
struct Scene {
    directory: TempDir,
    entry: Entry,
}

fn store(directory: &TempDir, name: &str) -> LayerStore {
    LayerStore::new(directory.path().canonicalize().unwrap().join(name))
}

fn repo() -> RepoName {
    RepoName::of(&"https://example.org/meta-x".parse().unwrap())
}

/// A pack, an index or another file of git's that ends with its digest.
fn with_digest(content: &[u8]) -> Vec<u8> {
    use sha1::Digest;
    [content, &sha1::Sha1::digest(content)[..]].concat()
}

impl Scene {
    fn new(links: &[(&str, &str)]) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let part = StagingEntry::begin(&store(&directory, "one"), &repo()).unwrap();
        let tree = part.tree();
        let write = |path: &str, content: &[u8]| {
            let path = tree.join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        };
        write("conf/layer.conf", b"A = \"1\"\n");
        write(&format!("recipes-x/{}/x.bb", "long".repeat(50)), &[7; 100_000]);
        write("run", b"#!/bin/sh\n");
        fs_err::set_permissions(tree.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        for (path, target) in links {
            symlink(target, tree.join(path)).unwrap();
        }
        write(".git/config", agent_git::CONFIGURATION.as_bytes());
        write(".git/index", &with_digest(b"index"));
        write(".git/objects/pack/pack-1.pack", &with_digest(b"pack"));
        write(".git/objects/pack/pack-1.idx", &with_digest(b"idx"));
        for empty in [".git/objects/info", ".git/refs"] {
            fs_err::create_dir_all(tree.join(empty)).unwrap();
        }
        // The commit is that of the tree.
        write(".git/HEAD", b"");
        let id = {
            let content: Content = part.make_read_only().unwrap();
            content.tree_id(&Default::default(), &Default::default()).unwrap()
        };
        let object = format!("tree {id}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n");
        let commit = object_id("commit", object.as_bytes());
        let head = tree.join(".git/HEAD");
        fs_err::set_permissions(&head, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        fs_err::write(&head, format!("{commit}\n")).unwrap();
        fs_err::set_permissions(&head, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
        let record = Record::new("https://example.org/meta-x".into(), commit, "meta-x".into(), &object, id);
        let (entry, new) = part.finish(&record).unwrap();
        assert!(new);
        Scene { directory, entry }
    }

    fn packed(&self) -> Vec<u8> {
        let mut packed = Vec::new();
        pack(&self.entry, &mut packed).unwrap();
        packed
    }

    /// The same entry in another store.
    fn other(&self, name: &str) -> Entry {
        store(&self.directory, name).entry(&repo(), &self.entry.commit)
    }

    /// Nothing is left of an object that is not used.
    #[track_caller]
    fn assert_refused(&self, packed: &[u8], wanted: &str) {
        let to = self.other("two");
        let error = unpack(packed, &to).unwrap_err();
        let causes = format!("{error:#} {:?}", error.causes);
        assert!(causes.contains(wanted), "{causes}");
        let home = to.home();
        let left: Vec<_> =
            std::fs::read_dir(&home).into_iter().flatten().flatten().map(|it| it.path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}

const LINKS: [(&str, &str); 3] = [("link", "run"), ("conf/up", "../run"), ("conf/nothing", "not/there")];

#[test]
fn a_checkout_comes_back_as_it_was() {
    let scene = Scene::new(&LINKS);
    let to = scene.other("two");
    let (entry, new) = unpack(&scene.packed()[..], &to).unwrap();
    assert!(new);
    assert_eq!(super::super::verify(&entry.directory(), Witness::CommitAlone), Ok(()));
    let again = {
        let mut again = Vec::new();
        pack(&entry, &mut again).unwrap();
        again
    };
    assert_eq!(again, scene.packed(), "equal checkouts make equal objects");
    assert!(!unpack(&scene.packed()[..], &to).unwrap().1, "it is there");
}

#[test]
fn a_truncated_or_changed_object_is_refused() {
    let scene = Scene::new(&LINKS);
    let packed = scene.packed();
    for length in [0, 1, 10, packed.len() / 2, packed.len() - 1] {
        scene.assert_refused(&packed[..length], "");
    }
    let plain = zstd::decode_all(&packed[..]).unwrap();
    for length in [0, 511, 512, 1024, plain.len() / 2, plain.len() - 1024 - 512] {
        scene.assert_refused(&zstd::encode_all(&plain[..length], 1).unwrap(), "");
    }
    // Another byte anywhere in the content, with the size and the times of before.
    let at = plain.windows(4).position(|bytes| bytes == b"A = ").unwrap();
    let mut changed = plain.clone();
    changed[at] = b'B';
    scene.assert_refused(&zstd::encode_all(&changed[..], 1).unwrap(), "its files are not those of commit");
    // The checkout of another commit.
    let other = Scene::new(&[]);
    scene.assert_refused(&other.packed(), "it has commit");
}

/// An archive with one entry more, before the others.
fn with(packed: &[u8], kind: tar::EntryType, name: &str, target: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend(vec![b'x'; usize::try_from(size.min(1 << 20)).unwrap().next_multiple_of(512)]);
    archive.extend(zstd::decode_all(packed).unwrap());
    zstd::encode_all(&archive[..], 1).unwrap()
}

#[test]
fn nothing_leads_out_of_the_new_directory() {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let scene = Scene::new(&[]);
    let packed = scene.packed();
    let outside = scene.directory.path().canonicalize().unwrap().join("outside");
    fs_err::create_dir(&outside).unwrap();
    let absolute = outside.to_str().unwrap();
    for (kind, name, target, size, wanted) in [
        (Regular, "../x", "", 1, "does not belong"),
        (Regular, "/x", "", 1, "does not belong"),
        (Regular, "meta-x/../../x", "", 1, "does not belong"),
        (Directory, "..", "", 0, "does not belong"),
        (Regular, ".", "", 0, "does not belong"),
        (Regular, "missing/x", "", 1, "no directory of the archive"),
        (Symlink, "meta-x", absolute, 0, "leads out"),
        (Symlink, "meta-x", "..", 0, "leads out"),
        (Symlink, "meta-x", "x", 0, "leads out"),
        (Symlink, "meta-x/x", absolute, 0, "leads out"),
        (Symlink, "meta-x/x", "../../..", 0, "leads out"),
        (Symlink, "meta-x/x", "a/../../x", 0, "leads out"),
        (Symlink, "meta-x/x", "", 0, "leads out"),
        (Link, "x", "/etc/passwd", 0, "is neither"),
        (Fifo, "x", "", 0, "is neither"),
        (Char, "x", "", 0, "is neither"),
        (Block, "x", "", 0, "is neither"),
        (Directory, "meta-x", "", 0, "is there twice"),
        (Regular, "x", "", 1, "does not belong"),
        (Regular, "x", "", 1 << 40, "too large"),
        (Regular, "x", "", (1 << 20) + 1, ""),
    ] {
        println!("{kind:?} {name} {target}");
        scene.assert_refused(&with(&packed, kind, name, target, size), wanted);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    archive.append_data(&mut header, vec!["d"; 70].join("/"), io::empty()).unwrap();
    let deep = zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap();
    scene.assert_refused(&deep, "does not belong");
    // A link in the place of a directory that later files lie in.
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(Directory);
    header.set_mode(0o755);
    header.set_size(0);
    archive.append_data(&mut header, "meta-x", io::empty()).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "meta-x/conf", "recipes-x").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    archive.append_data(&mut header, "meta-x/conf/x", &b"x"[..]).unwrap();
    let through = zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap();
    scene.assert_refused(&through, "no directory of the archive");
}

#[test]
fn a_checkout_with_a_link_that_leads_out_is_not_packed() {
    for target in ["/etc/passwd", "../../x", ".."] {
        let scene = Scene::new(&[("link", target)]);
        let error = pack(&scene.entry, io::sink()).unwrap_err();
        assert!(error.message.contains("leads out"), "{target}: {error}");
    }
}
