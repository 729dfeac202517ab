//! The end of the console output: in ten seconds a person sees what broke and why.

use std::path::Path;

use crate::report::cache::counts_by_name;
use crate::report::comparison::Comparison;
use crate::report::cost::Cost;
use crate::report::summary::{StageError, StageResult, Summary, TierResult};
use crate::report::totals::{Suite, Totals, suites};
use agent_objects::prices::usd;
use agent_types::events::{JobIdentity, Level};
use agent_types::outcome::{ExitStatus, Outcome};

use super::failures::{Failure, failures};
use super::format::{Style, duration, finding_line, level_word, short_commit};
use agent_types::sanitize::{sanitize, sanitize_line};
use agent_types::words::{bytes, count};

/// Failures that are shown with the lines that matter; the others only by name.
const IN_FULL: usize = 3;
/// Names, warnings or findings of a list before it is cut short.
const NAMES: usize = 10;

/// The closing text of a job, with line ends: the verdict, the stages, what failed and why, and
/// where everything lies. `out` is the output directory as people should read it.
pub fn final_summary(summary: &Summary, out: &Path, style: Style) -> String {
    let suites = suites(summary);
    let failures = failures(summary, &suites);
    let mut text = Text::default();
    text.line(verdict(summary, &failures, style));
    text.paragraph(summary.stages.iter().map(|stage| stage_line(stage, &suites, style)));
    for (index, failure) in failures.iter().take(IN_FULL).enumerate() {
        text.paragraph(failure_lines(index + 1, failure, out, style));
    }
    text.paragraph(more_failures(&failures));
    for error in summary.errors.iter().take(NAMES) {
        text.paragraph(error_lines(error, style));
    }
    text.paragraph(warnings(summary, style));
    text.paragraph(comparison(summary, style));
    text.paragraph(facts(summary, out));
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: String) {
        self.0.push_str(&line);
        self.0.push('\n');
    }

    fn paragraph(&mut self, lines: impl IntoIterator<Item = String>) {
        for (index, line) in lines.into_iter().enumerate() {
            if index == 0 {
                self.0.push('\n');
            }
            self.line(line);
        }
    }
}

/// `meta-x on scarthgap (3f2a1b4c5d6e)`.
pub fn job_name(job: &JobIdentity) -> String {
    let commit = match &job.commit {
        Some(commit) if job.dirty => format!("{}, with uncommitted changes", short_commit(commit)),
        Some(commit) => short_commit(commit),
        None => "not in git".to_owned(),
    };
    let cell = job.cell.as_ref().map(|cell| format!(", cell {}", sanitize_line(cell))).unwrap_or_default();
    format!("{} on {}{cell} ({commit})", sanitize_line(&job.name), sanitize_line(&job.release))
}

fn verdict(summary: &Summary, failures: &[Failure], style: Style) -> String {
    let (word, about) = plain_verdict(summary, failures);
    let word = match word {
        "PASSED" => style.good(word),
        "NOT RUN" => style.warn(word),
        _ => style.bad(word),
    };
    format!("{word}  {about}")
}

/// The verdict in one word, and its subject in one line with the name of the job, sanitized.
pub fn plain_verdict(summary: &Summary, failures: &[Failure]) -> (&'static str, String) {
    let (word, about) = bare_verdict(summary, failures);
    (word, format!("{}: {about}", job_name(&summary.job)))
}

/// The same without the name of the job.
pub fn bare_verdict(summary: &Summary, failures: &[Failure]) -> (&'static str, String) {
    let why = || {
        sanitize_line(summary.outcome.reason().unwrap_or_default().lines().next().unwrap_or_default())
            .into_owned()
    };
    // The error that decided the exit status; the outcome may speak of something else.
    let decisive = || {
        summary
            .errors
            .iter()
            .find(|error| error.error.class.exit_status() == summary.exit)
            .map_or_else(why, said)
    };
    match summary.exit {
        _ if !summary.complete => ("INTERRUPTED", why()),
        ExitStatus::Passed => ("PASSED", numbers(&Totals::of(summary))),
        ExitStatus::Failed if matches!(summary.outcome, Outcome::NotRun(_)) => ("NOT RUN", why()),
        ExitStatus::Failed => ("FAILED", names(failures).unwrap_or_else(why)),
        ExitStatus::OutOfTime => ("TIMED OUT", decisive()),
        ExitStatus::Cancelled => ("CANCELLED", decisive()),
        ExitStatus::Usage | ExitStatus::Machine | ExitStatus::Upstream | ExitStatus::Internal => {
            ("ERROR", format!("{}: {}", summary.exit.meaning(), decisive()))
        }
    }
}

fn said(error: &StageError) -> String {
    sanitize_line(&error.error.message).into_owned()
}

fn names(failures: &[Failure]) -> Option<String> {
    let first = sanitize_line(&failures.first()?.name).into_owned();
    Some(match failures.len() - 1 {
        0 => first,
        more => format!("{first} and {more} more"),
    })
}

