//! Evaluates the simple parts of BitBake's `.conf` syntax, and marks the rest as unknown.
//!
//! The statements and their effect follow `parse_py/ConfHandler.py`, `ast.py` and `data_smart.py` of BitBake.
//! One file is read alone, as yocto-check-layer reads `layer.conf`: no override is active. Inline Python
//! (`${@…}`) and variables that the file does not set are unknown.

use std::collections::BTreeMap;

/// Marks a part of an evaluated text that only BitBake can evaluate.
pub const UNKNOWN: char = '\0';

/// Maximum depth of nested expansions.
const DEEPEST: usize = 16;
/// Maximum number of bytes of all values in one expansion.
const MOST_EXPANDED: usize = 1 << 20;

/// The value of a variable, and the line that last set it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// Expanded, except for `${LAYERDIR}` and `${LAYERDIR_RE}`. [`UNKNOWN`] marks unknown parts.
    pub text: String,
    pub line: u32,
    /// Whether an override may replace it, or `:remove` removes unknown words.
    pub may_lose_words: bool,
}

/// A word of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    /// Whether BitBake sees exactly this word. If not, an unknown part touches it or may remove it.
    pub is_certain: bool,
}

impl Value {
    /// Whether the text is the complete value.
    pub fn is_known(&self) -> bool {
        !self.may_lose_words && !self.text.contains(UNKNOWN)
    }

    /// The words of the value, without unknown parts.
    pub fn words(&self) -> Vec<Word> {
        let split = |text: &str| -> Vec<Word> {
            let is_certain = !self.may_lose_words && !text.contains(UNKNOWN);
            let parts = text.split(UNKNOWN).filter(|part| !part.is_empty());
            parts.map(|part| Word { text: part.to_owned(), is_certain }).collect()
        };
        self.text.split_whitespace().flat_map(split).collect()
    }
}

/// The variables of one file.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    by_name: BTreeMap<String, Variable>,
    /// Lines that may change any variable, such as `include`.
    pub opaque: Vec<u32>,
    /// Assignments with the override syntax of old releases, such as `NAME_append`: line and variable.
    pub old_syntax: Vec<(u32, String)>,
}

#[derive(Clone, Debug, Default)]
struct Variable {
    set: Option<String>,
    weak: Option<String>,
    line: u32,
    append: Vec<Change>,
    prepend: Vec<Change>,
    remove: Vec<Change>,
    /// `VARIABLE:override = …`
    has_override: bool,
    /// The value in `set` may come from another file: `?=`, or `+=` without a value before it.
    has_default: bool,
    /// Each assignment: its line and its value as written.
    statements: Vec<(u32, String)>,
}

#[derive(Clone, Debug)]
struct Change {
    value: String,
    has_override: bool,
}

impl Variables {
    pub fn parse(text: &str) -> Variables {
        // Python accepts all three kinds of line endings.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut variables = Variables::default();
        for (line, statement) in statements(&text) {
            match statement {
                Some(statement) => variables.evaluate(line, &statement),
                None => variables.opaque.push(line),
            }
        }
        variables
    }

    /// The names of all variables that the file assigns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The assignments to the variable: line and value as written.
    pub fn statements(&self, name: &str) -> &[(u32, String)] {
        self.by_name.get(name).map_or(&[], |variable| &variable.statements)
    }

    /// The value; `None`, if the file does not set the variable.
    pub fn value(&self, name: &str) -> Option<Value> {
        let variable = self.by_name.get(name)?;
        let additions = [&variable.append, &variable.prepend].into_iter().flatten();
        let has_more = additions.clone().any(|change| change.has_override);
        let raw = self.raw(name).or_else(|| (has_more || variable.has_override).then(String::new))?;
        let mut text = self.expand(&raw, &mut Expansion::of(name));
        let mut may_lose_words = variable.has_override;
        for change in &variable.remove {
            let removed = self.expand(&change.value, &mut Expansion::of(name));
            may_lose_words |= change.has_override || removed.contains(UNKNOWN);
            if !change.has_override {
                text = without_words(&text, &removed.split_whitespace().collect::<Vec<_>>());
            }
        }
        if has_more {
            text.extend([' ', UNKNOWN]);
        }
        Some(Value { text, line: variable.line, may_lose_words })
    }

