//! The short report in Markdown: for a comment on a pull request, and for the summary of a check.
//!
//! Text of layers and tools is always code: it contains no links, no HTML, no `@name` and no `#123`.

#[cfg(test)]
pub mod outside_of_code;
pub mod text;

use std::collections::HashMap;
use std::fmt::Write as _;

use agent_types::affected::Affected;
use agent_types::base_result::{BaseResult, KnownTest, TASK, TestId};
use agent_types::events::Level;
use agent_types::outcome::ExitStatus;
use agent_types::words::{bytes, count};

use super::comparison::{Comparison, SizeChange};
use super::console::{Failure, failures, finding_line, level_word, plain_verdict, short_commit};
use super::known;
use super::merged::Matrix;
use super::summary::Summary;
use super::totals::suites;
use text::{block, cell, code, link};

/// Entries of a list before it is cut short.
const NAMES: usize = 10;
/// Failures that are shown with the lines that matter.
const IN_FULL: usize = 3;
/// Lines of such a failure.
const LINES: usize = 15;
/// Maximum bytes of a comment or of the summary of a check at GitHub.
const LIMIT: usize = 65_000;

/// What the report looks like.
#[derive(Clone, Debug)]
pub struct Options {
    /// The whole report, if people can open it.
    pub link: Option<String>,
    /// Maximum bytes.
    pub limit: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { link: None, limit: LIMIT }
    }
}

/// The report: the verdict, what is new, fixed and affected, and what changed in size and CVEs.
pub fn render(summary: &Summary, options: &Options) -> String {
    joined(job_parts(summary, options), options.limit)
}

/// The most important part first.
fn job_parts(summary: &Summary, options: &Options) -> Vec<String> {
    let compared = Comparison::of(summary);
    let mut parts = vec![head(summary, options)];
    parts.extend(summary.errors.iter().take(IN_FULL).map(|error| {
        let stage = error.stage.map(|stage| format!(" in {stage}")).unwrap_or_default();
        format!("**Error{stage}**\n\n{}", block(error.error.to_string().lines().take(LINES)))
    }));
    match (&compared, &summary.base) {
        (Some(compared), Some(base)) => parts.extend(comparison(summary, compared, base)),
        _ => {
            let suites = suites(summary);
            parts.extend(all_failures(&failures(summary, &suites)));
            parts.extend(findings(summary, &error_places(summary), "Findings"));
        }
    }
    parts.extend(summary.affected.as_ref().map(affected));
    if let Some(compared) = &compared {
        parts.extend(cves(compared));
        parts.extend(sizes(&compared.sizes));
    }
    parts
}

/// The reports of several jobs of one change as one: a matrix, then each job that is not simply green.
pub fn render_all(jobs: &[Summary], options: &Options) -> String {
    if let [only] = jobs {
        return render(only, options);
    }
    let matrix = Matrix::of(jobs);
    let good = jobs.iter().filter(|job| job.exit == ExitStatus::Passed).count();
    let mut head = format!("### build-agent: **{good} of {} passed**\n", jobs.len());
    if let Some(link) = options.link.as_deref().and_then(|address| link("The whole report", address)) {
        let _ = write!(head, "\n{link}\n");
    }
    head += "\n| |";
    for release in &matrix.releases {
        let _ = write!(head, " {} |", cell(release));
    }
    head += "\n|---|";
    head += &"---|".repeat(matrix.releases.len());
    for (machine, cells) in &matrix.rows {
        let _ = write!(head, "\n| {} |", cell(machine));
        for found in cells {
            let _ = write!(head, " {} |", found.map_or("", |(word, _)| word));
        }
    }
    head.push('\n');
    let mut parts = vec![head];
    for job in jobs {
        let is_green =
            job.exit == ExitStatus::Passed && Comparison::of(job).is_none_or(|it| !it.is_worth_reporting());
        if !is_green {
            parts.extend(job_parts(job, &Options { link: None, ..options.clone() }));
        }
    }
    joined(parts, options.limit)
}

