//! `[check] oelint`: oelint-adv on the recipes, appends and classes of the layers under test.
//!
//! Its configuration may name rules in Python. So it runs as the build user, and if the rules of the base apply to a
//! change, it reads the base's `.oelint.cfg`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tracing::Instrument;

use crate::config::{CheckScope, OELINT, Settings};
use crate::stages::blocking;
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use crate::stages::configure::BuildEnvironment;
use agent_fs::{read, untrusted};
use agent_process::{Command, CommandOutcome, ExitReason, Runner};
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, Finding, Level, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_types::words::count;
use agent_yocto::changed_lines::{self, Changes};
use agent_yocto::environment::host_environment;
use agent_yocto::oelint::{self, Remark};

use super::comparison::{Comparison, layer_directories};

const PROGRAM: &str = OELINT.name;

/// The tool's configuration, at the top of the checkout.
const CONFIG: &str = ".oelint.cfg";

/// A longer report is an attack.
const LONGEST_REPORT: u64 = 64 << 20;

pub fn unit() -> Unit {
    Unit::new(Stage::Check, PROGRAM)
}

/// Runs the tool.
///
/// # Errors
/// When it is not installed, its configuration cannot be used, or the job is stopped.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    comparison: &Comparison,
    runner: &Runner,
) -> Result<Outcome> {
    let unit = unit();
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let changes = match settings.check.oelint {
        CheckScope::Changed => comparison.changes.clone(),
        CheckScope::Off | CheckScope::All => Changes::everything(),
    };
    let lint = Lint { settings, configured, comparison, changes, unit: unit.clone(), runner };
    let linted = lint.execute().instrument(crate::stages::step(&unit)).await;
    let end = match &linted {
        Ok((outcome, finished)) => UnitEnd {
            unit,
            outcome: outcome.clone(),
            log: finished.as_ref().map(|finished| runner.relative_log(&finished.log)),
            excerpt: finished
                .as_ref()
                .filter(|_| matches!(outcome, Outcome::NotRun(_)))
                .map(|finished| finished.tail.clone())
                .unwrap_or_default(),
        },
        Err(error) => UnitEnd::error(unit, error),
    };
    end.report(ServerEnd::default(), &runner.events).await;
    linted.map(|(outcome, _)| outcome)
}

struct Lint<'a> {
    settings: &'a Settings,
    configured: &'a BuildEnvironment,
    comparison: &'a Comparison,
    changes: Changes,
    unit: Unit,
    runner: &'a Runner,
}

