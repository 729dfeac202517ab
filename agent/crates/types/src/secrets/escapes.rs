//! Removes escape sequences of terminals (ECMA-48) from text, and from bytes that arrive in pieces.
//!
//! Secrets are searched in the text that a person would see, so this runs before redaction wherever text is
//! shown or stored.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

const ESCAPE: u8 = 0x1b;

/// The control sequence introducer as one character, U+009B, in UTF-8.
const INTRODUCER: [u8; 2] = [0xc2, 0x9b];

/// Maximum length of a sequence. A longer one, or one that continues in the next line, is ordinary text: it
/// must not hide the rest.
const LONGEST: usize = 4096;

/// Removes escape sequences from the text. Of an unfinished one only the first character is removed.
pub fn strip(text: &str) -> Cow<'_, str> {
    if !text.contains(['\u{1b}', '\u{9b}']) {
        return Cow::Borrowed(text);
    }
    let (clear, _) = without(text.as_bytes(), true);
    // Whole characters are removed from text, so this is lossless.
    Cow::Owned(String::from_utf8_lossy(&clear).into_owned())
}

/// Removes control sequences whose escape character is written in quoted form: `\u{1b}[0m`, `\x1b[0m`,
/// `\u001b[0m`, `\033[0m`, `\e[0m`.
pub fn strip_quoted(text: &str) -> Cow<'_, str> {
    static QUOTED: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?i)\\(?:u\{0*1b\}|x1b|u001b|033|e)\[[0-?]*[ -/]*[@-~]").ok());
    match &*QUOTED {
        Some(quoted) if text.contains('\\') => quoted.replace_all(text, ""),
        _ => Cow::Borrowed(text),
    }
}

/// Removes sequences from bytes that arrive in pieces, wherever the pieces are cut.
#[derive(Debug, Default)]
pub struct Stripper {
    /// The start of an unfinished sequence.
    held: Vec<u8>,
}

impl Stripper {
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.held.is_empty() && !bytes.contains(&ESCAPE) && !bytes.contains(&INTRODUCER[0]) {
            return Cow::Borrowed(bytes);
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let (clear, end) = without(&all, false);
        self.held = all.split_off(end);
        Cow::Owned(clear)
    }

    /// The bytes that were held back. Call it after the last piece.
    pub fn finish(&mut self) -> Vec<u8> {
        without(&std::mem::take(&mut self.held), true).0
    }
}

/// The bytes without sequences, and the position of a sequence that more bytes could finish.
fn without(bytes: &[u8], is_end: bool) -> (Vec<u8>, usize) {
    let mut clear = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let found = match (*byte, rest.get(1)) {
            (ESCAPE, _) => sequence(rest, 1),
            (0xc2, Some(0x9b)) => control(rest, INTRODUCER.len()),
            (0xc2, None) => Sequence::Open,
            _ => Sequence::None,
        };
        match found {
            Sequence::Ends(length) => at += length,
            Sequence::Open if !is_end && rest.len() <= LONGEST => return (clear, at),
            Sequence::Open | Sequence::Broken if rest.starts_with(&INTRODUCER) => at += INTRODUCER.len(),
            Sequence::Open | Sequence::Broken if *byte == ESCAPE => at += 1,
            _ => {
                clear.push(*byte);
                at += 1;
            }
        }
    }
    (clear, at)
}

enum Sequence {
    /// A sequence of this number of bytes, including the first.
    Ends(usize),
    /// An unfinished sequence.
    Open,
    /// Not a sequence; only its first character is removed.
    Broken,
    None,
}

