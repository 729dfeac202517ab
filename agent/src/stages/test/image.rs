//! The tests of one image: it is built, its system is tested, and failed tests run again if the manifest has `reruns`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_types::error::{Error, Result};
use agent_types::events::{Finding, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::testimage::cases::{Plan, SUITE};
use agent_yocto::testimage::conf::{RESULTS, Target};
use agent_yocto::testimage::conflicts::TestedRecipe;
use agent_yocto::testimage::console;
use agent_yocto::testimage::query::{
    Answers, RecipeAnswer, TestedImage, ptest_packages, sections_of_files, sections_of_name,
};
use agent_yocto::testimage::reruns::{apply_known, merge_rerun};
use agent_yocto::testimage::results::Run;
use agent_yocto::testimage::verdict::{Evidence, Expected, JudgedTest, Judgement, judge};

use super::super::blocking;
use super::context::MachineTests;
use super::testable::{Testable, testable};
use super::tool::{TestTask, ToolEnd};
use crate::config::{FlakyTests, TestRunner};

/// Added to the limit of the manifest: a system needs time to boot, and OE-Core to write its results.
const BOOT: Duration = Duration::from_secs(1200);
const SLOW_BOOT: Duration = Duration::from_secs(3300);

/// The result of the tests of an image.
pub struct ImageEnd {
    pub judgement: Judgement,
    pub log: Option<PathBuf>,
    pub excerpt: Vec<String>,
    pub findings: Vec<Finding>,
}

impl ImageEnd {
    /// An end without tests.
    pub fn of(outcome: Outcome) -> ImageEnd {
        let judgement = Judgement { outcome: Ok(outcome), tests: Vec::new(), by_tests: false };
        ImageEnd { judgement, log: None, excerpt: Vec::new(), findings: Vec::new() }
    }
}

/// The tests of one image.
pub struct ImageTests<'a> {
    pub tests: &'a MachineTests<'a>,
    pub unit: &'a Unit,
    pub image: &'a TestedImage,
    pub expected: Expected,
    /// Which ptests the agent's suite runs; `None`: all that the image has.
    pub ptests: Option<Vec<String>>,
}

impl MachineTests<'_> {
    /// An image of the manifest. `recipes`: whose ptests run with its other tests.
    pub async fn image(
        &self,
        unit: &Unit,
        name: &str,
        answers: &Answers,
        recipes: Option<&[RecipeAnswer]>,
    ) -> Result<ImageEnd> {
        let Some(image) = answers.images.iter().find(|image| image.name == name) else {
            return Err(Error::internal(format!("BitBake gave no answer about {name}")));
        };
        if let Some(why) = &image.skipped {
            return Ok(ImageEnd::of(Outcome::Skipped(why.clone())));
        }
        if let Some(why) = &image.error {
            return Ok(ImageEnd::of(Outcome::Failed(format!("BitBake cannot read {name}: {why}"))));
        }
        let mut suites = self.setup.suites.clone();
        let mut image_tests = ImageTests {
            tests: self,
            unit,
            image,
            expected: Expected {
                image: image.basename.clone(),
                machine: self.machine.to_owned(),
                ..Expected::default()
            },
            ptests: None,
        };
        let built = image_tests.build().await?;
        if built.judgement.outcome != Ok(Outcome::Passed) {
            return Ok(built);
        }
        match recipes {
            Some(recipes) => match testable(self.settings, recipes) {
                Testable::Recipes(recipes) => {
                    image_tests.expected.ptests = recipes.iter().flat_map(recipe_ptests).collect();
                    image_tests.ptests = single_sections(&image_tests.expected);
                }
                Testable::Nothing(Outcome::Skipped(_)) => {
                    image_tests.ptests = Some(Vec::new());
                    suites.retain(|suite| suite != SUITE);
                }
                Testable::Nothing(outcome) => return Ok(ImageEnd::of(outcome)),
            },
            None if suites.iter().any(|suite| suite == SUITE) || suites.is_empty() && image.ptests => {
                match image_tests.ptests_of_manifest() {
                    Ok(expected) => image_tests.expected.ptests = expected,
                    Err(why) => return Ok(ImageEnd::of(Outcome::Failed(why))),
                }
                image_tests.ptests = single_sections(&image_tests.expected);
            }
            None => {}
        }
        image_tests.expected.suites = suites;
        image_tests.run().await
    }
}

