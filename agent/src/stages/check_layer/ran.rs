//! One run of yocto-check-layer, and which of its failures may be reported: none that depends on a cached answer.

use agent_cache::signature_cache::ProvenanceSummary;
use agent_process::{CommandOutcome, ExitReason};
use agent_types::events::Finding;
use agent_types::outcome::Outcome;
use agent_yocto::check_layer::{self, FailureCause};

/// One run of the tool.
pub struct Ran {
    pub verdict: check_layer::Verdict,
    /// What the known failures made of it.
    pub findings: Vec<Finding>,
    /// Whether the tool itself found nothing wrong.
    pub passed: bool,
    /// Otherwise what it found wrong.
    pub failure_causes: Vec<FailureCause>,
    pub finished: CommandOutcome,
    /// What its answers depended on.
    pub given: ProvenanceSummary,
}

impl Ran {
    /// What of this verdict may not be reported, because it depends on cached answers or on files that are empty or
    /// missing. A run that was stopped is no verdict, and is never repeated: see [`Ran::withdraw_unproved`].
    pub fn doubtful(&self) -> Vec<&FailureCause> {
        if self.passed || !matches!(self.finished.end, ExitReason::Exited(_) | ExitReason::Signalled(_)) {
            return Vec::new();
        }
        let is_doubtful = |cause: &&FailureCause| self.was_given(cause) || self.has_no_files(cause);
        self.failure_causes.iter().filter(is_doubtful).collect()
    }

    pub fn was_given(&self, cause: &FailureCause) -> bool {
        !cause.kinds.is_disjoint(&self.given.stored)
    }

    /// Whether it compares files of signatures that are not where the tool looks for them.
    fn has_no_files(&self, cause: &FailureCause) -> bool {
        cause.uses_sigdata && (self.given.discarded || !cause.kinds.is_disjoint(&self.given.elsewhere))
    }

    /// A test that failed before the run was stopped stays failed, unless it depends on a cached answer: the run
    /// would have been repeated without it.
    pub fn withdraw_unproved(&mut self) {
        let why = |stopped: &str| {
            format!("it failed with a cached answer, and {stopped} before the check was repeated without")
        };
        let outcome = match self.finished.end {
            ExitReason::Cancelled => Outcome::Cancelled(why("the job was stopped")),
            ExitReason::TimedOut => Outcome::TimedOut(why("the job was stopped")),
            ExitReason::Stalled(silent) => {
                let silent = humantime::format_duration(silent);
                Outcome::TimedOut(why(&format!("yocto-check-layer was stopped after {silent} of silence")))
            }
            ExitReason::Exited(_) | ExitReason::Signalled(_) => return,
        };
        for case in &mut self.verdict.cases {
            let is_given =
                !check_layer::kind::depends_on(&case.name, &case.message).is_disjoint(&self.given.stored);
            if is_given && matches!(case.outcome, Outcome::Failed(_)) {
                case.outcome = outcome.clone();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use agent_yocto::check_layer::{JudgedCase, Kind, Kinds, Verdict};

    /// A failure may not be reported from a cached answer, and the run that would have shown it is not made.
    #[test]
    fn of_a_stopped_run_only_failures_without_cached_answers_stay() {
        let silent = ExitReason::Stalled(Duration::from_secs(60));
        for (end, given, wanted) in [
            (ExitReason::Cancelled, vec![], ["failed", "failed", "passed"]),
            (ExitReason::Cancelled, vec![Kind::World], ["failed", "failed", "passed"]),
            (ExitReason::Cancelled, vec![Kind::Parses], ["failed", "cancelled", "passed"]),
            (ExitReason::TimedOut, vec![Kind::Parses], ["failed", "timed-out", "passed"]),
            (silent, vec![Kind::Parses], ["failed", "timed-out", "passed"]),
            // These are repeated.
            (ExitReason::Exited(2), vec![Kind::Parses], ["failed", "failed", "passed"]),
            (ExitReason::Signalled(9), vec![Kind::Parses], ["failed", "failed", "passed"]),
        ] {
            let bad = || Outcome::Failed("bad".into());
            let cases = [("test_readme", bad()), ("test_parse", bad()), ("test_world", Outcome::Passed)];
            let case = |(name, outcome): (&str, Outcome)| JudgedCase {
                class: "common.CommonCheckLayer".into(),
                name: name.into(),
                outcome,
                message: String::new(),
            };
            let verdict = Verdict {
                outcome: Ok(Outcome::Cancelled("x".into())),
                cases: cases.map(case).to_vec(),
                tool_verdict: String::new(),
                by_cases: false,
            };
            let elapsed = Duration::ZERO;
            let finished = CommandOutcome { end, log: "/x".into(), bytes: 0, elapsed, tail: Vec::new() };
            let cause = FailureCause {
                what: "test_parse".into(),
                kinds: Kinds::from([Kind::Parses]),
                uses_sigdata: true,
            };
            let (passed, failure_causes) = (false, vec![cause]);
            let given =
                ProvenanceSummary { stored: given.into_iter().collect(), ..ProvenanceSummary::default() };
            let findings = Vec::new();
            let mut ran = Ran { verdict, findings, passed, failure_causes, finished, given };
            let is_repeated = matches!(end, ExitReason::Exited(_) | ExitReason::Signalled(_));
            assert_eq!(!ran.doubtful().is_empty(), is_repeated, "{end:?}");
            ran.withdraw_unproved();
            let words: Vec<_> = ran.verdict.cases.iter().map(|case| case.outcome.word()).collect();
            assert_eq!(words, wanted, "{end:?}");
        }
    }
}
