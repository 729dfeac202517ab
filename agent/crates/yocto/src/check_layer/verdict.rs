//! The verdict guard: what may be concluded from a run of yocto-check-layer.
//!
//! Exit status, summary and test cases are three witnesses of the same run. Where they agree, the
//! verdict is theirs. Where they do not, that is an error of the agent's and never a pass.
//!
//! Exit statuses of the tool: 0 passed, or a layer that was already in `BBLAYERS` and so was not
//! looked at; 1 it stopped before testing; 2 a layer failed or was skipped. Source:
//! `scripts/yocto-check-layer` of OE-Core.

use std::time::Duration;

use crate::host;
use agent_process::ExitReason;
use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;

use super::agreement::disagreement;
use super::cases::ExpectedCase;
use super::kind::{Kind, Kinds, depends_on, uses_sigdata};
use super::output::{CaseVerdict, Parsed, TestCase};
use super::reason::reason;
use crate::python::is_exception;

/// Tests that are reported although no file of the release has them; more can only be a layer's play.
const MOST_UNKNOWN: usize = 20;

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedCase {
    pub class: String,
    pub name: String,
    pub outcome: Outcome,
    /// The tool's own words.
    pub message: String,
}

impl JudgedCase {
    /// `common.CommonCheckLayer.test_readme`
    pub fn id(&self) -> String {
        format!("{}.{}", self.class, self.name)
    }
}

/// What became of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// An `Err` where nothing can be concluded about the layer.
    pub outcome: Result<Outcome>,
    /// Every expected test, then what else showed up.
    pub cases: Vec<JudgedCase>,
    /// The tool's own verdict, e.g. `FAIL, exit status 2`. Known failures do not change it.
    pub tool_verdict: String,
    /// The outcome follows from the cases alone.
    pub by_cases: bool,
}

/// One of the things that went wrong, and what that rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureCause {
    /// The test's name, or words for people.
    pub what: String,
    /// The answers that it rests on.
    pub kinds: Kinds,
    /// Whether it tells what BitBake's files of signatures hold.
    pub uses_sigdata: bool,
}

impl Verdict {
    /// Of a verdict that is no pass.
    pub fn failure_causes(&self) -> Vec<FailureCause> {
        if !self.by_cases {
            let kinds = Kinds::from(Kind::ALL);
            return vec![FailureCause { what: "its end".into(), kinds, uses_sigdata: false }];
        }
        let wrong = self.cases.iter().filter(|case| !case.outcome.is_success());
        let cause = |case: &JudgedCase| FailureCause {
            what: case.name.clone(),
            kinds: depends_on(&case.name, &case.message),
            uses_sigdata: uses_sigdata(&case.name, &case.message),
        };
        wrong.map(cause).collect()
    }
}

/// Concludes. `layer_name` is the name of the layer's directory with links resolved.
pub fn judge(expected: &[ExpectedCase], parsed: &Parsed, end: ExitReason, layer_name: &str) -> Verdict {
    let status = parsed.summary.iter().rev().find(|(name, _)| name == layer_name);
    let status = status.map(|(_, status)| status.as_str());
    let disagreement = disagreement(parsed);
    let run = Run { parsed, status, end, layer_name, disagreement };
    let cases = run.cases(expected);
    let outcome = run.outcome(&cases);
    let by_cases = matches!(outcome, Ok(Outcome::Failed(_))) && status == Some("FAIL");
    let tool_verdict = format!("{}, {}", status.unwrap_or("no summary"), ended(end));
    Verdict { outcome, cases, tool_verdict, by_cases }
}

struct Run<'a> {
    parsed: &'a Parsed,
    /// What the summary says of the layer.
    status: Option<&'a str>,
    end: ExitReason,
    layer_name: &'a str,
    /// What the tool says of its tests, where that contradicts itself.
    disagreement: Option<String>,
}

