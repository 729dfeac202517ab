//! Reads what yocto-check-layer prints, line by line, in bounded memory.
//!
//! The shapes come from Python's `unittest.runner`, through OE-Core's `oeqa/core/runner.py`, whose
//! stream writes each piece as a log line of its own: the name of a test and its status are two
//! lines, `INFO: test_x (module.Class)` (with `.test_x` inside the parentheses from Python 3.11 on)
//! and `INFO:  ... ok`. A piece that contains `...` waits for the next one and shares its line.
//! Tests may print in between. Before Python 3.11 a class that is skipped as a whole has no name line.

use super::message::Message;

/// Cases beyond this number are not kept; the tool has about fifteen.
const MOST_CASES: usize = 500;
/// Complaints outside of tests beyond this number are not kept.
const MOST_TROUBLE: usize = 50;
/// Layers beyond this number are not kept.
const MOST_LAYERS: usize = 1000;

/// What the tool said of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseVerdict {
    Ok,
    Fail,
    Error,
    Skipped(String),
    ExpectedFailure,
    UnexpectedSuccess,
    /// It was started, and nothing more was heard.
    Unfinished,
}

impl CaseVerdict {
    fn parse(text: &str) -> Option<CaseVerdict> {
        Some(match text {
            "ok" => CaseVerdict::Ok,
            "FAIL" => CaseVerdict::Fail,
            "ERROR" => CaseVerdict::Error,
            "expected failure" => CaseVerdict::ExpectedFailure,
            "unexpected success" => CaseVerdict::UnexpectedSuccess,
            _ => CaseVerdict::Skipped(unquoted(text.strip_prefix("skipped ")?).to_owned()),
        })
    }

    pub fn is_failure(&self) -> bool {
        matches!(self, CaseVerdict::Fail | CaseVerdict::Error)
    }
}

/// The reason of a skip is printed as Python's `repr` of it.
fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

/// One test, or the set-up of a class (`setUpClass`), which stands for all tests of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCase {
    /// Module and class, e.g. `common.CommonCheckLayer`.
    pub class: String,
    pub name: String,
    pub verdict: CaseVerdict,
    pub message: Message,
}

impl TestCase {
    pub fn is_set_up(&self) -> bool {
        matches!(self.name.as_str(), "setUpClass" | "tearDownClass" | "setUpModule" | "tearDownModule")
    }
}

/// A layer that the tool found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenLayer {
    pub name: String,
    /// `SOFTWARE`, `BSP`, `DISTRO`, `CORE`
    pub kind: String,
}

/// Everything that was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub layers: Vec<SeenLayer>,
    pub cases: Vec<TestCase>,
    /// `Ran N tests in …`
    pub tests_run: Option<u64>,
    /// The last `Summary of results:`, layer and status, e.g. `PASS` or `SKIPPED (Unknown)`.
    pub summary: Vec<(String, String)>,
    /// Layers that are in `bblayers.conf` although they must not be.
    pub already_in_bblayers: Vec<String>,
    /// What the tool complained about outside of tests.
    pub trouble: Vec<String>,
    /// What was printed while the initial variables and signatures were made.
    pub before_the_layer: Message,
    /// A Python traceback of the tool itself, when its output ends with one.
    pub traceback: Message,
    /// The tool did not understand its command line.
    pub usage: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Start,
    Tests,
    /// The list of errors and failures after the tests, which repeats their messages.
    List,
    Summary,
}

/// Feed it every line, then take what it understood.
#[derive(Debug, Default)]
pub struct OutputParser {
    parsed: Parsed,
    section: Section,
    /// Lines belong to the message of this case.
    current: Option<usize>,
    in_traceback: bool,
}

impl OutputParser {
    pub fn new() -> OutputParser {
        OutputParser::default()
    }

    /// The test that runs now, for progress.
    pub fn running(&self) -> Option<&str> {
        let case = self.parsed.cases.get(self.current?)?;
        (case.verdict == CaseVerdict::Unfinished).then_some(case.name.as_str())
    }

    pub fn finish(self) -> Parsed {
        self.parsed
    }

