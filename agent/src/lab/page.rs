//! `lab.html`: the devices of all labs, what runs on each, the queue, and what ended. It lies in the store, so its links
//! are relative to it. It contains no present time: it is only written again when something changes.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use agent_types::outcome::Outcome;

use super::status::{DeviceState, DeviceStatus, HistoryEntry, LabStatus, QueueEntry};
use crate::report::page::{count, encoded, line, plain_document};

/// Ended attempts that the page shows.
const MOST_HISTORY: usize = 100;

/// A lab that is silent for longer may have died.
const SILENT: Duration = Duration::from_secs(10 * 60);

/// The page. `now`: by the store's clock.
pub fn render(labs: &[(LabStatus, SystemTime)], queue: &[QueueEntry], now: SystemTime) -> String {
    let devices: Vec<(&LabStatus, &DeviceStatus)> =
        labs.iter().flat_map(|(lab, _)| lab.devices.iter().map(move |device| (lab, device))).collect();
    let mut history: Vec<(&LabStatus, &HistoryEntry)> =
        labs.iter().flat_map(|(lab, _)| lab.history.iter().map(move |entry| (lab, entry))).collect();
    history.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.time));
    let sick = devices.iter().filter(|(_, device)| device.state == DeviceState::Sick).count();
    let body = html! {
        a.skip href="#devices" { "Skip to the devices" }
        header.top {
            h1 { "Devices under test" }
            p.about {
                (count(labs.len() as u64, "lab")) ", " (count(devices.len() as u64, "device"))
                @if sick > 0 { ", " strong.bad { (sick) " sick" } }
                ", " (count(queue.len() as u64, "request")) " in the queue"
            }
            @for (lab, seen) in labs {
                @if !lab.stopped && now.duration_since(*seen).is_ok_and(|silent| silent > SILENT) {
                    div.error.box {
                        p { "The lab " strong { (line(&lab.lab)) } " was last seen at " (time(*seen)) "." }
                    }
                }
                @if let Some(problem) = &lab.problem {
                    div.error.box { p { strong { (line(&lab.lab)) } ": " (line(problem)) } }
                }
                @if lab.stopped {
                    div.error.box { p { "The lab " strong { (line(&lab.lab)) } " was stopped." } }
                }
            }
        }
        main {
            section id="devices" { h2 { "Devices" } (devices_table(&devices)) }
            section id="queue" { h2 { "Queue" } (queue_table(queue)) }
            section id="history" { h2 { "History" } (history_table(&history)) }
        }
    };
    plain_document("Devices under test", &body)
}

fn devices_table(devices: &[(&LabStatus, &DeviceStatus)]) -> Markup {
    if devices.is_empty() {
        return html! { p.note { "No lab has written its status yet." } };
    }
    let rows = html! {
                    @for (lab, device) in devices {
                        tr {
                            td { strong { (line(&device.name)) } }
                            td { span.badge.(tone_of_state(device.state)) { (device.state.word()) } }
                            td {
                                @match (&device.request, device.attempt) {
                                    (Some(id), Some(attempt)) => { code { (line(id)) } ", attempt " (attempt) },
                                    _ => { (device.why.as_deref().map(line).unwrap_or_default()) },
                                }
                            }
                            td { (time(device.since)) }
                            td { (line(&device.pool)) }
                            td {
                                (line(&device.features.join(", ")))
                                @if device.untrusted { " " span.badge.neutral { "untrusted sources" } }
                            }
                            td { (line(&lab.lab)) span.note { " (" (line(&device.control)) ")" } }
                        }
                    }
    };
    table("Devices", &["Device", "State", "What", "Since", "Pool", "Features", "Lab"], &rows)
}

fn queue_table(queue: &[QueueEntry]) -> Markup {
    if queue.is_empty() {
        return html! { p.note { "The queue is empty." } };
    }
    let rows = html! {
                    @for entry in queue {
                        tr {
                            td { code { (line(&entry.id)) } }
                            td {
                                (entry.state)
                                @if let Some(detail) = &entry.detail { ": " (line(detail)) }
                            }
                            @match &entry.request {
                                Some(request) => {
                                    td { (line(&request.image)) " for " (line(&request.machine)) }
                                    td { (line(&request.pool)) }
                                    td.number { (request.priority) }
                                    td { (time(entry.submitted)) }
                                    td { (job(&request.job.name, request.job.commit.as_deref())) }
                                },
                                None => {
                                    td {} td {} td {}
                                    td { (time(entry.submitted)) }
                                    td {}
                                },
                            }
                        }
                    }
    };
    table(
        "Requests without a verdict",
        &["Request", "State", "Image", "Pool", "Priority", "Submitted", "Job"],
        &rows,
    )
}

fn history_table(history: &[(&LabStatus, &HistoryEntry)]) -> Markup {
    if history.is_empty() {
        return html! { p.note { "Nothing has ended yet." } };
    }
    let rows = html! {
                    @for (lab, entry) in history.iter().take(MOST_HISTORY) {
                        tr {
                            td {
                                span.badge.(tone_of_outcome(&entry.outcome)) {
                                    @if entry.decided { (entry.outcome.word()) } @else { "no verdict" }
                                }
                                @if let Some(why) = entry.outcome.reason() { " " (line(why)) }
                            }
                            td { (line(&entry.image)) }
                            td { (line(&entry.device)) span.note { " (" (line(&lab.lab)) ")" } }
                            td { (time(entry.time)) }
                            td { (job(&entry.job, entry.commit.as_deref())) }
                            td {
                                @if let Some(attempt) = entry.attempt {
                                    a href=(report(&entry.request, attempt)) { "attempt " (attempt) }
                                }
                            }
                        }
                    }
    };
    table("Attempts that ended", &["Outcome", "Image", "Device", "Ended", "Job", "Report"], &rows)
}

/// A table that can be scrolled with the keyboard.
fn table(label: &str, columns: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label=(label) {
            table {
                thead { tr { @for name in columns { th scope="col" { (name) } } } }
                tbody { (rows) }
            }
        }
    }
}

fn job(name: &str, commit: Option<&str>) -> Markup {
    let short = |commit: &str| commit.chars().take(12).collect::<String>();
    html! { (line(name)) @if let Some(commit) = commit { " " code { (line(&short(commit))) } } }
}

/// The report of an attempt, relative to the page.
fn report(request: &str, attempt: u32) -> String {
    format!("requests/{}/reports/{attempt}/report.html", encoded(OsStr::new(request)))
}

fn time(time: SystemTime) -> Markup {
    // Years that the format cannot express come from damaged files.
    let limit = SystemTime::UNIX_EPOCH + Duration::from_secs(250_000_000_000);
    match SystemTime::UNIX_EPOCH <= time && time < limit {
        true => {
            let stamp = humantime::format_rfc3339_seconds(time).to_string();
            html! { time datetime=(stamp) { (stamp.replace('T', " ").replace('Z', " UTC")) } }
        }
        false => html! { "?" },
    }
}

fn tone_of_state(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Idle => "good",
        DeviceState::Running | DeviceState::Checking | DeviceState::Leased => "neutral",
        DeviceState::Waiting | DeviceState::Drained => "warn",
        DeviceState::Sick => "bad",
    }
}

fn tone_of_outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "good",
        Outcome::Flaky(_) | Outcome::NotRun(_) | Outcome::Cancelled(_) => "warn",
        Outcome::Skipped(_) => "neutral",
        Outcome::Failed(_) | Outcome::TimedOut(_) => "bad",
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
