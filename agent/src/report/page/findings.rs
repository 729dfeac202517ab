//! The findings by file, and the warnings of the agent.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use maud::{Markup, html};

use agent_types::credentials::Reachable;
use agent_types::events::{Finding, Level};

use super::failures::names;
use super::job::{Job, Section};
use super::text::{count, heading, line, lines, more, path};
use crate::report::console::level_word;

/// Files with their findings, and findings of one file.
const FILES: usize = 200;
const IN_FILE: usize = 50;
/// Findings of the whole page.
const ALL: usize = 1000;
/// Findings up to which all files are open at first.
const OPEN: usize = 20;
/// Warnings, and lines of each.
const NOTICES: usize = 50;

pub fn section(job: &Job) -> Option<Section> {
    let summary = job.summary;
    let fixed = job.comparison.as_ref().map(|comparison| &comparison.fixed_findings[..]).unwrap_or_default();
    let warnings = warnings(job);
    let cves = cves(job);
    if summary.findings.is_empty() && fixed.is_empty() && warnings.is_none() && cves.is_none() {
        return None;
    }
    let new = job.comparison.as_ref().map(|comparison| &comparison.new_findings[..]).unwrap_or_default();
    let new: HashSet<usize> = new.iter().copied().collect();
    let files = shown(by_file(&summary.findings, &new));
    let open = summary.findings.len() <= OPEN;
    let level = job.level() + 2;
    let body = html! {
        @for (file, shown) in &files { (one_file(file, *shown, open)) }
        @if let Some(rest) = more(summary.findings.len() - files.iter().map(|(_, shown)| shown).sum::<usize>()) { p { (rest) } }
        @if !fixed.is_empty() {
            (heading(level, &html! { "Fixed by this change " span.count { (fixed.len()) } }))
            ul.names {
                @for finding in fixed.iter().take(NOTICES) {
                    li {
                        @if let Some(file) = &finding.file { code { (path(file)) } ": " }
                        (line(&finding.message)) " " span.rule { (line(&finding.rule)) }
                    }
                }
                @if let Some(rest) = more(fixed.len().saturating_sub(NOTICES)) { li { (rest) } }
            }
        }
        @if let Some(cves) = cves { (cves) }
        @if let Some(warnings) = warnings {
            (heading(level, &html! { "Warnings of the job" }))
            (warnings)
        }
    };
    Some(Section { name: "findings", title: "Findings", count: Some(summary.findings.len() as u64), body })
}

struct File<'a> {
    path: Option<&'a Path>,
    /// The most severe first, each with whether it is new.
    findings: Vec<(&'a Finding, bool)>,
}

/// Files with new or severe findings first, then by path.
fn by_file<'a>(findings: &'a [Finding], new: &HashSet<usize>) -> Vec<File<'a>> {
    let mut files: BTreeMap<Option<&Path>, Vec<(&Finding, bool)>> = BTreeMap::new();
    for (index, finding) in findings.iter().enumerate() {
        files.entry(finding.file.as_deref()).or_default().push((finding, new.contains(&index)));
    }
    let rank = |(finding, new): &(&Finding, bool)| (*new, finding.level);
    let mut files: Vec<File> = files.into_iter().map(|(path, findings)| File { path, findings }).collect();
    for file in &mut files {
        file.findings.sort_by_key(|found| (std::cmp::Reverse(rank(found)), found.0.line));
    }
    files.sort_by_key(|file| std::cmp::Reverse(file.findings.first().map(rank)));
    files
}

/// The files of the page, each with how many of its findings are shown.
fn shown(files: Vec<File>) -> Vec<(File, usize)> {
    let mut left = ALL;
    let files = files.into_iter().take(FILES).map(|file| {
        let shown = file.findings.len().min(IN_FILE).min(left);
        left -= shown;
        (file, shown)
    });
    files.filter(|(_, shown)| *shown > 0).collect()
}

