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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::yaml::{Syntax, parse};
    use super::*;
    use crate::config::problem::Problems;
    use crate::config::render;

    fn read(file: &str, text: &str) -> Node {
        let (mut problems, mut notices) = (Problems::default(), Vec::new());
        parse(file, text.as_bytes(), Syntax::Yaml, &mut problems, &mut notices).unwrap()
    }

    #[test]
    fn tables_are_merged_and_everything_else_is_replaced() {
        for (earlier, later, wanted) in [
            (
                "{a: 1, b: {x: 1, y: 2}}",
                "{b: {y: 3, z: 4}, c: 5}",
                r#"{"a":1,"b":{"x":1,"y":3,"z":4},"c":5}"#,
            ),
            ("{a: [1, 2]}", "{a: [3]}", r#"{"a":[3]}"#),
            ("{a: {x: 1}}", "{a: }", r#"{"a":null}"#),
            ("{a: }", "{a: {x: 1}}", r#"{"a":{"x":1}}"#),
            ("{a: {x: 1}}", "{a: {}}", r#"{"a":{"x":1}}"#),
            ("{a: 1}", "{a: [1]}", r#"{"a":[1]}"#),
        ] {
            let merged = merge(read("one.yml", earlier), read("two.yml", later));
            assert_eq!(render::json(&merged).to_string(), wanted, "{earlier} {later}");
        }
        let merged = merge(read("one.yml", "b: {x: 1, y: 2}"), read("two.yml", "\nb: {y: 3}"));
        let place = |key: &str| merged.child("b").unwrap().child(key).unwrap().place.to_string();
        assert_eq!([place("x"), place("y")], ["one.yml:1:8", "two.yml:2:8"]);
    }
}