/// Finds the sequence that starts with an escape character: a control sequence, a string such as a window
/// title, or a short sequence.
fn sequence(bytes: &[u8], at: usize) -> Sequence {
    match bytes.get(at) {
        None => Sequence::Open,
        Some(b'[') => control(bytes, at + 1),
        Some(b']' | b'P' | b'^' | b'_' | b'X') => string(bytes, at + 1),
        Some(0x20..=0x2f) => {
            let end = bytes[at..].iter().position(|byte| !(0x20..=0x2f).contains(byte));
            match end.map(|end| (at + end, bytes[at + end])) {
                None => Sequence::Open,
                Some((end, 0x30..=0x7e)) => Sequence::Ends(end + 1),
                Some(_) => Sequence::Broken,
            }
        }
        Some(0x30..=0x7e) => Sequence::Ends(at + 1),
        Some(_) => Sequence::Broken,
    }
}

/// The sequence up to the final byte of a control sequence.
fn control(bytes: &[u8], at: usize) -> Sequence {
    ended(bytes, at, |byte| (0x40..=0x7e).contains(&byte), false)
}

/// The sequence up to BEL, or to ESC and a backslash.
fn string(bytes: &[u8], at: usize) -> Sequence {
    ended(bytes, at, |byte| byte == 7, true)
}

/// A sequence that starts inside ends this one, so that no byte is read twice.
fn ended(bytes: &[u8], at: usize, is_last: impl Fn(u8) -> bool, is_string: bool) -> Sequence {
    for (n, byte) in bytes.iter().enumerate().skip(at).take(LONGEST) {
        match byte {
            _ if is_last(*byte) => return Sequence::Ends(n + 1),
            &ESCAPE if is_string => match bytes.get(n + 1) {
                Some(b'\\') => return Sequence::Ends(n + 2),
                Some(_) => return Sequence::Broken,
                None => return Sequence::Open,
            },
            &ESCAPE | b'\n' | b'\r' => return Sequence::Broken,
            0x9b if bytes[n - 1] == INTRODUCER[0] => return Sequence::Broken,
            _ => {}
        }
    }
    if bytes.len() > LONGEST { Sequence::Broken } else { Sequence::Open }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_give_the_same_result() {
        let long = format!("a\u{1b}]0;{}", "x".repeat(2 * LONGEST));
        let table = [
            ("plain é", "plain é"),
            ("\u{1b}[1;31merror:\u{1b}[0m x", "error: x"),
            ("a\u{1b}]0;title\u{7}b", "ab"),
            ("a\u{1b}]8;;http://x\u{1b}\\link", "alink"),
            ("a\u{1b}(Bb\u{1b}=c", "abc"),
            ("a\u{1b}\u{1b}[0m[31mb", "a[31mb"),
            ("a\u{9b}31mb", "ab"),
            ("a\u{a0}\u{9c}b", "a\u{a0}\u{9c}b"),
            // Unfinished sequences hide nothing.
            ("a\u{1b}]0;the rest", "a]0;the rest"),
            ("a\u{1b}[12", "a[12"),
            ("a\u{9b}12", "a12"),
            ("a\u{1b}", "a"),
            ("a\u{1b}[12\nb", "a[12\nb"),
            ("a\u{1b}]0;x\r\ny\u{7}", "a]0;x\r\ny\u{7}"),
            ("a\u{1b}é", "aé"),
            (&long, &format!("a]0;{}", "x".repeat(2 * LONGEST))),
        ];
        for (given, wanted) in table {
            assert_eq!(strip(given), wanted, "{given:?}");
            for size in [1, 2, 3, 1000] {
                let mut stripper = Stripper::default();
                let mut clear = Vec::new();
                for piece in given.as_bytes().chunks(size) {
                    clear.extend_from_slice(&stripper.feed(piece));
                    assert!(stripper.held.len() <= LONGEST, "{}", stripper.held.len());
                }
                clear.extend(stripper.finish());
                assert_eq!(String::from_utf8(clear).unwrap(), wanted, "{given:?} by {size}");
            }
        }
    }

    #[test]
    fn keeps_bytes_that_are_not_text() {
        let mut stripper = Stripper::default();
        assert_eq!(stripper.feed(b"a\xff\xc2").as_ref(), b"a\xff");
        assert_eq!(stripper.feed(b"b").as_ref(), b"\xc2b");
    }
}
