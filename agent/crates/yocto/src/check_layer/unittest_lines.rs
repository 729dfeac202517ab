//! Single lines of unittest's output: what each of them says.

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
    pub(super) fn parse(text: &str) -> Option<CaseVerdict> {
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
pub(super) fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

/// `OK`, or `FAILED` with its counts: `(failures=1, errors=2, skipped=3)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub failed: bool,
    pub failures: u64,
    pub errors: u64,
}

/// `ERROR: test_x (module.Class)`, `FAIL: …`
pub(super) fn listed(text: &str) -> Option<(CaseVerdict, (&str, &str))> {
    let error = text.strip_prefix("ERROR: ").map(|rest| (CaseVerdict::Error, rest));
    let (verdict, rest) =
        error.or_else(|| text.strip_prefix("FAIL: ").map(|rest| (CaseVerdict::Fail, rest)))?;
    // A subtest has its parameters behind: `test_x (module.Class.test_x) (i=1)`, `… [message]`.
    let whole = || rest.split_once(')').map(|(before, _)| &rest[..=before.len()]);
    Some((verdict, named(rest).or_else(|| named(whole()?))?))
}

/// `test_x (module.Class)`, `test_x (module.Class.test_x)`, `setUpClass (module.Class)`
pub(super) fn named(text: &str) -> Option<(&str, &str)> {
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
pub(super) fn split_next_name(text: &str) -> (&str, Option<(&str, &str)>) {
    let quotes = text.match_indices(['\'', '"']).map(|(at, _)| at + 1);
    let mut names = quotes.filter_map(|at| Some((at, named(&text[at..])?)));
    match names.next_back() {
        Some((at, name)) => (&text[..at], Some(name)),
        None => (text, None),
    }
}

pub(super) fn tests_run(text: &str) -> Option<u64> {
    let (count, rest) = text.strip_prefix("Ran ")?.split_once(' ')?;
    rest.starts_with("test").then(|| count.parse().ok())?
}

/// A part of unittest's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TotalsLine {
    Word(Totals),
    /// The counts alone; `failed` means nothing.
    Counts(Totals),
}

/// `OK`, `FAILED`, `NO TESTS RAN`, ` (failures=1, errors=2)`, or both parts on one line.
pub(super) fn totals(text: &str) -> Option<TotalsLine> {
    let text = text.trim();
    if let Some(counts) = counts(text) {
        return Some(TotalsLine::Counts(counts));
    }
    let (word, rest) =
        text.split_once(" (").map_or((text, None), |(word, _)| (word, Some(&text[word.len()..])));
    let failed = match word {
        "OK" | "NO TESTS RAN" => false,
        "FAILED" => true,
        _ => return None,
    };
    let counts = match rest {
        Some(rest) => counts(rest.trim())?,
        None => Totals::default(),
    };
    Some(TotalsLine::Word(Totals { failed, ..counts }))
}

/// `(failures=1, errors=2, skipped=3, expected failures=4, unexpected successes=5)`
fn counts(text: &str) -> Option<Totals> {
    let mut totals = Totals::default();
    for part in text.strip_prefix('(')?.strip_suffix(')')?.split(", ") {
        let (name, number) = part.split_once('=')?;
        let number = number.parse().ok()?;
        match name {
            "failures" => totals.failures = number,
            "errors" => totals.errors = number,
            "skipped" | "expected failures" | "unexpected successes" => {}
            _ => return None,
        }
    }
    Some(totals)
}

/// Leaves out ANSI escape sequences.
pub(super) fn without_colours(line: &str) -> String {
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
