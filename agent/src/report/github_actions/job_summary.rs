//! The job summary: what failed and why, on the page of the run. It is short.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err::OpenOptions;
use fs_err::os::unix::fs::OpenOptionsExt;
use futures_util::future::BoxFuture;

use agent_fs::read::NO_FOLLOW;
use agent_process::blocking;
use agent_types::error::{Error, Result};
use agent_types::events::Level;
use agent_types::words::count;

use crate::report::console::{Failure, duration, failures, finding_line, level_word, plain_verdict};
use crate::report::cost::Cost;
use crate::report::markdown::text::{block, cell, code};
use crate::report::report_files::FILE_DEADLINE;
use crate::report::reports::Report;
use crate::report::summary::Summary;
use crate::report::totals::suites;

/// Maximum bytes of the file. GitHub does not show a larger one.
const LIMIT: u64 = 1 << 20;

/// Maximum number of failures with their lines, and of entries of a list.
const IN_FULL: usize = 5;
const NAMES: usize = 20;

/// Maximum bytes of one part of the summary.
const PART: usize = 64 << 10;

/// Appends the summary of a job to the file of the step.
pub struct JobSummary {
    pub path: PathBuf,
}

impl Report for JobSummary {
    fn name(&self) -> &'static str {
        "job summary"
    }

    fn deadline(&self) -> Duration {
        FILE_DEADLINE
    }

    fn is_required(&self) -> bool {
        false
    }

    fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<()>> {
        let path = self.path.clone();
        Box::pin(blocking(move || append(&path, &parts(&summary))))
    }
}

/// Appends an error before the job.
pub fn append_early_error(path: &Path, error: &str) {
    let part = format!("### build-agent: **ERROR**, nothing was run\n\n{}", block(error.lines()));
    // The console shows the error, too.
    let _ = append(path, &[part]);
}

/// Appends the short report of several jobs.
pub fn append_markdown(path: &Path, text: &str) {
    // The console shows the verdict, too.
    let _ = append(path, &[text.to_owned()]);
}

/// Appends as many parts as fit.
fn append(path: &Path, parts: &[String]) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).custom_flags(NO_FOLLOW).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(Error::machine(format!("`{}` is not a regular file", path.display())));
    }
    const REST: &str = "\nThe rest does not fit here; `result.json` has it.\n";
    let mut left = LIMIT.saturating_sub(found.len());
    let mut text = String::new();
    for part in parts {
        let length = (part.len() + 1 + REST.len()) as u64;
        if length > left {
            text.push_str(if left > REST.len() as u64 { REST } else { "" });
            break;
        }
        left -= part.len() as u64 + 1;
        text.push_str(part);
        text.push('\n');
    }
    Ok(file.write_all(text.as_bytes())?)
}

/// The summary in parts, the most important first.
fn parts(summary: &Summary) -> Vec<String> {
    let suites = suites(summary);
    let failures = failures(summary, &suites);
    let (word, about) = plain_verdict(summary, &failures);
    let mut parts = vec![format!("### build-agent: **{word}**\n\n{}\n", code(&about))];
    parts.extend(summary.errors.iter().take(NAMES).map(|error| {
        let stage = error.stage.map(|stage| format!(" in {stage}")).unwrap_or_default();
        format!("**Error{stage}**\n\n{}", block(error.error.to_string().lines()))
    }));
    parts.extend(failures.iter().take(IN_FULL).map(failure));
    parts.extend(more(&failures));
    parts.extend(findings(summary));
    parts.extend(warnings(summary));
    parts.push(stages(summary));
    parts.extend(Cost::of_job(summary).map(|cost| format!("Cost: {}\n", cost.line())));
    parts.extend(reproduce(summary));
    parts.retain(|part| part.len() <= PART);
    parts
}

fn failure(failure: &Failure) -> String {
    let mut text = format!("**{}** {}\n\n", failure.outcome.word(), code(&failure.title));
    // The reason is often a line of the output.
    let others = failure.lines.iter().filter(|line| !failure.reason.contains(line));
    let lines: Vec<&str> = failure.reason.iter().chain(others).map(String::as_str).collect();
    if !lines.is_empty() {
        text += &block(lines.into_iter());
    }
    text
}

fn more(failures: &[Failure]) -> Option<String> {
    let rest = failures.get(IN_FULL..).filter(|rest| !rest.is_empty())?;
    let mut text = format!("{}:\n\n", count(rest.len() as u64, "more failure"));
    for failure in rest.iter().take(NAMES) {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "- {}", code(&failure.title));
    }
    Some(text)
}

