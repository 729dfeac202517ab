//! Which configuration of a file, and which of its fragments.

use super::super::super::problem::{Diagnostic, Place, Problems};
use super::super::super::tree::{Entry, Node, Value};

/// A configuration with those that it lies in, and the fragments.
#[derive(Debug)]
pub struct Choice {
    pub name: String,
    entries: Vec<Entry>,
    /// All fragments: those of the configuration, then the chosen ones by their names.
    pub fragments: Vec<Node>,
}

impl Choice {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    pub fn list(&self, key: &str) -> &[Node] {
        items(self.get(key))
    }
}

fn items(node: Option<&Node>) -> &[Node] {
    match node.map(|node| &node.value) {
        Some(Value::Array(items)) => items,
        _ => &[],
    }
}

/// The configuration and the fragments that the words name: `poky machine/qemuarm64 distro/poky`. The only configuration
/// needs no name. `skipped` are the groups of fragments that `bitbake-setup init --skip-selection` left open.
pub fn choose(
    configurations: &Node,
    words: &[String],
    skipped: Option<&Node>,
    problems: &mut Problems,
) -> Option<Choice> {
    let all = flatten(items(Some(configurations)));
    let names: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
    let place = &configurations.place;
    let mut refuse = |message: String, hint: String| {
        problems.add(place.clone(), Some("configurations".into()), Diagnostic::new(message).hint(hint));
        None
    };
    let named = words.first().and_then(|word| all.iter().find(|(name, _)| name == word));
    let (found, words) = match (named, all.as_slice()) {
        (Some(named), _) => (named, &words[1..]),
        (None, [only]) => (only, words),
        (None, []) => {
            return refuse("the file has no configuration".into(), "is it one of bitbake-setup?".into());
        }
        (None, _) => {
            let message = match words.first() {
                Some(word) => format!("`{word}` is not one of the configurations {}", names.join(", ")),
                None => format!("the file has several configurations: {}", names.join(", ")),
            };
            return refuse(message, format!("choose one: --choose {}", example(all.first()?)));
        }
    };
    let (name, entries) = found;
    let get = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node);
    let mut fragments: Vec<Node> = items(get("oe-fragments")).iter().filter_map(fragment).collect();
    let mut chosen = Vec::new();
    let mut used = Vec::new();
    for group in get("oe-fragments-one-of").map(Node::entries).unwrap_or_default() {
        let options: Vec<Node> = items(group.node.child("options")).iter().filter_map(fragment).collect();
        let is_named =
            |option: &&Node| option.as_text().is_some_and(|text| words.iter().any(|word| word == text));
        let picked: Vec<&Node> = options.iter().filter(is_named).collect();
        let listed = || options.iter().filter_map(Node::as_text).collect::<Vec<_>>().join(", ");
        match picked.as_slice() {
            [one] => {
                used.push(one.as_text().unwrap_or_default().to_owned());
                chosen.push((*one).clone());
            }
            [] if items(skipped).iter().any(|skipped| skipped.as_text() == Some(group.key.as_str())) => {}
            [] => {
                let message = format!("no {} is chosen: {}", group.key, listed());
                return refuse(message, format!("choose one: --choose {}", example(found)));
            }
            _ => {
                return refuse(
                    format!("more than one {} is chosen of {}", group.key, listed()),
                    "choose one".into(),
                );
            }
        }
    }
    // A word that is no option is a fragment like those of the configuration.
    let place: Place = configurations.place.clone();
    let others = words.iter().filter(|word| !used.contains(word));
    let others: Vec<&String> = others.collect();
    if let Some(word) = others.iter().find(|word| !word.contains('/')) {
        return refuse(
            format!("`{word}` is neither a configuration nor a fragment"),
            format!("such as --choose {}", example(found)),
        );
    }
    chosen.sort_by(|one, other| one.as_text().cmp(&other.as_text()));
    fragments.extend(chosen);
    fragments.extend(others.into_iter().map(|word| super::super::build::text(word.as_str(), &place)));
    Some(Choice { name: name.clone(), entries: entries.clone(), fragments })
}

/// `poky,machine/qemuarm64,distro/poky`
fn example((name, entries): &(String, Vec<Entry>)) -> String {
    let groups = entries.iter().find(|entry| entry.key == "oe-fragments-one-of");
    let groups = groups.map(|entry| entry.node.entries()).unwrap_or_default();
    let first = |group: &Entry| {
        let option = items(group.node.child("options")).iter().find_map(fragment)?;
        option.as_text().map(str::to_owned)
    };
    std::iter::once(name.clone()).chain(groups.iter().filter_map(first)).collect::<Vec<_>>().join(",")
}

/// A fragment is a string, or a table with its name.
fn fragment(node: &Node) -> Option<Node> {
    match node.as_text() {
        Some(_) => Some(node.clone()),
        None => node.child("name").cloned(),
    }
}

/// Configurations in configurations: each innermost one with all that contain it. Lists and strings are joined.
fn flatten(configurations: &[Node]) -> Vec<(String, Vec<Entry>)> {
    let mut all = Vec::new();
    for outer in configurations {
        let inner = outer.child("configurations");
        if inner.is_none() {
            let name = outer.child("name").and_then(Node::as_text).unwrap_or_default();
            all.push((name.to_owned(), outer.entries().to_vec()));
            continue;
        }
        for (_, entries) in flatten(items(inner)) {
            let own = outer.entries().iter().filter(|entry| entry.key != "configurations");
            let mut merged: Vec<Entry> = own.cloned().collect();
            for entry in entries {
                match merged.iter_mut().find(|known| known.key == entry.key) {
                    Some(known) => known.node = joined(&known.node, entry.node),
                    None => merged.push(entry),
                }
            }
            let name = merged.iter().find(|entry| entry.key == "name").and_then(|name| name.node.as_text());
            all.push((name.unwrap_or_default().to_owned(), merged));
        }
    }
    all
}

fn joined(outer: &Node, inner: Node) -> Node {
    match (&outer.value, &inner.value) {
        (Value::Array(one), Value::Array(other)) => {
            Node { value: Value::Array([one.as_slice(), other].concat()), ..outer.clone() }
        }
        // Its name, too.
        (Value::String(one), Value::String(other)) => {
            super::super::build::text(format!("{one}{other}"), &inner.place)
        }
        _ => inner,
    }
}
