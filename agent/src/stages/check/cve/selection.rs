//! Which recipes a change selects for the check.
//!
//! Task signatures do not cover everything: `CVE_STATUS` and `CVE_PRODUCT` are part of no task of a build. So recipes whose
//! own files changed are selected as well, and all recipes if a shared file with such a variable changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use agent_types::affected::Affected;
use agent_yocto::changed_lines::{self, Changes};
use agent_yocto::cve::RecipeList;

/// The change in files.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub checkout: &'a Path,
    /// The files of the base.
    pub base: Option<&'a Path>,
    pub changes: &'a Changes,
}

/// The names of the recipes that the change affects on this machine, without those of multiconfigs.
pub fn names(affected: &Affected, machine: &str) -> BTreeSet<String> {
    let recipes = affected.recipes.iter().filter(|recipe| recipe.is_for(machine));
    recipes.map(|recipe| recipe.name.rsplit(':').next().unwrap_or_default().to_owned()).collect()
}

/// The recipes to check: those of the layers, and those of others to which the layers append. `affected`: the answer of
/// the signatures; without it, any shared file selects all recipes.
pub fn recipes(
    listed: &RecipeList,
    layers: &[PathBuf],
    change: Change<'_>,
    affected: Option<&BTreeSet<String>>,
) -> BTreeSet<String> {
    let Some(touched) = change.changes.touched() else { return listed.recipes.clone() };
    let by_directory = by_directory(change.checkout, layers);
    let with_file: BTreeSet<&str> = by_directory.values().flatten().map(String::as_str).collect();
    let mut selected: BTreeSet<String> = affected.into_iter().flatten().cloned().collect();
    // Whether a recipe changed that has another name than its file.
    let mut unnamed = false;
    for file in touched {
        let mut is_of_recipe = false;
        for (_, names) in by_directory.iter().filter(|(directory, _)| file.starts_with(directory)) {
            is_of_recipe = true;
            unnamed |= names.iter().any(|name| !listed.has(name));
            selected.extend(names.iter().cloned());
        }
        if kind(file) == "bbappend" {
            selected.extend(recipe_name(file).map(str::to_owned));
        } else if !is_of_recipe && is_shared(file) && (affected.is_none() || change.is_about_cves(file)) {
            return listed.recipes.clone();
        }
    }
    let is_selected = |name: &&String| {
        let without_file = !with_file.contains(name.as_str());
        let is_variant = || selected.iter().any(|recipe| is_variant(name, recipe));
        selected.contains(*name) || (without_file && (unnamed || is_variant()))
    };
    let own = listed.recipes.iter().filter(is_selected);
    own.chain(listed.others.intersection(&selected)).cloned().collect()
}

impl Change<'_> {
    /// Whether the file sets a variable of the check, at the head or at the base.
    fn is_about_cves(self, file: &Path) -> bool {
        [Some(self.checkout), self.base].into_iter().flatten().any(|root| {
            let text = untrusted::read_named(&root.join(file), untrusted::SOURCE).unwrap_or_default();
            text.windows(4).any(|window| window == b"CVE_")
        })
    }
}

/// Whether several recipes may read the file.
fn is_shared(file: &Path) -> bool {
    let is_directory = |name: &str| name == "conf" || name.starts_with("classes");
    let parts = file.parent().into_iter().flat_map(Path::components);
    matches!(kind(file), "bbclass" | "conf" | "inc")
        || parts.filter_map(|part| part.as_os_str().to_str()).any(is_directory)
}

fn kind(file: &Path) -> &str {
    file.extension().and_then(|kind| kind.to_str()).unwrap_or_default()
}

/// `zlib-native`, `nativesdk-zlib` and `lib32-zlib` of `zlib`.
fn is_variant(name: &str, recipe: &str) -> bool {
    name.strip_prefix(recipe) == Some("-native")
        || name.strip_suffix(recipe).is_some_and(|prefix| prefix.ends_with('-'))
}

/// The names of the recipes in each directory. It also holds their patches and included files.
fn by_directory(checkout: &Path, layers: &[PathBuf]) -> BTreeMap<PathBuf, BTreeSet<String>> {
    let mut directories: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for (name, file) in recipe_files(checkout, layers) {
        let directory = file.parent().unwrap_or(Path::new("")).to_owned();
        directories.entry(directory).or_default().insert(name);
    }
    directories
}

/// The file of each recipe, relative to the checkout.
pub fn recipe_files(checkout: &Path, layers: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let files = changed_lines::files(checkout, layers);
    let recipes = files.into_iter().filter(|file| kind(file) == "bb");
    recipes.filter_map(|file| Some((recipe_name(&file)?.to_owned(), file))).collect()
}

