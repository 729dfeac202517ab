//! What the change under test affects: the difference between the task signatures of its base and of its head.
//!
//! The base's files are checked out below the work directory. For each machine of the job, the tasks of both sides come
//! from the signature cache or from BitBake ([`sides`]), which sees the base at the path of the checkout. Without one
//! of them, the files of the change decide ([`files`]), and the result has the reason.

mod files;
mod sides;

use std::path::{Path, PathBuf};

use tracing::Instrument;

use crate::config::{Settings, work_tree};
use agent_git::Access;
use agent_process::Runner;
use agent_types::affected::{Affected, Evidence};
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::layer_conf::LayerConf;
use agent_yocto::signatures::{self, ChangedFile, Checkout, Sides, TaskList};

use super::base_files::{self, Wanted, must_stop};
use super::blocking;
use super::cleanup::UnitEnd;
use super::configure::BuildEnvironment;
use super::layers::name;

/// The name of the step.
pub const UNIT: &str = "what the change affects";

/// Compares the checkout under test with its base. `dirty`: it has uncommitted changes.
///
/// # Errors
/// When the job is stopped, or the machine cannot do its part.
pub async fn find(
    settings: &Settings,
    configured: &BuildEnvironment,
    runner: &Runner,
    access: &Access,
    dirty: bool,
) -> Result<Affected> {
    let unit = Unit::new(runner.stage, UNIT);
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let search = Search { settings, configured, runner, access, dirty, unit: unit.clone() };
    let found = search.find().instrument(super::step(&unit)).await;
    let removed = search.remove_files().await;
    let found = super::cleanup::after(found, removed);
    match &found {
        Ok(affected) => {
            runner.events.emit(EventKind::Affected(Box::new(affected.clone()))).await;
            let passed = Outcome::Passed;
            let end = EventKind::UnitFinished { unit, outcome: passed, log: None, excerpt: Vec::new() };
            runner.events.emit(end).await;
        }
        Err(error) => {
            let UnitEnd { unit, outcome, log, excerpt } = UnitEnd::error(unit, error);
            runner.events.emit(EventKind::UnitFinished { unit, outcome, log, excerpt }).await;
        }
    }
    found
}

/// Whether the file belongs to the code of tests (`lib/oeqa/` of a layer).
fn holds_tests(path: &Path) -> bool {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str()).collect();
    parts.windows(2).any(|pair| pair[0] == "lib" && pair[1] == "oeqa")
}

/// The inputs of the search.
struct Search<'a> {
    settings: &'a Settings,
    configured: &'a BuildEnvironment,
    runner: &'a Runner,
    access: &'a Access,
    dirty: bool,
    unit: Unit,
}

/// The checked out base of the change.
struct Base {
    commit: String,
    /// Its files.
    directory: PathBuf,
    changed: Vec<ChangedFile>,
}

