#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const H: &str = "1a2b3c4d5e6f708192a3b4c5d6e7f80911223344556677889900aabbccddeeff";

fn path(text: &str) -> String {
    text.replace("{H}", H)
}

#[test]
fn parses_objects_of_every_release() {
    // (path, version, role, task, recipe)
    let table = [
        (
            "1a/2b/sstate:zlib:core2-64-poky-linux:1.2.11:r0:core2-64:3:{H}_populate_sysroot.tgz",
            3,
            Role::Archive,
            "populate_sysroot",
            Some("zlib"),
        ),
        (
            "1a/2b/sstate:zlib:core2-64-poky-linux:1.2.11:r0:core2-64:7:{H}_package_qa.tgz.siginfo",
            7,
            Role::Siginfo,
            "package_qa",
            Some("zlib"),
        ),
        (
            "universal/1a/2b/sstate:m4-native:x86_64-linux:1.4.19:r0:x86_64:10:{H}_populate_sysroot.tar.zst",
            10,
            Role::Archive,
            "populate_sysroot",
            Some("m4-native"),
        ),
        (
            "ubuntu-22.04/1a/2b/sstate:m4-native:x86_64-linux:1.4.19:r0:x86_64:11:{H}_recipe_qa.tar.zst.sig",
            11,
            Role::Signature,
            "recipe_qa",
            Some("m4-native"),
        ),
        (
            "1a/2b/sstate:gcc-source-13.2.0::13.2.0:r0::12:{H}_unpack.tar.zst.siginfo",
            12,
            Role::Siginfo,
            "unpack",
            Some("gcc-source-13.2.0"),
        ),
        (
            "1a/2b/sstate:zlib::1.3.1:r0::14:{H}_fetch.tar.zst.siginfo",
            14,
            Role::Siginfo,
            "fetch",
            Some("zlib"),
        ),
        // Shortened to the maximum length.
        (
            "1a/2b/sstate:linux-yocto::::qemux86_64:14:{H}_deploy.tar.zst",
            14,
            Role::Archive,
            "deploy",
            Some("linux-yocto"),
        ),
        (
            "1a/2b/sstate:a+b:x:2.0+git0+0cf1b4a9~rc1:r0.3:all:14:{H}_package_write_ipk.tar.zst",
            14,
            Role::Archive,
            "package_write_ipk",
            Some("a+b"),
        ),
        ("1a/2b/sstate:::::::12:{H}_x.tar.zst", 12, Role::Archive, "x", None),
        // A future release.
        ("1a/2b/sstate:zlib:a:1:r0:a:15:{H}_package.tar.zst", 15, Role::Archive, "package", Some("zlib")),
    ];
    for (given, version, role, task, recipe) in table {
        let given = path(given);
        let file = sstate(Path::new(&given)).unwrap_or_else(|| panic!("{given}"));
        assert_eq!(
            (file.version, file.role, file.task, file.recipe, file.hash),
            (version, role, task, recipe, H)
        );
        let name = Path::new(&given).file_name().unwrap().to_str().unwrap();
        assert_eq!(format!("{}{}", file.unit, role.suffix()), name);
        assert_eq!(sstate_beside(Path::new(&given)), None, "{given}");
    }
}

#[test]
fn parses_md5_hashes_of_old_releases() {
    let given = format!("1a/2b/sstate:zlib:a:1:r0:a:3:{}_package.tgz", &H[..32]);
    assert_eq!(sstate(Path::new(&given)).unwrap().hash, &H[..32]);
}

