//! `--set repos.poky.branch=master`: overrides a key of the manifest.

use std::sync::Arc;

use super::old_keys;
use super::problem::{Diagnostic, Place, Problems};
use super::tree::{Entry, Node, Value, parse_value};

/// Applies the flags to the manifest's tree in order. A value that is not TOML is a string, so that `--set
/// release=kirkstone` needs no quotes.
pub fn apply(tree: &mut Node, flags: &[String], problems: &mut Problems) {
    for flag in flags {
        let text: Arc<str> = flag.as_str().into();
        let place = Place::Flag(text);
        if let Err(mistake) = apply_one(tree, flag, &place) {
            problems.add(place, None, mistake);
        }
        // The value may be a whole table.
        old_keys::rename(tree);
    }
}

fn apply_one(tree: &mut Node, flag: &str, place: &Place) -> Result<(), Diagnostic> {
    let (key, value) = split(flag)?;
    let (steps, value) = (old_keys::new_path(steps(key)?), value.trim());
    let node = parse_value(value, place).unwrap_or_else(|| Node {
        place: place.clone(),
        text: toml::Value::String(value.to_owned()).to_string(),
        value: Value::String(value.to_owned()),
    });
    insert(tree, &steps, node, place)
}

/// Splits at the first `=` outside quotes.
fn split(flag: &str) -> Result<(&str, &str), Diagnostic> {
    let mut quote = None;
    for (at, c) in flag.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '=' => return Ok((&flag[..at], &flag[at + 1..])),
            None => {}
        }
    }
    Err(Diagnostic::new("has no `=`").hint("write --set KEY=VALUE, such as --set repos.poky.branch=master"))
}

/// Splits a dotted key. As in TOML, a part with other characters is quoted.
pub fn steps(key: &str) -> Result<Vec<String>, Diagnostic> {
    let bad = || {
        Diagnostic::new(format!("`{key}` is not a key"))
            .hint("keys are joined by dots; quote a part that contains a dot: repos.\"my.repo\".branch")
    };
    if key.contains(['\n', '\r', '[', '#', '{']) {
        return Err(bad());
    }
    let mut problems = Problems::default();
    let tree = super::tree::parse("", &format!("{key} = 0"), &mut problems).ok_or_else(bad)?;
    let mut steps = Vec::new();
    let mut node = &tree;
    while let [entry] = node.entries() {
        steps.push(entry.key.clone());
        node = &entry.node;
    }
    if steps.is_empty() || !problems.is_empty() { Err(bad()) } else { Ok(steps) }
}

/// Sets the value at a path, and makes the tables above it.
pub fn insert(node: &mut Node, steps: &[String], new: Node, place: &Place) -> Result<(), Diagnostic> {
    let [step, rest @ ..] = steps else {
        *node = new;
        return Ok(());
    };
    match &mut node.value {
        Value::Table(entries) => {
            let at = entries.iter().position(|entry| entry.key == *step).unwrap_or_else(|| {
                let node = Node::table(place.clone());
                entries.push(Entry { key: step.clone(), place: place.clone(), node });
                entries.len() - 1
            });
            if rest.is_empty() {
                entries[at].place = place.clone();
            }
            insert(&mut entries[at].node, rest, new, place)
        }
        Value::Array(items) => {
            let count = items.len();
            let item = step.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            let item = item.ok_or_else(|| {
                Diagnostic::new(format!("`{step}` is not an element of this list of {count}"))
                    .hint("elements are counted from 0; to replace the list write KEY=[…]")
            })?;
            insert(item, rest, new, place)
        }
        _ => Err(Diagnostic::new(format!("`{step}` is below a key that is {}", node.kind()))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::problem::KeyPath;
    use super::super::tree::parse;
    use super::*;

    const TEXT: &str = "name = 'x'\n[repos.poky]\nbranch = 'scarthgap'\n[[artifacts.rules]]\ninclude = 'a'\n";

    fn set(flags: &[&str]) -> (Node, String) {
        let mut problems = Problems::default();
        let mut tree = parse("f", TEXT, &mut problems).unwrap();
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        apply(&mut tree, &flags, &mut problems);
        (tree, problems.to_string())
    }

    fn path(keys: &[&str]) -> KeyPath {
        keys.iter().fold(KeyPath::root(), |path, key| match key.parse() {
            Ok(index) => path.index(index),
            Err(_) => path.key(key),
        })
    }

    #[test]
    fn sets_any_key_and_remembers_the_flag() {
        let string = |text: &str| Value::String(text.into());
        let table = [
            ("repos.poky.branch=master", &["repos", "poky", "branch"][..], string("master")),
            ("repos.\"my.repo\".branch=a=b", &["repos", "my.repo", "branch"], string("a=b")),
            ("repos.'x=y'.tag=1.0.0", &["repos", "x=y", "tag"], string("1.0.0")),
            ("build.targets.deep.er=true", &["build", "targets", "deep", "er"], Value::Boolean(true)),
            ("name=\"quoted\"", &["name"], string("quoted")),
            ("name=", &["name"], string("")),
            ("name = x", &["name"], string("x")),
            ("artifacts.rules.0.include=b", &["artifacts", "rules", "0", "include"], string("b")),
        ];
        for (flag, keys, wanted) in table {
            let (tree, said) = set(&[flag]);
            let node = tree.get(&path(keys)).unwrap_or_else(|| panic!("{flag}: {said}"));
            assert_eq!(node.value, wanted, "{flag}");
            assert_eq!(tree.key_place(&path(keys)), Place::Flag(flag.into()), "{flag}");
        }
    }

    #[test]
    fn sets_lists_and_tables_and_the_last_flag_wins() {
        let (tree, _) =
            set(&["config.machines=[\"a\", \"b\"]", "repos.poky={ path = '/p' }", "name=1", "name=2"]);
        assert!(
            matches!(&tree.get(&path(&["config", "machines"])).unwrap().value, Value::Array(items) if items.len() == 2)
        );
        assert!(tree.get(&path(&["repos", "poky", "branch"])).is_none(), "replaced as a whole");
        assert_eq!(tree.get(&path(&["name"])).unwrap().value, Value::Integer(2));
    }

    #[test]
    fn rejects_invalid_flags() {
        for (flag, wanted) in [
            ("name", "has no `=`"),
            ("=x", "is not a key"),
            ("a b=x", "is not a key"),
            ("a..b=x", "is not a key"),
            ("[t]\nx=1", "is not a key"),
            ("name.x=1", "below a key that is a string"),
            ("artifacts.rules.7.include=x", "not an element of this list of 1"),
        ] {
            let (_, said) = set(&[flag]);
            let place = format!("--set {}", flag.replace('\n', "\\n"));
            assert!(said.starts_with(&place) && said.contains(wanted), "{flag}: {said}");
        }
    }
}
