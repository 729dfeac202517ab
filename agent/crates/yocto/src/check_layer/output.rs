//! Reads what yocto-check-layer prints, line by line, in bounded memory.
//!
//! The shapes come from Python's `unittest.runner`, through OE-Core's `oeqa/core/runner.py`, whose
//! stream writes each piece as a log line of its own: the name of a test and its status are two
//! lines, `INFO: test_x (module.Class)` (with `.test_x` inside the parentheses from Python 3.11 on)
//! and `INFO:  ... ok`. A piece that contains `...` waits for the next one and shares its line.
//! Tests may print in between. Before Python 3.11 a class that is skipped as a whole has no name line.

use super::message::Message;
use super::unittest_lines::{
    TotalsLine, listed, named, split_next_name, tests_run, totals, unquoted, without_colours,
};

pub use super::unittest_lines::{CaseVerdict, Totals};

/// Cases beyond this number are not kept; the tool has about fifteen.
const MOST_CASES: usize = 500;
/// Complaints outside of tests beyond this number are not kept.
const MOST_TROUBLE: usize = 50;
/// Layers beyond this number are not kept.
const MOST_LAYERS: usize = 1000;
/// Contradictions beyond this number are not kept; one is enough.
const MOST_CONFLICTS: usize = 10;
/// Bytes of messages that are kept beyond the ends that every message has: long lists of findings.
const LONG_MESSAGES: usize = 8 << 20;

/// One test, or the set-up of a class (`setUpClass`), which stands for all tests of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCase {
    /// Module and class, e.g. `common.CommonCheckLayer`.
    pub class: String,
    pub name: String,
    pub verdict: CaseVerdict,
    pub message: Message,
    /// The headings of the list of errors and failures that name it, each with what it says.
    pub headings: Vec<CaseVerdict>,
    /// Seen while tests ran; otherwise only the list at the end names it.
    pub started: bool,
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
    /// unittest's own result, after `Ran N tests`.
    pub totals: Option<Totals>,
    /// What the output says twice, or in an order that the tool does not have. Then it is not the tool's
    /// alone, and nothing may be concluded from it.
    pub conflicts: Vec<String>,
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
    /// After `Ran N tests`.
    Totals,
    Summary,
}

/// Feed it every line, then take what it understood.
#[derive(Debug)]
pub struct OutputParser {
    parsed: Parsed,
    section: Section,
    /// Lines belong to the message of this case.
    current: Option<usize>,
    in_traceback: bool,
    summaries: usize,
    /// What is left of [`LONG_MESSAGES`].
    budget: usize,
    /// The line that the tool's process prints last.
    sentinel: Option<String>,
    /// The tool itself has ended: others print now.
    over: bool,
}

impl Default for OutputParser {
    fn default() -> OutputParser {
        OutputParser {
            parsed: Parsed::default(),
            section: Section::default(),
            current: None,
            in_traceback: false,
            summaries: 0,
            budget: LONG_MESSAGES,
            sentinel: None,
            over: false,
        }
    }
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

    /// What comes behind the sentinel is printed by a process that the tool left behind, and says nothing.
    pub fn until(sentinel: Option<String>) -> OutputParser {
        OutputParser { sentinel, ..OutputParser::default() }
    }

    /// One line, without its end.
    pub fn line(&mut self, line: &str) {
        if self.over {
            return;
        }
        let line = without_colours(line);
        let line = line.trim_end_matches('\r');
        // Something that was printed before may have no line's end.
        if self.sentinel.as_deref().is_some_and(|sentinel| line.ends_with(sentinel)) {
            self.over = true;
            return;
        }
        self.watch_for_a_crash(line);
        if line == "INFO: Summary of results:" {
            return self.begin_summary();
        }
        if let Some(text) = line.strip_prefix("INFO: ") {
            if let Some(count) = tests_run(text) {
                return self.ran(count);
            }
            if let Some(totals) = totals(text) {
                return self.total(totals);
            }
        }
        match self.section {
            Section::Start => self.start(line),
            Section::Tests | Section::List => self.tests(line),
            Section::Totals => self.after_the_tests(line),
            Section::Summary => self.summary(line),
        }
    }

    fn conflict(&mut self, what: String) {
        if self.parsed.conflicts.len() < MOST_CONFLICTS {
            self.parsed.conflicts.push(what);
        }
    }

    fn begin_summary(&mut self) {
        self.summaries += 1;
        if self.summaries > 1 {
            self.conflict("there are several summaries".into());
        }
        self.parsed.summary.clear();
        self.section = Section::Summary;
        self.current = None;
    }

