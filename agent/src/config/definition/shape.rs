//! The keys and types of a definition's file: what JSON Schema is for its own tool, with positions in the errors.

use super::super::problem::{Diagnostic, Problems};
use super::super::structure::nearest;
use super::super::tree::{Node, Value};

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Text,
    Null,
    Flag,
    Number,
    /// One of these.
    Words(&'static [&'static str]),
    List(&'static Shape),
    /// A table with any keys.
    Map(&'static Shape),
    /// A table with these keys.
    Table(&'static [(&'static str, Shape)]),
    AnyOf(&'static [Shape]),
    Anything,
}

impl Shape {
    /// For people.
    fn name(&self) -> String {
        match self {
            Shape::Text => "a string".into(),
            Shape::Null => "nothing".into(),
            Shape::Flag => "true or false".into(),
            Shape::Number => "an integer".into(),
            Shape::Words(words) => words.join(", "),
            Shape::List(_) => "a list".into(),
            Shape::Map(_) | Shape::Table(_) => "a table".into(),
            Shape::AnyOf(shapes) => shapes.iter().map(Shape::name).collect::<Vec<_>>().join(" or "),
            Shape::Anything => "anything".into(),
        }
    }

    fn fits(&self, node: &Node) -> bool {
        match (self, &node.value) {
            (Shape::Anything, _)
            | (Shape::Text, Value::String(_))
            | (Shape::Null, Value::Null)
            | (Shape::Flag, Value::Boolean(_))
            | (Shape::Number, Value::Integer(_))
            | (Shape::List(_), Value::Array(_))
            | (Shape::Map(_) | Shape::Table(_), Value::Table(_)) => true,
            (Shape::Words(words), Value::String(text)) => words.contains(&text.as_str()),
            _ => false,
        }
    }
}

/// Checks a file. `unknown` collects unknown keys instead of reporting them, for formats newer than the agent.
pub fn check(
    node: &Node,
    shape: &Shape,
    path: &str,
    problems: &mut Problems,
    mut unknown: Option<&mut Vec<String>>,
) {
    let shape = match shape {
        Shape::AnyOf(shapes) => match shapes.iter().find(|one| one.fits(node)) {
            Some(fitting) => fitting,
            None => return wrong(node, shape, path, problems),
        },
        shape if shape.fits(node) => shape,
        _ => return wrong(node, shape, path, problems),
    };
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match shape {
        Shape::List(items) => {
            let Value::Array(nodes) = &node.value else { return };
            for item in nodes {
                check(item, items, path, problems, unknown.as_deref_mut());
            }
        }
        Shape::Map(values) => {
            for entry in node.entries() {
                check(&entry.node, values, &inner(&entry.key), problems, unknown.as_deref_mut());
            }
        }
        Shape::Table(keys) => {
            for entry in node.entries() {
                let path = inner(&entry.key);
                match keys.iter().find(|(key, _)| *key == entry.key) {
                    Some((_, shape)) => check(&entry.node, shape, &path, problems, unknown.as_deref_mut()),
                    None => match unknown.as_deref_mut() {
                        Some(unknown) => {
                            unknown.push(format!("{}: {path}: unknown key, ignored", entry.place))
                        }
                        None => {
                            let mistake = Diagnostic::new("unknown key");
                            let mistake = match nearest(&entry.key, keys.iter().map(|(key, _)| *key)) {
                                Some(nearest) => mistake.hint(format!("did you mean `{nearest}`?")),
                                None => mistake,
                            };
                            problems.add(entry.place.clone(), Some(path), mistake);
                        }
                    },
                }
            }
        }
        _ => {}
    }
}

fn wrong(node: &Node, shape: &Shape, path: &str, problems: &mut Problems) {
    let mut mistake = Diagnostic::new(format!("must be {}, not {}", shape.name(), shown(node)));
    if !node.text.is_empty() && node.as_text().is_none() {
        mistake = mistake.hint(format!("if a string is meant, put it in quotes: \"{}\"", node.text));
    }
    problems.add(node.place.clone(), Some(path.to_owned()).filter(|path| !path.is_empty()), mistake);
}

fn shown(node: &Node) -> String {
    match node.as_text() {
        Some(text) => format!("`{text}`"),
        None => node.kind().to_owned(),
    }
}
