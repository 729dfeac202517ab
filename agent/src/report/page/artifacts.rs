//! What the job published, and how its size changed.

use std::collections::HashMap;
use std::path::Path;

use maud::{Markup, html};

use agent_types::base_result::KnownArtifact;
use agent_types::events::Artifact;
use agent_types::words::bytes;

use super::failures::names;
use super::job::{Job, Section};
use super::text::{count, line, more, path, web_link};
use crate::report::comparison::SizeChange;

/// Rows of the table.
const ROWS: usize = 200;

pub fn section(job: &Job) -> Option<Section> {
    let summary = job.summary;
    let changes = job.comparison.as_ref().map(|comparison| &comparison.sizes[..]).unwrap_or_default();
    let gone: Vec<&SizeChange> = changes.iter().filter(|change| change.after.is_none()).collect();
    let is_empty = summary.artifacts.is_empty() && summary.published.is_none() && gone.is_empty();
    if is_empty && summary.device.is_none() {
        return None;
    }
    let changes: HashMap<&Path, &SizeChange> = changes.iter().map(|change| (&*change.path, change)).collect();
    // The largest change first, then the largest file.
    let mut rows: Vec<(&Artifact, Option<&SizeChange>)> =
        summary.artifacts.iter().map(|artifact| (artifact, changes.get(&*artifact.path).copied())).collect();
    let changed = |change: &SizeChange| Some(change.before.as_ref()?.bytes.abs_diff(change.after?));
    rows.sort_by_key(|(artifact, change)| std::cmp::Reverse((change.and_then(changed), artifact.bytes)));
    let compared = job.comparison.is_some();
    let body = html! {
        @if let Some(device) = &summary.device {
            p {
                "A lab is to test " (line(&device.image)) " on " (line(&device.pool)) ": request "
                code { (line(&device.id)) } " in " (web_link(&device.address, &device.address)) "."
            }
        }
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
                            @if compared { th.number scope="col" { "Change" } }
                            th scope="col" { "SHA-256" }
                        }
                    }
                    tbody {
                        @for (artifact, change) in rows.iter().take(ROWS) { (row(artifact, *change, compared)) }
                    }
                }
            }
            @if let Some(rest) = more(rows.len().saturating_sub(ROWS)) { p { (rest) } }
        }
        @if !gone.is_empty() {
            p { "No longer published:" }
            (names(gone.iter().map(|gone| path(&gone.path))))
        }
    };
    let files = job.totals.artifacts + job.totals.artifact_links;
    Some(Section { name: "artifacts", title: "Artifacts", count: Some(files), body })
}

fn row(artifact: &Artifact, change: Option<&SizeChange>, compared: bool) -> Markup {
    html! {
        tr {
            td {
                code { (path(&artifact.path)) }
                @if let Some(link) = &artifact.link { " → " code { (line(link)) } }
            }
            td.number { @if artifact.link.is_none() { (bytes(artifact.bytes)) } }
            @if compared {
                td.number { @if artifact.link.is_none() { (delta(change)) } }
            }
            td {
                @if let Some(digest) = &artifact.sha256 { code.digest { (line(digest)) } }
            }
        }
    }
}

/// `+1.0 KiB (+12.5 %)`; `0` for a file that did not change.
fn delta(change: Option<&SizeChange>) -> String {
    let Some(SizeChange { before, after: Some(after), .. }) = change else { return "0".to_owned() };
    let Some(KnownArtifact { bytes: before, .. }) = before else { return "new".to_owned() };
    let part = (*after as f64 - *before as f64) * 100.0 / (*before).max(1) as f64;
    let sign = if after > before { "+" } else { "−" };
    format!("{sign}{} ({sign}{:.1} %)", bytes(after.abs_diff(*before)), part.abs())
}
