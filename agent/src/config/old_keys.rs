//! Manifest keys that have a new name. The old names are still read.

use super::tree::{Node, Value};

/// Each old key with its table, and the new key in the same table.
const RENAMED: [([&str; 2], &str); 1] = [(["check", "side_by_side"], "max_parallel_bitbakes")];

/// Renames the old keys of a manifest. An old key beside the new one stays, and is reported as unknown.
pub fn rename(tree: &mut Node) {
    for ([table, old], new) in RENAMED {
        let Value::Table(tables) = &mut tree.value else { return };
        let Some(table) = tables.iter_mut().find(|entry| entry.key == table) else { continue };
        let Value::Table(entries) = &mut table.node.value else { continue };
        if entries.iter().any(|entry| entry.key == new) {
            continue;
        }
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == old) {
            new.clone_into(&mut entry.key);
        }
    }
}

/// The new path of a key that may have an old one.
pub fn new_path(mut path: Vec<String>) -> Vec<String> {
    for (old, new) in RENAMED {
        if path.starts_with(&old.map(str::to_owned)) {
            new.clone_into(&mut path[1]);
        }
    }
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::problem::Problems;
    use super::super::tree::parse;
    use super::*;

    fn keys_of_check(text: &str) -> Vec<String> {
        let mut problems = Problems::default();
        let mut tree = parse("f", text, &mut problems).unwrap();
        rename(&mut tree);
        let check = tree.entries().iter().find(|entry| entry.key == "check");
        check.map_or_else(Vec::new, |check| check.node.entries().iter().map(|e| e.key.clone()).collect())
    }

    #[test]
    fn old_keys_get_their_new_names() {
        for (text, wanted) in [
            ("[check]\nside_by_side = 2", vec!["max_parallel_bitbakes"]),
            ("check.side_by_side = 2", vec!["max_parallel_bitbakes"]),
            ("[check]\nmax_parallel_bitbakes = 2", vec!["max_parallel_bitbakes"]),
            (
                "[check]\nside_by_side = 2\nmax_parallel_bitbakes = 2",
                vec!["side_by_side", "max_parallel_bitbakes"],
            ),
            ("check = 3", vec![]),
            ("[build]\nside_by_side = 2", vec![]),
        ] {
            assert_eq!(keys_of_check(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_path_gets_its_new_name() {
        for (path, wanted) in [
            (vec!["check", "side_by_side"], vec!["check", "max_parallel_bitbakes"]),
            (vec!["check"], vec!["check"]),
            (vec!["build", "side_by_side"], vec!["build", "side_by_side"]),
        ] {
            assert_eq!(new_path(path.into_iter().map(str::to_owned).collect()), wanted);
        }
    }
}
