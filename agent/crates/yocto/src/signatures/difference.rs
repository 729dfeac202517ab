//! Computes what a change affects from the task lists of base and head.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use agent_types::affected::{Affected, AffectedRecipe, Change, Evidence, SkippedRecipe};

use super::causes;
use super::changed_files::FileChange;
use super::sides::{Difference, Sides};
use super::task_list::{Recipe, Skipped, TaskList};

/// What the change from `base` (a commit) affects.
pub fn affected(sides: &Sides, base: &str) -> Affected {
    let difference = Difference::of(sides.base, sides.head);
    let mut by_recipe: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (recipe, task) in difference.all() {
        by_recipe.entry(recipe).or_default().insert(task);
    }
    for name in sides.new_recipes() {
        by_recipe.entry(name).or_default();
    }
    let head: HashMap<&str, &Recipe> = preferred(sides.head);
    let (mut recipes, mut elsewhere) = (Vec::new(), Vec::new());
    for (name, tasks) in &by_recipe {
        // Without a recipe at the head, it is removed or skipped.
        let Some(recipe) = head.get(name) else { continue };
        let entry = AffectedRecipe {
            name: (*name).to_owned(),
            file: Some(sides.shown(&recipe.file)),
            layer: sides.layer_of(&recipe.file),
            change: if sides.is_new(name) { Change::Added } else { Change::Changed },
            tasks: tasks.iter().map(|&task| task.to_owned()).collect(),
            machines: Vec::new(),
        };
        let is_own = sides.head.recipes.iter().any(|one| one.name == *name && one.is_own);
        if is_own { recipes.push(entry) } else { elsewhere.push(entry) }
    }
    let (removed, renamed) = sides.removed();
    let changed: HashSet<&str> = by_recipe.keys().copied().collect();
    Affected {
        base: base.to_owned(),
        evidence: Evidence::Signatures,
        tasks: difference.count() as u64,
        recipes,
        elsewhere,
        roots: causes::roots(sides, &difference),
        removed,
        renamed,
        newly_skipped: sides.newly_skipped(),
        no_longer_skipped: sides.no_longer_skipped(),
        not_buildable: sides.not_buildable(&changed),
        targets: sides.changed_targets(&changed),
    }
}

/// Recipes by name; of several with the same name the one with tasks.
fn preferred(list: &TaskList) -> HashMap<&str, &Recipe> {
    let with_tasks: HashSet<usize> = list.tasks.iter().map(|task| task.recipe).collect();
    let mut found: HashMap<&str, &Recipe> = HashMap::new();
    for (number, recipe) in list.recipes.iter().enumerate() {
        if with_tasks.contains(&number) || !found.contains_key(recipe.name.as_str()) {
            found.insert(&recipe.name, recipe);
        }
    }
    found
}

/// Whether it is a recipe of an SDK. Those count only if something else needs them.
fn is_of_sdk(name: &str) -> bool {
    name.rsplit(':').next().unwrap_or(name).starts_with("nativesdk-")
}

impl<'a> Sides<'a> {
    fn layer_of(&self, file: &Path) -> String {
        let holders = self.layers.iter().filter(|(path, _)| file.starts_with(path));
        let nearest = holders.max_by_key(|(path, _)| path.components().count());
        nearest.map(|(_, name)| name.clone()).unwrap_or_default()
    }

