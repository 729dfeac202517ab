//! Problems in the job's input, with their positions. They are collected and reported together.

use std::fmt;
use std::sync::Arc;

pub use agent_types::diagnostic::Diagnostic;
use agent_types::error::Error;
use agent_types::secrets;

/// The position of a key or value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `line` and `column` count from 1; columns count characters.
    File { file: Arc<str>, line: usize, column: usize },
    /// A `--set` with this text.
    Flag(Arc<str>),
}

impl Place {
    pub fn is_flag(&self) -> bool {
        matches!(self, Place::Flag(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Place::Flag(text) => write!(f, "--set {text}"),
        }
    }
}

/// The path of a value: `repos`, `poky`, `layers`, `0`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Key(String),
    Index(usize),
}

impl KeyPath {
    pub fn root() -> KeyPath {
        KeyPath::default()
    }

    pub fn key(&self, key: &str) -> KeyPath {
        self.step(Step::Key(key.to_owned()))
    }

    pub fn index(&self, index: usize) -> KeyPath {
        self.step(Step::Index(index))
    }

    fn step(&self, step: Step) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(step);
        KeyPath(steps)
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl KeyPath {
    /// The path of a table as in its header: `[repos.poky]`, `[[artifacts.rules]]`.
    pub fn as_table(&self) -> String {
        table_head(&self.0)
    }
}

fn table_head(steps: &[Step]) -> String {
    let names: Vec<_> = steps.iter().filter_map(Step::as_key).map(bare_or_quoted).collect();
    let names = names.join(".");
    match steps.last() {
        Some(Step::Index(_)) => format!("[[{names}]]"),
        _ => format!("[{names}]"),
    }
}

/// The path as in the file: `version`, `[repos.poky] branch`, `[[artifacts.rules]] include`. An index after
/// the last key is omitted: line and column identify the element.
impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.0.iter().rposition(|step| matches!(step, Step::Key(_)));
        let Some(last) = last else { return Ok(()) };
        let (table, rest) = self.0.split_at(last);
        if !table.is_empty() {
            write!(f, "{} ", table_head(table))?;
        }
        match rest.first().and_then(Step::as_key) {
            Some(key) => f.write_str(&bare_or_quoted(key)),
            None => Ok(()),
        }
    }
}

impl Step {
    fn as_key(&self) -> Option<&str> {
        match self {
            Step::Key(key) => Some(key),
            Step::Index(_) => None,
        }
    }
}

/// A key as TOML needs it.
pub fn bare_or_quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// A diagnostic and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// `[repos.poky] branch`; `None`, if the text is not TOML.
    pub key: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}: ", self.place);
        if let Some(key) = &self.key {
            text.push_str(key);
            text.push_str(": ");
        }
        text.push_str(&self.message);
        f.write_str(&printable(&text))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", printable(hint))?;
        }
        Ok(())
    }
}

