//! From names in a tree to names at the destination: pure, reversible, never mangled.
//!
//! A path becomes the key exactly as it is, with all its `+ : # %` and spaces. Only a path that S3
//! or a JSON file cannot carry (not UTF-8, or with control characters) is percent-encoded, as a
//! whole: every byte that is not printable ASCII, and every `%`. The index marks it `encoded`;
//! percent-decoding gives the bytes back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode, utf8_percent_encode};

use crate::events::JobIdentity;

/// The name of the index below the prefix.
pub const INDEX: &str = "index.json";

/// Bytes in an S3 key: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>.
pub const LONGEST_KEY: usize = 1024;

const IN_PATHS: &AsciiSet = &CONTROLS.add(b'%');
const IN_PARTS: &AsciiSet = &IN_PATHS.add(b'/');

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

/// `<name>/<release>/<commit>[-dirty]/<build>`; a checkout that is not in git is `unversioned`.
pub fn layout(job: &JobIdentity) -> String {
    let mut version = job.commit.clone().unwrap_or_else(|| "unversioned".into());
    if job.dirty {
        version.push_str("-dirty");
    }
    [&job.name, &job.release, &version, &job.build].map(|part| segment(part)).join("/")
}

/// One segment of a key, whatever the text: neither more segments nor one that means a directory.
fn segment(text: &str) -> String {
    // Letters of any script stay; only what would break the key or its reading is encoded.
    let carried = |c: char| match c.is_ascii() {
        true => utf8_percent_encode(c.encode_utf8(&mut [0; 4]), IN_PARTS).to_string(),
        false => c.into(),
    };
    match text {
        "" => "_".into(),
        "." | ".." => text.replace('.', "%2E"),
        _ => text.chars().map(carried).collect(),
    }
}

/// Two keys, one below the other; either may be empty.
pub fn join(prefix: &str, rest: &str) -> String {
    match (prefix.trim_matches('/'), rest) {
        ("", rest) => rest.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, rest) => format!("{prefix}/{rest}"),
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

    #[test]
    fn where_a_job_s_artifacts_lie() {
        let job = JobIdentity {
            name: "meta-x".into(),
            release: "scarthgap".into(),
            commit: Some("0123abcd".into()),
            build: "17".into(),
            ..JobIdentity::default()
        };
        let hostile = JobIdentity { name: "../../etc".into(), build: "..".into(), ..job.clone() };
        let table = [
            (job.clone(), "meta-x/scarthgap/0123abcd/17"),
            (JobIdentity { dirty: true, ..job.clone() }, "meta-x/scarthgap/0123abcd-dirty/17"),
            (JobIdentity { commit: None, ..job.clone() }, "meta-x/scarthgap/unversioned/17"),
            (hostile, "..%2F..%2Fetc/scarthgap/0123abcd/%2E%2E"),
            (JobIdentity { build: String::new(), ..job }, "meta-x/scarthgap/0123abcd/_"),
        ];
        for (job, wanted) in table {
            assert_eq!(layout(&job), wanted);
        }
    }

    #[test]
    fn joining() {
        for (prefix, rest, wanted) in
            [("", "a/b", "a/b"), ("p/", "a", "p/a"), ("/p/q", "", "p/q"), ("", "", "")]
        {
            assert_eq!(join(prefix, rest), wanted);
        }
    }
}
