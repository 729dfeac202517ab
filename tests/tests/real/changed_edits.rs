//! Random edits of a layer: the recipes that the signatures name are those whose tasks BitBake really runs again.

use std::collections::BTreeSet;

use build_agent_tests::{commit, git};
use serde_json::Value;

use crate::changed::Changed;

const TARGETS: [&str; 7] = ["alpha", "alone", "beta", "delta", "foo", "gamma", "thing"];

/// Numbers that look random and are the same in each run (a linear congruential generator).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// One to three edits; their names.
fn edit(changed: &Changed, random: &mut Random, number: usize) -> Vec<&'static str> {
    let mut edits = Vec::new();
    for _ in 0..=random.below(3) {
        let recipes = ["alpha/alpha_1.0", "beta/beta_1.0", "gamma/gamma_1.0", "delta/delta_1.0", "foo/foo_2"];
        let recipe = format!("recipes-x/{}.bb", recipes[random.below(recipes.len())]);
        let (name, path, text) = match random.below(9) {
            0 => ("task", recipe, format!("do_deploy:append() {{\n    : {number}\n}}\n")),
            1 => ("unused variable", recipe, format!("UNUSED = \"{number}\"\n")),
            2 => ("comment", recipe, format!("# {number}\n")),
            3 => ("used variable", recipe, format!("USED = \"{number}\"\ndo_deploy[vardeps] += \"USED\"\n")),
            4 => ("file", "recipes-x/alpha/files/alpha.txt".into(), format!("{number}\n")),
            5 => ("file", "recipes-x/alone/files/alone.txt".into(), format!("{number}\n")),
            6 => ("include", "recipes-x/gamma/gamma.inc".into(), format!("FROM_INC = \"{number}\"\n")),
            7 => ("class", "classes/own.bbclass".into(), format!("OWN = \"{number}\"\n")),
            _ => ("readme", "README.md".into(), format!("{number}\n")),
        };
        changed.append(&path, &text);
        edits.push(name);
    }
    edits
}

/// The recipes of which BitBake ran a task.
fn executed(result: &Value) -> BTreeSet<String> {
    let timeline = &result["timeline"];
    let runs = timeline["runs"].as_array().into_iter().flatten();
    let recipes = runs.map(|run| timeline["recipes"][run[1].as_u64().unwrap() as usize].as_str().unwrap());
    // Without version and revision: alpha-1.0-r0.
    recipes.map(|full| full.rsplitn(3, '-').nth(2).unwrap_or(full).to_owned()).collect()
}

fn named(affected: &Value) -> BTreeSet<String> {
    let recipes = affected["recipes"].as_array().unwrap();
    recipes.iter().map(|recipe| recipe["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn bitbake_runs_the_tasks_again_that_the_signatures_name() {
    let test = "bitbake_runs_the_tasks_again_that_the_signatures_name";
    let is_long = std::env::var_os("BUILD_AGENT_TEST_ALL").is_some_and(|value| value == "1");
    let Some(changed) = Changed::new(test, "scarthgap") else { return };
    // Other tests compare only signatures: a native recipe that is built needs more of OE-Core.
    let alpha = std::fs::read_to_string(changed.layer("recipes-x/alpha/alpha_1.0.bb")).unwrap();
    changed.write("recipes-x/alpha/alpha_1.0.bb", &alpha.replace("BBCLASSEXTEND", "# BBCLASSEXTEND"));
    // It runs in each build.
    std::fs::remove_dir_all(changed.layer("recipes-x/always")).unwrap();
    commit(&changed.0.layer(), "Nothing that always runs");
    let targets = format!("build.targets={TARGETS:?}");
    let run = |base: &str| {
        changed.0.call(&["run", "--base", base, "--set", &targets]).assert_code(&[0]);
        changed.0.result()
    };
    run("HEAD^");
    let mut random = Random(1);
    for number in 0..if is_long { 50 } else { 5 } {
        let edits = edit(&changed, &mut random, number);
        commit(&changed.0.layer(), "Edit");
        let result = run("HEAD^");
        let affected = &result["affected"];
        assert_eq!(affected["evidence"]["by"], "signatures", "{affected:#}");
        let diff = git(&changed.0.layer(), ["diff", "HEAD^"]);
        assert_eq!(named(affected), executed(&result), "edit {number}: {edits:?}\n{diff}\n{affected:#}");
    }
}
