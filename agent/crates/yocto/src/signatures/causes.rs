//! Why tasks changed: the variable, the file or the dependency that differs, from the task lists of base and head.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::Path;

use agent_types::affected::Root;

use super::changed_files::{ChangedFile, FileChange};
use super::sides::{Difference, Key, Sides};
use super::task_list::{Task, TaskList};

/// With more causes than this, equal causes of different recipes are reported as one.
const MOST: usize = 300;
/// Maximum number of reported causes.
const REPORTED: usize = 100;
/// Maximum number of names in one cause.
const NAMES: usize = 3;

/// The causes, the most far-reaching first.
pub fn roots(sides: &Sides, difference: &Difference) -> Vec<Root> {
    let head = sides.head;
    let numbers: BTreeSet<usize> = difference
        .changed
        .values()
        .map(|(_, number)| *number)
        .chain(difference.added.values().copied())
        .collect();
    let is_root = |number: usize| !head.tasks[number].depends.iter().any(|one| numbers.contains(one));
    let mut causes: BTreeMap<(&str, String), Vec<(Key, usize)>> = BTreeMap::new();
    for (key, (old, number)) in difference.changed.iter().filter(|(_, (_, number))| is_root(*number)) {
        let cause = cause(sides, (*old, *number));
        causes.entry((key.0, cause)).or_default().push((*key, *number));
    }
    for (key, number) in difference.added.iter().filter(|(_, number)| is_root(**number)) {
        let cause = if sides.is_new(key.0) { "the recipe is new" } else { "the task is new" };
        causes.entry((key.0, cause.to_owned())).or_default().push((*key, *number));
    }
    let mut groups: Vec<(String, Vec<(Key, usize)>)> = if causes.len() > MOST {
        let mut together: BTreeMap<String, Vec<(Key, usize)>> = BTreeMap::new();
        for ((_, cause), tasks) in causes {
            together.entry(cause).or_default().extend(tasks);
        }
        together.into_iter().collect()
    } else {
        causes.into_iter().map(|((_, cause), tasks)| (cause, tasks)).collect()
    };
    groups.sort_by_key(|(_, tasks)| std::cmp::Reverse(tasks.len()));
    groups.truncate(MOST);
    let dependents = dependents(head, &numbers);
    let root = |(cause, tasks): (String, Vec<(Key, usize)>)| {
        let reached = |from: &[usize]| reached(&dependents, from).len() as u64;
        // The task with the most dependents represents all of them.
        let (key, _) =
            tasks.iter().max_by_key(|(key, number)| (reached(&[*number]), std::cmp::Reverse(*key)))?;
        let all: Vec<usize> = tasks.iter().map(|(_, number)| *number).collect();
        Some(Root { recipe: key.0.to_owned(), task: key.1.to_owned(), cause, tasks: reached(&all) })
    };
    let mut roots: Vec<Root> = groups.into_iter().filter_map(root).collect();
    roots.sort_by(|one, other| {
        (other.tasks, &one.recipe, &one.task).cmp(&(one.tasks, &other.recipe, &other.task))
    });
    roots.truncate(REPORTED);
    roots
}

/// Of each of these tasks those that depend on it directly.
fn dependents(head: &TaskList, numbers: &BTreeSet<usize>) -> HashMap<usize, Vec<usize>> {
    let mut found: HashMap<usize, Vec<usize>> = HashMap::new();
    for number in numbers {
        for dependency in head.tasks[*number].depends.iter().filter(|one| numbers.contains(one)) {
            found.entry(*dependency).or_default().push(*number);
        }
    }
    found
}

/// These tasks, and all that depend on them.
fn reached(dependents: &HashMap<usize, Vec<usize>>, from: &[usize]) -> BTreeSet<usize> {
    let mut found: BTreeSet<usize> = from.iter().copied().collect();
    let mut open = from.to_vec();
    while let Some(number) = open.pop() {
        for next in dependents.get(&number).into_iter().flatten() {
            if found.insert(*next) {
                open.push(*next);
            }
        }
    }
    found
}

