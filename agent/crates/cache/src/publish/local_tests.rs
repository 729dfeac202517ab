#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use fs_err as fs;

use super::*;

const HASH: &str = "ab12000000000000000000000000000000000000000000000000000000000000";

fn archive(task: &str) -> String {
    format!("sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:{HASH}_{task}.tar.zst")
}

/// `new` or `used`, the primary file, its sidecar files, and the destination.
fn found(sstate: Option<&Path>, downloads: Option<&Path>) -> (BTreeSet<String>, Skipped) {
    let open = |path: Option<&Path>| path.map(|path| Tree::open(path).unwrap());
    let (sstate, downloads) = (open(sstate), open(downloads));
    let mut local = Local::new(sstate.as_ref(), downloads.as_ref());
    let text = |object: Object| {
        let word = if object.linked { "used" } else { "new" };
        let name = object.to.join(&object.primary);
        let ending = |name: &String| name[name.rfind('.').unwrap()..].to_owned();
        let sidecars: Vec<_> = object.sidecars.iter().map(ending).collect();
        format!("{word} {} {}", name.display(), sidecars.join(" ")).trim().to_owned()
    };
    let objects = (&mut local).map(text).collect();
    (objects, local.skipped())
}

fn lines<const N: usize>(lines: [String; N]) -> BTreeSet<String> {
    lines.into()
}

#[test]
fn lists_complete_shared_state_objects() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path();
    let write = |path: &str| {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), path).unwrap();
    };
    let (whole, alone, signed) = (archive("compile"), archive("fetch"), archive("package"));
    let junk = archive("deploy_archives");
    for name in [
        format!("ab/12/{whole}"),
        format!("ab/12/{whole}.siginfo"),
        format!("ab/12/{alone}.siginfo"),
        format!("universal/ab/12/{signed}"),
        format!("universal/ab/12/{signed}.sig"),
        format!("universal/ab/12/{signed}.siginfo"),
        // Wrong directory, no object's name, stamps, locks, temporary files, a signature alone.
        format!("ab/13/{whole}"),
        format!("ab/{whole}"),
        format!("a/b/ab/12/{whole}"),
        "ab/12/notes.txt".into(),
        format!("ab/12/{junk}.done"),
        format!("ab/12/{junk}.lock"),
        format!("ab/12/{junk}.a8sk2_1x"),
        format!("ab/12/{junk}.sig"),
        "ab/12/.build-agent.0123.part".into(),
        ".hidden/ab/12/x".into(),
    ] {
        write(&name);
    }
    let (objects, odd) = found(Some(root), None);
    let wanted = lines([
        format!("new ab/12/{whole} .siginfo"),
        format!("new ab/12/{alone}.siginfo"),
        format!("new universal/ab/12/{signed} .siginfo .sig"),
    ]);
    assert_eq!(objects, wanted);
    assert!(odd.no_files.is_empty() && odd.unreadable.is_empty(), "{odd:?}");
}

#[test]
fn links_are_used_objects_and_other_entries_are_skipped() {
    let base = tempfile::tempdir().unwrap();
    let place = base.path().join("ab/12");
    fs::create_dir_all(&place).unwrap();
    let (mirrored, own, directory, pipe) = (archive("a"), archive("b"), archive("c"), archive("d"));
    symlink("/share/x", place.join(&mirrored)).unwrap();
    symlink("/share/x.siginfo", place.join(format!("{mirrored}.siginfo"))).unwrap();
    // The archive came from the share; its sidecar file was made here.
    symlink("/share/y", place.join(&own)).unwrap();
    fs::write(place.join(format!("{own}.siginfo")), "").unwrap();
    fs::create_dir(place.join(&directory)).unwrap();
    nix::unistd::mkfifo(&place.join(&pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A link in place of a directory is skipped.
    symlink("/share", base.path().join("cd")).unwrap();
    let (objects, odd) = found(Some(base.path()), None);
    let wanted = lines([
        format!("used ab/12/{mirrored} .siginfo"),
        format!("used ab/12/{own}"),
        format!("new ab/12/{own}.siginfo"),
    ]);
    assert_eq!(objects, wanted);
    let refused: Vec<_> =
        odd.no_files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(refused, [directory.as_str(), pipe.as_str()]);
}

#[test]
fn lists_downloads_that_bitbake_verified() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path();
    let uninative = format!("uninative/{HASH}");
    for directory in ["npm2", "git2/github.com.x.y.git", "svn/x", "CVE_CHECK", &uninative] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let loader = format!("{uninative}/x86_64-nativesdk-libc-4.5.tar.xz");
    for stamped in [
        "zlib-1.3.tar.xz",
        "git2_github.com.x.y.git.tar.gz",
        "gitshallow_github.com.x.y.git_0123abc-1_master.tar.gz",
        "npm2/left-pad-1.0.0.tgz",
        &loader,
        "git2/github.com.x.y.git/inner",
        "svn/x/inner",
        "CVE_CHECK/db",
        "bad.tar.gz_bad-checksum_0123",
        ".hidden",
    ] {
        fs::write(root.join(stamped), "").unwrap();
        fs::write(root.join(format!("{stamped}.done")), "").unwrap();
    }
    for other in ["half.tar.gz", "zlib-1.3.tar.xz.lock", "lonely.done", "x.tmp", "new\nline", "tmpabcd1234"] {
        fs::write(root.join(other), "").unwrap();
    }
    fs::write(root.join("new\nline.done"), "").unwrap();
    fs::write(root.join("git2/github.com.x.y.git.done"), "").unwrap();
    fs::create_dir(root.join("directory.tar.gz")).unwrap();
    fs::write(root.join("directory.tar.gz.done"), "").unwrap();
    symlink("/share/downloads/used.tar.gz", root.join("used.tar.gz")).unwrap();
    fs::write(root.join("linked-stamp.tar.gz"), "").unwrap();
    symlink("/dev/null", root.join("linked-stamp.tar.gz.done")).unwrap();
    let (objects, odd) = found(None, Some(root));
    let wanted = lines([
        "new zlib-1.3.tar.xz".into(),
        "new git2_github.com.x.y.git.tar.gz".into(),
        "new gitshallow_github.com.x.y.git_0123abc-1_master.tar.gz".into(),
        "new left-pad-1.0.0.tgz".into(),
        format!("new {loader}"),
        "used used.tar.gz".into(),
    ]);
    assert_eq!(objects, wanted);
    assert_eq!(odd.no_files, [PathBuf::from("directory.tar.gz")]);
}

#[test]
fn reports_unreadable_directories_and_lists_the_rest() {
    let base = tempfile::tempdir().unwrap();
    let place = base.path().join("ab/12");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join(archive("compile")), "").unwrap();
    let tree = Tree::open(base.path()).unwrap();
    let mut local = Local::new(Some(&tree), None);
    local.pending.push((Area::Sstate, "cd".into()));
    local.pending.push((Area::Sstate, format!("ab/12/{}", archive("compile")).into()));
    assert_eq!((&mut local).count(), 1);
    // Neither is a directory now, as if the directory had been deleted meanwhile.
    assert!(local.skipped().unreadable.is_empty());
}
