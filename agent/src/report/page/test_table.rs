//! The tests of the job as a table. The page has the first rows; its script finds the others in the page's data.

use std::collections::HashMap;

use maud::{Markup, html};
use serde::Serialize;

use agent_types::base_result::{TASK, TestId};
use agent_types::outcome::Outcome;

use super::document::data_block;
use super::job::{Job, Section, TestChange};
use super::text::{line, number};
use super::verdict::{Tone, sign};
use crate::report::console::duration;
use crate::report::totals::{Status, Test};

/// Rows in the page itself.
const ROWS: usize = 100;
/// Rows in the data, and bytes of their names. A suite of tests on a device has 20,000.
const KEPT: usize = 30_000;
const NAME_BYTES: usize = 1 << 20;

pub fn section(job: &Job) -> Option<Section> {
    let rows = rows(job);
    if rows.is_empty() {
        return None;
    }
    let data = Data::of(&rows);
    let omitted = rows.len() - data.rows.len();
    let body = html! {
        div.tests {
            form.tools hidden {
                label { "Find " input type="search" name="text" autocomplete="off" spellcheck="false"; }
                label {
                    "Show "
                    select name="filter" {
                        @for (value, text, tests) in filters(&rows) {
                            option value=(value) { (text) " (" (number(tests as u64)) ")" }
                        }
                    }
                }
            }
            p.found role="status" {}
            div.scroll tabindex="0" role="group" aria-label="Tests" {
                table {
                    caption.hidden { "Tests" }
                    thead {
                        tr {
                            th scope="col" { "Outcome" } th scope="col" { "Test" } th scope="col" { "Step" }
                            th.number scope="col" { "Time" }
                        }
                    }
                    tbody { @for row in rows.iter().take(ROWS) { (table_row(row)) } }
                }
            }
            p.more { @if rows.len() > ROWS { "The first " (ROWS) " of " (number(rows.len() as u64)) " tests." } }
            button.show type="button" hidden { "Show more" }
            @if omitted > 0 { p { (number(omitted as u64)) " tests are only in result.json." } }
            (data_block("tests-data", &data))
        }
    };
    Some(Section { name: "tests", title: "Tests", count: Some(rows.len() as u64), body })
}

struct Row<'a> {
    suite: &'a str,
    test: &'a Test<'a>,
    word: &'static str,
    tone: Tone,
    change: Option<TestChange>,
    /// Of its details on the page.
    failure: Option<String>,
}

/// What needs a person's eyes comes first.
fn rows<'a>(job: &'a Job) -> Vec<Row<'a>> {
    let mut failures: HashMap<&TestId, usize> = HashMap::new();
    let mut builds: HashMap<&str, usize> = HashMap::new();
    for (index, failure) in job.failures.iter().enumerate() {
        failures.entry(&failure.id).or_insert(index);
        if failure.id.class == TASK {
            builds.entry(&failure.id.suite).or_insert(index);
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for suite in &job.suites {
        for test in &suite.tests {
            let id = TestId { suite: suite.name.clone(), class: test.class.into(), name: test.name.into() };
            let (word, tone) = match test.status {
                Status::Outcome(outcome) => (outcome.word(), Tone::of(outcome)),
                Status::Error(_) => ("error", Tone::Bad),
            };
            // The failed tasks of a build stand for it.
            let task = failures.get(&id).or_else(|| builds.get(&*suite.name).filter(|_| test.is_unit()));
            let failure = task.copied();
            let of_task = || job.change_of(&job.failures.get(failure?)?.id);
            let change = job.change_of(&id).or_else(of_task);
            let failure = failure.map(|index| job.element(&format!("failure-{index}")));
            rows.push(Row { suite: &suite.name, test, word, tone, change, failure });
        }
    }
    rows.sort_by_key(|row| {
        let change = match row.change {
            Some(TestChange::New) => 0,
            None => 1,
            Some(TestChange::Before | TestChange::Flaky) => 2,
            Some(TestChange::Fixed) => 3,
        };
        let tone = match row.tone {
            Tone::Bad => 0,
            Tone::Warn => 1,
            Tone::Good | Tone::Neutral if row.change == Some(TestChange::Fixed) => 2,
            Tone::Good | Tone::Neutral => 3,
        };
        (tone, change)
    });
    rows
}

/// What the page can show: value, text, and number of tests. The script knows the same values.
fn filters(rows: &[Row]) -> Vec<(&'static str, &'static str, usize)> {
    let count = |wanted: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| wanted(row)).count();
    let all = [
        ("all", "all", rows.len()),
        ("bad", "not passed", count(&|row| matches!(row.tone, Tone::Bad | Tone::Warn))),
        ("new", "new failures", count(&|row| row.change == Some(TestChange::New))),
        ("before", "failing before", count(&|row| row.change == Some(TestChange::Before))),
        ("fixed", "fixed", count(&|row| row.change == Some(TestChange::Fixed))),
        ("flaky", "flaky", count(&|row| is_flaky(row))),
        ("skipped", "skipped", count(&|row| row.tone == Tone::Neutral)),
        ("passed", "passed", count(&|row| row.tone == Tone::Good)),
    ];
    all.into_iter().filter(|(value, _, tests)| *value == "all" || *tests > 0).collect()
}