    /// Recipes of the layers under test that only the head has, whether BitBake finds tasks for them or not.
    fn new_recipes(&self) -> Vec<&'a str> {
        let own = self.head.recipes_in(self.under_test).into_keys();
        own.filter(|name| self.is_new(name) && !is_of_sdk(name)).collect()
    }

    /// Recipes that only the base has, and those of them that have another name at the head.
    fn removed(&self) -> (Vec<String>, Vec<(String, String)>) {
        let is_gone = |name: &str| {
            !self.head.has_recipe(name) && !self.head.skipped.iter().any(|skipped| skipped.name == name)
        };
        let mut removed = Vec::new();
        let mut renamed = Vec::new();
        let new = self.head.recipes_in(self.under_test);
        for (name, recipe) in self.base.recipes_in(self.under_test) {
            if !is_gone(name) {
                continue;
            }
            let old_file = self.shown(&recipe.file);
            let new_file = self.changed.iter().find_map(|file| match &file.change {
                FileChange::Renamed(from) if *from == old_file => Some(self.top.join(&file.path)),
                _ => None,
            });
            let is_its_new_name = |(new_name, new): &(&&str, &&Recipe)| {
                Some(&new.file) == new_file.as_ref() && self.is_new(new_name) && same_kind(name, new_name)
            };
            match new.iter().find(is_its_new_name) {
                Some((new_name, _)) => renamed.push((name.to_owned(), (*new_name).to_owned())),
                None => removed.push(name.to_owned()),
            }
        }
        (removed, renamed)
    }

    fn newly_skipped(&self) -> Vec<SkippedRecipe> {
        let is_new =
            |skipped: &&Skipped| self.base.has_recipe(&skipped.name) && !self.head.has_recipe(&skipped.name);
        unique(self.head.skipped.iter().filter(is_new).map(skipped_recipe))
    }

    fn no_longer_skipped(&self) -> Vec<String> {
        let is_back =
            |skipped: &&Skipped| !self.base.has_recipe(&skipped.name) && self.head.has_recipe(&skipped.name);
        let names: BTreeSet<&str> =
            self.base.skipped.iter().filter(is_back).map(|skipped| skipped.name.as_str()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Recipes of the layers under test whose files changed, and of which BitBake has no tasks.
    fn not_buildable(&self, changed: &HashSet<&str>) -> Vec<SkippedRecipe> {
        let own = |file: &Path| self.under_test.iter().any(|layer| file.starts_with(layer));
        let is_known = |name: &str| self.base.has_recipe(name) || self.head.has_recipe(name);
        let was = |skipped: &Skipped| self.base.skipped.iter().find(|old| old.name == skipped.name);
        let skipped = self.head.skipped.iter().filter(|skipped| {
            let another_reason = was(skipped).is_some_and(|old| old.reason != skipped.reason);
            own(&skipped.file)
                && !is_known(&skipped.name)
                && (another_reason || self.has_changed_files(&skipped.file))
        });
        let with_tasks: HashSet<&str> = [self.base, self.head]
            .iter()
            .flat_map(|list| list.tasks.iter().map(|task| list.recipes[task.recipe].name.as_str()))
            .collect();
        // An image of several versions takes one; a recipe may need what nothing provides.
        let without = self.head.recipes.iter().filter(|recipe| {
            own(&recipe.file)
                && !changed.contains(recipe.name.as_str())
                && !with_tasks.contains(recipe.name.as_str())
                && !is_of_sdk(&recipe.name)
                && self.has_changed_files(&recipe.file)
        });
        let reason = "BitBake has no tasks for it, neither at the base nor at the head: something that it needs is missing";
        let without = without.map(|recipe| SkippedRecipe {
            name: recipe.name.clone(),
            reason: reason.to_owned(),
            machine: None,
        });
        unique(skipped.map(skipped_recipe).chain(without))
    }

    /// Whether the recipe's file changed, or one in the directories beside it.
    fn has_changed_files(&self, recipe: &Path) -> bool {
        let directory = recipe.parent().unwrap_or(recipe);
        self.changed.iter().any(|file| {
            let path = self.top.join(&file.path);
            let other_recipe = path.extension().is_some_and(|kind| kind == "bb") && path != recipe;
            path.starts_with(directory) && !other_recipe
        })
    }

    /// The manifest's targets that change, and those that BitBake does not find at the head.
    fn changed_targets(&self, changed: &HashSet<&str>) -> Vec<String> {
        let is_changed = |target: &&String| {
            let found = self.head.targets.iter().filter(|(word, _)| word == *target);
            let mut names = found.map(|(_, recipe)| self.head.recipes[*recipe].name.as_str()).peekable();
            names.peek().is_none() || names.any(|name| changed.contains(name))
        };
        self.targets.iter().filter(is_changed).cloned().collect()
    }
}

/// Whether both are native, both are of the same multilib, and so on.
fn same_kind(one: &str, other: &str) -> bool {
    let is = |what: fn(&str) -> bool| what(one) == what(other);
    is(|name| name.ends_with("-native")) && is(is_of_sdk) && prefix(one) == prefix(other)
}

/// Of a multilib.
fn prefix(name: &str) -> Option<&str> {
    name.split_once('-').map(|(prefix, _)| prefix).filter(|prefix| prefix.starts_with("lib"))
}

fn skipped_recipe(skipped: &Skipped) -> SkippedRecipe {
    SkippedRecipe { name: skipped.name.clone(), reason: skipped.reason.clone(), machine: None }
}

/// Sorted by name, each once.
fn unique(all: impl Iterator<Item = SkippedRecipe>) -> Vec<SkippedRecipe> {
    let mut found: Vec<SkippedRecipe> = all.collect();
    found.sort_by(|one, other| (&one.name, &one.reason).cmp(&(&other.name, &other.reason)));
    found.dedup();
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "difference_tests.rs"]
mod tests;
