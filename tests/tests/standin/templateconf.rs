//! The templates of a layer: their lines are in the configuration of every build, and a newcomer can use them.

use build_agent_tests::{Sandbox, commit};

/// `None`, with a SKIPPED line, if the agent cannot run here.
fn with_templates(test: &str, place: &str, bblayers: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let directory = sandbox.layer().join(place);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("local.conf.sample"), "MACHINE ??= \"qemux86-64\"\nSAMPLE = \"1\"\n")
        .unwrap();
    std::fs::write(directory.join("bblayers.conf.sample"), format!("BBLAYERS ?= \"{bblayers}\"\n")).unwrap();
    let config = format!("[config]\ntemplateconf = \"{place}\"\nlocal_conf = 'OWN = \"1\"'\n\n[check]\n");
    sandbox.change_manifest("[check]\n", &config);
    commit(&sandbox.layer(), "Templates");
    Some(sandbox)
}

fn unit(sandbox: &Sandbox) -> serde_json::Value {
    let result = sandbox.result();
    let units = result["units"].as_array().unwrap();
    units.iter().find(|unit| unit["name"] == "templateconf").unwrap().clone()
}

#[test]
fn a_newcomer_gets_a_configuration_that_parses() {
    let layers = "##OEROOT##/meta ##OEROOT##/meta-tested ##OEROOT##/../meta-tested";
    let test = "a_newcomer_gets_a_configuration_that_parses";
    let Some(sandbox) = with_templates(test, "conf/templates/default", layers) else { return };
    sandbox.run().assert_code(&[0]);
    assert_eq!(unit(&sandbox)["outcome"], "passed");
    let rules = sandbox.result()["findings"].to_string();
    assert!(rules.contains("templateconf-notes"), "there is no conf-notes.txt: {rules}");
    let conf =
        std::fs::read_to_string(sandbox.work().join("meta-tested-scarthgap/build/conf/local.conf")).unwrap();
    let (sample, own) = (conf.find("SAMPLE = \"1\"").unwrap(), conf.find("OWN = \"1\"").unwrap());
    assert!(conf.find("MACHINE ?=").unwrap() < sample && sample < own, "{conf}");
    sandbox.assert_nothing_runs();

    let mut command = sandbox.run_command();
    command.args(["--set", "check.templateconf=false"]);
    sandbox.start(command).wait().assert_code(&[0]);
    assert!(!sandbox.result()["units"].to_string().contains("\"templateconf\""));
}

#[test]
fn templates_that_fail_are_failures_with_their_reason() {
    for (test, place, layers, reason) in [
        ("a layer that is not there", "conf/templates/default", "##OEROOT##/meta-gone", "meta-gone"),
        ("another layout", "templates", "##OEROOT##/meta", "must point to meta-some-layer/conf/templates"),
    ] {
        let Some(sandbox) = with_templates(test, place, layers) else { return };
        let ran = sandbox.run();
        ran.assert_code(&[1]);
        ran.assert_says(&["templateconf", "oe-init-build-env: ", reason]);
        sandbox.assert_nothing_runs();
    }
}

#[test]
fn wrong_paths_are_told_before_anything_runs() {
    let test = "wrong_paths_are_told_before_anything_runs";
    let Some(sandbox) = with_templates(test, "conf/templates/default", "") else { return };
    for (value, code, words) in [
        ("conf", 2, "`conf` has no local.conf.sample and bblayers.conf.sample"),
        ("../x", 2, "lies outside the checkout under test"),
        ("gone", 2, "no such directory"),
        ("pokky:x", 2, "[repos] has no `pokky`"),
        ("poky:../x", 2, "leads out of the repository"),
        ("poky:meta-poky/conf", 2, "meta-poky/conf has no local.conf.sample"),
    ] {
        let mut command = sandbox.run_command();
        command.args(["--set", &format!("config.templateconf={value}")]);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[code]);
        ran.assert_says(&[words]);
    }
}
