//! Builds the keys of published objects.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use agent_types::events::JobIdentity;

pub use agent_fs::names::{encoded, plain, text};

/// The name of the index below the prefix.
pub const INDEX: &str = "index.json";

const IN_PARTS: &AsciiSet = &CONTROLS.add(b'%').add(b'/');

/// The prefix of a job: `<name>/<release>/<commit>[-dirty]/<build>`. Without git, the commit is `unversioned`. A cell of a
/// matrix has its identifier in the place of the release: the cells of one build may have the same number.
pub fn layout(job: &JobIdentity) -> String {
    let mut version = job.commit.clone().unwrap_or_else(|| "unversioned".into());
    if job.dirty {
        version.push_str("-dirty");
    }
    let configuration = job.cell.as_ref().unwrap_or(&job.release);
    [&job.name, configuration, &version, &job.build].map(|part| segment(part)).join("/")
}

/// Encodes any text as one segment of a key, without `/` and never `.` or `..`.
pub fn segment(text: &str) -> String {
    // Non-ASCII letters stay readable; only characters that would break the key are encoded.
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

/// Joins two keys with `/`; either may be empty.
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
    fn layout_of_jobs() {
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
            (JobIdentity { cell: Some("c_1".into()), ..job.clone() }, "meta-x/c_1/0123abcd/17"),
            (hostile, "..%2F..%2Fetc/scarthgap/0123abcd/%2E%2E"),
            (JobIdentity { build: String::new(), ..job }, "meta-x/scarthgap/0123abcd/_"),
        ];
        for (job, wanted) in table {
            assert_eq!(layout(&job), wanted);
        }
    }

    #[test]
    fn joins_keys() {
        for (prefix, rest, wanted) in
            [("", "a/b", "a/b"), ("p/", "a", "p/a"), ("/p/q", "", "p/q"), ("", "", "")]
        {
            assert_eq!(join(prefix, rest), wanted);
        }
    }
}
