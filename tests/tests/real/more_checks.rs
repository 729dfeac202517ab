//! Checks beside yocto-check-layer, with the real tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{BUILD_USER, Part, cases, commit, skip_without};
use serde_json::Value;

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD};

/// A manifest of meta-good with these checks alone.
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
    fixture.call(&["run", "--set", &format!("config.local_conf={NARROW_BUILD}")])
}

/// What patchreview of OE-Core says of each patch is what the check says of it, for all three tags.
#[test]
fn patches_are_judged_as_by_patchreview() {
    let test = "patches_are_judged_as_by_patchreview";
    let Some(fixture) = Fixture::new(test, "meta-good", &[POKY]) else { return };
    checks(&fixture, "patches = 'all'");
    let texts = [
        "",
        "Upstream-Status: Pending\n",
        "Upstream-Status: Pending \n",
        "Upstream-Status: Backport [https://x]\nSigned-off-by: A <a@b>\n",
        "Upstream-Status: Backport[https://x]\n",
        "upstream-status: pending\n",
        "Upstream Status: Pending\n",
        "Upstream-Status: Accepted\n",
        "Upstream-Status: Foo\nUpstream-Status: Pending\n",
        "+Upstream-Status: Pending\n",
        "Upstream-Status:\n",
        "\tUpstream-Status: Denied\n",
        "Upstream-Status: Inactive-Upstream [x]\r\nSigned-Off-By: A\r\n",
        "Fixes CVE-2024-12345\nUpstream-Status: Submitted\n",
        "Fixes CVE-2024-12345\nCVE: CVE-2024-12345\nUpstream-Status: Submitted\n",
        "Signed off by A\n",
        "Signed-off-by:\n",
        "\u{e9}\nUpstream-Status: P\u{e9}nding\n",
    ];
    for (number, text) in texts.iter().enumerate() {
        write(&fixture, &format!("recipes-fixture/patches/files/{number:02}.patch"), text);
    }
    commit(&fixture.layer(), "Add patches");
    narrow(&fixture).assert_code(&[1]);
    let words = [
        ("upstream-status-missing", "Missing Upstream-Status tag"),
        ("upstream-status-malformed", "Malformed Upstream-Status"),
        ("upstream-status-unknown", "Unknown Upstream-Status"),
        ("signed-off-by-missing", "Missing Signed-off-by tag"),
        ("signed-off-by-malformed", "Malformed Signed-off-by"),
        ("patch-cve-tag", "Missing CVE tag"),
    ];
    let script = oe_core(&fixture).join("scripts/contrib/patchreview.py");
    let mut review = Command::new("/usr/bin/python3");
    review.args(["-B", script.to_str().unwrap(), "--verbose"]).arg(fixture.layer());
    review
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*");
    let output = review.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = fixture.result();
    let findings = result["findings"].as_array().unwrap();
    for (number, text) in texts.iter().enumerate() {
        let name = format!("{number:02}.patch");
        let lines: Vec<&str> = said.lines().filter(|line| line.ends_with(&format!("/{name})"))).collect();
        let has = |rule: &str| {
            let of_patch = |one: &&Value| one["file"].as_str().is_some_and(|file| file.ends_with(&name));
            findings.iter().filter(of_patch).any(|one| one["rule"] == rule)
        };
        let wrong_status = |found: &dyn Fn(usize) -> bool| found(1) || found(2);
        let by_script = |index: usize| lines.iter().any(|line| line.starts_with(words[index].1));
        let by_agent = |index: usize| has(words[index].0);
        for index in [0, 3, 4, 5] {
            assert_eq!(by_agent(index), by_script(index), "{text:?} {}: {lines:?}", words[index].0);
        }
        // The script of scarthgap looks only at the tag and its first word; the form is that of newer ones.
        if wrong_status(&by_script) {
            assert!(wrong_status(&by_agent), "{text:?}: {lines:?}");
        }
    }
}

fn oe_core(fixture: &Fixture) -> PathBuf {
    let work = fixture.directory.path().join("work");
    let links = std::fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().path());
    let repos = links.map(|path| path.join("repos/poky")).find(|path| path.exists());
    repos.expect("the checkout of poky").canonicalize().unwrap()
}

#[test]
fn recipes_parse_for_real_machines() {
    let test = "recipes_parse_for_real_machines";
    let Some(fixture) = Fixture::new(test, "meta-good", &[POKY]) else { return };
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

#[test]
fn an_upgrade_that_brings_a_cve_fails() {
    let test = "an_upgrade_that_brings_a_cve_fails";
    let Some(fixture) = Fixture::new(test, "meta-good", &[POKY]) else { return };
    let database = database(&fixture);
    checks(&fixture, &format!("cve = 'changed'\ncve_database = '{}'", database.display()));
    commit(&fixture.layer(), "Ask for CVEs");
    let directory = "recipes-fixture/greeting";
    let recipe = |version: &str| fixture.layer().join(format!("{directory}/greeting_{version}.bb"));
    // What is known stays known.
    let text = std::fs::read_to_string(recipe("1.0")).unwrap();
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
