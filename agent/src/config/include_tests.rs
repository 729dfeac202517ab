//! Manifests with included files: what they become, and what is wrong with others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::super::tests::{Checkout, now};
use super::super::*;

use agent_types::error::{Error, Result};

const TOP: &str = "version = 1\nname = \"meta-x\"\ninclude = [\"ci/base.toml\"]\n";

const BASE: &str = r#"release = "scarthgap"
[repos.poky]
url = "https://git.yoctoproject.org/poky"
branch = "scarthgap"
layers = ["meta", "meta-poky"]
[config]
machines = ["qemuarm", "qemux86-64"]
distro = "poky"
"#;

fn with(top: &str, files: &[(&str, &str)]) -> Checkout {
    let files: Vec<_> = [("build-agent.toml", top), ("conf/layer.conf", "")]
        .into_iter()
        .chain(files.iter().copied())
        .collect();
    Checkout::new(&files)
}

fn said(result: Result<Settings, Error>) -> String {
    let error = result.unwrap_err();
    format!("{}\n{}", error.message, error.hint.unwrap_or_default())
}

#[test]
fn later_files_win_tables_are_merged_and_lists_are_replaced() {
    let second = "[config]\nmachines = [\"qemumips\"]\n[repos.poky]\nbranch = \"styhead\"\n";
    let top = format!(
        "{}[repos.meta-y]\nurl = 'https://h/y'\ntag = 'v1'\n[config]\nlocal_conf = 'X = \"1\"'\n",
        TOP.replace("\"ci/base.toml\"", "\"ci/base.toml\", \"./ci/second.toml\"")
    );
    let checkout = with(&top, &[("ci/base.toml", BASE), ("ci/second.toml", second)]);
    let settings = checkout.load(&["config.distro=nodistro"]).unwrap();
    assert_eq!(settings.config.machines, ["qemumips"], "a list is replaced");
    assert_eq!(settings.config.distro, "nodistro", "a flag comes last");
    assert_eq!(settings.config.local_conf, "X = \"1\"");
    let names: Vec<_> = settings.repos.iter().map(|repo| repo.name.as_str()).collect();
    assert_eq!(names, ["poky", "meta-y"], "what is included comes first");
    let RepoSource::Git(poky) = &settings.repos[0].source else { panic!() };
    assert_eq!(poky.wanted, Wanted::Branch("styhead".into()));
    assert_eq!(settings.repos[0].layers.len(), 2, "the rest of the table stays");
}

#[test]
fn included_files_include_files_relative_to_themselves() {
    let checkout = with(
        TOP,
        &[
            (
                "ci/base.toml",
                &format!("include = [\"more/machines.toml\", \"../top.toml\"]\n{BASE}")
                    .replace("machines =", "#"),
            ),
            ("ci/more/machines.toml", "[config]\nmachines = [\"one\"]\n"),
            ("top.toml", "[build]\ntargets = [\"core-image-minimal\"]\n"),
        ],
    );
    let settings = checkout.load(&[]).unwrap();
    assert_eq!(
        (settings.config.machines, settings.build.targets),
        (vec!["one".into()], vec!["core-image-minimal".into()])
    );
    let text = settings.reproduction.manifest.unwrap();
    assert!(text.starts_with("# build-agent.toml with the files that it includes: ci/base.toml, ci/more/machines.toml, top.toml\n"), "{text}");
    let alone = with(&text, &[]);
    assert_eq!(alone.load(&[]).unwrap().repos, settings.repos, "{text}");
}

