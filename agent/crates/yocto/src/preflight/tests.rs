#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const CONF: &str = "BBFILE_COLLECTIONS += \"x\"\nBBFILE_PATTERN_x = \"^${LAYERDIR}/\"\n\
                    LAYERDEPENDS_x = \"core\"\nLAYERSERIES_COMPAT_x = \"scarthgap\"\n";
const README: &str = "Maintainer: A <a@example.com>\nSend patches there.\n";

/// A checkout whose only layer is `meta-x`; it is correct except for what the test changes.
struct Checkout(TempDir);

impl Checkout {
    fn new() -> Checkout {
        let checkout = Checkout(tempfile::tempdir().unwrap());
        checkout.write("conf/layer.conf", CONF);
        checkout.write("README.md", README);
        checkout.write("SECURITY.md", "Write to us.\n");
        checkout
    }

    fn layer(&self) -> PathBuf {
        self.0.path().join("meta-x")
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.layer().join(file);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    fn remove(&self, file: &str) {
        std::fs::rename(self.layer().join(file), self.0.path().join("gone")).unwrap();
    }

    fn alone(&self, release: &str) -> Vec<PreflightCase> {
        layer_alone(&self.layer(), self.0.path(), Release::find(release).unwrap())
    }

    /// `rule level`, as in the tables of the tests.
    fn rules(&self, release: &str) -> Vec<String> {
        brief(&self.alone(release))
    }
}

fn brief(cases: &[PreflightCase]) -> Vec<String> {
    let word = |level| if level == Level::Error { "error" } else { "warning" };
    cases.iter().map(|case| format!("{} {}", case.rule, word(case.level))).collect()
}

#[test]
fn accepts_a_correct_layer_on_every_release() {
    let checkout = Checkout::new();
    for release in Release::names() {
        assert_eq!(checkout.rules(release), Vec::<String>::new(), "{release}");
    }
}

#[test]
fn judges_a_readme_by_release() {
    // (name, content (none: no README), release, expectation)
    let all = ["readme-maintainer", "readme-patch", "readme-email"];
    let errors = all.map(|rule| format!("{rule} error"));
    let warnings = all.map(|rule| format!("{rule} warning"));
    let one = |text: &str| vec![text.to_owned()];
    type Row<'a> = (&'a str, Option<&'a [u8]>, &'a str, Vec<String>);
    let table: [Row; 16] = [
        ("README", None, "dunfell", one("readme-missing error")),
        ("README", Some(b""), "dunfell", one("readme-empty error")),
        ("README", Some(b"hello"), "honister", warnings.to_vec()),
        ("README", Some(b"hello"), "kirkstone", errors.to_vec()),
        ("ReadMe.rst", Some(b"hello"), "master", errors.to_vec()),
        ("readme-first", Some(b"MAINTAINERS send patchsets a@b"), "master", vec![]),
        ("README", Some(b"see meta-y/ReadMe.txt"), "master", vec![]),
        ("README", Some(b"maintainer patch"), "scarthgap", one("readme-email error")),
        ("README", Some(b"@me maintainer patch a@b"), "whinlatter", one("readme-email error")),
        ("README", Some(b"@me maintainer patch a@b"), "wrynose", vec![]),
        ("README", Some(b"@me maintainer patch a@b"), "dunfell", vec![]),
        ("README", Some(b"\xff maintainer patch a@b"), "dunfell", one("readme-unreadable error")),
        ("README", Some(b" "), "dunfell", warnings.to_vec()),
        ("docs-README", Some(b"hello"), "master", one("readme-missing error")),
        ("READM", Some(b"hello"), "master", one("readme-missing error")),
        ("README\u{fc}", Some(README.as_bytes()), "master", vec![]),
    ];
    for (name, content, release, wanted) in table {
        let checkout = Checkout::new();
        checkout.remove("README.md");
        if let Some(content) = content {
            checkout.write(name, content);
        }
        assert_eq!(checkout.rules(release), wanted, "{name} {content:?} {release}");
    }
}

