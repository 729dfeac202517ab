//! Finds what a change affects from its files, if there are no signatures. The result rather has too many recipes than
//! too few.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use agent_types::affected::{Affected, AffectedRecipe, Change, Evidence};

use super::changed_files::{ChangedFile, FileChange, seen_by_bitbake};

/// The checkout under test without signatures.
#[derive(Clone, Copy, Debug)]
pub struct Checkout<'a> {
    /// The top of the work tree.
    pub top: &'a Path,
    /// The layers under test with their names.
    pub layers: &'a [(PathBuf, String)],
    /// The recipes in them: name and file.
    pub recipes: &'a [(String, PathBuf)],
    /// The manifest's.
    pub targets: &'a [String],
}

/// The recipes that may use these files. `why`: the reason why there are no signatures.
pub fn by_files(checkout: &Checkout, changed: &[ChangedFile], base: &str, why: &str) -> Affected {
    let seen: Vec<&ChangedFile> = changed.iter().filter(|file| seen_by_bitbake(&file.path)).collect();
    let mut names = BTreeSet::new();
    let mut removed = BTreeSet::new();
    let mut renamed = Vec::new();
    for file in &seen {
        if let FileChange::Renamed(from) = &file.change {
            renamed.push((name_of(from), name_of(&file.path)));
        }
        if file.change == FileChange::Removed && kind(&file.path) == "bb" {
            removed.insert(name_of(&file.path));
            continue;
        }
        match affected_by(checkout, &file.path) {
            Some(some) => names.extend(some),
            None => return every_recipe(checkout, base, why),
        }
    }
    renamed.retain(|(old, new)| old != new);
    let known = |name: &String| checkout.recipes.iter().any(|(known, _)| known == name);
    removed.retain(|name| !known(name));
    let is_added = |file: &Path| {
        let path = |changed: &&ChangedFile| checkout.top.join(&changed.path) == file;
        changed.iter().find(path).is_some_and(|file| file.change == FileChange::Added)
    };
    let mut recipes: Vec<AffectedRecipe> = Vec::new();
    for name in names {
        let file = checkout.recipes.iter().find(|(known, _)| *known == name).map(|(_, file)| file.clone());
        let change = if file.as_deref().is_some_and(is_added) { Change::Added } else { Change::Changed };
        recipes.push(entry(checkout, name, file, change));
    }
    let targets = if seen.is_empty() { Vec::new() } else { checkout.targets.to_vec() };
    Affected {
        base: base.to_owned(),
        evidence: Evidence::Files(why.to_owned()),
        recipes,
        removed: removed.into_iter().collect(),
        renamed,
        targets,
        ..Affected::default()
    }
}

/// All recipes of the layers under test. `why`: the reason why it is not known which of them changed.
pub fn every_recipe(checkout: &Checkout, base: &str, why: &str) -> Affected {
    let mut recipes: Vec<AffectedRecipe> = checkout
        .recipes
        .iter()
        .map(|(name, file)| entry(checkout, name.clone(), Some(file.clone()), Change::Changed))
        .collect();
    recipes.sort_by(|one, other| one.name.cmp(&other.name));
    recipes.dedup_by(|one, other| one.name == other.name);
    Affected {
        base: base.to_owned(),
        evidence: Evidence::Files(why.to_owned()),
        recipes,
        targets: checkout.targets.to_vec(),
        ..Affected::default()
    }
}

fn entry(checkout: &Checkout, name: String, file: Option<PathBuf>, change: Change) -> AffectedRecipe {
    let holds = |(path, _): &&(PathBuf, String)| file.as_ref().is_none_or(|file| file.starts_with(path));
    let layer = checkout.layers.iter().find(holds).map(|(_, name)| name.clone()).unwrap_or_default();
    let file = file.map(|file| file.strip_prefix(checkout.top).map(Path::to_owned).unwrap_or(file));
    AffectedRecipe { name, file, layer, change, tasks: Vec::new(), machines: Vec::new() }
}

