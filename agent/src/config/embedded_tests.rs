//! Checks without a manifest: which sources and which release are chosen.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

use super::embedded::for_layers;
use super::*;
use agent_types::error::{Class, Error};

struct Tree(TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let file = tree.path().join(name);
            fs_err::create_dir_all(file.parent().unwrap()).unwrap();
            fs_err::write(file, text).unwrap();
        }
        tree
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn check(&self, layers: &[&str], release: Option<&str>) -> Result<Settings, Error> {
        self.check_with(layers, release, &[])
    }

    fn check_with(
        &self,
        layers: &[&str],
        release: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Settings, Error> {
        let env = AgentEnvironment::from_map([("HOME", "/home/me")].iter().chain(variables).copied());
        let layers: Vec<PathBuf> = layers.iter().map(PathBuf::from).collect();
        for_layers(&layers, release, &Request::default(), &env, &self.path(), SystemTime::UNIX_EPOCH)
            .and_then(Loaded::ready)
    }
}

/// A layer.conf.
fn conf(collection: &str, depends: &str, series: &str) -> String {
    format!(
        "BBFILE_COLLECTIONS += \"{collection}\"\nLAYERDEPENDS_{collection} = \"{depends}\"\nLAYERSERIES_COMPAT_{collection} = \"{series}\"\n"
    )
}

/// `name branch layer layer …` of each repository, sorted by name.
fn repos(settings: &Settings) -> Vec<String> {
    let line = |repo: &Repo| {
        let from = match &repo.source {
            RepoSource::Git(GitSource { wanted: Wanted::Branch(branch), .. }) => branch.clone(),
            RepoSource::Git(_) => panic!(),
            RepoSource::Path(_) => "path".into(),
        };
        let layers = repo.layers.iter().map(|layer| format!(" {}", layer.display())).collect::<String>();
        format!("{} {from}{layers}", repo.name)
    };
    settings.repos.iter().map(line).collect()
}

#[test]
fn a_layer_alone_gets_poky_and_what_it_depends_on() {
    let tree =
        Tree::new(&[("meta-x/conf/layer.conf", &conf("meta-x", "core xfce-layer", "kirkstone scarthgap"))]);
    let settings = tree.check(&["meta-x"], None).unwrap();
    assert_eq!(settings.release.name, "scarthgap", "the newest that it names");
    assert_eq!(settings.layers, [tree.path().join("meta-x")]);
    assert_eq!(
        repos(&settings),
        [
            "meta-openembedded scarthgap meta-xfce meta-networking meta-python meta-oe meta-multimedia meta-gnome",
            "poky scarthgap meta meta-poky"
        ]
    );
    assert_eq!(settings.config.distro, "poky");
    assert!(settings.check.yocto_check_layer && settings.build.targets.is_empty());
    assert_eq!(settings.paths.out, tree.path().join("build-agent-out"));
    assert_eq!(settings.job.reproduce, ["build-agent", "check", ".", "--release", "scarthgap"]);
    assert!(settings.notices[0].contains("scarthgap"), "{:?}", settings.notices);
}

#[test]
fn from_whinlatter_on_bitbake_and_oe_core_come_apart() {
    let tree = Tree::new(&[("conf/layer.conf", &conf("meta-x", "core yocto", "whinlatter"))]);
    let settings = tree.check(&[], None).unwrap();
    assert_eq!(repos(&settings)[0], "bitbake 2.16");
    assert_eq!(
        repos(&settings)[1..],
        ["meta-yocto whinlatter meta-poky", "openembedded-core whinlatter meta"]
    );
    let plain = Tree::new(&[("conf/layer.conf", &conf("meta-x", "core", "whinlatter"))]);
    assert_eq!(plain.check(&[], None).unwrap().config.distro, "nodistro");
}

