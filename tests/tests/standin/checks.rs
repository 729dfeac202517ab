//! The checks beside yocto-check-layer: patches, oelint-adv, parsing for machines, CVEs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use build_agent_tests::{Ran, Sandbox, cases, commit};
use serde_json::Value;

/// A job with only these checks.
fn checks(sandbox: &Sandbox, text: &str) {
    let manifest = sandbox.manifest_text();
    let (before, after) = manifest.split_once("[check]").unwrap();
    let (_, after) = after.split_once("\n[artifacts]").unwrap();
    sandbox
        .write_manifest(&format!("{before}[check]\nyocto_check_layer = false\n{text}\n\n[artifacts]{after}"));
}

fn outcome(result: &Value, unit: &str) -> String {
    let units = result["units"].as_array().unwrap();
    let found =
        units.iter().find(|one| one["name"] == unit).unwrap_or_else(|| panic!("no {unit} in {units:#?}"));
    found["outcome"].as_str().unwrap_or_default().to_owned()
}

/// `file:line rule` of the findings of this level.
fn findings(result: &Value, level: &str) -> Vec<String> {
    let all = result["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == level);
    let mut found: Vec<String> = all
        .map(|finding| {
            let line = finding["line"].as_u64().map(|line| format!(":{line}")).unwrap_or_default();
            let file = finding["file"].as_str().unwrap_or_default();
            format!("{file}{line} {}", finding["rule"].as_str().unwrap())
        })
        .collect();
    found.sort();
    found
}

fn write(sandbox: &Sandbox, name: &str, text: &str) {
    let path = sandbox.layer().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const GOOD_PATCH: &str = "Upstream-Status: Pending\nSigned-off-by: A <a@example.org>\n";

#[test]
fn patches_state_their_upstream_status() {
    let Some(sandbox) = Sandbox::new("patches_state_their_upstream_status") else { return };
    write(&sandbox, "recipes-hello/hello/files/old.patch", "--- a\n");
    checks(&sandbox, "patches = 'changed'");
    commit(&sandbox.layer(), "Add a patch");
    // Of the last commit; then of what is not committed.
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    write(&sandbox, "README.md", "Another text\n");
    sandbox.run().assert_code(&[0]);
    assert_eq!(outcome(&sandbox.result(), "patches"), "skipped");
    write(&sandbox, "recipes-hello/hello/files/new.patch", GOOD_PATCH);
    write(&sandbox, "recipes-hello/hello/files/bad.patch", "\nUpstream-Status: Backport[x]\n");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["bad.patch", "malformed Upstream-Status"]);
    let result = sandbox.result();
    assert_eq!(outcome(&result, "patches"), "failed");
    let files = "recipes-hello/hello/files";
    assert_eq!(findings(&result, "error"), [format!("{files}/bad.patch:2 upstream-status-malformed")]);
    assert_eq!(findings(&result, "warning"), [format!("{files}/bad.patch signed-off-by-missing")]);
    let case = |name: &str, outcome: &str| (format!("{files}/{name}.patch"), outcome.to_owned());
    assert_eq!(cases(&result), [case("bad", "failed"), case("new", "passed")]);
    checks(&sandbox, "patches = 'all'");
    sandbox.run().assert_code(&[1]);
    assert!(
        findings(&sandbox.result(), "error").contains(&format!("{files}/old.patch upstream-status-missing"))
    );
}

/// A change cannot switch off the check that would refuse it.
#[test]
fn a_change_is_checked_by_the_keys_of_its_base() {
    let Some(sandbox) = Sandbox::new("a_change_is_checked_by_the_keys_of_its_base") else { return };
    checks(&sandbox, "patches = 'all'");
    commit(&sandbox.layer(), "Begin");
    build_agent_tests::git(&sandbox.layer(), ["switch", "--quiet", "-c", "change"]);
    checks(&sandbox, "bitbake_layers = ['show-layers']\noelint = 'all'\nparse_machines = ['unknown-board']");
    write(&sandbox, "recipes-hello/hello/files/bad.patch", "--- a\n");
    commit(&sandbox.layer(), "Switch the check off");
    let mut command = sandbox.run_command();
    command.args(["--base", "main"]);
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[1]);
    ran.assert_says(&["edits its own rules", "bad.patch"]);
    let result = sandbox.result();
    let units = result["units"].as_array().unwrap().iter();
    let checks: Vec<&str> =
        units.filter(|unit| unit["stage"] == "check").map(|unit| unit["name"].as_str().unwrap()).collect();
    assert_eq!(checks, ["patches"]);
}