fn one_file(file: &File, shown: usize, open: bool) -> Markup {
    let new = file.findings.iter().filter(|(_, new)| *new).count();
    html! {
        details class="box file" open[open] {
            summary {
                @match file.path {
                    Some(file) => code { (path(file)) },
                    None => "Not in a file",
                }
                " " span.where { (levels(&file.findings)) }
                @if new > 0 { " " span class="badge bad" { (new) " new" } }
            }
            ul.findings {
                @for (finding, new) in file.findings.iter().take(shown) { (one_finding(finding, *new)) }
                @if let Some(rest) = more(file.findings.len() - shown) { li { (rest) } }
            }
        }
    }
}

fn levels(findings: &[(&Finding, bool)]) -> String {
    let levels = [(Level::Error, "error"), (Level::Warning, "warning"), (Level::Info, "note")];
    let of_level = |level| findings.iter().filter(|(finding, _)| finding.level == level).count() as u64;
    let numbers = levels.map(|(level, thing)| (of_level(level), thing));
    let words: Vec<String> =
        numbers.into_iter().filter(|(n, _)| *n > 0).map(|(n, thing)| count(n, thing)).collect();
    words.join(", ")
}

fn one_finding(finding: &Finding, new: bool) -> Markup {
    html! {
        li class=(level_class(finding.level)) {
            p {
                span.level { (level_word(finding.level)) } " "
                @if new { span class="badge bad" { "new" } " " }
                @if let Some(line) = finding.line { span.line { "line " (line) } " " }
                (line(&finding.message)) " " span.rule { (line(&finding.rule)) }
            }
            @if let Some(hint) = &finding.hint { p.hint { (line(hint)) } }
        }
    }
}

fn level_class(level: Level) -> &'static str {
    match level {
        Level::Error => "bad",
        Level::Warning => "warn",
        Level::Info => "neutral",
    }
}

fn cves(job: &Job) -> Option<Markup> {
    let comparison = job.comparison.as_ref()?;
    let lists = [("New CVEs", &comparison.new_cves), ("CVEs that this change fixes", &comparison.fixed_cves)];
    let is_empty = lists.iter().all(|(_, list)| list.is_empty());
    let shown = html! {
        @for (title, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            (heading(job.level() + 2, &html! { (title) " " span.count { (list.len()) } }))
            (names(list.iter().map(|cve| line(cve))))
        }
    };
    (!is_empty).then_some(shown)
}

/// What a person should know about the job itself.
fn warnings(job: &Job) -> Option<Markup> {
    let summary = job.summary;
    let notices: Vec<_> = summary.notices.iter().filter(|notice| notice.level != Level::Info).collect();
    let credentials = summary.credentials.as_ref().filter(|access| access.reachable != Reachable::No);
    if notices.is_empty() && credentials.is_none() && summary.retries.is_empty() {
        return None;
    }
    Some(html! {
        ul.findings {
            @if let Some(access) = credentials {
                li.warn {
                    p { span.level { "warning" } " " (line(&access.message())) }
                    @if let Some(hint) = &access.hint { p.hint { (line(hint)) } }
                }
            }
            @for notice in notices.iter().take(NOTICES) {
                li class=(level_class(notice.level)) {
                    p { span.level { (level_word(notice.level)) } " " (lines(&notice.message, 1).join(" ")) }
                    @if let Some(hint) = &notice.hint { p.hint { (line(hint)) } }
                }
            }
            @for retry in summary.retries.iter().take(NOTICES) {
                li.neutral {
                    p {
                        span.level { "retry" } " "
                        (retry.unit.stage.name()) " / " (line(&retry.unit.name)) " ran again: "
                        (line(retry.reason.lines().next().unwrap_or_default()))
                    }
                }
            }
            @if let Some(rest) = more(notices.len().saturating_sub(NOTICES)) { li { (rest) } }
        }
    })
}
