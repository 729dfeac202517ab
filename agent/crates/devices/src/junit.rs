//! Reads reports in the form of JUnit, as LAVA and AWS IoT Device Tester write them.
//!
//! Even the examples in AWS's documents are not well-formed, so only what a verdict needs must be readable: what is
//! unknown is ignored, but a report that ends early, or whose numbers are no numbers, is none.

use std::collections::BTreeSet;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Limits of a report.
pub const MOST_BYTES: u64 = 64 << 20;
const MOST_CASES: usize = 100_000;
const MOST_ELEMENTS: usize = 10_000;
const DEEPEST: usize = 32;
const LONGEST_TEXT: usize = 16 * 1024;

/// The report of a suite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SuiteReport {
    /// What `testsuites` says.
    pub totals: Counts,
    pub groups: Vec<Group>,
}

/// The tests of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub name: String,
    pub counts: Counts,
    pub cases: Vec<Case>,
}

/// Numbers that a report names. Absent ones say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tests: Option<u64>,
    pub failures: Option<u64>,
    pub errors: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    pub name: String,
    pub seconds: Option<f64>,
    pub failure: Option<String>,
    /// May stand beside a failure.
    pub error: Option<String>,
    pub skipped: bool,
}

impl Case {
    pub fn is_bad(&self) -> bool {
        self.failure.is_some() || self.error.is_some()
    }

    pub fn passed(&self) -> bool {
        !self.is_bad() && !self.skipped
    }
}

/// A document that may contain a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The name of the top element.
    pub root: String,
    pub suite: Option<SuiteReport>,
    /// All elements that are no part of the report.
    pub elements: Vec<Element>,
}

/// Another element.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Element {
    /// The names of the elements around it, the top one first.
    pub inside: Vec<String>,
    pub name: String,
    attributes: Attributes,
    /// The text after its last child, or its whole text.
    pub text: String,
}

impl Element {
    /// An attribute, without blanks around it.
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.attributes.text(name)
    }
}

impl Document {
    /// The text of the first element with this name.
    pub fn text(&self, name: &str) -> String {
        let found = self.elements.iter().find(|element| element.name == name);
        found.map(|element| element.text.clone()).unwrap_or_default()
    }
}

impl SuiteReport {
    pub fn cases(&self) -> impl Iterator<Item = &Case> + Clone {
        self.groups.iter().flat_map(|group| &group.cases)
    }

    /// Where the numbers of the report are not those of its cases.
    pub fn miscount(&self) -> Option<String> {
        let whole = miscount("the report", self.totals, self.cases());
        let parts = || {
            self.groups.iter().find_map(|group| {
                miscount(&format!("the group {}", group.name), group.counts, group.cases.iter())
            })
        };
        whole.or_else(parts)
    }
}

/// A case with a failure and an error may count as both.
fn miscount<'a>(what: &str, counts: Counts, cases: impl Iterator<Item = &'a Case> + Clone) -> Option<String> {
    let count = |is: fn(&Case) -> bool| cases.clone().filter(|case| is(case)).count() as u64;
    let number = |name: &str, said: Option<u64>, least: u64, most: u64| {
        said.filter(|said| *said < least || *said > most)
            .map(|said| format!("{what} says {name}=\"{said}\", and its test cases have {most}"))
    };
    let (tests, both) = (count(|_| true), count(|case| case.failure.is_some() && case.error.is_some()));
    let (failures, errors) = (count(|case| case.failure.is_some()), count(|case| case.error.is_some()));
    number("tests", counts.tests, tests, tests)
        .or_else(|| number("failures", counts.failures, failures - both, failures))
        .or_else(|| number("errors", counts.errors, errors - both, errors))
}

/// A report of a suite.
///
/// # Errors
/// Why it cannot be relied upon.
pub fn parse_suite(text: &str) -> Result<SuiteReport, String> {
    let document = parse(text)?;
    match document.suite {
        Some(suite) if document.root == "testsuites" || document.root == "testsuite" => Ok(suite),
        _ => Err(format!("its top element is `{}`, not `testsuites`", document.root)),
    }
}

/// A document with or without a report.
///
/// # Errors
/// Why it cannot be relied upon.
pub fn parse(text: &str) -> Result<Document, String> {
    Parser::run(text)
}

/// What was read of a document.
#[derive(Default)]
struct Parser {
    document: Document,
    /// The open elements.
    path: Vec<Open>,
    cases: usize,
    /// The text since the last tag.
    text: String,
}

struct Open {
    name: String,
    /// Its index, if it is another element.
    element: Option<usize>,
}