    /// The value before expansion, without `:remove` and overrides.
    fn raw(&self, name: &str) -> Option<String> {
        fn active(changes: &[Change]) -> impl Iterator<Item = &str> {
            changes.iter().filter(|one| !one.has_override).map(|one| one.value.as_str())
        }
        let variable = self.by_name.get(name)?;
        let mut raw = variable.set.clone().or_else(|| variable.weak.clone());
        for value in active(&variable.append) {
            raw.get_or_insert_default().push_str(value);
        }
        for value in active(&variable.prepend) {
            raw.get_or_insert_default().insert_str(0, value);
        }
        raw
    }

    /// The value before expansion of a variable that only this file sets.
    fn plain(&self, name: &str) -> Option<String> {
        let variable = self.by_name.get(name)?;
        let changes = [&variable.append, &variable.prepend].into_iter().flatten();
        let is_plain = variable.set.is_some()
            && !variable.has_default
            && !variable.has_override
            && variable.remove.is_empty()
            && changes.into_iter().all(|change| !change.has_override)
            && self.opaque.is_empty();
        is_plain.then(|| self.raw(name)).flatten()
    }

    /// Expands references.
    fn expand(&self, text: &str, expansion: &mut Expansion) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            expanded.push_str(&rest[..at]);
            rest = &rest[at..];
            let Some((reference, after)) = Reference::parse(rest) else {
                // Without a certain end, it is unknown where plain text starts again.
                expanded.push_str(if expansion.keeps_references { rest } else { "\0" });
                return expanded;
            };
            let written = &rest[..rest.len() - after.len()];
            rest = after;
            let raw = match reference {
                Reference::Variable("LAYERDIR" | "LAYERDIR_RE") => {
                    expanded.push_str(written);
                    continue;
                }
                Reference::Variable(name) => self.plain(name).filter(|raw| expansion.enter(name, raw)),
                Reference::Python => None,
            };
            match raw {
                Some(raw) => {
                    expanded.push_str(&self.expand(&raw, expansion));
                    expansion.open.pop();
                }
                None if expansion.keeps_references => expanded.push_str(written),
                None => expanded.push(UNKNOWN),
            }
        }
        expanded.push_str(rest);
        expanded
    }

    fn evaluate(&mut self, line: u32, statement: &str) {
        if let Some(name) = statement.strip_prefix("unset ") {
            // Flags of variables are ignored.
            if !name.contains('[') {
                self.by_name.remove(name.trim());
            }
            return;
        }
        let Some(assignment) = Assignment::parse(statement) else {
            // Statements that change no variable: exports, a Python path for the build's code.
            let is_harmless = ["addpylib ", "export "].iter().any(|word| statement.starts_with(word));
            if !is_harmless {
                self.opaque.push(line);
            }
            return;
        };
        let Assignment { variable, is_flag, operator, value } = assignment;
        if variable.contains("${") || python_that_sets(value) {
            self.opaque.push(line);
        }
        if is_flag {
            return;
        }
        if operator != "??=" && OPERATIONS.iter().any(|(word, _)| variable.contains(&format!("_{word}"))) {
            self.old_syntax.push((line, variable.to_owned()));
        }
        let (name, operation, has_override) = split_operation(variable);
        let value = match (operator, operation) {
            (":=", _) => self.at_once(name, value),
            ("+=", Operation::Append | Operation::Prepend | Operation::Remove) => format!(" {value}"),
            ("=+", Operation::Append | Operation::Prepend | Operation::Remove) => format!("{value} "),
            // A weak default of `VARIABLE:append` changes nothing.
            ("??=", Operation::Append | Operation::Prepend | Operation::Remove) => return,
            _ => value.to_owned(),
        };
        let entry = self.by_name.entry(name.to_owned()).or_default();
        entry.statements.push((line, value.clone()));
        let change = Change { value: value.clone(), has_override };
        match operation {
            Operation::Append => entry.append.push(change),
            Operation::Prepend => entry.prepend.push(change),
            Operation::Remove => entry.remove.push(change),
            Operation::Assign if has_override => entry.has_override = true,
            Operation::Assign => {
                if !entry.assign(operator, &value) {
                    return;
                }
            }
        }
        // Findings refer to the base assignment, and to `:append` only if there is none.
        if matches!(operation, Operation::Assign) || entry.line == 0 {
            entry.line = line;
        }
    }

    /// `:=` expands what is known now; the rest is expanded when the value is used.
    fn at_once(&self, name: &str, value: &str) -> String {
        // `NAME := "${NAME} more"` is common.
        let mut expansion = Expansion { keeps_references: true, open: Vec::new(), ..Expansion::of(name) };
        self.expand(value, &mut expansion)
    }
}