impl Lint<'_> {
    async fn execute(&self) -> Result<(Outcome, Option<CommandOutcome>)> {
        let (checkout, layers, changes) =
            (self.settings.checkout.clone(), layer_directories(self.settings), self.changes.clone());
        let choose = move || Ok(files_to_lint(&checkout, &layers, &changes));
        let files = blocking(&self.runner.interrupt, "the files were chosen", choose).await?;
        if files.is_empty() {
            let why = match self.settings.check.oelint {
                CheckScope::Changed => "the change touches no recipe, append or class",
                CheckScope::Off | CheckScope::All => "the layers have no recipe, append or class",
            };
            return Ok((Outcome::Skipped(why.into()), None));
        }
        let scratch = self.settings.paths.check_scratch("oelint");
        let user = self.configured.user.as_ref();
        self.configured.scratch_directory(self.settings, &scratch, user, self.runner).await?;
        let report = scratch.join("report");
        let finished = self.runner.run(self.command(&scratch, &report, &files)?, &mut ()).await?;
        let text = match read::whole(&report, LONGEST_REPORT) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // The tool ended before it wrote the report.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Error::internal("the report of oelint-adv cannot be read").because(&error));
            }
        };
        let remarks = oelint::parse(&self.runner.redactor.redact(&text));
        let all = remarks.len();
        if let Some(outcome) = no_verdict(finished.end, all) {
            return Ok((outcome, Some(finished)));
        }
        let shown = self.relevant(remarks);
        let said = format!(
            "oelint-adv looked at {}; {} of its {} {} on lines that count",
            count(files.len() as u64, "file"),
            shown.len(),
            count(all as u64, "finding"),
            if shown.len() == 1 { "is" } else { "are" }
        );
        self.runner.events.info(said).await;
        let outcome = judge(&shown);
        for finding in shown {
            self.runner.events.emit(EventKind::Finding(finding)).await;
        }
        Ok((outcome, Some(finished)))
    }

    fn command(&self, scratch: &Path, report: &Path, files: &[PathBuf]) -> Result<Command> {
        let program = self.settings.find_program(OELINT)?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let files: Vec<PathBuf> = files.iter().map(|file| self.settings.checkout.join(file)).collect();
        // Not in the checkout, where it would find another configuration.
        let mut command = Command::new(program, scratch, PROGRAM)
            .args(oelint::arguments(self.settings.release, jobs, report, &files))
            .status("oelint-adv looks at the layers");
        command.environment = host_environment(&self.configured.whoami, &[]);
        command.environment.set("PYTHONDONTWRITEBYTECODE", "1");
        match self.config()? {
            Some(config) => command.environment.set("OELINT_CONFIG", config),
            None => command.environment.set("OELINT_SKIP_CONFIG", "1"),
        };
        command.user = self.configured.user.clone();
        Ok(command)
    }

    /// The configuration file, if there is one.
    fn config(&self) -> Result<Option<PathBuf>> {
        let root = match (&self.comparison.base, self.settings.has_rules_of_base) {
            (Ok(base), true) => base,
            // Never the change's.
            (Err(_), true) => return Ok(None),
            (_, false) => &self.settings.checkout,
        };
        let config = root.join(CONFIG);
        match untrusted::read_named(&config, untrusted::PAGE) {
            Ok(bytes) if oelint::fixes_files(&String::from_utf8_lossy(&bytes)) => {
                Err(Error::usage(format!("`{CONFIG}` sets `fix`, and a check must not change the layer"))
                    .hint("remove the key, and run `oelint-adv --fix` by hand"))
            }
            Ok(_) => Ok(Some(config)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::usage(format!("`{CONFIG}` cannot be read")).because(&error)),
        }
    }

    /// The findings on lines that count, each once: an included file belongs to several recipes.
    fn relevant(&self, remarks: Vec<Remark>) -> Vec<Finding> {
        let mut seen = BTreeSet::new();
        let mut findings = Vec::new();
        for remark in remarks {
            let Ok(file) = remark.file.strip_prefix(&self.settings.checkout) else { continue };
            let key = (file.to_owned(), remark.line, remark.rule.clone(), remark.message.clone());
            if self.changes.touches_line(file, remark.line) && seen.insert(key) {
                findings.push(Finding {
                    unit: self.unit.clone(),
                    level: remark.level,
                    rule: remark.rule,
                    message: remark.message,
                    file: Some(file.to_owned()),
                    line: Some(remark.line),
                    hint: None,
                });
            }
        }
        findings
    }
}

/// The files for the tool: the changed ones, and those that include a changed file, directly or through others.
fn files_to_lint(checkout: &Path, layers: &[PathBuf], changes: &Changes) -> Vec<PathBuf> {
    let all = changed_lines::files(checkout, layers);
    let is_metadata =
        |file: &&PathBuf| oelint::is_linted(file) || file.extension().is_some_and(|kind| kind == "inc");
    let mut wanted: BTreeSet<PathBuf> =
        all.iter().filter(is_metadata).filter(|file| changes.touches(file)).cloned().collect();
    let mut included: BTreeSet<String> = wanted.iter().filter_map(|file| name(file)).collect();
    if included.iter().any(|name| name.ends_with(".inc")) && changes.is_known() {
        let texts: Vec<(&PathBuf, Vec<String>)> = all
            .iter()
            .filter(is_metadata)
            .filter_map(|file| {
                let bytes = untrusted::read_named(&checkout.join(file), untrusted::SOURCE).ok()?;
                Some((file, includes(&String::from_utf8_lossy(&bytes))))
            })
            .collect();
        loop {
            let more: Vec<&PathBuf> = texts
                .iter()
                .filter(|(file, names)| {
                    !wanted.contains(*file) && names.iter().any(|name| included.contains(name))
                })
                .map(|(file, _)| *file)
                .collect();
            if more.is_empty() {
                break;
            }
            included.extend(more.iter().filter_map(|file| name(file)));
            wanted.extend(more.into_iter().cloned());
        }
    }
    wanted.into_iter().filter(|file| oelint::is_linted(file)).collect()
}