/// As many parts as fit.
fn joined(parts: Vec<String>, limit: usize) -> String {
    const REST: &str = "\nThe rest does not fit here; the report has it.\n";
    let mut whole = String::new();
    for part in parts {
        if whole.len() + part.len() + 1 + REST.len() > limit {
            if whole.len() + REST.len() <= limit {
                whole += REST;
            }
            return whole;
        }
        if !whole.is_empty() {
            whole.push('\n');
        }
        whole += &part;
    }
    whole
}

fn head(summary: &Summary, options: &Options) -> String {
    let suites = suites(summary);
    let failures = failures(summary, &suites);
    let (word, about) = plain_verdict(summary, &failures);
    let mut text = format!("### build-agent: **{word}**\n\n{}\n", code(&about));
    if let Some(link) = options.link.as_deref().and_then(|address| link("The whole report", address)) {
        let _ = write!(text, "\n{link}\n");
    }
    text
}

fn comparison(summary: &Summary, compared: &Comparison, base: &BaseResult) -> Vec<String> {
    let tests = known::tests(summary);
    let tests: HashMap<&TestId, &KnownTest> = tests.iter().map(|test| (&test.id, test)).collect();
    let mut parts = vec![compared_with(compared, base)];
    parts.extend(new_failures(summary, &compared.new_failures, &tests));
    parts.extend(findings(summary, &compared.new_findings, "New findings"));
    for (title, list) in [
        ("Vanished tests: they ran before and are missing now", &compared.vanished),
        ("Skipped now", &compared.newly_skipped),
        ("Not run now", &compared.not_run),
        ("Flaky: failed and passed with equal signatures", &compared.flaky),
        ("Fixed", &compared.fixed),
    ] {
        parts.extend(names(title, list));
    }
    parts.extend(folded("Failing before this change", &compared.still_failing, &tests));
    parts
}

/// `Compared with 3f2a1b4c5d6e, 3 commits before the change: 1 new failure, 2 failing before, 3 fixed.`
fn compared_with(compared: &Comparison, base: &BaseResult) -> String {
    let before = match base.distance {
        0 => "where this change began".to_owned(),
        distance => format!("{} before this change began", count(distance, "commit")),
    };
    let numbers = [
        (count(compared.new_failures.len() as u64, "new failure"), true),
        (format!("{} failing before", compared.still_failing.len()), !compared.still_failing.is_empty()),
        (format!("{} fixed", compared.fixed.len()), !compared.fixed.is_empty()),
        (count(compared.vanished.len() as u64, "vanished test"), !compared.vanished.is_empty()),
    ];
    let numbers = numbers.into_iter().filter(|(_, shown)| *shown).map(|(text, _)| text);
    let numbers: Vec<String> = numbers.collect();
    let mut text =
        format!("Compared with {}, {before}: {}.\n", code(&short_commit(&base.commit)), numbers.join(", "));
    if base.truncated {
        text += "That result is too large to be compared as a whole: findings are not compared.\n";
    }
    text
}

fn new_failures(summary: &Summary, ids: &[TestId], tests: &HashMap<&TestId, &KnownTest>) -> Option<String> {
    if ids.is_empty() {
        return None;
    }
    let mut text = "**New in this change**\n\n".to_owned();
    for (index, id) in ids.iter().enumerate().take(NAMES) {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "- {}{}", code(&title(id)), reason(tests.get(id).copied()));
        let lines = lines(summary, id);
        if index < IN_FULL && !lines.is_empty() {
            let indented = block(lines.iter().map(String::as_str));
            let indented: Vec<String> = indented.lines().map(|line| format!("  {line}")).collect();
            let _ = writeln!(text, "\n{}\n", indented.join("\n"));
        }
    }
    more(&mut text, ids.len());
    Some(text)
}

/// `check / yocto-check-layer meta-x / common.CommonCheckLayer.test_readme`
fn title(id: &TestId) -> String {
    let suite = id.suite.replacen('.', " / ", 1);
    match id.class.as_str() {
        "" => suite,
        TASK => format!("{suite} / {}", id.name),
        class => format!("{suite} / {class}.{}", id.name),
    }
}