#[test]
fn rejects_what_is_not_an_object() {
    let table = [
        // In the wrong directory.
        "1a/2c/sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "1A/2B/sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "2b/sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "a/b/1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "../1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "/1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        ".hidden/1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tar.zst/file",
        // Not a valid name.
        "1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tar.gz",
        "1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tgz",
        "1a/2b/sstate:z:a:1:r0:a:3:{H}_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:012:{H}_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:+12:{H}_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:999:{H}_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a::{H}_package.tar.zst",
        "1a/2b/sstate:z:12:{H}_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:12:{H}.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:12:{H}_.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:12:1a2b_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:12:INVALID_package.tar.zst",
        "1a/2b/sstate:z:a:1:r0:a:12:{H}_pack age.tar.zst",
        "1a/2b/sstate:z\n:a:1:r0:a:12:{H}_package.tar.zst",
        "1a/2b/xstate:z:a:1:r0:a:12:{H}_package.tar.zst",
        "1a/2b/.tar.zst",
        "1a/2b/.sig",
        "1a/2b/ä",
        "",
        "/",
        "..",
    ];
    for given in table {
        assert_eq!(sstate(Path::new(&path(given))), None, "{given}");
    }
    let not_text = [b"1a/2b/sstate:\xff:a:1:r0:a:12:".as_slice(), H.as_bytes(), b"_package.tar.zst"].concat();
    assert_eq!(sstate(Path::new(OsStr::from_bytes(&not_text))), None);
    assert_eq!(sstate_beside(Path::new(OsStr::from_bytes(&not_text))), None);
    let long = format!("1a/2b/sstate:{}:a:1:r0:a:12:{H}_package.tar.zst", "x".repeat(200));
    assert_eq!(sstate(Path::new(&long)), None);
}

#[test]
fn recognizes_files_next_to_objects() {
    let object = "1a/2b/sstate:z:a:1:r0:a:12:{H}_package.tar.zst";
    let table = [
        (".done", Some(Beside::Stamp)),
        (".siginfo.done", Some(Beside::Stamp)),
        (".lock", Some(Beside::Lock)),
        (".x0y1z2a3", Some(Beside::Temporary)),
        (".X0Y1z2A3", Some(Beside::Temporary)),
        ("x0_1z2a3", Some(Beside::Temporary)),
        ("x0_1z2a", None),
        (".siginfox0_1z2a", None),
        (".bak", None),
        ("", None),
        ("ä234567", None),
    ];
    for (more, wanted) in table {
        for host in ["", "universal/"] {
            let given = path(&format!("{host}{object}{more}"));
            assert_eq!(sstate_beside(Path::new(&given)), wanted, "{given}");
        }
    }
    let table = [
        ("1a/2b/tmpa1b2c3d_", Some(Beside::Temporary)),
        ("1a/2b/tmpa1b2c3d_/sstate:z:a:1:r0:a:12:{H}_package.tar.zst", Some(Beside::Temporary)),
        ("universal/1a/2b/tmpa1b2c3d_/x", Some(Beside::Temporary)),
        ("1a/2b/sigtask.AbCdEfGhIjKlMnOpQrStx0y1z2a3", Some(Beside::Temporary)),
        ("1a/2b/.build-agent.17.part", Some(Beside::Temporary)),
        (".build-agent.17.part", Some(Beside::Temporary)),
        (".build-agent..part", None),
        ("1a/tmpa1b2c3d_", None),
        ("1a/2b/tmpA1b2c3d_", None),
        ("1a/2b/notes.txt", None),
        ("tmpa1b2c3d_", None),
        ("", None),
    ];
    for (given, wanted) in table {
        assert_eq!(sstate_beside(Path::new(&path(given))), wanted, "{given}");
    }
    assert!(is_part(OsStr::new(&part("0a1b"))));
}

