//! What changed, and what was built because of it.

use maud::{Markup, html};

use agent_types::affected::{Affected, AffectedRecipe, Change, Evidence, SkippedRecipe};

use super::job::{Job, Section};
use super::text::{count, heading, line, more, path};
use crate::report::console::short_commit;

/// Causes, and recipes of a table.
const ROOTS: usize = 30;
const RECIPES: usize = 200;
/// Tasks of a recipe that are named.
const TASKS: usize = 6;

pub fn section(job: &Job) -> Option<Section> {
    let affected = job.summary.affected.as_ref()?;
    let level = job.level() + 2;
    let title = |text: &str, members: usize| heading(level, &html! { (text) " " span.count { (members) } });
    let body = html! {
        p { (first_sentence(affected)) }
        @if let Evidence::Files(why) = &affected.evidence {
            p.note { "The files of the change decided, because " (line(why)) "." }
        }
        @if !affected.roots.is_empty() {
            (title("Causes", affected.roots.len()))
            ol.roots {
                @for root in affected.roots.iter().take(ROOTS) {
                    li {
                        strong { (line(&root.recipe)) ":" (line(&root.task)) } " changed because "
                        (line(&root.cause)) "; " (count(root.tasks, "task")) " "
                        (if root.tasks == 1 { "depends" } else { "depend" }) " on it"
                    }
                }
                @if let Some(rest) = more(affected.roots.len().saturating_sub(ROOTS)) { li { (rest) } }
            }
        }
        @if !affected.recipes.is_empty() {
            (title("Recipes of the layer", affected.recipes.len()))
            (table(&affected.recipes, "Recipes of the layer with changed tasks"))
        }
        @if !affected.elsewhere.is_empty() {
            details {
                summary { "Recipes of other layers " span.count { (affected.elsewhere.len()) } }
                (table(&affected.elsewhere, "Recipes of other layers with changed tasks"))
            }
        }
        (others(affected))
    };
    let recipes = (affected.recipes.len() + affected.elsewhere.len()) as u64;
    Some(Section { name: "change", title: "What changed", count: Some(recipes), body })
}

fn first_sentence(affected: &Affected) -> Markup {
    let (own, elsewhere) = (affected.recipes.len() as u64, affected.elsewhere.len() as u64);
    html! {
        @match &affected.evidence {
            Evidence::Files(_) => { (count(own, "recipe")) " changed" },
            Evidence::Signatures if affected.tasks == 0 => "No task changed",
            Evidence::Signatures => {
                (count(affected.tasks, "task")) " changed in " (count(own + elsewhere, "recipe"))
                ", of which this layer has " (own)
            },
        }
        @match affected.base.as_str() {
            "" => ". There was nothing to compare with.",
            base => { ", compared with " code { (short_commit(base)) } "." },
        }
    }
}

fn table(recipes: &[AffectedRecipe], caption: &str) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label=(caption) {
            table {
                caption.hidden { (caption) }
                thead { tr { th scope="col" { "Recipe" } th scope="col" { "File" } th scope="col" { "Changed tasks" } } }
                tbody {
                    @for recipe in recipes.iter().take(RECIPES) {
                        tr {
                            td {
                                strong { (line(&recipe.name)) }
                                @if recipe.change == Change::Added { " (added)" }
                                @if !recipe.machines.is_empty() { " for " (line(&recipe.machines.join(", "))) }
                            }
                            td {
                                @match &recipe.file {
                                    Some(file) => code { (path(file)) },
                                    None => (line(&recipe.layer)),
                                }
                            }
                            td {
                                (line(&recipe.tasks.iter().take(TASKS).cloned().collect::<Vec<_>>().join(", ")))
                                @if recipe.tasks.len() > TASKS { " and " (recipe.tasks.len() - TASKS) " more" }
                            }
                        }
                    }
                }
            }
        }
        @if let Some(rest) = more(recipes.len().saturating_sub(RECIPES)) { p { (rest) } }
    }
}

fn others(affected: &Affected) -> Markup {
    let renamed: Vec<String> =
        affected.renamed.iter().map(|(old, new)| format!("{old} is now {new}")).collect();
    let skipped = |list: &[SkippedRecipe]| -> Vec<String> {
        let one = |skipped: &SkippedRecipe| {
            let on = skipped.machine.as_ref().map(|machine| format!(" for {machine}")).unwrap_or_default();
            format!("{}{on}: {}", skipped.name, skipped.reason)
        };
        list.iter().map(one).collect()
    };
    let lists = [
        ("Targets", affected.targets.clone()),
        ("Removed recipes", affected.removed.clone()),
        ("Renamed recipes", renamed),
        ("BitBake skips from now on", skipped(&affected.newly_skipped)),
        ("BitBake no longer skips", affected.no_longer_skipped.clone()),
        ("Not built", skipped(&affected.not_buildable)),
    ];
    html! {
        @if lists.iter().any(|(_, list)| !list.is_empty()) {
            dl.lists {
                @for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
                    dt { (name) }
                    @for entry in list.iter().take(ROOTS) { dd { (line(entry)) } }
                    @if let Some(rest) = more(list.len().saturating_sub(ROOTS)) { dd { (rest) } }
                }
            }
        }
    }
}