/// The recipes that a file may be part of; `None`: all.
fn affected_by(checkout: &Checkout, path: &Path) -> Option<BTreeSet<String>> {
    let full = checkout.top.join(path);
    if !path.iter().any(|part| part.to_string_lossy().starts_with("recipes")) {
        return None;
    }
    match kind(path) {
        "bb" => {
            let own = checkout.recipes.iter().filter(|(_, file)| *file == full);
            let mut names: BTreeSet<String> = own.map(|(name, _)| name.clone()).collect();
            if names.is_empty() {
                names.insert(name_of(path));
            }
            Some(names)
        }
        "bbappend" => Some([name_of(path)].into()),
        // Any file can include it, but most are for the recipes in the same directory.
        "bbclass" | "conf" => None,
        _ => {
            let is_above = |file: &Path| file.parent().is_some_and(|above| full.starts_with(above));
            let beside = checkout.recipes.iter().filter(|(_, file)| is_above(file));
            let mut names: BTreeSet<String> = beside.map(|(name, _)| name.clone()).collect();
            // Of an append in a directory above: foo/ or files/ beside foo_%.bbappend.
            names.extend(appends_above(&full, checkout.top));
            if names.is_empty() || kind(path) == "inc" && beside_is_empty(checkout, &full) {
                return None;
            }
            Some(names)
        }
    }
}

fn beside_is_empty(checkout: &Checkout, file: &Path) -> bool {
    !checkout.recipes.iter().any(|(_, recipe)| recipe.parent() == file.parent())
}

/// The recipes to which files in the directories above this one append.
fn appends_above(file: &Path, top: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for directory in file.ancestors().skip(1).take_while(|directory| directory.starts_with(top)) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if kind(&entry.path()) == "bbappend" {
                names.push(name_of(&entry.path()));
            }
        }
        if !names.is_empty() {
            break;
        }
    }
    names
}

/// `foo` of `foo_1.0.bb`
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    stem.split('_').next().unwrap_or_default().to_owned()
}

fn kind(path: &Path) -> &str {
    path.extension().and_then(OsStr::to_str).unwrap_or_default()
}

/// The recipes in these files, by their names.
pub fn recipes_in(files: impl IntoIterator<Item = PathBuf>) -> Vec<(String, PathBuf)> {
    let recipes = files.into_iter().filter(|file| kind(file) == "bb");
    recipes.map(|file| (name_of(&file), file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_selects_the_recipes_that_may_use_it() {
        let layers = [(PathBuf::from("/t/meta-x"), "x".to_owned())];
        let files = ["a/a_1.0.bb", "a/a-tools_1.0.bb", "b/b_2.bb", "c/sub/c.bb"];
        let recipes = recipes_in(files.iter().map(|file| Path::new("/t/meta-x/recipes-q").join(file)));
        let targets = ["image".to_owned()];
        let checkout =
            Checkout { top: Path::new("/t"), layers: &layers, recipes: &recipes, targets: &targets };
        let all = ["a", "a-tools", "b", "c"];
        let changed = |path: &str, change| ChangedFile { path: path.into(), change };
        for (path, wanted) in [
            ("meta-x/recipes-q/a/a_1.0.bb", &["a"][..]),
            ("meta-x/recipes-q/b/files/x.patch", &["b"]),
            ("meta-x/recipes-q/a/a.inc", &["a", "a-tools"]),
            ("meta-x/recipes-q/z/z_%.bbappend", &["z"]),
            ("meta-x/recipes-q/q.inc", &all),
            ("meta-x/classes/y.bbclass", &all),
            ("meta-x/conf/layer.conf", &all),
            ("meta-x/LICENSE", &all),
            ("meta-x/README.md", &[]),
            ("build-agent.toml", &[]),
        ] {
            let found = by_files(&checkout, &[changed(path, FileChange::Changed)], "b", "why");
            let names: Vec<&str> = found.recipes.iter().map(|recipe| recipe.name.as_str()).collect();
            assert_eq!(names, wanted, "{path}");
            assert_eq!(found.evidence, Evidence::Files("why".into()));
            assert_eq!(found.targets.is_empty(), wanted.is_empty(), "{path}");
        }
        let removed =
            by_files(&checkout, &[changed("meta-x/recipes-q/old/old_1.bb", FileChange::Removed)], "b", "why");
        assert_eq!((removed.removed, removed.recipes), (vec!["old".to_owned()], Vec::new()));
        let new = by_files(&checkout, &[changed("meta-x/recipes-q/b/b_2.bb", FileChange::Added)], "b", "why");
        assert_eq!(new.recipes[0].change, Change::Added);
        assert_eq!(new.recipes[0].file.as_deref(), Some(Path::new("meta-x/recipes-q/b/b_2.bb")));
    }
}
