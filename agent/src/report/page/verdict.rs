//! The top of a job's page: the verdict in one sentence, what broke, whether this change broke it, and what to do.

use maud::{Markup, html};

use agent_objects::prices::usd;
use agent_types::error::Class;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;
use agent_types::words::bytes;

use super::job::{Job, TestChange};
use super::text::{count, heading, line, number, percent, web_link};
use crate::report::console::{Failure, bare_verdict, duration, short_commit};
use crate::report::cost::Cost;

/// How good or bad something is; the class of its element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Neutral,
    Warn,
    Bad,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Neutral => "neutral",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
        }
    }

    pub fn of(outcome: &Outcome) -> Tone {
        match outcome {
            Outcome::Passed => Tone::Good,
            Outcome::Skipped(_) => Tone::Neutral,
            Outcome::Flaky(_) | Outcome::NotRun(_) => Tone::Warn,
            Outcome::Failed(_) | Outcome::TimedOut(_) | Outcome::Cancelled(_) => Tone::Bad,
        }
    }
}

/// A sign for the eye; the word follows it.
pub fn sign(tone: Tone) -> Markup {
    let sign = match tone {
        Tone::Good => "✓",
        Tone::Neutral => "–",
        Tone::Warn => "!",
        Tone::Bad => "✗",
    };
    html! { span class=(format!("sign {}", tone.class())) aria-hidden="true" { (sign) } }
}

pub struct Verdict {
    pub tone: Tone,
    pub word: &'static str,
    pub sentence: String,
}

impl Verdict {
    pub fn of(job: &Job) -> Verdict {
        let (word, about) = bare_verdict(job.summary, &job.failures);
        let tone = match word {
            "PASSED" if job.totals.flaky > 0 => Tone::Warn,
            "PASSED" => Tone::Good,
            "NOT RUN" => Tone::Warn,
            _ => Tone::Bad,
        };
        let sentence = match word {
            "PASSED" => passed(job),
            "FAILED" => failed(job).unwrap_or(about),
            "NOT RUN" => format!("Not everything ran: {about}"),
            "TIMED OUT" => format!("The time was over: {about}"),
            "CANCELLED" => format!("The job was stopped: {about}"),
            "INTERRUPTED" => format!("The job did not end: {about}"),
            _ => format!("No verdict on the layer: {about}"),
        };
        Verdict { tone, word, sentence }
    }

    pub fn badge(&self) -> Markup {
        html! { span class=(format!("badge {}", self.tone.class())) { (self.word) } }
    }
}

fn passed(job: &Job) -> String {
    let totals = &job.totals;
    let mut text = match totals.passed {
        1 => "The only test passed".to_owned(),
        passed => format!("{} tests passed", number(passed)),
    };
    for (tests, word) in [(totals.flaky, "flaky"), (totals.skipped, "skipped")] {
        if tests > 0 {
            text += &format!(", {} {word}", number(tests));
        }
    }
    // Only `[report] fail_on = "new"` passes with failures.
    let before = job.failures.len() as u64;
    if before > 0 {
        let failed = if before == 1 { "1 test failed".to_owned() } else { format!("{before} tests failed") };
        text += &format!("; {failed} before this change, too, and nothing new is broken");
    }
    text + "."
}

/// `None` if no failure explains it.
fn failed(job: &Job) -> Option<String> {
    let new: Vec<&Failure> = job.failures_with(Some(TestChange::New)).map(|(_, failure)| failure).collect();
    let before = job.failures_with(Some(TestChange::Before)).count();
    let all: Vec<&Failure> = job.failures.iter().collect();
    Some(match (names(&new), before) {
        (Some(new), 0) => format!("This change breaks {new}."),
        (Some(new), before) => format!("This change breaks {new}; {before} failed before it, too."),
        (None, before) if before > 0 && before == all.len() => {
            format!("{} failed before this change, too; nothing new is broken.", names(&all)?)
        }
        (None, _) => format!("{} failed.", names(&all)?),
    })
}

/// `zlib:do_compile and 2 more`.
fn names(failures: &[&Failure]) -> Option<String> {
    let first = line(&failures.first()?.name);
    Some(match failures.len() - 1 {
        0 => first,
        more => format!("{first} and {more} more"),
    })
}

/// Failures that the top names.
const NAMES: usize = 3;

