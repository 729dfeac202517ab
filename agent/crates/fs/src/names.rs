//! From names in a tree to names at the destination: pure, reversible, never mangled.
//!
//! A path becomes the key exactly as it is, with all its `+ : # %` and spaces. Only a path that S3
//! or a JSON file cannot carry (not UTF-8, or with control characters) is percent-encoded, as a
//! whole: every byte that is not printable ASCII, and every `%`. The index marks it `encoded`;
//! percent-decoding gives the bytes back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

const IN_PATHS: &AsciiSet = &CONTROLS.add(b'%');

/// What the path of an address cannot hold as it is: <https://url.spec.whatwg.org/#path-percent-encode-set>, with `%` and `\\`.
pub const NOT_IN_URL_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The text for a path or a link, or `None` when it has to be encoded.
pub fn plain(name: &OsStr) -> Option<&str> {
    // XML, in which S3 lists keys, has neither control characters nor the two non-characters.
    let carried = |c: char| !c.is_ascii_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    name.to_str().filter(|text| text.chars().all(carried))
}

/// The text with the bytes percent-encoded.
pub fn encoded(name: &OsStr) -> String {
    percent_encode(name.as_bytes(), IN_PATHS).to_string()
}

/// The text for a name in messages and keys, and whether it is encoded.
pub fn text(name: &OsStr) -> (String, bool) {
    match plain(name) {
        Some(text) => (text.to_owned(), false),
        None => (encoded(name), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_as_they_are_unless_nothing_can_carry_them() {
        let table: [(&[u8], &str, bool); 10] = [
            (b"a/core-image.wic", "a/core-image.wic", false),
            (b"linux 6.6+gitAUTOINC+1:2#3", "linux 6.6+gitAUTOINC+1:2#3", false),
            (b"100%/a%20b%0A", "100%/a%20b%0A", false),
            ("häß/日本".as_bytes(), "häß/日本", false),
            (b"[~]{x}|\\`\"<>^*?&='();$,@!", "[~]{x}|\\`\"<>^*?&='();$,@!", false),
            (b"two\nlines", "two%0Alines", true),
            (b"100%\n", "100%25%0A", true),
            (b"bad\xff/x", "bad%FF/x", true),
            ("ä\t".as_bytes(), "%C3%A4%09", true),
            (b"\x7f", "%7F", true),
        ];
        for (name, wanted, is_encoded) in table {
            let got = text(OsStr::from_bytes(name));
            assert_eq!(got, (wanted.to_owned(), is_encoded), "{name:?}");
            if is_encoded {
                let back: Vec<u8> = percent_encoding::percent_decode_str(wanted).collect();
                assert_eq!(back, name);
            }
        }
    }
}
