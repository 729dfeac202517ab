#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use nix::unistd::mkfifo;

use super::*;

const PUBLIC: Mode = Mode::from_bits_truncate(0o755);

/// `root/a/b/file`, and links in `root` that lead out of it and into it; beside it `outside/secret`.
fn place() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir_all(base.path().join("root/a/b")).unwrap();
    fs::create_dir_all(base.path().join("outside/b")).unwrap();
    fs::write(base.path().join("root/a/b/file"), "text").unwrap();
    fs::write(base.path().join("outside/secret"), "secret").unwrap();
    let root = base.path().join("root");
    for (link, target) in [
        ("inside", "a"),
        ("a/above", ".."),
        ("a/b/sideways", "../../a"),
        ("outside", "../outside"),
        ("absolute", base.path().join("outside").to_str().unwrap()),
        ("cwd", "/proc/self/cwd"),
        ("circle", "circle"),
        ("nowhere", "none"),
        ("a/b/link", "file"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    base
}

#[test]
fn no_path_leads_through_a_link_or_upwards() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    for access in [Access::Read, Access::PathOnly] {
        let open = |path: &str| root.open_dir_with(path, access);
        let steps = |path: &str| root.step_by_step(Path::new(path), access);
        for (path, errnos) in [
            ("a", None),
            ("a/b", None),
            ("./a/./b/", None),
            ("", None),
            (".", None),
            // A link as the first, a middle and the last component.
            ("inside", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("inside/b", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("a/above", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("a/above/a", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("a/b/sideways", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("a/b/sideways/b", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("outside", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("outside/b", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("absolute", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("absolute/b", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("cwd", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("cwd/a", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("circle/a", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("nowhere", Some([Errno::ENOTDIR, Errno::ELOOP])),
            ("none", Some([Errno::ENOENT; 2])),
            ("a/none/x", Some([Errno::ENOENT; 2])),
            ("a/b/file", Some([Errno::ENOTDIR; 2])),
            ("a/b/file/x", Some([Errno::ENOTDIR; 2])),
        ] {
            for (how, opened) in [("at once", open(path)), ("step by step", steps(path))] {
                let found = opened.err().map(|error| errno(&error));
                let right = match (found, errnos) {
                    (Some(found), Some(wanted)) => wanted.contains(&found),
                    (found, wanted) => found.is_none() && wanted.is_none(),
                };
                assert!(right, "{path:?} {how} {access:?}: {found:?}");
            }
        }
        for path in ["..", "../outside", "a/..", "a/../../outside", "/", "/proc", "a/b/../b"] {
            let error = open(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path}");
            assert!(error.to_string().contains("is not a path below a directory"), "{error}");
            assert_eq!(root.create_dirs(path, PUBLIC).unwrap_err().kind(), ErrorKind::InvalidInput, "{path}");
        }
    }
}

#[test]
fn the_link_that_a_person_names_is_followed_unless_it_is_refused() {
    let base = place();
    let link = base.path().join("root/outside");
    let outside = DirHandle::open(&base.path().join("outside")).unwrap().own_metadata().unwrap().identity();
    for access in [Access::Read, Access::PathOnly] {
        let followed = DirHandle::open_with(&link, Links::Follow, access).unwrap();
        assert_eq!(followed.own_metadata().unwrap().identity(), outside);
        assert!(DirHandle::open_with(&link, Links::Refuse, access).is_err());
        // Links before the last component are the person's own.
        assert!(DirHandle::open_with(&link.join("b"), Links::Refuse, access).is_ok());
        assert!(DirHandle::open_with(&base.path().join("outside/secret"), Links::Follow, access).is_err());
    }
}

#[test]
fn operations_take_one_name() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    for name in ["", ".", "..", "a/b", "../outside", "/", "/etc", "a/"] {
        let failed: [(&str, io::Error); 12] = [
            ("metadata", root.metadata(name).unwrap_err()),
            ("read_link", root.read_link(name).unwrap_err()),
            ("open_file", root.open_file(name).unwrap_err()),
            ("open_file_read_write", root.open_file_read_write(name).unwrap_err()),
            ("read", root.read(name, 10).unwrap_err()),
            ("create_file", root.create_file(name, PUBLIC).unwrap_err()),
            ("create_dir", root.create_dir(name, PUBLIC).unwrap_err()),
            ("hard_link", root.hard_link("a", &root, name).unwrap_err()),
            ("rename", root.rename("a", &root, name).unwrap_err()),
            ("remove_file", root.remove_file(name).unwrap_err()),
            ("remove_dir", root.remove_dir(name).unwrap_err()),
            ("touch", root.touch(name).unwrap_err()),
        ];
        for (operation, error) in failed {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{operation} {name:?}: {error}");
        }
        assert!(root.rename_new(name, &root, "new").is_err() && root.rename(name, &root, "new").is_err());
    }
    assert!(base.path().join("root/a/b/file").exists() && base.path().join("outside/secret").exists());
}

#[test]
fn only_the_named_entry_itself_counts() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    let b = root.open_dir("a/b").unwrap();
    assert_eq!(b.metadata("file").unwrap().kind(), Kind::File);
    assert_eq!(b.metadata("link").unwrap().kind(), Kind::Link);
    assert_eq!(root.metadata("absolute").unwrap().kind(), Kind::Link);
    assert_eq!(root.metadata("a").unwrap().kind(), Kind::Directory);
    assert_eq!(root.metadata("a").unwrap(), root.open_dir("a").unwrap().own_metadata().unwrap());
    assert_eq!(b.read_link("link").unwrap(), "file");
    assert_eq!(errno(&b.read_link("file").unwrap_err()), Errno::EINVAL);
    // The link gets the time, and not the file.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::File::options()
        .write(true)
        .open(base.path().join("root/a/b/file"))
        .unwrap()
        .set_modified(then)
        .unwrap();
    b.touch("link").unwrap();
    assert_eq!(b.metadata("file").unwrap().modified_at(), then);
    b.touch("file").unwrap();
    assert!(b.metadata("file").unwrap().modified_at() > then + Duration::from_secs(1_000_000));
    // A link that is renamed or removed stays a link.
    root.rename("outside", &b, "moved").unwrap();
    assert_eq!(b.metadata("moved").unwrap().kind(), Kind::Link);
    assert!(b.remove_file("moved").unwrap() && !b.remove_file("moved").unwrap());
    assert!(base.path().join("outside/secret").exists());
}

#[test]
fn only_regular_files_of_a_bounded_size_are_read() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    mkfifo(&base.path().join("root/fifo"), Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(base.path().join("root/socket")).unwrap();
    symlink("/dev/zero", base.path().join("root/zero")).unwrap();
    symlink("/proc/self/fd/0", base.path().join("root/magic")).unwrap();
    symlink("a/b/file", base.path().join("root/file")).unwrap();
    fs::write(base.path().join("root/eight"), "12345678").unwrap();
    fs::File::create(base.path().join("root/sparse")).unwrap().set_len(10 << 30).unwrap();
    assert_eq!(root.read("eight", 8).unwrap(), b"12345678");
    let table = [
        ("eight", 7, ErrorKind::FileTooLarge),
        ("eight", 0, ErrorKind::FileTooLarge),
        ("sparse", 1000, ErrorKind::FileTooLarge),
        ("fifo", 8, ErrorKind::InvalidInput),
        ("a", 8, ErrorKind::InvalidInput),
        ("none", 8, ErrorKind::NotFound),
    ];
    for (name, limit, kind) in table {
        assert_eq!(root.read(name, limit).unwrap_err().kind(), kind, "{name}");
    }
    for link in ["zero", "magic", "file", "circle", "nowhere", "absolute"] {
        assert_eq!(errno(&root.read(link, 8).unwrap_err()), Errno::ELOOP, "{link}");
        assert_eq!(errno(&root.open_file_read_write(link).unwrap_err()), Errno::ELOOP, "{link}");
    }
    assert_eq!(errno(&root.read("socket", 8).unwrap_err()), Errno::ENXIO);
    assert_eq!(root.read("eight", u64::MAX).unwrap().len(), 8);
}

#[test]
fn what_is_created_was_not_there() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    let mut file = root.create_file("new", Mode::from_bits_truncate(0o640)).unwrap();
    file.write_all(b"content").unwrap();
    assert_eq!(root.metadata("new").unwrap().mode & 0o777, 0o640);
    for taken in ["new", "a", "nowhere", "absolute"] {
        let error = root.create_file(taken, PUBLIC).unwrap_err();
        assert_eq!(errno(&error), Errno::EEXIST, "{taken}");
        assert!(!root.create_dir(taken, PUBLIC).unwrap(), "{taken}");
        for new in ["hard_link", "rename_new"] {
            let done = match new {
                "hard_link" => root.hard_link("new", &root, taken),
                _ => root.rename_new("new", &root, taken),
            };
            assert_eq!(errno(&done.unwrap_err()), Errno::EEXIST, "{new} {taken}");
        }
    }
    assert!(!base.path().join("root/none").exists(), "a link that leads nowhere is not written through");
    assert!(root.create_dir("directory", PUBLIC).unwrap() && root.remove_dir("directory").unwrap());
    root.hard_link("new", &root, "second").unwrap();
    assert_eq!(root.metadata("second").unwrap().identity(), root.metadata("new").unwrap().identity());
    root.rename("second", &root.open_dir("a").unwrap(), "third").unwrap();
    assert_eq!(root.open_dir("a").unwrap().read("third", 100).unwrap(), b"content");
    root.rename_new("new", &root, "fourth").unwrap();
    assert_eq!(errno(&root.metadata("new").unwrap_err()), Errno::ENOENT);
}

#[test]
fn missing_directories_are_created_and_links_are_none() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    let made = root.create_dirs("a/b/c/d", Mode::S_IRWXU).unwrap();
    assert_eq!(
        made.own_metadata().unwrap().identity(),
        root.open_dir("a/b/c/d").unwrap().own_metadata().unwrap().identity()
    );
    assert_eq!(root.open_dir("a/b/c").unwrap().own_metadata().unwrap().mode & 0o777, 0o700);
    assert!(root.create_dirs("a/b/c/d", PUBLIC).is_ok() && root.create_dirs("", PUBLIC).is_ok());
    for path in ["inside/new", "outside/new", "absolute/new", "a/b/file/new", "nowhere"] {
        assert!(root.create_dirs(path, PUBLIC).is_err(), "{path}");
    }
    assert_eq!(fs::read_dir(base.path().join("outside")).unwrap().count(), 2);
    assert!(!base.path().join("root/a/new").exists() && !base.path().join("root/none").exists());
}

#[test]
fn only_what_can_be_removed_by_its_kind_is_removed() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    assert!(
        root.remove_file("a").is_err() && root.remove_dir("a").is_err(),
        "it is a directory with entries"
    );
    assert!(root.remove_dir("inside").is_err() && base.path().join("root/inside").is_symlink());
    assert!(root.remove_file("inside").unwrap() && !root.remove_file("inside").unwrap());
    assert!(!root.remove_dir("inside").unwrap());
    root.create_dir("empty", PUBLIC).unwrap();
    assert!(root.remove_dir("empty").unwrap());
    assert!(base.path().join("root/a/b/file").exists());
}

#[test]
fn a_handle_stays_at_its_directory_whatever_happens_to_the_path() {
    let base = place();
    let path = base.path().join("root/a");
    for access in [Access::Read, Access::PathOnly] {
        let a = DirHandle::open_with(&path, Links::Refuse, access).unwrap();
        fs::rename(&path, base.path().join("root/moved")).unwrap();
        symlink("../outside", &path).unwrap();
        assert_eq!(a.open_dir("b").unwrap().read("file", 10).unwrap(), b"text");
        assert_eq!(errno(&a.metadata("secret").unwrap_err()), Errno::ENOENT);
        fs::remove_file(&path).unwrap();
        fs::rename(base.path().join("root/moved"), &path).unwrap();
    }
    // Deleted: nothing is there, and nothing can be made.
    fs::create_dir(base.path().join("root/gone")).unwrap();
    let gone = DirHandle::open(&base.path().join("root/gone")).unwrap();
    fs::remove_dir(base.path().join("root/gone")).unwrap();
    // Some kernels refuse to open it once more, others show it as empty.
    assert!(gone.entries().map_or_else(|error| is_gone(&error), |entries| entries.count() == 0));
    assert!(is_gone(&gone.create_file("x", PUBLIC).unwrap_err()));
}

/// While a directory is exchanged for a link to outside again and again, the secret is never reached.
#[test]
fn a_swap_at_any_moment_leads_nowhere() {
    let base = place();
    fs::create_dir_all(base.path().join("root/swap/deep")).unwrap();
    fs::write(base.path().join("root/swap/deep/secret"), "own").unwrap();
    fs::create_dir_all(base.path().join("outside/deep")).unwrap();
    fs::write(base.path().join("outside/deep/secret"), "stolen").unwrap();
    symlink("../outside", base.path().join("root/evil")).unwrap();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    let done = AtomicBool::new(false);
    let (mut own, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let here = root.clone();
            let flags = RenameFlags::RENAME_EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                renameat2(&here, "swap", &here, "evil", flags).unwrap();
            }
        });
        for turn in 0..4000 {
            let path = Path::new("swap/deep");
            let opened = match turn % 2 {
                0 => root.open_dir_with(path, Access::PathOnly),
                _ => root.step_by_step(path, Access::PathOnly),
            };
            match opened.and_then(|deep| deep.read("secret", 100)) {
                Ok(text) => {
                    assert_eq!(text, b"own");
                    own += 1;
                }
                Err(_) => refused += 1,
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(own + refused, 4000);
}

#[test]
fn names_of_any_bytes_and_paths_of_any_length_work() {
    let base = tempfile::tempdir().unwrap();
    let root = DirHandle::open(base.path()).unwrap();
    let odd = OsStr::from_bytes(b"\xff\xfe \n*\\");
    root.create_dir(odd, PUBLIC).unwrap();
    assert!(root.open_dir(odd).is_ok());
    root.open_dir(odd).unwrap().create_file(odd, PUBLIC).unwrap();
    assert_eq!(root.open_dir(odd).unwrap().read(odd, 1).unwrap(), b"");
    let longest = "n".repeat(255);
    root.create_file(&longest, PUBLIC).unwrap();
    assert_eq!(errno(&root.create_file("n".repeat(256), PUBLIC).unwrap_err()), Errno::ENAMETOOLONG);
    assert!(is_absent(&root.metadata("n".repeat(256)).unwrap_err()));
    assert!(is_absent(&root.open_dir("n".repeat(256)).unwrap_err()));
    assert!(is_absent(&root.open_dir(format!("{}/x", "n".repeat(256))).unwrap_err()));
    // Deeper than any path can say.
    let name = "d".repeat(200);
    let mut here = root.clone();
    for _ in 0..40 {
        here.create_dir(&name, PUBLIC).unwrap();
        here = here.open_dir(&name).unwrap();
    }
    let path: PathBuf = std::iter::repeat_n(&name, 40).collect();
    assert!(path.as_os_str().len() > 4096);
    let deepest = root.open_dir(&path).unwrap();
    assert_eq!(deepest.own_metadata().unwrap().identity(), here.own_metadata().unwrap().identity());
    crate::remove::remove_tree(&base.path().join(&name), base.path()).unwrap();
}

#[test]
fn entries_are_listed_as_often_as_one_likes() {
    let base = place();
    let root = DirHandle::open(&base.path().join("root")).unwrap();
    let wanted: BTreeSet<OsString> =
        ["a", "inside", "outside", "absolute", "cwd", "circle", "nowhere"].map(OsString::from).into();
    let names = |entries: Entries| entries.map(|entry| entry.unwrap().name).collect::<BTreeSet<_>>();
    let mut half = root.entries().unwrap();
    half.next().unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(names(root.entries().unwrap()), wanted);
        assert_eq!(names(root.entries_of_own().unwrap()), wanted);
    }
    assert_eq!(half.count(), wanted.len() - 1, "each listing has a position of its own");
    let place = DirHandle::open_with(&base.path().join("root"), Links::Refuse, Access::PathOnly).unwrap();
    assert_eq!(names(place.entries().unwrap()), wanted);
    for entry in root.entries().unwrap() {
        let entry = entry.unwrap();
        let kind = if entry.name == "a" { Kind::Directory } else { Kind::Link };
        assert_eq!(entry.kind.unwrap_or(kind), kind);
    }
}

#[test]
fn the_mode_is_that_of_the_directory_itself() {
    let base = place();
    let path = base.path().join("root/a");
    for (access, mode) in [(Access::Read, 0o711), (Access::PathOnly, 0o750)] {
        let a = DirHandle::open_with(&path, Links::Refuse, access).unwrap();
        a.set_mode(Mode::from_bits_truncate(mode)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
    }
}