impl Parser {
    fn run(text: &str) -> Result<Document, String> {
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        reader.config_mut().expand_empty_elements = true;
        let mut parser = Parser::default();
        loop {
            let malformed =
                |error: &dyn std::fmt::Display, at: u64| format!("it is not XML: {error} (byte {at})");
            let event = reader.read_event();
            let at = reader.buffer_position();
            match event.map_err(|error| malformed(&error, at))? {
                Event::Start(element) => parser.start(&element)?,
                Event::End(_) => parser.end(),
                Event::Text(text) => parser.add_text(&String::from_utf8_lossy(&text)),
                Event::CData(text) => parser.add_text(&String::from_utf8_lossy(&text)),
                Event::GeneralRef(name) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    let resolved = quick_xml::escape::resolve_xml_entity(&name).map(str::to_owned);
                    parser.add_text(&resolved.unwrap_or(name));
                }
                Event::DocType(_) => return Err("it has a document type, which no report has".into()),
                Event::Eof => break,
                _ => {}
            }
        }
        match (parser.path.last(), parser.document.root.is_empty()) {
            (Some(open), _) => Err(format!("it ends inside of `{}`", open.name)),
            (None, true) => Err("it is empty".into()),
            (None, false) => Ok(parser.document),
        }
    }

    fn start(&mut self, element: &BytesStart) -> Result<(), String> {
        let name = String::from_utf8_lossy(element.local_name().as_ref()).into_owned();
        let attributes = Attributes::of(element)?;
        match (self.path.is_empty(), self.document.root.is_empty()) {
            (true, true) => self.document.root.clone_from(&name),
            (true, false) => return Err(format!("there is a second top element, `{name}`")),
            _ => {}
        }
        if self.path.len() >= DEEPEST {
            return Err("its elements are nested too deeply".into());
        }
        match name.as_str() {
            "testsuites" => {
                if self.document.suite.is_some() {
                    return Err("it has `testsuites` twice".into());
                }
                let totals = attributes.counts()?;
                self.document.suite = Some(SuiteReport { totals, groups: Vec::new() });
            }
            "testsuite" => {
                let group = Group {
                    name: attributes.text("name").ok_or("a `testsuite` has no name")?,
                    counts: attributes.counts()?,
                    cases: Vec::new(),
                };
                self.document.suite.get_or_insert_default().groups.push(group);
            }
            "testcase" => {
                self.cases += 1;
                if self.cases > MOST_CASES {
                    return Err(format!("it has more than {MOST_CASES} test cases"));
                }
                let case = Case {
                    name: attributes.text("name").ok_or("a `testcase` has no name")?,
                    seconds: attributes.seconds("time")?,
                    ..Case::default()
                };
                let group = self.document.suite.as_mut().and_then(|suite| suite.groups.last_mut());
                group.ok_or_else(|| format!("the test case `{}` has no group", case.name))?.cases.push(case);
            }
            "failure" | "error" | "skipped" if self.path.iter().any(|open| open.name == "testcase") => {
                let why = attributes.text("message").or(attributes.text("type")).unwrap_or_default();
                if let Some(case) = self.last_case() {
                    match name.as_str() {
                        "failure" => case.failure = Some(why),
                        "error" => case.error = Some(why),
                        _ => case.skipped = true,
                    }
                }
            }
            _ if self.path.iter().any(|open| open.name == "testcase") => {}
            _ => {
                if self.document.elements.len() >= MOST_ELEMENTS {
                    return Err(format!("it has more than {MOST_ELEMENTS} elements besides its tests"));
                }
                let inside = self.path.iter().map(|open| open.name.clone()).collect();
                let element = Element { inside, name: name.clone(), attributes, text: String::new() };
                self.document.elements.push(element);
                self.path.push(Open { name, element: Some(self.document.elements.len() - 1) });
                self.text.clear();
                return Ok(());
            }
        }
        self.text.clear();
        self.path.push(Open { name, element: None });
        Ok(())
    }

    fn end(&mut self) {
        let Some(open) = self.path.pop() else { return };
        let text = std::mem::take(&mut self.text).trim().to_owned();
        let in_case = self.path.last().is_some_and(|open| open.name == "testcase");
        if let Some(element) = open.element.and_then(|index| self.document.elements.get_mut(index)) {
            element.text = text;
        } else if matches!(open.name.as_str(), "failure" | "error") && in_case && !text.is_empty() {
            let Some(case) = self.last_case() else { return };
            let why = if open.name == "failure" { &mut case.failure } else { &mut case.error };
            *why = Some(match why.take().filter(|kind| !kind.is_empty()) {
                Some(kind) => format!("{kind}: {text}"),
                None => text,
            });
        }
    }

    fn add_text(&mut self, text: &str) {
        let room = LONGEST_TEXT.saturating_sub(self.text.len());
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn last_case(&mut self) -> Option<&mut Case> {
        self.document.suite.as_mut()?.groups.last_mut()?.cases.last_mut()
    }
}

/// The attributes of an element.
#[derive(Clone, Debug, Default, PartialEq)]
struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn of(element: &BytesStart) -> Result<Attributes, String> {
        let name = String::from_utf8_lossy(element.name().as_ref()).into_owned();
        let mut all = Vec::new();
        let mut seen = BTreeSet::new();
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|error| format!("an attribute of `{name}`: {error}"))?;
            let key = String::from_utf8_lossy(attribute.key.local_name().as_ref()).into_owned();
            let raw = String::from_utf8_lossy(&attribute.value).into_owned();
            let mut value =
                quick_xml::escape::unescape(&raw).map_or_else(|_| raw.clone(), |text| text.into_owned());
            value.truncate(value.floor_char_boundary(LONGEST_TEXT));
            if seen.insert(key.clone()) {
                all.push((key, value));
            }
        }
        Ok(Attributes(all))
    }

    fn text(&self, key: &str) -> Option<String> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn counts(&self) -> Result<Counts, String> {
        let number = |key: &str| match self.text(key) {
            None => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| format!("`{key}` is `{text}`, which is not a number"))
            }
        };
        Ok(Counts { tests: number("tests")?, failures: number("failures")?, errors: number("errors")? })
    }

    fn seconds(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
        seconds.map(Some).ok_or_else(|| format!("`{key}` is `{text}`, which is not a number of seconds"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "junit_tests.rs"]
mod tests;
