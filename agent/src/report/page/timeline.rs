//! The timeline: when each task ran, and what the machine did. The script draws it from compact columns of numbers;
//! 40,000 tasks take about 1 MB.

use std::collections::HashMap;

use maud::{Markup, html};
use serde::Serialize;

use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_types::words::bytes;

use super::document::data_block;
use super::job::{Job, Section};
use super::tasks::{Tasks, is_empty};
use super::text::{count, line, number};
use crate::report::console::duration;
use crate::report::summary::{MachineAt, Summary, UnitResult};

/// Points of a curve.
const POINTS: usize = 1500;
/// Names of recipes and tasks in all, in bytes.
const NAME_BYTES: usize = 1 << 20;

pub fn section(job: &Job, tasks: &Tasks) -> Option<Section> {
    if is_empty(job, tasks) {
        return None;
    }
    let summary = job.summary;
    let machine = machine(summary);
    let help = job.element("timeline-help");
    let body = html! {
        p { (sentence(summary, tasks)) }
        @if let Some(text) = machine_sentence(machine) { p { (text) } }
        @if tasks.omitted > 0 { p.note { (count(tasks.omitted, "task")) " without a place in the timeline." } }
        div.timeline {
            form.tools hidden {
                button type="button" data-do="in" aria-label="Zoom in" { "+" }
                button type="button" data-do="out" aria-label="Zoom out" { "−" }
                button type="button" data-do="all" { "Whole job" }
                label { "Find recipe " input type="search" name="text" autocomplete="off" spellcheck="false"; }
            }
            @if !tasks.rows.is_empty() { (legend(tasks)) }
            p.hidden id=(&help) {
                "Arrow keys select tasks: left and right by time, up and down by lane. Plus and minus zoom, 0 shows the whole job."
            }
            div.chart tabindex="0" role="application" aria-roledescription="timeline" aria-label="Timeline of the tasks" aria-describedby=(help) hidden {
                canvas.lanes aria-hidden="true" {}
                canvas.curves aria-hidden="true" {}
                div.tip aria-hidden="true" hidden {}
            }
            p class="hidden live" role="status" {}
            noscript { p.note { "The timeline needs JavaScript." } }
            (data_block("timeline-data", &Data::of(summary, tasks)))
        }
    };
    Some(Section { name: "timeline", title: "Timeline", count: None, body })
}

fn sentence(summary: &Summary, tasks: &Tasks) -> Markup {
    let setscene = tasks.rows.iter().filter(|row| row.is_setscene()).count();
    let critical: Vec<_> = tasks.rows.iter().filter(|row| row.critical).collect();
    let chain: u64 = critical.iter().map(|row| u64::from(row.milliseconds())).sum();
    html! {
        @if tasks.rows.is_empty() {
            "No BitBake task ran in " (duration(summary.seconds)) "."
        } @else {
            (count(tasks.rows.len() as u64, "task")) " in " (duration(summary.seconds)) ", at most "
            (number(tasks.parallel() as u64)) " at the same time"
            @if setscene > 0 { "; " (number(setscene as u64)) " only unpacked shared state" }
            "."
            @if !critical.is_empty() {
                " The critical path has " (count(critical.len() as u64, "task")) " and takes "
                (duration(chain as f64 / 1000.0)) ": more machines do not make the build faster than that."
            }
        }
    }
}

/// The samples before the report stage.
fn machine(summary: &Summary) -> &[MachineAt] {
    let end = (summary.seconds.max(0.0) * 1000.0).round() as u64;
    let before = summary.machine.partition_point(|at| at.milliseconds <= end);
    &summary.machine[..before]
}

/// `Peak memory 61.2 GiB of 72.0 GiB after 1h02m: 9 × cc1plus (52.0 GiB).`
fn machine_sentence(machine: &[MachineAt]) -> Option<String> {
    let peak = machine.iter().max_by_key(|at| at.sample.memory_used)?;
    let mut text = format!("Peak memory {}", bytes(peak.sample.memory_used));
    if peak.sample.memory_limit > 0 {
        text += &format!(" of {}", bytes(peak.sample.memory_limit));
    }
    text += &format!(" after {}", duration(peak.milliseconds as f64 / 1000.0));
    if let Some(largest) = peak.sample.largest.first() {
        text += &format!(": {} × {} ({})", largest.processes, line(&largest.name), bytes(largest.memory));
    }
    if let Some(least) = machine.iter().map(|at| at.sample.disk_free).min() {
        text += &format!("; at least {} of disk space free", bytes(least));
    }
    Some(text + ".")
}

/// Kinds of tasks: class of the colour, and the text. The script derives the kind of a task from its name.
const KINDS: [(&str, &str); 7] = [
    ("fetch", "fetch, unpack"),
    ("configure", "configure"),
    ("compile", "compile"),
    ("install", "install"),
    ("package", "package"),
    ("image", "image"),
    ("other", "other"),
];

fn legend(tasks: &Tasks) -> Markup {
    html! {
        ul.legend aria-label="Colours" hidden {
            @for (class, text) in KINDS { li { span class=(format!("swatch k-{class}")) {} (text) } }
            li { span class="swatch k-setscene" {} "from shared state" }
            li { span class="swatch k-failed" {} "failed" }
            @if tasks.rows.iter().any(|row| row.critical) {
                li { span class="swatch k-critical" {} "critical path" }
            }
        }
    }
}

