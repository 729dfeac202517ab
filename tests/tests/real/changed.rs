//! What a change affects, with real BitBake and OE-Core. The world has a few recipes without dependencies, so each
//! query takes seconds. The expected results were written by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use build_agent_tests::{cannot_run_parallel, commit, git, is_left_to_the_long_run, skip};
use serde_json::Value;

use crate::fixture::{Fixture, WITHOUT_PATCH_TOOLS, WITHOUT_TOOLCHAIN};
use crate::{BITBAKE, OE_CORE, POKY};

/// Only the classes and the configuration of OE-Core.
const NARROW_WORLD: &str = r#"
BBMASK = "/meta/recipes- /meta-poky/recipes-"
ASSUME_PROVIDED += "virtual/fakeroot-native quilt-native patch-replacement-native"
CONNECTIVITY_CHECK_URIS = ""
INHERIT:remove = "uninative"
BB_NO_NETWORK = "1"
"#;

/// A recipe for which nothing is compiled, patched or packaged.
fn recipe(more: &str) -> String {
    let own = "deltask do_compile\n\
        do_deploy() {\n    echo \"${PN} ${PV}\" > ${DEPLOYDIR}/${PN}.txt\n}\n\
        addtask deploy after do_unpack before do_build\n";
    format!("{WITHOUT_TOOLCHAIN}{WITHOUT_PATCH_TOOLS}{own}{more}")
}

/// The recipes, each with its own lines.
const RECIPES: [(&str, &str); 10] = [
    ("alpha/alpha_1.0.bb", "SRC_URI = \"file://alpha.txt\"\nBBCLASSEXTEND = \"native\"\n"),
    ("beta/beta_1.0.bb", "do_deploy[depends] += \"alpha:do_deploy\"\n"),
    ("gamma/gamma_1.0.bb", "require gamma.inc\n"),
    ("delta/delta_1.0.bb", "inherit own\n"),
    ("foo/foo_1.bb", ""),
    ("foo/foo_2.bb", ""),
    // What the world leaves out.
    ("alone/alone_1.0.bb", "EXCLUDE_FROM_WORLD = \"1\"\nSRC_URI = \"file://alone.txt\"\n"),
    ("virtual/thing_1.0.bb", "PROVIDES += \"virtual/thing\"\n"),
    ("never/never_1.0.bb", "COMPATIBLE_MACHINE = \"none\"\n"),
    ("always/always_1.0.bb", "do_deploy[nostamp] = \"1\"\n"),
];

pub struct Changed(pub Fixture);

impl Changed {
    pub fn new(test: &str, release: &str) -> Option<Changed> {
        if let Some(reason) = cannot_run_parallel(2) {
            skip(test, &reason);
            return None;
        }
        let addresses: &[&str] = if release == "master" { &[OE_CORE, BITBAKE] } else { &[POKY] };
        let changed = Changed(Fixture::new(test, "meta-deploy", addresses)?);
        std::fs::remove_dir_all(changed.layer("recipes-fixture")).unwrap();
        for (path, more) in RECIPES {
            changed.write(&format!("recipes-x/{path}"), &recipe(more));
        }
        changed.write("recipes-x/alpha/files/alpha.txt", "1\n");
        changed.write("recipes-x/alone/files/alone.txt", "1\n");
        changed.write("recipes-x/gamma/gamma.inc", "FROM_INC = \"1\"\ndo_deploy[vardeps] += \"FROM_INC\"\n");
        changed.write("classes/own.bbclass", "OWN = \"1\"\ndo_deploy[vardeps] += \"OWN\"\n");
        changed.write("dynamic-layers/core/recipes-y/dynamic/dynamic_1.0.bb", &recipe(""));
        changed.append(
            "conf/layer.conf",
            "BBFILES_DYNAMIC += \"core:${LAYERDIR}/dynamic-layers/core/recipes-*/*/*.bb\"\n",
        );
        changed.write_manifest(release, "");
        commit(&changed.0.layer(), "Base");
        git(&changed.0.layer(), ["tag", "base"]);
        Some(changed)
    }

