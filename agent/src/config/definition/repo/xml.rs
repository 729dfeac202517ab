//! Reads XML into elements with positions. The file is untrusted: its depth and its number of elements are bounded, and
//! only the entities that XML itself defines are replaced.

use std::sync::Arc;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::super::super::problem::Place;

const DEEPEST: usize = 16;
const MOST: usize = 10_000;

/// An element. Texts and comments are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    pub place: Place,
    attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
}

impl Element {
    /// An attribute; an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    fn new(start: &BytesStart, place: Place) -> Result<Element, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = text(start.name().as_ref());
        let mut attributes = Vec::new();
        // The reader rejects an attribute that is there twice.
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| format!("`{name}`: {error}"))?;
            let key = text(attribute.key.as_ref());
            let value = text(&attribute.value);
            let value =
                quick_xml::escape::unescape(&value).map_err(|error| format!("`{name}` {key}: {error}"))?;
            attributes.push((key, value.into_owned()));
        }
        Ok(Element { name, place, attributes, children: Vec::new() })
    }
}

/// The top element of a text whose name is `file`.
///
/// # Errors
/// Why it cannot be read, and where.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Element, (Place, String)> {
    let file: Arc<str> = file.into();
    let at = |line, column| Place::File { file: file.clone(), line, column };
    let text = std::str::from_utf8(bytes).map_err(|_| (at(1, 1), "is not UTF-8".to_owned()))?;
    let text = text.trim_start_matches('\u{feff}');
    let mut position = Position { text, byte: 0, line: 1, column: 1 };
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let (mut open, mut top): (Vec<Element>, Option<Element>) = (Vec::new(), None);
    let mut count = 0;
    loop {
        // Before the event: an element begins here.
        let start = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let event = reader.read_event();
        let (line, column) = position.advance(start);
        let fault = |why: String| (at(line, column), why);
        match event.map_err(|error| fault(format!("is not XML: {error}")))? {
            Event::Start(start) => {
                count += 1;
                if open.len() >= DEEPEST || count > MOST {
                    return Err(fault(format!("has more than {MOST} elements, or {DEEPEST} levels of them")));
                }
                if open.is_empty() && top.is_some() {
                    return Err(fault("has a second top element".into()));
                }
                open.push(Element::new(&start, at(line, column)).map_err(fault)?);
            }
            Event::End(_) => {
                // The reader compares the names.
                let Some(element) = open.pop() else { continue };
                match open.last_mut() {
                    Some(outer) => outer.children.push(element),
                    None => top = Some(element),
                }
            }
            Event::DocType(_) => {
                return Err(fault("has a document type, which no manifest of repo has".into()));
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match (open.last(), top) {
        (Some(open), _) => Err((open.place.clone(), format!("`{}` is not closed", open.name))),
        (None, Some(top)) => Ok(top),
        (None, None) => Err((at(1, 1), "has no element".into())),
    }
}

/// The line and the column of a byte. Calls must be in the order of the bytes.
struct Position<'t> {
    text: &'t str,
    byte: usize,
    line: usize,
    column: usize,
}

impl Position<'_> {
    fn advance(&mut self, byte: usize) -> (usize, usize) {
        for c in self.text.get(self.byte..byte).unwrap_or_default().chars() {
            match c {
                '\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
        }
        self.byte = self.byte.max(byte);
        (self.line, self.column)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_positions_and_attributes() {
        let text = "<?xml version=\"1.0\"?>\n<!-- é -->\n<manifest>\n  <project name='a &amp; b' path=\"\"/>\n</manifest>\n";
        let top = parse("m.xml", text.as_bytes()).unwrap();
        let project = &top.children[0];
        assert_eq!((top.name.as_str(), project.place.to_string().as_str()), ("manifest", "m.xml:4:3"));
        assert_eq!((project.get("name"), project.get("path")), (Some("a & b"), None));
    }

    #[test]
    fn hostile_texts_are_refused_with_their_place() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><a>&b;</a>";
        let deep = "<a>".repeat(1000);
        let many = format!("<a>{}</a>", "<b/>".repeat(MOST));
        for (text, wanted) in [
            (bomb, "m.xml:1:1 has a document type"),
            (&deep, "m.xml:1:49 has more than"),
            (&many, "has more than"),
            ("<a><b></a>", "m.xml:1:7 is not XML"),
            ("<a>\n<b>", "m.xml:2:1 `b` is not closed"),
            ("<a/><b/>", "m.xml:1:5 has a second top element"),
            ("<a b='1' b='2'/>", "m.xml:1:1 "),
            ("<a b='&x;'/>", "m.xml:1:1 `a` b: "),
            ("", "m.xml:1:1 has no element"),
        ] {
            let (place, why) = parse("m.xml", text.as_bytes()).unwrap_err();
            let message = format!("{place} {why}");
            assert!(message.contains(wanted), "{message}");
        }
        assert!(parse("m.xml", b"<a>\xff</a>").is_err());
    }
}
