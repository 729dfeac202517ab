//! `report.html`: the result for people, as one file without a network. The verdict is first; then what failed, what
//! changed, and everything else that a person may ask for.

mod artifacts;
mod cache;
mod change;
mod document;
mod failures;
mod findings;
mod job;
mod matrix;
mod sources;
mod tasks;
mod test_table;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod text;
mod timeline;
mod verdict;

use std::path::Path;

use maud::{Markup, html};

use agent_types::error::Result;

use super::critical_path::critical_path;
use super::output_file::replace;
use super::summary::Summary;
use job::{Job, Section};
use tasks::Tasks;
use text::{heading, number};
use verdict::Verdict;

/// The page of one job.
pub fn render(summary: &Summary) -> String {
    render_job(&Job::new(summary, None))
}

pub fn write(summary: &Summary, out: &Path) -> Result<()> {
    replace(&out.join("report.html"), render(summary).as_bytes())
}

/// The page of several jobs of one change: a table of machines and releases, then each job.
pub fn render_all(summaries: &[Summary]) -> String {
    if let [summary] = summaries {
        return render(summary);
    }
    let jobs = summaries.iter().enumerate().map(|(place, summary)| {
        let job = Job::new(summary, Some(place + 1));
        let verdict = Verdict::of(&job);
        (job, verdict)
    });
    let jobs: Vec<(Job, Verdict)> = jobs.collect();
    let not_passed = jobs.iter().filter(|(_, verdict)| verdict.word != "PASSED").count();
    let body = html! {
        a.skip href="#jobs" { "Skip to the jobs" }
        header.top { (matrix::header(&jobs)) }
        main id="jobs" {
            @for (job, verdict) in &jobs {
                article.job id=(job.element("top")) {
                    (verdict::header(job, verdict))
                    details open[verdict.word != "PASSED"] {
                        summary { "All about this job" }
                        (sections(job))
                    }
                }
            }
        }
    };
    document::document(&format!("{not_passed} of {} jobs did not pass", jobs.len()), &body)
}

fn render_job(job: &Job) -> String {
    let verdict = Verdict::of(job);
    let body = html! {
        a.skip href="#report" { "Skip to the report" }
        header.top id="top" { (verdict::header(job, &verdict)) }
        main id="report" { (sections(job)) }
    };
    let identity = &job.summary.job;
    let title = format!("{}: {} on {}: {}", verdict.word, identity.name, identity.release, verdict.sentence);
    document::document(&title, &body)
}

/// The parts of a job in the order in which people ask.
fn sections(job: &Job) -> Markup {
    let tasks = Tasks::of(job.summary, &critical_path(job.summary));
    let sections = [
        failures::section(job),
        findings::section(job),
        change::section(job),
        test_table::section(job),
        timeline::section(job, &tasks),
        tasks::slowest_section(&tasks),
        cache::section(job),
        artifacts::section(job),
        Some(sources::section(job)),
    ];
    let sections: Vec<Section> = sections.into_iter().flatten().collect();
    html! {
        nav aria-label=(navigation_label(job)) {
            @for section in &sections {
                a href=(format!("#{}", job.element(section.name))) {
                    (section.title)
                    @if let Some(count) = section.count.filter(|count| *count > 0) { " " span.count { (number(count)) } }
                }
            }
        }
        @for section in &sections {
            section id=(job.element(section.name)) {
                (heading(job.level() + 1, &html! { (section.title) }))
                (section.body)
            }
        }
    }
}

/// Different for each job of a page.
fn navigation_label(job: &Job) -> String {
    match job.level() {
        1 => "Sections".to_owned(),
        _ => format!("Sections of {}", job.element("top")),
    }
}
