//! Reads YAML into a tree with positions. kas reads its files with PyYAML's safe loader, which follows YAML 1.1: `yes` is
//! true, `010` is 8, `<<` merges. JSON is read in the same way, with its own rules for scalars.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::super::problem::{Diagnostic, Place, Problems};
use super::super::tree::{Entry, Node, Value};
use super::scalar::{json_scalar, yaml_scalar};

/// The deepest nesting. Definitions have about six levels.
const DEEPEST: usize = 64;

/// The most values of a file, counted again for each alias: aliases of aliases grow without limit.
const MOST: usize = 100_000;

/// How scalars without quotes are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Yaml,
    Json,
}

/// Reads a text whose name is `file`. `None`: it could not be read, which was reported.
pub fn parse(
    file: &str,
    bytes: &[u8],
    syntax: Syntax,
    problems: &mut Problems,
    notices: &mut Vec<String>,
) -> Option<Node> {
    let file: Arc<str> = file.into();
    let start = Place::File { file: file.clone(), line: 1, column: 1 };
    let Ok(text) = std::str::from_utf8(bytes) else {
        problems.add(start, None, Diagnostic::new("is not UTF-8"));
        return None;
    };
    let text = text.trim_start_matches('\u{feff}');
    if syntax == Syntax::Json
        && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text)
    {
        let place = Place::File { file, line: error.line().max(1), column: error.column().max(1) };
        problems.add(place, None, Diagnostic::new(format!("is not valid JSON: {error}")));
        return None;
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        file,
        syntax,
        anchors: HashMap::new(),
        count: 0,
        unended: if text.ends_with('\n') { usize::MAX } else { text.chars().count() },
        notices,
    };
    match reader.document() {
        Ok(node) => Some(node),
        Err(fault) => {
            problems.add(fault.place, None, fault.diagnostic);
            None
        }
    }
}

struct Reader<'t, 'n> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    file: Arc<str>,
    syntax: Syntax,
    /// Finished nodes with an anchor.
    anchors: HashMap<usize, Node>,
    count: usize,
    /// The end of the text in characters, if it has no line break there.
    unended: usize,
    notices: &'n mut Vec<String>,
}

/// Why the text cannot be read.
struct Fault {
    place: Place,
    diagnostic: Diagnostic,
}

type Result<T> = std::result::Result<T, Fault>;