/// Writes the findings that the files name in lines `# LINT LEVEL RULE`, as oelint-adv does.
const LINTER: &str = r##"#!/usr/bin/env python3
import os, sys
words = sys.argv[1:]
report = words[words.index("--output") + 1]
assert "OELINT_SKIP_CONFIG" in os.environ or open(os.environ["OELINT_CONFIG"]).read()
print("configuration:", os.environ.get("OELINT_CONFIG"))
lines = []
for path in words[words.index("--output") + 2:]:
    print("looks at", path)
    for number, line in enumerate(open(path), 1):
        if line.startswith("# LINT "):
            _, _, level, rule = line.split()
            if rule == "crash":
                sys.exit(70)
            lines.append(f"oelint\t{level}\t{rule}\t{number}\t{path}\tbad [branch:true]\n")
open(report, "w").writelines(lines)
sys.exit(1 if lines else 0)
"##;

/// What the tool printed.
fn output(sandbox: &Sandbox) -> String {
    let result = sandbox.result();
    let unit = result["units"].as_array().unwrap().iter().find(|unit| unit["name"] == "oelint-adv").unwrap();
    std::fs::read_to_string(sandbox.out().join(unit["log"].as_str().unwrap())).unwrap()
}

fn lint(sandbox: &Sandbox, words: &[&str]) -> Ran {
    let bin = sandbox.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("oelint-adv"), LINTER).unwrap();
    std::fs::set_permissions(bin.join("oelint-adv"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = sandbox.run_command();
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", bin.display())).args(words);
    sandbox.start(command).wait()
}

#[test]
fn oelint_counts_only_on_changed_lines() {
    let Some(sandbox) = Sandbox::new("oelint_counts_only_on_changed_lines") else { return };
    let recipe = "recipes-hello/hello/hello_1.0.bb";
    let old = "SUMMARY = \"x\"\n# LINT error oelint.old\nLICENSE = \"MIT\"\n";
    write(&sandbox, recipe, old);
    write(&sandbox, "recipes-hello/other/other_1.0.bb", "# LINT error oelint.other\n");
    checks(&sandbox, "oelint = 'changed'");
    commit(&sandbox.layer(), "Begin");
    write(&sandbox, "README.md", "Another text\n");
    lint(&sandbox, &[]).assert_code(&[0]);
    assert_eq!(outcome(&sandbox.result(), "oelint-adv"), "skipped");

    write(&sandbox, recipe, &format!("{old}# LINT warning oelint.new\n"));
    lint(&sandbox, &[]).assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(outcome(&result, "oelint-adv"), "passed");
    assert_eq!(findings(&result, "warning"), [format!("{recipe}:4 oelint.new")]);
    assert!(!output(&sandbox).contains("other_1.0.bb"), "it is not changed");

    write(&sandbox, recipe, &format!("{old}# LINT error oelint.new\n"));
    let ran = lint(&sandbox, &[]);
    ran.assert_code(&[1]);
    ran.assert_says(&["hello_1.0.bb:4", "oelint.new"]);
    assert_eq!(findings(&sandbox.result(), "error"), [format!("{recipe}:4 oelint.new")]);

    checks(&sandbox, "oelint = 'all'");
    lint(&sandbox, &[]).assert_code(&[1]);
    assert_eq!(findings(&sandbox.result(), "error").len(), 3);

    // A tool that breaks proves nothing.
    write(&sandbox, recipe, "# LINT error crash\n");
    lint(&sandbox, &[]).assert_code(&[1]);
    assert_eq!(outcome(&sandbox.result(), "oelint-adv"), "not-run");
}

#[test]
fn oelint_has_the_configuration_of_the_base_and_changes_nothing() {
    let test = "oelint_has_the_configuration_of_the_base_and_changes_nothing";
    let Some(sandbox) = Sandbox::new(test) else { return };
    checks(&sandbox, "oelint = 'all'");
    write(&sandbox, ".oelint.cfg", "[oelint]\n");
    commit(&sandbox.layer(), "Begin");
    build_agent_tests::git(&sandbox.layer(), ["switch", "--quiet", "-c", "change"]);
    write(&sandbox, ".oelint.cfg", "[oelint]\nsuppress = everything\n");
    commit(&sandbox.layer(), "Change the configuration");
    lint(&sandbox, &["--base", "main"]).assert_code(&[0]);
    let base = sandbox.work().canonicalize().unwrap().join("meta-tested-scarthgap/base-files");
    let used = |root: &Path| output(&sandbox).contains(&format!("configuration: {}/", root.display()));
    assert!(used(&base), "{}", output(&sandbox));
    lint(&sandbox, &[]).assert_code(&[0]);
    assert!(used(&sandbox.layer()), "{}", output(&sandbox));
    write(&sandbox, ".oelint.cfg", "[oelint]\nfix = True\n");
    let ran = lint(&sandbox, &[]);
    ran.assert_code(&[2]);
    ran.assert_says(&[".oelint.cfg", "fix"]);
}

#[test]
fn a_missing_oelint_is_an_error_of_the_machine() {
    let Some(sandbox) = Sandbox::new("a_missing_oelint_is_an_error_of_the_machine") else { return };
    if Path::new("/usr/local/bin/oelint-adv").exists() {
        return;
    }
    checks(&sandbox, "oelint = 'all'");
    let with = |words: &[&str]| {
        let mut command = sandbox.run_command();
        command.env("PATH", "/usr/bin:/bin").args(words);
        sandbox.start(command).wait()
    };
    let ran = with(&[]);
    ran.assert_code(&[3]);
    ran.assert_says(&[
        "this machine is not ready: oelint-adv: it is not installed",
        "pip install oelint-adv",
    ]);
    assert_eq!(outcome(&sandbox.result(), "oelint-adv"), "not-run");
    // Another check does not need the program.
    checks(&sandbox, "patches = 'all'");
    with(&[]).assert_code(&[0]);
}

#[test]
fn recipes_parse_for_each_machine() {
    let Some(sandbox) = Sandbox::new("recipes_parse_for_each_machine") else { return };
    checks(&sandbox, "parse_machines = ['one', 'two', 'unknown-board']");
    let recipe = "recipes-hello/hello/hello_1.0.bb";
    write(&sandbox, recipe, "SUMMARY = \"x\"\n# NOT-FOR-two\n");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["hello_1.0.bb:2", "unknown-board"]);
    let result = sandbox.result();
    for (machine, wanted) in [("one", "passed"), ("two", "failed"), ("unknown-board", "failed")] {
        assert_eq!(outcome(&result, &format!("parse for {machine}")), wanted, "{machine}");
    }
    assert!(findings(&result, "error").contains(&format!("{recipe}:2 layer-fault")), "{result:#}");
    sandbox.assert_nothing_runs();
}

