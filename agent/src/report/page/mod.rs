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
pub(super) mod tests;
mod text;
mod timeline;
mod verdict;

use std::path::{Component, Path, PathBuf};

use maud::{Markup, html};

use agent_types::error::Result;

use super::critical_path::critical_path;
use super::output_file::replace;
use super::summary::Summary;
pub use document::plain_document;
pub use text::{count, encoded, line};

use job::{Job, Section};
use tasks::Tasks;
use text::{heading, number};
use verdict::{Tone, Verdict};

/// The page of one job.
fn render(summary: &Summary) -> String {
    render_job(&Job::new(summary, None))
}

pub fn write(summary: &Summary, out: &Path) -> Result<()> {
    replace(&out.join("report.html"), render(summary).as_bytes())
}

/// Writes the page of several jobs of one change: a table of machines and releases, then each job. With each job the
/// directory of its files.
pub fn write_all(jobs: &[(&Summary, &Path)], out: &Path) -> Result<()> {
    match jobs {
        [(summary, _)] => write(summary, out),
        jobs => {
            let jobs: Vec<(&Summary, PathBuf)> =
                jobs.iter().map(|(summary, directory)| (*summary, way(out, directory))).collect();
            replace(&out.join("report.html"), render_all(&jobs).as_bytes())
        }
    }
}

/// The relative path from one directory to another.
fn way(from: &Path, to: &Path) -> PathBuf {
    let absolute = |path: &Path| fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (from, to) = (absolute(from), absolute(to));
    let same = from.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(to.components().skip(same)).collect()
}

fn render_all(summaries: &[(&Summary, PathBuf)]) -> String {
    let jobs = summaries.iter().enumerate().map(|(place, (summary, directory))| {
        let job = Job::new(summary, Some(place + 1)).in_directory(directory);
        let verdict = Verdict::of(&job);
        (job, verdict)
    });
    let jobs: Vec<(Job, Verdict)> = jobs.collect();
    let not_passed = jobs.iter().filter(|(_, verdict)| verdict.word != "PASSED").count();
    let body = html! {
        a.skip href="#jobs" { "Skip to the jobs" }
        header.top { (matrix::header(&jobs)) }
        main id="jobs" {
            // What needs a person's eyes comes first.
            @let (bad, good): (Vec<_>, Vec<_>) = jobs.iter().partition(|(_, verdict)| verdict.tone != Tone::Good);
            @for (job, verdict) in bad.into_iter().chain(good) {
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
