//! `result.json`: the summary for other programs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::output::replace;
use super::summary::Summary;
use super::tally::Totals;

/// Names the layout; raised when a reader of the old layout would go wrong.
pub const SCHEMA: &str = "build-agent/result/v1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    /// The number behind `exit`.
    exit_code: u8,
    totals: Totals,
    #[serde(flatten)]
    summary: &'a Summary,
}

/// The whole file.
pub fn render(summary: &Summary) -> Result<String> {
    let document =
        Document { schema: SCHEMA, exit_code: summary.exit.code(), totals: Totals::of(summary), summary };
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
/// When it is none, or of another layout.
pub fn read(path: &Path) -> Result<Summary> {
    let bytes = fs_err::read(path)?;
    let place = |error: &serde_json::Error| format!("{}:{}:{}", path.display(), error.line(), error.column());
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| {
        Error::usage(format!("{}: this is not a result.json", place(&error)))
            .because(&error)
            .hint("name an events.jsonl or a result.json that build-agent has written")
    })?;
    if head.schema != SCHEMA {
        return Err(Error::usage(format!(
            "{}: its schema is `{}`, and this build-agent {} reads `{SCHEMA}`",
            path.display(),
            head.schema,
            env!("CARGO_PKG_VERSION"),
        ))
        .hint("use the build-agent that wrote it, or a newer one"));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::usage(format!("{}: damaged, or written by a newer build-agent", place(&error))).because(&error)
    })
}