pub fn header(job: &Job, verdict: &Verdict) -> Markup {
    html! {
        p.about { (about(job)) }
        (heading(job.level(), &html! { (verdict.badge()) " " (verdict.sentence) }))
        dl.facts {
            @if !job.failures.is_empty() {
                dt { "What broke" }
                dd { (what_broke(job)) }
            }
            @if let Some(text) = this_change(job) {
                dt { "This change" }
                dd { (text) }
            }
            @if let Some(step) = next_step(job) {
                dt { "What to do" }
                dd { (step) }
            }
        }
        (stages(job))
        (numbers(job))
    }
}

fn about(job: &Job) -> Markup {
    let identity = &job.summary.job;
    html! {
        strong { (line(&identity.name)) }
        " on " strong { (line(&identity.release)) }
        @if !identity.machines.is_empty() { " for " strong { (line(&identity.machines.join(", "))) } }
        @if let Some(cell) = &identity.cell { ", cell " strong { (line(cell)) } }
        @match &identity.commit {
            Some(commit) => { ", commit " code { (short_commit(commit)) } },
            None => ", not in git",
        }
        @if identity.dirty { ", with uncommitted changes" }
        @if let Some(started) = job.summary.started {
            ", " (started.to_string().get(..16).unwrap_or_default().replace('T', " ")) " UTC"
        }
        @if let Some(url) = &identity.url { ", " (web_link(url, "the build's page")) }
    }
}

fn what_broke(job: &Job) -> Markup {
    let new = job.failures_with(Some(TestChange::New));
    let others = job.failures.iter().enumerate();
    let others = others.filter(|(_, failure)| job.change_of(&failure.id) != Some(TestChange::New));
    let all: Vec<(usize, &Failure)> = new.chain(others).collect();
    html! {
        @for (place, (index, failure)) in all.iter().take(NAMES).enumerate() {
            @if place > 0 { ", " }
            a href=(format!("#{}", job.element(&format!("failure-{index}")))) { (line(&failure.name)) }
        }
        @if all.len() > NAMES {
            " and "
            a href=(format!("#{}", job.element("failures"))) { (all.len() - NAMES) " more" }
        }
    }
}

/// Whether this change broke it. `None` for a job that passed and is compared with nothing.
fn this_change(job: &Job) -> Option<Markup> {
    let Some(comparison) = &job.comparison else {
        let unknown =
            "There is no earlier result to compare with, so it is not known which failures are new.";
        return (!job.failures.is_empty()).then(|| html! { (unknown) });
    };
    let numbers = [
        (comparison.new_failures.len(), "new failure", "bad"),
        (comparison.still_failing.len(), "failing before", ""),
        (comparison.fixed.len(), "fixed", "good"),
        (comparison.vanished.len(), "vanished", "warn"),
        (comparison.not_run.len(), "not run", "warn"),
        (comparison.newly_skipped.len(), "skipped now", "warn"),
        (comparison.new_cves.len(), "new CVE", "bad"),
        (comparison.flaky.len(), "flaky", "warn"),
    ];
    let words: Vec<Markup> = numbers
        .into_iter()
        .filter(|(tests, ..)| *tests > 0)
        .map(|(tests, word, class)| {
            let plural = if word.starts_with("new ") && tests > 1 { "s" } else { "" };
            html! { strong class=(class) { (number(tests as u64)) " " (word) (plural) } }
        })
        .collect();
    Some(html! {
        @if words.is_empty() { "Changes the outcome of no test" }
        @for (place, word) in words.iter().enumerate() {
            @if place > 0 { ", " }
            (word)
        }
        @if let Some(base) = &job.summary.base {
            ", compared with " code { (short_commit(&base.commit)) }
            @match base.distance {
                0 => ", where the change began",
                distance => { ", " (count(distance, "commit")) " before the change began" },
            }
        }
        "."
        @if job.summary.base.as_ref().is_some_and(|base| base.truncated) {
            " That result is too large to compare all of it; findings are not compared."
        }
    })
}

