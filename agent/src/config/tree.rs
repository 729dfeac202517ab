//! Parses a TOML text into a tree in which every key and value has its position.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Diagnostic, KeyPath, Place, Problems, Step};

/// A value and its position.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
    /// A scalar as written; empty for arrays and tables.
    pub text: String,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    /// Only in definitions of other formats; TOML has none.
    Null,
    Array(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Node {
    /// An empty table.
    pub fn table(place: Place) -> Node {
        Node { place, text: String::new(), value: Value::Table(Vec::new()) }
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    pub fn get(&self, path: &KeyPath) -> Option<&Node> {
        path.steps().iter().try_fold(self, |node, step| node.step(step))
    }

    fn step(&self, step: &Step) -> Option<&Node> {
        match (&self.value, step) {
            (Value::Table(_), Step::Key(key)) => self.entry(key).map(|entry| &entry.node),
            (Value::Array(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    /// The value of a key of a table.
    pub fn child(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The same, to change it.
    pub fn child_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Table(entries) => {
                entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node)
            }
            _ => None,
        }
    }

    /// Adds a key at the end of a table, or replaces its value.
    pub fn insert(&mut self, key: &str, node: Node) {
        let Value::Table(entries) = &mut self.value else { return };
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.node = node,
            None => entries.push(Entry { key: key.to_owned(), place: node.place.clone(), node }),
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The position of the value at `path`, or of its closest parent.
    pub fn place(&self, path: &KeyPath) -> Place {
        let mut node = self;
        for step in path.steps() {
            match node.step(step) {
                Some(next) => node = next,
                None => break,
            }
        }
        node.place.clone()
    }

    /// The position of the last key of `path`, or of its closest parent.
    pub fn key_place(&self, path: &KeyPath) -> Place {
        let mut node = self;
        let mut place = &self.place;
        for step in path.steps() {
            let Some(next) = node.step(step) else { break };
            place = match step {
                Step::Key(key) => node.entry(key).map_or(&next.place, |entry| &entry.place),
                Step::Index(_) => &next.place,
            };
            node = next;
        }
        place.clone()
    }

    /// The path as in the file: a table by its header, anything else as a key in one.
    pub fn name(&self, path: &KeyPath) -> String {
        self.get(path).map_or_else(|| path.to_string(), |node| node.called(path))
    }

    /// The same for this value, whose path is `path`.
    pub fn called(&self, path: &KeyPath) -> String {
        match self.value {
            Value::Table(_) if !path.steps().is_empty() => path.as_table(),
            _ => path.to_string(),
        }
    }

    /// The name of this kind of value for people.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime => "a date or time",
            Value::Null => "nothing",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// Parses `text`, whose name is `file`. `None`, if it is not TOML: then only syntax errors are reported.
/// Duplicate keys are reported, and the rest is still validated.
pub fn parse(file: &str, text: &str, problems: &mut Problems) -> Option<Node> {
    let source = Source::new(text, At::File(file.into()));
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut usable = true;
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let mistake = if error.message() == "duplicate key" {
            let key = text.get(span.clone()).unwrap_or_default();
            Diagnostic::new(format!("`{key}` is given twice"))
                .hint("keep one of them and merge the others into it")
        } else {
            usable = false;
            Diagnostic::new(format!("not valid TOML: {}", error.message()))
        };
        problems.add(source.place(span.start), None, mistake);
    }
    usable.then(|| {
        let mut root = source.table(document.get_ref(), source.place(0), problems);
        root.place = source.place(0);
        root
    })
}

/// Parses bytes that should be TOML in UTF-8.
pub fn parse_bytes(file: &str, bytes: &[u8], problems: &mut Problems) -> Option<Node> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(file, text, problems),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let source = Source::new(&good, At::File(file.into()));
            problems.add(source.place(good.len()), None, Diagnostic::new("not UTF-8, so not valid TOML"));
            None
        }
    }
}

/// Parses the value of a `--set` as TOML; `None`, if it is not TOML.
pub fn parse_value(text: &str, place: &Place) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    let source = Source::new(text, At::Place(place.clone()));
    // A number that is too large for an integer is a string.
    let mut problems = Problems::default();
    let node = source.node(&value, &mut problems);
    problems.is_empty().then_some(node)
}

struct Source<'t> {
    text: &'t str,
    /// Offsets of line starts; the first is 0.
    line_starts: Vec<usize>,
    at: At,
}

enum At {
    File(Arc<str>),
    Place(Place),
}

impl<'t> Source<'t> {
    fn new(text: &'t str, at: At) -> Source<'t> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect();
        Source { text, line_starts, at }
    }