/// The state of an expansion.
struct Expansion {
    /// The variables that are being expanded.
    open: Vec<String>,
    /// Remaining bytes, because nested references can grow exponentially.
    bytes_left: usize,
    /// A reference that cannot be expanded stays as written.
    keeps_references: bool,
}

impl Expansion {
    fn of(name: &str) -> Expansion {
        Expansion { open: vec![name.to_owned()], bytes_left: MOST_EXPANDED, keeps_references: false }
    }

    fn enter(&mut self, name: &str, raw: &str) -> bool {
        let cost = raw.len() + 1;
        let may_enter =
            self.open.len() < DEEPEST && self.bytes_left >= cost && !self.open.iter().any(|one| one == name);
        if may_enter {
            self.bytes_left -= cost;
            self.open.push(name.to_owned());
        }
        may_enter
    }
}

fn without_words(text: &str, removed: &[&str]) -> String {
    let pieces = text.split_inclusive(char::is_whitespace);
    pieces
        .map(|piece| {
            let word = piece.trim_end();
            if removed.contains(&word) { &piece[word.len()..] } else { piece }
        })
        .collect()
}

impl Variable {
    /// Returns whether the statement changed the value.
    fn assign(&mut self, operator: &str, value: &str) -> bool {
        let old = self.set.as_deref().unwrap_or_default();
        let is_complete = matches!(operator, "=" | ":=");
        let has_default = if self.set.is_some() { self.has_default } else { true };
        let text = match operator {
            "??=" => {
                self.weak = Some(value.to_owned());
                return self.set.is_none();
            }
            "?=" if self.set.is_some() => return false,
            "+=" => format!("{old} {value}"),
            "=+" => format!("{value} {old}"),
            ".=" => format!("{old}{value}"),
            "=." => format!("{value}{old}"),
            _ => value.to_owned(),
        };
        self.set = Some(text);
        self.has_default = has_default && !is_complete;
        true
    }
}

/// The content of `${` and `}`.
#[derive(Debug, PartialEq, Eq)]
enum Reference<'a> {
    Variable(&'a str),
    Python,
}

impl<'a> Reference<'a> {
    /// Parses the reference at the start of the text, and returns the text after it.
    fn parse(text: &'a str) -> Option<(Reference<'a>, &'a str)> {
        let inner = text.strip_prefix("${")?;
        if let Some(code) = inner.strip_prefix('@') {
            return Some((Reference::Python, after_python(code)?));
        }
        let (name, after) = inner.split_once('}')?;
        is_name(name).then_some((Reference::Variable(name), after))
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_+./~:".contains(c))
}

/// The text after inline Python. `None`, if its end is uncertain: releases differ in nested braces.
fn after_python(code: &str) -> Option<&str> {
    let mut rest = code;
    loop {
        let at = rest.find(['{', '}'])?;
        if rest[at..].starts_with('}') {
            return Some(&rest[at + 1..]);
        }
        // References inside the code are expanded first.
        let reference = rest[..at].ends_with('$').then(|| rest[at + 1..].split_once('}')).flatten();
        let (name, after) = reference?;
        if !is_name(name) {
            return None;
        }
        rest = after;
    }
}

/// Joins continued lines, and skips comments and empty lines. `None` marks an error of BitBake: a comment
/// with a continuation that is not a comment.
fn statements(text: &str) -> Vec<(u32, Option<String>)> {
    let mut found = Vec::new();
    let mut lines = text.lines().zip(1u32..);
    while let Some((first, number)) = lines.next() {
        if first.trim().is_empty() {
            continue;
        }
        let mut whole = first.trim_end().to_owned();
        let mut is_confusing = false;
        while whole.ends_with('\\') {
            let Some((next, _)) = lines.next() else {
                is_confusing = true;
                break;
            };
            let next = next.trim_end();
            is_confusing |= whole.starts_with('#') && !next.starts_with('#');
            whole.pop();
            whole.push_str(next);
        }
        if is_confusing {
            found.push((number, None));
        } else if !whole.starts_with('#') {
            found.push((number, Some(whole)));
        }
    }
    found
}

/// A parsed assignment.
struct Assignment<'a> {
    variable: &'a str,
    is_flag: bool,
    operator: &'a str,
    value: &'a str,
}