/// What to do now. `None` if there is nothing to do.
fn next_step(job: &Job) -> Option<Markup> {
    let summary = job.summary;
    let decisive = summary.errors.iter().find(|error| error.error.class.exit_status() == summary.exit);
    if let Some(hint) = decisive.and_then(|error| error.error.hint.as_ref()) {
        return Some(html! { (sentence(hint)) });
    }
    match summary.exit {
        _ if !summary.complete => Some(html! { "Run the job again." }),
        ExitStatus::Passed => None,
        ExitStatus::Failed => Some(fix(job)),
        ExitStatus::OutOfTime => Some(html! {
            "See in the timeline what took the time. Raise " code { "[limits] job" } ", or run the job again."
        }),
        ExitStatus::Cancelled => Some(html! { "Run the job again." }),
        ExitStatus::Usage => Some(html! { "Fix the manifest or the command line, and run the job again." }),
        ExitStatus::Machine => {
            Some(html! { "Run " code { "build-agent doctor" } " on the machine, and fix what it finds." })
        }
        ExitStatus::Upstream => Some(html! { "Run the job again when the server can be reached." }),
        ExitStatus::Internal => Some(html! { "Please report it with events.jsonl and the logs." }),
    }
}

fn fix(job: &Job) -> Markup {
    let new = job.failures_with(Some(TestChange::New)).next();
    let Some((index, failure)) = new.or_else(|| job.failures.iter().enumerate().next()) else {
        return html! { "Read the reasons of the stages below." };
    };
    let mut findings = job.summary.findings.iter();
    let name = |stage, unit: &str| format!("{stage}.{unit}") == failure.id.suite;
    let finding = findings.find(|finding| {
        finding.level == agent_types::events::Level::Error && name(finding.unit.stage, &finding.unit.name)
    });
    let hint = finding.filter(|_| failure.id.class.is_empty()).and_then(|finding| finding.hint.as_ref());
    let address = format!("#{}", job.element(&format!("failure-{index}")));
    html! {
        @match hint {
            Some(hint) => { (sentence(hint)) " " a href=(address) { "Details" } "." },
            None => { "Read the " a href=(address) { "log lines of " (line(&failure.name)) } ", fix it, and push again." },
        }
    }
}

/// A hint as a sentence.
fn sentence(hint: &str) -> String {
    let hint = line(hint);
    let mut chars = hint.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if hint.ends_with(['.', '`', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

fn stages(job: &Job) -> Markup {
    html! {
        ol.stages aria-label="Stages" {
            @for stage in job.summary.stages.iter().filter(|stage| stage.stage != Stage::Report) {
                @let tone = stage.outcome.as_ref().map_or(Tone::Neutral, Tone::of);
                li class=(tone.class()) {
                    (sign(tone)) " "
                    span.name { (stage.stage.name()) } " "
                    span.word { (stage.outcome.as_ref().map_or("running", Outcome::word)) }
                    @if let Some(seconds) = stage.seconds { " " span.time { (duration(seconds)) } }
                    @if let Some(why) = stage.outcome.as_ref().and_then(Outcome::reason) {
                        span.why { (line(why.lines().next().unwrap_or_default())) }
                    }
                }
            }
        }
    }
}

/// The numbers of a job at one glance.
fn numbers(job: &Job) -> Markup {
    let (summary, totals) = (job.summary, &job.totals);
    let failed = totals.failed + totals.timed_out + totals.cancelled + totals.errors;
    let tests = match failed {
        0 => format!("{} passed", number(totals.passed)),
        failed => format!("{} failed, {} passed", number(failed), number(totals.passed)),
    };
    let findings = match (totals.finding_errors, totals.finding_warnings) {
        (0, 0) => "none".to_owned(),
        (0, warnings) => count(warnings, "warning"),
        (errors, 0) => count(errors, "error"),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    let mut all = vec![("Duration", duration(summary.seconds)), ("Tests", tests), ("Findings", findings)];
    if totals.tasks > 0 {
        all.push(("BitBake tasks", number(totals.tasks)));
    }
    let sstate = super::cache::sstate(summary);
    if sstate.wanted > 0 {
        all.push((
            "Shared state",
            format!("{} found", percent(sstate.local + sstate.mirrors, sstate.wanted)),
        ));
    }
    if let Some(cost) = Cost::of_job(summary) {
        all.push(("Cost", usd(cost.usd)));
    }
    if totals.artifacts > 0 {
        all.push(("Artifacts", format!("{}, {}", number(totals.artifacts), bytes(totals.artifact_bytes))));
    }
    html! {
        dl.numbers {
            @for (name, value) in all {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// The word for the class of an error.
pub fn class_word(class: Class) -> &'static str {
    class.exit_status().meaning()
}