fn reason(test: Option<&KnownTest>) -> String {
    let reason = test.and_then(|test| test.reason.as_deref()).filter(|reason| !reason.trim().is_empty());
    reason.map(|reason| format!(": {}", code(reason))).unwrap_or_default()
}

/// The lines that matter of a failure: the end of the task's log, or of the test's own words.
fn lines(summary: &Summary, id: &TestId) -> Vec<String> {
    let last = |lines: Vec<&str>| -> Vec<String> {
        let from = lines.len().saturating_sub(LINES);
        lines.into_iter().skip(from).map(str::to_owned).collect()
    };
    if id.class == TASK {
        let is_it = |recipe: &str, task: &str| format!("{}:{task}", known::recipe_name(recipe)) == id.name;
        let task = summary
            .failed_tasks
            .iter()
            .find(|task| known::suite(&task.unit) == id.suite && is_it(&task.recipe, &task.task));
        return task.map(|task| last(task.excerpt.iter().map(String::as_str).collect())).unwrap_or_default();
    }
    let units = summary.units.iter().filter(|unit| format!("{}.{}", unit.stage, unit.name) == id.suite);
    let mut units = units.peekable();
    if id.class.is_empty() {
        return units
            .peek()
            .map(|unit| last(unit.excerpt.iter().map(String::as_str).collect()))
            .unwrap_or_default();
    }
    let case = units.flat_map(|unit| &unit.cases).find(|case| case.class == id.class && case.name == id.name);
    case.map(|case| last(case.message.lines().collect())).unwrap_or_default()
}

fn names(title_words: &str, ids: &[TestId]) -> Option<String> {
    if ids.is_empty() {
        return None;
    }
    let mut text = format!("**{title_words}** ({})\n\n", ids.len());
    for id in ids.iter().take(NAMES) {
        let _ = writeln!(text, "- {}", code(&title(id)));
    }
    more(&mut text, ids.len());
    Some(text)
}

/// A list that people open if they want to.
fn folded(words: &str, ids: &[TestId], tests: &HashMap<&TestId, &KnownTest>) -> Option<String> {
    if ids.is_empty() {
        return None;
    }
    let mut text = format!("<details><summary>{words} ({})</summary>\n\n", ids.len());
    for id in ids.iter().take(3 * NAMES) {
        let _ = writeln!(text, "- {}{}", code(&title(id)), reason(tests.get(id).copied()));
    }
    if ids.len() > 3 * NAMES {
        let _ = writeln!(text, "- and {} more", ids.len() - 3 * NAMES);
    }
    text += "\n</details>\n";
    Some(text)
}

fn more(text: &mut String, all: usize) {
    if all > NAMES {
        let _ = writeln!(text, "- and {} more, which the report names", all - NAMES);
    }
}

/// The failures of a job that is compared with nothing.
fn all_failures(failures: &[Failure]) -> Option<String> {
    if failures.is_empty() {
        return None;
    }
    let mut text = format!("**{}**\n\n", count(failures.len() as u64, "failure"));
    for (index, failure) in failures.iter().enumerate().take(NAMES) {
        let why = failure.reason.first().filter(|why| !why.trim().is_empty());
        let why = why.map(|why| format!(": {}", code(why))).unwrap_or_default();
        let _ = writeln!(text, "- {}{why}", code(&failure.title));
        if index < IN_FULL && !failure.lines.is_empty() {
            let from = failure.lines.len().saturating_sub(LINES);
            let shown = block(failure.lines.iter().skip(from).map(String::as_str));
            let shown: Vec<String> = shown.lines().map(|line| format!("  {line}")).collect();
            let _ = writeln!(text, "\n{}\n", shown.join("\n"));
        }
    }
    more(&mut text, failures.len());
    Some(text)
}

fn error_places(summary: &Summary) -> Vec<usize> {
    let findings = summary.findings.iter().enumerate();
    findings.filter(|(_, finding)| finding.level == Level::Error).map(|(place, _)| place).collect()
}