    /// One line, without its end.
    pub fn line(&mut self, line: &str) {
        let line = without_colours(line);
        let line = line.trim_end_matches('\r');
        self.watch_for_a_crash(line);
        if line == "INFO: Summary of results:" {
            // Should a layer print these words, the tool's own come last.
            self.parsed.summary.clear();
            self.section = Section::Summary;
            self.current = None;
            return;
        }
        match self.section {
            Section::Start => self.start(line),
            Section::Tests | Section::List => self.tests(line),
            Section::Summary => self.summary(line),
        }
    }

    /// The tool's own traceback has no `INFO:` and nothing comes after it.
    fn watch_for_a_crash(&mut self, line: &str) {
        if line == "Traceback (most recent call last):" {
            if !self.in_traceback {
                self.parsed.traceback.clear();
            }
            self.in_traceback = true;
        } else if line.starts_with("INFO: ") {
            self.in_traceback = false;
            self.parsed.traceback.clear();
        }
        if self.in_traceback {
            self.parsed.traceback.push(line);
        }
    }

    fn start(&mut self, line: &str) {
        if line.starts_with("INFO: Starting to analyze: ") {
            self.section = Section::Tests;
            return;
        }
        if line.starts_with("usage: ") {
            self.parsed.usage = true;
        }
        if let Some(message) = line.strip_prefix("ERROR: ") {
            self.complain(message);
        }
        // What BitBake prints comes without `INFO:`.
        let Some(message) = line.strip_prefix("INFO: ") else {
            return self.parsed.before_the_layer.push(line);
        };
        if message.starts_with("Setting up for ") || message.starts_with("Getting initial ") {
            self.parsed.before_the_layer.clear();
        } else if let Some((name, _)) =
            message.split_once(" already in ").filter(|_| message.contains("To capture initial signatures"))
        {
            if self.parsed.already_in_bblayers.len() < MOST_LAYERS {
                self.parsed.already_in_bblayers.push(name.to_owned());
            }
        } else if message.ends_with("so ignoring") || message.starts_with("Skipping ") {
            self.complain(message);
        } else if let Some((name, kind)) = message.split_once(": LayerType.") {
            let kind = kind.split(',').next().unwrap_or(kind);
            if self.parsed.layers.len() == MOST_LAYERS {
                return;
            }
            self.parsed.layers.push(SeenLayer { name: name.to_owned(), kind: kind.to_owned() });
        } else {
            self.parsed.before_the_layer.push(message);
        }
    }

    fn complain(&mut self, message: &str) {
        if self.parsed.trouble.len() < MOST_TROUBLE {
            self.parsed.trouble.push(message.to_owned());
        }
    }

    fn tests(&mut self, line: &str) {
        let Some(text) = line.strip_prefix("INFO: ") else {
            return self.tell(line);
        };
        if let Some((failure, (name, class))) = listed(text) {
            self.section = Section::List;
            return self.list(failure, name, class);
        }
        if text.starts_with("=====") && text.trim_end_matches('=').is_empty() {
            self.section = Section::List;
            self.current = None;
        } else if let Some(count) = tests_run(text) {
            self.parsed.tests_run = Some(count);
            self.current = None;
        } else if self.section == Section::List {
            self.tell(text);
        } else if let Some((name, class)) = named(text) {
            self.begin(name, class);
        } else if let Some(status) = text.trim_start().strip_prefix("... ") {
            self.status(status);
        } else if self.running().is_none() && (text.starts_with("skipped ") || text == "ERROR") {
            self.unnamed(text);
        } else {
            self.tell(text);
        }
    }

    fn begin(&mut self, name: &str, class: &str) {
        self.current = None;
        if self.parsed.cases.len() == MOST_CASES {
            return;
        }
        self.parsed.cases.push(TestCase {
            class: class.to_owned(),
            name: name.to_owned(),
            verdict: CaseVerdict::Unfinished,
            message: Message::default(),
        });
        self.current = Some(self.parsed.cases.len() - 1);
    }

    fn status(&mut self, status: &str) {
        let verdict = CaseVerdict::parse(status.trim());
        let Some(case) = self.current.and_then(|current| self.parsed.cases.get_mut(current)) else { return };
        if case.verdict != CaseVerdict::Unfinished {
            return case.message.push(status);
        }
        match verdict {
            // A reason with `...` in it is held back until the name of the next test follows.
            Some(CaseVerdict::Skipped(reason)) => {
                let (reason, next) = split_next_name(&reason);
                case.verdict = CaseVerdict::Skipped(unquoted(reason).to_owned());
                if let Some((name, class)) = next {
                    let (name, class) = (name.to_owned(), class.to_owned());
                    self.begin(&name, &class);
                }
            }
            Some(verdict) => case.verdict = verdict,
            None => case.message.push(status),
        }
    }

