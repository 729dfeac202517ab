use std::path::PathBuf;

use agent_types::affected::Root;

use super::super::changed_files::ChangedFile;
use super::super::task_list::{Task, Variables};
use super::*;

/// A task list from lines: `recipe:task hash [basehash] [<dependency]... [@file=checksum]... [NAME=value]...`, or
/// `recipe` alone, or `-recipe reason`. Recipes of other layers begin with `*`.
fn list(lines: &[&str]) -> TaskList {
    let mut list = TaskList::default();
    let mut depends: Vec<Vec<String>> = Vec::new();
    for line in lines {
        let mut words = line.split(' ');
        let first = words.next().unwrap();
        if let Some(name) = first.strip_prefix('-') {
            let (name, file) = (name.to_owned(), format!("/t/l/recipes/{name}/{name}.bb").into());
            list.skipped.push(Skipped { name, file, reason: words.collect::<Vec<_>>().join(" ") });
            continue;
        }
        let (name, task) = first.split_once(':').unwrap_or((first, ""));
        let is_own = !name.starts_with('*');
        let name = name.trim_start_matches('*');
        let recipe = list.recipes.iter().position(|known| known.name == name).unwrap_or_else(|| {
            let layer = if is_own { "/t/l" } else { "/other" };
            let file = format!("{layer}/recipes/{name}/{name}.bb").into();
            list.recipes.push(Recipe { name: name.to_owned(), file, is_own });
            list.recipes.len() - 1
        });
        if task.is_empty() {
            continue;
        }
        let mut new = Task {
            recipe,
            name: task.to_owned(),
            hash: words.next().unwrap().to_owned(),
            basehash: String::new(),
            depends: Vec::new(),
            files: Vec::new(),
        };
        let mut needs = Vec::new();
        for word in words {
            if let Some(other) = word.strip_prefix('<') {
                needs.push(other.to_owned());
            } else if let Some((file, checksum)) =
                word.strip_prefix('@').and_then(|word| word.split_once('='))
            {
                new.files.push((file.to_owned(), checksum.to_owned()));
            } else if let Some((variable, value)) = word.split_once('=') {
                let variables = list.variables.entry(recipe).or_insert_with(Variables::default);
                variables.names.push(variable.to_owned());
                variables.digests.push(value.to_owned());
                let number = variables.names.len() - 1;
                variables.tasks.entry(task.to_owned()).or_default().push(number);
            } else {
                new.basehash = word.to_owned();
            }
        }
        list.tasks.push(new);
        depends.push(needs);
    }
    let number = |list: &TaskList, wanted: &str| {
        let name = |task: &Task| format!("{}:{}", list.recipes[task.recipe].name, task.name);
        list.tasks.iter().position(|task| name(task) == wanted).unwrap()
    };
    for (index, needs) in depends.iter().enumerate() {
        list.tasks[index].depends = needs.iter().map(|name| number(&list, name)).collect();
    }
    list
}

fn compare(base: &[&str], head: &[&str], changed: &[(&str, FileChange)]) -> Affected {
    let (base, mut head) = (list(base), list(head));
    head.targets =
        head.recipes.iter().enumerate().map(|(number, recipe)| (recipe.name.clone(), number)).collect();
    let changed: Vec<ChangedFile> = changed
        .iter()
        .map(|(path, change)| ChangedFile { path: path.into(), change: change.clone() })
        .collect();
    let layers = [(PathBuf::from("/t/l"), "own".to_owned()), (PathBuf::from("/other"), "other".to_owned())];
    affected(
        &Sides {
            base: &base,
            head: &head,
            changed: &changed,
            top: Path::new("/t"),
            under_test: &[PathBuf::from("/t/l")],
            layers: &layers,
            targets: &["image".to_owned()],
        },
        "commit",
    )
}

fn names(recipes: &[AffectedRecipe]) -> Vec<String> {
    recipes.iter().map(|recipe| format!("{}: {}", recipe.name, recipe.tasks.join(" "))).collect()
}

fn skipped(name: &str, reason: &str) -> SkippedRecipe {
    SkippedRecipe { name: name.into(), reason: reason.into(), machine: None }
}