/// These findings, the errors first; those of level info only in number.
fn findings(summary: &Summary, places: &[usize], words: &str) -> Option<String> {
    let mut found: Vec<_> = places.iter().filter_map(|place| summary.findings.get(*place)).collect();
    let all = found.len();
    found.retain(|finding| finding.level != Level::Info);
    if found.is_empty() {
        return None;
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let errors = found.iter().filter(|finding| finding.level == Level::Error).count();
    let mut text = format!("**{words}** ({all}, of which {} of level error)\n\n", errors);
    for finding in found.iter().take(NAMES) {
        let _ = writeln!(text, "- {}", code(&finding_line(finding, level_word(finding.level))));
    }
    more(&mut text, found.len());
    Some(text)
}

/// What the change affects, and why.
fn affected(affected: &Affected) -> String {
    let recipes = affected.recipes.len() + affected.elsewhere.len();
    if affected.tasks == 0 && recipes == 0 {
        return "**Affected recipes**: none\n".to_owned();
    }
    let first = affected.recipes.iter().chain(&affected.elsewhere).take(NAMES);
    let first: Vec<String> = first.map(|recipe| code(&recipe.name)).collect();
    let rest = recipes.saturating_sub(NAMES);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let mut text = format!("**Affected recipes** ({recipes}): {}{rest}\n", first.join(", "));
    if let Some(root) = affected.roots.first() {
        let others = affected.roots.len() - 1;
        let others =
            if others > 0 { format!(", and {}", count(others as u64, "other cause")) } else { String::new() };
        let cause = format!("{}:{}: {}", root.recipe, root.task, root.cause);
        let _ = writeln!(text, "\nCause: {}{others}", code(&cause));
    }
    text
}

fn cves(compared: &Comparison) -> Option<String> {
    let list = |words: &str, cves: &[String]| {
        let names: Vec<String> = cves.iter().take(NAMES).map(|cve| code(cve)).collect();
        let rest = cves.len().saturating_sub(NAMES);
        let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        (!cves.is_empty()).then(|| format!("{} {words}: {}{rest}", cves.len(), names.join(", ")))
    };
    let parts = [list("new", &compared.new_cves), list("fixed", &compared.fixed_cves)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("**CVEs**: {}\n", parts.join("; ")))
}

/// The largest differences.
fn sizes(sizes: &[SizeChange]) -> Option<String> {
    let before = |change: &SizeChange| change.before.as_ref().map_or(0, |old| old.bytes);
    let after = |change: &SizeChange| change.after.unwrap_or(0);
    // The sizes come from a file, so their sum may overflow.
    let sum = |of: &dyn Fn(&SizeChange) -> u64| sizes.iter().map(of).fold(0, u64::saturating_add);
    let (old, new) = (sum(&before), sum(&after));
    if sizes.is_empty() {
        return None;
    }
    let mut sorted: Vec<&SizeChange> = sizes.iter().collect();
    sorted.sort_by_key(|change| std::cmp::Reverse(before(change).abs_diff(after(change))));
    let mut text = format!(
        "<details><summary>Size of published files: {} ({} differ)</summary>\n\n",
        delta(old, new),
        sizes.len()
    );
    for change in sorted.into_iter().take(NAMES) {
        let path = code(&change.path.to_string_lossy());
        let _ = match (&change.before, change.after) {
            (Some(old), Some(new)) => {
                writeln!(text, "- {path}: {} → {} ({})", bytes(old.bytes), bytes(new), delta(old.bytes, new))
            }
            (None, Some(new)) => writeln!(text, "- {path}: new, {}", bytes(new)),
            (Some(old), None) => writeln!(text, "- {path}: no longer published, {}", bytes(old.bytes)),
            (None, None) => Ok(()),
        };
    }
    more(&mut text, sizes.len());
    text += "\n</details>\n";
    Some(text)
}

/// `+3.0 MiB`, `−1.0 KiB`, `±0`.
pub fn delta(before: u64, after: u64) -> String {
    match before.cmp(&after) {
        std::cmp::Ordering::Less => format!("+{}", bytes(after - before)),
        std::cmp::Ordering::Greater => format!("−{}", bytes(before - after)),
        std::cmp::Ordering::Equal => "±0".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
