//! Divides recipes among as few images as can be, so that no two in one image exclude each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// A recipe whose ptests are to run, with data from BitBake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TestedRecipe {
    #[serde(rename = "recipe")]
    pub name: String,
    /// Its packages with tests; empty: it has none.
    #[serde(default)]
    pub ptests: Vec<String>,
    /// The directory of its ptest in the image (`PTEST_PATH`).
    #[serde(default)]
    pub path: Option<String>,
    /// `PROVIDES`
    #[serde(default)]
    pub provides: BTreeSet<String>,
    /// The packages that the tests need of this recipe, those with the tests among them.
    #[serde(default)]
    pub packages: Vec<TestedPackage>,
    /// BitBake's reason why this machine does not build it.
    #[serde(default)]
    pub skipped: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TestedPackage {
    pub name: String,
    /// `RPROVIDES`, `RCONFLICTS` and `RREPLACES`, without versions.
    #[serde(default)]
    pub provides: BTreeSet<String>,
    #[serde(default)]
    pub conflicts: BTreeSet<String>,
    #[serde(default)]
    pub replaces: BTreeSet<String>,
}

impl TestedRecipe {
    /// The name of the section of its ptest: the directory above `ptest`.
    pub fn section(&self) -> Option<&str> {
        let path = self.path.as_deref()?.trim_end_matches('/');
        path.strip_suffix("/ptest").unwrap_or(path).rsplit('/').next().filter(|name| !name.is_empty())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().flat_map(|package| {
            std::iter::once(package.name.as_str()).chain(package.provides.iter().map(String::as_str))
        })
    }

    /// Whether it excludes the other one by its own variables.
    fn excludes(&self, other: &TestedRecipe) -> bool {
        let names: BTreeSet<&str> = other.names().collect();
        let unwanted =
            self.packages.iter().flat_map(|package| package.conflicts.iter().chain(&package.replaces));
        unwanted.into_iter().any(|name| names.contains(name.as_str()))
    }

    /// Whether both cannot be in one image.
    pub fn conflicts_with(&self, other: &TestedRecipe) -> bool {
        let own: BTreeSet<&str> = self.names().collect();
        let own_provides = |name: &&String| **name != self.name && **name != other.name;
        self.excludes(other)
            || other.excludes(self)
            || self.provides.iter().filter(own_provides).any(|name| other.provides.contains(name))
            || other.names().any(|name| own.contains(name))
    }
}