    fn place(&self, offset: usize) -> Place {
        match &self.at {
            At::Place(place) => place.clone(),
            At::File(file) => {
                let line = self.line_starts.partition_point(|start| *start <= offset);
                let start = self.line_starts[line - 1];
                let before = self.text.get(start..offset).unwrap_or_default();
                Place::File { file: file.clone(), line, column: before.chars().count() + 1 }
            }
        }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Node {
        let place = self.place(value.span().start);
        let text = self.text.get(value.span()).unwrap_or_default().to_owned();
        let value = match value.get_ref() {
            DeValue::String(string) => Value::String(string.clone().into_owned()),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(integer) => Value::Integer(integer),
                Err(_) => {
                    problems.add(place.clone(), None, Diagnostic::new(format!("`{text}` is too large")));
                    Value::Integer(0)
                }
            },
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.node(item, problems)).collect();
                return Node { place, text: String::new(), value: Value::Array(items) };
            }
            DeValue::Table(table) => return self.table(table, place, problems),
        };
        Node { place, text, value }
    }

    fn table(&self, table: &DeTable<'_>, place: Place, problems: &mut Problems) -> Node {
        // The parser sorts by name; messages follow the order of the file.
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let entries = pairs.into_iter().map(|(key, value)| Entry {
            key: key.get_ref().clone().into_owned(),
            place: self.place(key.span().start),
            node: self.node(value, problems),
        });
        Node { place, text: String::new(), value: Value::Table(entries.collect()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn at(place: &Place) -> (usize, usize) {
        match place {
            Place::File { line, column, .. } => (*line, *column),
            Place::Flag(_) => panic!("a flag"),
        }
    }

    fn read(text: &str) -> (Option<Node>, String) {
        let mut problems = Problems::default();
        let node = parse("f", text, &mut problems);
        (node, problems.to_string())
    }

    #[test]
    fn every_key_and_value_has_its_position() {
        let text = "b = 1\n[repos.z]\n  url = \"ü\"  # é\n[repos.a]\nlayers = [\n  'x',\n  'y']\n[[r]]\n[[r]]\nk=true\n";
        let (node, _) = read(text);
        let node = node.unwrap();
        let root = KeyPath::root();
        let repos = root.key("repos");
        assert_eq!(at(&node.place(&repos.key("z").key("url"))), (3, 9));
        assert_eq!(at(&node.key_place(&repos.key("z").key("url"))), (3, 3));
        assert_eq!(at(&node.place(&repos.key("a").key("layers").index(1))), (7, 3));
        assert_eq!(at(&node.place(&repos.key("a"))), (4, 1), "a table: its head");
        assert_eq!(at(&node.place(&repos.key("a").key("gone"))), (4, 1), "what is missing: its table");
        assert_eq!(at(&node.place(&root.key("r").index(1))), (9, 1));
        assert_eq!(at(&node.place(&root.key("r").index(1).key("k"))), (10, 3));
        let names: Vec<_> = node.get(&repos).unwrap().entries().iter().map(|e| e.key.as_str()).collect();
        assert_eq!(names, ["z", "a"], "the order of the file, not of the alphabet");
    }

    #[test]
    fn reports_only_syntax_errors_of_invalid_toml() {
        for (text, place) in [
            ("a = \n", "f:1:5:"),
            ("a = 1\nb = \"x\n", "f:2:7:"),
            ("[t\n", "f:1:3:"),
            ("a = 1\n= 2\n", "f:2:1:"),
        ] {
            let (node, said) = read(text);
            assert!(node.is_none(), "{text:?}");
            assert!(said.starts_with(place) && said.contains("not valid TOML"), "{text:?}: {said}");
        }
        let (_, said) = read("a = \nb = 1\nc = [1, \n");
        assert!(said.contains("f:1:") && said.contains("f:3:"), "both mistakes: {said}");
    }

    #[test]
    fn duplicate_key_does_not_hide_other_problems() {
        let (node, said) = read("[repos.poky]\nurl = 'a'\n[repos.poky]\nurl = 'b'\n[layer]\nx = 1\nx = 2\n");
        assert!(said.contains("f:3:8: `poky` is given twice"), "{said}");
        assert!(said.contains("f:7:1: `x` is given twice"), "{said}");
        assert!(node.unwrap().get(&KeyPath::root().key("layer")).is_some());
    }

    #[test]
    fn reports_the_position_of_invalid_utf8() {
        let mut problems = Problems::default();
        assert!(parse_bytes("f", b"a = 1\nb = '\xff'\n", &mut problems).is_none());
        assert!(problems.to_string().starts_with("f:2:6: not UTF-8"), "{problems}");
    }

    #[test]
    fn too_large_number_is_a_problem_in_a_file_and_a_string_in_a_flag() {
        let (_, said) = read("a = 1234567890123456789012345678901234567890\n");
        assert!(said.contains("too large"), "{said}");
        assert_eq!(parse_value("1234567890123456789012345678901234567890", &Place::Flag("x".into())), None);
    }

    #[test]
    fn accepts_or_rejects_hostile_texts_without_panic() {
        let many = "[repos.x]\nk = 1\n".repeat(50);
        let texts = [
            format!("a = {}", "[".repeat(100_000)),
            format!("a = {}", "{a=".repeat(100_000)),
            format!("{}a = 1", "a.".repeat(100_000)),
            "\u{0}\u{feff}=\r\r".to_owned(),
        ];
        for text in texts {
            assert!(read(&text).0.is_none(), "{}", &text[..10]);
        }
        let (_, said) = read(&many);
        assert_eq!(said.matches("`x` is given twice").count(), 49);
    }
}
