//! Cached results with real BitBake: after each change, the fast verdict is the plain one, test by test and message
//! by message. The world has three recipes without dependencies, so a whole check takes seconds.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use build_agent_tests::{cannot_run_parallel, commit, copy_tree, git, is_left_to_the_long_run, skip};
use serde_json::Value;

use crate::fixture::Fixture;
use crate::{BITBAKE, OE_CORE, POKY};

/// Only the classes and the configuration of OE-Core.
const NARROW_WORLD: &str = r#"
BBMASK = "/meta/recipes- /meta-poky/recipes-"
ASSUME_PROVIDED += "virtual/fakeroot-native quilt-native patch-replacement-native"
"#;

/// `meta-deploy`, which depends on a layer with one recipe.
pub struct Narrow(pub Fixture);

impl Narrow {
    pub fn new(test: &str) -> Option<Narrow> {
        Narrow::with(test, &[POKY])
    }

    pub fn with(test: &str, addresses: &[&str]) -> Option<Narrow> {
        if let Some(reason) = cannot_run_parallel(2) {
            skip(test, &reason);
            return None;
        }
        let narrow = Narrow(Fixture::new(test, "meta-deploy", addresses)?);
        copy_tree(&narrow.0.layer(), &narrow.base(""));
        for left_out in [".git", "recipes-fixture/deploy-image", "build-agent.toml"] {
            let path = narrow.base(left_out);
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap()
            } else {
                std::fs::remove_file(path).unwrap()
            }
        }
        let recipe = narrow.base("recipes-fixture/deploy-files/deploy-files_1.0.bb");
        std::fs::rename(recipe, narrow.base("recipes-fixture/deploy-files/base-files_1.0.bb")).unwrap();
        let files = narrow.base("recipes-fixture/deploy-files/");
        std::fs::rename(files.join("deploy-files"), files.join("base-files")).unwrap();
        narrow.change("conf/layer.conf", &narrow.base(""), |text| {
            text.replace("fixture-deploy", "fixture-base")
        });
        git(&narrow.base(""), ["init", "--quiet", "--initial-branch", "main"]);
        commit(&narrow.base(""), "Begin");
        narrow.change("conf/layer.conf", &narrow.0.layer(), |text| {
            text.replace("= \"core\"", "= \"core fixture-base\"")
        });
        narrow.write_manifest("");
        Some(narrow)
    }

    pub fn write_manifest(&self, more: &str) {
        self.write_manifest_for("scarthgap", more, "");
    }

    /// `check` is added to `[check]`.
    pub fn write_manifest_for(&self, release: &str, more: &str, check: &str) {
        // Independent of the number of processors.
        let most = if check.contains("max_parallel_bitbakes") { "" } else { "max_parallel_bitbakes = 2\n" };
        let (repos, distro) = match release {
            "master" => {
                let core =
                    format!("[repos.core]\nurl = \"{OE_CORE}\"\nbranch = \"master\"\nlayers = [\"meta\"]\n");
                (core + &format!("[repos.bitbake]\nurl = \"{BITBAKE}\"\nbranch = \"master\"\n"), "nodistro")
            }
            poky => (
                format!(
                    "[repos.poky]\nurl = \"{POKY}\"\nbranch = \"{poky}\"\nlayers = [\"meta\", \"meta-poky\"]\n"
                ),
                "poky",
            ),
        };
        let text = format!(
            "version = 1\nname = \"meta-deploy\"\nrelease = \"{release}\"\n{repos}\
             [repos.base]\npath = \"../meta-base\"\nlayers = [\".\"]\n\
             [config]\nmachines = [\"qemux86-64\"]\ndistro = \"{distro}\"\nlocal_conf = '''{NARROW_WORLD}{more}'''\n\
             [check]\nbitbake_layers = []\nyocto_check_layer = true\n{most}{check}"
        );
        std::fs::write(self.layer("build-agent.toml"), text).unwrap();
    }

    fn base(&self, path: &str) -> PathBuf {
        self.0.directory.path().join("meta-base").join(path)
    }

    pub fn layer(&self, path: &str) -> PathBuf {
        self.0.layer().join(path)
    }

    pub fn change(&self, file: &str, directory: &std::path::Path, how: impl Fn(String) -> String) {
        let path = directory.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = how(text.clone());
        assert_ne!(text, changed, "{}", path.display());
        std::fs::write(path, changed).unwrap();
    }

    pub fn recipe(&self, text: &str) {
        let file = "recipes-fixture/deploy-files/deploy-files_1.0.bb";
        self.change(file, &self.0.layer(), |old| old + text);
    }

    #[track_caller]
    pub fn run(&self, words: &[&str], code: i32) -> Value {
        self.0.call(&[&["run"], words].concat()).assert_code(&[code]);
        self.0.result()
    }
}

