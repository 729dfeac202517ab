//! What failed, with the lines that matter: what is new in this change first.

use std::collections::HashSet;

use maud::{Markup, html};

use agent_types::base_result::TestId;

use super::job::{Job, Section, TestChange};
use super::text::{heading, line, more, path};
use super::verdict::{Tone, class_word};
use crate::report::console::Failure;
use crate::report::summary::StageError;

/// Failures that are open at first.
const OPEN: usize = 3;
/// Failures with their lines; the others only have a name.
const IN_FULL: usize = 50;
/// Names of a list, and errors of the agent.
const NAMES: usize = 100;

pub fn section(job: &Job) -> Option<Section> {
    let summary = job.summary;
    let comparison = job.comparison.clone().unwrap_or_default();
    let lists = [
        &comparison.fixed,
        &comparison.vanished,
        &comparison.flaky,
        &comparison.not_run,
        &comparison.newly_skipped,
    ];
    if job.failures.is_empty() && summary.errors.is_empty() && lists.iter().all(|list| list.is_empty()) {
        return None;
    }
    let level = job.level() + 2;
    let title = |text: &str, tests: usize| heading(level, &html! { (text) " " span.count { (tests) } });
    let mut shown = 0;
    let mut group = |text: &str, note: &str, change: Option<TestChange>| {
        let members: Vec<(usize, &Failure)> = job.failures_with(change).collect();
        // A test that was stopped fails, and is not among the failures with lines.
        let listed = match change {
            Some(TestChange::New) => &comparison.new_failures[..],
            Some(TestChange::Before) => &comparison.still_failing,
            _ => &[],
        };
        let ids: HashSet<&TestId> = members.iter().map(|(_, failure)| &failure.id).collect();
        let others: Vec<&TestId> = listed.iter().filter(|test| !ids.contains(test)).collect();
        let before = shown;
        shown += members.len();
        html! {
            @if !members.is_empty() || !others.is_empty() {
                (title(text, members.len() + others.len()))
                @if !note.is_empty() { p.note { (note) } }
                @for (place, (index, failure)) in members.iter().enumerate() {
                    @if before + place < IN_FULL {
                        (details(job, *index, failure, before + place < OPEN))
                    }
                }
                @let rest = members.iter().skip(IN_FULL.saturating_sub(before));
                (names(rest.map(|(_, failure)| line(&failure.title))))
                (names(others.into_iter().map(|test| line(&test.to_string()))))
            }
        }
    };
    let list = |text: &str, note: &str, tests: &[TestId]| {
        html! {
            @if !tests.is_empty() {
                (title(text, tests.len()))
                @if !note.is_empty() { p.note { (note) } }
                (names(tests.iter().map(|test| line(&test.to_string()))))
            }
        }
    };
    let all = if job.comparison.is_some() { "Other failures" } else { "Failures" };
    let body = html! {
        (errors(job))
        (group("New in this change", "", Some(TestChange::New)))
        (group(all, "", None))
        (group("Flaky", "They failed and passed with equal signatures. This change is not the cause.", Some(TestChange::Flaky)))
        (group("Failing before this change", "They failed before this change, too.", Some(TestChange::Before)))
        (list("Vanished", "They ran before this change and are not in this result. Find out why before you merge.", &comparison.vanished))
        (list("Did not run", "They passed before this change and did not run or were stopped.", &comparison.not_run))
        (list("Skipped now", "They ran before this change.", &comparison.newly_skipped))
        (list("Fixed by this change", "", &comparison.fixed))
    };
    let count = (job.failures.len() + summary.errors.len()) as u64;
    Some(Section { name: "failures", title: "Failures", count: Some(count), body })
}

fn errors(job: &Job) -> Markup {
    let errors = &job.summary.errors;
    html! {
        @for error in errors.iter().take(NAMES) { (one_error(error)) }
        @if let Some(rest) = more(errors.len().saturating_sub(NAMES)) { p { (rest) } }
    }
}

/// What the agent or the machine could not do.
fn one_error(error: &StageError) -> Markup {
    let found = &error.error;
    html! {
        div class="error box" {
            p {
                span class="badge bad" { "error" } " "
                strong { (line(&found.message)) } " "
                span.where {
                    @if let Some(stage) = error.stage { "in " (stage.name()) ", " }
                    (class_word(found.class))
                }
            }
            @for cause in found.causes.iter().take(NAMES) { p.cause { "because: " (line(cause)) } }
            @if let Some(hint) = &found.hint { p.hint { (line(hint)) } }
        }
    }
}

fn details(job: &Job, index: usize, failure: &Failure, open: bool) -> Markup {
    let place = failure.title.strip_suffix(&failure.name).unwrap_or(&failure.title);
    let place = place.trim_end().trim_end_matches('/').trim_end();
    let tone = Tone::of(failure.outcome).class();
    html! {
        details class="failure box" id=(job.element(&format!("failure-{index}"))) open[open] {
            summary {
                span class=(format!("badge {tone}")) { (failure.outcome.word()) } " "
                strong { (line(&failure.name)) } " "
                span.where { (line(place)) }
            }
            @for reason in &failure.reason { p.reason { (line(reason)) } }
            (log_lines(&failure.lines))
            @if let Some(log) = &failure.log {
                p.log {
                    @match job.file_address(log) {
                        Some(address) => { "The whole log: " a href=(address) { (path(log)) } },
                        None => { "The whole log: " (path(log)) },
                    }
                }
            }
        }
    }
}

fn log_lines(lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            pre {
                @for text in lines {
                    @match is_error(text) {
                        true => { mark { (line(text)) } "\n" },
                        false => { (line(text)) "\n" },
                    }
                }
            }
        }
    }
}

/// Whether a person would look at this line first. Only a highlight: no verdict depends on it.
fn is_error(line: &str) -> bool {
    let start: String = line.chars().take(300).collect::<String>().to_ascii_lowercase();
    let signs =
        ["error:", "error ", "fatal:", "undefined reference", "no such file", "not found", "exception:"];
    signs.iter().any(|sign| start.contains(sign)) || start.ends_with("error")
}

pub fn names(names: impl Iterator<Item = String>) -> Markup {
    let names: Vec<String> = names.collect();
    html! {
        @if !names.is_empty() {
            ul.names {
                @for name in names.iter().take(NAMES) { li { (name) } }
                @if let Some(rest) = more(names.len().saturating_sub(NAMES)) { li { (rest) } }
            }
        }
    }
}
