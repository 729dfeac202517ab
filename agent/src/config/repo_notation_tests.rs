//! Each notation with its right form, and what is left alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn each_notation_has_its_right_form() {
    let with = |url: &str, key: &str, value: &str| format!("write url = {url:?} and {key} = {value:?}");
    let plain = |url: &str| format!("write `{url}`");
    let table: Vec<(String, String)> = vec![
        ("https://h.example/r#scarthgap".into(), with("https://h.example/r", "branch", "scarthgap")),
        (format!("https://h.example/r#{COMMIT}"), with("https://h.example/r", "commit", COMMIT)),
        ("https://h.example/r#tag=v1".into(), with("https://h.example/r", "tag", "v1")),
        ("https://h.example/r#main:dir".into(), with("https://h.example/r", "branch", "main")),
        ("https://h.example/r#".into(), plain("https://h.example/r")),
        ("https://h.example/r;branch=x".into(), with("https://h.example/r", "branch", "x")),
        ("git://h.example/r;protocol=https".into(), plain("https://h.example/r")),
        (
            "git://h.example/r.git;protocol=https;branch=a/b;name=n".into(),
            with("https://h.example/r.git", "branch", "a/b"),
        ),
        (
            "git://git@h.example/r.git;protocol=ssh;branch=b".into(),
            with("ssh://git@h.example/r.git", "branch", "b"),
        ),
        ("git://h.example/r;nobranch=1;tag=v2".into(), with("git://h.example/r", "tag", "v2")),
        (format!("git://h.example/r;rev={COMMIT}"), with("git://h.example/r", "commit", COMMIT)),
        ("gitsm://h.example/r;protocol=https".into(), plain("https://h.example/r")),
        ("git+https://h.example/r".into(), plain("https://h.example/r")),
        ("git+ssh://git@h.example/r".into(), plain("ssh://git@h.example/r")),
        ("ssh+git://git@h.example/r".into(), plain("ssh://git@h.example/r")),
        ("git+https://h.example/r.git@v1".into(), with("https://h.example/r.git", "branch", "v1")),
        ("git+https://h.example/r#egg=x&subdirectory=y".into(), plain("https://h.example/r")),
        ("git::https://h.example/r?ref=main".into(), with("https://h.example/r", "branch", "main")),
        ("git::ssh://git@h.example/r".into(), plain("ssh://git@h.example/r")),
        ("https://h.example/r/?h=scarthgap".into(), with("https://h.example/r/", "branch", "scarthgap")),
        ("git@h.example:a/b.git".into(), plain("ssh://git@h.example/a/b.git")),
        ("git@h.example:/a/b.git".into(), plain("ssh://git@h.example/a/b.git")),
        ("h.example:a/b".into(), plain("ssh://h.example/a/b")),
        ("localhost:a/b".into(), plain("ssh://localhost/a/b")),
        ("user@host:path;branch=x".into(), with("ssh://user@host/path", "branch", "x")),
        ("user@host:path#x".into(), with("ssh://user@host/path", "branch", "x")),
        ("[::1]:path".into(), plain("ssh://[::1]/path")),
        ("git@[::1]:path".into(), plain("ssh://git@[::1]/path")),
        ("git@[fe80::1]:/a/b".into(), plain("ssh://git@[fe80::1]/a/b")),
        ("git@::1:path".into(), plain("ssh://git@[::1]/path")),
        ("[h.example]:path".into(), plain("ssh://h.example/path")),
        ("[host]:path".into(), plain("ssh://host/path")),
        ("git@[host:2222]:path".into(), plain("ssh://git@host:2222/path")),
        ("[git@host:2222]:path".into(), plain("ssh://git@host:2222/path")),
        ("git@host:2222/path".into(), plain("ssh://git@host/2222/path")),
        ("ssh://git@h.example:a/b".into(), plain("ssh://git@h.example/a/b")),
        ("https://h.example:a/b".into(), plain("https://h.example/a/b")),
        ("ssh://::1/a".into(), plain("ssh://[::1]/a")),
        ("ssh://git@fe80::2/a".into(), plain("ssh://git@[fe80::2]/a")),
        ("ssh://[git@host:22]/a".into(), plain("ssh://git@host:22/a")),
        ("github:a/b".into(), plain("https://github.com/a/b")),
        ("https://github.com/a/b/tree/x/y".into(), with("https://github.com/a/b", "branch", "x/y")),
        ("https://h.example/a/b/-/tree/x".into(), with("https://h.example/a/b", "branch", "x")),
        (format!("https://github.com/a/b/commit/{COMMIT}"), with("https://github.com/a/b", "commit", COMMIT)),
    ];
    for (text, wanted) in table {
        let hint = foreign(&text).unwrap_or_else(|| panic!("{text} is taken")).hint.unwrap();
        let remark = hint.strip_prefix(&wanted).unwrap_or_else(|| panic!("{text}: {hint}\n wanted {wanted}"));
        assert!(remark.is_empty() || remark.starts_with(" ("), "{text}: {hint}");
    }
    let hint = foreign("git@host:2222/path").unwrap().hint.unwrap();
    assert!(hint.contains("ssh://git@host:2222/path"), "{hint}");
}

#[test]
fn addresses_of_git_are_left_alone() {
    for text in [
        "https://git.yoctoproject.org/poky",
        "https://user:pass@h.example/x.git",
        "https://h.example:8443/x",
        "https://h.example/x?private_token=t",
        "https://h.example/tree/x",
        "https://h.example/a;b/x",
        "https://h.example/a@b/x",
        "ssh://git@github.com/a/b.git",
        "ssh://git@github.com:2222/a/b.git",
        "ssh://[::1]/a",
        "ssh://git@[fe80::1]:22/a",
        "git://git.openembedded.org/bitbake",
        "file:///srv/git/poky.git",
        "ext::sh",
        "s3://bucket/x",
        "poky",
        "../poky",
        "/srv/a:b",
    ] {
        assert!(foreign(text).is_none(), "{text}: {:?}", foreign(text));
    }
}

#[test]
fn no_credential_is_repeated() {
    for text in [
        "https://user:hunter22@h.example/x#main",
        "https://hunter22@h.example/x;branch=a",
        "git+https://user:hunter22@h.example/x@v1",
        "git::https://h.example/x?ref=main&private_token=hunter22",
        "https://h.example/x?private_token=hunter22#main",
        "git:hunter22@h.example:a/b",
        "first.last:hunter22@h.example:a/b",
        "ssh://git:hunter22@h.example:a/b",
        "ssh://git:hunter22@::1/a",
        "git://git:hunter22@h.example/a;protocol=ssh",
    ] {
        let mistake = foreign(text).unwrap_or_else(|| panic!("{text} is taken"));
        assert!(!format!("{mistake:?}").contains("hunter22"), "{text}: {mistake:?}");
    }
}