#[test]
fn the_same_signatures_affect_nothing() {
    let both = ["a:do_x 1", "*b:do_y 2 <a:do_x", "-s no", "image:do_build 3"];
    let found = compare(&both, &both, &[("README.md", FileChange::Changed)]);
    assert_eq!(found, Affected { base: "commit".into(), ..Affected::default() });
}

#[test]
fn changed_tasks_are_listed_by_recipe_and_layer() {
    let found = compare(
        &["a:do_x 1", "a:do_y 2 <a:do_x", "*b:do_y 3 <a:do_y", "c:do_x 4", "*image:do_build 5 <b:do_y"],
        &["a:do_x 1", "a:do_y 9 <a:do_x", "*b:do_y 8 <a:do_y", "c:do_x 4", "*image:do_build 7 <b:do_y"],
        &[],
    );
    assert_eq!(found.tasks, 3);
    assert_eq!(names(&found.recipes), ["a: do_y"]);
    assert_eq!(names(&found.elsewhere), ["b: do_y", "image: do_build"]);
    assert_eq!(found.elsewhere[0].layer, "other");
    assert_eq!(found.recipes[0].file.as_deref(), Some(Path::new("l/recipes/a/a.bb")));
    assert_eq!(found.targets, ["image"]);
    let [root] = &found.roots[..] else { panic!("{:?}", found.roots) };
    assert_eq!((root.recipe.as_str(), root.task.as_str(), root.tasks), ("a", "do_y", 3));
}

#[test]
fn added_removed_and_renamed_recipes_are_distinguished() {
    let renamed = FileChange::Renamed("l/recipes/old/old.bb".into());
    let found = compare(
        &["gone:do_x 1", "old:do_x 2", "*far:do_x 3"],
        &["new:do_x 4", "fresh:do_x 2", "broken", "nativesdk-new"],
        &[("l/recipes/fresh/fresh.bb", renamed)],
    );
    assert_eq!(names(&found.recipes), ["broken: ", "fresh: do_x", "new: do_x"]);
    assert!(found.recipes.iter().all(|recipe| recipe.change == Change::Added));
    assert_eq!(found.removed, ["gone"]);
    assert_eq!(found.renamed, [("old".to_owned(), "fresh".to_owned())]);
    assert_eq!(found.tasks, 5);
    let causes: BTreeSet<&str> = found.roots.iter().map(|root| root.cause.as_str()).collect();
    assert_eq!(causes, ["the recipe is new"].into());
}

/// A recipe without its dependency has no tasks any more. It must still be listed.
#[test]
fn a_recipe_that_cannot_be_built_any_more_is_affected() {
    let found = compare(&["a:do_x 1", "b:do_x 2 <a:do_x"], &["b"], &[]);
    assert_eq!(names(&found.recipes), ["b: do_x"]);
    assert_eq!(found.recipes[0].change, Change::Changed);
    assert_eq!(found.removed, ["a"]);
}

#[test]
fn newly_skipped_recipes_are_listed_with_bitbakes_reason() {
    let patch = [("l/recipes/s/files/a.patch", FileChange::Changed)];
    let found = compare(
        &["a:do_x 1", "-b no machine", "-s no host", "-q old reason", "-u same"],
        &["-a no distro", "b:do_x 2", "-s no host", "-q new reason", "-u same", "n"],
        &patch,
    );
    assert_eq!(found.newly_skipped, [skipped("a", "no distro")]);
    assert_eq!(found.no_longer_skipped, ["b"]);
    assert_eq!(found.not_buildable, [skipped("q", "new reason"), skipped("s", "no host")]);
    assert_eq!(names(&found.recipes), ["b: do_x", "n: "]);
    assert_eq!(found.recipes[0].change, Change::Changed);
    assert!(found.removed.is_empty());
}

#[test]
fn a_recipe_without_tasks_on_both_sides_is_named_if_its_files_change() {
    let found = compare(&["a"], &["a"], &[("l/recipes/a/a.bb", FileChange::Changed)]);
    let [only] = &found.not_buildable[..] else { panic!("{found:?}") };
    assert_eq!(only.name, "a");
    assert!(only.reason.contains("no tasks"), "{}", only.reason);
    assert!(compare(&["a"], &["a"], &[]).not_buildable.is_empty());
}

