//! Builds what a change affects for one machine: the recipes and targets, and the outcome of each.

use std::path::PathBuf;

use agent_types::affected::{Affected, AffectedRecipe, ReverseDependencies, SkippedRecipe};
use agent_types::outcome::Outcome;
use agent_yocto::bitbake_recipes::{Recipe, RecipeLog};
use agent_yocto::task_failure::TaskFailure;

use super::failed_task::FailedTask;

/// The task of a target that names none.
const BUILD: &str = "do_build";
/// The task that fetches.
pub const FETCH: &str = "do_fetch";

/// A recipe or a target that is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// As BitBake's argument.
    pub target: String,
    recipe: Recipe,
    task: String,
    /// Whether its source is fetched first.
    pub is_fetched: bool,
}

impl Wanted {
    fn recipe(recipe: &AffectedRecipe) -> Wanted {
        // BitBake may see a file of another layer by another path.
        let file: Option<PathBuf> = recipe.file.clone().filter(|file| file.is_relative());
        Wanted {
            target: recipe.name.clone(),
            recipe: Recipe { name: recipe.name.clone(), file },
            task: BUILD.into(),
            // OE-Core deletes the task from groups of packages.
            is_fetched: !recipe.name.contains("packagegroup-"),
        }
    }

    fn target(target: &str) -> Wanted {
        let (name, task) = match target.rsplit_once(":do_") {
            Some((name, task)) => (name, format!("do_{task}")),
            None => (target, BUILD.to_owned()),
        };
        let recipe = Recipe { name: name.to_owned(), file: None };
        Wanted { target: target.to_owned(), recipe, task, is_fetched: false }
    }

    /// The target that fetches its source.
    pub fn fetch_target(&self) -> String {
        format!("{}:{FETCH}", self.recipe.name)
    }

    /// Whether BitBake reached its last task.
    fn is_reached(&self, log: &RecipeLog) -> bool {
        log.has_reached(&self.recipe, &self.task)
    }

    /// Whether BitBake fetched its source, or did not need to.
    pub fn is_source_reached(&self, log: &RecipeLog) -> bool {
        log.has_reached(&self.recipe, FETCH)
    }

    /// Whether it has no task that fetches.
    pub fn lacks_fetch(&self, log: &RecipeLog) -> bool {
        log.lacks_task(&self.recipe)
    }

    /// The identities of its failed tasks.
    pub fn failed_ids<'a>(&self, log: &'a RecipeLog) -> Vec<&'a str> {
        log.failures(&self.recipe).into_iter().map(|(id, _)| id).collect()
    }

    /// Its failure, if one of its tasks failed.
    pub fn failure(&self, log: &RecipeLog, failed: &[FailedTask]) -> Option<Outcome> {
        let own = self.failed_ids(log);
        let first = own.first()?;
        let task = first.rsplit_once(':').map_or("a task", |(_, task)| task);
        let known = failed.iter().find(|one| one.failure.id.as_deref() == Some(*first));
        Some(match known.map(|one| &one.cause) {
            Some(TaskFailure::Upstream(line)) => {
                Outcome::NotRun(format!("{task}: the server of its source does not answer: {line}"))
            }
            Some(TaskFailure::Memory(line)) => Outcome::NotRun(format!("{task}: memory ran out: {line}")),
            Some(TaskFailure::Disk(line)) => Outcome::NotRun(format!("{task}: the disk is full: {line}")),
            Some(TaskFailure::Layer) | None => {
                let more = own.len() - 1;
                let and = if more > 0 { format!(" and {more} more") } else { String::new() };
                Outcome::Failed(format!("{task} failed{and}"))
            }
        })
    }

    /// Why it cannot be built, if BitBake printed it. A recipe that is skipped for this machine or distro is not a failure.
    pub fn unbuildable(&self, log: &RecipeLog) -> Option<Outcome> {
        let missing = log.why_unbuildable(&self.recipe)?;
        let why = missing.describe();
        let needs =
            if missing.needed_by.is_empty() { why } else { format!("it needs `{}`: {why}", missing.item) };
        Some(if missing.is_skipped() { Outcome::Skipped(needs) } else { Outcome::Failed(needs) })
    }

    /// Its outcome in a run with this outcome. `others`: the other failures, for messages.
    pub fn outcome(&self, run: &Outcome, log: &RecipeLog, failed: &[FailedTask], others: &str) -> Outcome {
        if *run == Outcome::Passed {
            return Outcome::Passed;
        }
        if let Some(failure) = self.failure(log, failed) {
            return failure;
        }
        if self.is_reached(log) {
            return Outcome::Passed;
        }
        if run.was_stopped() {
            return run.clone();
        }
        self.unbuildable(log).unwrap_or_else(|| Outcome::NotRun(format!("not built: {others}")))
    }
}

/// What is built for one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub build: Vec<Wanted>,
    /// What this machine does not build, with BitBake's reason.
    pub skipped: Vec<SkippedRecipe>,
}

/// Selects what to build for the machine. `targets`: those of the manifest.
pub fn select(
    affected: &Affected,
    targets: &[String],
    reverse: ReverseDependencies,
    machine: &str,
) -> Selection {
    let is_skipped = |name: &str| {
        affected.not_buildable.iter().any(|skipped| skipped.name == name && is_for(skipped, machine))
    };
    let recipes = affected.to_build(machine, reverse).into_iter().filter(|recipe| !is_skipped(&recipe.name));
    let mut build: Vec<Wanted> = recipes.map(Wanted::recipe).collect();
    for target in affected.targets.iter().filter(|target| targets.contains(target)) {
        if build.iter().all(|wanted| wanted.target != *target) {
            build.push(Wanted::target(target));
        }
    }
    let skipped = affected.not_buildable.iter().filter(|skipped| is_for(skipped, machine)).cloned().collect();
    Selection { build, skipped }
}