/// The tests with outcome and message. Paths, numbers and hashes in messages are the same, because both runs use the
/// same directory.
pub fn test_results(result: &Value) -> Vec<String> {
    let units = result["units"].as_array().unwrap();
    let cases = units.iter().filter_map(|unit| unit["cases"].as_array()).flatten();
    let mut test_results: Vec<String> = cases
        .map(|case| {
            format!(
                "{} {} {}",
                case["name"],
                case["outcome"],
                without_display_lines(case["message"].as_str().unwrap_or(""))
            )
        })
        .collect();
    test_results.sort();
    assert!(test_results.len() >= 13, "{test_results:#?}");
    test_results
}

/// Removes the lines of BitBake's display, which differ between two plain runs as well.
fn without_display_lines(message: &str) -> String {
    let display = ["Loaded ", "Loading cache", "Parsing ", "Initialising", "NOTE: ", "done."];
    let is_display = |line: &&str| display.iter().any(|word| line.trim_start().starts_with(word));
    message.lines().filter(|line| !is_display(line)).collect::<Vec<_>>().join("\n")
}

pub fn outcomes(result: &Value) -> Vec<&str> {
    let units = result["units"].as_array().unwrap();
    let queries = units.iter().filter_map(|unit| unit["memo"].as_array()).flatten();
    queries.map(|query| query["outcome"].as_str().unwrap()).collect()
}

type Change = fn(&Narrow);

/// The rows that always run. Each row continues from the state after the earlier ones.
const SHORT_TABLE: [&str; 4] =
    ["nothing", "signature of another layer's recipe", "bbappend to nothing", "recipe that does not parse"];

#[test]
fn every_change_gives_the_plain_verdict() {
    let Some(narrow) = Narrow::new("every_change_gives_the_plain_verdict") else { return };
    let first = narrow.run(&[], 0);
    assert_eq!(outcomes(&first), ["miss", "ahead", "ahead", "ahead", "ahead"]);
    assert_eq!(test_results(&first), test_results(&narrow.run(&["--no-signature-cache"], 0)));
    let all = ["hit"; 5];
    let base = ["hit", "ahead", "ahead", "ahead", "ahead"];
    let none = ["miss", "ahead", "ahead", "ahead", "ahead"];
    // The worlds without and with the layer again, each computed by BitBake itself.
    let repeated = [base, ["miss", "hit", "miss", "hit", "hit"]].concat();
    // A prefetch that fails has failed in this run, so its result gives the verdict.
    let failed = base;
    // The name, the change, the exit status, the outcomes of the queries.
    let table: [(&str, Change, i32, &[&str]); 13] = [
        ("nothing", |_| {}, 0, &all),
        ("recipe", |n| n.recipe("A = \"1\"\n"), 0, &base),
        (
            "recipe removed",
            |n| std::fs::remove_dir_all(n.layer("recipes-fixture/deploy-image")).unwrap(),
            0,
            &base,
        ),
        (
            "mode",
            |n| {
                let path = n.layer("recipes-fixture/deploy-files/deploy-files/notes.txt");
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            },
            0,
            &base,
        ),
        (
            "link to a recipe",
            |n| {
                let files = n.layer("recipes-fixture/deploy-files");
                symlink("deploy-files_1.0.bb", files.join("linked_1.0.bb")).unwrap();
                symlink("deploy-files", files.join("linked")).unwrap();
            },
            0,
            &base,
        ),
        (
            "class",
            |n| {
                std::fs::create_dir(n.layer("classes")).unwrap();
                std::fs::write(n.layer("classes/x.bbclass"), "B = \"1\"\n").unwrap();
                n.recipe("inherit x\n");
            },
            0,
            &base,
        ),
        ("layer.conf", |n| n.change("conf/layer.conf", &n.0.layer(), |text| text + "X = \"1\"\n"), 0, &base),
        (
            "signature of another layer's recipe",
            |n| {
                let append = "do_unpack:append() {\n    true\n}\n";
                std::fs::write(n.layer("recipes-fixture/deploy-files/base-files_%.bbappend"), append)
                    .unwrap();
            },
            1,
            &repeated,
        ),
        (
            "bbappend to nothing",
            |n| {
                let files = n.layer("recipes-fixture/deploy-files");
                std::fs::rename(files.join("base-files_%.bbappend"), files.join("nothing_%.bbappend"))
                    .unwrap();
            },
            1,
            &failed,
        ),
        (
            "recipe that does not parse",
            |n| {
                std::fs::remove_file(n.layer("recipes-fixture/deploy-files/nothing_%.bbappend")).unwrap();
                std::fs::write(n.layer("recipes-fixture/deploy-files/broken_1.0.bb"), "this is no recipe\n")
                    .unwrap();
            },
            1,
            &failed,
        ),
        (
            "uncommitted change of a dependency",
            |n| {
                std::fs::remove_file(n.layer("recipes-fixture/deploy-files/broken_1.0.bb")).unwrap();
                n.change("recipes-fixture/deploy-files/base-files_1.0.bb", &n.base(""), |old| {
                    old + "A = \"1\"\n"
                });
            },
            0,
            &none,
        ),
        ("local.conf", |n| n.write_manifest("X = \"1\"\n"), 0, &none),
        ("nothing again", |_| {}, 0, &all),
    ];
    let rows_left_out =
        is_left_to_the_long_run("every_change_gives_the_plain_verdict: rows beyond the short table");
    for (name, change, code, expected) in table {
        if rows_left_out && !SHORT_TABLE.contains(&name) {
            continue;
        }
        println!("{name}");
        change(&narrow);
        let fast = narrow.run(&[], code);
        let plain = narrow.run(&["--no-signature-cache"], code);
        assert_eq!(test_results(&fast), test_results(&plain), "{name}");
        assert_eq!(fast["outcome"], plain["outcome"], "{name}");
        assert_eq!(outcomes(&fast), expected, "{name}");
        let differs = name.starts_with("signature");
        let explained =
            test_results(&fast).iter().any(|case| case.contains("Variable do_unpack value changed"));
        assert_eq!(explained, differs, "{name}: {:#?}", test_results(&fast));
    }
}

