//! Keeps secrets out of every byte that leaves the agent.

mod forms;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde_json::Value;

use agent_types::secret::Secret;
use agent_types::secrets::{self, REPLACEMENT, Stripper, strip};

/// Shorter values are not looked for: they would be found in the middle of innocent words.
const SHORTEST: usize = 6;

/// Up to this many bytes of patterns a table of all transitions is worth its memory (about 8 MiB).
const TABLE: usize = 16 * 1024;

/// Replaces secret values, also in their base64, base32, hexadecimal, URL, JSON and shell forms, and in
/// texts whatever looks like a secret. Escape sequences are stripped first, everywhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Redactor {
    /// `None` when there is nothing to look for.
    search: Option<Arc<Search>>,
    skipped: Vec<String>,
}

struct Search {
    automaton: AhoCorasick,
    /// Sorted.
    patterns: Vec<Vec<u8>>,
    longest: usize,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let patterns = self.search.as_ref().map_or(0, |search| search.patterns.len());
        write!(f, "Redactor({patterns} patterns)")
    }
}

impl Redactor {
    pub fn new(secrets: &[Secret]) -> Redactor {
        let mut patterns = BTreeSet::new();
        let mut skipped = Vec::new();
        for secret in secrets {
            // Files and tools add line ends that are not part of the value.
            let value = secret.value.trim();
            if value.len() < SHORTEST {
                skipped.push(secret.origin.clone());
                continue;
            }
            patterns.extend(forms::of(value).into_iter().filter(|form| form.len() >= SHORTEST));
        }
        let patterns: Vec<Vec<u8>> = patterns.into_iter().map(String::into_bytes).collect();
        Redactor { search: Search::new(patterns).map(Arc::new), skipped }
    }

    /// Where the values came from that are too short to be looked for.
    pub fn skipped(&self) -> Vec<String> {
        self.skipped.clone()
    }

    /// The text without secrets. It is searched without its escape sequences; where nothing is found, it
    /// stays as it is.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let stripped = strip(text);
        if let Some(clear) = self.without_secrets(&stripped) {
            return Cow::Owned(clear);
        }
        // Messages write them out where they quote.
        match secrets::strip_quoted(&stripped) {
            Cow::Owned(plain) => self.without_secrets(&plain).map_or(Cow::Borrowed(text), Cow::Owned),
            Cow::Borrowed(_) => Cow::Borrowed(text),
        }
    }

    /// `None`: there is none.
    fn without_secrets(&self, text: &str) -> Option<String> {
        let values = self.without_values(text);
        let clear = secrets::redact(&values);
        (clear != text).then(|| clear.into_owned())
    }

    fn without_values<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(search) = &self.search else { return Cow::Borrowed(text) };
        if search.automaton.find(text).is_none() {
            return Cow::Borrowed(text);
        }
        let mut clear = String::with_capacity(text.len());
        let mut from = 0;
        for found in search.automaton.find_iter(text) {
            clear.push_str(&text[from..found.start()]);
            clear.push_str(REPLACEMENT);
            from = found.end();
        }
        clear.push_str(&text[from..]);
        Cow::Owned(clear)
    }

    /// All texts in it, also the names of fields.
    pub fn redact_json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.redact(&text).into_owned()),
            Value::Array(values) => values.into_iter().map(|value| self.redact_json(value)).collect(),
            Value::Object(fields) => {
                let clear = |(name, value): (String, Value)| {
                    (self.redact(&name).into_owned(), self.redact_json(value))
                };
                Value::Object(fields.into_iter().map(clear).collect())
            }
            plain => plain,
        }
    }

    /// For bytes that come in pieces.
    pub(super) fn stream(&self) -> Stream {
        Stream {
            escapes: Stripper::default(),
            values: Values { search: self.search.clone(), held: Vec::new() },
        }
    }
}

impl Search {
    fn new(patterns: Vec<Vec<u8>>) -> Option<Search> {
        let longest = patterns.iter().map(Vec::len).max()?;
        let total: usize = patterns.iter().map(Vec::len).sum();
        let kind = if total <= TABLE { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(kind))
            .build(&patterns)
            // It fails only where 31 bits cannot count the bytes of all patterns. To go on without
            // redaction would be worse than to stop.
            .unwrap_or_else(|error| panic!("gigabytes of secrets: {error}"));
        Some(Search { automaton, patterns, longest })
    }