#[test]
fn checks_the_first_readme_in_sorted_order() {
    let checkout = Checkout::new();
    checkout.write("README-COPYING", "no person, no address");
    let wanted = ["readme-maintainer error", "readme-patch error", "readme-email error"];
    assert_eq!(checkout.rules("scarthgap"), wanted);
    checkout.write("README", README);
    assert_eq!(checkout.rules("scarthgap"), Vec::<String>::new());
    checkout.write("README-dir/x", "");
    assert_eq!(checkout.rules("scarthgap"), Vec::<String>::new());
    checkout.write("READ/x", "");
    assert_eq!(checkout.rules("scarthgap"), Vec::<String>::new());
}

#[test]
fn rejects_links_and_directories_named_readme() {
    let checkout = Checkout::new();
    checkout.remove("README.md");
    checkout.write("README/inside", README);
    assert_eq!(checkout.rules("scarthgap"), ["readme-unreadable error"]);

    let checkout = Checkout::new();
    checkout.remove("README.md");
    symlink("nowhere", checkout.layer().join("README")).unwrap();
    assert_eq!(checkout.rules("scarthgap"), ["readme-unreadable error"]);

    let checkout = Checkout::new();
    checkout.remove("README.md");
    fs_err::write(checkout.0.path().join("text"), README).unwrap();
    symlink("../text", checkout.layer().join("README")).unwrap();
    assert_eq!(checkout.rules("scarthgap"), Vec::<String>::new());
}

#[test]
fn path_with_a_glob_pattern_gives_no_findings() {
    let top = tempfile::tempdir().unwrap();
    let layer = top.path().join("meta-[x]");
    fs_err::create_dir_all(layer.join("conf")).unwrap();
    fs_err::write(layer.join("conf/layer.conf"), CONF).unwrap();
    assert_eq!(layer_alone(&layer, top.path(), Release::find("master").unwrap()), []);
}

#[test]
fn finds_security_file_in_the_layer_or_at_the_top_of_git() {
    let checkout = Checkout::new();
    checkout.remove("SECURITY.md");
    for (release, wanted) in [
        ("styhead", "security-missing warning"),
        ("walnascar", "security-missing error"),
        ("master", "security-missing error"),
    ] {
        assert_eq!(checkout.rules(release), [wanted], "{release}");
    }
    // Above the layer it counts only at the top of the work tree.
    fs_err::write(checkout.0.path().join("SECURITY"), "Write to us.").unwrap();
    assert_eq!(checkout.rules("master"), ["security-missing error"]);
    fs_err::create_dir_all(checkout.0.path().join(".git")).unwrap();
    assert_eq!(checkout.rules("master"), Vec::<String>::new());
    fs_err::write(checkout.0.path().join("SECURITY"), "").unwrap();
    assert_eq!(checkout.rules("master"), ["security-empty error"]);
    // The layer's file comes first; names are case-sensitive.
    checkout.write("security.md", "x");
    assert_eq!(checkout.rules("master"), ["security-empty error"]);
    checkout.write("SECURITY.rst", "x");
    assert_eq!(checkout.rules("master"), Vec::<String>::new());
    checkout.write("SECURITY", "");
    assert_eq!(checkout.rules("master"), ["security-empty error"]);
}