#[test]
fn mistakes_are_at_their_place_in_the_included_file() {
    // The text of ci/base.toml, or of the manifest's list; where and what.
    let table: &[(&str, &str, &str)] = &[
        ("base", "[config]\nmachnes = []\n", "ci/base.toml:2:1: [config] machnes: unknown key"),
        ("base", "version = 2\n", "ci/base.toml:1:11: version: is 2"),
        ("base", "x = \n", "ci/base.toml:1:5: not valid TOML"),
        (
            "base",
            "include = \"x.toml\"\n",
            "ci/base.toml:1:11: include: must be a list of strings, not a string",
        ),
        ("base", "include = [7]\n", "ci/base.toml:1:12: include: must be a string"),
        (
            "base",
            "include = [\"../../x.toml\"]\n",
            "ci/base.toml:1:12: include: `ci/../../x.toml` leads out of",
        ),
        (
            "base",
            "include = [\"../build-agent.toml\"]\n",
            "ci/base.toml:1:12: include: `build-agent.toml` includes itself",
        ),
        ("base", "include = [\"base.toml\"]\n", "ci/base.toml:1:12: include: `ci/base.toml` includes itself"),
        ("list", "\"gone.toml\"", "build-agent.toml:3:12: include: `gone.toml`: no such file"),
        ("list", "\"\"", "include: is empty"),
        ("list", "\"/etc/passwd\"", "is an absolute path"),
        ("list", "\"out.toml\"", "`out.toml` is a link that leads out of its repository"),
        ("list", "\"https://h/x.toml\"", "is an address"),
        ("list", "\"a b:x.toml\"", "`a b` is not the name of a repository"),
        ("list", "\"pokky:x.toml\"", "no valid [repos.pokky] is defined"),
        ("list", "\"conf\"", "cannot read `conf`"),
        ("list", "\"./a:b.toml\"", "`a:b.toml`: no such file"),
    ];
    for (what, text, wanted) in table {
        let (top, base) = match *what {
            "base" => (
                TOP.to_owned(),
                format!("{text}{BASE}").replacen(
                    "[config]\nmachines",
                    "[layer]\npaths",
                    usize::from(text.contains("[config]")),
                ),
            ),
            _ => (TOP.replace("\"ci/base.toml\"", text), BASE.to_owned()),
        };
        let checkout = with(&top, &[("ci/base.toml", &base)]);
        symlink("/etc/hostname", checkout.path().join("out.toml")).unwrap();
        let found = said(checkout.load(&[]));
        assert!(found.contains(wanted), "{text}: {wanted}\n{found}");
    }
    let by_flag = said(with(TOP, &[("ci/base.toml", BASE)]).load(&["include=['x']"]));
    assert!(by_flag.contains("--set include=['x']: include: a flag cannot include files"), "{by_flag}");
}

#[test]
fn depth_and_number_are_bounded() {
    let name = |index: usize| format!("ci/{index}.toml");
    let next = |index: usize| format!("include = [\"{0}.toml\", \"{0}.toml\"]\n", index + 1);
    let mut files: Vec<(String, String)> = (0..20).map(|index| (name(index), next(index))).collect();
    files.push((name(20), String::new()));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let found = said(with(&TOP.replace("base", "0"), &files).load(&[]));
    assert!(found.contains("ci/15.toml:1:12: include: more than 16 levels or 100 files"), "{found}");
    let found = said(with(&TOP.replace("base", "12"), &files).load(&[]));
    assert!(found.contains("more than 16 levels or 100 files"), "{found}");
}

#[test]
fn a_repository_is_needed_first_and_its_commit_is_pinned() {
    let checkout = with(&TOP.replace("ci/base.toml", "rules:ci/base.toml"), &[]);
    let rules = "[repos.rules]\nurl = 'https://h/rules'\nbranch = 'main'\n";
    checkout
        .write("build-agent.toml", &format!("{}{rules}", TOP.replace("ci/base.toml", "rules:ci/base.toml")));
    let env = Checkout::environment(&[]);
    let needs = match load(&Request::default(), &env, &checkout.path(), now()).unwrap() {
        Loaded::Needs(needs) => needs,
        Loaded::Ready(_) => panic!("the repository is not there"),
    };
    assert_eq!((needs.len(), needs[0].name.as_str()), (1, "rules"));
    let files = Checkout::new(&[
        ("ci/base.toml", &format!("include = [\"../more.toml\"]\n{BASE}")),
        ("more.toml", "[build]\ntargets = ['x']\n"),
    ]);
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let fetched = |root: PathBuf| IncludedRepo {
        name: "rules".into(),
        source: RepoSource::Git(needs[0].source.clone()),
        root,
        commit: Some(commit.into()),
    };
    let load_with = |checkout: &Checkout, root: PathBuf| {
        let request = Request { included: vec![fetched(root)], ..Request::default() };
        checkout.load_in(&request, &env)
    };
    let settings = load_with(&checkout, files.path()).unwrap();
    assert_eq!(settings.build.targets, ["x"]);
    let RepoSource::Git(source) = &settings.repos[0].source else { panic!() };
    assert_eq!((settings.repos[0].name.as_str(), source.locked.as_deref()), ("poky", None));
    let RepoSource::Git(source) = &settings.repos[1].source else { panic!() };
    assert_eq!(source.locked.as_deref(), Some(commit), "of the same commit as the file");

    // A file of a repository stays in it, and does not change it.
    for (text, wanted) in [
        (
            "include = [\"../../x.toml\"]\n",
            "rules:ci/base.toml:1:12: include: `ci/../../x.toml` leads out of the repository `rules`",
        ),
        ("include = [\"rules:ci/base.toml\"]\n", "`rules:ci/base.toml` includes itself"),
        ("nmae = 1\n", "rules:ci/base.toml:1:1: nmae: unknown key"),
    ] {
        files.write("ci/base.toml", &format!("{text}{BASE}"));
        let found = said(load_with(&checkout, files.path()));
        assert!(found.contains(wanted), "{text}: {found}");
    }
    files.write("ci/base.toml", BASE);
    checkout.write(
        "build-agent.toml",
        &format!("{}{}", TOP.replace("ci/base.toml", "rules:ci/base.toml"), rules.replace("main", "other")),
    );
    let found = said(load_with(&checkout, files.path()));
    assert!(found.contains("[repos.rules]: is changed by a file"), "{found}");
}

