//! What the job published, and how its size changed.

use std::collections::HashMap;
use std::path::Path;

use maud::{Markup, html};

use agent_types::events::Artifact;
use agent_types::words::bytes;

use super::failures::names;
use super::job::{Job, Section};
use super::text::{count, line, more, path, web_link};
use crate::report::summary::Summary;

/// Rows of the table.
const ROWS: usize = 200;

pub fn section(job: &Job) -> Option<Section> {
    let summary = job.summary;
    let before = before(summary);
    let gone = gone(summary, &before);
    if summary.artifacts.is_empty() && summary.published.is_none() && gone.is_empty() {
        return None;
    }
    // The largest change first, then the largest file.
    let mut rows: Vec<(&Artifact, Option<u64>)> =
        summary.artifacts.iter().map(|artifact| (artifact, before.get(&*artifact.path).copied())).collect();
    let changed = |(artifact, before): &(&Artifact, Option<u64>)| {
        before.map_or(0, |before| before.abs_diff(artifact.bytes))
    };
    rows.sort_by_key(|row| std::cmp::Reverse((changed(row), row.0.bytes)));
    let body = html! {
        @if let Some(published) = &summary.published {
            p {
                (count(published.objects, "object")) " (" (bytes(published.bytes)) ") in "
                (web_link(&published.destination, &published.destination)) ". Index: "
                (web_link(&published.index, &published.index)) "."
            }
        }
        @if !rows.is_empty() {
            div.scroll tabindex="0" role="group" aria-label="Artifacts" {
                table {
                    caption.hidden { "Artifacts" }
                    thead {
                        tr {
                            th scope="col" { "File" } th.number scope="col" { "Size" }
                            @if summary.base.is_some() { th.number scope="col" { "Change" } }
                            th scope="col" { "SHA-256" }
                        }
                    }
                    tbody {
                        @for (artifact, before) in rows.iter().take(ROWS) {
                            (row(artifact, summary.base.is_some().then_some(*before)))
                        }
                    }
                }
            }
            @if let Some(rest) = more(rows.len().saturating_sub(ROWS)) { p { (rest) } }
        }
        @if !gone.is_empty() {
            p { "No longer published:" }
            (names(gone.iter().map(|gone| path(gone))))
        }
    };
    let files = (job.totals.artifacts + job.totals.artifact_links) as usize as u64;
    Some(Section { name: "artifacts", title: "Artifacts", count: Some(files), body })
}

/// The sizes before the change.
fn before(summary: &Summary) -> HashMap<&Path, u64> {
    let known = summary.base.iter().flat_map(|base| &base.artifacts);
    known.map(|artifact| (&*artifact.path, artifact.bytes)).collect()
}

/// What was published before the change and is not now. Nothing if this job published nothing.
fn gone<'a>(summary: &Summary, before: &HashMap<&'a Path, u64>) -> Vec<&'a Path> {
    if summary.artifacts.is_empty() {
        return Vec::new();
    }
    let mut gone = before.clone();
    for artifact in &summary.artifacts {
        gone.remove(&*artifact.path);
    }
    let mut gone: Vec<&Path> = gone.into_keys().collect();
    gone.sort_unstable();
    gone
}

/// `before`: `None` without a base, `Some(None)` for a file that the base does not have.
fn row(artifact: &Artifact, before: Option<Option<u64>>) -> Markup {
    html! {
        tr {
            td {
                code { (path(&artifact.path)) }
                @if let Some(link) = &artifact.link { " → " code { (line(link)) } }
            }
            td.number { @if artifact.link.is_none() { (bytes(artifact.bytes)) } }
            @if let Some(before) = before {
                td.number { @if artifact.link.is_none() { (delta(before, artifact.bytes)) } }
            }
            td {
                @if let Some(digest) = &artifact.sha256 { code.digest { (line(digest)) } }
            }
        }
    }
}

fn delta(before: Option<u64>, after: u64) -> Markup {
    let size = |before: u64| {
        let part = (after as f64 - before as f64) * 100.0 / before.max(1) as f64;
        let sign = if after > before { "+" } else { "−" };
        format!("{sign}{} ({sign}{:.1} %)", bytes(after.abs_diff(before)), part.abs())
    };
    html! {
        @match before {
            None => "new",
            Some(before) if before == after => "0",
            Some(before) => (size(before)),
        }
    }
}