fn numbers(totals: &Totals) -> String {
    let mut text = format!("{} passed", count(totals.passed, "step"));
    if totals.flaky > 0 {
        text += &format!(", {} flaky", totals.flaky);
    }
    if totals.skipped > 0 {
        text += &format!(", {} skipped", totals.skipped);
    }
    // A job passes with failures only if the base of its change has them, too.
    if totals.failed > 0 {
        text += &format!(", {} failing as before the change", totals.failed);
    }
    text
}

fn stage_line(stage: &StageResult, suites: &[Suite], style: Style) -> String {
    let Some(outcome) = &stage.outcome else { return format!("  {:<9}  running", stage.stage) };
    let word = style.outcome(outcome, &format!("{:<9}", outcome.word()));
    let took = stage.seconds.map(duration).unwrap_or_default();
    let tests = suites.iter().flat_map(|suite| &suite.tests);
    let tests: Vec<_> =
        tests.filter(|test| test.unit.is_some_and(|unit| unit.stage == stage.stage)).collect();
    let fine = tests.iter().filter(|test| test.status.is_success()).count();
    let mut notes: Vec<String> = Vec::new();
    if !tests.is_empty() {
        notes.push(format!("{fine} of {}", tests.len()));
    }
    notes.extend(
        outcome.reason().and_then(|why| why.lines().next()).map(|why| sanitize_line(why).into_owned()),
    );
    format!("  {:<9}  {word}  {took:>8}  {}", stage.stage, notes.join("  ")).trim_end().to_owned()
}

fn failure_lines(number: usize, failure: &Failure, out: &Path, style: Style) -> Vec<String> {
    let word = style.outcome(failure.outcome, failure.outcome.word());
    let mut lines = vec![format!("{number}) {}: {word}", sanitize_line(&failure.title))];
    lines.extend(failure.reason.iter().map(|line| format!("   {}", sanitize_line(line))));
    lines.extend(failure.lines.iter().map(|line| format!("   | {}", sanitize_line(line))));
    if let Some(log) = &failure.log {
        lines.push(format!("   the whole log: {}", sanitize(&out.join(log).to_string_lossy())));
    }
    lines
}

fn more_failures(failures: &[Failure]) -> Vec<String> {
    let rest = failures.get(IN_FULL..).unwrap_or_default();
    let mut lines: Vec<String> =
        rest.iter().take(NAMES).map(|more| format!("   {}", sanitize_line(&more.title))).collect();
    if rest.len() > NAMES {
        lines.push(format!("   and {} more, which result.json names", rest.len() - NAMES));
    }
    if !rest.is_empty() {
        lines.insert(0, format!("{} more:", count(rest.len() as u64, "failure")));
    }
    lines
}

fn error_lines(error: &StageError, style: Style) -> Vec<String> {
    let stage = error.stage.map(|stage| format!(" in {stage}")).unwrap_or_default();
    let what = style.bad(&format!("error{stage}"));
    let meaning = error.error.class.exit_status().meaning();
    let mut lines = vec![format!("{what} ({meaning}): {}", sanitize_line(&error.error.message))];
    lines.extend(error.error.causes.iter().map(|cause| format!("   because: {}", sanitize_line(cause))));
    lines.extend(error.error.hint.iter().map(|hint| format!("   hint: {}", sanitize_line(hint))));
    lines
}

fn warnings(summary: &Summary, style: Style) -> Vec<String> {
    let serious = summary.notices.iter().filter(|notice| notice.level != Level::Info);
    let mut lines: Vec<String> = serious
        .map(|notice| {
            let word = style.level(notice.level, level_word(notice.level));
            format!("{word}: {}", sanitize_line(&notice.message))
        })
        .collect();
    if lines.len() > NAMES {
        let more = lines.len() - NAMES;
        lines.truncate(NAMES);
        lines.push(format!("and {}, which result.json holds", count(more as u64, "more warning")));
    }
    lines
}

/// What is new in this change. A test that is missing is named, also if all others passed.
fn comparison(summary: &Summary, style: Style) -> Vec<String> {
    let (Some(compared), Some(base)) = (Comparison::of(summary), &summary.base) else { return Vec::new() };
    let parts = [
        (compared.new_failures.len(), "new failure"),
        (compared.still_failing.len(), "failing before"),
        (compared.fixed.len(), "fixed"),
        (compared.vanished.len(), "vanished test"),
        (compared.flaky.len(), "flaky by proof"),
        (compared.new_findings.len(), "new finding"),
    ];
    let nouns = ["new failure", "vanished test", "new finding"];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(number, what)| *number > 0 || *what == "new failure")
        .map(|(number, what)| match nouns.contains(&what) {
            true => count(number as u64, what),
            false => format!("{number} {what}"),
        })
        .collect();
    let mut lines = vec![format!("compared   with {}: {}", short_commit(&base.commit), parts.join(", "))];
    for (word, ids) in [("new", &compared.new_failures), ("vanished", &compared.vanished)] {
        let shown = ids.iter().take(NAMES).map(|id| {
            let word = style.warn(&format!("{word:<8}"));
            format!("   {word} {}", sanitize_line(&id.to_string()))
        });
        lines.extend(shown);
        if ids.len() > NAMES {
            lines.push(format!("   and {} more, which result.json names", ids.len() - NAMES));
        }
    }
    lines
}