/// Longer operators first: `??=` ends like `?=`, and all end like `=`.
const OPERATORS: [&str; 8] = ["??=", "?=", ":=", "+=", "=+", "=.", ".=", "="];

impl<'a> Assignment<'a> {
    fn parse(statement: &'a str) -> Option<Assignment<'a>> {
        let rest = match statement.strip_prefix("export") {
            Some(after) if after.starts_with(char::is_whitespace) => after.trim_start(),
            _ => statement,
        };
        let equals = rest.find('=')?;
        // The operator's sign is before or after the `=`. A name may end with `.`, `+` or `:` only as part of
        // an operator, because BitBake's pattern takes the shortest name.
        let name_end = rest[..equals].trim_end_matches(['?', ':', '+', '.']).len();
        let (left, right) = (&rest[..name_end], &rest[name_end..]);
        let operator = OPERATORS.into_iter().find(|operator| right.starts_with(operator))?;
        let left = left.trim_end();
        let (variable, is_flag) = match left.split_once('[') {
            Some((variable, flag)) if flag.ends_with(']') => (variable, true),
            Some(_) => return None,
            None => (left, false),
        };
        let is_well_named = !variable.is_empty()
            && variable.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.${}/~:".contains(c));
        let quoted = right[operator.len()..].trim_start();
        let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let value = quoted[1..].strip_suffix(quote)?;
        // BitBake rejects exactly one quote of the same kind inside.
        let is_well_quoted = value.matches(quote).count() != 1;
        (is_well_named && is_well_quoted).then_some(Assignment { variable, is_flag, operator, value })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Assign,
    Append,
    Prepend,
    Remove,
}

const OPERATIONS: [(&str, Operation); 3] =
    [("append", Operation::Append), ("prepend", Operation::Prepend), ("remove", Operation::Remove)];

/// Splits a variable into its name and the operation of its suffix, and whether an override decides.
///
/// `_append` is an error from honister on, so no release ignores it. The last point releases of all older
/// releases accept `:append` as well.
fn split_operation(variable: &str) -> (&str, Operation, bool) {
    for separator in [':', '_'] {
        let first = OPERATIONS.iter().filter_map(|(word, operation)| {
            let at = variable.match_indices(word).map(|(at, _)| at).find(|at| {
                let after = &variable[at + word.len()..];
                variable[..*at].ends_with(separator) && (after.is_empty() || after.starts_with(separator))
            })?;
            Some((at, *word, *operation))
        });
        let Some((at, word, operation)) = first.min_by_key(|(at, ..)| *at) else { continue };
        let base = &variable[..at - 1];
        let (name, is_overridden) = match base.split_once(':') {
            Some((name, _)) => (name, true),
            None => (base, false),
        };
        return (name, operation, is_overridden || variable.len() > at + word.len());
    }
    match variable.split_once(':') {
        Some((name, _)) => (name, Operation::Assign, true),
        None => (variable, Operation::Assign, false),
    }
}

/// Whether the inline Python of a value may set other variables when it is evaluated.
fn python_that_sets(value: &str) -> bool {
    value.contains("${@")
        && ["setVar", "appendVar", "prependVar", "delVar", "renameVar", "exec", "eval", "__"]
            .iter()
            .any(|call| value.contains(call))
}

#[cfg(test)]
#[path = "conf_syntax_tests.rs"]
mod tests;
