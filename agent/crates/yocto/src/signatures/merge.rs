//! The answers of several machines as one.

use std::collections::BTreeMap;

use agent_types::affected::{Affected, AffectedRecipe, Change, Evidence, Root, SkippedRecipe};

/// Joins what a change affects on each machine; the base is the same.
pub fn merge(answers: Vec<(String, Affected)>) -> Affected {
    let machines: Vec<String> = answers.iter().map(|(machine, _)| machine.clone()).collect();
    if let [_] = machines[..] {
        return answers.into_iter().next().map(|(_, affected)| affected).unwrap_or_default();
    }
    let mut all = Affected::default();
    let mut recipes = BTreeMap::new();
    let mut elsewhere = BTreeMap::new();
    for (machine, affected) in answers {
        all.base = affected.base;
        if affected.evidence != Evidence::Signatures {
            all.evidence = affected.evidence;
        }
        all.tasks += affected.tasks;
        add_recipes(&mut recipes, affected.recipes, &machine);
        add_recipes(&mut elsewhere, affected.elsewhere, &machine);
        for root in affected.roots {
            add_root(&mut all.roots, root);
        }
        add(&mut all.removed, affected.removed);
        add(&mut all.renamed, affected.renamed);
        add(&mut all.no_longer_skipped, affected.no_longer_skipped);
        add(&mut all.targets, affected.targets);
        let on = |skipped: SkippedRecipe| SkippedRecipe { machine: Some(machine.clone()), ..skipped };
        all.newly_skipped.extend(affected.newly_skipped.into_iter().map(on));
        all.not_buildable.extend(affected.not_buildable.into_iter().map(on));
    }
    all.roots.sort_by_key(|root| std::cmp::Reverse(root.tasks));
    let finish = |recipes: BTreeMap<String, AffectedRecipe>| {
        let mut recipes: Vec<AffectedRecipe> = recipes.into_values().collect();
        for recipe in &mut recipes {
            if recipe.machines.len() == machines.len() {
                recipe.machines.clear();
            }
        }
        recipes
    };
    all.recipes = finish(recipes);
    all.elsewhere = finish(elsewhere);
    all
}

fn add<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

fn add_root(all: &mut Vec<Root>, root: Root) {
    let same = |known: &&mut Root| {
        (&known.recipe, &known.task, &known.cause) == (&root.recipe, &root.task, &root.cause)
    };
    match all.iter_mut().find(same) {
        Some(known) => known.tasks += root.tasks,
        None => all.push(root),
    }
}

fn add_recipes(all: &mut BTreeMap<String, AffectedRecipe>, more: Vec<AffectedRecipe>, machine: &str) {
    for recipe in more {
        let known = all.entry(recipe.name.clone()).or_insert_with(|| AffectedRecipe {
            tasks: Vec::new(),
            machines: Vec::new(),
            change: Change::Changed,
            ..recipe.clone()
        });
        add(&mut known.tasks, recipe.tasks);
        known.tasks.sort();
        known.machines.push(machine.to_owned());
        if recipe.change == Change::Added {
            known.change = Change::Added;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str, tasks: &[&str], machines: &[&str]) -> AffectedRecipe {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        AffectedRecipe {
            name: name.into(),
            file: None,
            layer: "x".into(),
            change: Change::Changed,
            tasks: owned(tasks),
            machines: owned(machines),
        }
    }

    #[test]
    fn each_recipe_says_on_which_machines_it_changed() {
        let of = |recipes| Affected { base: "b".into(), tasks: 2, recipes, ..Affected::default() };
        let arm = of(vec![recipe("a", &["do_x"], &[]), recipe("b", &["do_y"], &[])]);
        let mut x86 = of(vec![recipe("a", &["do_y"], &[])]);
        let skipped = |machine: Option<&str>| SkippedRecipe {
            name: "b".into(),
            reason: "r".into(),
            machine: machine.map(str::to_owned),
        };
        x86.not_buildable = vec![skipped(None)];
        let merged = merge(vec![("arm".into(), arm.clone()), ("x86".into(), x86)]);
        assert_eq!(merged.recipes, [recipe("a", &["do_x", "do_y"], &[]), recipe("b", &["do_y"], &["arm"])]);
        assert_eq!(merged.not_buildable, [skipped(Some("x86"))]);
        assert_eq!((merged.tasks, merged.base.as_str()), (4, "b"));
        assert_eq!(merge(vec![("arm".into(), arm.clone())]), arm, "one machine needs no name");
    }
}
