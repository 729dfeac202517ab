//! Makes untrusted text safe for a terminal and for a log service.

use std::borrow::Cow;

use crate::secrets;
use crate::truncate;

/// Maximum length of a shown line, in bytes.
const LINE: usize = 600;

/// Makes one line of untrusted text safe: no escape sequences, no control characters, no text reordering, no
/// commands to the log service, and a limited length.
pub fn sanitize_line(line: &str) -> Cow<'_, str> {
    let mut text = sanitize(line);
    if text.len() > LINE {
        truncate::middle(text.to_mut(), LINE);
    }
    text
}

/// Like [`sanitize_line`], but without a length limit, for text that users copy: paths, URLs, commands.
pub fn sanitize(line: &str) -> Cow<'_, str> {
    let mut text = clean(line);
    // GitHub Actions obeys lines that begin with `::`; its older form and those of others may be anywhere in
    // a line.
    if text.trim_start().starts_with("::") {
        text = text.replacen("::", ": :", 1).into();
    }
    // CloudWatch makes metrics of a line that is a JSON object with the member `_aws`. A `\u` may hide its name.
    let start = text.trim_start();
    if start.starts_with('{') && (start.contains("_aws") || start.contains("\\u")) {
        text = text.replacen('{', "'{", 1).into();
    }
    for command in ["##[", "##vso[", "##teamcity["] {
        if text.contains(command) {
            text = text.replace(command, &command.replacen("##", "# #", 1)).into();
        }
    }
    text
}

/// Removes what a terminal would interpret. Line breaks inside become spaces.
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
            // A DOS line ending, or progress output that overwrites itself.
            '\r' if chars.peek().is_none() => {}
            '\r' | '\n' | '\u{2028}' | '\u{2029}' => out.push(' '),
            _ if acts(char) => out.push(char::REPLACEMENT_CHARACTER),
            _ => out.push(char),
        }
    }
    out.into()
}

/// Whether it is a control character, a mark that reorders text, or invalid in XML.
pub fn acts(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn removes_everything_that_a_terminal_would_interpret() {
        let table = [
            ("plain — text", "plain — text"),
            ("\u{1b}[1;31merror:\u{1b}[0m x", "error: x"),
            ("a\u{1b}]0;title\u{7}b", "ab"),
            ("a\u{1b}]8;;http://x\u{1b}\\link", "alink"),
            ("a\u{1b}(Bb", "ab"),
            // An unfinished sequence removes nothing else.
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
            // Hidden characters before a command are removed first.
            ("\u{1b}[0m::error::y", ": :error::y"),
            ("see a::b", "see a::b"),
            ("x ##[error]y ##vso[task]", "x # #[error]y # #vso[task]"),
            ("## heading", "## heading"),
            ("{\"_aws\":{}}", "'{\"_aws\":{}}"),
            ("\u{1b}[0m  {\"\\u005faws\":{}}", "  '{\"\\u005faws\":{}}"),
            ("{\"a\":1}", "{\"a\":1}"),
            ("see {\"_aws\":{}}", "see {\"_aws\":{}}"),
        ];
        for (given, wanted) in table {
            assert_eq!(sanitize_line(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn shortens_a_long_line_in_the_middle() {
        let line = format!("start{}end", "x".repeat(1 << 20));
        let shown = sanitize_line(&line);
        assert!(shown.len() <= 600 && shown.starts_with("start") && shown.ends_with("end"), "{shown}");
        assert!(shown.contains("bytes cut out"), "{shown}");
    }
}
