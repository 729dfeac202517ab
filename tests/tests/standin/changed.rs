//! What a change affects where BitBake gives no signatures (the stand-in gives none), and where nothing that BitBake
//! reads changed.

use build_agent_tests::{Ran, Sandbox, commit, git};
use serde_json::Value;

const RECIPE: &str = "recipes-hello/hello/hello_1.0.bb";

/// A layer with a manifest that asks for nothing but what a change affects, and a commit on top of it.
fn sandbox(test: &str, path: &str, text: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let manifest = sandbox.manifest_text();
    let manifest = manifest
        .replace("bitbake_layers = [\"show-layers\"]\nyocto_check_layer = true", "yocto_check_layer = false");
    sandbox.write_manifest(&(manifest + "\n[build]\nchanged = true\n"));
    commit(&sandbox.layer(), "Add the manifest");
    let file = sandbox.layer().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let old = std::fs::read_to_string(&file).unwrap_or_default();
    std::fs::write(&file, old + text).unwrap();
    commit(&sandbox.layer(), "Change");
    Some(sandbox)
}

fn affected(sandbox: &Sandbox, words: &[&str]) -> (Ran, Value) {
    let mut command = sandbox.run_command();
    command.args(words);
    let ran = sandbox.start(command).wait();
    let affected = sandbox.result()["affected"].clone();
    (ran, affected)
}

fn recipes(affected: &Value) -> Vec<&str> {
    affected["recipes"].as_array().unwrap().iter().map(|recipe| recipe["name"].as_str().unwrap()).collect()
}

#[test]
fn without_signatures_the_files_of_the_change_decide() {
    let test = "without_signatures_the_files_of_the_change_decide";
    let Some(sandbox) = sandbox(test, RECIPE, "X = \"1\"\n") else { return };
    let (ran, affected) = affected(&sandbox, &[]);
    assert_eq!(affected["evidence"]["by"], "files", "{affected}\n{}", ran.output());
    assert_eq!(recipes(&affected), ["hello"]);
    let base = git(&sandbox.layer(), ["rev-parse", "HEAD^"]);
    assert_eq!(affected["base"], base.as_str());
    ran.assert_says(&["signatures do not show what the change affects: cannot get the tasks of the"]);
    sandbox.assert_nothing_runs();
    assert!(!sandbox.work().join("meta-tested-scarthgap/affected").exists(), "nothing is left");
}

/// Both sides are the same to BitBake, which is not asked at all.
#[test]
fn a_text_for_people_affects_nothing() {
    let test = "a_text_for_people_affects_nothing";
    let Some(sandbox) = sandbox(test, "README.md", "More.\n") else { return };
    let (ran, affected) = affected(&sandbox, &[]);
    assert_eq!(
        (affected["evidence"]["by"].as_str(), affected["tasks"].as_u64()),
        (Some("signatures"), Some(0))
    );
    assert_eq!(recipes(&affected), [""; 0]);
    ran.assert_says(&["no file that BitBake reads changed", "affected   0 tasks"]);
    assert!(!sandbox.logs().contains("affected-head"), "BitBake did not run");
    let logs: Vec<String> = std::fs::read_dir(sandbox.out().join("logs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!logs.iter().any(|name| name.contains("affected")), "{logs:?}");
}

/// Uncommitted changes are compared with the commit that is checked out.
#[test]
fn uncommitted_changes_are_a_change() {
    let test = "uncommitted_changes_are_a_change";
    let Some(sandbox) = sandbox(test, "README.md", "More.\n") else { return };
    let new = sandbox.layer().join("recipes-hello/new/new_1.0.bb");
    std::fs::create_dir_all(new.parent().unwrap()).unwrap();
    std::fs::write(&new, "SUMMARY = \"x\"\n").unwrap();
    let (ran, affected) = affected(&sandbox, &[]);
    assert_eq!(recipes(&affected), ["new"], "{affected}\n{}", ran.output());
    assert_eq!(affected["recipes"][0]["change"], "added");
    assert_eq!(affected["base"], git(&sandbox.layer(), ["rev-parse", "HEAD"]).as_str());
}

/// An unknown base never makes a recipe "not affected".
#[test]
fn without_a_base_every_recipe_is_affected() {
    let test = "without_a_base_every_recipe_is_affected";
    let Some(sandbox) = sandbox(test, "README.md", "More.\n") else { return };
    let mut command = sandbox.run_command();
    command.env("CODEBUILD_SOURCE_VERSION", "pr/7").env("CODEBUILD_BUILD_ID", "p:1");
    let ran = sandbox.start(command).wait();
    let affected = sandbox.result()["affected"].clone();
    assert_eq!(recipes(&affected), ["hello"], "{affected}\n{}", ran.output());
    assert_eq!(affected["base"], "");
    ran.assert_says(&["neither the build service nor --base names the base of this change"]);
}

/// A base that is not in the checkout is fetched.
#[test]
fn the_base_of_a_shallow_clone_is_fetched() {
    let test = "the_base_of_a_shallow_clone_is_fetched";
    let Some(sandbox) = sandbox(test, RECIPE, "X = \"1\"\n") else { return };
    let before = git(&sandbox.layer(), ["rev-parse", "HEAD^"]);
    let server = sandbox.path().join("server");
    std::fs::rename(sandbox.layer(), &server).unwrap();
    let url = format!("file://{}", server.display());
    git(sandbox.path(), ["clone", "--quiet", "--depth=1", &url, "meta-tested"]);
    let head = git(&sandbox.layer(), ["rev-parse", "HEAD"]);
    let layer = sandbox.layer().display().to_string();
    let mut command = sandbox.run_command();
    for (name, value) in [
        ("CODEBUILD_BUILD_ID", "p:1"),
        ("CODEBUILD_WEBHOOK_EVENT", "PUSH"),
        ("CODEBUILD_WEBHOOK_TRIGGER", "branch/main"),
        ("CODEBUILD_WEBHOOK_PREV_COMMIT", before.as_str()),
        ("CODEBUILD_SOURCE_REPO_URL", url.as_str()),
        ("CODEBUILD_RESOLVED_SOURCE_VERSION", head.as_str()),
        ("CODEBUILD_SRC_DIR", layer.as_str()),
    ] {
        command.env(name, value);
    }
    let ran = sandbox.start(command).wait();
    let affected = sandbox.result()["affected"].clone();
    assert_eq!(affected["base"], before.as_str(), "{affected}\n{}", ran.output());
    assert_eq!(recipes(&affected), ["hello"]);
    assert_eq!(git(&sandbox.layer(), ["rev-list", "--all", "--count"]), "1", "the checkout stays as it is");
}
