//! Errors in `layer.conf`: who caused them, and which of them are found without BitBake.

use std::fs;
use std::path::Path;

use build_agent_tests::{Ran, Sandbox, commit};

const PYTHON: &str = "${@d.getVar(\"NO\").split()}";

fn add_line(file: &Path, line: &str) {
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, format!("{text}{line}\n")).unwrap();
}

/// Adds a line to the `layer.conf` of the layer under test; returns its number.
fn in_layer(sandbox: &Sandbox, line: &str) -> usize {
    let file = sandbox.layer().join("conf/layer.conf");
    add_line(&file, line);
    fs::read_to_string(file).unwrap().lines().count()
}

/// Adds a line to the `layer.conf` of meta-poky.
fn in_dependency(sandbox: &Sandbox, line: &str) {
    add_line(&sandbox.upstream().join("meta-poky/conf/layer.conf"), line);
    commit(&sandbox.upstream(), "a line more");
}

fn findings(sandbox: &Sandbox) -> Vec<(String, u64)> {
    let result = sandbox.result();
    let findings = result["findings"].as_array().cloned().unwrap_or_default();
    findings
        .iter()
        .filter_map(|one| Some((one["file"].as_str()?.to_owned(), one["line"].as_u64()?)))
        .collect()
}

fn assert_fails_at(sandbox: &Sandbox, ran: &Ran, line: usize) {
    ran.assert_code(&[1]);
    assert_eq!(sandbox.result()["outcome"], "failed");
    let place = ("conf/layer.conf".to_owned(), line as u64);
    assert!(findings(sandbox).contains(&place), "{:?}", sandbox.result()["findings"]);
}

#[test]
fn a_layer_conf_that_does_not_expand_fails_the_layer_under_test() {
    let Some(sandbox) = Sandbox::new("a_layer_conf_that_does_not_expand_fails_the_layer_under_test") else {
        return;
    };
    let line = in_layer(&sandbox, &format!("LAYERDEPENDS_tested += '{PYTHON}'"));
    sandbox.behaviour("yocto-check-layer unreadable args.layers LAYERDEPENDS_tested");
    let ran = sandbox.run();
    assert_fails_at(&sandbox, &ran, line);
    ran.assert_says(&[&format!("conf/layer.conf:{line}"), "LAYERDEPENDS_tested does not expand"]);
}

#[test]
fn a_layer_conf_that_does_not_expand_is_the_manifests_fault_in_a_dependency() {
    let Some(sandbox) =
        Sandbox::new("a_layer_conf_that_does_not_expand_is_the_manifests_fault_in_a_dependency")
    else {
        return;
    };
    in_dependency(&sandbox, &format!("LAYERDEPENDS_yocto += '{PYTHON}'"));
    sandbox.behaviour("yocto-check-layer unreadable args.dependency LAYERDEPENDS_yocto");
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["meta-poky/conf/layer.conf", "of a dependency", "LAYERDEPENDS_yocto does not expand"]);
}

#[test]
fn a_version_condition_that_bitbake_refuses_is_found_without_it() {
    let Some(sandbox) = Sandbox::new("a_version_condition_that_bitbake_refuses_is_found_without_it") else {
        return;
    };
    let line = in_layer(&sandbox, "LAYERDEPENDS_tested = 'core (~12)'");
    let ran = sandbox.run();
    assert_fails_at(&sandbox, &ran, line);
    ran.assert_says(&["LAYERDEPENDS_tested: Invalid version specification"]);
    assert!(!sandbox.logs().contains("Setting up for"), "the tool did not run");
}

#[test]
fn a_version_condition_that_bitbake_refuses_is_the_manifests_fault_in_a_dependency() {
    let Some(sandbox) =
        Sandbox::new("a_version_condition_that_bitbake_refuses_is_the_manifests_fault_in_a_dependency")
    else {
        return;
    };
    in_dependency(&sandbox, "LAYERDEPENDS_yocto = 'core (~12)'");
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["meta-poky/conf/layer.conf:", "LAYERDEPENDS_yocto: Invalid version specification"]);
}

#[test]
fn python_in_layer_conf_causes_one_notice() {
    let Some(sandbox) = Sandbox::new("python_in_layer_conf_causes_one_notice") else { return };
    let python = "${@bb.utils.contains('BBFILE_COLLECTIONS', 'no-such-layer', ' no-such-layer', '', d)}";
    let line = in_layer(&sandbox, &format!("LAYERDEPENDS_tested:append = \"{python}\""));
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    let notice = format!("only BitBake can evaluate LAYERDEPENDS_tested (line {line})");
    assert_eq!(ran.output().matches(&notice).count(), 1, "{}", ran.output());
}

#[test]
fn a_release_that_oe_core_does_not_have_is_rejected_before_publish() {
    let Some(sandbox) = Sandbox::new("a_release_that_oe_core_does_not_have_is_rejected_before_publish")
    else {
        return;
    };
    sandbox.change_manifest("release = \"scarthgap\"", "release = \"kirkstone\"");
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["`release` is \"kirkstone\", but OE-Core is scarthgap", "LAYERSERIES_CORENAMES"]);
    let published = fs::read_dir(sandbox.artifacts()).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(published, 0);
}