fn facts(summary: &Summary, out: &Path) -> Vec<String> {
    let mut lines = findings(summary);
    for unit in &summary.units {
        if let Some(sstate) = unit.sstate {
            lines.push(format!(
                "sstate     {}: {} wanted, {} local, {} from mirrors, {} missed; {} current",
                sanitize_line(&unit.name),
                sstate.wanted,
                sstate.local,
                sstate.mirrors,
                sstate.missed,
                sstate.current
            ));
        }
    }
    lines.extend(summary.cache.iter().map(tier_line));
    lines.extend(Cost::of_job(summary).map(|cost| format!("cost       {}", cost.line())));
    if let Some(device) = &summary.device {
        lines.push(format!("device     request {} in {}", sanitize(&device.id), sanitize(&device.address)));
    }
    if let Some(published) = &summary.published {
        let objects = count(published.objects, "object");
        let links = match published.links {
            0 => String::new(),
            links => format!(" and {}", count(links, "link")),
        };
        let size = bytes(published.bytes);
        lines.push(format!("published  {objects} ({size}){links}, index {}", sanitize(&published.index)));
    }
    let file = |name: &str| sanitize(&out.join(name).to_string_lossy()).into_owned();
    lines.push(format!(
        "reports    {}",
        ["report.html", "result.json", "junit.xml", "events.jsonl"].map(file).join("  ")
    ));
    lines.push(format!("logs       {}", file("logs")));
    if let Some(address) = summary.report_url().or(summary.report_address()) {
        lines.push(format!("stored     {}", sanitize(address)));
    }
    if let Some(url) = &summary.job.url {
        lines.push(format!("build      {}", sanitize(url)));
    }
    if !summary.job.reproduce.is_empty() {
        let words: Vec<String> =
            summary.job.reproduce.iter().map(|word| shell_word(&sanitize(word))).collect();
        lines.push(format!("repeat     {}", words.join(" ")));
    }
    lines
}

/// `cache      shared /efs (read-write): 33 objects read (1.2 MiB), 5 published (3.0 KiB), 40 operations, waited 0.3s`
fn tier_line(tier: &TierResult) -> String {
    let traffic = &tier.traffic;
    let mut parts =
        vec![format!("{} read ({})", count(traffic.objects_read, "object"), bytes(traffic.bytes_read))];
    if let Some(counts) = &tier.published {
        parts.push(format!("{} published ({})", counts.published, bytes(counts.bytes)));
        let rest = counts_by_name(counts).into_iter().filter(|(name, _)| *name != "published");
        parts.extend(rest.filter(|(_, number)| *number > 0).map(|(name, number)| format!("{number} {name}")));
    }
    let is_bucket = tier.path.as_ref().is_some_and(|path| path.starts_with("s3://"));
    parts.push(count(traffic.operations, if is_bucket { "request" } else { "operation" }));
    parts.push(format!("waited {}", duration(traffic.seconds_waited)));
    if traffic.usd > 0.0 {
        parts.push(usd(traffic.usd));
    }
    let path = tier.path.as_deref().map(|path| format!(" {}", sanitize(path)));
    let state = tier.state.map(|state| format!(" ({state})"));
    format!(
        "cache      {}{}{}: {}",
        tier.tier.word(),
        path.unwrap_or_default(),
        state.unwrap_or_default(),
        parts.join(", ")
    )
}

/// The numbers, and the errors with their places: these must be fixed.
fn findings(summary: &Summary) -> Vec<String> {
    if summary.findings.is_empty() {
        return Vec::new();
    }
    let totals = Totals::of(summary);
    let numbers = [
        (totals.finding_errors, "error"),
        (totals.finding_warnings, "warning"),
        (totals.finding_infos, "note"),
    ];
    let numbers: Vec<String> =
        numbers.into_iter().filter(|(n, _)| *n > 0).map(|(n, thing)| count(n, thing)).collect();
    let mut lines = vec![format!("findings   {}", numbers.join(", "))];
    let errors = summary.findings.iter().filter(|finding| finding.level == Level::Error);
    lines.extend(errors.take(NAMES).map(|finding| finding_line(finding, level_word(finding.level))));
    if let Some(rest) = totals.finding_errors.checked_sub(NAMES as u64).filter(|rest| *rest > 0) {
        lines.push(format!("   and {} more, which result.json names", count(rest, "error")));
    }
    lines
}

/// The word as a shell takes it back unchanged.
pub fn shell_word(word: &str) -> String {
    let sanitize = |char: char| char.is_ascii_alphanumeric() || "_@%+=:,./-".contains(char);
    if !word.is_empty() && word.chars().all(sanitize) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