#[test]
fn parses_downloads() {
    use DownloadKind::*;
    use DownloadPart::*;
    let stamp = Beside(super::Beside::Stamp);
    let lock = Beside(super::Beside::Lock);
    let temporary = Beside(super::Beside::Temporary);
    let table = [
        ("zlib-1.3.1.tar.xz", "zlib-1.3.1.tar.xz", File, Whole),
        ("zlib-1.3.1.tar.xz.done", "zlib-1.3.1.tar.xz", File, stamp),
        ("zlib-1.3.1.tar.xz.lock", "zlib-1.3.1.tar.xz", File, lock),
        ("zlib-1.3.1.tar.xz.tmp", "zlib-1.3.1.tar.xz.tmp", File, temporary),
        ("zlib-1.3.1.tar.xz_bad-checksum_0123", "zlib-1.3.1.tar.xz_bad-checksum_0123", BadChecksum, Whole),
        ("serde-1.0.200.crate", "serde-1.0.200.crate", File, Whole),
        ("golang.org.x.sys@v0.1.0.zip", "golang.org.x.sys@v0.1.0.zip", File, Whole),
        (
            "git2_github.com.madler.zlib.git.tar.gz",
            "git2_github.com.madler.zlib.git.tar.gz",
            GitTarball,
            Whole,
        ),
        (
            "git2_github.com.madler.zlib.git.tar.gz.done",
            "git2_github.com.madler.zlib.git.tar.gz",
            GitTarball,
            stamp,
        ),
        ("git2_github.com.x.y.tar.zst", "git2_github.com.x.y.tar.zst", GitTarball, Whole),
        ("git2_notes", "git2_notes", File, Whole),
        (
            "gitshallow_git.example.org.a_0123456-1_main.tar.gz",
            "gitshallow_git.example.org.a_0123456-1_main.tar.gz",
            ShallowTarball,
            Whole,
        ),
        (
            "gitsmshallow_a_0123456-1_main.tar.gz.lock",
            "gitsmshallow_a_0123456-1_main.tar.gz",
            ShallowTarball,
            lock,
        ),
        ("git2/github.com.madler.zlib.git", "git2/github.com.madler.zlib.git", Clone, Whole),
        ("git2/github.com.madler.zlib.git.done", "git2/github.com.madler.zlib.git", Clone, stamp),
        ("git2/github.com.madler.zlib.git.lock", "git2/github.com.madler.zlib.git", Clone, lock),
        (
            "git2/github.com.madler.zlib.git/objects/pack/x.pack",
            "git2/github.com.madler.zlib.git",
            Clone,
            Inner,
        ),
        ("git2/a/x.done", "git2/a", Clone, Inner),
        ("svn/svn.example.org/trunk/module", "svn/svn.example.org", Clone, Inner),
        ("hg/example.org.repo.done", "hg/example.org.repo", Clone, stamp),
        ("npm2/array-flatten-1.1.1.tgz", "npm2/array-flatten-1.1.1.tgz", File, Whole),
        ("npm2/array-flatten-1.1.1.tgz.resolved", "npm2/array-flatten-1.1.1.tgz", File, Resolved),
        ("npm2/array-flatten-1.1.1.tgz.done", "npm2/array-flatten-1.1.1.tgz", File, stamp),
        (
            "uninative/{H}/x86_64-nativesdk-libc-4.7.tar.xz",
            "uninative/{H}/x86_64-nativesdk-libc-4.7.tar.xz",
            File,
            Whole,
        ),
        (
            "uninative/{H}/x86_64-nativesdk-libc-4.7.tar.xz.done",
            "uninative/{H}/x86_64-nativesdk-libc-4.7.tar.xz",
            File,
            stamp,
        ),
        ("tmpa1b2c3d4", "tmpa1b2c3d4", File, temporary),
        ("tmpa1b2c3d4/git/config", "tmpa1b2c3d4", File, temporary),
        ("with space and + ~ %", "with space and + ~ %", File, Whole),
    ];
    for (given, unit, kind, part) in table {
        let (given, unit) = (path(given), path(unit));
        let wanted = Download { unit: Path::new(&unit), kind, part };
        assert_eq!(download(Path::new(&given)), Some(wanted), "{given}");
    }
}

#[test]
fn rejects_what_is_not_a_download() {
    let table = [
        "",
        "/",
        ".",
        "..",
        "../x",
        "/x",
        ".hidden",
        ".done",
        ".lock",
        ".tmp",
        ".build-agent.1.part",
        "git2",
        "npm2",
        "git2/.done",
        "git2/.x/y",
        "CVE_CHECK2/nvdcve_2-2.db",
        "some/where/file.tar.gz",
        "npm2/a/b.tgz",
        "uninative/x/y.tar.xz",
        "uninative/{H}/a/b",
        "two\nlines",
        "bell\u{7}",
    ];
    for given in table {
        assert_eq!(download(Path::new(&path(given))), None, "{given}");
    }
    for bytes in [b"\xff".as_slice(), b"git2/\xff/x", b"git2/\xff", b"npm2/\xff", b"uninative/\xff/\xff"] {
        assert_eq!(download(Path::new(OsStr::from_bytes(bytes))), None, "{bytes:?}");
    }
}