    fn ran(&mut self, count: u64) {
        if let Some(before) = self.parsed.tests_run {
            self.conflict(format!("`Ran {before} tests` and later `Ran {count} tests`"));
        }
        if self.section == Section::Summary {
            self.conflict(format!("`Ran {count} tests` after the summary"));
        }
        self.parsed.tests_run = Some(count);
        self.current = None;
        self.section = Section::Totals;
    }

    /// `OK` and `FAILED` are a line of their own, and their counts are another one.
    fn total(&mut self, line: TotalsLine) {
        match line {
            TotalsLine::Word(totals) => {
                if self.parsed.totals.is_some() {
                    self.conflict("unittest's result (`OK` or `FAILED`) is there twice".into());
                }
                if self.section != Section::Totals {
                    self.conflict(
                        "unittest's result (`OK` or `FAILED`) does not follow `Ran N tests`".into(),
                    );
                }
                self.parsed.totals = Some(totals);
            }
            TotalsLine::Counts(counts) => match &mut self.parsed.totals {
                Some(totals) if totals.failures + totals.errors == 0 => {
                    totals.failures = counts.failures;
                    totals.errors = counts.errors;
                }
                _ => self.conflict("counts of failures without unittest's result before them".into()),
            },
        }
    }

    fn after_the_tests(&mut self, line: &str) {
        let Some(text) = line.strip_prefix("INFO: ") else { return };
        if listed(text).is_some() || named(text).is_some() || text.starts_with(" ... ") {
            self.conflict(format!("a test after `Ran N tests`: {}", text.trim()));
        }
    }

    /// The tool's own traceback has no `INFO:` and nothing comes after it.
    fn watch_for_a_crash(&mut self, line: &str) {
        if line == "Traceback (most recent call last):" {
            if !self.in_traceback {
                self.parsed.traceback.clear();
            }
            if self.section == Section::Summary {
                self.conflict("a traceback after the summary".into());
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
        if self.known(name, class).is_some_and(|known| self.parsed.cases[known].started) {
            self.conflict(format!("{class}.{name} is there twice"));
        }
        self.add(name, class, true);
    }

    fn known(&self, name: &str, class: &str) -> Option<usize> {
        self.parsed.cases.iter().position(|case| case.name == name && case.class == class)
    }

    fn add(&mut self, name: &str, class: &str, started: bool) {
        self.current = None;
        if self.parsed.cases.len() == MOST_CASES {
            return self.conflict(format!("there are more than {MOST_CASES} tests"));
        }
        self.parsed.cases.push(TestCase {
            class: class.to_owned(),
            name: name.to_owned(),
            verdict: CaseVerdict::Unfinished,
            message: Message::default(),
            headings: Vec::new(),
            started,
        });
        self.current = Some(self.parsed.cases.len() - 1);
    }

    fn status(&mut self, status: &str) {
        let verdict = CaseVerdict::parse(status.trim());
        let Some(case) = self.current.and_then(|current| self.parsed.cases.get_mut(current)) else {
            if verdict.is_some() {
                self.conflict(format!("`{}` of no test", status.trim()));
            }
            return;
        };
        if case.verdict != CaseVerdict::Unfinished {
            let said =
                format!("{}.{} has two results, and `{}` is one", case.class, case.name, status.trim());
            case.message.push(status);
            if verdict.is_some() {
                self.conflict(said);
            }
            return;
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
        let known = match self.known(name, class) {
            Some(known) => known,
            None => {
                self.add(name, class, false);
                let Some(added) = self.current else { return };
                added
            }
        };
        let case = &mut self.parsed.cases[known];
        if !case.verdict.is_failure() {
            case.verdict = verdict.clone();
        }
        case.headings.push(verdict);
        // The message was already there, right after the status.
        self.current = case.message.is_empty().then_some(known);
    }

    fn tell(&mut self, line: &str) {
        if self.section == Section::List && line.starts_with("-----") && line.trim_end_matches('-').is_empty()
        {
            return;
        }
        if let Some(case) = self.current.and_then(|current| self.parsed.cases.get_mut(current)) {
            // The reason of a skip comes a second time.
            if !matches!(&case.verdict, CaseVerdict::Skipped(reason) if reason == line) {
                case.message.push_within(line, &mut self.budget);
            }
        }
    }

    fn summary(&mut self, line: &str) {
        if let Some((layer, status)) = line.strip_prefix("INFO: ").and_then(|text| text.split_once(" ... ")) {
            if self.parsed.summary.iter().any(|(known, _)| known == layer) {
                self.conflict(format!("the summary names `{layer}` twice"));
            }
            if self.parsed.summary.len() < MOST_LAYERS {
                self.parsed.summary.push((layer.to_owned(), status.trim().to_owned()));
            }
        }
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
