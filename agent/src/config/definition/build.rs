//! Builds the tree of a manifest out of the parts of a definition, so that errors have the positions in its files.

use super::super::problem::Place;
use super::super::tree::{Entry, Node, Value};

/// A string at a place.
pub fn text(text: impl Into<String>, place: &Place) -> Node {
    let string: String = text.into();
    Node { place: place.clone(), text: format!("{string:?}"), value: Value::String(string) }
}

pub fn integer(number: i64, place: &Place) -> Node {
    Node { place: place.clone(), text: number.to_string(), value: Value::Integer(number) }
}

pub fn flag(flag: bool, place: &Place) -> Node {
    Node { place: place.clone(), text: flag.to_string(), value: Value::Boolean(flag) }
}

pub fn list(items: Vec<Node>, place: &Place) -> Node {
    Node { place: place.clone(), text: String::new(), value: Value::Array(items) }
}

/// A table that grows.
#[derive(Clone, Debug)]
pub struct Table {
    place: Place,
    entries: Vec<Entry>,
}

impl Table {
    pub fn new(place: &Place) -> Table {
        Table { place: place.clone(), entries: Vec::new() }
    }

    /// Adds a key at the place of its value.
    pub fn add(&mut self, key: &str, node: Node) {
        self.entries.push(Entry { key: key.to_owned(), place: node.place.clone(), node });
    }

    /// The same, unless there is nothing.
    pub fn add_some(&mut self, key: &str, node: Option<Node>) {
        if let Some(node) = node {
            self.add(key, node);
        }
    }

    /// Adds a table, unless it is empty.
    pub fn add_table(&mut self, key: &str, table: Table) {
        if !table.entries.is_empty() {
            self.add(key, table.node());
        }
    }

    pub fn node(self) -> Node {
        Node { place: self.place, text: String::new(), value: Value::Table(self.entries) }
    }
}
