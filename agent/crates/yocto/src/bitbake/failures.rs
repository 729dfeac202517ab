//! The failed tasks of a build, and how the lines of BitBake's console name them.

use std::path::PathBuf;

/// How many failed tasks are kept; more are counted only.
pub const FAILURES_KEPT: usize = 50;

/// A task that failed, as BitBake reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// `zlib-1.3.1-r0`, or the recipe's file if BitBake prints only that.
    pub recipe: String,
    /// `do_compile`.
    pub task: String,
    /// `Logfile of failure stored in`. Layer code may have written this line: not to be trusted.
    pub log: Option<PathBuf>,
    /// `[mc:NAME:]FILE:TASK`, if BitBake prints it.
    pub id: Option<String>,
}

/// The failed tasks of a build.
#[derive(Debug, Default)]
pub struct Failures {
    /// The first ones.
    pub list: Vec<Failure>,
    pub total: u64,
}

impl Failures {
    /// Adds a failed task.
    pub fn push(&mut self, failure: Failure) {
        self.total += 1;
        if self.list.len() < FAILURES_KEPT {
            self.list.push(failure);
        }
    }

    /// `NOTE: recipe zlib-1.3.1-r0: task do_compile: Failed`. BitBake prints up to three lines for a failed task.
    pub fn task(&mut self, recipe: &str, task: &str) {
        if let Some(open) = self.list.last_mut().filter(|last| last.recipe.is_empty()) {
            open.recipe = recipe.into();
            open.task = task.into();
            return;
        }
        self.push(Failure { recipe: recipe.into(), task: task.into(), ..Failure::default() });
    }

    /// `ERROR: Logfile of failure stored in: …`. The name of the task comes with a later line.
    pub fn logfile(&mut self, log: &str) {
        self.push(Failure { log: Some(log.into()), ..Failure::default() });
    }

    /// `ERROR: Task (…/zlib_1.3.1.bb:do_compile) failed …`, after the lines above or alone.
    pub fn task_error(&mut self, file: &str, task: &str) {
        let recipe = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".bb");
        let name = recipe.split('_').next().unwrap_or(recipe);
        let known = |failure: &Failure| {
            failure.recipe.is_empty() || (failure.task == task && failure.recipe.contains(name))
        };
        if !self.list.iter().any(known) {
            self.task(recipe, task);
        }
        let Some(index) = self.list.iter().position(known) else { return };
        let failure = &mut self.list[index];
        if failure.recipe.is_empty() {
            failure.recipe = recipe.into();
            failure.task = task.into();
        }
        failure.id.get_or_insert_with(|| format!("{file}:{task}"));
    }
}
