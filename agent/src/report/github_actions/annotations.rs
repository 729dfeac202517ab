//! Annotations: each problem at its line in the change. GitHub shows ten errors and ten warnings of a step, so the
//! most important ones come first.

use std::path::{Component, Path};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use regex::Regex;

use agent_process::blocking;
use agent_types::error::{Error, Result};
use agent_types::events::{Finding, Level};
use agent_types::outcome::ExitStatus;
use agent_types::sanitize::sanitize_line;
use agent_types::truncate;

use super::workflow_commands::{WorkflowCommands, command};
use crate::report::console::{Failure, failures};
use crate::report::reports::Report;
use crate::report::summary::{StageError, Summary};
use crate::report::totals::suites;

/// The number of errors, and of warnings, that GitHub shows for one step.
const SHOWN: usize = 10;

/// Maximum bytes of a message. GitHub truncates longer ones.
const MESSAGE: usize = 4096;

/// Maximum lines of a failing test or task.
const LINES: usize = 20;

/// The runner reads at once. A pipe without a reader must not delay the job.
const DEADLINE: Duration = Duration::from_secs(10);

/// Prints the annotations of a job.
pub struct Annotations {
    pub commands: WorkflowCommands,
}

impl Report for Annotations {
    fn name(&self) -> &'static str {
        "annotations"
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn is_required(&self) -> bool {
        false
    }

    fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<()>> {
        let printer = self.commands.clone();
        Box::pin(async move {
            let printed = blocking(move || printer.print(&commands(&summary))).await;
            printed.map_err(|error| Error::machine("cannot print the annotations").because(&error))
        })
    }
}

/// The annotations for an error before the job, such as an error in the manifest. `top` is the top of the repository,
/// `here` the current directory.
pub fn early_error(error: &str, top: &Path, here: &Path) -> Vec<String> {
    let mut commands: Vec<String> = in_manifest(error, top, here).iter().map(Annotation::command).collect();
    if commands.is_empty() {
        commands.push(Annotation::new(Level::Error, "build-agent", error).command());
    }
    commands.truncate(SHOWN);
    commands
}

/// The problems of a manifest, each at its line: `build-agent.toml:3:1: [repos.x] brunch: unknown key`.
fn in_manifest(text: &str, top: &Path, here: &Path) -> Vec<Annotation> {
    static POSITION: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^([^:\s][^:]*):(\d+):\d+: (.+)$").ok());
    let Some(position) = &*POSITION else { return Vec::new() };
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.iter().enumerate().filter_map(|(at, line)| {
        let parts = position.captures(line)?;
        let hint = lines.get(at + 1).map(|next| next.trim()).filter(|next| next.starts_with("hint: "));
        let message = [Some(&parts[3]), hint].into_iter().flatten().collect::<Vec<_>>().join("\n");
        let file = here.join(&parts[1]);
        let mut one = Annotation::new(Level::Error, "build-agent", &message);
        one.file = relative(file.strip_prefix(top).ok()?);
        one.line = parts[2].parse().ok();
        Some(one)
    });
    found.collect()
}

/// A problem at a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Annotation {
    level: Level,
    file: Option<String>,
    line: Option<u32>,
    title: String,
    message: String,
}

impl Annotation {
    fn new(level: Level, title: &str, message: &str) -> Annotation {
        let mut message = message.lines().map(sanitize_line).collect::<Vec<_>>().join("\n");
        truncate::middle(&mut message, MESSAGE);
        Annotation { level, file: None, line: None, title: sanitize_line(title).into_owned(), message }
    }

    fn command(&self) -> String {
        let name = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "notice",
        };
        let line = self.line.filter(|_| self.file.is_some());
        let properties = [
            ("file", self.file.clone().unwrap_or_default()),
            ("line", line.map(|line| line.to_string()).unwrap_or_default()),
            ("title", self.title.clone()),
        ];
        command(name, &properties, &self.message)
    }
}

