//! The ptests of recipes in images that the agent makes for them: as few as conflicts allow.

use agent_types::error::{Error, Result};
use agent_types::events::{Finding, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::testimage::conflicts::{TestedRecipe, images};
use agent_yocto::testimage::layer::ImageConf;
use agent_yocto::testimage::query::{Answers, Question, RecipeAnswer};
use agent_yocto::testimage::verdict::{Expected, Judgement};

use super::image::{ImageEnd, ImageTests, recipe_ptests, single_sections};
use super::machine::MachineTests;
use crate::config::{Ptest, Settings};

/// What there is to test.
#[derive(Debug, PartialEq)]
pub enum Testable {
    Recipes(Vec<TestedRecipe>),
    /// Nothing, and what that means.
    Nothing(Outcome),
}

/// The recipes with ptests among these. A recipe that cannot be tested is never ignored.
pub fn testable(settings: &Settings, answers: &[RecipeAnswer]) -> Testable {
    of_answers(answers, matches!(settings.test.ptest, Ptest::Recipes(_)))
}

/// `named`: a person has named the recipes, so that each must have ptests.
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
    if named && let Some(without) = answers.iter().find(|answer| !has_ptests(answer)) {
        let name = &without.recipe.name;
        return Testable::Nothing(match &without.recipe.skipped {
            Some(why) => Outcome::Skipped(format!("{name}: {why}")),
            None => Outcome::Failed(format!("{name} has no ptests, and [test] ptest names it")),
        });
    }
    let recipes: Vec<TestedRecipe> =
        answers.iter().filter(has_ptests).map(|answer| answer.recipe.clone()).collect();
    match recipes.is_empty() {
        true => Testable::Nothing(Outcome::Skipped("no recipe that the change affects has ptests".into())),
        false => Testable::Recipes(recipes),
    }
}

impl MachineTests<'_> {
    /// Makes the images and tests them, one after another.
    pub async fn ptests(&self, unit: &Unit, answers: &Answers) -> Result<ImageEnd> {
        let recipes = match testable(self.settings, &answers.recipes) {
            Testable::Recipes(recipes) => recipes,
            Testable::Nothing(outcome) => return Ok(ImageEnd::of(outcome)),
        };
        let conf =
            ImageConf { ssh_server: self.settings.test.ssh_server, guest_memory: self.setup.guest_memory };
        let groups = images(&recipes);
        let mut names = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            names.push(self.setup.layer.write_image(index + 1, group, conf, self.settings.release)?);
        }
        let message =
            format!("{}: the ptests of {} recipes run in {} images", unit.name, recipes.len(), groups.len());
        self.runner.events.info(message).await;
        let question = Question { images: names.clone(), recipes: Vec::new() };
        let answers = match self.ask(&question).await? {
            Ok(answers) => answers,
            Err(why) => return Ok(ImageEnd::of(Outcome::Failed(why))),
        };
        let mut all: Option<ImageEnd> = None;
        for (name, group) in names.iter().zip(&groups) {
            let image = answers.images.iter().find(|image| image.name == *name);
            let image =
                image.ok_or_else(|| Error::internal(format!("BitBake gave no answer about {name}")))?;
            if let Some(why) = image.skipped.as_ref().or(image.error.as_ref()) {
                let outcome =
                    Outcome::Failed(format!("BitBake cannot build {name} ({}): {why}", group_names(group)));
                all = Some(joined(all, ImageEnd::of(outcome)));
                continue;
            }
            let expected = Expected {
                image: image.basename.clone(),
                machine: self.machine.to_owned(),
                suites: Vec::new(),
                ptests: group.iter().flat_map(|recipe| recipe_ptests(recipe)).collect(),
            };
            let ptests = single_sections(&expected);
            let tests = ImageTests { tests: self, unit, image, expected, ptests };
            let built = tests.build().await?;
            let end = match built.judgement.outcome {
                Ok(Outcome::Passed) => tests.run().await?,
                _ => built,
            };
            let stopped = !matches!(&end.judgement.outcome, Ok(outcome) if !outcome.was_stopped());
            all = Some(joined(all, end));
            if stopped {
                break;
            }
        }
        all.ok_or_else(|| Error::internal("there are recipes with ptests, and no image for them"))
    }
}

fn group_names(group: &[&TestedRecipe]) -> String {
    group.iter().map(|recipe| recipe.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Two images as one: all tests, and the worst outcome.
fn joined(first: Option<ImageEnd>, second: ImageEnd) -> ImageEnd {
    let Some(first) = first else { return second };
    let second_is_worse = match (&first.judgement.outcome, &second.judgement.outcome) {
        (Ok(first), Ok(second)) => {
            Outcome::worst([first, second]).is_some_and(|worst| worst == second && worst != first)
        }
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    };
    let findings: Vec<Finding> = [first.findings, second.findings].concat();
    let tests = [first.judgement.tests, second.judgement.tests].concat();
    let (outcome, log, excerpt) = match second_is_worse {
        true => (second.judgement.outcome, second.log, second.excerpt),
        false => (first.judgement.outcome, first.log, first.excerpt),
    };
    ImageEnd { judgement: Judgement { outcome, tests, by_tests: false }, log, excerpt, findings }
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
        let table: [(&[RecipeAnswer], bool, &str); 9] = [
            (&[], false, "skipped: no recipe that the change affects has ptests"),
            (&[none()], false, "skipped: no recipe that the change affects has ptests"),
            (&[none(), zlib()], false, "zlib"),
            (&[zlib(), disabled()], false, "not-run: DISTRO_FEATURES has no `ptest`"),
            (&[zlib(), broken()], false, "failed: BitBake cannot read base-files: ParseError"),
            (&[none(), zlib()], true, "failed: base-files has no ptests, and [test] ptest names it"),
            (&[skipped.clone()], true, "skipped: zlib: incompatible with machine x"),
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

    #[test]
    fn images_are_one_unit_with_the_worst_outcome() {
        let failed = || ImageEnd::of(Outcome::Failed("x".into()));
        let passed = || ImageEnd::of(Outcome::Passed);
        for (first, second, wanted) in [
            (passed(), failed(), "failed"),
            (failed(), passed(), "failed"),
            (passed(), passed(), "passed"),
            (passed(), ImageEnd::of(Outcome::TimedOut("t".into())), "timed-out"),
        ] {
            let end = joined(Some(first), second);
            assert!(end.judgement.outcome.is_ok_and(|outcome| outcome.word() == wanted), "{wanted}");
        }
    }
}