/// The server is a local directory, but BitBake still runs `git ls-remote`.
#[test]
fn an_autorev_recipe_is_detected() {
    let test = "an_autorev_recipe_is_detected";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(narrow) = Narrow::new(test) else { return };
    let source = narrow.0.directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    git(&source, ["init", "--quiet", "--initial-branch", "main"]);
    commit(&source, "Begin");
    for (revision, kind) in [("${AUTOREV}", "AUTOREV"), ("main", "branch")] {
        let recipe = narrow.layer(&format!("recipes-fixture/deploy-files/{}_1.0.bb", kind.to_lowercase()));
        let text = std::fs::read_to_string(narrow.layer("recipes-fixture/deploy-files/deploy-files_1.0.bb"))
            .unwrap();
        let uri = format!("SRC_URI = \"git://{};protocol=file;branch=main\"", source.display());
        let text = text.replace("SRC_URI = \"file://notes.txt;subdir=${BP}\"", &uri);
        assert!(text.contains("git://"));
        std::fs::write(&recipe, format!("{text}\nSRCREV = \"{revision}\"\n")).unwrap();
        for _ in 0..2 {
            let result = narrow.0.call(&["run"]);
            assert!(result.code.is_some());
            let result = narrow.0.result();
            let outcomes = outcomes(&result);
            assert!(outcomes[1..].iter().all(|outcome| *outcome != "hit"), "{kind}: {outcomes:?}");
            assert!(result.to_string().contains("asks a server"), "{kind}: {result:#}");
        }
        std::fs::remove_file(recipe).unwrap();
    }
}

const COLD: [&str; 5] = ["miss", "ahead", "ahead", "ahead", "ahead"];

/// `-S none`, other directories of caches, and BitBake beside OE-Core.
#[test]
fn the_cache_works_for_other_releases() {
    let test = "the_cache_works_for_other_releases";
    if is_left_to_the_long_run(test) {
        return;
    }
    for release in ["kirkstone", "master"] {
        let Some(narrow) = Narrow::with(test, &[POKY, OE_CORE, BITBAKE]) else { return };
        println!("{release}");
        narrow.write_manifest_for(release, "", "");
        let cold = narrow.run(&[], 0);
        assert_eq!(outcomes(&cold), COLD, "{release}");
        let again = narrow.run(&[], 0);
        assert_eq!(outcomes(&again), ["hit"; 5], "{release}");
        let plain = narrow.run(&["--no-signature-cache"], 0);
        assert_eq!(
            [test_results(&cold), test_results(&again)],
            [test_results(&plain), test_results(&plain)],
            "{release}"
        );
    }
}

#[test]
fn each_machine_of_a_layer_is_queried_once() {
    let test = "each_machine_of_a_layer_is_queried_once";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(narrow) = Narrow::new(test) else { return };
    std::fs::create_dir(narrow.layer("conf/machine")).unwrap();
    for machine in ["one", "two"] {
        let text = "require conf/machine/qemux86-64.conf\n";
        std::fs::write(narrow.layer(&format!("conf/machine/fixture-{machine}.conf")), text).unwrap();
    }
    let machines = "machines = [\"fixture-one\", \"fixture-two\"]\n";
    narrow.write_manifest_for("scarthgap", "", machines);
    let cold = narrow.run(&[], 0);
    let four_of_machines = ["ahead"; 4];
    assert_eq!(outcomes(&cold), [&COLD[..1], &four_of_machines, &COLD[1..]].concat());
    assert_eq!(test_results(&cold), test_results(&narrow.run(&["--no-signature-cache"], 0)));
    std::fs::write(narrow.layer("conf/machine/fixture-two.conf"), "require conf/machine/qemuarm64.conf\n")
        .unwrap();
    let changed = narrow.run(&[], 0);
    assert_eq!(outcomes(&changed), [&["hit"], &outcomes(&cold)[1..]].concat());
    assert_eq!(test_results(&changed), test_results(&narrow.run(&["--no-signature-cache"], 0)));
}