/// `PN` by the file's name, as BitBake's default.
fn recipe_name(file: &Path) -> Option<&str> {
    let stem = file.file_stem()?.to_str()?;
    Some(stem.split_once('_').map_or(stem, |(name, _)| name).trim_end_matches('%'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use agent_types::affected::{AffectedRecipe, Change as Kind};

    use super::super::super::comparison::write;
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn listed() -> RecipeList {
        let mut list = RecipeList::of(["meta-x".to_owned()]);
        list.recipes = set(&["a", "a-native", "b", "odd", "own-name"]);
        list.others = set(&["zlib", "curl"]);
        list
    }

    /// What a change of this file selects: `None` removes it.
    fn selected(file: &str, text: Option<&str>, affected: Option<&[&str]>) -> BTreeSet<String> {
        let top = tempfile::tempdir().unwrap();
        let [base, head] = ["base", "head"].map(|name| top.path().join(name));
        for root in [&base, &head] {
            for file in [
                "r/a/a_1.bb",
                "r/b/b_1.bb",
                "r/b/files/b.patch",
                "r/c/odd.bb",
                "r/n/named.bb",
                "r/zlib/zlib_%.bbappend",
                "r/common/common.inc",
                "README.md",
                "classes/x.bbclass",
                "conf/distro/include/status.inc",
            ] {
                write(root, file, "1\n");
            }
        }
        match text {
            Some(text) => write(&head, file, text),
            None => fs_err::remove_file(head.join(file)).unwrap(),
        }
        let layers = [PathBuf::new()];
        let changes = Changes::between(&base, &head, &layers);
        let change = Change { checkout: &head, base: Some(&base), changes: &changes };
        let affected = affected.map(set);
        recipes(&listed(), &layers, change, affected.as_ref())
    }

    #[test]
    fn without_signatures_the_files_of_a_change_lead_to_its_recipes() {
        let all = listed().recipes;
        for (file, text, wanted) in [
            ("README.md", Some("2\n"), set(&[])),
            ("r/a/a_1.bb", Some("2\n"), set(&["a", "a-native"])),
            ("r/b/files/b.patch", Some("2\n"), set(&["b"])),
            ("r/b/files/b.patch", None, set(&["b"])),
            ("r/b/files/new.patch", Some("2\n"), set(&["b"])),
            ("r/c/odd.bb", Some("2\n"), set(&["odd"])),
            // Its name is in the file.
            ("r/n/named.bb", Some("2\n"), set(&["a-native", "own-name"])),
            ("r/zlib/zlib_%.bbappend", Some("2\n"), set(&["zlib"])),
            ("r/zlib/zlib_%.bbappend", None, set(&["zlib"])),
            ("r/common/common.inc", Some("2\n"), all.clone()),
            ("classes/x.bbclass", Some("2\n"), all.clone()),
            ("classes/x.bbclass", None, all.clone()),
            ("conf/distro/include/status.inc", Some("2\n"), all),
        ] {
            assert_eq!(selected(file, text, None), wanted, "{file} {text:?}");
        }
    }

    #[test]
    fn signatures_decide_about_shared_files_but_not_about_the_variables_of_the_check() {
        let all = listed().recipes;
        let affected: &[&str] = &["b", "zlib", "gone"];
        for (file, text, affected, wanted) in [
            ("README.md", "2\n", &[][..], set(&[])),
            ("classes/x.bbclass", "2\n", affected, set(&["b", "zlib"])),
            ("classes/x.bbclass", "CVE_PRODUCT = \"y\"\n", affected, all.clone()),
            ("conf/distro/include/status.inc", "CVE_STATUS[CVE-2024-1] = \"x\"\n", &[], all),
            // A change that no signature shows.
            ("r/a/a_1.bb", "CVE_STATUS[CVE-2024-1] = \"x\"\n", &[], set(&["a", "a-native"])),
        ] {
            assert_eq!(selected(file, Some(text), Some(affected)), wanted, "{file} {text:?}");
        }
    }

    #[test]
    fn without_a_base_all_recipes_of_the_layers_are_selected() {
        let change = Change { checkout: Path::new("/x"), base: None, changes: &Changes::everything() };
        assert_eq!(recipes(&listed(), &[], change, None), listed().recipes);
    }

    #[test]
    fn affected_recipes_of_other_machines_do_not_count() {
        let recipe = |name: &str, machines: &[&str]| AffectedRecipe {
            name: name.into(),
            file: None,
            layer: "x".into(),
            change: Kind::Changed,
            tasks: Vec::new(),
            machines: machines.iter().map(|name| (*name).to_owned()).collect(),
        };
        let recipes = vec![recipe("a", &[]), recipe("mc:m:b", &["one"]), recipe("c", &["two"])];
        let affected = Affected { recipes, ..Affected::default() };
        assert_eq!(names(&affected, "one"), set(&["a", "b"]));
    }
}