fn name(file: &Path) -> Option<String> {
    file.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// The names of the files that a recipe requires or includes.
fn includes(text: &str) -> Vec<String> {
    let files = text.lines().filter_map(|line| {
        let words = line.strip_prefix("require ").or_else(|| line.strip_prefix("include "))?;
        Some(words.split_whitespace().filter_map(|path| path.rsplit('/').next()).map(str::to_owned))
    });
    files.flatten().collect()
}

/// Why the run has no verdict: the exit status must agree with the report.
fn no_verdict(end: ExitReason, findings: usize) -> Option<Outcome> {
    match end {
        // Also with findings: `exit-zero` of the configuration.
        ExitReason::Exited(0) => None,
        ExitReason::Exited(1) if findings > 0 => None,
        ExitReason::Exited(status) => {
            Some(Outcome::NotRun(format!("oelint-adv ended with exit status {status} and named no finding")))
        }
        ExitReason::Signalled(signal) => {
            Some(Outcome::NotRun(format!("oelint-adv was ended by signal {signal}")))
        }
        ExitReason::Cancelled => Some(Outcome::Cancelled("a signal stopped the job".into())),
        ExitReason::TimedOut => Some(Outcome::TimedOut("[limits] job is over".into())),
        ExitReason::Stalled(silent) => Some(Outcome::TimedOut(format!(
            "oelint-adv was silent for {}",
            humantime::format_duration(silent)
        ))),
    }
}

fn judge(findings: &[Finding]) -> Outcome {
    let errors: Vec<&Finding> = findings.iter().filter(|finding| finding.level == Level::Error).collect();
    let Some(first) = errors.first() else { return Outcome::Passed };
    let file = first.file.as_deref().unwrap_or(Path::new("")).display();
    let more = if errors.len() > 1 { format!(" and {} more", errors.len() - 1) } else { String::new() };
    Outcome::Failed(format!("{file}:{}: {} ({}){more}", first.line.unwrap_or(1), first.message, first.rule))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::comparison::write;
    use super::*;

    #[test]
    fn files_that_include_a_changed_one_are_linted_too() {
        let top = tempfile::tempdir().unwrap();
        let [base, head] = ["base", "head"].map(|name| top.path().join(name));
        for root in [&base, &head] {
            write(root, "r/a/a_1.bb", "require a.inc\n");
            write(root, "r/b/b_1.bb", "SUMMARY = \"b\"\n");
            write(root, "r/c/c.inc", "include ../a/a.inc other.inc\n");
            write(root, "r/c/c_1.bb", "require recipes/c/c.inc\n");
            write(root, "r/d/d_%.bbappend", "# require a.inc\n");
            write(root, "README.md", "x\n");
        }
        let lint = || {
            let layers = [PathBuf::new()];
            let changes = Changes::between(&base, &head, &layers);
            let files = files_to_lint(&head, &layers, &changes);
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        write(&head, "README.md", "y\n");
        assert_eq!(lint(), [""; 0]);
        write(&head, "r/b/b_1.bb", "SUMMARY = \"c\"\n");
        assert_eq!(lint(), ["r/b/b_1.bb"]);
        write(&base, "r/a/a.inc", "X = \"1\"\n");
        write(&head, "r/a/a.inc", "X = \"2\"\n");
        assert_eq!(lint(), ["r/a/a_1.bb", "r/b/b_1.bb", "r/c/c_1.bb"]);
        let layers = [PathBuf::new()];
        assert_eq!(files_to_lint(&head, &layers, &Changes::everything()).len(), 4);
    }

    #[test]
    fn exit_status_and_report_have_to_agree() {
        for (end, findings, wanted) in [
            (ExitReason::Exited(0), 0, None),
            (ExitReason::Exited(1), 3, None),
            (ExitReason::Exited(0), 3, None),
            (ExitReason::Exited(1), 0, Some("not-run")),
            (ExitReason::Exited(70), 3, Some("not-run")),
            (ExitReason::Exited(2), 0, Some("not-run")),
            (ExitReason::Signalled(9), 0, Some("not-run")),
            (ExitReason::Cancelled, 0, Some("cancelled")),
            (ExitReason::TimedOut, 3, Some("timed-out")),
        ] {
            let outcome = no_verdict(end, findings);
            assert_eq!(outcome.as_ref().map(Outcome::word), wanted, "{end:?} {findings}");
        }
    }

    #[test]
    fn only_errors_fail() {
        let finding = |level| Finding {
            unit: unit(),
            level,
            rule: "oelint.x".into(),
            message: "bad".into(),
            file: Some("r/a_1.bb".into()),
            line: Some(7),
            hint: None,
        };
        assert_eq!(judge(&[finding(Level::Warning), finding(Level::Info)]), Outcome::Passed);
        let failed = judge(&[finding(Level::Warning), finding(Level::Error), finding(Level::Error)]);
        assert_eq!(failed.reason(), Some("r/a_1.bb:7: bad (oelint.x) and 1 more"));
    }
}