/// The commands for a job: errors first, both kinds in the order of their importance.
fn commands(summary: &Summary) -> Vec<String> {
    let mut errors = Vec::new();
    let (decisive, others): (Vec<&StageError>, Vec<_>) =
        summary.errors.iter().partition(|error| error.error.class.exit_status() == summary.exit);
    if summary.exit != ExitStatus::Failed {
        errors.extend(decisive.iter().map(|error| of_error(error)));
    }
    errors.extend(findings(summary, Level::Error));
    errors.extend(unexplained(summary).iter().map(of_failure));
    if summary.exit == ExitStatus::Failed {
        errors.extend(decisive.iter().map(|error| of_error(error)));
    }
    errors.extend(others.into_iter().map(of_error));
    let mut warnings: Vec<Annotation> = Vec::new();
    let notices = summary.notices.iter().filter(|notice| notice.level == Level::Warning);
    warnings.extend(notices.map(|notice| {
        let hint = notice.hint.iter().map(|hint| format!("\nhint: {hint}")).collect::<String>();
        Annotation::new(Level::Warning, "build-agent", &(notice.message.clone() + &hint))
    }));
    warnings.extend(findings(summary, Level::Warning));
    let first = |all: Vec<Annotation>| all.into_iter().take(SHOWN).map(|one| one.command());
    first(errors).chain(first(warnings)).collect()
}

/// The findings of a level: the first of each rule, then the second of each, and so on, so that one rule does not hide
/// the others.
fn findings(summary: &Summary, level: Level) -> Vec<Annotation> {
    let mut ranked: Vec<(usize, &Finding)> = Vec::new();
    for finding in summary.findings.iter().filter(|finding| finding.level == level) {
        let before = ranked.iter().filter(|(_, other)| other.rule == finding.rule).count();
        ranked.push((before, finding));
        if ranked.len() > 1000 {
            break;
        }
    }
    ranked.sort_by_key(|(before, _)| *before);
    ranked.into_iter().map(|(_, finding)| of_finding(finding)).collect()
}

fn of_finding(finding: &Finding) -> Annotation {
    let hint = finding.hint.iter().map(|hint| format!("\nhint: {hint}")).collect::<String>();
    let mut message = finding.message.clone() + &hint;
    let file = finding.file.as_deref();
    let inside = file.and_then(relative);
    if let (Some(outside), None) = (file, &inside) {
        message = format!("{}: {message}", outside.display());
    }
    let mut one = Annotation::new(finding.level, &finding.rule, &message);
    one.file = inside;
    one.line = finding.line;
    one
}

/// The path as GitHub takes it: relative to the top of the repository.
pub fn relative(path: &Path) -> Option<String> {
    let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let clean = path.components().filter(|part| *part != Component::CurDir).collect::<std::path::PathBuf>();
    Some(sanitize_line(&clean.to_string_lossy()).into_owned()).filter(|text| inside && !text.is_empty())
}

/// Failed tests and tasks without findings. For the others, the findings are the annotations.
fn unexplained(summary: &Summary) -> Vec<Failure<'_>> {
    let explained: Vec<String> = summary
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .map(|finding| format!("{} / {}", finding.unit.stage, finding.unit.name))
        .collect();
    let mut all = failures(summary, &suites(summary));
    all.retain(|failure| !explained.contains(&failure.title));
    all
}

fn of_failure(failure: &Failure) -> Annotation {
    let mut lines: Vec<&str> = failure.reason.iter().map(String::as_str).collect();
    let shown =
        failure.lines.iter().map(String::as_str).filter(|line| !failure.reason.iter().any(|one| one == line));
    lines.extend(shown.take(LINES));
    let text = if lines.is_empty() { failure.outcome.word().to_owned() } else { lines.join("\n") };
    Annotation::new(Level::Error, &failure.name, &text)
}