impl Search<'_> {
    async fn find(&self) -> Result<Affected> {
        let Some(top) = self.top() else {
            let hint = "let all layers under test lie in one git repository";
            return Err(Error::usage("[build] changed needs a checkout with git").hint(hint));
        };
        let base = match self.base(&top).await {
            Ok(base) => base,
            Err(error) if must_stop(&error) => return Err(error),
            // Without a base, everything counts as affected.
            Err(error) => return self.everything(&top, "", &error.message).await,
        };
        if let Some(why) = self.other_rules(&top, &base) {
            return self.everything(&top, &base.commit, &why).await;
        }
        let mut answers = Vec::new();
        for machine in &self.settings.config.machines {
            let lists = sides::task_lists(self, &top, &base, machine).await?;
            match lists {
                Ok(Some((before, after))) => {
                    answers.push((machine.clone(), self.compare(&top, &base, before, after).await?));
                }
                Ok(None) => {
                    let nothing = Affected { base: base.commit.clone(), ..Affected::default() };
                    answers.push((machine.clone(), nothing));
                }
                Err(why) => return self.by_files(&top, &base, &why).await,
            }
        }
        let mut affected = signatures::merge(answers);
        self.add_tested_images(&base, &mut affected);
        Ok(affected)
    }

    /// Adds the images whose tests changed: the code of tests is not part of any signature.
    fn add_tested_images(&self, base: &Base, affected: &mut Affected) {
        if !self.settings.build.changed || !base.changed.iter().any(|file| holds_tests(&file.path)) {
            return;
        }
        let images = self.settings.test.images.iter().filter(|image| !affected.targets.contains(image));
        let images: Vec<String> = images.cloned().collect();
        affected.targets.extend(images);
    }

    /// The top of the one work tree that holds all layers under test.
    fn top(&self) -> Option<PathBuf> {
        let top = fs_err::canonicalize(work_tree(self.settings.layers.first()?)).ok()?;
        let is_inside = |layer: &PathBuf| layer.starts_with(&top);
        (top.join(".git").exists() && self.settings.layers.iter().all(is_inside)).then_some(top)
    }

    /// The agent's own directories.
    fn own(&self) -> Vec<PathBuf> {
        let settings = self.settings;
        let paths = &settings.paths;
        let own = [&paths.work, &paths.caches, &paths.out, &settings.cache.layers];
        own.into_iter().cloned().collect()
    }

    async fn base(&self, top: &Path) -> Result<Base> {
        let scratch = self.settings.paths.affected();
        self.remove_files().await?;
        fs_err::create_dir_all(&scratch)?;
        let wanted = Wanted { top, dirty: self.dirty, scratch: &scratch };
        let files = base_files::check_out(self.settings, wanted, self.runner, self.access).await?;
        let (before, after, skip) = (files.root.clone(), top.to_owned(), self.own());
        let compare = move || files::changed(&before, &after, &skip);
        let changed = blocking(&self.runner.interrupt, "base and head were compared", compare).await?;
        Ok(Base { commit: files.commit, directory: files.root, changed })
    }

    /// Why the base has other rules than the head: then their signatures cannot be compared. If the rules of the base apply
    /// to the change, both have the same.
    fn other_rules(&self, top: &Path, base: &Base) -> Option<String> {
        let settings = self.settings;
        let manifest = Path::new(&settings.job.manifest).file_name()?;
        base.changed.iter().find_map(|file| {
            let name = file.path.file_name()?;
            let why = if name == "build-agent.lock" {
                format!("{} changed, so the other layers may have other commits", file.path.display())
            } else if name == manifest {
                let keys = files::changed_keys(&base.directory.join(&file.path), &top.join(&file.path))?;
                format!("{keys} of {} changed", file.path.display())
            } else {
                return None;
            };
            (!settings.has_rules_of_base).then_some(why)
        })
    }

    async fn compare(&self, top: &Path, base: &Base, before: TaskList, after: TaskList) -> Result<Affected> {
        let layers = self.layers();
        let settings = self.settings;
        let changed = base.changed.clone();
        let (top, commit) = (top.to_owned(), base.commit.clone());
        let (under_test, targets) = (settings.layers.clone(), settings.compared_targets());
        let compare = move || {
            let sides = Sides {
                base: &before,
                head: &after,
                changed: &changed,
                top: &top,
                under_test: &under_test,
                layers: &layers,
                targets: &targets,
            };
            Ok(signatures::affected(&sides, &commit))
        };
        blocking(&self.runner.interrupt, "the signatures were compared", compare).await
    }

    /// All layers with the names of their collections.
    fn layers(&self) -> Vec<(PathBuf, String)> {
        let all = self.configured.repo_layers.iter().chain(&self.settings.layers);
        let named = |layer: &PathBuf| {
            let conf = LayerConf::read(layer).ok();
            let collection = conf.and_then(|conf| Some(conf.collections.first()?.name.clone()));
            (layer.clone(), collection.unwrap_or_else(|| name(layer)))
        };
        all.map(named).collect()
    }

    async fn by_files(&self, top: &Path, base: &Base, why: &str) -> Result<Affected> {
        let (commit, changed, why) = (base.commit.clone(), base.changed.clone(), why.to_owned());
        self.without_signatures(top, move |checkout| signatures::by_files(checkout, &changed, &commit, &why))
            .await
    }

    /// Every recipe of the layers under test.
    async fn everything(&self, top: &Path, base: &str, why: &str) -> Result<Affected> {
        let (base, why) = (base.to_owned(), why.to_owned());
        self.without_signatures(top, move |checkout| signatures::every_recipe(checkout, &base, &why)).await
    }

    async fn without_signatures(
        &self,
        top: &Path,
        answer: impl FnOnce(&Checkout) -> Affected + Send + 'static,
    ) -> Result<Affected> {
        let (top, layers, skip) = (top.to_owned(), self.settings.layers.clone(), self.own());
        let targets = self.settings.compared_targets();
        let named: Vec<_> = self.layers().into_iter().filter(|(path, _)| layers.contains(path)).collect();
        let read = move || {
            let recipes = signatures::recipes_in(files::recipes(&layers, &skip));
            let checkout = Checkout { top: &top, layers: &named, recipes: &recipes, targets: &targets };
            Ok(answer(&checkout))
        };
        let affected = blocking(&self.runner.interrupt, "the recipes were listed", read).await?;
        if let Evidence::Files(why) = &affected.evidence {
            let hint =
                "all recipes that may use a changed file count as affected: see docs/changed-builds.md";
            let message = format!("signatures do not show what the change affects: {why}");
            self.runner.events.warn(message, Some(hint.into())).await;
        }
        Ok(affected)
    }

    /// Removes the base and the build directories.
    async fn remove_files(&self) -> Result<()> {
        let (scratch, work) = (self.settings.paths.affected(), self.settings.paths.work.clone());
        let removed =
            tokio::task::spawn_blocking(move || agent_fs::remove::remove_tree(&scratch, &work)).await;
        removed.unwrap_or_else(|error| Err(Error::internal("the agent broke").because(&error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_tests_is_recognized() {
        for (path, wanted) in [
            ("lib/oeqa/runtime/cases/x.py", true),
            ("meta-x/lib/oeqa/files/x.c", true),
            ("recipes-x/lib/oeqa.bb", false),
            ("lib/x/lib/oeqa/y.py", true),
            ("oeqa/lib/x.py", false),
            ("lib/oe/x.py", false),
        ] {
            assert_eq!(holds_tests(Path::new(path)), wanted, "{path}");
        }
    }
}
