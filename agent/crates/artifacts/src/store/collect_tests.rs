#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;
use agent_types::artifact::ArtifactRule;

fn rules(given: &[(&str, &[&str])]) -> Vec<Rule> {
    let rule = |(include, exclude): &(&str, &[&str])| {
        let exclude = exclude.iter().map(|e| (*e).to_owned()).collect();
        Rule::new(&ArtifactRule { include: (*include).into(), exclude, required: true }).unwrap()
    };
    given.iter().map(rule).collect()
}

/// A tree with these files, and `a -> b` for links.
fn tree(entries: &[&str]) -> (tempfile::TempDir, Tree) {
    let directory = tempfile::tempdir().unwrap();
    for entry in entries {
        let (name, target) = entry.split_once(" -> ").map_or((*entry, None), |(n, t)| (n, Some(t)));
        let path = directory.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, path).unwrap(),
            None => fs_err::write(path, name).unwrap(),
        }
    }
    let opened = Tree::open(directory.path()).unwrap();
    (directory, opened)
}

fn paths<'a>(keys: impl Iterator<Item = &'a PathBuf>) -> Vec<&'a str> {
    keys.map(|path| path.to_str().unwrap()).collect()
}

#[test]
fn resolves_link_targets() {
    let (_kept, tree) = tree(&[
        "d/image-2026.wic",
        "e/other",
        "d/file -> image-2026.wic",
        "d/twice -> file",
        "d/up -> ../e/other",
        "d/dots -> ./../d/./image-2026.wic",
        "d/dir -> ../e",
        "d/root -> ..",
        "d/through -> dir/other",
        "d/physical -> dir/../d/image-2026.wic",
        "d/gone -> nothing",
        "d/below-file -> image-2026.wic/x",
        "d/self -> self",
        "d/ping -> pong",
        "d/pong -> ping",
        "d/deep -> deep/deep",
        "d/absolute -> /etc/passwd",
        "d/out -> ../../etc/passwd",
        "d/in-by-out -> ../../d/image-2026.wic",
        "d/second-hand -> out",
    ]);
    let file = |path: &str| LinkTarget::File(path.into());
    let table = [
        ("file", file("d/image-2026.wic")),
        ("twice", file("d/image-2026.wic")),
        ("up", file("e/other")),
        ("dots", file("d/image-2026.wic")),
        ("dir", LinkTarget::Directory("e".into())),
        ("root", LinkTarget::Directory("".into())),
        ("through", file("e/other")),
        ("physical", file("d/image-2026.wic")),
        ("gone", LinkTarget::Nowhere),
        ("below-file", LinkTarget::Nowhere),
        ("self", LinkTarget::Nowhere),
        ("ping", LinkTarget::Nowhere),
        ("deep", LinkTarget::Nowhere),
        ("absolute", LinkTarget::Outside),
        ("out", LinkTarget::Outside),
        ("in-by-out", LinkTarget::Outside),
        ("second-hand", LinkTarget::Outside),
    ];
    let got = collect(&tree, &rules(&[("d/**", &[])]));
    assert_eq!(got.problems, []);
    for (name, target) in table {
        assert_eq!(got.links[&Path::new("d").join(name)].target, target, "{name}");
    }
}

#[test]
fn link_selects_its_file_unless_excluded() {
    let entries = ["d/image.wic -> image-2026.rootfs.wic", "d/image-2026.rootfs.wic", "d/other"];
    let (_kept, tree) = tree(&entries);
    let got = collect(&tree, &rules(&[("d/image.wic", &[])]));
    assert_eq!(paths(got.files.keys()), ["d/image-2026.rootfs.wic"]);
    assert_eq!(paths(got.links.keys()), ["d/image.wic"]);
    assert_eq!(got.unmatched, []);

    let got = collect(&tree, &rules(&[("d/image.wic", &["**/*.rootfs.wic"])]));
    assert_eq!(paths(got.files.keys()), [""; 0]);
    assert_eq!(got.unmatched.len(), 1, "a link alone does not satisfy a rule");
}

#[test]
fn does_not_follow_links_to_directories() {
    let (_kept, tree) = tree(&["d/file", "d/loop -> .", "d/up -> ..", "d/etc -> /etc"]);
    let got = collect(&tree, &rules(&[("**", &[])]));
    assert_eq!(paths(got.files.keys()), ["d/file"]);
    assert_eq!(paths(got.links.keys()), ["d/etc", "d/loop", "d/up"]);
}

#[test]
fn combines_rules_and_checks_each_one() {
    let (_kept, tree) = tree(&["a/1.txt", "a/2.bin", "b/3.txt"]);
    let got = collect(&tree, &rules(&[("a/**", &["**/*.bin"]), ("**/*.txt", &[]), ("c/**", &[])]));
    assert_eq!(paths(got.files.keys()), ["a/1.txt", "b/3.txt"]);
    assert_eq!(got.unmatched.len(), 1);
    assert_eq!(got.unmatched[0].include, "c/**");
}

