//! Layer checks: the verdict is that of the tool, test by test.

use build_agent_tests::cases;

use crate::fixture::{Fixture, SMALL_WORLD};
use crate::{BITBAKE, OE_CORE, POKY};

#[test]
fn a_good_layer_passes_on_scarthgap() {
    let Some(fixture) = Fixture::long("a_good_layer_passes_on_scarthgap", "meta-good", &[POKY]) else {
        return;
    };
    fixture.call(&["run"]).assert_code(&[0]);
    assert_eq!(fixture.result()["outcome"], "passed");
    fixture.assert_reported_as_the_tool_said();
}

/// Without a manifest, and with BitBake and OE-Core in separate repositories.
#[test]
fn a_good_layer_passes_on_master() {
    let Some(fixture) = Fixture::long("a_good_layer_passes_on_master", "meta-good", &[OE_CORE, BITBAKE])
    else {
        return;
    };
    std::fs::remove_file(fixture.layer().join("build-agent.toml")).unwrap();
    let small_world = format!("config.local_conf={SMALL_WORLD}");
    fixture.call(&["check", ".", "--release", "master", "--set", &small_world]).assert_code(&[0]);
    fixture.assert_reported_as_the_tool_said();
}

/// Jenkins' second workspace of a job, and other paths from which BitBake can read layers. OE-Core rejects these
/// characters in COREBASE and TMPDIR, which the agent chooses.
#[test]
fn a_layer_below_unusual_directories_passes() {
    let test = "a_layer_below_unusual_directories_passes";
    let Some(fixture) = Fixture::long(test, "meta-good", &[POKY]) else { return };
    let odd = fixture.directory.path().join("job@2/~user/100%/a,b;c=d");
    std::fs::create_dir_all(&odd).unwrap();
    std::fs::rename(fixture.layer(), odd.join("meta-good")).unwrap();
    let small_world = format!("config.local_conf={SMALL_WORLD}");
    fixture.call_in(&odd.join("meta-good"), &["run", "--set", &small_world]).assert_code(&[0]);
    assert_eq!(fixture.result()["outcome"], "passed");
    fixture.assert_reported_as_the_tool_said();
}

#[test]
fn a_layer_without_readme_fails_before_anything_is_cloned() {
    let test = "a_layer_without_readme_fails_before_anything_is_cloned";
    let Some(fixture) = Fixture::new(test, "meta-no-readme", &[POKY]) else { return };
    let ran = fixture.call(&["run"]);
    ran.assert_code(&[1]);
    ran.assert_says(&["readme-missing", "test_readme"]);
    assert!(!fixture.directory.path().join("work/layers").exists());
}

#[test]
fn a_recipe_that_does_not_parse_is_named_with_its_line() {
    let test = "a_recipe_that_does_not_parse_is_named_with_its_line";
    let Some(fixture) = Fixture::long(test, "meta-parse-error", &[POKY]) else { return };
    let ran = fixture.run_in_small_world();
    ran.assert_code(&[1]);
    ran.assert_says(&["test_parse", "broken_1.0.bb:"]);
    fixture.assert_reported_as_the_tool_said();
}

#[test]
fn a_changed_signature_of_a_core_recipe_fails() {
    let test = "a_changed_signature_of_a_core_recipe_fails";
    let Some(fixture) = Fixture::long(test, "meta-signature-change", &[POKY]) else { return };
    let ran = fixture.run_in_small_world();
    ran.assert_code(&[1]);
    ran.assert_says(&["test_signatures", "changed signatures"]);
    let failed: Vec<String> = cases(&fixture.result())
        .into_iter()
        .filter(|(_, outcome)| outcome == "failed")
        .map(|(test, _)| test)
        .collect();
    assert_eq!(failed, ["test_signatures"]);
    fixture.assert_reported_as_the_tool_said();
}

#[test]
fn a_bsp_layer_passes_with_its_machine() {
    let test = "a_bsp_layer_passes_with_its_machine";
    let Some(fixture) = Fixture::long(test, "meta-bsp", &[POKY]) else { return };
    fixture.run_in_small_world().assert_code(&[0]);
    let cases = cases(&fixture.result());
    for test in ["test_machine_world", "test_machine_signatures", "test_bsp_defines_machines"] {
        assert!(cases.contains(&(test.to_owned(), "passed".to_owned())), "{test}: {cases:?}");
    }
    fixture.assert_reported_as_the_tool_said();
}
