//! The BitBake tasks of a job with what they used: the rows of the timeline and of the list of the slowest.

use std::collections::{HashMap, HashSet};

use maud::{Markup, html};

use agent_types::machine_use::TaskUsage;
use agent_types::words::bytes;

use super::job::{Job, Section};
use super::text::line;
use crate::report::console::duration;
use crate::report::summary::Summary;
use crate::report::timeline::TaskRun;

/// Tasks in the page. A large world has 40,000.
const KEPT: usize = 60_000;
/// Tasks in the list of the slowest.
const SLOWEST: usize = 20;

/// A task that started, with its times in milliseconds since the job's start.
#[derive(Clone, Copy)]
pub struct TaskRow<'a> {
    pub run: TaskRun<'a>,
    /// Among all runs.
    place: usize,
    pub start: u32,
    /// If BitBake did not report its end: the end of the job.
    pub end: u32,
    pub usage: Option<&'a TaskUsage>,
    /// On the chain of tasks that decides how long the build takes.
    pub critical: bool,
}

impl TaskRow<'_> {
    pub fn milliseconds(&self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    pub fn is_setscene(&self) -> bool {
        self.run.task.ends_with("_setscene")
    }
}

/// The tasks in the order of their starts.
pub struct Tasks<'a> {
    pub rows: Vec<TaskRow<'a>>,
    /// Tasks without a row: their start is not known, or there were too many.
    pub omitted: u64,
}

impl<'a> Tasks<'a> {
    pub fn of(summary: &'a Summary, critical: &[usize]) -> Tasks<'a> {
        let job_end = (summary.seconds.max(0.0) * 1000.0).round() as u32;
        let critical: HashSet<usize> = critical.iter().copied().collect();
        let mut usage: HashMap<(usize, &str, &str), &TaskUsage> = HashMap::new();
        for unit in &summary.task_usage {
            usage.extend(
                unit.tasks.iter().map(|task| ((unit.unit as usize, &*task.recipe, &*task.task), task)),
            );
        }
        let mut omitted = summary.timeline.omitted();
        let mut rows: Vec<TaskRow> = Vec::new();
        for (place, run) in summary.timeline.runs().enumerate() {
            let Some(start) = run.start else {
                omitted += 1;
                continue;
            };
            rows.push(TaskRow {
                run,
                place,
                start,
                end: run.end.unwrap_or(job_end).max(start),
                usage: usage.get(&(run.unit, run.recipe, run.task)).copied(),
                critical: critical.contains(&place),
            });
        }
        if let Some(rest) = rows.len().checked_sub(KEPT).filter(|rest| *rest > 0) {
            // The shortest are the least interesting.
            rows.sort_by_key(|row| std::cmp::Reverse((row.critical, row.milliseconds())));
            rows.truncate(KEPT);
            omitted += rest as u64;
        }
        rows.sort_by_key(|row| (row.start, row.place));
        Tasks { rows, omitted }
    }

    /// The largest number of tasks that ran at the same time.
    pub fn parallel(&self) -> usize {
        let starts = self.rows.iter().map(|row| (row.start, 1));
        let ends = self.rows.iter().map(|row| (row.end, -1));
        let mut changes: Vec<(u32, i64)> = starts.chain(ends).collect();
        changes.sort_unstable();
        let mut running = 0_i64;
        changes
            .iter()
            .map(|(_, change)| {
                running += change;
                running
            })
            .max()
            .unwrap_or(0)
            .unsigned_abs() as usize
    }

    /// The slowest first.
    fn slowest(&self) -> Vec<&TaskRow<'a>> {
        let mut rows: Vec<&TaskRow> = self.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.milliseconds()));
        rows.truncate(SLOWEST);
        rows
    }
}

pub fn slowest_section(tasks: &Tasks) -> Option<Section> {
    let slowest = tasks.slowest();
    let longest = slowest.first()?.milliseconds().max(1);
    let has_usage = slowest.iter().any(|row| row.usage.is_some());
    let body = html! {
        div.scroll tabindex="0" role="group" aria-label="The slowest tasks" {
            table {
                caption.hidden { "The slowest tasks" }
                thead {
                    tr {
                        th scope="col" { "Task" } th.number scope="col" { "Time" } th.wide aria-hidden="true" {}
                        @if has_usage { th.number scope="col" { "CPU time" } th.number scope="col" { "Peak memory" } }
                        th.number scope="col" { "Started after" }
                    }
                }
                tbody { @for row in slowest { (slow_row(row, longest, has_usage)) } }
            }
        }
    };
    Some(Section { name: "slowest", title: "Slowest tasks", count: None, body })
}

fn slow_row(row: &TaskRow, longest: u32, has_usage: bool) -> Markup {
    let seconds = |milliseconds: u32| duration(f64::from(milliseconds) / 1000.0);
    let width = (f64::from(row.milliseconds()) * 100.0 / f64::from(longest)).max(0.5);
    html! {
        tr {
            td {
                strong { (line(row.run.recipe)) ":" (line(row.run.task)) }
                @if let Some(outcome) = row.run.outcome.filter(|outcome| !outcome.is_success()) {
                    " " span class="badge bad" { (outcome.word()) }
                }
                @if row.critical { " " span class="badge critical" { "critical path" } }
            }
            td.number { (seconds(row.milliseconds())) }
            td.wide aria-hidden="true" {
                svg.bar viewBox="0 0 100 10" preserveAspectRatio="none" {
                    rect.part width=(format!("{width:.1}")) height="10" {}
                }
            }
            @if has_usage {
                td.number { @if let Some(usage) = row.usage { (duration(usage.cpu_seconds)) } }
                td.number { @if let Some(usage) = row.usage { (bytes(usage.peak_memory)) } }
            }
            td.number { (seconds(row.start)) }
        }
    }
}

/// Whether the job has anything to show in the timeline.
pub fn is_empty(job: &Job, tasks: &Tasks) -> bool {
    tasks.rows.is_empty() && job.summary.machine.is_empty()
}