#[test]
fn the_release_is_the_flag_then_the_branch_then_what_the_layers_name() {
    let series = |series: &str| conf("meta-x", "core", series);
    // LAYERSERIES_COMPAT, .git/HEAD, --release, variables; the release or words of the hint.
    type Row<'a> = (&'a str, &'a str, Option<&'a str>, &'a [(&'a str, &'a str)], Result<&'a str, &'a str>);
    let table: &[Row] = &[
        ("kirkstone scarthgap", "ref: refs/heads/kirkstone", Some("dunfell"), &[], Ok("dunfell")),
        ("kirkstone scarthgap", "ref: refs/heads/kirkstone\n", None, &[], Ok("kirkstone")),
        ("kirkstone scarthgap", "ref: refs/heads/fix", None, &[], Ok("scarthgap")),
        ("scarthgap", "ref: refs/heads/master", None, &[], Ok("scarthgap")),
        ("wrynose blacksail", "ref: refs/heads/master", None, &[], Ok("master")),
        ("wrynose blacksail", "0123456789abcdef0123456789abcdef01234567", None, &[], Ok("wrynose")),
        ("blacksail", "", None, &[], Ok("master")),
        (
            "kirkstone scarthgap",
            "0123456789abcdef0123456789abcdef01234567",
            None,
            &[("CODEBUILD_BUILD_ID", "x:y"), ("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/kirkstone")],
            Ok("kirkstone"),
        ),
        ("thud zeus", "ref: refs/heads/fix", None, &[], Err("--release")),
        ("", "ref: refs/heads/fix", None, &[], Err("--release")),
        ("scarthgap", "", Some("scarthgp"), &[], Err("did you mean `scarthgap`?")),
    ];
    for (names, head, flag, variables, wanted) in table {
        let tree = Tree::new(&[("conf/layer.conf", &series(names)), (".git/HEAD", head)]);
        let found = tree.check_with(&["."], *flag, variables);
        match (found, wanted) {
            (Ok(settings), Ok(wanted)) => assert_eq!(settings.release.name, *wanted, "{names} {head}"),
            (Err(error), Err(wanted)) => {
                assert_eq!(error.class, Class::Usage);
                assert!(error.hint.as_deref().unwrap_or_default().contains(wanted), "{error}");
            }
            (found, wanted) => panic!("{names} {head}: {found:?} instead of {wanted:?}"),
        }
    }
}

#[test]
fn several_layers_have_to_agree_on_a_release() {
    let tree = Tree::new(&[
        ("a/conf/layer.conf", &conf("a", "core", "kirkstone scarthgap")),
        ("b/conf/layer.conf", &conf("b", "core a", "dunfell kirkstone")),
    ]);
    let settings = tree.check(&["a", "b", "./a"], None).unwrap();
    assert_eq!(settings.release.name, "kirkstone");
    assert_eq!(settings.layers, [tree.path().join("a"), tree.path().join("b")]);
    assert_eq!(repos(&settings), ["poky kirkstone meta meta-poky"], "a layer under test is not a repository");
}

#[test]
fn computed_dependencies_keep_the_plain_ones_and_name_no_pieces() {
    let contains = "bb.utils.contains('BBFILE_COLLECTIONS', 'security', ' security no-such', '', d)";
    for more in [
        format!("LAYERDEPENDS_x:append = \"${{@{contains}}}\""),
        format!("LAYERDEPENDS_x_append = \" ${{@{contains}}}\""),
        format!("LAYERDEPENDS_x += '${{@{}}}'", contains.replace('\'', "\"")),
        "LAYERDEPENDS_x:append = \" ${ELSEWHERE}\"".to_owned(),
    ] {
        let text = format!("{}{more}\n", conf("x", "core networking-layer", "scarthgap"));
        let tree = Tree::new(&[("conf/layer.conf", &text)]);
        let settings = tree.check(&["."], None).unwrap();
        assert_eq!(
            repos(&settings),
            [
                "meta-openembedded scarthgap meta-networking meta-python meta-oe",
                "poky scarthgap meta meta-poky"
            ],
            "{more}"
        );
        assert!(settings.completes_repos, "BitBake may name more");
        let pieces = settings.notices.iter().filter(|notice| notice.contains("no repository is known"));
        assert_eq!(pieces.count(), 0, "{:?}", settings.notices);
    }
}

