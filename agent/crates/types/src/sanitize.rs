//! Makes text that others wrote harmless for a terminal and for a log service.

use std::borrow::Cow;

use crate::secrets;
use crate::truncate;

/// The longest line that people are shown, in bytes.
const LINE: usize = 600;

/// One line of foreign text as it may be shown: no escape sequences, no control characters, no
/// reordering, no command to the log's reader, and of bounded length.
pub fn sanitize_line(line: &str) -> Cow<'_, str> {
    let mut text = sanitize(line);
    if text.len() > LINE {
        truncate::middle(text.to_mut(), LINE);
    }
    text
}

/// [`sanitize_line`], but whole, for what people copy: paths, addresses, commands.
pub fn sanitize(line: &str) -> Cow<'_, str> {
    let mut text = clean(line);
    // GitHub Actions obeys lines that begin with `::`; its older form and others' stand anywhere.
    if text.trim_start().starts_with("::") {
        text = text.replacen("::", ": :", 1).into();
    }
    for command in ["##[", "##vso[", "##teamcity["] {
        if text.contains(command) {
            text = text.replace(command, &command.replacen("##", "# #", 1)).into();
        }
    }
    text
}

/// One line without what a terminal would act on. Line ends inside become spaces.
pub fn clean(line: &str) -> Cow<'_, str> {
    let line = secrets::strip(line);
    if !line.chars().any(acts) {
        return line;
    }
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\t' => out.push_str("    "),
            // The end of a line of DOS, or a progress display that writes over itself.
            '\r' if chars.peek().is_none() => {}
            '\r' | '\n' | '\u{2028}' | '\u{2029}' => out.push(' '),
            _ if acts(char) => out.push(char::REPLACEMENT_CHARACTER),
            _ => out.push(char),
        }
    }
    out.into()
}

/// Control characters, marks that reorder text, and what XML cannot hold.
fn acts(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_becomes_harmless() {
        let table = [
            ("plain — text", "plain — text"),
            ("\u{1b}[1;31merror:\u{1b}[0m x", "error: x"),
            ("a\u{1b}]0;title\u{7}b", "ab"),
            ("a\u{1b}]8;;http://x\u{1b}\\link", "alink"),
            ("a\u{1b}(Bb", "ab"),
            // Unfinished sequences hide nothing.
            ("a\u{1b}]0;the rest", "a]0;the rest"),
            ("a\u{1b}[12", "a[12"),
            ("a\u{1b}", "a"),
            // The control sequence introducer as one character.
            ("a\u{9b}31mb", "ab"),
            ("10%\r20%\r", "10% 20%"),
            ("two\nlines", "two lines"),
            ("nul\0bell\u{7}", "nul\u{fffd}bell\u{fffd}"),
            ("evil\u{202e}txt", "evil\u{fffd}txt"),
            ("a\tb", "a    b"),
            ("::set-output name=x::y", ": :set-output name=x::y"),
            ("  ::error file=x::y", "  : :error file=x::y"),
            // What hides in front of the command is taken away first.
            ("\u{1b}[0m::error::y", ": :error::y"),
            ("see a::b", "see a::b"),
            ("x ##[error]y ##vso[task]", "x # #[error]y # #vso[task]"),
            ("## heading", "## heading"),
        ];
        for (given, wanted) in table {
            assert_eq!(sanitize_line(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn a_long_line_loses_its_middle() {
        let line = format!("start{}end", "x".repeat(1 << 20));
        let shown = sanitize_line(&line);
        assert!(shown.len() <= 600 && shown.starts_with("start") && shown.ends_with("end"), "{shown}");
        assert!(shown.contains("bytes cut out"), "{shown}");
    }
}
