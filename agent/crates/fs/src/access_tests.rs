#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt, chown, symlink};

use fs_err as fs;

use super::*;

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

#[test]
fn one_class_of_the_mode_counts() {
    let user = Credentials::of(1000, 100);
    let member = Credentials { groups: vec![27, 500], ..user.clone() };
    let root = Credentials::of(0, 0);
    let (read, execute, run) = (Permission::READ, Permission::EXECUTE, Permission::RUN);
    for (who, wanted, owner, group, mode, may) in [
        // The owner, whatever the others may.
        (&user, read, 1000, 9, FILE | 0o400, true),
        (&user, read, 1000, 9, FILE | 0o077, false),
        (&user, run, 1000, 9, FILE | 0o500, true),
        (&user, run, 1000, 9, FILE | 0o400, false),
        (&user, run, 1000, 9, FILE | 0o100, false),
        (&user, execute, 1000, 9, DIRECTORY | 0o100, true),
        (&user, execute, 1000, 100, DIRECTORY | 0o677, false),
        // The group.
        (&user, read, 9, 100, FILE | 0o040, true),
        (&user, read, 9, 100, FILE | 0o404, false),
        (&user, execute, 9, 100, DIRECTORY | 0o010, true),
        (&user, execute, 9, 100, DIRECTORY | 0o707, false),
        // A supplementary group is one, too.
        (&user, execute, 9, 500, DIRECTORY | 0o710, false),
        (&member, execute, 9, 500, DIRECTORY | 0o710, true),
        (&member, execute, 9, 500, DIRECTORY | 0o701, false),
        (&member, execute, 9, 501, DIRECTORY | 0o711, true),
        // All others.
        (&user, read, 9, 9, FILE | 0o004, true),
        (&user, read, 9, 9, FILE | 0o770, false),
        (&user, run, 9, 9, FILE | 0o775, true),
        (&user, run, 9, 9, FILE | 0o771, false),
        (&user, execute, 9, 9, DIRECTORY | 0o1771, true),
        // Root.
        (&root, read, 9, 9, FILE, true),
        (&root, execute, 9, 9, DIRECTORY, true),
        (&root, run, 9, 9, FILE | 0o644, false),
        (&root, run, 9, 9, FILE | 0o700, true),
        (&root, run, 9, 9, FILE | 0o001, true),
    ] {
        assert_eq!(who.may(wanted, owner, group, mode), may, "{who:?} {wanted:?} {owner}:{group} {mode:o}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// `top/{open/{program,data},closed/inner/program,links…}`; `None` where the way to temporary directories is
/// closed to others.
fn tree() -> Option<(tempfile::TempDir, PathBuf)> {
    let base = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    set_mode(base.path(), 0o755);
    let top = fs::canonicalize(base.path()).unwrap();
    for directory in ["open", "closed/inner"] {
        fs::create_dir_all(top.join(directory)).unwrap();
    }
    for (file, mode) in [("open/program", 0o755), ("open/data", 0o644), ("closed/inner/program", 0o755)] {
        fs::write(top.join(file), "").unwrap();
        set_mode(&top.join(file), mode);
    }
    for directory in ["open", "closed/inner"] {
        set_mode(&top.join(directory), 0o755);
    }
    set_mode(&top.join("closed"), 0o700);
    let stranger = Credentials::of(65_000, 65_000);
    stranger.barrier(&top, Permission::EXECUTE).is_none().then_some((base, top))
}

#[test]
fn the_first_closed_place_from_the_top_is_told() {
    let Some((_base, top)) = tree() else { return };
    for (link, target) in [
        ("to-closed", "closed"),
        ("open/to-inner", "../closed/inner"),
        ("closed/to-open", "../open"),
        ("through", "closed/to-open"),
        ("absolute", top.join("open").to_str().unwrap()),
        ("dot", "."),
        ("circle", "circle"),
        ("dangling", "none/at/all"),
    ] {
        symlink(target, top.join(link)).unwrap();
    }
    let stranger = Credentials::of(65_000, 65_000);
    let (enter, run, read) = (Permission::EXECUTE, Permission::RUN, Permission::READ);
    let closed = Some(("closed", 0o700));
    for (path, wanted, barrier) in [
        ("open", enter, None),
        ("open/program", run, None),
        ("open/data", read, None),
        ("open/data", run, Some(("open/data", 0o644))),
        ("closed", enter, closed),
        ("closed/inner", enter, closed),
        ("closed/inner/program", run, closed),
        // By way of links.
        ("to-closed", enter, closed),
        ("to-closed/inner/program", run, closed),
        ("open/to-inner/program", run, closed),
        ("absolute/program", run, None),
        ("dot/dot/open/program", run, None),
        ("through/program", run, closed),
        // `..` is passed through the directory that it stands in.
        ("open/../open/program", run, None),
        ("closed/../open/program", run, closed),
        // What is missing, or no directory, or a circle, is another error than a closed place.
        ("none", enter, None),
        ("open/none/deep", enter, None),
        ("closed/none", enter, closed),
        ("open/data/x", enter, None),
        ("circle/x", enter, None),
        ("dangling", enter, None),
    ] {
        let wanted_barrier = barrier.map(|(path, mode)| Barrier { path: top.join(path), mode: Some(mode) });
        assert_eq!(stranger.barrier(&top.join(path), wanted), wanted_barrier, "{path}");
    }
    // Root comes everywhere, if only the kernel is asked about programs.
    let root = Credentials::of(0, 0);
    assert_eq!(root.barrier(&top.join("closed/inner/program"), enter), None);
    // Several closed places: the one that has to be opened first.
    set_mode(&top.join("closed/inner"), 0o700);
    assert_eq!(stranger.barrier(&top.join("closed/inner/program"), run).unwrap().path, top.join("closed"));
    set_mode(&top.join("closed"), 0o711);
    assert_eq!(
        stranger.barrier(&top.join("closed/inner/program"), run).unwrap().path,
        top.join("closed/inner")
    );
}

#[test]
fn the_kernel_agrees() {
    if !geteuid().is_root() {
        return;
    }
    let Some((_base, top)) = tree() else { return };
    let user = Credentials::of(65_000, 65_001);
    let (directory, file) = (top.join("open"), top.join("open/data"));
    for (uid, gid) in [(65_000, 0), (1, 65_001), (1, 1)] {
        chown(&directory, Some(uid), Some(gid)).unwrap();
        chown(&file, Some(uid), Some(gid)).unwrap();
        for bits in 0..8u32 {
            for mode in
                [bits << 6, bits << 3, bits, 0o777 & !(bits << 6), 0o777 & !(bits << 3), 0o777 & !bits]
            {
                for (on, other) in [(&directory, &file), (&file, &directory)] {
                    set_mode(on, mode);
                    set_mode(other, 0o777);
                    let opened: io::Result<fs_err::File> = user.act(|| fs::File::open(&file));
                    let barrier = user.barrier(&file, Permission::READ);
                    assert_eq!(opened.is_ok(), barrier.is_none(), "{uid}:{gid} {mode:o} {}", on.display());
                }
            }
        }
    }
}

#[test]
fn rights_end_with_the_work() {
    if !geteuid().is_root() {
        return;
    }
    let Some((_base, top)) = tree() else { return };
    let secret = top.join("closed/inner/program");
    let user = Credentials::of(65_000, 65_001);
    let read = |path: &Path| -> io::Result<Vec<u8>> { fs::read(path) };
    assert_eq!(user.act(|| read(&secret)).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(read(&secret).is_ok());
    let made: io::Result<()> = user.act(|| fs::write(top.join("open/data"), "x"));
    assert!(made.is_err());
    let panicked = std::panic::catch_unwind(|| user.act(|| -> io::Result<()> { panic!("in the work") }));
    assert!(panicked.is_err() && read(&secret).is_ok());
}

#[test]
fn the_agents_own_rights_have_its_groups() {
    let own = Credentials::own();
    assert_eq!((own.uid, own.gid), (geteuid().as_raw(), getegid().as_raw()));
    let groups: Vec<u32> = getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
    assert_eq!(own.groups, groups);
}
