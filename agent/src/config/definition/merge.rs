//! Merges definitions as kas does: tables are merged key by key, lists and all other values are replaced.

use super::super::tree::{Entry, Node, Value};

/// The values of `later` come over those of `earlier`. The order of keys is that of `earlier`; new ones follow.
pub fn merge(earlier: Node, later: Node) -> Node {
    let (Value::Table(_), Value::Table(new)) = (&earlier.value, &later.value) else { return later };
    let new = new.clone();
    let Value::Table(mut entries) = earlier.value else { return later };
    for entry in new {
        match entries.iter().position(|known| known.key == entry.key) {
            Some(at) => {
                let known = entries[at].clone();
                let place = entry.place.clone();
                entries[at] = Entry { key: entry.key, place, node: merge(known.node, entry.node) };
            }
            None => entries.push(entry),
        }
    }
    Node { place: later.place, text: String::new(), value: Value::Table(entries) }
}