/// Why a task changed although none of its dependencies changed. `tasks`: its numbers at the base and at the head.
fn cause(sides: &Sides, (old, new): (usize, usize)) -> String {
    let (before, after) = (&sides.base.tasks[old], &sides.head.tasks[new]);
    let mut causes = Vec::new();
    causes.extend(files(sides, before, after));
    if before.basehash != after.basehash {
        causes.push(variables(sides, before, after));
    }
    let names = |list: &TaskList, task: &Task| -> BTreeSet<String> {
        let name = |number: &usize| {
            let task = &list.tasks[*number];
            format!("{}:{}", list.recipes[task.recipe].name, task.name)
        };
        task.depends.iter().map(name).collect()
    };
    let (then, now) = (names(sides.base, before), names(sides.head, after));
    let more: Vec<&String> = now.difference(&then).collect();
    let less: Vec<&String> = then.difference(&now).collect();
    causes.extend((!more.is_empty()).then(|| format!("it now depends on {}", listed(&more))));
    causes.extend((!less.is_empty()).then(|| format!("it no longer depends on {}", listed(&less))));
    if causes.is_empty() { "its inputs changed".to_owned() } else { causes.join(", and ") }
}

/// The local files whose checksums are part of the signature.
fn files(sides: &Sides, before: &Task, after: &Task) -> Option<String> {
    let of = |task: &Task| -> BTreeMap<String, String> {
        let shown = |file: &String| sides.shown(Path::new(&file.replace("/./", "/"))).display().to_string();
        task.files.iter().map(|(file, checksum)| (shown(file), checksum.clone())).collect()
    };
    let (before, after) = (of(before), of(after));
    let both = before.keys().chain(after.keys()).collect::<BTreeSet<_>>();
    let differing: Vec<&String> =
        both.into_iter().filter(|file| before.get(*file) != after.get(*file)).collect();
    match differing[..] {
        [] => None,
        [only] => Some(format!("the file `{only}` changed")),
        _ => Some(format!("the files {} changed", listed(&differing))),
    }
}

/// The variables of the recipe whose values changed, as far as they are known.
fn variables(sides: &Sides, before: &Task, after: &Task) -> String {
    let of = |list: &TaskList, task: &Task| -> Option<BTreeMap<String, String>> {
        let variables = list.variables.get(&task.recipe)?;
        let used = variables.tasks.get(&task.name)?;
        let value = |number: &usize| {
            Some((variables.names.get(*number)?.clone(), variables.digests.get(*number)?.clone()))
        };
        used.iter().map(value).collect()
    };
    let differing = of(sides.base, before).zip(of(sides.head, after)).map(|(before, after)| {
        let both: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let differing = both.into_iter().filter(|name| before.get(*name) != after.get(*name));
        differing.cloned().collect::<Vec<String>>()
    });
    let differing = differing.unwrap_or_default();
    match &differing.iter().collect::<Vec<_>>()[..] {
        [] => by_metadata(sides, after),
        [only] => format!("the variable `{only}` changed"),
        all => format!("the variables {} changed", listed(all)),
    }
}

/// The files of the change that a recipe may be made of: its own first, then what many recipes use.
fn by_metadata(sides: &Sides, task: &Task) -> String {
    let recipe = &sides.head.recipes[task.recipe];
    let stem = |path: &Path| {
        let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        stem.split('_').next().unwrap_or_default().to_owned()
    };
    let extension = |path: &Path| path.extension().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let is_own = |file: &&ChangedFile| {
        let path = sides.top.join(&file.path);
        let beside = path.parent() == recipe.file.parent() && extension(&path) == "inc";
        path == recipe.file || beside || (extension(&path) == "bbappend" && stem(&path) == stem(&recipe.file))
    };
    let is_shared =
        |file: &&ChangedFile| ["bbclass", "conf", "inc"].contains(&extension(&file.path).as_str());
    let shown = |file: &ChangedFile| match &file.change {
        FileChange::Renamed(from) => from.display().to_string(),
        _ => file.path.display().to_string(),
    };
    let own: Vec<String> = sides.changed.iter().filter(is_own).map(shown).collect();
    let shared: Vec<String> = sides.changed.iter().filter(is_shared).map(shown).collect();
    let found = if own.is_empty() { shared } else { own };
    match &found.iter().collect::<Vec<_>>()[..] {
        [] => "its variables changed".to_owned(),
        all => format!("its variables changed with {}", listed(all)),
    }
}

/// `` `a`, `b` and 2 more ``
fn listed(names: &[&String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES).map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(NAMES).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", shown.join(", ")),
        None => match &shown[..] {
            [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
            _ => shown.concat(),
        },
    }
}
