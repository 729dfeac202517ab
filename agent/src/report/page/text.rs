//! Text, numbers and links for people. All of it may come from layer code: the templates escape it, and this module
//! removes what misleads a reader and limits the length.

use std::ffi::OsStr;
use std::path::{Component, Path};

use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use agent_types::sanitize::clean;
use agent_types::truncate;

/// Maximum bytes of a line.
const LINE: usize = 1000;

/// All characters of a file name that an address must not contain. A colon would end a scheme.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One line, without control characters.
pub fn line(raw: &str) -> String {
    let mut text = clean(raw).into_owned();
    truncate::middle(&mut text, LINE);
    text
}

pub fn path(path: &Path) -> String {
    line(&path.to_string_lossy())
}

/// The lines of a longer text, at most so many.
pub fn lines(raw: &str, limit: usize) -> Vec<String> {
    let mut lines: Vec<String> = raw.lines().take(limit).map(line).collect();
    if raw.lines().nth(limit).is_some() {
        lines.push("[…]".to_owned());
    }
    lines
}

/// `12,345`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 test`, `12,345 tests`.
pub fn count(counted: u64, thing: &str) -> String {
    format!("{} {thing}{}", number(counted), if counted == 1 { "" } else { "s" })
}

/// `34 %`; 0 and 100 only if it is exactly that.
pub fn percent(part: u64, whole: u64) -> String {
    let exact = part as f64 * 100.0 / whole.max(1) as f64;
    let shown = match exact.round() {
        _ if part == 0 || part == whole => exact,
        rounded => rounded.clamp(1.0, 99.0),
    };
    format!("{shown:.0} %")
}

/// The address of a file in the output directory, relative to the page. `None` if it would lead out of the directory.
pub fn file_address(path: &Path) -> Option<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                names.push(encoded(name));
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
}

/// A file name as a part of an address.
pub fn encoded(name: &OsStr) -> String {
    utf8_percent_encode(&name.to_string_lossy(), ENCODED).to_string()
}

/// The address of a web page. `None` for other schemes, and if it contains a user name or a password.
pub fn web_address(address: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    (plain && matches!(url.scheme(), "http" | "https")).then(|| url.to_string())
}

/// A link to a web page, or only its text.
pub fn web_link(address: &str, text: &str) -> Markup {
    html! {
        @match web_address(address) {
            Some(address) => a href=(address) rel="noopener noreferrer" { (line(text)) },
            None => span { (line(text)) },
        }
    }
}

/// A heading of this level.
pub fn heading(level: u8, body: &Markup) -> Markup {
    html! {
        @match level {
            0 | 1 => h1 { (body) },
            2 => h2 { (body) },
            3 => h3 { (body) },
            _ => h4 { (body) },
        }
    }
}

/// The last entry of a list that is not complete.
pub fn more(rest: usize) -> Option<String> {
    (rest > 0).then(|| format!("… and {} more in result.json", number(rest as u64)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let numbers = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (given, wanted) in numbers {
            assert_eq!(number(given), wanted);
        }
        let parts = [(0, 0, "0 %"), (0, 9, "0 %"), (1, 1000, "1 %"), (999, 1000, "99 %"), (9, 9, "100 %")];
        for (part, whole, wanted) in parts {
            assert_eq!(percent(part, whole), wanted, "{part} of {whole}");
        }
    }

    #[test]
    fn links_lead_only_to_files_of_the_job_and_to_web_pages() {
        let files = [
            ("logs/a b.log", Some("logs/a%20b.log")),
            ("./logs/1.log", Some("logs/1.log")),
            ("javascript:alert(1)", Some("javascript%3Aalert%281%29")),
            ("logs/\"><script>", Some("logs/%22%3E%3Cscript%3E")),
            ("a?b#c%2e", Some("a%3Fb%23c%252e")),
            ("é", Some("%C3%A9")),
            ("/etc/passwd", None),
            ("logs/../../x", None),
            ("", None),
        ];
        for (given, wanted) in files {
            assert_eq!(file_address(Path::new(given)).as_deref(), wanted, "{given}");
        }
        let pages = [
            ("https://git.example.org/a", Some("https://git.example.org/a")),
            ("HTTP://x/\"><b>", Some("http://x/%22%3E%3Cb%3E")),
            ("https://user:secret@x/", None),
            ("https://user@x/", None),
            ("javascript:alert(1)", None),
            (" javascript:alert(1)", None),
            ("java\nscript:alert(1)", None),
            ("data:text/html,x", None),
            ("file:///etc/passwd", None),
            ("//x/y", None),
            ("git@github.com:a/b", None),
        ];
        for (given, wanted) in pages {
            assert_eq!(web_address(given).as_deref(), wanted, "{given}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let text = line(&"x".repeat(10 << 20));
        assert!(text.len() <= LINE && text.contains("bytes cut out"), "{}", text.len());
        assert_eq!(lines("a\nb\u{1b}[31m\nc", 2), ["a", "b", "[…]"]);
        assert_eq!(lines("a\nb", 2), ["a", "b"]);
    }
}