/// Columns with an entry for each task. Times are in hundredths of a second.
#[derive(Serialize)]
struct Data {
    /// The end of the job.
    end: u32,
    recipes: Vec<String>,
    tasks: Vec<String>,
    outcomes: Vec<String>,
    units: Vec<String>,
    /// Recipe, and task.
    r: Vec<u32>,
    t: Vec<u32>,
    /// Start, as the difference from the task before; and duration.
    s: Vec<u32>,
    d: Vec<u32>,
    /// CPU time in tenths of a second, and memory in MiB. Empty if nothing is known of any task.
    c: Vec<u32>,
    m: Vec<u32>,
    /// Pairs of a row and the outcome, of tasks that did not pass.
    o: Vec<(u32, u32)>,
    /// Pairs of a unit and the number of rows that follow each other.
    u: Vec<(usize, u32)>,
    /// Rows on the critical path.
    critical: Vec<u32>,
    /// Name, start and duration.
    stages: Vec<(&'static str, u32, u32)>,
    machine: Curves,
}

impl Data {
    fn of(summary: &Summary, tasks: &Tasks) -> Data {
        let mut data = Data {
            end: hundredths(summary.seconds),
            recipes: Vec::new(),
            tasks: Vec::new(),
            outcomes: Vec::new(),
            units: Vec::new(),
            r: Vec::new(),
            t: Vec::new(),
            s: Vec::new(),
            d: Vec::new(),
            c: Vec::new(),
            m: Vec::new(),
            o: Vec::new(),
            u: Vec::new(),
            critical: Vec::new(),
            stages: stages(summary),
            machine: Curves::of(machine(summary)),
        };
        let (mut recipes, mut names, mut outcomes) = (Table::default(), Table::default(), Table::default());
        let has_usage = tasks.rows.iter().any(|row| row.usage.is_some());
        let mut last = 0;
        for (number, row) in (0_u32..).zip(&tasks.rows) {
            if recipes.bytes + names.bytes > NAME_BYTES {
                break;
            }
            data.r.push(recipes.place(row.run.recipe));
            data.t.push(names.place(row.run.task));
            let (start, end) = (row.start / 10, row.end / 10);
            data.s.push(start - last);
            data.d.push(end - start);
            last = start;
            if has_usage {
                let used = row.usage;
                data.c.push(used.map_or(0, |used| (used.cpu_seconds.max(0.0) * 10.0).round() as u32));
                data.m.push(used.map_or(0, |used| (used.peak_memory >> 20) as u32));
            }
            match row.run.outcome {
                Some(Outcome::Passed) => {}
                Some(outcome) => data.o.push((number, outcomes.place(outcome.word()))),
                None => data.o.push((number, outcomes.place("running"))),
            }
            match data.u.last_mut() {
                Some((unit, rows)) if *unit == row.run.unit => *rows += 1,
                _ => data.u.push((row.run.unit, 1)),
            }
            if row.critical {
                data.critical.push(number);
            }
        }
        // Most jobs have one build.
        if data.u.iter().any(|(unit, _)| *unit != data.u[0].0) {
            let name = |unit: &UnitResult| line(&format!("{} / {}", unit.stage, unit.name));
            let mut units: Vec<usize> = data.u.iter().map(|(unit, _)| *unit).collect();
            units.sort_unstable();
            units.dedup();
            let names = units.iter().map(|unit| summary.units.get(*unit).map(name).unwrap_or_default());
            data.units = names.collect();
            for (unit, _) in &mut data.u {
                *unit = units.binary_search(unit).unwrap_or_default();
            }
        }
        (data.recipes, data.tasks, data.outcomes) = (recipes.names, names.names, outcomes.names);
        data
    }
}

/// Names, each once.
#[derive(Default)]
struct Table<'a> {
    names: Vec<String>,
    bytes: usize,
    places: HashMap<&'a str, u32>,
}

impl<'a> Table<'a> {
    fn place(&mut self, name: &'a str) -> u32 {
        *self.places.entry(name).or_insert_with(|| {
            let shown = line(name);
            self.bytes += shown.len();
            self.names.push(shown);
            self.names.len() as u32 - 1
        })
    }
}

/// The stages follow each other. The report stage is not over when the page is made.
fn stages(summary: &Summary) -> Vec<(&'static str, u32, u32)> {
    let mut from = 0.0;
    let stages = summary.stages.iter().filter(|stage| stage.stage != Stage::Report).filter_map(|stage| {
        let start = from;
        from += stage.seconds?.max(0.0);
        Some((stage.stage.name(), hundredths(start), hundredths(from) - hundredths(start)))
    });
    stages.collect()
}

fn hundredths(seconds: f64) -> u32 {
    (seconds.max(0.0) * 100.0).round() as u32
}

/// The machine over time.
#[derive(Serialize)]
struct Curves {
    /// Seconds since the job's start.
    t: Vec<u64>,
    /// Percent of all processors.
    cpu: Vec<u32>,
    /// MiB.
    memory: Vec<u64>,
    /// MiB; 0 if nothing is known.
    limit: u64,
}

impl Curves {
    /// With too many samples, the largest of several.
    fn of(machine: &[MachineAt]) -> Curves {
        let mut curves = Curves { t: Vec::new(), cpu: Vec::new(), memory: Vec::new(), limit: 0 };
        for part in machine.chunks(machine.len().div_ceil(POINTS).max(1)) {
            let Some(first) = part.first() else { continue };
            let cpu = part.iter().map(|at| at.sample.cpu_percent).fold(0.0, f64::max);
            let memory = part.iter().map(|at| at.sample.memory_used).max().unwrap_or(0);
            curves.t.push(first.milliseconds / 1000);
            curves.cpu.push(cpu.clamp(0.0, 100.0).round() as u32);
            curves.memory.push(memory >> 20);
            curves.limit = curves.limit.max(first.sample.memory_limit >> 20);
        }
        curves
    }
}