    /// Where the first byte lies, from `from` on, that more bytes could turn into a secret or into a
    /// longer one: everything from there to the end is the beginning of a pattern.
    fn undecided(&self, bytes: &[u8], from: usize) -> usize {
        let first = from.max((bytes.len() + 1).saturating_sub(self.longest));
        (first..bytes.len()).find(|start| self.begins_pattern(&bytes[*start..])).unwrap_or(bytes.len())
    }

    /// Whether a pattern begins with these bytes and goes on.
    fn begins_pattern(&self, bytes: &[u8]) -> bool {
        // Of all patterns that begin so, the longer ones stand right behind the bytes themselves.
        let next = self.patterns.partition_point(|pattern| pattern.as_slice() <= bytes);
        self.patterns.get(next).is_some_and(|pattern| pattern.starts_with(bytes))
    }
}

/// Strips and redacts bytes that come in pieces, wherever they are cut. Holds back only what more bytes
/// could still turn into an escape sequence or a secret.
pub(super) struct Stream {
    escapes: Stripper,
    values: Values,
}

impl Stream {
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self.escapes.feed(bytes) {
            Cow::Borrowed(bytes) => self.values.feed(bytes),
            Cow::Owned(bytes) => Cow::Owned(self.values.feed(&bytes).into_owned()),
        }
    }

    /// What was held back; nothing comes after it.
    pub fn finish(&mut self) -> Vec<u8> {
        let last = self.escapes.finish();
        let mut clear = self.values.feed(&last).into_owned();
        clear.extend(self.values.finish());
        clear
    }
}

/// Finds the secret values. What it holds back is shorter than the longest of them.
struct Values {
    search: Option<Arc<Search>>,
    held: Vec<u8>,
}

impl Values {
    fn feed<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(search) = &self.search else { return Cow::Borrowed(bytes) };
        if self.held.is_empty() {
            let undecided = search.undecided(bytes, 0);
            let is_clear = search.automaton.find(bytes).is_none();
            if is_clear {
                self.held.extend_from_slice(&bytes[undecided..]);
                return Cow::Borrowed(&bytes[..undecided]);
            }
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let undecided = search.undecided(&all, 0);
        let (mut clear, end) = replace(search, &all, undecided);
        let keep = search.undecided(&all, end.max(undecided));
        clear.extend_from_slice(&all[end.min(keep)..keep]);
        self.held = all.split_off(keep);
        Cow::Owned(clear)
    }

    fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let Some(search) = &self.search else { return held };
        let (mut clear, end) = replace(search, &held, held.len());
        clear.extend_from_slice(&held[end..]);
        clear
    }
}