#[test]
fn a_dependency_in_the_same_checkout_wins_over_the_table() {
    let tree = Tree::new(&[
        (".git/HEAD", "ref: refs/heads/scarthgap\n"),
        ("meta-arm/conf/layer.conf", &conf("meta-arm", "core arm-toolchain", "scarthgap")),
        ("meta-arm-bsp/conf/layer.conf", &conf("meta-arm-bsp", "core meta-arm mystery", "scarthgap")),
    ]);
    let settings = tree.check(&["meta-arm-bsp"], None).unwrap();
    assert_eq!(
        repos(&settings),
        ["checkout path meta-arm", "meta-arm scarthgap meta-arm-toolchain", "poky scarthgap meta meta-poky"]
    );
    let start = settings.notices.iter().position(|notice| notice.contains("`mystery`")).unwrap();
    let lines: Vec<&str> = settings.notices[start + 1..].iter().map(|notice| notice.trim()).collect();
    let wanted =
        ["[repos.meta-mystery]", "url = \"https://…\"", "branch = \"scarthgap\"", "layers = [\".\"]"];
    assert_eq!(lines[..4], wanted);
    assert!(toml::from_str::<toml::Value>(&lines[..4].join("\n")).is_ok());
}

#[test]
fn a_manifest_above_the_layer_is_used_unless_it_is_for_another_release() {
    let manifest = "version = 1\nname = 'm'\nrelease = 'scarthgap'\n[repos.mine]\nurl = 'https://host/mine'\nbranch = 'x'\n\
                    [build]\ntargets = ['image']\n[[artifacts.rules]]\ninclude = 'x'\n[check]\nyocto_check_layer = false\n";
    let tree = Tree::new(&[
        (".git/HEAD", "ref: refs/heads/fix\n"),
        ("build-agent.toml", manifest),
        ("meta-x/conf/layer.conf", &conf("meta-x", "core", "kirkstone scarthgap")),
    ]);
    let settings = tree.check(&["meta-x"], None).unwrap();
    assert_eq!(repos(&settings), ["mine x"]);
    assert_eq!(settings.layers, [tree.path().join("meta-x")]);
    assert!(settings.build.targets.is_empty() && settings.artifacts.rules.is_empty());
    assert!(settings.check.yocto_check_layer, "that is what `check` asks for");
    let other = tree.check(&["meta-x"], Some("kirkstone")).unwrap();
    assert_eq!(repos(&other), ["poky kirkstone meta meta-poky"]);
    assert!(other.notices[0].contains("ignored"), "{:?}", other.notices);
}

#[test]
fn what_is_no_layer_is_told() {
    let tree = Tree::new(&[("x/README", "")]);
    for layer in ["x", "gone"] {
        let error = tree.check(&[layer], Some("scarthgap")).unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains("conf/layer.conf"), "{error}");
    }
}

#[test]
fn above_its_layers_the_way_down_is_told() {
    let conf = conf("x", "core", "nothing-known");
    let tree = Tree::new(&[("b/conf/layer.conf", &conf), ("a/conf/layer.conf", &conf), ("c/README", "")]);
    let error = tree.check(&["."], None).unwrap_err();
    assert_eq!(error.hint.unwrap(), "name one or more of the layers below it: ./a, ./b");
    let error = tree.check(&["a"], None).unwrap_err();
    assert!(error.message.contains("has `nothing-known` in common"), "{error}");
}

#[test]
fn in_codebuild_a_layer_elsewhere_is_its_own_checkout() {
    let source = Tree::new(&[("README", "")]);
    let tree = Tree::new(&[("meta-x/conf/layer.conf", &conf("meta-x", "core", "scarthgap"))]);
    let directory = source.path().display().to_string();
    let settings = tree.check_with(&["meta-x"], None, &[("CODEBUILD_SRC_DIR", &directory)]).unwrap();
    assert_eq!(settings.checkout, tree.path().join("meta-x"));
    let inside = Tree::new(&[("a/meta-x/conf/layer.conf", &conf("meta-x", "core", "scarthgap"))]);
    let directory = inside.path().display().to_string();
    let settings = inside.check_with(&["a/meta-x"], None, &[("CODEBUILD_SRC_DIR", &directory)]).unwrap();
    assert_eq!(settings.checkout, inside.path());
    assert_eq!(settings.layers, [Path::new(&directory).join("a/meta-x")]);
}

#[test]
fn a_hostile_directory_name_is_refused_and_not_obeyed() {
    let name = "x\"\nINHERIT += \"evil";
    let tree = Tree::new(&[(&format!("{name}/conf/layer.conf"), &conf("meta-x", "core", "scarthgap"))]);
    let error = tree.check(&[name], None).unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.message.contains("has a special meaning in BitBake's configuration"), "{error}");
}