fn of_error(error: &StageError) -> Annotation {
    let stage = error.stage.map(|stage| format!(" in {stage}")).unwrap_or_default();
    let title = format!("error{stage} ({})", error.error.class.exit_status().meaning());
    Annotation::new(Level::Error, &title, &error.error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::report::sample::{
        at, failing_job, job_started, preflight, reduce, unit_finished, unit_started,
    };
    use agent_types::events::EventKind;
    use agent_types::outcome::Outcome;

    #[test]
    fn the_annotations_of_a_failing_job() {
        let found = commands(&reduce(&failing_job()));
        // The error that decided the exit status, then what failed.
        assert!(found[0].starts_with("::error title=error in publish ("), "{found:#?}");
        assert!(
            found[0].contains(
                "::cannot upload `index.json` to s3://bucket/builds%0A  because: connection reset%0A"
            )
        );
        assert_eq!(
            found[1],
            "::error title=common.CommonCheckLayer.test_readme::AssertionError: README is empty%0A\
             Traceback (most recent call last):%0A  File \"common.py\", line 30, in test_readme"
        );
        assert_eq!(
            found[2],
            "::error title=zlib%3Ado_compile::zlib.c:3:1: error: expected ';'%0Amake: *** [Makefile:9: zlib.o] Error 1"
        );
        assert_eq!(
            found.last().unwrap(),
            "::warning file=recipes-x/x/files/fix.patch,line=1,title=upstream-status::the patch has no Upstream-Status\
             %0Ahint: add a line like `Upstream-Status: Pending`"
        );
        assert_eq!(found.len(), 5, "{found:#?}");
    }

    fn finding(level: Level, rule: &str, file: &str, message: &str) -> EventKind {
        EventKind::Finding(Finding {
            unit: preflight(),
            level,
            rule: rule.into(),
            message: message.into(),
            file: Some(file.into()),
            line: Some(3),
            hint: None,
        })
    }

    fn with_findings(findings: Vec<EventKind>) -> Vec<String> {
        let mut events = vec![at(0, job_started(&[])), at(0, unit_started(&preflight()))];
        events.extend(findings.into_iter().map(|what| at(1, what)));
        events.push(at(2, unit_finished(&preflight(), Outcome::Failed("findings".into()), None)));
        let exit = EventKind::JobFinished { exit: ExitStatus::Failed, outcome: Outcome::Failed("x".into()) };
        events.push(at(3, exit));
        commands(&reduce(&events))
    }

    #[test]
    fn no_rule_hides_the_others_and_ten_of_a_kind_are_shown() {
        let many = (0..30).map(|number| finding(Level::Error, "many", &format!("f{number}"), "m"));
        let warnings = (0..30).map(|number| finding(Level::Warning, "warn", &format!("w{number}"), "m"));
        let found =
            with_findings(many.chain([finding(Level::Error, "one", "g", "m")]).chain(warnings).collect());
        assert_eq!(found[0], "::error file=f0,line=3,title=many::m");
        assert_eq!(found[1], "::error file=g,line=3,title=one::m");
        let of = |name: &str| found.iter().filter(|line| line.starts_with(name)).count();
        assert_eq!((of("::error "), of("::warning "), found.len()), (10, 10, 20));
        assert!(
            !found.iter().any(|line| line.contains("preflight")),
            "its findings are shown instead: {found:#?}"
        );
    }

    #[test]
    fn layers_cannot_write_commands_or_leave_the_repository() {
        let found = with_findings(vec![
            finding(Level::Error, "a", "x,line=1::\n::set-env name=A::b", "m\n::add-mask::x\r%0A::error::y"),
            finding(Level::Error, "b", "/etc/passwd", "m"),
            finding(Level::Error, "c", "../out", "m"),
            finding(Level::Error, "d", "./in//here", "\u{1b}[31mm ##[error]y"),
        ]);
        assert!(found.iter().all(|line| line.lines().count() == 1), "{found:#?}");
        assert!(
            found[0].starts_with(
                "::error file=x%2Cline=1%3A%3A %3A%3Aset-env name=A%3A%3Ab,line=3,title=a::m%0A"
            )
        );
        assert!(found[0].ends_with("%250A::error::y"), "{found:#?}");
        assert_eq!(found[1], "::error title=b::/etc/passwd: m");
        assert_eq!(found[2], "::error title=c::../out: m");
        assert_eq!(found[3], "::error file=in/here,line=3,title=d::m # #[error]y");
    }

    #[test]
    fn errors_in_a_manifest_are_shown_at_their_lines() {
        let text = "ci/build-agent.toml:7:1: [repos.poky] brunch: unknown key\n  hint: did you mean `branch`?\n\
                    --set x=1: unknown key\n2 problems; nothing was run";
        let found = in_manifest(text, Path::new("/w/layer"), Path::new("/w/layer/sub"));
        assert_eq!(
            found.iter().map(Annotation::command).collect::<Vec<_>>(),
            [
                "::error file=sub/ci/build-agent.toml,line=7,title=build-agent::[repos.poky] brunch: unknown key%0Ahint: did you mean `branch`?"
            ]
        );
        assert!(in_manifest(text, Path::new("/other"), Path::new("/w")).is_empty());
        assert_eq!(
            early_error("no manifest\n  hint: write one", Path::new("/w"), Path::new("/w")),
            ["::error title=build-agent::no manifest%0A  hint: write one"]
        );
    }
}