fn is_flaky(row: &Row) -> bool {
    row.change == Some(TestChange::Flaky) || matches!(row.test.status, Status::Outcome(Outcome::Flaky(_)))
}

fn change_word(change: Option<TestChange>) -> &'static str {
    match change {
        None => "",
        Some(TestChange::New) => "new",
        Some(TestChange::Before) => "before",
        Some(TestChange::Fixed) => "fixed",
        Some(TestChange::Flaky) => "flaky",
    }
}

/// The script makes rows of the same form.
fn table_row(row: &Row) -> Markup {
    let word = change_word(row.change);
    html! {
        tr {
            td { (sign(row.tone)) " " (row.word) @if !word.is_empty() { " " span class=(format!("change {word}")) { (word) } } }
            td {
                @match &row.failure {
                    Some(failure) => a href=(format!("#{failure}")) { (name(row.test)) },
                    None => (name(row.test)),
                }
            }
            td { (line(row.suite)) }
            td.number { @if let Some(seconds) = row.test.seconds { (duration(seconds)) } }
        }
    }
}

fn name(test: &Test) -> String {
    match test.class {
        "" => line(test.name),
        class => line(&format!("{class}.{}", test.name)),
    }
}

/// The rows for the script.
#[derive(Serialize)]
struct Data<'a> {
    suites: Vec<String>,
    /// Word and class.
    outcomes: Vec<(&'a str, &'a str)>,
    changes: Vec<&'a str>,
    /// Name, suite, outcome, change, time, and the id of the details.
    rows: Vec<(String, usize, usize, usize, String, &'a str)>,
}

impl<'a> Data<'a> {
    fn of(rows: &'a [Row]) -> Data<'a> {
        let mut data =
            Data { suites: Vec::new(), outcomes: Vec::new(), changes: Vec::new(), rows: Vec::new() };
        let mut suites: HashMap<&str, usize> = HashMap::new();
        let mut bytes = 0;
        for row in rows.iter().take(KEPT) {
            let name = name(row.test);
            bytes += name.len();
            if bytes > NAME_BYTES {
                break;
            }
            let suite = *suites.entry(row.suite).or_insert_with(|| {
                data.suites.push(line(row.suite));
                data.suites.len() - 1
            });
            let outcome = place(&mut data.outcomes, (row.word, row.tone.class()));
            let change = place(&mut data.changes, change_word(row.change));
            let time = row.test.seconds.map(duration).unwrap_or_default();
            data.rows.push((name, suite, outcome, change, time, row.failure.as_deref().unwrap_or_default()));
        }
        data
    }
}

fn place<T: PartialEq>(table: &mut Vec<T>, wanted: T) -> usize {
    table.iter().position(|known| *known == wanted).unwrap_or_else(|| {
        table.push(wanted);
        table.len() - 1
    })
}
