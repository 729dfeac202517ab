//! Checks beside yocto-check-layer, with the real tools.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{BUILD_USER, Part, cases, commit, skip_without};
use serde_json::Value;

use crate::fixture::{Fixture, NARROW_BUILD};
use crate::{OE_CORE, POKY};

const META_OE: &str = "https://github.com/openembedded/meta-openembedded";

/// A manifest of meta-good with only these checks.
fn checks(fixture: &Fixture, text: &str) {
    let manifest = std::fs::read_to_string(fixture.layer().join("build-agent.toml")).unwrap();
    let without: Vec<&str> = manifest.split("\n[check]").collect();
    let rest = without.get(1).and_then(|rest| rest.split_once("\n[")).map(|(_, rest)| format!("\n[{rest}"));
    let text =
        format!("{}\n[check]\nyocto_check_layer = false\n{text}\n{}", without[0], rest.unwrap_or_default());
    std::fs::write(fixture.layer().join("build-agent.toml"), text).unwrap();
}

fn write(fixture: &Fixture, name: &str, text: &str) {
    let path = fixture.layer().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn rules(result: &Value, level: &str) -> Vec<String> {
    let all = result["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == level);
    all.map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

fn narrow(fixture: &Fixture) -> build_agent_tests::Ran {
    // An absolute path in the configuration would keep the stored parse caches out of use.
    let conf = NARROW_BUILD.replace("/meta/", "meta/").replace("/meta-poky/", "meta-poky/");
    fixture.call(&["run", "--trusted", "--set", &format!("config.local_conf={conf}")])
}

/// The faults of a patch: by the messages of the script, and by the rules of the agent. A malformed and an unknown status
/// count as one fault.
const WORDS: [(&str, &str, &[&str]); 5] = [
    ("missing status", "Missing Upstream-Status tag", &["upstream-status-missing"]),
    (
        "wrong status",
        "Malformed Upstream-Status|Unknown Upstream-Status",
        &["upstream-status-malformed", "upstream-status-unknown"],
    ),
    ("missing sign-off", "Missing Signed-off-by tag", &["signed-off-by-missing"]),
    ("wrong sign-off", "Malformed Signed-off-by", &["signed-off-by-malformed"]),
    ("missing CVE", "Missing CVE tag", &["patch-cve-tag"]),
];

/// By the path in the checkout.
type Verdicts = BTreeMap<String, BTreeSet<&'static str>>;

pub fn clone(address: &str, branch: &str, directory: &Path) {
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--depth", "1", "--branch", branch, address]).arg(directory);
    assert!(git.status().unwrap().success(), "{git:?}");
}

/// The verdicts of the newest patchreview on the patches.
fn by_patchreview(fixture: &Fixture, checkout: &Path) -> Verdicts {
    let core = fixture.directory.path().join("openembedded-core");
    clone(OE_CORE, "master", &core);
    let mut review = Command::new("/usr/bin/python3");
    review.arg("-B").arg(core.join("scripts/contrib/patchreview.py")).arg("--verbose").arg(checkout);
    let any_owner =
        [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")];
    let output = review.envs(any_owner).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut verdicts = Verdicts::new();
    let mut word = None;
    for line in text.lines() {
        let found =
            WORDS.iter().find(|(_, starts, _)| starts.split('|').any(|start| line.starts_with(start)));
        word = found.map(|(word, ..)| *word).or(word);
        // A message of several lines names the patch at its end.
        let path = line.rsplit_once('(').and_then(|(_, path)| path.strip_suffix(')')).map(Path::new);
        let file = path.and_then(|path| path.strip_prefix(checkout).ok());
        if let (Some(file), Some(word)) = (file, word) {
            verdicts.entry(file.display().to_string()).or_default().insert(word);
        }
    }
    verdicts
}

fn by_agent(result: &Value) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for finding in result["findings"].as_array().unwrap() {
        let rule = finding["rule"].as_str().unwrap();
        let word = WORDS.iter().find(|(.., rules)| rules.contains(&rule));
        if let (Some((word, ..)), true) = (word, finding["unit"]["name"] == "patches") {
            verdicts.entry(finding["file"].as_str().unwrap().to_owned()).or_default().insert(word);
        }
    }
    verdicts
}

#[test]
fn patches_are_judged_as_by_patchreview() {
    let test = "patches_are_judged_as_by_patchreview";
    let Some(fixture) = Fixture::new(test, "meta-good", &[POKY, OE_CORE]) else { return };
    checks(&fixture, "patches = 'all'");
    let texts = [
        ("", "missing status"),
        ("Upstream-Status: Pending\n", ""),
        ("Upstream-Status: Pending \n", "wrong status"),
        ("Upstream-Status: Backport [https://x]\nSigned-off-by: A <a@b>\n", ""),
        ("Upstream-Status: Backport[https://x]\n", "wrong status"),
        ("upstream-status: pending\n", "wrong status"),
        ("Upstream Status: Pending\n", "wrong status"),
        ("Upstream-Status: Foo\nUpstream-Status: Pending\n", "wrong status"),
        ("Upstream-Status: Accepted\n", "wrong status"),
        ("+Upstream-Status: Pending\n", "missing status"),
        ("\tUpstream-Status: Denied\n", "wrong status"),
        ("Upstream-Status: Inactive-Upstream [x]\r\nSigned-Off-By: A\r\n", "wrong sign-off"),
        ("Fixes CVE-2024-12345\nUpstream-Status: Submitted\n", "missing CVE"),
        ("Fixes CVE-2024-12345\nCVE: CVE-2024-12345\nUpstream-Status: Submitted\n", ""),
        ("Signed off by A\n", "wrong sign-off"),
        ("\u{e9}\nUpstream-Status: P\u{e9}nding\n", "wrong status"),
    ];
    let name = |number: usize| format!("recipes-fixture/patches/files/{number:02}.patch");
    for (number, (text, _)) in texts.iter().enumerate() {
        write(&fixture, &name(number), text);
    }
    commit(&fixture.layer(), "Add patches");
    narrow(&fixture).assert_code(&[1]);
    let by_script = by_patchreview(&fixture, &fixture.layer());
    let by_agent = by_agent(&fixture.result());
    for (number, (text, wanted)) in texts.iter().enumerate() {
        let [script, agent] = [&by_script, &by_agent].map(|all| all.get(&name(number)).cloned());
        assert_eq!(agent, script, "{text:?}");
        let agent = agent.unwrap_or_default();
        assert!(wanted.is_empty() || agent.contains(wanted), "{text:?}: {agent:?}");
    }
}

/// The same for 2,700 patches that people wrote.
#[test]
fn patches_of_meta_openembedded_are_judged_as_by_patchreview() {
    let test = "patches_of_meta_openembedded_are_judged_as_by_patchreview";
    let Some(fixture) = Fixture::long(test, "meta-good", &[POKY, OE_CORE, META_OE]) else { return };
    let checkout = fixture.directory.path().join("meta-openembedded");
    clone(META_OE, "scarthgap", &checkout);
    let directories = std::fs::read_dir(&checkout).unwrap().map(|entry| entry.unwrap().path());
    let layers = directories.filter(|path| path.join("conf/layer.conf").exists());
    let mut layers: Vec<_> =
        layers.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    layers.sort();
    let manifest = std::fs::read_to_string(fixture.layer().join("build-agent.toml")).unwrap();
    let (head, _) = manifest.split_once("\n[check]").unwrap();
    let head = head.replace("paths = [\".\"]", &format!("paths = {layers:?}"));
    let text = format!("{head}\n[check]\nyocto_check_layer = false\npatches = 'all'\n");
    std::fs::write(checkout.join("build-agent.toml"), text).unwrap();
    fixture.call_in(&checkout, &["run", "--keep-going"]).assert_code(&[0, 1]);
    let by_script = by_patchreview(&fixture, &checkout);
    let mut by_agent = by_agent(&fixture.result());
    // The script does not look into dynamic-layers.
    by_agent.retain(|file, _| file.split('/').nth(1).is_some_and(|name| name.starts_with("recipes-")));
    assert!(by_script.len() > 100, "{}", by_script.len());
    assert_eq!(by_agent, by_script);
}

#[test]
fn recipes_parse_for_real_machines() {
    let test = "recipes_parse_for_real_machines";
    let Some(fixture) = Fixture::long(test, "meta-good", &[POKY]) else { return };
    checks(&fixture, "parse_machines = ['qemuarm64', 'no-such-board']");
    let ran = narrow(&fixture);
    ran.assert_code(&[1]);
    ran.assert_says(&["qemuarm64: 1 recipe file parsed"]);
    let result = fixture.result();
    let outcome = |unit: &str| {
        let units = result["units"].as_array().unwrap();
        units.iter().find(|one| one["name"] == unit).map(|one| one["outcome"].as_str().unwrap().to_owned())
    };
    assert_eq!(outcome("parse for qemuarm64").as_deref(), Some("passed"));
    assert_eq!(outcome("parse for no-such-board").as_deref(), Some("failed"));
    // Another job has an empty build directory, and finds what this one parsed.
    let ran = narrow(&fixture);
    ran.assert_code(&[1]);
    ran.assert_says(&["qemuarm64: 1 recipe taken from the parse cache"]);
    write(&fixture, "recipes-fixture/greeting/broken_1.0.bb", "SUMMARY = \"x\"\n\nthis is no metadata\n");
    let ran = narrow(&fixture);
    ran.assert_code(&[1]);
    ran.assert_says(&["broken_1.0.bb:3"]);
}

/// A database as `cve-update-nvd2-native` makes it, with one CVE of the fixture's recipe.
fn database(fixture: &Fixture) -> PathBuf {
    let path = fixture.directory.path().join("cve.db");
    let script = "import sqlite3, sys\n\
        c = sqlite3.connect(sys.argv[1])\n\
        c.execute('CREATE TABLE META (YEAR INTEGER UNIQUE, DATE TEXT)')\n\
        c.execute('CREATE TABLE NVD (ID TEXT UNIQUE, SUMMARY TEXT, SCOREV2 TEXT, SCOREV3 TEXT, SCOREV4 TEXT, MODIFIED INTEGER, VECTOR TEXT, VECTORSTRING TEXT)')\n\
        c.execute('CREATE TABLE PRODUCTS (ID TEXT, VENDOR TEXT, PRODUCT TEXT, VERSION_START TEXT, OPERATOR_START TEXT, VERSION_END TEXT, OPERATOR_END TEXT)')\n\
        for number, first, last in [('CVE-2024-1111', '1.0', '9.0'), ('CVE-2024-2222', '2.0', '9.0')]:\n    \
            c.execute('INSERT INTO NVD VALUES (?, ?, ?, ?, ?, ?, ?, ?)', (number, 'bad', '0.0', '9.8', '0.0', 0, 'NETWORK', 'x'))\n    \
            c.execute('INSERT INTO PRODUCTS VALUES (?, ?, ?, ?, ?, ?, ?)', (number, 'v', 'greeting', first, '>=', last, '<'))\n\
        c.commit()\n";
    let made = Command::new("/usr/bin/python3").args(["-c", script]).arg(&path).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    path
}

/// Lets a recipe depend on no native tool.
const WITHOUT_TOOLS: &str = "INHIBIT_DEFAULT_DEPS = \"1\"\n\
    PATCHDEPENDENCY = \"\"\n\
    PATCHDEPENDENCY:remove = \"patch-replacement-native:do_populate_sysroot\"\n\
    inherit nopackages\n\
    deltask do_configure\ndeltask do_compile\ndeltask do_install\ndeltask do_populate_sysroot\n";

#[test]
fn an_upgrade_that_brings_a_cve_fails() {
    let test = "an_upgrade_that_brings_a_cve_fails";
    let Some(fixture) = Fixture::long(test, "meta-good", &[POKY]) else { return };
    let database = database(&fixture);
    checks(&fixture, &format!("cve = 'changed'\ncve_database = '{}'", database.display()));
    let directory = "recipes-fixture/greeting";
    let recipe = |version: &str| fixture.layer().join(format!("{directory}/greeting_{version}.bb"));
    let text = std::fs::read_to_string(recipe("1.0")).unwrap() + WITHOUT_TOOLS;
    std::fs::write(recipe("1.0"), &text).unwrap();
    commit(&fixture.layer(), "Ask for CVEs");
    // What is known stays known.
    std::fs::write(recipe("1.0"), format!("{text}\n# edited\n")).unwrap();
    let ran = narrow(&fixture);
    ran.assert_code(&[0]);
    ran.assert_says(&["1 recipe checked for CVEs: 0 new, 1 as in the base"]);
    assert_eq!(rules(&fixture.result(), "warning"), ["cve-known"]);
    // Version 2.0 has another one.
    std::fs::rename(recipe("1.0"), recipe("2.0")).unwrap();
    let ran = narrow(&fixture);
    ran.assert_code(&[1]);
    ran.assert_says(&["new CVEs: greeting has CVE-2024-2222"]);
    assert_eq!(cases(&fixture.result()), [("greeting".to_owned(), "failed".to_owned())]);
    // A stated reason.
    let text = std::fs::read_to_string(recipe("2.0")).unwrap();
    let reason = "CVE_STATUS[CVE-2024-2222] = \"not-applicable-config: nothing is compiled\"\n";
    std::fs::write(recipe("2.0"), format!("{text}\n{reason}")).unwrap();
    narrow(&fixture).assert_code(&[0]);
}

/// oelint-adv of PyPI, in the virtual environment of the tests.
#[test]
fn oelint_finds_what_a_change_brings() {
    let test = "oelint_finds_what_a_change_brings";
    let venv = std::env::var_os("BUILD_AGENT_TEST_VENV").map(PathBuf::from).unwrap_or_default();
    let program = venv.join("bin/oelint-adv");
    let by_builder = || {
        Command::new("su")
            .args([BUILD_USER, "-s", "/bin/sh", "-c"])
            .arg(format!("{} --version", program.display()))
            .output()
    };
    let runs = Path::new(&program).is_file()
        && (!nix::unistd::geteuid().is_root() || by_builder().is_ok_and(|output| output.status.success()));
    if !runs {
        skip_without(
            Part::BitBake,
            test,
            "BUILD_AGENT_TEST_VENV has no oelint-adv that the build user can run",
        );
        return;
    }
    let Some(fixture) = Fixture::new(test, "meta-good", &[POKY]) else { return };
    checks(&fixture, "oelint = 'changed'");
    commit(&fixture.layer(), "Ask for oelint-adv");
    let recipe = fixture.layer().join("recipes-fixture/greeting/greeting_1.0.bb");
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, format!("{text}FOO:append:qemux86-64=\"x\"   \n")).unwrap();
    let line = text.lines().count() as u64 + 1;
    let mut command = build_agent_tests::agent();
    let path = format!("{}:{}", venv.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    command.current_dir(fixture.layer()).arg("run").env("PATH", path);
    command.arg("--work-dir").arg(fixture.directory.path().join("work")).arg("--out").arg(fixture.out());
    let ran = build_agent_tests::Running::start(command, fixture.directory.path())
        .wait_for(crate::fixture::TIMEOUT);
    ran.assert_code(&[0, 1]);
    let result = fixture.result();
    let found: Vec<(&str, u64)> = result["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["rule"].as_str().unwrap(), one["line"].as_u64().unwrap()))
        .collect();
    assert!(found.contains(&("oelint.spaces.lineend", line)), "{found:?}");
    assert!(found.iter().all(|(_, number)| *number == line), "{found:?}");
}

/// The templates of a layer with the real oe-init-build-env: a newcomer finds layers below and beside OE-Core.
#[test]
fn a_newcomer_uses_the_templates_of_a_layer() {
    let test = "a_newcomer_uses_the_templates_of_a_layer";
    let Some(fixture) = Fixture::new(test, "meta-good", &[POKY]) else { return };
    checks(&fixture, "");
    let conf =
        format!("MACHINE ??= \"qemux86-64\"\nDISTRO ?= \"poky\"\nCONF_VERSION = \"2\"\n{NARROW_BUILD}");
    write(&fixture, "conf/templates/default/local.conf.sample", &conf);
    write(&fixture, "conf/templates/default/conf-notes.txt", "Build something.\n");
    let layers = "LCONF_VERSION = \"7\"\nPOKY_BBLAYERS_CONF_VERSION = \"2\"\nBBPATH = \"${TOPDIR}\"\nBBFILES ?= \"\"\n\
                  BBLAYERS ?= \"##OEROOT##/meta ##OEROOT##/meta-poky @LAYER@\"\n";
    let run = |fixture: &Fixture| {
        commit(&fixture.layer(), "Templates");
        fixture.call(&["run", "--set", "config.templateconf=conf/templates/default"])
    };
    for layer in ["##OEROOT##/meta-good", "##OEROOT##/../meta-good"] {
        write(&fixture, "conf/templates/default/bblayers.conf.sample", &layers.replace("@LAYER@", layer));
        run(&fixture).assert_code(&[0]);
    }
    write(
        &fixture,
        "conf/templates/default/bblayers.conf.sample",
        &layers.replace("@LAYER@", "##OEROOT##/meta-gone"),
    );
    let ran = run(&fixture);
    ran.assert_code(&[1]);
    ran.assert_says(&["templateconf", "meta-gone"]);
}