#[test]
fn patches_fail_only_in_releases_that_require_a_status() {
    let checkout = Checkout::new();
    checkout.write("recipes-a/a/a/one.patch", "diff\n");
    checkout.write("two.patch", "Subject: x\nUpstream-Status: Sent\n");
    checkout.write("good.patch", "Upstream-Status: Pending\n");
    checkout.write("three.diff", "diff\n");
    checkout.write("dir.patch/keep", "");
    symlink("nowhere", checkout.layer().join("link.patch")).unwrap();
    for (release, wanted) in [
        ("dunfell", vec!["upstream-status-missing warning"]),
        ("scarthgap", vec!["upstream-status-missing warning"]),
        ("walnascar", vec!["upstream-status-missing warning"]),
        (
            "whinlatter",
            vec![
                "patch-unreadable error",
                "upstream-status-missing error",
                "upstream-status-malformed error",
            ],
        ),
    ] {
        assert_eq!(checkout.rules(release), wanted, "{release}");
    }
    let cases = checkout.alone("master");
    assert_eq!(cases[0].file.as_deref(), Some(Path::new("meta-x/link.patch")));
    assert!(cases[0].message.ends_with("cannot be read: it is a link that leads nowhere"), "{cases:?}");
    assert_eq!(cases[1].file.as_deref(), Some(Path::new("meta-x/recipes-a/a/a/one.patch")));
    assert_eq!((cases[2].file.as_deref(), cases[2].line), (Some(Path::new("meta-x/two.patch")), Some(2)));
    assert_eq!(cases[2].predicts, "common.CommonCheckLayer.test_patches_upstream_status");
    assert!(checkout.alone("scarthgap")[0].message.contains("1 other patch"));
}

