//! The top of a page of several jobs: machines × releases.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::job::{Job, TestChange};
use super::text::{count, line};
use super::verdict::{Tone, Verdict, sign};
use crate::report::merged;
use crate::report::verdict::worst_of;

/// The worst verdict, and all verdicts as a table.
pub fn header(jobs: &[(Job, Verdict)]) -> Markup {
    let names: BTreeSet<&str> = jobs.iter().map(|(job, _)| job.summary.job.name.as_str()).collect();
    let not_passed = jobs.iter().filter(|(_, verdict)| verdict.word != "PASSED").count();
    html! {
        p.about {
            @for (place, name) in names.iter().enumerate() { @if place > 0 { ", " } strong { (line(name)) } }
            " on " (count(jobs.len() as u64, "configuration"))
        }
        @if let Some(worst) = worst(jobs) {
            h1 {
                (worst.badge()) " "
                @match not_passed {
                    0 => "All of them passed.",
                    1 => { "1 of " (jobs.len()) " did not pass." },
                    several => { (several) " of " (jobs.len()) " did not pass." },
                }
            }
        }
        (table(jobs))
    }
}

/// That of the job which decides the exit status of all of them; of several the first that is not simply good.
fn worst<'a>(jobs: &'a [(Job, Verdict)]) -> Option<&'a Verdict> {
    let exit = worst_of(jobs.iter().map(|(job, _)| job.summary.exit))?;
    let decisive = jobs.iter().filter(|(job, _)| job.summary.exit == exit).map(|(_, verdict)| verdict);
    decisive.min_by_key(|verdict| verdict.tone == Tone::Good)
}

fn table(jobs: &[(Job, Verdict)]) -> Markup {
    let release = |job: &Job| job.summary.job.release.clone();
    let mut releases: Vec<String> = Vec::new();
    let mut rows: Vec<String> = Vec::new();
    for (job, _) in jobs {
        for (table, name) in [(&mut releases, release(job)), (&mut rows, row_name(job, jobs))] {
            if !table.contains(&name) {
                table.push(name);
            }
        }
    }
    html! {
        div.scroll tabindex="0" role="group" aria-label="Verdicts by machine and release" {
            table.matrix {
                caption.hidden { "Verdicts by machine and release" }
                thead {
                    tr {
                        th scope="col" { "Machine" }
                        @for name in &releases { th scope="col" { (line(name)) } }
                    }
                }
                tbody {
                    @for row in &rows {
                        tr {
                            th scope="row" { (line(row)) }
                            @for column in &releases {
                                td {
                                    @for (job, verdict) in jobs {
                                        @if release(job) == *column && row_name(job, jobs) == *row {
                                            (cell(job, verdict))
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell(job: &Job, verdict: &Verdict) -> Markup {
    let new = job.failures_with(Some(TestChange::New)).count();
    html! {
        a class=(format!("cell {}", verdict.tone.class())) href=(format!("#{}", job.element("top"))) {
            (sign(verdict.tone)) " " (verdict.word.to_lowercase())
            @if !job.failures.is_empty() { " (" (job.failures.len()) @if new > 0 { ", " (new) " new" } ")" }
        }
    }
}

/// The machines of the job, or its cell; with the name of the layer if the page is about several.
fn row_name(job: &Job, jobs: &[(Job, Verdict)]) -> String {
    let name = &job.summary.job.name;
    let configuration = merged::configuration(&job.summary.job, jobs.iter().map(|(job, _)| &job.summary.job));
    let same = jobs.iter().all(|(other, _)| other.summary.job.name == *name);
    match (same, configuration.is_empty()) {
        (_, true) => name.clone(),
        (true, false) => configuration,
        (false, false) => format!("{name}, {configuration}"),
    }
}