    /// Before Python 3.11 the set-up of a class has no line of its own; OE-Core's reasons name the
    /// class, and errors are named in the list at the end.
    fn unnamed(&mut self, text: &str) {
        if let Some(CaseVerdict::Skipped(reason)) = CaseVerdict::parse(text)
            && let Some((class, _)) = reason.split_once(": ")
        {
            self.begin("setUpClass", class);
            self.status(text);
            self.current = None;
        }
    }

    /// An entry of the list at the end: it must agree with what was said before, or it is graver.
    fn list(&mut self, verdict: CaseVerdict, name: &str, class: &str) {
        let known = self.parsed.cases.iter().position(|case| case.name == name && case.class == class);
        match known {
            Some(known) => {
                let case = &mut self.parsed.cases[known];
                if !case.verdict.is_failure() {
                    case.verdict = verdict;
                }
                // The message was already there, right after the status.
                self.current = case.message.is_empty().then_some(known);
            }
            None => {
                self.begin(name, class);
                if let Some(case) = self.current.and_then(|current| self.parsed.cases.get_mut(current)) {
                    case.verdict = verdict;
                }
            }
        }
    }

    fn tell(&mut self, line: &str) {
        if self.section == Section::List && line.starts_with("-----") && line.trim_end_matches('-').is_empty()
        {
            return;
        }
        if let Some(case) = self.current.and_then(|current| self.parsed.cases.get_mut(current)) {
            // The reason of a skip comes a second time.
            if !matches!(&case.verdict, CaseVerdict::Skipped(reason) if reason == line) {
                case.message.push(line);
            }
        }
    }

    fn summary(&mut self, line: &str) {
        if let Some((layer, status)) = line.strip_prefix("INFO: ").and_then(|text| text.split_once(" ... "))
            && self.parsed.summary.len() < MOST_LAYERS
        {
            self.parsed.summary.push((layer.to_owned(), status.trim().to_owned()));
        }
    }
}

/// `ERROR: test_x (module.Class)`, `FAIL: …`
fn listed(text: &str) -> Option<(CaseVerdict, (&str, &str))> {
    let error = text.strip_prefix("ERROR: ").map(|rest| (CaseVerdict::Error, rest));
    let (verdict, rest) =
        error.or_else(|| text.strip_prefix("FAIL: ").map(|rest| (CaseVerdict::Fail, rest)))?;
    Some((verdict, named(rest)?))
}

/// `test_x (module.Class)`, `test_x (module.Class.test_x)`, `setUpClass (module.Class)`
fn named(text: &str) -> Option<(&str, &str)> {
    let (name, inside) = text.trim_end().strip_suffix(')')?.split_once(" (")?;
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    let known = name.starts_with("test_")
        || matches!(name, "setUpClass" | "tearDownClass" | "setUpModule" | "tearDownModule");
    if !known || !word(name) || !inside.split('.').all(word) {
        return None;
    }
    let class = inside.strip_suffix(name).and_then(|rest| rest.strip_suffix('.')).unwrap_or(inside);
    Some((name, class))
}

/// `'reason ...'test_x (module.Class)`
fn split_next_name(text: &str) -> (&str, Option<(&str, &str)>) {
    let quotes = text.match_indices(['\'', '"']).map(|(at, _)| at + 1);
    let mut names = quotes.filter_map(|at| Some((at, named(&text[at..])?)));
    match names.next_back() {
        Some((at, name)) => (&text[..at], Some(name)),
        None => (text, None),
    }
}

fn tests_run(text: &str) -> Option<u64> {
    let (count, rest) = text.strip_prefix("Ran ")?.split_once(' ')?;
    rest.starts_with("test").then(|| count.parse().ok())?
}

/// Leaves out ANSI escape sequences.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            plain.push(c);
        } else if rest.next() == Some('[') {
            // A control sequence ends with a character from `@` to `~`.
            rest.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    plain
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