/// Replaces the secrets that begin before `limit`; gives the clear bytes up to the end of the last
/// of them, and that end.
///
/// A match that begins before the first undecided byte is final: were there a longer one, or one
/// that begins earlier, its beginning would be undecided.
fn replace(search: &Search, bytes: &[u8], limit: usize) -> (Vec<u8>, usize) {
    let mut clear = Vec::with_capacity(bytes.len());
    let mut end = 0;
    for found in search.automaton.find_iter(bytes).take_while(|found| found.start() < limit) {
        clear.extend_from_slice(&bytes[end..found.start()]);
        clear.extend_from_slice(REPLACEMENT.as_bytes());
        end = found.end();
    }
    (clear, end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        let secret = |value: &&str| Secret { origin: format!("test {value}"), value: (*value).into() };
        Redactor::new(&values.iter().map(secret).collect::<Vec<_>>())
    }

    fn in_pieces(redactor: &Redactor, pieces: &[&[u8]]) -> String {
        let mut stream = redactor.stream();
        let mut clear = Vec::new();
        for piece in pieces {
            clear.extend_from_slice(&stream.feed(piece));
        }
        clear.extend(stream.finish());
        String::from_utf8(clear).unwrap()
    }

    #[test]
    fn values_are_found_wherever_the_stream_is_cut() {
        let redactor =
            redactor(&["hunter2-hunter2", "hunter2", "line one is long\nline two is long", "aaaaaaab"]);
        let texts = [
            "x hunter2 y hunter2-hunter2 z",
            "hunter2-hunter",
            "hunter2-hunter2hunter2",
            "hunterhunter2",
            "a: line one is long\nline two is long\n; line two is long",
            "aaaaaaaaaaaaaaaaab",
            "aaaaaaab",
            "hunter",
            "",
        ];
        for text in texts {
            let whole = redactor.redact(text).into_owned();
            assert!(!whole.contains("hunter2") && !whole.contains("is long"), "{whole}");
            let bytes = text.as_bytes();
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(in_pieces(&redactor, &pieces), whole, "{text:?} cut at {first} and {second}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(in_pieces(&redactor, &single), whole, "{text:?} byte by byte");
        }
    }

    #[test]
    fn no_more_is_held_back_than_could_become_a_secret() {
        let redactor = redactor(&["hunter2-hunter2"]);
        for (bytes, at_once) in [
            ("progress 50%\r", "progress 50%\r"),
            ("the hunt", "the "),
            ("hunter2-hunter2", "[redacted]"),
            ("hunter2-hunterx", "hunter2-hunterx"),
        ] {
            assert_eq!(redactor.stream().feed(bytes.as_bytes()).as_ref(), at_once.as_bytes(), "{bytes}");
        }
        let mut stream = redactor.stream();
        for _ in 0..100 {
            stream.feed(&b"hunter2-hunter".repeat(1000));
            assert!(stream.values.held.len() < 100);
        }
    }

    #[test]
    fn short_values_are_left_and_reported() {
        let redactor = redactor(&["12345", "  12345\n", "", "123456"]);
        assert_eq!(redactor.skipped(), ["test 12345", "test   12345\n", "test "]);
        assert_eq!(redactor.redact("12345 123456"), "12345 [redacted]");
    }

    #[test]
    fn all_texts_of_json_are_redacted() {
        let value = serde_json::json!({"hunter22": ["x hunter22", 7, {"a": "hunter22"}], "b": null});
        let wanted = serde_json::json!({"[redacted]": ["x [redacted]", 7, {"a": "[redacted]"}], "b": null});
        assert_eq!(redactor(&["hunter22"]).redact_json(value), wanted);
    }

    #[test]
    fn escape_sequences_inside_a_secret_do_not_hide_it() {
        let redactor = redactor(&["ghp_abcdef"]);
        let table = [
            "x ghp_abc\x1b[31mdef y",
            "x ghp_\x1b[0m\x1b[01;31mabc\x1b[m\x1b[Kdef y",
            "x ghp_abc\x1b]8;;http://x\x1b\\def\x1b]8;;\x07 y",
            "x ghp_abc\x1b(Bdef y",
            "x ghp_abc\u{9b}31mdef y",
            "x ghp_abc\x1b=def y",
            "\x1b[1mx\x1b[0m ghp_abcdef y",
        ];
        for text in table {
            assert_eq!(redactor.redact(text), "x [redacted] y", "{text:?}");
            let bytes = text.as_bytes();
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(in_pieces(&redactor, &pieces), "x [redacted] y", "{text:?} {first} {second}");
                }
            }
        }
        // As messages quote them.
        for text in ["x ghp_abc\\u{1b}[31mdef y", r"x ghp_abc\x1b[0;1mdef y", r"x ghp_abc\u001B[mdef y"] {
            assert_eq!(redactor.redact(text), "x [redacted] y", "{text:?}");
        }
        assert_eq!(redactor.redact(r"PS1='\e[31m'"), r"PS1='\e[31m'");
        // Without a secret a name is left as it is.
        assert_eq!(redactor.redact("\x1b[31mred"), "\x1b[31mred");
    }

    #[test]
    fn what_looks_like_a_secret_is_hidden_in_texts() {
        let text = "cannot reach https://me:\x1b[1mhunter22@host";
        assert_eq!(Redactor::default().redact(text), "cannot reach https://me:[redacted]@host");
        let value = serde_json::json!({"a": "https://me:hunter22@host"});
        let wanted = serde_json::json!({"a": "https://me:[redacted]@host"});
        assert_eq!(Redactor::default().redact_json(value), wanted);
    }

    #[test]
    fn without_secrets_nothing_changes() {
        let redactor = Redactor::default();
        assert!(matches!(redactor.redact("text"), Cow::Borrowed("text")));
        assert!(matches!(redactor.stream().feed(b"\xff"), Cow::Borrowed(b"\xff")));
    }
}
