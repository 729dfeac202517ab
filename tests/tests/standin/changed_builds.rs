//! `[build] changed`: what a change affects is built. The stand-in for BitBake has no signatures of tasks, so the files of
//! the change decide.

use build_agent_tests::{Sandbox, commit};

/// A job without checks, whose layer has the recipes `hello` and `other`.
fn changed(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let other = sandbox.layer().join("recipes-hello/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("other_1.0.bb"), "SUMMARY = \"Another recipe\"\n").unwrap();
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    let rule = "[[artifacts.rules]]\ninclude = \"tmp/deploy/images/**\"\nrequired = true\n\n[limits]";
    let text = text.replace("bitbake_layers = [\"show-layers\"]\n", "").replace("[limits]", rule);
    sandbox.write_manifest(&format!("{text}\n[build]\nchanged = true\n"));
    commit(&sandbox.layer(), "Add a recipe and a manifest");
    Some(sandbox)
}

/// Name and outcome of each step of the build stage.
fn builds(sandbox: &Sandbox) -> Vec<(String, String)> {
    let result = sandbox.result();
    let units = result["units"].as_array().unwrap().iter().filter(|unit| unit["stage"] == "build");
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    units.map(|unit| (word(&unit["name"]), word(&unit["outcome"]))).collect()
}

fn edit(sandbox: &Sandbox, file: &str) {
    let path = sandbox.layer().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{text}\n# changed\n")).unwrap();
    commit(&sandbox.layer(), "Change a file");
}

#[test]
fn only_the_changed_recipe_is_built() {
    let Some(sandbox) = changed("only_the_changed_recipe_is_built") else { return };
    edit(&sandbox, "recipes-hello/hello/hello_1.0.bb");
    for (behaviour, code, outcome) in [("pass", 0, "passed"), ("fail do_compile", 1, "failed")] {
        sandbox.behaviour(&format!("bitbake {behaviour}"));
        sandbox.run().assert_code(&[code]);
        let found = builds(&sandbox);
        for (unit, wanted) in [
            ("fetch (qemux86-64)", "passed"),
            ("hello (qemux86-64)", outcome),
            ("changed recipes (qemux86-64)", outcome),
        ] {
            assert!(
                found.contains(&(unit.into(), wanted.into())),
                "{behaviour}: no {unit} {wanted} in {found:?}"
            );
        }
        assert!(!found.iter().any(|(unit, _)| unit.contains("other")), "{behaviour}: {found:?}");
    }
    // A suite for each recipe.
    let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
    assert!(junit.contains("build.hello (qemux86-64)"), "{junit}");
}

#[test]
fn a_change_of_the_readme_builds_nothing_and_passes() {
    let Some(sandbox) = changed("a_change_of_the_readme_builds_nothing_and_passes") else { return };
    edit(&sandbox, "README.md");
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["the change affects 0 tasks"]);
    let found = builds(&sandbox);
    assert!(found.contains(&("changed recipes (qemux86-64)".into(), "skipped".into())), "{found:?}");
    let logs = std::fs::read_dir(sandbox.out().join("logs")).unwrap();
    let names: Vec<_> = logs.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("build-") || name.starts_with("fetch-")), "{names:?}");
}