/// As root, the agent could reveal protected files or block forever.
#[test]
fn does_not_follow_links_and_pipes_of_a_layer() {
    let checkout = Checkout::new();
    let secret = checkout.0.path().join("secret");
    fs_err::write(&secret, "upstream status: hunter2\n").unwrap();
    symlink(&secret, checkout.layer().join("leak.patch")).unwrap();
    symlink("/dev/zero", checkout.layer().join("zero.patch")).unwrap();
    symlink("loop.patch", checkout.layer().join("loop.patch")).unwrap();
    let pipe = |name: &str| {
        nix::unistd::mkfifo(&checkout.layer().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    pipe("pipe.patch");
    let file = fs_err::File::create(checkout.layer().join("sparse.patch")).unwrap();
    file.set_len(10 << 30).unwrap();
    let cases = checkout.alone("master");
    let wanted = ["upstream-status-malformed error", "patch-unreadable error"];
    assert_eq!(brief(&cases), [&wanted[..], &["file-special error"; 2]].concat());
    assert!(!format!("{cases:?}").contains("hunter2"), "{cases:?}");

    for patch in ["leak", "zero", "loop", "pipe"] {
        checkout.remove(&format!("{patch}.patch"));
    }
    for readme in ["pipe", "device"] {
        checkout.remove("README.md");
        match readme {
            "pipe" => pipe("README.md"),
            _ => symlink("/dev/zero", checkout.layer().join("README.md")).unwrap(),
        }
        assert_eq!(checkout.rules("master"), ["readme-unreadable error"], "{readme}");
    }
    checkout.remove("README.md");
    let file = fs_err::File::create(checkout.layer().join("README.md")).unwrap();
    file.set_len(10 << 30).unwrap();
    // The tool may succeed, so it is not certain that it fails.
    assert_eq!(checkout.rules("master"), Vec::<String>::new());
    checkout.remove("conf/layer.conf");
    pipe("conf/layer.conf");
    assert_eq!(checkout.rules("master"), ["file-unreadable error"]);
}

/// Whatever stands in the place of a file that BitBake or the tool needs: the layer fails, and the file is named.
#[test]
fn what_cannot_be_read_fails_the_layer_and_is_named() {
    type Put = fn(&Path);
    let directory: Put = |path| fs_err::create_dir(path).unwrap();
    let pipe: Put = |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let circle: Put = |path| symlink(path.file_name().unwrap(), path).unwrap();
    let dangling: Put = |path| symlink("nowhere", path).unwrap();
    let long: Put = |path| symlink("x".repeat(300), path).unwrap();
    let sparse: Put = |path| fs_err::File::create(path).unwrap().set_len(10 << 30).unwrap();
    let zero: Put = |path| symlink("/dev/zero", path).unwrap();
    let table: [(&str, &[Put], &str); 6] = [
        ("conf/layer.conf", &[directory, pipe, circle, dangling, long, sparse, zero], "file-unreadable"),
        ("conf/machine", &[circle, long], "file-unreadable"),
        ("conf/distro", &[circle, long], "file-unreadable"),
        ("README.md", &[directory, pipe, circle, dangling, long, zero], "readme-unreadable"),
        ("recipes-x/x/x.patch", &[circle, dangling, long], "patch-unreadable"),
        ("recipes-x/x/x_1.bb", &[pipe, zero], "file-special"),
    ];
    for (file, kinds, rule) in table {
        for (index, put) in kinds.iter().enumerate() {
            let checkout = Checkout::new();
            let path = checkout.layer().join(file);
            if path.exists() {
                checkout.remove(file);
            }
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            put(&path);
            let cases = checkout.alone("master");
            assert_eq!(brief(&cases), [format!("{rule} error")], "{file} {index}");
            assert_eq!(cases[0].file.as_deref(), Some(&*Path::new("meta-x").join(file)), "{index}");
        }
    }
}

#[test]
fn missing_or_invalid_layer_conf_ends_the_run() {
    let checkout = Checkout::new();
    checkout.remove("conf/layer.conf");
    checkout.write("meta-below/conf/layer.conf", CONF);
    let cases = checkout.alone("scarthgap");
    assert_eq!(brief(&cases), ["layer-conf-missing error"]);
    assert_eq!(cases[0].predicts, WHOLE_RUN);
    assert!(cases[0].hint.as_ref().unwrap().contains("meta-below"));

    let checkout = Checkout::new();
    checkout.write("conf/machine/m.conf", "");
    assert_eq!(checkout.rules("scarthgap"), Vec::<String>::new());
    checkout.write("conf/distro/d.conf", "");
    assert_eq!(checkout.rules("scarthgap"), ["bsp-and-distro error"]);
}

#[test]
fn checks_collections_and_series() {
    let table: [(&str, &[&str]); 11] = [
        ("BBFILE_COLLECTIONS = \"x\"\n", &["compat-missing error"]),
        ("BBFILE_COLLECTIONS = \"x\"\nLAYERSERIES_COMPAT_x = \"${@a(d)}\"\n", &[]),
        ("BBFILE_COLLECTIONS = \"${@a(d)}\"\n", &[]),
        (
            "BBFILE_COLLECTIONS = \"x\"\nLAYERSERIES_COMPAT_x = \"scarthgap\"\nLAYERDEPENDS_x = \"core (~12)\"\n",
            &["depends-version error"],
        ),
        (
            "BBFILE_COLLECTIONS = \"x\"\nLAYERSERIES_COMPAT_x = \"scarthgap\"\nLAYERRECOMMENDS_x = \"a (1)\"\n",
            &["depends-version error"],
        ),
        (
            "BBFILE_COLLECTIONS = \"x\"\nLAYERSERIES_COMPAT_x = \"scarthgap\"\nLAYERDEPENDS_x = \"core (>= 12)\"\n",
            &[],
        ),
        ("BBFILE_COLLECTIONS = \"x\"\nLAYERSERIES_COMPAT_x = \"\"\n", &["compat-missing error"]),
        // The tool accepts a blank as a value.
        ("BBFILE_COLLECTIONS = \"x\"\nLAYERSERIES_COMPAT_x = \" \"\n", &[]),
        ("BBFILE_COLLECTIONS = \"x\"\nLAYERSERIES_COMPAT_X = \"scarthgap\"\n", &["compat-missing error"]),
        ("", &["layer-conf-collections warning"]),
        ("BBFILE_COLLECTIONS = \"x\"\nrequire more.inc\n", &[]),
    ];
    for (conf, wanted) in table {
        let checkout = Checkout::new();
        checkout.write("conf/layer.conf", conf);
        assert_eq!(checkout.rules("scarthgap"), wanted, "{conf}");
    }
    let checkout = Checkout::new();
    checkout.write("conf/layer.conf", "# x\n\nBBFILE_COLLECTIONS = \"x\"\n");
    let cases = checkout.alone("scarthgap");
    assert_eq!(
        (cases[0].file.as_deref(), cases[0].line),
        (Some(Path::new("meta-x/conf/layer.conf")), Some(3))
    );
}

#[test]
fn old_override_syntax_ends_the_run_from_honister_on() {
    let checkout = Checkout::new();
    checkout.write("conf/layer.conf", format!("{CONF}BBPATH_append = \":x\"\nFOO_remove[doc] = \"x\"\n"));
    let line = Some(CONF.lines().count() as u32 + 1);
    for (release, wanted) in
        [("dunfell", false), ("hardknott", false), ("honister", true), ("kirkstone", true), ("master", true)]
    {
        let cases = checkout.alone(release);
        let found = cases.iter().find(|case| case.rule == "override-syntax");
        assert_eq!(found.is_some(), wanted, "{release}: {cases:?}");
        assert!(found.is_none_or(|case| case.line == line && case.predicts == WHOLE_RUN));
    }
}

#[test]
fn skips_tests_for_oe_core() {
    let top = tempfile::tempdir().unwrap();
    let layer = top.path().join("meta");
    fs_err::create_dir_all(layer.join("conf")).unwrap();
    let conf = CONF.replace("_x", "_core").replace("\"x\"", "\"core\"");
    fs_err::write(layer.join("conf/layer.conf"), conf).unwrap();
    for release in Release::names() {
        assert_eq!(layer_alone(&layer, top.path(), Release::find(release).unwrap()), [], "{release}");
    }
}

/// Layers next to `meta-x`: name, collection and more lines of their `layer.conf`.
fn beside(checkout: &Checkout, layers: &[(&str, &str, &str)]) -> Vec<PathBuf> {
    layers
        .iter()
        .map(|(name, collection, more)| {
            let dir = checkout.0.path().join("repos").join(name);
            fs_err::create_dir_all(dir.join("conf")).unwrap();
            let conf = format!(
                "BBFILE_COLLECTIONS += \"{collection}\"\nBBFILE_PATTERN_{collection} = \"^${{LAYERDIR}}/\"\n{more}\n"
            );
            fs_err::write(dir.join("conf/layer.conf"), conf).unwrap();
            dir
        })
        .collect()
}

#[test]
fn follows_dependencies_through_the_repos() {
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str, &'a str)], &'a [&'a str]);
    let table: [Row; 12] = [
        ("core", &[], &[]),
        // Python is unknown; plain words next to it still count, but not what it touches or may remove.
        ("core ${@bb.utils.contains('A', 'b c', ' d', '', d)}", &[], &[]),
        ("a ${@bb.utils.contains('A', 'b c', ' d', '', d)}", &[], &["depends-unsatisfied error"]),
        ("core a${@bb.utils.contains('A', 'b c', ' d', '', d)}", &[], &[]),
        ("a", &[("meta-a", "a", "LAYERDEPENDS_a = \"${B}\"")], &[]),
        ("core a", &[("meta-a", "a", "")], &[]),
        ("a", &[], &["depends-unsatisfied error"]),
        ("a b (>= 3)", &[("meta-a", "a", "")], &["depends-unsatisfied error"]),
        ("a", &[("meta-a", "a", "LAYERDEPENDS_a = \"core b\"")], &["depends-unsatisfied error"]),
        ("a", &[("meta-a", "a", "LAYERDEPENDS_a = \"b\""), ("meta-b", "b", "LAYERDEPENDS_b = \"a x\"")], &[]),
        // A layer of the repos that cannot be evaluated may provide anything.
        ("a", &[("meta-b", "b", "require more.inc")], &[]),
        // A layer that is not needed may have missing dependencies.
        ("core", &[("meta-a", "a", "LAYERDEPENDS_a = \"nothing\"")], &[]),
    ];
    for (depends, layers, wanted) in table {
        let checkout = Checkout::new();
        checkout.write("conf/layer.conf", CONF.replace("\"core\"", &format!("\"{depends}\"")));
        let repos = beside(&checkout, layers);
        let release = Release::find("scarthgap").unwrap();
        let series = ["scarthgap".to_owned()];
        let cases = against_repos(&checkout.layer(), checkout.0.path(), release, &repos, &series, &[]);
        assert_eq!(brief(&cases), wanted, "{depends}: {cases:?}");
        assert!(cases.iter().all(|case| case.predicts == WHOLE_RUN && case.line == Some(3)));
    }
}

#[test]
fn series_must_match_oe_core() {
    let table: [(&str, &[&str], &str, &[&str]); 7] = [
        ("kirkstone ${@a(d)}", &["scarthgap"], "", &[]),
        ("scarthgap", &["scarthgap"], "", &[]),
        ("kirkstone scarthgap", &["scarthgap"], "", &[]),
        ("kirkstone", &["scarthgap"], "", &["compat-mismatch error"]),
        ("blacksail", &["wrynose", "blacksail"], "", &[]),
        ("kirkstone", &[], "", &[]),
        ("kirkstone", &["scarthgap"], "LAYERSERIES_COMPAT_x = \"scarthgap\"", &[]),
    ];
    for (compat, core, elsewhere, wanted) in table {
        let checkout = Checkout::new();
        checkout.write("conf/layer.conf", CONF.replace("scarthgap", compat));
        let repos = beside(&checkout, &[("meta-a", "a", elsewhere)]);
        let core: Vec<String> = core.iter().map(|name| (*name).to_owned()).collect();
        let release = Release::find("scarthgap").unwrap();
        let cases = against_repos(&checkout.layer(), checkout.0.path(), release, &repos, &core, &[]);
        assert_eq!(brief(&cases), wanted, "{compat} {core:?} {elsewhere}");
        assert!(cases.iter().all(|case| case.line == Some(4)));
    }
}

#[test]
fn rejects_a_collection_name_of_two_layers() {
    let checkout = Checkout::new();
    let mut repos = beside(&checkout, &[("one", "a", ""), ("two", "a", "")]);
    let judge = |release: &str, repos: &[PathBuf]| {
        let release = Release::find(release).unwrap();
        brief(&against_repos(&checkout.layer(), checkout.0.path(), release, repos, &[], &[]))
    };
    assert_eq!(judge("scarthgap", &repos), ["collection-duplicate error"]);
    assert_eq!(judge("dunfell", &repos), Vec::<String>::new());
    // The same directory twice has the same pattern, and so has one that says LAYERDIR_RE.
    repos[1] = repos[0].clone();
    repos.push(checkout.layer());
    assert_eq!(judge("scarthgap", &repos), Vec::<String>::new());
    let same = "BBFILE_PATTERN_a = \"^${LAYERDIR_RE}/\"";
    let repos = beside(&checkout, &[("three", "a", same), ("four", "a", same)]);
    assert_eq!(judge("scarthgap", &repos), Vec::<String>::new());
}

#[test]
fn bsp_layers_need_machines() {
    let checkout = Checkout::new();
    checkout.write("conf/machine/board.conf", "");
    let release = Release::find("scarthgap").unwrap();
    let judge = |machines: &[String]| {
        brief(&against_repos(&checkout.layer(), checkout.0.path(), release, &[], &[], machines))
    };
    assert_eq!(judge(&[]), ["bsp-machines warning"]);
    assert_eq!(judge(&["board".into()]), Vec::<String>::new());
    assert_eq!(judge(&["bord".into()]), ["bsp-machines warning"]);
}

#[test]
fn judges_the_fixtures_as_intended() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../layers-fixtures");
    let table: [(&str, &[&str]); 6] = [
        ("meta-good", &[]),
        ("meta-no-readme", &["readme-missing error"]),
        // Only BitBake can find the faults of these.
        ("meta-parse-error", &[]),
        ("meta-signature-change", &[]),
        ("meta-bsp", &[]),
        ("meta-deploy", &[]),
    ];
    for (name, wanted) in table {
        let layer = fixtures.join(name);
        for release in ["kirkstone", "scarthgap", "master"] {
            let cases = layer_alone(&layer, &fixtures, Release::find(release).unwrap());
            assert_eq!(brief(&cases), wanted, "{name} {release}: {cases:?}");
        }
    }
}
