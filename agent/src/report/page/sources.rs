//! Where everything came from, and the command that repeats the job.

use maud::{Markup, html};

use super::job::{Job, Section};
use super::text::{line, path, web_link};
use crate::report::console::shell_word;
use crate::report::summary::Summary;

/// Rows of the table.
const REPOS: usize = 100;

pub fn section(job: &Job) -> Section {
    let summary = job.summary;
    let identity = &summary.job;
    let body = html! {
        @if !identity.reproduce.is_empty() {
            p { "This command repeats the job:" }
            div.command { pre { (command(summary)) } button.copy type="button" hidden { "Copy" } }
        }
        (repos(summary))
        dl.lists {
            dt { "Layer" }
            dd {
                code { (path(&identity.layer)) }
                @if let Some(commit) = &identity.commit { " at " code { (line(commit)) } }
                @if identity.dirty { " with uncommitted changes" }
            }
            dt { "Manifest" } dd { code { (line(&identity.manifest)) } }
            @if let Some(base) = &summary.base {
                dt { "Compared with" }
                dd { code { (line(&base.commit)) } ", " (web_link(&base.address, &base.address)) }
            }
            @if let Some(image) = summary.reproduction.as_ref().and_then(|known| known.image.as_ref()) {
                dt { "Image" } dd { code { (line(image)) } }
            }
            @if !identity.id.is_empty() { dt { "Job" } dd { code { (line(&identity.id.to_string())) } } }
            dt { "Agent" } dd { "build-agent " (line(&summary.agent)) }
            dt { "Files" }
            dd {
                @for (place, name) in ["result.json", "junit.xml", "events.jsonl", "agent.log"].iter().enumerate() {
                    @if place > 0 { ", " }
                    @if let Some(address) = job.file_address(name.as_ref()) { a href=(address) { (name) } }
                }
            }
        }
    };
    Section { name: "sources", title: "Sources", count: None, body }
}

fn command(summary: &Summary) -> String {
    let words: Vec<String> = summary.job.reproduce.iter().map(|word| shell_word(&line(word))).collect();
    words.join(" ")
}

fn repos(summary: &Summary) -> Markup {
    html! {
        @if !summary.repos.is_empty() {
            div.scroll tabindex="0" role="group" aria-label="Repositories" {
                table {
                    caption.hidden { "Repositories" }
                    thead {
                        tr {
                            th scope="col" { "Repository" } th scope="col" { "Branch or tag" }
                            th scope="col" { "Commit" }
                        }
                    }
                    tbody {
                        @for repo in summary.repos.iter().take(REPOS) {
                            tr {
                                td {
                                    strong { (line(&repo.name)) } " "
                                    @match &repo.url {
                                        Some(url) => (web_link(url, url)),
                                        None => code { (path(&repo.path)) },
                                    }
                                }
                                td { @if let Some(wanted) = &repo.wanted { (line(wanted)) } }
                                td {
                                    @if let Some(commit) = &repo.commit { code.digest { (line(commit)) } }
                                    @for patch in &repo.patches { br; "with " code { (line(patch)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