#[test]
fn unmatched_rule_describes_what_exists() {
    let (_kept, tree) = tree(&["tmp/deploy/rpm/x", "tmp/deploy/licenses/y", "conf/local.conf", "l -> tmp"]);
    let table = [
        ("tmp/deploy/images/**", "`tmp/deploy` contains licenses/, rpm/"),
        ("temp/**", "the published directory contains conf/, l, tmp/"),
        ("tmp/deploy", "it is a directory; write `tmp/deploy/**` for all files in it"),
        ("./tmp/deploy", "it is a directory; write `tmp/deploy/**` for all files in it"),
        ("l/deploy/**", "`l` is a link; links to directories are not followed"),
    ];
    for (include, wanted) in table {
        let got = collect(&tree, &rules(&[(include, &[])]));
        let wanted = format!("matches no file: {wanted}");
        assert_eq!(got.unmatched.first().map(|u| &u.help), Some(&wanted), "{include}");
    }
}

#[test]
fn empty_files_do_not_satisfy_a_required_rule() {
    let (kept, tree) = tree(&["d/full", "e/full", "l/link -> ../d/empty"]);
    for name in ["d/empty", "e/empty", "f/one", "f/two"] {
        let path = kept.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, "").unwrap();
    }
    let help = |include: &str, required| {
        let rule = ArtifactRule { include: include.into(), exclude: Vec::new(), required };
        let got = collect(&tree, &[Rule::new(&rule).unwrap()]);
        assert!(!got.files.is_empty(), "{include}: they are published all the same");
        got.unmatched.first().map(|unmatched| unmatched.help.clone())
    };
    assert_eq!(help("d/*", true), None);
    assert_eq!(help("d/empty", true).unwrap(), "matches only files of zero bytes: `d/empty`");
    assert_eq!(help("f/*", true).unwrap(), "matches only files of zero bytes: `f/one`, `f/two`");
    assert_eq!(help("l/*", true).unwrap(), "matches only files of zero bytes: `l/link`");
    assert_eq!(help("f/*", false), None);
}

#[test]
fn skips_special_files() {
    let (kept, tree) = tree(&["d/file"]);
    nix::unistd::mkfifo(&kept.path().join("d/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(kept.path().join("d/socket")).unwrap();
    let got = collect(&tree, &rules(&[("**", &[])]));
    assert_eq!(paths(got.files.keys()), ["d/file"]);
    assert_eq!(paths(got.special.iter()), ["d/fifo", "d/socket"]);
}

#[test]
fn accepts_names_that_are_not_utf8() {
    let (kept, _) = tree(&[]);
    let name = std::ffi::OsStr::from_bytes(b"bad\xff\nname");
    fs_err::write(kept.path().join(name), "x").unwrap();
    let tree = Tree::open(kept.path()).unwrap();
    let got = collect(&tree, &rules(&[("*", &[])]));
    assert_eq!(got.files.keys().map(PathBuf::as_path).collect::<Vec<_>>(), [Path::new(name)]);
}

#[test]
fn rejects_a_file_that_was_replaced_by_a_link() {
    let (kept, tree) = tree(&["d/file", "secret"]);
    let got = collect(&tree, &rules(&[("d/*", &[])]));
    let seen = got.files[Path::new("d/file")];
    assert!(tree.open_file(Path::new("d/file"), seen).is_ok());

    fs_err::rename(kept.path().join("d/file"), kept.path().join("d/old")).unwrap();
    symlink("../secret", kept.path().join("d/file")).unwrap();
    assert!(tree.open_file(Path::new("d/file"), seen).is_err(), "a link in its place");

    // The same file, but through a directory that is now a link.
    fs_err::rename(kept.path().join("d/old"), kept.path().join("moved")).unwrap();
    fs_err::rename(kept.path().join("d"), kept.path().join("e")).unwrap();
    fs_err::rename(kept.path().join("moved"), kept.path().join("e/old")).unwrap();
    symlink("e", kept.path().join("d")).unwrap();
    assert!(tree.open_file(Path::new("d/old"), seen).is_err(), "a link on the way");
    assert!(tree.open_file(Path::new("e/old"), seen).is_ok());
    assert!(tree.open_file(Path::new("secret"), seen).is_err(), "another file");
}

#[test]
fn root_reads_only_files_that_the_owner_of_the_tree_can_read() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED collect::root_reads_only_files_that_the_owner_of_the_tree_can_read: needs root");
        return;
    }
    let (kept, _) = tree(&["shadow", "public", "own"]);
    let mode = |name: &str, mode| {
        fs_err::set_permissions(kept.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("shadow", 0o640);
    mode("public", 0o644);
    mode("own", 0o600);
    std::os::unix::fs::chown(kept.path().join("own"), Some(12345), None).unwrap();
    std::os::unix::fs::chown(kept.path(), Some(12345), None).unwrap();
    let tree = Tree::open(kept.path()).unwrap();
    let got = collect(&tree, &rules(&[("*", &[])]));
    for (name, readable) in [("shadow", false), ("public", true), ("own", true)] {
        let seen = got.files[Path::new(name)];
        assert_eq!(tree.open_file(Path::new(name), seen).is_ok(), readable, "{name}");
    }
}
