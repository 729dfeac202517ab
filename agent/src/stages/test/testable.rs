//! Which recipes have ptests to run.

use agent_types::outcome::Outcome;
use agent_yocto::testimage::conflicts::TestedRecipe;
use agent_yocto::testimage::query::RecipeAnswer;
use agent_yocto::testimage::verdict::{JudgedTest, RUN_PTEST};

use crate::config::{Ptest, Settings};

/// The recipes to test.
#[derive(Debug, PartialEq)]
pub enum Testable {
    Recipes(Vec<TestedRecipe>),
    /// Nothing, with the outcome.
    Nothing(Outcome),
}

/// The recipes with ptests among these. A recipe that cannot be tested is never ignored.
pub fn testable(settings: &Settings, answers: &[RecipeAnswer]) -> Testable {
    of_answers(answers, matches!(settings.test.ptest, Ptest::Recipes(_)))
}

/// `named`: the manifest names the recipes, so that each must have ptests.
fn of_answers(answers: &[RecipeAnswer], named: bool) -> Testable {
    if let Some(broken) = answers.iter().find(|answer| answer.error.is_some()) {
        let why = broken.error.as_deref().unwrap_or_default();
        return Testable::Nothing(Outcome::Failed(format!(
            "BitBake cannot read {}: {why}",
            broken.recipe.name
        )));
    }
    let disabled: Vec<&str> =
        answers.iter().filter(|answer| answer.disabled).map(|answer| answer.recipe.name.as_str()).collect();
    if !disabled.is_empty() {
        return Testable::Nothing(Outcome::NotRun(format!(
            "DISTRO_FEATURES has no `ptest`, so that the ptests of {} are not built; add it in [config] local_conf",
            disabled.join(", ")
        )));
    }
    let has_ptests =
        |answer: &&RecipeAnswer| !answer.recipe.ptests.is_empty() && answer.recipe.skipped.is_none();
    let is_buildable = |answer: &&RecipeAnswer| answer.recipe.skipped.is_none();
    let without = answers.iter().filter(is_buildable).find(|answer| !has_ptests(answer));
    if let Some(without) = without.filter(|_| named) {
        let name = &without.recipe.name;
        let why = format!("{name} has no ptests, and [test] ptest names it");
        return Testable::Nothing(Outcome::Failed(why));
    }
    let recipes: Vec<TestedRecipe> =
        answers.iter().filter(has_ptests).map(|answer| answer.recipe.clone()).collect();
    if !recipes.is_empty() {
        return Testable::Recipes(recipes);
    }
    let skipped =
        answers.iter().find_map(|answer| Some((&answer.recipe.name, answer.recipe.skipped.as_ref()?)));
    Testable::Nothing(Outcome::Skipped(match skipped.filter(|_| named) {
        Some((name, why)) => format!("{name}: {why}"),
        None => "no recipe that the change affects has ptests".into(),
    }))
}

/// The recipes that the manifest names and that BitBake skips for this machine, as tests.
pub fn skipped(settings: &Settings, answers: &[RecipeAnswer]) -> Vec<JudgedTest> {
    let named = matches!(settings.test.ptest, Ptest::Recipes(_));
    let answers = answers.iter().filter(|_| named);
    let skipped = answers.filter_map(|answer| Some((&answer.recipe, answer.recipe.skipped.clone()?)));
    let tests = skipped.map(|(recipe, why)| JudgedTest {
        class: format!("ptest.{}", recipe.name),
        name: RUN_PTEST.into(),
        outcome: Outcome::Skipped(why),
        message: String::new(),
        seconds: None,
    });
    tests.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, ptests: &[&str]) -> RecipeAnswer {
        let ptests = ptests.iter().map(|name| (*name).to_owned()).collect();
        let recipe = TestedRecipe { name: name.into(), ptests, ..TestedRecipe::default() };
        RecipeAnswer { recipe, ..RecipeAnswer::default() }
    }

    #[test]
    fn recipes_that_cannot_be_tested_are_reported() {
        let zlib = || answer("zlib", &["zlib-ptest"]);
        let none = || answer("base-files", &[]);
        let disabled = || RecipeAnswer { disabled: true, ..none() };
        let broken = || RecipeAnswer { error: Some("ParseError".into()), ..none() };
        let mut skipped = zlib();
        skipped.recipe.skipped = Some("incompatible with machine x".into());
        let table: [(&[RecipeAnswer], bool, &str); 10] = [
            (&[], false, "skipped: no recipe that the change affects has ptests"),
            (&[none()], false, "skipped: no recipe that the change affects has ptests"),
            (&[none(), zlib()], false, "zlib"),
            (&[zlib(), disabled()], false, "not-run: DISTRO_FEATURES has no `ptest`"),
            (&[zlib(), broken()], false, "failed: BitBake cannot read base-files: ParseError"),
            (&[none(), zlib()], true, "failed: base-files has no ptests, and [test] ptest names it"),
            (&[skipped.clone()], true, "skipped: zlib: incompatible with machine x"),
            (&[skipped.clone(), answer("curl", &["curl-ptest"])], true, "curl"),
            (&[skipped], false, "skipped: no recipe that the change affects has ptests"),
            (&[zlib()], true, "zlib"),
        ];
        for (answers, named, wanted) in table {
            let found = match of_answers(answers, named) {
                Testable::Recipes(recipes) => {
                    recipes.iter().map(|recipe| recipe.name.as_str()).collect::<Vec<_>>().join(" ")
                }
                Testable::Nothing(outcome) => {
                    format!("{}: {}", outcome.word(), outcome.reason().unwrap_or_default())
                }
            };
            assert!(found.starts_with(wanted), "wanted {wanted}, got {found}");
        }
    }
}
