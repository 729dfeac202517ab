//! The lines about what a change affects.

use agent_types::affected::{Affected, AffectedRecipe, Change, Evidence, SkippedRecipe};
use agent_types::sanitize::sanitize_line;
use agent_types::words::count;

use super::format::short_commit;

/// Names of recipes in a line.
const NAMES: usize = 12;
/// Causes of which each has a line.
const ROOTS: usize = 5;

/// One line or more, sanitized.
pub fn lines(affected: &Affected) -> Vec<String> {
    let mut lines = vec![first_line(affected)];
    if let Evidence::Files(why) = &affected.evidence {
        let why = sanitize_line(why);
        lines.push(format!("the files of the change decide, because {why}"));
    }
    for root in affected.roots.iter().take(ROOTS) {
        let text = format!("{}:{} changed because {}", root.recipe, root.task, root.cause);
        lines.push(format!("{} ({})", sanitize_line(&text), count(root.tasks, "task")));
    }
    if let Some(more) = affected.roots.len().checked_sub(ROOTS).filter(|more| *more > 0) {
        lines.push(format!("{more} more causes are in result.json"));
    }
    lines.extend(named("recipes of the layer", affected.recipes.iter().map(recipe)));
    lines.extend(named("recipes elsewhere", affected.elsewhere.iter().map(recipe)));
    lines.extend(named("targets", affected.targets.iter().cloned()));
    lines.extend(named("removed", affected.removed.iter().cloned()));
    lines.extend(named("renamed", affected.renamed.iter().map(|(old, new)| format!("{old} to {new}"))));
    lines
        .extend(affected.newly_skipped.iter().map(|skipped| skipped_line("is skipped from now on", skipped)));
    lines.extend(named("no longer skipped", affected.no_longer_skipped.iter().cloned()));
    lines.extend(affected.not_buildable.iter().map(|skipped| skipped_line("is not built", skipped)));
    lines.iter().map(|line| format!("{:<9}  {line}", "affected")).collect()
}

/// `12 tasks in 3 recipes change, 2 of them in this layer (compared with 0123456789ab)`
fn first_line(affected: &Affected) -> String {
    let (own, elsewhere) = (affected.recipes.len() as u64, affected.elsewhere.len() as u64);
    let what = match &affected.evidence {
        Evidence::Files(_) => count(own, "recipe"),
        Evidence::Signatures if affected.tasks == 0 => "0 tasks".to_owned(),
        Evidence::Signatures => format!(
            "{} in {} change, {own} of them in this layer",
            count(affected.tasks, "task"),
            count(own + elsewhere, "recipe")
        ),
    };
    let base = match affected.base.as_str() {
        "" => "nothing to compare with".to_owned(),
        base => format!("compared with {}", short_commit(base)),
    };
    format!("{what} ({base})")
}

fn recipe(recipe: &AffectedRecipe) -> String {
    match recipe.change {
        Change::Added => format!("{} (added)", recipe.name),
        Change::Changed => recipe.name.clone(),
    }
}

fn named(what: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let names: Vec<String> = names.collect();
    let mut shown = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMES {
        shown += &format!(" and {} more", names.len() - NAMES);
    }
    (!names.is_empty()).then(|| format!("{what}: {}", sanitize_line(&shown)))
}

fn skipped_line(what: &str, skipped: &SkippedRecipe) -> String {
    let on = skipped.machine.as_ref().map(|machine| format!(" for {machine}")).unwrap_or_default();
    sanitize_line(&format!("{} {what}{on}: {}", skipped.name, skipped.reason)).into_owned()
}

#[cfg(test)]
mod tests {
    use agent_types::affected::Root;

    use super::*;

    #[test]
    fn the_lines_say_what_changes_and_why() {
        let changed = |name: &str, change| AffectedRecipe {
            name: name.into(),
            file: None,
            layer: "x".into(),
            change,
            tasks: vec!["do_fetch".into()],
            machines: Vec::new(),
        };
        let affected = Affected {
            base: "0123456789abcdef0123456789abcdef01234567".into(),
            tasks: 12,
            recipes: vec![changed("foo", Change::Changed), changed("new", Change::Added)],
            elsewhere: vec![changed("bar", Change::Changed)],
            roots: vec![Root {
                recipe: "foo".into(),
                task: "do_fetch".into(),
                cause: "the file `0001-x.patch` changed".into(),
                tasks: 11,
            }],
            removed: vec!["old".into()],
            renamed: vec![("a".into(), "b".into())],
            newly_skipped: vec![SkippedRecipe {
                name: "s".into(),
                reason: "incompatible with machine x".into(),
                machine: Some("x".into()),
            }],
            ..Affected::default()
        };
        let wanted = [
            "affected   12 tasks in 3 recipes change, 2 of them in this layer (compared with 0123456789ab)",
            "affected   foo:do_fetch changed because the file `0001-x.patch` changed (11 tasks)",
            "affected   recipes of the layer: foo, new (added)",
            "affected   recipes elsewhere: bar",
            "affected   removed: old",
            "affected   renamed: a to b",
            "affected   s is skipped from now on for x: incompatible with machine x",
        ];
        assert_eq!(lines(&affected), wanted);
    }

    #[test]
    fn no_change_and_no_signatures_are_said() {
        let base = "0123456789abcdef0123456789abcdef01234567".to_owned();
        let nothing = Affected { base, ..Affected::default() };
        assert_eq!(lines(&nothing), ["affected   0 tasks (compared with 0123456789ab)"]);
        let evidence = Evidence::Files("the base does not parse".into());
        let by_files = lines(&Affected { evidence, ..nothing });
        assert_eq!(by_files[0], "affected   0 recipes (compared with 0123456789ab)");
        assert_eq!(by_files[1], "affected   the files of the change decide, because the base does not parse");
    }
}