/// A release with cve-check, and a prepared database.
fn cve_sandbox(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let classes = sandbox.upstream().join("meta/classes");
    std::fs::create_dir_all(&classes).unwrap();
    std::fs::write(classes.join("cve-check.bbclass"), "CVE_CHECK_RECIPE_FILE_JSON ?= \"x\"\n").unwrap();
    sandbox.behaviour("bitbake pass");
    let database = sandbox.path().join("cve.db");
    std::fs::write(&database, "SQLite format 3\0and more").unwrap();
    checks(&sandbox, &format!("cve = 'changed'\ncve_database = '{}'", database.display()));
    Some(sandbox)
}

#[test]
fn only_cves_that_the_base_does_not_have_fail() {
    let Some(sandbox) = cve_sandbox("only_cves_that_the_base_does_not_have_fail") else { return };
    let recipe = "recipes-hello/hello/hello_1.0.bb";
    write(&sandbox, recipe, "# UNPATCHED CVE-2024-1\n");
    write(&sandbox, "recipes-hello/other/other_1.0.bb", "# UNPATCHED CVE-2024-9\n");
    commit(&sandbox.layer(), "Begin");
    write(&sandbox, "README.md", "Another text\n");
    sandbox.run().assert_code(&[0]);
    assert_eq!(outcome(&sandbox.result(), "cve"), "skipped", "the change touches no recipe");

    write(&sandbox, recipe, "# UNPATCHED CVE-2024-1\nX = \"1\"\n");
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["1 recipe checked for CVEs: 0 new, 1 as in the base"]);
    let result = sandbox.result();
    assert_eq!(outcome(&result, "cve"), "passed");
    assert_eq!(findings(&result, "warning"), [format!("{recipe} cve-known")]);
    assert_eq!(cases(&result), [("hello".to_owned(), "passed".to_owned())], "other is not changed");

    write(&sandbox, recipe, "# UNPATCHED CVE-2024-1 CVE-2024-2\n");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["new CVEs: hello has CVE-2024-2"]);
    assert_eq!(findings(&sandbox.result(), "error"), [format!("{recipe} cve-new")]);

    sandbox.change_manifest("cve = 'changed'", "cve = 'all'");
    sandbox.run().assert_code(&[1]);
    let failed = ("hello".to_owned(), "failed".to_owned());
    assert_eq!(cases(&sandbox.result()), [failed, ("other".to_owned(), "passed".to_owned())]);
    sandbox.assert_nothing_runs();
}