impl Run<'_> {
    fn outcome(&self, cases: &[JudgedCase]) -> Result<Outcome> {
        match self.end {
            ExitReason::Cancelled => Ok(Outcome::Cancelled("cancelled while yocto-check-layer ran".into())),
            ExitReason::TimedOut => {
                Ok(Outcome::TimedOut("yocto-check-layer was stopped at the time limit".into()))
            }
            ExitReason::Stalled(silent) => Ok(Outcome::TimedOut(stalled(silent))),
            ExitReason::Signalled(signal) => Err(killed(signal)),
            ExitReason::Exited(0) => self.after_success(cases),
            ExitReason::Exited(1) => self.after_early_stop(),
            ExitReason::Exited(2) => self.after_failure(cases),
            ExitReason::Exited(code @ (126 | 127)) => {
                Err(Error::machine(format!("yocto-check-layer could not be started (exit status {code})"))
                    .hint("check that the OE-Core checkout is complete and python3 is installed"))
            }
            // A shell's way to say that a signal ended its child.
            ExitReason::Exited(code @ 129..=192) => Err(killed(code - 128)),
            ExitReason::Exited(code) => {
                Err(self.contradiction(&format!("exit status {code} is not one of the tool's")))
            }
        }
    }

    fn after_success(&self, cases: &[JudgedCase]) -> Result<Outcome> {
        match self.status {
            Some("PASS") => {}
            Some(status) => {
                return Err(self.contradiction(&format!("exit status 0, but the summary says `{status}`")));
            }
            None if self.already_in_bblayers() && !self.saw_tests() => {
                return Ok(Outcome::Failed(self.in_bblayers_reason()));
            }
            None => return Err(self.contradiction("exit status 0 without a summary for the layer")),
        }
        if let Some(case) = cases.iter().find(|case| !case.outcome.is_success()) {
            let what = format!("PASS, but {} is {}", case.id(), case.outcome.word());
            return Err(self.contradiction(&what));
        }
        if self.parsed.tests_run == Some(0) {
            return Err(self.contradiction("PASS, but no test ran"));
        }
        if let Some(what) = &self.disagreement {
            return Err(self.contradiction(&format!("PASS, but {what}")));
        }
        let verdicts = || self.parsed.cases.iter().map(|case| &case.verdict);
        if verdicts().any(|verdict| matches!(verdict, CaseVerdict::Ok | CaseVerdict::UnexpectedSuccess)) {
            return Ok(Outcome::Passed);
        }
        if verdicts().any(|verdict| *verdict == CaseVerdict::ExpectedFailure) {
            return Err(
                self.contradiction("PASS, but no test succeeded: all are skipped or failed as expected")
            );
        }
        let why = "yocto-check-layer says PASS, but skipped every test: nothing was proved";
        Ok(Outcome::Failed(why.into()))
    }

    fn after_failure(&self, cases: &[JudgedCase]) -> Result<Outcome> {
        if self.status.is_some_and(|status| status != "FAIL") && self.saw_tests() {
            let status = self.status.unwrap_or_default();
            return Err(self.contradiction(&format!("tests ran, but the summary says `{status}`")));
        }
        if self.status == Some("FAIL (Generating world signatures)")
            && let Some(trouble) = host::trouble(&self.parsed.before_the_layer.text())
        {
            return Err(trouble);
        }
        match self.status {
            Some("FAIL") => match cases.iter().find(|case| matches!(case.outcome, Outcome::Failed(_))) {
                Some(case) => {
                    if let Some(what) = &self.disagreement {
                        return Err(self.contradiction(&format!("FAIL, but {what}")));
                    }
                    let others =
                        cases.iter().filter(|case| matches!(case.outcome, Outcome::Failed(_))).count() - 1;
                    Ok(Outcome::Failed(first_of(case, others)))
                }
                None => Err(self.contradiction("FAIL, but no test failed")),
            },
            Some("FAIL (Generating world signatures)") => Ok(Outcome::Failed(format!(
                "the recipes cannot be read even before `{}` is added, so that it was not tested{}",
                self.layer_name,
                self.first_error().map(|error| format!(": {error}")).unwrap_or_default()
            ))),
            Some(skipped) if skipped.starts_with("SKIPPED") => Ok(Outcome::Failed(self.skip_reason(skipped))),
            Some(failed) if failed.starts_with("FAIL") => Ok(Outcome::Failed(failed.to_owned())),
            Some(other) => Err(self.contradiction(&format!("exit status 2, but the summary says `{other}`"))),
            None if self.already_in_bblayers() && !self.saw_tests() => {
                Ok(Outcome::Failed(self.in_bblayers_reason()))
            }
            None if self.parsed.usage => {
                Err(Error::internal("yocto-check-layer does not understand the agent's command line")
                    .hint("report it with the release and the log of the run"))
            }
            None => Err(self.contradiction("exit status 2 without a summary for the layer")),
        }
    }

    /// Whether anything says that tests were run.
    fn saw_tests(&self) -> bool {
        let Parsed { tests_run, totals, cases, .. } = self.parsed;
        tests_run.is_some() || totals.is_some() || cases.iter().any(|case| !case.is_set_up())
    }

    /// Exit status 1: the tool found nothing to test, or broke.
    fn after_early_stop(&self) -> Result<Outcome> {
        if self.already_in_bblayers() {
            return Ok(Outcome::Failed(self.in_bblayers_reason()));
        }
        let traceback = self.parsed.traceback.text();
        if let Some(trouble) = host::trouble(&traceback) {
            return Err(trouble);
        }
        if let Some(cause) = traceback.lines().rev().find(|line| is_exception(line)) {
            return self.after_crash(cause);
        }
        // `Failed layer validation` and the like only repeat what came before them.
        if let Some(trouble) = self.parsed.trouble.first() {
            return Ok(Outcome::Failed(format!("{trouble}; no test ran")));
        }
        Err(self.contradiction("exit status 1 without a word why"))
    }

    /// The layer is to blame for its own layer.conf; the rest is the tool's or the machine's.
    fn after_crash(&self, cause: &str) -> Result<Outcome> {
        let path = cause
            .split_once("Parsing of layer.conf from layer: ")
            .and_then(|(_, rest)| rest.strip_suffix(" failed"));
        match path {
            Some(path) if path.rsplit('/').next() == Some(self.layer_name) => {
                let why = self.first_error().map(|error| format!(": {error}")).unwrap_or_default();
                Ok(Outcome::Failed(format!("conf/layer.conf does not parse{why}; no test ran")))
            }
            Some(path) => {
                Err(Error::usage(format!("conf/layer.conf of the dependency `{path}` does not parse"))
                    .hint("check the branch of its repo, or leave the layer out"))
            }
            None => Err(Error::internal(format!("yocto-check-layer crashed: {cause}"))
                .hint("the traceback is in the log of the run")),
        }
    }

    fn already_in_bblayers(&self) -> bool {
        self.parsed.already_in_bblayers.iter().any(|name| name == self.layer_name)
    }

    fn in_bblayers_reason(&self) -> String {
        format!(
            "`{}` is already in BBLAYERS, so that yocto-check-layer did not test it; leave it out of [repos] layers",
            self.layer_name
        )
    }

    fn skip_reason(&self, status: &str) -> String {
        let advice = match status {
            "SKIPPED (Missing dependencies)" => {
                "add the layers that its LAYERDEPENDS asks for to [repos]".to_owned()
            }
            "SKIPPED (Layer under test should not present in BBLAYERS)" => return self.in_bblayers_reason(),
            _ => "the log of the run says why".to_owned(),
        };
        let found: Vec<_> = self
            .parsed
            .trouble
            .iter()
            .filter(|line| line.contains(" depends on "))
            .map(String::as_str)
            .collect();
        let found = if found.is_empty() { String::new() } else { format!(": {}", found.join(" ")) };
        format!("yocto-check-layer did not test the layer, {status}{found}; {advice}")
    }

    fn first_error(&self) -> Option<String> {
        let text = self.parsed.before_the_layer.text();
        let printed =
            text.lines().find_map(|line| line.split_once("ERROR: ").map(|(_, rest)| rest.to_owned()));
        printed.or_else(|| self.parsed.trouble.first().cloned())
    }

    fn contradiction(&self, what: &str) -> Error {
        Error::internal(format!("yocto-check-layer contradicts itself about `{}`: {what}", self.layer_name))
            .hint("read the log of the run; nothing is concluded about the layer")
    }

    fn cases(&self, expected: &[ExpectedCase]) -> Vec<JudgedCase> {
        let mut judged: Vec<JudgedCase> =
            expected.iter().map(|case| self.judge_expected(&case.class, &case.name)).collect();
        for case in &self.parsed.cases {
            let there = judged.iter().any(|known| known.class == case.class && known.name == case.name);
            let has_space = judged.len() < expected.len() + MOST_UNKNOWN;
            // A class that is skipped as a whole shows in its tests; one that broke shows by itself.
            if !there && has_space && (!case.is_set_up() || case.verdict.is_failure()) {
                judged.push(self.judge_seen(case));
            }
        }
        judged
    }

    fn judge_expected(&self, class: &str, name: &str) -> JudgedCase {
        let mut seen: Vec<_> = self
            .parsed
            .cases
            .iter()
            .filter(|case| case.class == class && case.name == name)
            .map(|case| self.judge_seen(case))
            .collect();
        // Once is the rule; should a test show up twice, the graver counts.
        seen.sort_by_key(|case| !matches!(case.outcome, Outcome::Failed(_)));
        seen.into_iter().next().unwrap_or_else(|| JudgedCase {
            class: class.to_owned(),
            name: name.to_owned(),
            outcome: self.unseen(class),
            message: String::new(),
        })
    }

    fn judge_seen(&self, case: &TestCase) -> JudgedCase {
        let message = case.message.text();
        let outcome = match &case.verdict {
            CaseVerdict::Ok | CaseVerdict::UnexpectedSuccess => Outcome::Passed,
            CaseVerdict::Fail | CaseVerdict::Error => Outcome::Failed(reason(&message)),
            CaseVerdict::Skipped(why) => Outcome::Skipped(why.clone()),
            CaseVerdict::ExpectedFailure => {
                Outcome::Skipped(format!("expected failure: {}", reason(&message)))
            }
            CaseVerdict::Unfinished => self.unfinished(),
        };
        JudgedCase { class: case.class.clone(), name: case.name.clone(), outcome, message }
    }

    /// A test that was not heard of, alone: its class may have been skipped or broken as a whole.
    fn unseen(&self, class: &str) -> Outcome {
        let bare = class.rsplit('.').next().unwrap_or(class);
        let set_up = self
            .parsed
            .cases
            .iter()
            .find(|case| case.is_set_up() && (case.class == class || case.class == bare));
        match set_up.map(|case| (&case.verdict, &case.name)) {
            Some((CaseVerdict::Skipped(why), _)) => Outcome::Skipped(why.clone()),
            Some((verdict, name)) if verdict.is_failure() => {
                Outcome::NotRun(format!("{name} of {bare} failed"))
            }
            _ => self.unfinished(),
        }
    }

    /// Of a test that had no end. When the agent stopped the tool, what was printed after that is not here:
    /// see [`agent_process::UntilStopped`].
    fn unfinished(&self) -> Outcome {
        match self.end {
            ExitReason::Cancelled => {
                return Outcome::Cancelled("the job was cancelled before this test ended".into());
            }
            ExitReason::TimedOut => {
                return Outcome::TimedOut("yocto-check-layer was stopped before this test ended".into());
            }
            ExitReason::Stalled(silent) => return Outcome::TimedOut(stalled(silent)),
            ExitReason::Exited(_) | ExitReason::Signalled(_) => {}
        }
        Outcome::NotRun(match self.status {
            Some(status) if status != "PASS" && status != "FAIL" => {
                format!("the layer was not tested: {status}")
            }
            _ => format!("yocto-check-layer ended before it: {}", ended(self.end)),
        })
    }
}

fn stalled(silent: Duration) -> String {
    format!("yocto-check-layer was silent for {} and was stopped", humantime::format_duration(silent))
}

fn killed(signal: i32) -> Error {
    let name = match signal {
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    };
    let hint = if signal == 9 {
        "out of memory is the usual cause: give the machine more, or lower BB_NUMBER_THREADS"
    } else {
        "something outside the agent sent it, or Python broke"
    };
    Error::machine(format!("yocto-check-layer was killed by signal {signal}{name}")).hint(hint)
}

fn ended(end: ExitReason) -> String {
    match end {
        ExitReason::Exited(code) => format!("exit status {code}"),
        ExitReason::Signalled(signal) => format!("signal {signal}"),
        ExitReason::Cancelled => "cancelled".into(),
        ExitReason::TimedOut => "stopped at the time limit".into(),
        ExitReason::Stalled(silent) => format!("stalled for {}", humantime::format_duration(silent)),
    }
}

fn first_of(case: &JudgedCase, others: usize) -> String {
    let more = match others {
        0 => String::new(),
        1 => " (and 1 other test failed)".to_owned(),
        n => format!(" (and {n} other tests failed)"),
    };
    format!("{}: {}{more}", case.name, case.outcome.reason().unwrap_or("failed"))
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
