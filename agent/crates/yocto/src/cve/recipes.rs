//! The recipes of layers, as `bitbake-layers show-recipes` lists them (`lib/bblayers/query.py`, dunfell to master):
//!
//! ```text
//! === Available recipes: ===
//! zlib:
//!   meta                 1.3.1
//! greeting:
//!   meta-x               1.0 (skipped: incompatible with machine y)
//! ```

use std::collections::BTreeSet;

/// The listing, line by line.
#[derive(Debug, Default)]
pub struct RecipeList {
    /// The directory names of the layers that count.
    layers: BTreeSet<String>,
    recipe: Option<String>,
    /// Recipes of these layers that BitBake can build.
    pub recipes: BTreeSet<String>,
    /// Recipes of other layers that BitBake can build.
    pub others: BTreeSet<String>,
    /// Recipes of these layers that it skips.
    pub skipped: BTreeSet<String>,
    /// Whether the listing began.
    pub begun: bool,
}

impl RecipeList {
    pub fn of(layers: impl IntoIterator<Item = String>) -> RecipeList {
        RecipeList { layers: layers.into_iter().collect(), ..RecipeList::default() }
    }

    /// Whether BitBake can build a recipe of this name.
    pub fn has(&self, recipe: &str) -> bool {
        self.recipes.contains(recipe) || self.others.contains(recipe)
    }

    /// Reads one line, without its newline.
    pub fn line(&mut self, line: &str) {
        if line.starts_with("=== ") {
            self.begun = true;
            return;
        }
        if !self.begun {
            return;
        }
        match line.strip_prefix("  ") {
            Some(row) => self.row(row),
            None => self.recipe = name(line),
        }
    }

    fn row(&mut self, row: &str) {
        let Some(recipe) = &self.recipe else { return };
        let mut words = row.split_whitespace();
        let is_here = words.next().is_some_and(|layer| self.layers.contains(layer));
        let set = match (is_here, row.contains(" (skipped")) {
            (true, false) => &mut self.recipes,
            (true, true) => &mut self.skipped,
            (false, false) => &mut self.others,
            (false, true) => return,
        };
        set.insert(recipe.clone());
    }
}

fn name(line: &str) -> Option<String> {
    let name = line.strip_suffix(':')?;
    let good = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    (!name.is_empty() && name.chars().all(good)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recipes_of_the_layers_that_bitbake_builds_are_listed() {
        let output = "NOTE: Starting bitbake server...\nx:\n  meta-x  1.0\n\
            === Available recipes: ===\n\
            zlib:\n  meta                 1.3.1\n\
            greeting:\n  meta-x               1.0\n  meta                 0.9\n\
            board:\n  meta-x               1.0 (skipped: incompatible with machine y (not in COMPATIBLE_MACHINE))\n\
            both:\n  meta-x               2.0 (skipped)\n  meta-x               1.0\n\
            WARNING: odd: text\n  meta-x 1\n\
            lib+c_x.y:\n  meta-y 1.0\n";
        let mut list = RecipeList::of(["meta-x".to_owned(), "meta-y".to_owned()]);
        output.lines().for_each(|line| list.line(line));
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(list.recipes, set(&["both", "greeting", "lib+c_x.y"]));
        assert_eq!(list.skipped, set(&["board", "both"]));
        assert_eq!(list.others, set(&["greeting", "zlib"]));
        assert!(list.has("zlib") && !list.has("board"));
        assert!(list.begun && !RecipeList::default().begun);
    }
}
