//! Base and head of a change, and the tasks that differ between them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::changed_files::ChangedFile;
use super::task_list::TaskList;

/// Base and head of a change on one machine.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    pub base: &'a TaskList,
    pub head: &'a TaskList,
    /// Relative to `top`.
    pub changed: &'a [ChangedFile],
    /// The top of the work tree under test, as BitBake sees it.
    pub top: &'a Path,
    /// The layers under test.
    pub under_test: &'a [PathBuf],
    /// All layers with their names.
    pub layers: &'a [(PathBuf, String)],
    /// The manifest's.
    pub targets: &'a [String],
}

impl Sides<'_> {
    /// For people: relative to the checkout under test where it lies inside.
    pub fn shown(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.top).unwrap_or(path).to_owned()
    }

    /// Whether the base does not know a recipe of that name, not even as a skipped one.
    pub fn is_new(&self, name: &str) -> bool {
        !self.base.has_recipe(name) && !self.base.skipped.iter().any(|skipped| skipped.name == name)
    }
}

/// A task by the names of its recipe and itself.
pub type Key<'a> = (&'a str, &'a str);

/// The tasks that differ.
#[derive(Debug, Default)]
pub struct Difference<'a> {
    /// In both, with other signatures: their numbers at the base and at the head.
    pub changed: BTreeMap<Key<'a>, (usize, usize)>,
    /// Only at the head: their numbers there.
    pub added: BTreeMap<Key<'a>, usize>,
    /// Only at the base.
    pub removed: BTreeSet<Key<'a>>,
}

impl<'a> Difference<'a> {
    pub fn of(base: &'a TaskList, head: &'a TaskList) -> Difference<'a> {
        let (base, head) = (keys(base), keys(head));
        let mut difference = Difference::default();
        for (key, (number, hash)) in &head {
            match base.get(key) {
                Some((_, old)) if old == hash => {}
                Some((old, _)) => drop(difference.changed.insert(*key, (*old, *number))),
                None => drop(difference.added.insert(*key, *number)),
            }
        }
        difference.removed = base.keys().filter(|key| !head.contains_key(*key)).copied().collect();
        difference
    }

    pub fn count(&self) -> usize {
        self.changed.len() + self.added.len() + self.removed.len()
    }

    pub fn all(&self) -> impl Iterator<Item = Key<'a>> {
        self.changed.keys().chain(self.added.keys()).chain(&self.removed).copied()
    }
}

/// Number and signature of each task.
fn keys(list: &TaskList) -> HashMap<Key<'_>, (usize, &str)> {
    list.tasks
        .iter()
        .enumerate()
        .map(|(number, task)| {
            let recipe = &list.recipes[task.recipe];
            ((recipe.name.as_str(), task.name.as_str()), (number, task.hash.as_str()))
        })
        .collect()
}
