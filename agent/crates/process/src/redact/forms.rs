//! The forms in which a value can show up in texts.

use std::collections::BTreeSet;
use std::fmt::Write;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};

/// Lines of a value are secrets of their own from this length on.
const LINE: usize = 8;

/// The value in all its forms. A value of several lines also line by line: tools indent, prefix
/// and cut what they print.
pub(super) fn of(value: &str) -> BTreeSet<String> {
    let mut forms = BTreeSet::new();
    written(value, &mut forms);
    base64(value, &mut forms);
    base32(value, &mut forms);
    hexadecimal(value, &mut forms);
    // The head and foot of a PEM block are known to all.
    let lines = value.lines().map(str::trim).filter(|line| line.len() >= LINE && !line.starts_with("-----"));
    if value.contains('\n') {
        lines.for_each(|line| written(line, &mut forms));
        forms.insert(value.replace('\n', "\r\n"));
    }
    forms
}

/// As it is, and as URLs, JSON and shells write it.
fn written(value: &str, forms: &mut BTreeSet<String>) {
    forms.insert(value.to_owned());
    url(value, forms);
    json(value, forms);
    shell(value, forms);
}

/// The value at each of the three places that it can take in the groups of base64: as much of its
/// code as depends on the value alone. Also broken into lines as `base64` (76) and PEM (64) do.
fn base64(value: &str, forms: &mut BTreeSet<String>) {
    for engine in [BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD] {
        for before in 0..3 {
            let mut bytes = vec![0; before];
            bytes.extend_from_slice(value.as_bytes());
            let code = engine.encode(&bytes);
            // Characters of six bits each: those that share no bit with a neighbour of the value.
            let first = (before * 8).div_ceil(6);
            let end = bytes.len() * 8 / 6;
            forms.insert(code[first..end].to_owned());
        }
        let whole = engine.encode(value);
        for width in [64, 76].into_iter().filter(|width| whole.len() > *width) {
            let piece = |start| whole[start..whole.len().min(start + width)].to_owned();
            forms.extend((0..whole.len()).step_by(width).map(piece).filter(|piece| piece.len() >= LINE));
        }
        forms.insert(whole);
    }
}