/// The packages of a recipe with tests, each with the sections that may stand for it.
pub fn recipe_ptests(recipe: &TestedRecipe) -> BTreeMap<String, BTreeSet<String>> {
    let of = |package: &String| match recipe.section() {
        // The recipe has one directory for its tests.
        Some(section) if recipe.ptests.len() == 1 => BTreeSet::from([section.to_owned()]),
        _ => sections_of_name(package).into_iter().collect(),
    };
    recipe.ptests.iter().map(|package| (package.clone(), of(package))).collect()
}

/// The sections to run, if each package has exactly one.
pub fn single_sections(expected: &Expected) -> Option<Vec<String>> {
    let mut sections = BTreeSet::new();
    for of_package in expected.ptests.values() {
        match of_package.iter().collect::<Vec<_>>().as_slice() {
            [only] => sections.insert((*only).clone()),
            _ => return None,
        };
    }
    Some(sections.into_iter().collect::<Vec<_>>()).filter(|sections| !sections.is_empty())
}

impl ImageTests<'_> {
    fn machine(&self) -> &str {
        self.tests.machine
    }

    /// Builds the image; passed, or why there is nothing to test.
    pub async fn build(&self) -> Result<ImageEnd> {
        let name = &self.image.name;
        let end = self.tests.build_image(self.unit, name).await?;
        let outcome = match end.verdict {
            Ok(Outcome::Failed(why)) => Ok(Outcome::Failed(format!("{name} could not be built: {why}"))),
            other => other,
        };
        let judgement = Judgement { outcome, tests: Vec::new(), by_tests: false };
        Ok(ImageEnd { judgement, log: Some(end.log), excerpt: end.excerpt, findings: Vec::new() })
    }

    /// The packages with ptests that the image has, by its manifest, each with the sections that may stand for it.
    fn ptests_of_manifest(&self) -> std::result::Result<BTreeMap<String, BTreeSet<String>>, String> {
        let manifest = PathBuf::from(format!("{}.manifest", self.image.files));
        let text = self.tests.files(&manifest).text(&manifest).ok_or_else(|| {
            format!("`{}` cannot be read, so the ptests that should run are not known", manifest.display())
        })?;
        let of = |package: &String| -> BTreeSet<String> {
            let file = self.image.pkgdata.as_ref().map(|dir| Path::new(dir).join("runtime").join(package));
            let known = file.and_then(|file| self.tests.files(&file).text(&file));
            let by_files = known.map(|text| sections_of_files(&text)).unwrap_or_default();
            let sections = if by_files.is_empty() { sections_of_name(package) } else { by_files };
            sections.into_iter().collect()
        };
        Ok(ptest_packages(&text).into_iter().map(|package| (package.clone(), of(&package))).collect())
    }

    /// Tests the image, with reruns if tests fail.
    pub async fn run(&self) -> Result<ImageEnd> {
        let settings = self.tests.settings;
        let known = &settings.check.known_failures;
        let (mut judgement, mut end) = self.attempt(&self.expected, self.ptests.clone(), 0).await?;
        for rerun in 1..=settings.test.reruns {
            let mut forgiven = judgement.clone();
            apply_known(&mut forgiven, known, &self.expected, self.unit);
            let failed = matches!(forgiven.outcome, Ok(Outcome::Failed(_))) && forgiven.by_tests;
            if !failed || self.tests.runner.interrupt.state().is_some() {
                break;
            }
            let message = format!(
                "{}: tests failed; they run again ({rerun} of {})",
                self.unit.name, settings.test.reruns
            );
            self.tests.runner.events.info(message).await;
            let (expected, ptests) = self.what_failed(&forgiven);
            let (again, ended) = self.attempt(&expected, ptests, rerun).await?;
            merge_rerun(&mut judgement, again, &self.expected);
            end = ended;
        }
        let mut findings = apply_known(&mut judgement, known, &self.expected, self.unit);
        findings.extend(self.flaky(&mut judgement));
        Ok(ImageEnd { judgement, log: Some(end.log), excerpt: end.excerpt, findings })
    }

    /// What a rerun tests: only the ptests that failed, if nothing else failed.
    fn what_failed(&self, judgement: &Judgement) -> (Expected, Option<Vec<String>>) {
        let failed: Vec<&JudgedTest> =
            judgement.tests.iter().filter(|test| !test.outcome.is_success()).collect();
        let sections: Option<BTreeSet<&str>> = failed.iter().map(|test| test.section()).collect();
        let (Some(sections), Some(all)) = (sections, &self.ptests) else {
            return (self.expected.clone(), self.ptests.clone());
        };
        let mut expected = self.expected.clone();
        expected
            .ptests
            .retain(|_, of_package| of_package.iter().any(|name| sections.contains(name.as_str())));
        let wanted = all.iter().filter(|name| sections.contains(name.as_str())).cloned().collect();
        (expected, Some(wanted))
    }

    /// A finding for each flaky test. With `flaky = "fail"`, the image fails.
    fn flaky(&self, judgement: &mut Judgement) -> Vec<Finding> {
        let flaky = judgement.tests.iter().filter(|test| matches!(test.outcome, Outcome::Flaky(_)));
        let hint = "find out why it does not always pass; with [test] flaky = \"fail\", it fails the image";
        let finding = |test: &JudgedTest| {
            let message = format!("{} {}", test.id(), test.outcome.reason().unwrap_or_default());
            Finding::warning(self.unit, "flaky-test", message, hint)
        };
        let findings: Vec<Finding> = flaky.map(finding).collect();
        let policy = self.tests.settings.test.flaky;
        if policy == FlakyTests::Fail && matches!(judgement.outcome, Ok(Outcome::Passed)) {
            let first = judgement.tests.iter().find(|test| matches!(test.outcome, Outcome::Flaky(_)));
            if let Some(first) = first {
                judgement.outcome =
                    Ok(Outcome::Failed(format!("{} is flaky ([test] flaky = \"fail\")", first.id())));
            }
        }
        findings
    }

    /// Tests the image once. A guest that crashed is restarted for the ptests that it did not reach.
    async fn attempt(
        &self,
        expected: &Expected,
        ptests: Option<Vec<String>>,
        rerun: u32,
    ) -> Result<(Judgement, ToolEnd)> {
        let (mut remaining, mut boot) = (ptests, 0);
        let Boot { mut end, mut runs, mut faults } = self.boot(remaining.clone(), rerun, boot).await?;
        while let (Ok(done), Some(wanted), Target::Qemu { .. }) =
            (&runs, &remaining, &self.tests.setup.target)
        {
            let has =
                |name: &String| done.iter().flat_map(|run| run.sections.keys()).any(|id| id.name == *name);
            let left: Vec<String> = wanted.iter().filter(|name| !has(name)).cloned().collect();
            let was_stopped = matches!(&end.verdict, Ok(outcome) if outcome.was_stopped());
            // Each boot must have results.
            if left.is_empty() || left.len() == wanted.len() || was_stopped || end.verdict.is_err() {
                break;
            }
            boot += 1;
            let message =
                format!("{}: the system crashed; it is restarted for {}", self.unit.name, left.join(", "));
            self.tests.runner.events.info(message).await;
            remaining = Some(left);
            let next = self.boot(remaining.clone(), rerun, boot).await?;
            runs = runs.and_then(|runs| Ok([runs, next.runs?].concat()));
            faults.extend(next.faults);
            end = worse(end, next.end);
        }
        let evidence = Evidence { tool: end.verdict.clone(), runs, only_tests_failed: end.only_tests_failed };
        let mut judgement = judge(expected, &evidence);
        self.add_faults(&mut judgement, faults);
        Ok((judgement, end))
    }

    /// Adds the faults on the console that no ptest reports.
    fn add_faults(&self, judgement: &mut Judgement, faults: Vec<(String, String)>) {
        for (name, what) in faults {
            let has_it = |test: &JudgedTest| test.outcome.reason().is_some_and(|why| why.contains(&what));
            if judgement.tests.iter().any(has_it) {
                continue;
            }
            let outcome = Outcome::Failed(what.clone());
            if let Ok(Outcome::Passed) = judgement.outcome {
                judgement.outcome = Ok(Outcome::Failed(format!("console.{name}: {what}")));
            }
            judgement.tests.push(JudgedTest {
                class: "console".into(),
                name,
                outcome,
                message: String::new(),
                seconds: None,
            });
        }
    }

    /// Starts the system once and tests it.
    async fn boot(&self, ptests: Option<Vec<String>>, rerun: u32, boot: u32) -> Result<Boot> {
        let (tests, name) = (self.tests, &self.image.name);
        let settings = tests.settings;
        let exports = settings.test.runner == TestRunner::OeTest;
        let logs = match (&self.image.logs, exports) {
            (Some(logs), false) => PathBuf::from(logs),
            _ => tests.export_logs(name),
        };
        let plan =
            Plan { ptests, silence: settings.test.silence.as_secs(), logs: logs.display().to_string() };
        tests.setup.layer.write_plan(&plan)?;
        let (work, dir, old_logs) = (settings.paths.work.clone(), settings.paths.test(), logs.clone());
        let clear = move || {
            agent_fs::remove::remove_tree(&dir.join(RESULTS), &work)?;
            match old_logs.starts_with(&work) {
                true => agent_fs::remove::remove_tree(&old_logs, &work),
                false => Ok(()),
            }
        };
        blocking(&tests.runner.interrupt, "older results were removed", clear).await?;
        let slow = matches!(tests.setup.target, Target::Qemu { kvm: false });
        let timeout = settings.test.timeout + if slow { SLOW_BOOT } else { BOOT };
        let again = match (rerun, boot) {
            (0, 0) => String::new(),
            (rerun, 0) => format!("-again-{rerun}"),
            (rerun, boot) => format!("-again-{rerun}-{boot}"),
        };
        let task = if exports { "testexport" } else { "testimage" };
        let log = format!("{task}-{name}-{}{again}", self.machine());
        let run = TestTask { image: name, name: task, log, timeout, logs: &logs };
        let mut end = tests.run_task(self.unit, run).await?;
        if exports && end.verdict == Ok(Outcome::Passed) {
            let Target::Ssh(target) = &tests.setup.target else {
                return Err(Error::internal("oe-test has no system that answers ssh"));
            };
            end = tests.oe_test(self.unit, name, target, &tests.setup.layer, timeout).await?;
        }
        let files = tests.files(Path::new(RESULTS));
        // Existing results are also read after a stop.
        let runs = tokio::task::spawn_blocking(move || files.runs(Path::new(RESULTS))).await;
        let runs = runs
            .map_err(|error| Error::internal("the thread that reads the results panicked").because(&error))?;
        let text = tests.files(&logs).consoles(&logs);
        let mut faults = Vec::new();
        if !text.trim().is_empty() {
            let kept = tests.runner.keep_text(&format!("console-{name}-{}{again}", self.machine()), &text);
            if let Err(error) = kept {
                tests.runner.events.warn(error.message, error.hint).await;
            }
            let found = console::faults(&text);
            faults.extend(found.panic.map(|panic| ("kernel".to_owned(), panic)));
            faults.extend(found.out_of_memory.into_iter().next().map(|line| ("memory".to_owned(), line)));
        }
        Ok(Boot { end, runs, faults })
    }
}

/// The results of one boot of the system.
struct Boot {
    end: ToolEnd,
    runs: std::result::Result<Vec<Run>, String>,
    /// Faults on the console: a name, and the kernel's message.
    faults: Vec<(String, String)>,
}

/// The end that is worse; of equal ones the first.
fn worse(first: ToolEnd, second: ToolEnd) -> ToolEnd {
    let second_is_worse = match (&first.verdict, &second.verdict) {
        (Ok(first), Ok(second)) => {
            Outcome::worst([first, second]).is_some_and(|worst| worst == second && worst != first)
        }
        (Ok(_), Err(_)) => true,
        _ => false,
    };
    let only_tests_failed = match (&first.verdict, &second.verdict) {
        (Ok(Outcome::Failed(_)), Ok(Outcome::Failed(_))) => {
            first.only_tests_failed && second.only_tests_failed
        }
        _ if second_is_worse => second.only_tests_failed,
        _ => first.only_tests_failed,
    };
    ToolEnd { only_tests_failed, ..if second_is_worse { second } else { first } }
}
