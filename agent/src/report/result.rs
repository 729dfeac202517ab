//! `result.json`: the summary for other programs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::cost::Cost;
use super::output_file::replace;
use super::summary::Summary;
use super::totals::Totals;

/// Names the layout; raised when a reader of the old layout would go wrong.
pub const SCHEMA: &str = "build-agent/result/v1";

/// Maximum bytes of a file that is read: more than that of a build of the whole world with all its tests.
pub const LARGEST: u64 = 64 << 20;

/// The content of the file.
#[derive(Serialize)]
pub struct Document<'a> {
    schema: &'static str,
    /// The number behind `exit`.
    exit_code: u8,
    totals: Totals,
    /// Only if something has a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
    #[serde(flatten)]
    summary: &'a Summary,
}

impl Document<'_> {
    pub fn of(summary: &Summary) -> Document<'_> {
        Document {
            schema: SCHEMA,
            exit_code: summary.exit.code(),
            totals: Totals::of(summary),
            cost: Cost::of_job(summary),
            summary,
        }
    }
}

/// The whole file.
pub fn render(summary: &Summary) -> Result<String> {
    let document = Document::of(summary);
    let mut text = serde_json::to_string_pretty(&document)
        .map_err(|error| Error::internal("cannot render result.json").because(&error))?;
    text.push('\n');
    Ok(text)
}

pub fn write(summary: &Summary, out: &Path) -> Result<()> {
    replace(&out.join("result.json"), render(summary)?.as_bytes())
}

/// Reads a `result.json` back.
///
/// # Errors
/// If it is not a regular file, is too large, is not a result, or has another layout.
pub fn read(path: &Path) -> Result<Summary> {
    parse(&untrusted::read(path, LARGEST)?, &path.display().to_string())
}

/// Reads the text of a `result.json` with this name back.
///
/// # Errors
/// If it is not a result, or has another layout.
pub fn parse(bytes: &[u8], name: &str) -> Result<Summary> {
    let place = |error: &serde_json::Error| format!("{name}:{}:{}", error.line(), error.column());
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|error| {
        Error::usage(format!("{}: this is not a result.json", place(&error)))
            .because(&error)
            .hint("name an events.jsonl or a result.json that build-agent has written")
    })?;
    if head.schema != SCHEMA {
        return Err(Error::usage(format!(
            "{name}: its schema is `{}`, and this build-agent {} reads `{SCHEMA}`",
            head.schema,
            env!("CARGO_PKG_VERSION"),
        ))
        .hint("use the build-agent that wrote it, or a newer one"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        Error::usage(format!("{}: damaged, or written by a newer build-agent", place(&error))).because(&error)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::*;
    use crate::report::sample::{failing_job, passing_job, reduce, with_share};
    use serde_json::json;

    #[test]
    fn the_head_says_what_it_is() {
        let text = render(&reduce(&failing_job())).unwrap();
        assert!(text.starts_with("{\n  \"schema\": \"build-agent/result/v1\",\n"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["exit"], json!("upstream"));
        assert_eq!(value["exit_code"], json!(4));
        assert_eq!(value["outcome"], json!("failed"));
        assert_eq!(value["reason"], json!("check: yocto-check-layer meta-x failed"));
        let totals = &value["totals"];
        let wanted =
            [("tests", 8), ("passed", 4), ("failed", 2), ("skipped", 1), ("errors", 1), ("failed-tasks", 1)];
        for (name, number) in wanted {
            assert_eq!(totals[name], json!(number), "{name} in {totals}");
        }
        assert_eq!(value["units"][2]["cases"][0]["outcome"], json!("failed"));
    }

    #[test]
    fn a_result_comes_back_from_its_file() {
        let directory = tempfile::tempdir().unwrap();
        for events in [failing_job(), passing_job(), with_share(), Vec::new()] {
            let mut summary = reduce(&events);
            for _ in 0..2 {
                write(&summary, directory.path()).unwrap();
                assert_eq!(read(&directory.path().join("result.json")).unwrap(), summary);
                summary.interrupted();
            }
        }
    }

    #[test]
    fn a_huge_file_and_a_pipe_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("result.json");
        fs_err::File::create(&path).unwrap().set_len(20 << 30).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.message.contains("is larger than"), "{error}");
        fs_err::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&path).unwrap_err().message.contains("not a regular file"));
    }

    #[test]
    fn other_files_are_refused_with_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("result.json");
        let table = [
            ("", "result.json:1:0: this is not a result.json"),
            ("{\"a\": 1}", "result.json:1:8: this is not a result.json"),
            ("{\"schema\": \"build-agent/result/v9\"}", "its schema is `build-agent/result/v9`"),
            (
                "{\n\"schema\": \"build-agent/result/v1\"\n}",
                "result.json:3:1: damaged, or written by a newer",
            ),
        ];
        for (text, wanted) in table {
            fs_err::write(&path, text).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.message.contains(wanted), "{wanted}: {error}");
        }
    }
}

#[cfg(test)]
#[path = "hostile_result_tests.rs"]
mod hostile_result_tests;