#[test]
fn a_cause_is_the_file_the_variable_or_the_dependency_that_differs() {
    let own = ("l/recipes/a/a.bb", FileChange::Changed);
    let class = ("l/classes/c.bbclass", FileChange::Changed);
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [(&'a str, FileChange)], &'a str);
    let table: [Case; 10] = [
        (&["a:do_x 1 @/t/l/a.patch=1"], &["a:do_x 2 @/t/l/a.patch=2"], &[], "the file `l/a.patch` changed"),
        (
            &["a:do_x 1 @/t/l/a.patch=1"],
            &["a:do_x 2 @/t/l/b.patch=1"],
            &[],
            "the files `l/a.patch` and `l/b.patch` changed",
        ),
        (&["a:do_x 1 b1 S=1 T=1"], &["a:do_x 2 b2 S=2 T=1"], &[], "the variable `S` changed"),
        (&["a:do_x 1 b1 S=1 T=1"], &["a:do_x 2 b2 S=2 U=1"], &[], "the variables `S`, `T` and `U` changed"),
        (
            &["a:do_x 1 b1 S=1 @/t/f=1"],
            &["a:do_x 2 b2 S=2 @/t/f=2"],
            &[],
            "the file `f` changed, and the variable `S` changed",
        ),
        (&["a:do_x 1 b1"], &["a:do_x 2 b2"], &[], "its variables changed"),
        (
            &["a:do_x 1 b1"],
            &["a:do_x 2 b2"],
            &[own, class.clone()],
            "its variables changed with `l/recipes/a/a.bb`",
        ),
        (&["*a:do_x 1 b1"], &["*a:do_x 2 b2"], &[class], "its variables changed with `l/classes/c.bbclass`"),
        (&["a:do_x 1 b", "c:do_y 5"], &["a:do_x 2 b <c:do_y", "c:do_y 5"], &[], "it now depends on `c:do_y`"),
        (
            &["a:do_x 1 b <c:do_y", "c:do_y 5"],
            &["a:do_x 2 b", "c:do_y 5"],
            &[],
            "it no longer depends on `c:do_y`",
        ),
    ];
    for (base, head, changed, wanted) in table {
        let roots = compare(base, head, changed).roots;
        let root = Root { recipe: "a".into(), task: "do_x".into(), cause: wanted.into(), tasks: 1 };
        assert_eq!(roots, [root], "{base:?} {head:?}");
    }
}

/// One cause of many tasks in one recipe is one root.
#[test]
fn tasks_of_one_recipe_with_the_same_cause_are_one_root() {
    let base = ["a:do_x 1 b1", "a:do_y 2 b2", "a:do_z 3 b <a:do_y", "c:do_x 4 b1"];
    let head = ["a:do_x 5 b5", "a:do_y 6 b6", "a:do_z 7 b <a:do_y", "c:do_x 8 b8"];
    let roots = compare(&base, &head, &[]).roots;
    let told: Vec<_> =
        roots.iter().map(|root| (root.recipe.as_str(), root.task.as_str(), root.tasks)).collect();
    assert_eq!(told, [("a", "do_y", 3), ("c", "do_x", 1)]);
}

#[test]
fn variants_of_a_recipe_and_multiconfigs_are_recipes_of_their_own() {
    let base = ["foo:do_x 1", "foo-native:do_x 2", "mc:b:foo:do_x 3"];
    let head = ["foo:do_x 1", "foo-native:do_x 9", "mc:b:foo:do_x 8"];
    // The name of a multiconfig has colons, so the helper cannot make it.
    let split = |lines: [&str; 3]| {
        let mut list = list(&[lines[0], lines[1], &lines[2].replace("mc:b:foo", "mcbfoo")]);
        list.recipes[2].name = "mc:b:foo".into();
        list
    };
    let (base, head) = (split(base), split(head));
    let under_test = [PathBuf::from("/t/l")];
    let sides = Sides {
        base: &base,
        head: &head,
        changed: &[],
        top: Path::new("/t"),
        under_test: &under_test,
        layers: &[],
        targets: &[],
    };
    assert_eq!(names(&affected(&sides, "c").recipes), ["foo-native: do_x", "mc:b:foo: do_x"]);
}
