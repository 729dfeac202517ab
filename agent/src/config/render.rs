//! Writes a tree as TOML or JSON.

use std::fmt::Write;

use serde_json::{Map, Value as Json};

use super::problem::bare_or_quoted;
use super::tree::{Node, Value};

/// The tree as a TOML document.
pub fn toml(tree: &Node) -> String {
    let mut text = String::new();
    table(tree, &[], &mut text);
    text
}

fn table(node: &Node, path: &[&str], text: &mut String) {
    let is_table = |node: &Node| matches!(node.value, Value::Table(_));
    let mut plain = node.entries().iter().filter(|entry| !is_table(&entry.node)).peekable();
    let tables = node.entries().iter().filter(|entry| is_table(&entry.node));
    if !path.is_empty() && (plain.peek().is_some() || node.entries().is_empty()) {
        let keys: Vec<String> = path.iter().map(|key| bare_or_quoted(key)).collect();
        let blank = if text.is_empty() { "" } else { "\n" };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{blank}[{}]", keys.join("."));
    }
    for entry in plain {
        let _ = writeln!(text, "{} = {}", bare_or_quoted(&entry.key), inline(&entry.node));
    }
    for entry in tables {
        table(&entry.node, &[path, &[entry.key.as_str()]].concat(), text);
    }
}

/// A value as TOML, in the place of a value.
pub fn inline(node: &Node) -> String {
    match &node.value {
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        Value::Integer(integer) => integer.to_string(),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Float(_) | Value::Datetime => node.text.clone(),
        // No tree of a manifest has one.
        Value::Null => "\"\"".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Table(entries) => {
            let entry = |key: &str, node: &Node| format!("{} = {}", bare_or_quoted(key), inline(node));
            let entries: Vec<String> = entries.iter().map(|one| entry(&one.key, &one.node)).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// The tree as JSON.
pub fn json(node: &Node) -> Json {
    match &node.value {
        Value::String(text) => Json::from(text.as_str()),
        Value::Integer(integer) => Json::from(*integer),
        Value::Boolean(boolean) => Json::from(*boolean),
        Value::Float(float) if float.is_finite() => Json::from(*float),
        Value::Float(_) | Value::Datetime => Json::from(node.text.as_str()),
        Value::Null => Json::Null,
        Value::Array(items) => Json::Array(items.iter().map(json).collect()),
        Value::Table(entries) => {
            let pairs = entries.iter().map(|entry| (entry.key.clone(), json(&entry.node)));
            Json::Object(pairs.collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::problem::Problems;
    use super::super::tree::parse;
    use super::*;

    fn read(text: &str) -> Node {
        let mut problems = Problems::default();
        let tree = parse("f", text, &mut problems).unwrap();
        assert!(problems.is_empty(), "{problems}");
        tree
    }

    #[test]
    fn a_document_is_read_as_the_same_values_in_the_same_order() {
        let text = "version = 1\n[repos.z]\nurl = 'a\"b'\n[repos.\"a.b\"]\nlayers = ['x', \"\\u0007\"]\n\
                    [config]\nlocal_conf = '''\nA = \"1\"\nB = \"\\\\\"\n'''\n[[artifacts.rules]]\ninclude='i'\n\
                    [cost.per_minute]\nx = 0.5\n[github]\n";
        let first = read(text);
        let written = toml(&first);
        let second = read(&written);
        assert_eq!(json(&first), json(&second), "{written}");
        assert_eq!(toml(&second), written);
        let names: Vec<_> = second.entries().iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(names, ["version", "repos", "config", "artifacts", "cost", "github"], "{written}");
        assert!(written.contains("\n[repos.\"a.b\"]\n") && !written.contains("[repos]\n"), "{written}");
    }
}