/// The value at each of the five places that it can take in the groups of base32 (RFC 4648, both
/// alphabets): as much of its code as depends on the value alone.
fn base32(value: &str, forms: &mut BTreeSet<String>) {
    const ALPHABETS: [&[u8; 32]; 2] =
        [b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHIJKLMNOPQRSTUV"];
    for alphabet in ALPHABETS {
        for before in 0..5 {
            let bytes = [&[0; 4][..before], value.as_bytes()].concat();
            let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
            // Characters of five bits each: those that share no bit with a neighbour of the value.
            let (first, end) = ((before * 8).div_ceil(5), bytes.len() * 8 / 5);
            let character = |at: usize| {
                let index = (0..5).fold(0, |index, n| index << 1 | bit(at * 5 + n));
                char::from(alphabet[usize::from(index)])
            };
            let code: String = (first..end).map(character).collect();
            forms.insert(code.to_ascii_lowercase());
            forms.insert(code);
        }
    }
}

/// In hexadecimal digits: plainly, with what tools put between them, and in the lines of `xxd -p`.
fn hexadecimal(value: &str, forms: &mut BTreeSet<String>) {
    for upper in [false, true] {
        let digits: Vec<String> = value
            .bytes()
            .map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") })
            .collect();
        for between in ["", " ", ":", "\\x"] {
            forms.insert(digits.join(between));
        }
        if digits.len() > 30 {
            forms.extend(digits.chunks(30).filter(|line| line.len() >= LINE).map(<[String]>::concat));
        }
    }
}

/// With `%xx` for what must not stand in a URL. Tools differ in what that is, and in the case of
/// the digits.
fn url(value: &str, forms: &mut BTreeSet<String>) {
    // RFC 3986; Python's `quote`; encodeURIComponent; forms; user information; all but letters and
    // digits.
    for plain in ["-_.~", "-_.~/", "-_.~!*'()", "-_.*", "-_.~!$&'()*+,;=", ""] {
        for upper in [true, false] {
            let mut code = String::new();
            for byte in value.bytes() {
                let _ = match byte {
                    _ if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(&byte) => {
                        code.write_char(byte.into())
                    }
                    _ if upper => write!(code, "%{byte:02X}"),
                    _ => write!(code, "%{byte:02x}"),
                };
            }
            forms.insert(code.replace("%20", "+"));
            forms.insert(code);
        }
    }
}

/// Inside the quotes of JSON: with characters beyond ASCII as they are, and as `\u….` like Python's
/// `json` does; with `/` as it is, and as `\/` like PHP does.
fn json(value: &str, forms: &mut BTreeSet<String>) {
    let quoted = serde_json::Value::from(value).to_string();
    let Some(inner) = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return };
    let mut ascii = String::new();
    for c in inner.chars() {
        if c.is_ascii() {
            ascii.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    for code in [inner, &ascii] {
        forms.insert(code.replace('/', "\\/"));
        forms.insert(code.to_owned());
    }
}

/// In single quotes as Python's `shlex` and as git do, in double quotes as BitBake writes its
/// `export` lines, and with backslashes as bash's `%q` does.
fn shell(value: &str, forms: &mut BTreeSet<String>) {
    forms.insert(value.replace('\'', "'\"'\"'"));
    forms.insert(value.replace('\'', "'\\''"));
    forms.insert(value.replace('\'', "'\\''").replace('!', "'\\!'"));
    forms.insert(with_backslashes(value, |c| "\"$`\\".contains(c)));
    forms.insert(with_backslashes(value, |c| c == '"'));
    forms.insert(with_backslashes(value, |c| c == '\'' || c == '\\').replace('\n', "\\n"));
    forms.insert(with_backslashes(value, |c| {
        c.is_ascii() && !c.is_ascii_alphanumeric() && !"%+-./:=@_".contains(c)
    }));
}

fn with_backslashes(value: &str, special: impl Fn(char) -> bool) -> String {
    let mut code = String::new();
    for c in value.chars() {
        if special(c) {
            code.push('\\');
        }
        code.push(c);
    }
    code
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    #[test]
    fn the_forms_that_tools_print_are_known() {
        // Printed by: python3 urllib.parse.quote / quote_plus, json.dumps, shlex.quote, bash printf %q,
        // git rev-parse --sq-quote, PHP json_encode.
        let table = [
            ("p@ss w/ö", "p%40ss%20w/%C3%B6"),
            ("p@ss w/ö", "p%40ss+w%2F%C3%B6"),
            ("p@ss w/ö", "p%40ss%20w%2f%c3%b6"),
            ("p@ss w/ö", "p@ss w/\\u00f6"),
            ("p@ss w/o", "p@ss w\\/o"),
            ("p@ss w/o", "p@ss\\ w/o"),
            ("it's it", "it'\"'\"'s it"),
            ("it's it", "it'\\''s it"),
            ("it's!it", "it'\\''s'\\!'it"),
            ("a\"b$c`d", "a\\\"b\\$c\\`d"),
            ("one\ntwo\"", "one\\ntwo\\\""),
            ("one\ntwo'x", "one\\ntwo\\'x"),
        ];
        for (value, form) in table {
            let forms = of(value);
            assert!(forms.contains(form), "{form} in {forms:?}");
        }
    }

    #[test]
    fn base64_is_known_wherever_the_value_stands_in_the_text() {
        let value = "ghp_0123456789~?>";
        let forms = of(value);
        for before in ["", "x", "xy", "xyz", "x-access-token:"] {
            for after in ["", "a", "ab", "abc", "\n"] {
                let text = format!("{before}{value}{after}");
                for code in [BASE64_STANDARD.encode(&text), BASE64_URL_SAFE_NO_PAD.encode(&text)] {
                    let known =
                        forms.iter().filter(|form| code.contains(form.as_str())).map(String::len).max();
                    // All but the two characters at either side that neighbours take part in.
                    assert!(known.is_some_and(|known| known + 2 >= value.len() * 8 / 6), "{code}: {known:?}");
                }
            }
        }
    }

    #[test]
    fn base32_and_hexadecimal_are_known() {
        // Printed by: base32, base32 | tr A-Z a-z, basenc --base32hex, xxd -p, xxd -u -p, od -An -tx1.
        let table = [
            ("hunter22", "NB2W45DFOIZDE"),
            ("hunter22", "nb2w45dfoizde"),
            ("hunter22", "D1QMST35E8P34"),
            ("hunter22", "68756e7465723232"),
            ("hunter22", "68756E7465723232"),
            ("hunter22", "68 75 6e 74 65 72 32 32"),
            ("hunter22", "68:75:6E:74:65:72:32:32"),
            // `printf xhunter22x | base32` is PBUHK3TUMVZDEMTY: without what its neighbours take part in.
            ("hunter22", "UHK3TUMVZDEM"),
        ];
        for (value, form) in table {
            let known = of(value);
            let found =
                known.iter().any(|known| form.contains(known.as_str()) && known.len() + 2 >= form.len());
            assert!(found, "{form} in {known:?}");
        }
    }

    #[test]
    fn long_base64_is_known_in_lines() {
        let value = "0123456789abcdef".repeat(8);
        let forms = of(&value);
        let code = BASE64_STANDARD.encode(&value);
        for width in [64, 76] {
            for line in code.as_bytes().chunks(width).filter(|line| line.len() >= 20) {
                let line = std::str::from_utf8(line).unwrap().trim_end_matches('=');
                assert!(forms.contains(line), "{line}");
            }
        }
    }

    #[test]
    fn lines_of_a_key_are_secrets_and_its_frame_is_not() {
        let forms = of("-----BEGIN KEY-----\nMIIEvQIBADANBg+/kq\n  hkiG9w0BAQEF  \nshort\n-----END KEY-----");
        for (form, known) in [
            ("MIIEvQIBADANBg+/kq", true),
            ("MIIEvQIBADANBg%2B%2Fkq", true),
            ("hkiG9w0BAQEF", true),
            ("short", false),
            ("-----BEGIN KEY-----", false),
        ] {
            assert_eq!(forms.contains(form), known, "{form}");
        }
    }
}
