//! The ptests of recipes in images that the agent makes for them: as few as conflicts allow.

use agent_types::error::{Error, Result};
use agent_types::events::{Finding, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::testimage::conflicts::{TestedRecipe, images};
use agent_yocto::testimage::layer::ImageConf;
use agent_yocto::testimage::query::{Answers, TestQuery};
use agent_yocto::testimage::verdict::{Expected, Judgement};

use super::context::MachineTests;
use super::image::{ImageEnd, ImageTests, recipe_ptests, single_sections};
use super::testable::{Testable, skipped, testable};

impl MachineTests<'_> {
    /// Makes the images and tests them, one after another.
    pub async fn ptests(&self, unit: &Unit, answers: &Answers) -> Result<ImageEnd> {
        let recipe_answers = &answers.recipes;
        let recipes = match testable(self.settings, recipe_answers) {
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
        let query = TestQuery { images: names.clone(), recipes: Vec::new() };
        let answers = match self.query(&query).await? {
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
        let mut end =
            all.ok_or_else(|| Error::internal("there are recipes with ptests, and no image for them"))?;
        end.judgement.tests.extend(skipped(self.settings, recipe_answers));
        Ok(end)
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
