//! Reads the two XML reports of Device Tester: `awsiotdevicetester_report.xml` and the suite's own, which is like JUnit's.
//!
//! The documents' own examples are not well-formed in places, so only what a verdict needs must be readable: what is
//! unknown is ignored, but a report that ends early, or whose numbers are no numbers, is none.

use std::collections::BTreeSet;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Limits of a report.
pub const MOST_BYTES: u64 = 64 << 20;
const MOST_CASES: usize = 100_000;
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

/// `awsiotdevicetester_report.xml`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QualificationReport {
    pub tester_version: String,
    pub suite_version: String,
    pub signature: String,
    /// Of the product, not of the device.
    pub features: Vec<Feature>,
    /// The suite's report once more; `None`, if there is none in it.
    pub suite: Option<SuiteReport>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: String,
    /// `supported`, `not-supported` …
    pub value: String,
    pub required: bool,
}

/// A report of a suite.
///
/// # Errors
/// Why it cannot be relied upon.
pub fn parse_suite(text: &str) -> Result<SuiteReport, String> {
    let parsed = Parser::run(text)?;
    match parsed.suite {
        Some(suite) if parsed.root == "testsuites" || parsed.root == "testsuite" => Ok(suite),
        _ => Err(format!("its top element is `{}`, not `testsuites`", parsed.root)),
    }
}

/// The report with the features of the product.
///
/// # Errors
/// Why it cannot be relied upon.
pub fn parse_qualification(text: &str) -> Result<QualificationReport, String> {
    let parsed = Parser::run(text)?;
    match parsed.root.as_str() {
        "apnreport" => Ok(QualificationReport { suite: parsed.suite, ..parsed.qualification }),
        other => Err(format!("its top element is `{other}`, not `apnreport`")),
    }
}

/// What was read of a document.
#[derive(Default)]
struct Parser {
    root: String,
    /// The open elements.
    path: Vec<String>,
    qualification: QualificationReport,
    suite: Option<SuiteReport>,
    cases: usize,
    /// The text in a failure, an error, or an element of the qualification report.
    text: String,
}

impl Parser {
    fn run(text: &str) -> Result<Parser, String> {
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
        match (parser.path.last(), parser.root.is_empty()) {
            (Some(open), _) => Err(format!("it ends inside of `{open}`")),
            (None, true) => Err("it is empty".into()),
            (None, false) => Ok(parser),
        }
    }

    fn start(&mut self, element: &BytesStart) -> Result<(), String> {
        let name = String::from_utf8_lossy(element.local_name().as_ref()).into_owned();
        let attributes = Attributes::of(element)?;
        match (self.path.is_empty(), self.root.is_empty()) {
            (true, true) => self.root.clone_from(&name),
            (true, false) => return Err(format!("there is a second top element, `{name}`")),
            _ => {}
        }
        if self.path.len() >= DEEPEST {
            return Err("its elements are nested too deeply".into());
        }
        match name.as_str() {
            "testsuites" => {
                if self.suite.is_some() {
                    return Err("it has `testsuites` twice".into());
                }
                let totals = attributes.counts()?;
                self.suite = Some(SuiteReport { totals, groups: Vec::new() });
            }
            "testsuite" => {
                let group = Group {
                    name: attributes.text("name").ok_or("a `testsuite` has no name")?,
                    counts: attributes.counts()?,
                    cases: Vec::new(),
                };
                self.suite.get_or_insert_default().groups.push(group);
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
                let group = self.suite.as_mut().and_then(|suite| suite.groups.last_mut());
                group.ok_or_else(|| format!("the test case `{}` has no group", case.name))?.cases.push(case);
            }
            "failure" | "error" | "skipped" if self.path.iter().any(|open| open == "testcase") => {
                let why = attributes.text("message").or(attributes.text("type")).unwrap_or_default();
                if let Some(case) = self.last_case() {
                    match name.as_str() {
                        "failure" => case.failure = Some(why),
                        "error" => case.error = Some(why),
                        _ => case.skipped = true,
                    }
                }
            }
            "feature" if self.path.iter().any(|open| open == "awsproduct") => {
                let kind = attributes.text("type").unwrap_or_default();
                let feature = Feature {
                    name: attributes.text("name").ok_or("a `feature` has no name")?,
                    value: attributes.text("value").unwrap_or_default(),
                    // What is not said to be optional is required.
                    required: kind != "optional",
                };
                self.qualification.features.push(feature);
            }
            _ => {}
        }
        self.text.clear();
        self.path.push(name);
        Ok(())
    }

    fn end(&mut self) {
        let Some(name) = self.path.pop() else { return };
        let text = std::mem::take(&mut self.text).trim().to_owned();
        let in_case = self.path.last().is_some_and(|open| open == "testcase");
        match name.as_str() {
            "failure" | "error" if in_case && !text.is_empty() => {
                if let Some(case) = self.last_case() {
                    let why = if name == "failure" { &mut case.failure } else { &mut case.error };
                    *why = Some(match why.take().filter(|kind| !kind.is_empty()) {
                        Some(kind) => format!("{kind}: {text}"),
                        None => text,
                    });
                }
            }
            "awsiotdevicetesterversion" => self.qualification.tester_version = text,
            "testsuiteversion" => self.qualification.suite_version = text,
            "signature" => self.qualification.signature = text,
            _ => {}
        }
    }

    fn add_text(&mut self, text: &str) {
        let room = LONGEST_TEXT.saturating_sub(self.text.len());
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn last_case(&mut self) -> Option<&mut Case> {
        self.suite.as_mut()?.groups.last_mut()?.cases.last_mut()
    }
}

/// The attributes of an element.
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
                text.parse().map(Some).map_err(|_| format!("`{key}` is `{text}`, which is no number"))
            }
        };
        Ok(Counts { tests: number("tests")?, failures: number("failures")?, errors: number("errors")? })
    }

    fn seconds(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
        seconds.map(Some).ok_or_else(|| format!("`{key}` is `{text}`, which is no number of seconds"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "reports_tests.rs"]
mod tests;