    pub fn write_manifest(&self, release: &str, conf: &str) {
        let (repos, distro) = match release {
            "master" => (
                format!(
                    "[repos.core]\nurl = \"{OE_CORE}\"\nbranch = \"master\"\nlayers = [\"meta\"]\n\
                     [repos.bitbake]\nurl = \"{BITBAKE}\"\nbranch = \"master\"\n"
                ),
                "nodistro",
            ),
            poky => (
                format!(
                    "[repos.poky]\nurl = \"{POKY}\"\nbranch = \"{poky}\"\nlayers = [\"meta\", \"meta-poky\"]\n"
                ),
                "poky",
            ),
        };
        let text = format!(
            "version = 1\nname = \"changed\"\nrelease = \"{release}\"\n{repos}\
             [config]\nmachines = [\"qemux86-64\"]\ndistro = \"{distro}\"\nlocal_conf = '''{NARROW_WORLD}{conf}'''\n\
             [check]\nyocto_check_layer = false\nmax_parallel_bitbakes = 2\n[build]\nchanged = true\n"
        );
        std::fs::write(self.layer("build-agent.toml"), text).unwrap();
    }

    pub fn layer(&self, path: &str) -> PathBuf {
        self.0.layer().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.layer(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn append(&self, path: &str, text: &str) {
        let old = std::fs::read_to_string(self.layer(path)).unwrap();
        self.write(path, &(old + text));
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.layer(from), self.layer(to)).unwrap();
    }

    /// The result for a commit on top of the base with this edit.
    pub fn affected(&self, edit: impl Fn(&Changed)) -> Value {
        git(&self.0.layer(), ["reset", "--quiet", "--hard", "base"]);
        git(&self.0.layer(), ["clean", "--quiet", "-dfx"]);
        edit(self);
        commit(&self.0.layer(), "Change");
        self.0.call(&["run", "--base", "base"]);
        self.0.result()["affected"].clone()
    }
}

/// The lists that are not empty, each with the names in it.
fn lists(affected: &Value) -> BTreeMap<String, String> {
    let name = |entry: &Value| match entry {
        Value::Array(pair) => format!("{}>{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        Value::String(name) => name.clone(),
        object => object["name"].as_str().unwrap().to_owned(),
    };
    let mut lists = BTreeMap::new();
    for key in [
        "recipes",
        "elsewhere",
        "removed",
        "renamed",
        "newly_skipped",
        "no_longer_skipped",
        "not_buildable",
        "targets",
    ] {
        let names: Vec<String> = affected[key].as_array().into_iter().flatten().map(name).collect();
        if !names.is_empty() {
            lists.insert(key.to_owned(), names.join(" "));
        }
    }
    if affected["evidence"]["by"] != "signatures" {
        lists.insert("evidence".to_owned(), affected["evidence"]["by"].as_str().unwrap_or("none").to_owned());
    }
    lists
}

type Edit = fn(&Changed);
/// A change, the expected lists, and a part of the first cause.
type Case<'a> = (&'a str, Edit, &'a [(&'a str, &'a str)], &'a str);

fn check(changed: &Changed, cases: &[Case]) {
    for (name, edit, wanted, cause) in cases {
        let affected = changed.affected(edit);
        let wanted: BTreeMap<String, String> =
            wanted.iter().map(|(key, names)| ((*key).to_owned(), (*names).to_owned())).collect();
        assert_eq!(lists(&affected), wanted, "{name}: {affected:#}");
        let first = &affected["roots"][0];
        let told =
            format!("{}: {}", first["recipe"].as_str().unwrap_or(""), first["cause"].as_str().unwrap_or(""));
        assert!(told.contains(cause), "{name}: {cause:?} is not in {told:?}: {affected:#}");
    }
}

const PATCH: Case = (
    "a file of a recipe",
    |changed| changed.write("recipes-x/alpha/files/alpha.txt", "2\n"),
    &[("recipes", "alpha alpha-native beta")],
    "the file `recipes-x/alpha/files/alpha.txt` changed",
);

#[test]
fn what_a_change_affects_is_found_by_signatures() {
    let test = "what_a_change_affects_is_found_by_signatures";
    let Some(changed) = Changed::new(test, "scarthgap") else { return };
    let readme: Edit = |changed| changed.append("README.md", "More for people.\n");
    check(
        &changed,
        &[
            PATCH,
            ("documentation", readme, &[], ""),
            (
                "an include that two files share, and a recipe that the world leaves out",
                |changed| {
                    changed.write("recipes-x/alone/files/alone.txt", "2\n");
                    changed.append("recipes-x/gamma/gamma.inc", "FROM_INC = \"2\"\n");
                },
                &[("recipes", "alone gamma")],
                "changed",
            ),
        ],
    );
    // The base is in the cache; BitBake runs only for the head.
    let affected = changed.affected(|changed| {
        changed.append("recipes-x/delta/delta_1.0.bb", "COMPATIBLE_MACHINE = \"none\"\n");
    });
    assert_eq!(lists(&affected), [("newly_skipped".to_owned(), "delta".to_owned())].into());
    let reason = affected["newly_skipped"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("incompatible with machine qemux86-64"), "{reason}");
    let result = changed.0.result();
    let unit =
        result["units"].as_array().unwrap().iter().find(|unit| unit["name"] == "what the change affects");
    let outcomes: Vec<&str> = unit.unwrap()["memo"]
        .as_array()
        .unwrap()
        .iter()
        .map(|memo| memo["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["hit", "miss"], "{unit:?}");
}

/// A layer whose native variants lack dependencies is usual: BitBake reports errors in each query, and its parse cache
/// serves the next job all the same.
#[test]
fn a_missing_provider_does_not_cost_the_parse_cache() {
    let test = "a_missing_provider_does_not_cost_the_parse_cache";
    let Some(changed) = Changed::new(test, "scarthgap") else { return };
    changed.write("recipes-x/lacking/lacking_1.0.bb", &recipe("DEPENDS = \"no-such-recipe\"\n"));
    commit(&changed.0.layer(), "A recipe that nothing can build");
    for (number, wanted) in [(1, None), (2, Some(1))] {
        changed.append("recipes-x/foo/foo_2.bb", &format!("SUMMARY = \"{number}\"\n"));
        commit(&changed.0.layer(), "Change");
        changed.0.call(&["run", "--trusted", "--base", "HEAD^"]);
        let result = changed.0.result();
        let affected = &result["affected"];
        assert_eq!(affected["evidence"]["by"], "signatures", "{affected:#}");
        let units = result["units"].as_array().unwrap();
        let unit = units.iter().find(|unit| unit["name"] == "what the change affects").unwrap();
        let parsed =
            unit["memo"].as_array().unwrap().iter().find_map(|query| query["recipes"]["parsed"].as_u64());
        assert!(wanted.is_none_or(|wanted| parsed == Some(wanted)), "job {number}: {unit:#}");
    }
}

/// Every kind of change.
const ALL: [Case; 19] = [
    PATCH,
    (
        "a recipe",
        |changed| changed.append("recipes-x/delta/delta_1.0.bb", "do_deploy:append() {\n    :\n}\n"),
        &[("recipes", "delta")],
        "delta",
    ),
    (
        "an append",
        |changed| {
            changed.write("recipes-x/alpha/alpha_%.bbappend", "do_deploy:append() {\n    :\n}\n");
        },
        &[("recipes", "alpha alpha-native beta")],
        "alpha",
    ),
    (
        "a class",
        |changed| changed.append("classes/own.bbclass", "OWN = \"2\"\n"),
        &[("recipes", "delta")],
        "delta",
    ),
    (
        "a class for everything",
        |changed| {
            changed.write("classes/every.bbclass", "do_deploy[vardeps] += \"EVERY\"\nEVERY = \"1\"\n");
            changed.append("conf/layer.conf", "INHERIT += \"every\"\n");
        },
        &[("recipes", "alone alpha alpha-native always beta delta dynamic foo gamma thing")],
        "",
    ),
    (
        "a preferred version",
        |changed| changed.append("conf/layer.conf", "PREFERRED_VERSION_foo = \"1\"\n"),
        &[("recipes", "foo")],
        "foo",
    ),
    (
        "a recipe below dynamic-layers",
        |changed| {
            let path = "dynamic-layers/core/recipes-y/dynamic/dynamic_1.0.bb";
            changed.append(path, "do_deploy:append() {\n    :\n}\n");
        },
        &[("recipes", "dynamic")],
        "dynamic",
    ),
    (
        "a provider of something virtual",
        |changed| changed.append("recipes-x/virtual/thing_1.0.bb", "do_deploy:append() {\n    :\n}\n"),
        &[("recipes", "thing")],
        "thing",
    ),
    (
        "a task that always runs",
        |changed| changed.append("recipes-x/always/always_1.0.bb", "do_deploy:append() {\n    :\n}\n"),
        &[("recipes", "always")],
        "always",
    ),
    (
        "a new recipe",
        |changed| changed.write("recipes-x/new/new_1.0.bb", &recipe("")),
        &[("recipes", "new")],
        "is new",
    ),
    (
        "a removed recipe that another one needs",
        |changed| std::fs::remove_dir_all(changed.layer("recipes-x/alpha")).unwrap(),
        &[("recipes", "beta"), ("removed", "alpha alpha-native")],
        "",
    ),
    (
        "a renamed recipe",
        |changed| changed.rename("recipes-x/delta/delta_1.0.bb", "recipes-x/delta/epsilon_1.0.bb"),
        &[("recipes", "epsilon"), ("renamed", "delta>epsilon")],
        "epsilon: the recipe is new",
    ),
    (
        "a new version",
        |changed| changed.rename("recipes-x/delta/delta_1.0.bb", "recipes-x/delta/delta_1.1.bb"),
        &[("recipes", "delta")],
        "delta",
    ),
    (
        "a recipe that is skipped on both sides",
        |changed| {
            changed.append("recipes-x/never/never_1.0.bb", "X = \"1\"\n");
        },
        &[("not_buildable", "never")],
        "",
    ),
    (
        "a recipe that is not skipped any more",
        |changed| changed.append("recipes-x/never/never_1.0.bb", "COMPATIBLE_MACHINE = \".*\"\n"),
        &[("no_longer_skipped", "never"), ("recipes", "never")],
        "",
    ),
    (
        "a machine's configuration in the layer",
        |changed| changed.write("conf/machine/unused.conf", "require conf/machine/qemux86-64.conf\n"),
        &[],
        "",
    ),
    ("a license of the layer", |changed| changed.write("LICENSE", "2\n"), &[], ""),
    (
        "the lock of the other layers",
        |changed| changed.write("build-agent.lock", "version = 1\n"),
        // The rules of a change are those of its base, so its lock has no effect.
        &[],
        "",
    ),
    (
        "a file of the tests of images",
        |changed| changed.write("lib/oeqa/runtime/cases/own.py", "pass\n"),
        &[],
        "",
    ),
];

fn all_cases(test: &str, release: &str) {
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(changed) = Changed::new(test, release) else { return };
    check(&changed, &ALL);
}

#[test]
fn every_kind_of_change_is_found_on_scarthgap() {
    all_cases("every_kind_of_change_is_found_on_scarthgap", "scarthgap");
}

#[test]
fn every_kind_of_change_is_found_on_kirkstone() {
    all_cases("every_kind_of_change_is_found_on_kirkstone", "kirkstone");
}

#[test]
fn every_kind_of_change_is_found_on_master() {
    all_cases("every_kind_of_change_is_found_on_master", "master");
}

/// A base that does not parse has no signatures: the files decide, and the report has the reason.
#[test]
fn without_signatures_the_files_decide() {
    let test = "without_signatures_the_files_decide";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(changed) = Changed::new(test, "scarthgap") else { return };
    let good = std::fs::read_to_string(changed.layer("recipes-x/delta/delta_1.0.bb")).unwrap();
    changed.append("recipes-x/delta/delta_1.0.bb", "this is no recipe\n");
    commit(&changed.0.layer(), "Break");
    git(&changed.0.layer(), ["tag", "--force", "base"]);
    let affected = changed.affected(|changed| changed.write("recipes-x/delta/delta_1.0.bb", &good));
    let wanted = [("evidence", "files"), ("recipes", "delta")];
    assert_eq!(lists(&affected), wanted.map(|(key, names)| (key.to_owned(), names.to_owned())).into());
    let why = affected["evidence"]["why"].as_str().unwrap();
    assert!(why.contains("cannot get the tasks of the base"), "{why}");
}

/// Multiconfigs and multilibs have recipes of their own.
#[test]
fn variants_of_recipes_are_affected_as_well() {
    let test = "variants_of_recipes_are_affected_as_well";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(changed) = Changed::new(test, "scarthgap") else { return };
    changed
        .write("conf/multiconfig/other.conf", "MACHINE = \"qemuarm64\"\nTMPDIR = \"${TOPDIR}/tmp-other\"\n");
    changed.write_manifest("scarthgap", "BBMULTICONFIG = \"other\"\n");
    commit(&changed.0.layer(), "Several configurations");
    git(&changed.0.layer(), ["tag", "--force", "base"]);
    let affected = changed.affected(|changed| changed.append("classes/own.bbclass", "OWN = \"2\"\n"));
    let wanted = [("recipes".to_owned(), "delta mc:other:delta".to_owned())].into();
    assert_eq!(lists(&affected), wanted, "{affected:#}");
    let multilib = "require conf/multilib.conf\nMULTILIBS = \"multilib:lib32\"\nDEFAULTTUNE:virtclass-multilib-lib32 = \"x86\"\n";
    changed.write_manifest("scarthgap", multilib);
    commit(&changed.0.layer(), "Multilib");
    git(&changed.0.layer(), ["tag", "--force", "base"]);
    let affected = changed.affected(|changed| changed.append("classes/own.bbclass", "OWN = \"3\"\n"));
    let wanted = [("recipes".to_owned(), "delta lib32-delta".to_owned())].into();
    assert_eq!(lists(&affected), wanted, "{affected:#}");
}