/// The recipes of each image: greedy colouring, those with the most conflicts first, then by name. The same recipes give
/// the same images.
pub fn images(recipes: &[TestedRecipe]) -> Vec<Vec<&TestedRecipe>> {
    let count = |recipe: &TestedRecipe| {
        let others = recipes.iter().filter(|other| other.name != recipe.name);
        others.filter(|other| recipe.conflicts_with(other)).count()
    };
    let by_name: BTreeMap<&str, &TestedRecipe> =
        recipes.iter().map(|recipe| (recipe.name.as_str(), recipe)).collect();
    let mut order: Vec<(usize, &TestedRecipe)> =
        by_name.into_values().map(|recipe| (count(recipe), recipe)).collect();
    // Stable: equal ones stay in the order of their names.
    order.sort_by_key(|(conflicts, _)| usize::MAX - conflicts);
    let mut images: Vec<Vec<&TestedRecipe>> = Vec::new();
    for (_, recipe) in order {
        let fits = |image: &&mut Vec<&TestedRecipe>| !image.iter().any(|other| recipe.conflicts_with(other));
        match images.iter_mut().find(fits) {
            Some(image) => image.push(recipe),
            None => images.push(vec![recipe]),
        }
    }
    for image in &mut images {
        image.sort_by(|one, other| one.name.cmp(&other.name));
    }
    images
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn recipe(name: &str, provides: &[&str], conflicts: &[&str], replaces: &[&str]) -> TestedRecipe {
        let package = TestedPackage {
            name: name.into(),
            provides: set(provides),
            conflicts: set(conflicts),
            replaces: set(replaces),
        };
        TestedRecipe {
            name: name.into(),
            ptests: vec![format!("{name}-ptest")],
            provides: set(&[name]),
            packages: vec![package],
            ..TestedRecipe::default()
        }
    }

    fn names(recipes: &[TestedRecipe]) -> Vec<Vec<&str>> {
        images(recipes).iter().map(|image| image.iter().map(|one| one.name.as_str()).collect()).collect()
    }

    #[test]
    fn conflicts_go_by_the_names_of_packages_at_run_time() {
        let plain = |name| recipe(name, &[], &[], &[]);
        let table = [
            ("nothing", plain("a"), plain("b"), false),
            ("RCONFLICTS", recipe("a", &[], &["b"], &[]), plain("b"), true),
            ("RREPLACES", recipe("a", &[], &[], &["b"]), plain("b"), true),
            (
                "RCONFLICTS of what is provided",
                recipe("a", &[], &["aws"], &[]),
                recipe("b", &["aws"], &[], &[]),
                true,
            ),
            ("the same RPROVIDES", recipe("a", &["java"], &[], &[]), recipe("b", &["java"], &[], &[]), true),
            ("of a third one", recipe("a", &[], &["c"], &[]), plain("b"), false),
            ("no part of a name", recipe("a", &[], &["b"], &[]), plain("bb"), false),
        ];
        for (what, one, other, wanted) in table {
            assert_eq!(one.conflicts_with(&other), wanted, "{what}");
            assert_eq!(other.conflicts_with(&one), wanted, "{what}, the other way round");
        }
        let mut virtual_a = plain("a");
        virtual_a.provides.insert("virtual/x".into());
        let mut virtual_b = plain("b");
        virtual_b.provides.insert("virtual/x".into());
        assert!(virtual_a.conflicts_with(&virtual_b) && !virtual_a.conflicts_with(&plain("b")));
    }

    #[test]
    fn few_images_and_always_the_same() {
        // As in meta-aws: each version of corretto excludes the others.
        let corretto = |version: &str| {
            let others: Vec<String> = ["8", "11", "17"].map(|other| format!("corretto-{other}-bin")).into();
            let others: Vec<&str> = others
                .iter()
                .map(String::as_str)
                .filter(|other| !other.contains(&format!("-{version}-")))
                .collect();
            recipe(&format!("corretto-{version}-bin"), &[], &others, &[])
        };
        let mut all = vec![
            corretto("8"),
            recipe("zlib", &[], &[], &[]),
            corretto("17"),
            corretto("11"),
            recipe("aws-cli", &[], &["aws-cli-v2"], &[]),
            recipe("aws-cli-v2", &[], &[], &[]),
        ];
        let wanted = vec![
            vec!["aws-cli", "corretto-11-bin", "zlib"],
            vec!["aws-cli-v2", "corretto-17-bin"],
            vec!["corretto-8-bin"],
        ];
        assert_eq!(names(&all), wanted);
        all.reverse();
        assert_eq!(names(&all), wanted);
        all.push(all[0].clone());
        assert_eq!(names(&all), wanted, "a recipe that is named twice is tested once");
        assert_eq!(names(&[]), Vec::<Vec<&str>>::new());
    }

    proptest! {
        #[test]
        fn no_image_has_a_conflict_and_none_is_lost(pairs in prop::collection::vec((0usize..12, 0usize..12), 0..40)) {
            let recipes: Vec<TestedRecipe> = (0..12).map(|number| {
                let conflicts: Vec<String> = pairs.iter()
                    .filter(|(one, other)| *one == number && other != one)
                    .map(|(_, other)| format!("r{other}")).collect();
                let conflicts: Vec<&str> = conflicts.iter().map(String::as_str).collect();
                recipe(&format!("r{number}"), &[], &conflicts, &[])
            }).collect();
            let made = images(&recipes);
            prop_assert_eq!(made.iter().map(Vec::len).sum::<usize>(), recipes.len());
            for image in &made {
                for (index, one) in image.iter().enumerate() {
                    prop_assert!(image[index + 1..].iter().all(|other| !one.conflicts_with(other)));
                }
            }
            // Greedy colouring needs no more colours than the most conflicts of one recipe, and one.
            let most = recipes.iter().map(|one| recipes.iter()
                .filter(|other| other.name != one.name && one.conflicts_with(other)).count()).max().unwrap_or(0);
            prop_assert!(made.len() <= most + 1);
        }
    }

    #[test]
    fn the_section_is_the_directory_above_ptest() {
        for (path, wanted) in [
            (Some("/usr/lib/zlib/ptest"), Some("zlib")),
            (Some("/usr/lib/glib-2.0/ptest/"), Some("glib-2.0")),
            (Some("/opt/own"), Some("own")),
            (Some("/"), None),
            (Some(""), None),
            (None, None),
        ] {
            let recipe = TestedRecipe { path: path.map(str::to_owned), ..TestedRecipe::default() };
            assert_eq!(recipe.section(), wanted, "{path:?}");
        }
    }
}