/// Keys and values are untrusted: no control character (escape sequences, newlines) may reach a terminal or a
/// log. Sequences are removed completely, so that a secret with one inside is still recognized.
fn printable(text: &str) -> String {
    let text = secrets::strip(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// Maximum number of shown problems, so that a log stays readable.
const SHOWN: usize = 100;

/// All problems of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn add(&mut self, place: Place, key: Option<String>, mistake: Diagnostic) {
        self.0.push(Problem { place, key, message: mistake.message, hint: mistake.hint });
    }

    /// The problems of several cells of a matrix: each once, with the cells that have it unless all have it.
    pub fn of_cells(cells: Vec<(String, Problems)>, count: usize) -> Problems {
        let mut all: Vec<(Problem, Vec<&str>)> = Vec::new();
        for (id, problems) in &cells {
            for problem in problems.sorted() {
                match all.iter_mut().find(|(known, _)| known == problem) {
                    Some((_, ids)) => ids.push(id),
                    None => all.push((problem.clone(), vec![id])),
                }
            }
        }
        let named = |(mut problem, ids): (Problem, Vec<&str>)| {
            if ids.len() < count {
                let word = if ids.len() == 1 { "cell" } else { "cells" };
                problem.message += &format!(" ({word} {})", ids.join(", "));
            }
            problem
        };
        Problems(all.into_iter().map(named).collect())
    }

    pub fn append(&mut self, mut others: Problems) {
        self.0.append(&mut others.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the hint of the last problem.
    pub fn advise(&mut self, hint: &str) {
        if let Some(last) = self.0.last_mut() {
            last.hint = Some(hint.to_owned());
        }
    }

    /// Sorted by position, without duplicates: two rules may find the same error.
    pub fn sorted(&self) -> Vec<&Problem> {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort_by(|a, b| (&a.place, &a.key, &a.message).cmp(&(&b.place, &b.key, &b.message)));
        sorted.dedup();
        sorted
    }
}

/// The problems and their count.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        for problem in sorted.iter().take(SHOWN) {
            writeln!(f, "{problem}")?;
        }
        if sorted.len() > SHOWN {
            writeln!(f, "and {} more", sorted.len() - SHOWN)?;
        }
        match sorted.len() {
            1 => write!(f, "1 problem; nothing was run"),
            count => write!(f, "{count} problems; nothing was run"),
        }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Error {
        Error::usage(problems.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(line: usize, column: usize) -> Place {
        Place::File { file: "build-agent.toml".into(), line, column }
    }

    #[test]
    fn writes_keys_as_in_the_file() {
        let root = KeyPath::root();
        let table = [
            (root.key("version"), "version"),
            (root.key("repos").key("poky").key("branch"), "[repos.poky] branch"),
            (root.key("repos").key("a.b").key("url"), r#"[repos."a.b"] url"#),
            (root.key("artifacts").key("rules").index(1).key("include"), "[[artifacts.rules]] include"),
            (root.key("config").key("machines").index(0), "[config] machines"),
            (root, ""),
        ];
        for (path, wanted) in table {
            assert_eq!(path.to_string(), wanted);
        }
    }

    #[test]
    fn lists_problems_in_file_order_with_hints_and_a_count() {
        let mut problems = Problems::default();
        problems.add(Place::Flag("name=".into()), Some("name".into()), Diagnostic::new("is empty"));
        problems.add(
            file(12, 3),
            Some("[repos.poky] branch".into()),
            Diagnostic::new("two").hint("drop one"),
        );
        problems.add(file(2, 11), Some("release".into()), Diagnostic::new("unknown"));
        problems.add(file(2, 11), Some("release".into()), Diagnostic::new("unknown"));
        assert_eq!(
            problems.to_string(),
            "build-agent.toml:2:11: release: unknown\n\
             build-agent.toml:12:3: [repos.poky] branch: two\n  hint: drop one\n\
             --set name=: name: is empty\n\
             3 problems; nothing was run"
        );
        let error = Error::from(problems);
        assert_eq!(error.class, agent_types::error::Class::Usage);
    }

    #[test]
    fn problems_of_cells_are_there_once_with_their_cells() {
        let one = |line: usize| {
            let mut problems = Problems::default();
            problems.add(file(line, 1), None, Diagnostic::new("is wrong"));
            problems
        };
        let mut both = one(1);
        both.append(one(2));
        let all = Problems::of_cells(vec![("a".into(), both), ("b".into(), one(1))], 2);
        assert_eq!(
            all.to_string(),
            "build-agent.toml:1:1: is wrong\nbuild-agent.toml:2:1: is wrong (cell a)\n2 problems; nothing was run"
        );
    }

    #[test]
    fn shows_at_most_a_page_of_problems() {
        let mut problems = Problems::default();
        (1..=SHOWN + 2).for_each(|line| problems.add(file(line, 1), None, Diagnostic::new("is wrong")));
        let shown = problems.to_string();
        assert!(
            shown.ends_with("toml:100:1: is wrong\nand 2 more\n102 problems; nothing was run"),
            "{shown}"
        );
    }

    #[test]
    fn removes_control_characters() {
        let mut problems = Problems::default();
        let mistake = Diagnostic::new("`\u{1b}[31mred\n::error::` is unknown");
        problems.add(file(1, 1), Some("\u{7}".into()), mistake);
        let shown = problems.to_string();
        assert_eq!(shown.lines().count(), 2, "{shown:?}");
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
    }
}
