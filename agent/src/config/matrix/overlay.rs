//! Overrides the manifest's keys with the values of a cell.

use super::super::flags;
use super::super::old_keys;
use super::super::problem::{Diagnostic, KeyPath, Problems, bare_or_quoted};
use super::super::tree::{Node, Value};
use super::combine::Combination;
use super::{Cell, KEY, Setting};

type Result<T> = std::result::Result<T, Diagnostic>;

/// The axes with a name of their own, the key that each sets, and whether that is a list.
pub const SHORT: [(&str, &[&str], bool); 4] = [
    ("machine", &["config", "machines"], true),
    ("release", &["release"], false),
    ("distro", &["config", "distro"], false),
    ("target", &["build", "targets"], true),
];

/// The keys of a matrix that are no axes.
pub const EXCLUDE: &str = "exclude";
pub const INCLUDE: &str = "include";
pub const LIMIT: &str = "limit";

/// The path of the manifest's key that a key of the matrix sets.
pub fn path(key: &str) -> Result<Vec<String>> {
    if let Some((_, path, _)) = SHORT.iter().find(|(name, ..)| *name == key) {
        return Ok(path.iter().map(ToString::to_string).collect());
    }
    let steps = flags::steps(key)?;
    match &steps[..] {
        [first, _, ..] if first == KEY => {
            Err(Diagnostic::new(format!("`{key}` is a key of the matrix itself")))
        }
        [_, _, ..] => Ok(old_keys::new_path(steps)),
        _ => {
            let names = SHORT.map(|(name, ..)| name);
            let mistake = Diagnostic::new(format!("`{key}` is not an axis"));
            Err(
                match super::super::structure::nearest(
                    key,
                    names.into_iter().chain([EXCLUDE, INCLUDE, LIMIT]),
                ) {
                    Some(nearest) => mistake.hint(format!("did you mean `{nearest}`?")),
                    None => mistake.hint(format!(
                        "write {}, or a key of a table in quotes, such as \"repos.meta-x.branch\"",
                        names.join(", ")
                    )),
                },
            )
        }
    }
}

/// Overrides the keys of a manifest's tree with the cell's values.
pub fn overlay(tree: &mut Node, cell: &Cell, problems: &mut Problems) {
    for Setting { key, node } in &cell.settings {
        let is_list = SHORT.iter().any(|(name, _, is_list)| name == key && *is_list);
        let new = match is_list {
            true => Node { value: Value::Array(vec![node.clone()]), text: String::new(), ..node.clone() },
            false => node.clone(),
        };
        let set = path(key).and_then(|path| flags::insert(tree, &path, new, &node.place));
        if let Err(mistake) = set {
            problems.add(node.place.clone(), Some(name(key)), mistake);
        }
    }
}

/// Reports flags that override a value of the cell: its identifier would say something else. Other targets are a choice for
/// one call, like `--only`: the caches of all cells are filled with them.
pub fn reject_flags(tree: &Node, cell: &Cell, problems: &mut Problems) {
    for Setting { key, node } in cell.settings.iter().filter(|setting| setting.key != "target") {
        let steps = path(key).unwrap_or_default();
        let path = steps.iter().fold(KeyPath::root(), |path, step| path.key(step));
        let place = tree.place(&path);
        if place.is_flag() && !node.place.is_flag() {
            let mistake = Diagnostic::new(format!("the matrix sets `{key}`"));
            let axis = bare_or_quoted(key);
            let hint = format!("choose a cell with --cell, or override the axis: --set 'matrix.{axis}=[…]'");
            problems.add(place, Some(tree.name(&path)), mistake.hint(hint));
        }
    }
}

/// Reports keys of a cell that set the same key of the manifest, or one below the other.
pub fn reject_conflicts(combination: &Combination, problems: &mut Problems) {
    let paths: Vec<(&Setting, Vec<String>)> =
        combination.settings.iter().filter_map(|setting| Some((setting, path(&setting.key).ok()?))).collect();
    for (index, (setting, path)) in paths.iter().enumerate() {
        let other =
            paths[..index].iter().find(|(_, other)| path.starts_with(other) || other.starts_with(path));
        if let Some((other, _)) = other {
            let mistake = Diagnostic::new(format!("sets the same key as `{}`", other.key));
            problems.add(
                setting.node.place.clone(),
                Some(name(&setting.key)),
                mistake.hint("remove one of them"),
            );
        }
    }
}

/// A key of the matrix in messages.
pub fn name(key: &str) -> String {
    KeyPath::root().key(KEY).key(key).to_string()
}