/// With `[build] changed` the check and the build use the same answer: here by files, because the stand-in has no signatures.
#[test]
fn the_cve_check_selects_what_the_change_affects() {
    let Some(sandbox) = cve_sandbox("the_cve_check_selects_what_the_change_affects") else { return };
    sandbox.change_manifest("\n[artifacts]", "\n[build]\nchanged = true\n\n[artifacts]");
    write(&sandbox, "recipes-hello/hello/hello_1.0.bb", "# UNPATCHED CVE-2024-1\n");
    write(&sandbox, "recipes-hello/other/other_1.0.bb", "# UNPATCHED CVE-2024-9\n");
    commit(&sandbox.layer(), "Begin");
    write(&sandbox, "recipes-hello/other/other_1.0.bb", "# UNPATCHED CVE-2024-9\nX = \"1\"\n");
    sandbox.run().assert_code(&[0]);
    let result = sandbox.result();
    let names = |list: &Value| -> Vec<String> {
        let all = list.as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&result["affected"]["recipes"]), ["other"]);
    assert_eq!(cases(&result), [("other".to_owned(), "passed".to_owned())]);
    let searches = names(&result["units"]).into_iter().filter(|name| name == "what the change affects");
    assert_eq!(searches.count(), 1);
    sandbox.assert_nothing_runs();
}

#[test]
fn a_cve_check_that_checked_nothing_never_passes() {
    let Some(sandbox) = cve_sandbox("a_cve_check_that_checked_nothing_never_passes") else { return };
    let recipe = "recipes-hello/hello/hello_1.0.bb";
    sandbox.change_manifest("cve = 'changed'", "cve = 'all'");
    write(&sandbox, recipe, "# NO PRODUCT\n");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["no recipe was checked for CVEs"]);
    write(&sandbox, recipe, "X = \"1\"\n");
    sandbox.behaviour("bitbake fail hello");
    sandbox.run().assert_code(&[1]);
    assert_eq!(outcome(&sandbox.result(), "cve"), "not-run");
    // No database, a damaged one, and a release that cannot do it.
    sandbox.behaviour("bitbake pass");
    std::fs::write(sandbox.path().join("cve.db"), "<html>an error page of some proxy</html>").unwrap();
    for words in ["not an SQLite database", "No such file", "neither cve-check.bbclass nor vex.bbclass"] {
        let ran = sandbox.run();
        ran.assert_code(&[1]);
        ran.assert_says(&[words]);
        assert_eq!(outcome(&sandbox.result(), "cve"), "not-run", "{words}");
        if words.starts_with("not an SQLite") {
            std::fs::remove_file(sandbox.path().join("cve.db")).unwrap();
        } else if words.starts_with("No such") {
            std::fs::remove_file(sandbox.upstream().join("meta/classes/cve-check.bbclass")).unwrap();
            commit(&sandbox.upstream(), "A release without the class");
        }
    }
}
