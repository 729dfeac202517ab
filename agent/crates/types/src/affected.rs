//! The result of comparing the task signatures of a change's base and head.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a change affects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// The commit that the change is compared with.
    pub base: String,
    pub evidence: Evidence,
    /// Tasks whose signature differs, or that only one side has.
    pub tasks: u64,
    /// Recipes with such tasks that the layers under test have at the head, sorted by name.
    pub recipes: Vec<AffectedRecipe>,
    /// Recipes with such tasks in other layers, sorted by name.
    pub elsewhere: Vec<AffectedRecipe>,
    /// Why tasks changed, the most far-reaching first.
    pub roots: Vec<Root>,
    /// Recipes that only the base has.
    pub removed: Vec<String>,
    /// From the old name to the new one.
    pub renamed: Vec<(String, String)>,
    /// Recipes that BitBake skips at the head and did not at the base, with its reason.
    pub newly_skipped: Vec<SkippedRecipe>,
    /// Recipes that BitBake skipped at the base and does not at the head.
    pub no_longer_skipped: Vec<String>,
    /// Recipes that changed and that a machine does not build, with BitBake's reason.
    pub not_buildable: Vec<SkippedRecipe>,
    /// Targets and tested images of the manifest with changed tasks, as the manifest writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
}

impl Affected {
    /// The recipes to build for this machine: those of the layers under test, and of other layers those that `reverse`
    /// selects.
    pub fn to_build(&self, machine: &str, reverse: ReverseDependencies) -> Vec<&AffectedRecipe> {
        let elsewhere = match reverse {
            ReverseDependencies::All => &self.elsewhere[..],
            ReverseDependencies::AtMost(most) if self.elsewhere.len() as u64 <= most => &self.elsewhere,
            ReverseDependencies::Layer | ReverseDependencies::AtMost(_) => &[],
        };
        self.recipes.iter().chain(elsewhere).filter(|recipe| recipe.is_for(machine)).collect()
    }
}

/// Which recipes of other layers are built because of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReverseDependencies {
    /// None.
    #[default]
    Layer,
    All,
    /// All of them, if they are not more than this; otherwise none.
    AtMost(u64),
}

/// What the result is based on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", content = "why", rename_all = "kebab-case")]
pub enum Evidence {
    #[default]
    Signatures,
    /// Only the files of the change, with the reason why there are no signatures.
    Files(String),
}

/// A recipe with changed tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedRecipe {
    /// `PN`, also of an extended recipe (`zlib-native`), with the name of its multiconfig in front (`mc:x:zlib`).
    pub name: String,
    /// The recipe's file, relative to the checkout under test where it lies inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The layer's name (`BBFILE_COLLECTIONS`).
    pub layer: String,
    pub change: Change,
    /// The changed tasks, e.g. `do_compile`, sorted.
    pub tasks: Vec<String>,
    /// The machines on which it changed; empty: all of the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
}

impl AffectedRecipe {
    /// Whether it changed on this machine.
    pub fn is_for(&self, machine: &str) -> bool {
        self.machines.is_empty() || self.machines.iter().any(|name| name == machine)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    Added,
    Changed,
}

/// A cause: a task that changed although nothing that it depends on changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub recipe: String,
    pub task: String,
    /// For people: ``the file `0001-x.patch` changed``, ``the variable `SRCREV` changed``.
    pub cause: String,
    /// Changed tasks that depend on it, itself included.
    pub tasks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedRecipe {
    pub name: String,
    /// BitBake's message.
    pub reason: String,
    /// The machine that does not build it, where the job has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str, machines: &[&str]) -> AffectedRecipe {
        AffectedRecipe {
            name: name.into(),
            file: None,
            layer: "x".into(),
            change: Change::Changed,
            tasks: Vec::new(),
            machines: machines.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn reverse_dependencies_are_selected_by_their_number() {
        let affected = Affected {
            recipes: vec![recipe("a", &[]), recipe("b", &["arm"])],
            elsewhere: vec![recipe("c", &[]), recipe("d", &["x86"])],
            ..Affected::default()
        };
        for (machine, reverse, wanted) in [
            ("x86", ReverseDependencies::Layer, &["a"][..]),
            ("arm", ReverseDependencies::Layer, &["a", "b"]),
            ("x86", ReverseDependencies::All, &["a", "c", "d"]),
            ("arm", ReverseDependencies::AtMost(2), &["a", "b", "c"]),
            ("arm", ReverseDependencies::AtMost(1), &["a", "b"]),
        ] {
            let names: Vec<&str> =
                affected.to_build(machine, reverse).iter().map(|recipe| recipe.name.as_str()).collect();
            assert_eq!(names, wanted, "{machine} {reverse:?}");
        }
    }
}