fn is_for(skipped: &SkippedRecipe, machine: &str) -> bool {
    skipped.machine.as_deref().is_none_or(|only| only == machine)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use agent_types::affected::Change;
    use agent_yocto::bitbake::Failure;

    fn recipe(name: &str) -> AffectedRecipe {
        AffectedRecipe {
            name: name.into(),
            file: Some(format!("recipes/{name}/{name}_1.bb").into()),
            layer: "x".into(),
            change: Change::Changed,
            tasks: Vec::new(),
            machines: Vec::new(),
        }
    }

    #[test]
    fn recipes_and_changed_targets_are_selected_once() {
        let skipped = |name: &str, machine: Option<&str>| SkippedRecipe {
            name: name.into(),
            reason: "incompatible".into(),
            machine: machine.map(str::to_owned),
        };
        let affected = Affected {
            recipes: vec![recipe("a"), recipe("only-arm"), recipe("packagegroup-x"), recipe("nowhere")],
            elsewhere: vec![recipe("image")],
            not_buildable: vec![skipped("only-arm", Some("x86")), skipped("nowhere", None)],
            targets: vec!["a".into(), "image".into(), "mc:m:b:do_deploy".into(), "only-tested".into()],
            ..Affected::default()
        };
        let targets = ["a", "image", "mc:m:b:do_deploy", "unchanged"].map(str::to_owned);
        for (machine, names, left_out) in [
            ("x86", &["a", "packagegroup-x", "image", "mc:m:b:do_deploy"][..], 2),
            ("arm", &["a", "only-arm", "packagegroup-x", "image", "mc:m:b:do_deploy"], 1),
        ] {
            let selection = select(&affected, &targets, ReverseDependencies::Layer, machine);
            let found: Vec<&str> = selection.build.iter().map(|wanted| wanted.target.as_str()).collect();
            assert_eq!((found, selection.skipped.len()), (names.to_vec(), left_out), "{machine}");
            let fetched: Vec<String> =
                selection.build.iter().filter(|one| one.is_fetched).map(Wanted::fetch_target).collect();
            assert!(
                fetched.iter().all(|target| ["a:do_fetch", "only-arm:do_fetch"].contains(&target.as_str()))
            );
            let target = selection.build.last().unwrap();
            assert_eq!((target.recipe.name.as_str(), target.task.as_str()), ("mc:m:b", "do_deploy"));
        }
        assert_eq!(
            select(&Affected::default(), &[], ReverseDependencies::All, "x"),
            Selection { build: vec![], skipped: vec![] }
        );
    }

    /// The lines of BitBake's console, and the outcome of the recipe `a`.
    #[test]
    fn each_recipe_has_the_outcome_of_its_tasks() {
        let done = "NOTE: Running noexec task 9 of 9 (/l/recipes/a/a_1.bb:do_build)";
        let failed = "ERROR: Task (/l/recipes/a/a_1.bb:do_compile) failed with exit code '1'";
        let other = "ERROR: Task (/l/recipes/b/b_1.bb:do_compile) failed with exit code '1'";
        let skipped = "ERROR: Nothing PROVIDES 'a'\na was skipped: incompatible with machine x";
        let missing =
            "ERROR: Nothing PROVIDES 'gone' (but /l/recipes/a/a_1.bb DEPENDS on or otherwise requires it)";
        let failed_run = Outcome::Failed("b-1-r0:do_compile failed".into());
        let out_of_time = Outcome::TimedOut("[limits] job is over".into());
        let not_built = Outcome::NotRun("not built: b failed".into());
        for (run, lines, wanted) in [
            (&Outcome::Passed, "", Outcome::Passed),
            (&failed_run, done, Outcome::Passed),
            (&failed_run, failed, Outcome::Failed("do_compile failed".into())),
            (&failed_run, &format!("{done}\n{failed}"), Outcome::Failed("do_compile failed".into())),
            (&failed_run, other, not_built.clone()),
            (&failed_run, skipped, Outcome::Skipped("a was skipped: incompatible with machine x".into())),
            (&failed_run, missing, Outcome::Failed("it needs `gone`: nothing provides `gone`".into())),
            (&out_of_time, "", out_of_time.clone()),
            (&out_of_time, done, Outcome::Passed),
            (&out_of_time, failed, Outcome::Failed("do_compile failed".into())),
        ] {
            let mut log = RecipeLog::default();
            lines.lines().for_each(|line| log.line(line));
            let found = Wanted::recipe(&recipe("a")).outcome(run, &log, &[], "b failed");
            assert_eq!(found, wanted, "{run:?} {lines}");
        }
    }

    #[test]
    fn faults_of_servers_and_machines_are_not_failures_of_a_recipe() {
        let mut log = RecipeLog::default();
        log.line("ERROR: Task (/l/recipes/a/a_1.bb:do_fetch) failed with exit code '1'");
        let id = Some("/l/recipes/a/a_1.bb:do_fetch".to_owned());
        let failure = Failure { recipe: "a-1-r0".into(), task: FETCH.into(), id, ..Failure::default() };
        for (cause, word) in [
            (TaskFailure::Upstream("x".into()), "not-run"),
            (TaskFailure::Memory("x".into()), "not-run"),
            (TaskFailure::Disk("x".into()), "not-run"),
            (TaskFailure::Layer, "failed"),
        ] {
            let failed = [FailedTask::new(failure.clone(), cause.clone())];
            let run = Outcome::Failed("x".into());
            let found = Wanted::recipe(&recipe("a")).outcome(&run, &log, &failed, "");
            assert_eq!(found.word(), word, "{cause:?}: {found:?}");
        }
    }
}