impl<'t> Reader<'t, '_> {
    fn place(&self, span: Span) -> Place {
        Place::File { file: self.file.clone(), line: span.start.line().max(1), column: span.start.col() + 1 }
    }

    fn fault<T>(&self, span: Span, message: impl Into<String>) -> Result<T> {
        Err(Fault { place: self.place(span), diagnostic: Diagnostic::new(message) })
    }

    fn next(&mut self) -> Result<(Event<'t>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let span = Span::empty(*error.marker());
                self.fault(span, format!("is not valid YAML: {}", error.info()))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The only document of the file.
    fn document(&mut self) -> Result<Node> {
        let mut found = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => {
                    let start = Place::File { file: self.file.clone(), line: 1, column: 1 };
                    return Ok(found.unwrap_or(Node {
                        place: start,
                        text: String::new(),
                        value: Value::Null,
                    }));
                }
                Event::DocumentStart(_) if found.is_some() => {
                    return self.fault(span, "has a second document, which kas does not read");
                }
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                event => found = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node> {
        self.count += 1;
        if depth > DEEPEST {
            return self.fault(span, format!("is nested deeper than {DEEPEST} levels"));
        }
        if self.count > MOST {
            return self.fault(span, format!("has more than {MOST} values"));
        }
        let (anchor, node) = match event {
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return self.fault(span, "is an alias within its own anchor");
                };
                self.count += count(&node);
                // The position of the values is that of the anchor.
                return if self.count > MOST {
                    self.fault(span, format!("has more than {MOST} values"))
                } else {
                    Ok(node)
                };
            }
            Event::Scalar(mut text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain;
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                // PyYAML keeps the line break of the last line only if the file has it.
                if is_block && span.end.index() >= self.unended && text.ends_with('\n') {
                    text.to_mut().pop();
                }
                (anchor, self.scalar(&text, is_plain, tag.as_deref(), span)?)
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", span)?;
                let mut items = Vec::new();
                loop {
                    let (event, at) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.node(event, at, depth + 1)?);
                }
                (anchor, Node { place: self.place(span), text: String::new(), value: Value::Array(items) })
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", span)?;
                (anchor, self.mapping(span, depth)?)
            }
            _ => return self.fault(span, "is not valid YAML"),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, span: Span, depth: usize) -> Result<Node> {
        let (mut entries, mut merged): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge = self.syntax == Syntax::Yaml
                && matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, at, depth + 1)?;
            let (event, value_at) = self.next()?;
            let value = self.node(event, value_at, depth + 1)?;
            if is_merge {
                self.merge(value, &mut merged, value_at)?;
                continue;
            }
            let Value::String(text) = key.value else {
                let message = format!("the key `{}` is {}, not a string", key.text, key.kind());
                let place = self.place(at);
                return Err(Fault { place, diagnostic: Diagnostic::new(message).hint("put it in quotes") });
            };
            let entry = Entry { key: text, place: key.place, node: value };
            match entries.iter_mut().find(|other| other.key == entry.key) {
                Some(other) => {
                    let message = format!(
                        "{}: `{}` is given twice; the second one counts, as in kas",
                        entry.place, entry.key
                    );
                    self.notices.push(message);
                    *other = entry;
                }
                None => entries.push(entry),
            }
        }
        // What is written in the mapping itself comes later and counts; among merged ones the last does.
        let mut all: Vec<Entry> = Vec::new();
        for entry in merged.into_iter().chain(entries) {
            match all.iter_mut().find(|other| other.key == entry.key) {
                Some(other) => *other = entry,
                None => all.push(entry),
            }
        }
        Ok(Node { place: self.place(span), text: String::new(), value: Value::Table(all) })
    }

    /// `<<: *anchor` and `<<: [*one, *two]`
    fn merge(&self, value: Node, merged: &mut Vec<Entry>, span: Span) -> Result<()> {
        let tables = match value.value {
            Value::Array(items) => items,
            _ => vec![value],
        };
        let mut own: Vec<Entry> = Vec::new();
        for table in tables {
            let Value::Table(entries) = table.value else {
                return self.fault(span, "`<<` needs a mapping, or a list of them");
            };
            // In a list of mappings, some versions of PyYAML take the first value of a key and others the last one.
            if let Some(twice) = entries.iter().find(|entry| own.iter().any(|other| other.key == entry.key)) {
                return self.fault(span, format!("`<<` merges `{}` from two mappings", twice.key));
            }
            own.extend(entries);
        }
        merged.extend(own);
        Ok(())
    }

    fn collection_tag(&self, tag: Option<&Tag>, usual: &str, span: Span) -> Result<()> {
        match tag {
            Some(tag) if !tag.is_yaml_core_schema() || tag.suffix != usual => self.unknown_tag(tag, span),
            _ => Ok(()),
        }
    }

    fn unknown_tag<T>(&self, tag: &Tag, span: Span) -> Result<T> {
        self.fault(span, format!("has the tag `{}{}`, which is not allowed", tag.handle, tag.suffix))
    }

    fn scalar(&self, text: &str, is_plain: bool, tag: Option<&Tag>, span: Span) -> Result<Node> {
        let string = || Value::String(text.to_owned());
        let resolved = || match self.syntax {
            Syntax::Yaml => yaml_scalar(text),
            Syntax::Json => json_scalar(text),
        };
        let value = match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(string()),
            Some(tag) if tag.handle == "!" && tag.suffix.is_empty() => Ok(string()),
            Some(tag)
                if tag.is_yaml_core_schema()
                    && ["null", "bool", "int", "float"].contains(&tag.suffix.as_str()) =>
            {
                resolved()
            }
            Some(tag) => return self.unknown_tag(tag, span),
            None if is_plain => resolved(),
            None => Ok(string()),
        };
        match value {
            Ok(value) => Ok(Node { place: self.place(span), text: text.to_owned(), value }),
            Err(why) => self.fault(span, format!("`{text}` {why}")),
        }
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Table(entries) => 1 + entries.iter().map(|entry| 1 + count(&entry.node)).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::problem::KeyPath;

    fn read(text: &str) -> (Option<Node>, String, Vec<String>) {
        let (mut problems, mut notices) = (Problems::default(), Vec::new());
        let node = parse("f.yml", text.as_bytes(), Syntax::Yaml, &mut problems, &mut notices);
        (node, problems.to_string(), notices)
    }

    #[test]
    fn plain_scalars_are_those_of_yaml_1_1() {
        let string = |text: &str| Value::String(text.into());
        for (text, wanted) in [
            ("yes", Value::Boolean(true)),
            ("Off", Value::Boolean(false)),
            ("y", string("y")),
            ("", Value::Null),
            ("~", Value::Null),
            ("'~'", string("~")),
            ("010", Value::Integer(8)),
            ("08", string("08")),
            ("0o10", string("0o10")),
            ("0x1F", Value::Integer(31)),
            ("0b11", Value::Integer(3)),
            ("1_000", Value::Integer(1000)),
            ("-12", Value::Integer(-12)),
            ("1:30", Value::Integer(90)),
            ("1.5", Value::Float(1.5)),
            ("1e3", string("1e3")),
            ("1.0e+3", Value::Float(1000.0)),
            ("2.8", Value::Float(2.8)),
            ("2026-01-02", Value::Datetime),
            ("!!str 2.8", string("2.8")),
            ("\"no\"", string("no")),
            ("0.10.1", string("0.10.1")),
        ] {
            let (node, said, _) = read(&format!("k: {text}\n"));
            let node = node.unwrap_or_else(|| panic!("{text}: {said}"));
            assert_eq!(node.get(&KeyPath::root().key("k")).unwrap().value, wanted, "{text}");
        }
    }

    #[test]
    fn merges_anchors_and_keeps_positions() {
        let text = "a: &a\n  x: 1\n  y: 2\nb:\n  y: 3\n  <<: *a\nc: [*a]\n";
        let (node, _, _) = read(text);
        let node = node.unwrap();
        let b = KeyPath::root().key("b");
        assert_eq!(node.get(&b.key("x")).unwrap().value, Value::Integer(1));
        assert_eq!(node.get(&b.key("y")).unwrap().value, Value::Integer(3), "the mapping's own");
        assert_eq!(node.place(&b.key("y")).to_string(), "f.yml:5:6");
        assert_eq!(node.key_place(&KeyPath::root().key("c")).to_string(), "f.yml:7:1");
    }

    #[test]
    fn a_second_key_counts_as_in_kas_and_is_reported() {
        let (node, _, notices) = read("a: 1\nb: 2\na: 3\n");
        assert_eq!(node.unwrap().get(&KeyPath::root().key("a")).unwrap().value, Value::Integer(3));
        assert_eq!(notices, ["f.yml:3:1: `a` is given twice; the second one counts, as in kas"]);
    }

    #[test]
    fn hostile_texts_are_refused_with_their_line() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", "));
        }
        let deep = format!("a: {}", "[".repeat(10_000));
        for (text, wanted) in [
            (bomb.as_str(), "has more than 100000 values"),
            (deep.as_str(), "f.yml:1:"),
            ("a: &a [*a]\n", "f.yml:1:"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("a: !!python/object:os.system x\n", "is not allowed"),
            ("a: !secret x\n", "is not allowed"),
            ("a: [1\nb: 2\n", "is not valid YAML"),
            ("a:\n\t- x\n", "f.yml:2:"),
            ("yes: 1\n", "the key `yes` is true or false, not a string"),
            ("<<: 1\n", "`<<` needs a mapping"),
        ] {
            let (node, said, _) = read(text);
            assert!(node.is_none() && said.contains(wanted), "{:.60}: {said}", text);
        }
    }

    #[test]
    fn the_last_line_of_a_block_ends_as_the_file_does() {
        for (text, wanted) in [
            ("k: |\n  a\n  b", "a\nb"),
            ("k: |\n  a\n  b\n", "a\nb\n"),
            ("k: |\n  a\nl: 1", "a\n"),
            ("k: >\n  a\n  b", "a b"),
        ] {
            let (node, said, _) = read(text);
            let node = node.unwrap_or_else(|| panic!("{text}: {said}"));
            assert_eq!(node.child("k").unwrap().as_text(), Some(wanted), "{text:?}");
        }
    }

    #[test]
    fn json_has_its_own_scalars() {
        let (mut problems, mut notices) = (Problems::default(), Vec::new());
        let text = b"{\"a\": \"yes\",\n \"b\": [1, true, null, -2.5e3]}";
        let node = parse("f.json", text, Syntax::Json, &mut problems, &mut notices).unwrap();
        assert_eq!(node.get(&KeyPath::root().key("a")).unwrap().value, Value::String("yes".into()));
        let b = KeyPath::root().key("b");
        assert_eq!(node.get(&b.index(2)).unwrap().value, Value::Null);
        assert_eq!(node.get(&b.index(3)).unwrap().value, Value::Float(-2500.0));
        assert!(parse("f.json", b"{a: 1}", Syntax::Json, &mut problems, &mut notices).is_none());
        assert!(problems.to_string().starts_with("f.json:1:2: is not valid JSON"), "{problems}");
    }
}