/// The findings that are errors, with their lines and hints.
fn findings(summary: &Summary) -> Option<String> {
    let errors: Vec<_> = summary.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    if errors.is_empty() {
        return None;
    }
    let mut text = format!("**{}**\n\n", count(errors.len() as u64, "finding"));
    for finding in errors.iter().take(NAMES) {
        let hint = finding.hint.iter().map(|hint| format!("<br>hint: {}", code(hint))).collect::<String>();
        let _ = writeln!(text, "- {}{hint}", code(&finding_line(finding, level_word(finding.level))));
    }
    if errors.len() > NAMES {
        let _ = writeln!(text, "- and {} more, which `result.json` names", errors.len() - NAMES);
    }
    Some(text)
}

fn warnings(summary: &Summary) -> Option<String> {
    let warnings: Vec<_> = summary.notices.iter().filter(|notice| notice.level != Level::Info).collect();
    let mut text = format!("**{}**\n\n", count(warnings.len() as u64, "warning"));
    for notice in warnings.iter().take(NAMES) {
        let hint = notice.hint.iter().map(|hint| format!("<br>hint: {}", code(hint))).collect::<String>();
        let _ = writeln!(text, "- {}{hint}", code(&notice.message));
    }
    (!warnings.is_empty()).then_some(text)
}

fn stages(summary: &Summary) -> String {
    let mut text = "| stage | outcome | time | |\n|---|---|---:|---|\n".to_owned();
    for stage in &summary.stages {
        let outcome = stage.outcome.as_ref();
        let why = outcome.and_then(|outcome| outcome.reason()?.lines().next().map(cell)).unwrap_or_default();
        let word = outcome.map_or("running", |outcome| outcome.word());
        let took = stage.seconds.map(duration).unwrap_or_default();
        let _ = writeln!(text, "| {} | {word} | {took} | {why} |", stage.stage);
    }
    text
}

fn reproduce(summary: &Summary) -> Option<String> {
    let job = &summary.job;
    let words: Vec<String> =
        job.reproduce.iter().map(|word| crate::report::console::shell_word(word)).collect();
    (!words.is_empty()).then(|| format!("Repeat it with {}\n", code(&words.join(" "))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::report::sample::{at, failing_job, passing_job, reduce};
    use agent_types::events::EventKind;
    use agent_types::outcome::{ExitStatus, Outcome};

    #[test]
    fn the_summary_of_a_failing_job() {
        let text = parts(&reduce(&failing_job())).join("\n");
        let wanted = [
            "### build-agent: **ERROR**\n\n``meta-x on scarthgap (3f2a1b4c5d6e): upstream",
            "**Error in publish**\n\n```text\ncannot upload `index.json` to s3://bucket/builds\n  because: connection reset\n  hint:",
            "**failed** `check / yocto-check-layer meta-x / common.CommonCheckLayer.test_readme`\n\n```text\nAssertionError: README is empty\n",
            "**failed** `build / core-image-minimal / zlib:do_compile`\n\n```text\nzlib.c:3:1: error: expected ';'\n",
            "**1 warning**\n\n- `the bucket has no lifecycle rule for unfinished uploads`\n",
            "| checkout | passed | 12s |  |\n",
            "| test | skipped |  | `nothing asks for test` |\n",
            "Repeat it with `build-agent run 'it'\\''s here.toml'`\n",
        ];
        let mut from = 0;
        for words in wanted {
            let at =
                text[from..].find(words).unwrap_or_else(|| panic!("no {words:?} after {from} in\n{text}"));
            from += at;
        }
    }

    #[test]
    fn the_summary_of_a_passing_job_is_short() {
        let mut events = passing_job();
        let end = EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed };
        events.push(at(9000, end));
        let text = parts(&reduce(&events)).join("\n");
        assert!(text.starts_with("### build-agent: **PASSED**\n"), "{text}");
        assert!(text.lines().count() < 25, "{text}");
    }

    #[test]
    fn it_is_appended_and_never_larger_than_github_shows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary");
        fs_err::write(&path, "before\n").unwrap();
        append(&path, &["one".into(), "two".into()]).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "before\none\ntwo\n");
        let part = "x".repeat(PART);
        append(&path, &vec![part; 20]).unwrap();
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= LIMIT && text.ends_with("`result.json` has it.\n"));
        append(&path, &["x".repeat(PART)]).unwrap();
        assert!(fs_err::metadata(&path).unwrap().len() <= LIMIT);
    }

    #[test]
    fn it_is_not_written_through_a_link_or_into_a_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs_err::write(at("victim"), "precious").unwrap();
        std::os::unix::fs::symlink(at("victim"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "pipe"] {
            assert!(append(&at(name), &["x".into()]).is_err(), "{name}");
        }
        assert_eq!(fs_err::read_to_string(at("victim")).unwrap(), "precious");
    }
}