#[test]
fn a_local_repository_needs_no_fetch() {
    let elsewhere = Checkout::new(&[("base.toml", BASE)]);
    let top = format!(
        "{}[repos.rules]\npath = '{}'\n",
        TOP.replace("ci/base.toml", "rules:base.toml"),
        elsewhere.path().display()
    );
    assert_eq!(with(&top, &[]).load(&[]).unwrap().config.distro, "poky");
}

#[test]
fn a_file_of_a_repository_does_not_change_the_matrix() {
    let elsewhere = Checkout::new(&[("base.toml", &format!("{BASE}[matrix]\nmachine = ['qemuarm']\n"))]);
    for matrix in ["", "[matrix]\ndistro = ['poky']\n"] {
        let top = format!(
            "{}{matrix}[repos.rules]\npath = '{}'\n",
            TOP.replace("ci/base.toml", "rules:base.toml"),
            elsewhere.path().display()
        );
        let cell = Some("poky".to_owned()).filter(|_| !matrix.is_empty());
        let found = said(with(&top, &[]).load_with(&Request { cell, ..Request::default() }, &[]));
        assert!(found.contains("a file of a repository must not change the matrix"), "{found}");
    }
}

#[test]
fn a_downloaded_manifest_includes_no_local_file() {
    let checkout = with("", &[("ci/base.toml", BASE)]);
    let request =
        Request { manifest_text: Some(("https://h/m.toml".into(), TOP.into())), ..Request::default() };
    let found = said(checkout.load_with(&request, &[]));
    assert!(found.contains("https://h/m.toml:3:12: include: `ci/base.toml` is a local file"), "{found}");
}

#[test]
fn explains_where_a_value_comes_from_and_what_it_overrides() {
    let top = format!("{TOP}[config]\nmachines = [\"one\"]\n");
    let checkout = with(&top, &[("ci/base.toml", BASE)]);
    let explained = |key: &str, set: &[&str]| {
        let set = set.iter().map(ToString::to_string).collect();
        let request = Request { set, ..Request::default() };
        explain(&request, &Checkout::environment(&[]), &checkout.path(), key)
            .and_then(Loaded::ready)
            .map(|it| it.text())
    };
    let text = explained("config.machines", &["config.machines=['two']"]).unwrap();
    let places = [
        "[config] machines\n  is         [\"two\"]\n             at --set config.machines=['two']\n",
        "  overrides  [\"one\"]\n             at build-agent.toml:5:12\n",
        "  overrides  [\"qemuarm\", \"qemux86-64\"]\n             at ci/base.toml:7:12\n",
        "The first is the machine of the checks",
    ];
    assert!(text.starts_with(places[0]) && places.iter().all(|place| text.contains(place)), "{text}");
    let table = explained("repos.poky", &[]).unwrap();
    assert!(table.contains("[repos.poky] url\n  is") && table.contains("[repos.poky] layers\n"), "{table}");
    let unset = explained("build.targets", &[]).unwrap();
    assert!(unset.starts_with("build.targets is not set\n\nBitBake targets"), "{unset}");
    let error = explained("config.machnes", &[]).unwrap_err();
    assert!(error.message.contains("no such key"), "{error}");
}
