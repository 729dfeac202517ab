//! The outcome of a unit of work, and the exit status of the process.
//!
//! A failing layer is an [`Outcome`]. A failure of the agent or the machine is an
//! [`Error`](crate::error::Error). They have different exit statuses.

use serde::{Deserialize, Serialize};

/// The outcome of a stage, a check, a target or a test case. All except `Passed` have a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "kebab-case")]
pub enum Outcome {
    /// It ran, and the checks passed.
    Passed,
    /// It failed, and passed when it was run again without a change. Counts as a success, and is never reported as
    /// passed.
    Flaky(String),
    /// It ran, and the layer, the build or the test failed.
    Failed(String),
    /// It was skipped on purpose.
    Skipped(String),
    /// It should have run but did not; never counts as a success.
    NotRun(String),
    /// A time limit stopped it.
    TimedOut(String),
    /// A signal stopped it.
    Cancelled(String),
}

impl Outcome {
    /// The word that reports use.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Flaky(_) => "flaky",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
            Outcome::NotRun(_) => "not-run",
            Outcome::TimedOut(_) => "timed-out",
            Outcome::Cancelled(_) => "cancelled",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Outcome::Passed => None,
            Outcome::Flaky(why)
            | Outcome::Failed(why)
            | Outcome::Skipped(why)
            | Outcome::NotRun(why)
            | Outcome::TimedOut(why)
            | Outcome::Cancelled(why) => Some(why),
        }
    }

    /// The same with another reason, made from the present one.
    #[must_use]
    pub fn map_reason(&self, change: impl FnOnce(&str) -> String) -> Outcome {
        match self {
            Outcome::Passed => Outcome::Passed,
            Outcome::Flaky(why) => Outcome::Flaky(change(why)),
            Outcome::Failed(why) => Outcome::Failed(change(why)),
            Outcome::Skipped(why) => Outcome::Skipped(change(why)),
            Outcome::NotRun(why) => Outcome::NotRun(change(why)),
            Outcome::TimedOut(why) => Outcome::TimedOut(change(why)),
            Outcome::Cancelled(why) => Outcome::Cancelled(change(why)),
        }
    }

    /// Whether later stages may depend on it: passed, if only in a rerun, or skipped on purpose.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Passed | Outcome::Flaky(_) | Outcome::Skipped(_))
    }

    /// Whether the agent stopped it before it ended on its own.
    pub fn was_stopped(&self) -> bool {
        matches!(self, Outcome::TimedOut(_) | Outcome::Cancelled(_))
    }

    /// The worst outcome of a group. `None` for an empty group: the caller decides what an empty group means,
    /// because it is never a pass.
    pub fn worst<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Option<&'a Outcome> {
        // Of equally bad outcomes the first wins: its reason should be read first.
        outcomes.into_iter().fold(None, |worst, one| match worst {
            Some(w) if w.gravity() >= one.gravity() => Some(w),
            _ => Some(one),
        })
    }

    fn gravity(&self) -> u8 {
        match self {
            Outcome::Skipped(_) => 0,
            Outcome::Passed => 1,
            Outcome::Flaky(_) => 2,
            Outcome::NotRun(_) => 3,
            Outcome::Failed(_) => 4,
            Outcome::TimedOut(_) => 5,
            Outcome::Cancelled(_) => 6,
        }
    }
}

/// The exit status of the program. This is the only place that assigns the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// 0: everything that was requested ran and passed.
    Passed,
    /// 1: a check, build or test failed.
    Failed,
    /// 2: the manifest or the command line is wrong; nothing ran.
    Usage,
    /// 3: this machine is not ready (user, tools, locale, disk, another job in the same directory).
    Machine,
    /// 4: something upstream (git, mirror, AWS) was not reachable.
    Upstream,
    /// 5: the time limit was reached; results so far are saved.
    OutOfTime,
    /// 70: internal error of the agent (`EX_SOFTWARE` of sysexits.h).
    Internal,
    /// 130: cancelled by a signal (128 + SIGINT, as in shells).
    Cancelled,
}

impl ExitStatus {
    pub const ALL: [ExitStatus; 8] = [
        ExitStatus::Passed,
        ExitStatus::Failed,
        ExitStatus::Usage,
        ExitStatus::Machine,
        ExitStatus::Upstream,
        ExitStatus::OutOfTime,
        ExitStatus::Internal,
        ExitStatus::Cancelled,
    ];

    pub const fn code(self) -> u8 {
        match self {
            ExitStatus::Passed => 0,
            ExitStatus::Failed => 1,
            ExitStatus::Usage => 2,
            ExitStatus::Machine => 3,
            ExitStatus::Upstream => 4,
            ExitStatus::OutOfTime => 5,
            ExitStatus::Internal => 70,
            ExitStatus::Cancelled => 130,
        }
    }

    /// The reverse of [`ExitStatus::code`].
    pub fn from_code(code: i32) -> Option<ExitStatus> {
        ExitStatus::ALL.into_iter().find(|status| i32::from(status.code()) == code)
    }

    /// The description for `--help` and the README.
    pub const fn meaning(self) -> &'static str {
        match self {
            ExitStatus::Passed => "passed",
            ExitStatus::Failed => "a check, build or test failed",
            ExitStatus::Usage => "invalid manifest or command line",
            ExitStatus::Machine => "machine not ready (see `build-agent doctor`)",
            ExitStatus::Upstream => "upstream (git, mirror, AWS) not reachable",
            ExitStatus::OutOfTime => "time limit reached, results so far are saved",
            ExitStatus::Internal => "internal error of the agent",
            ExitStatus::Cancelled => "cancelled",
        }
    }

    /// The exit status of a job with this outcome, if no error occurred.
    pub fn of(outcome: &Outcome) -> ExitStatus {
        match outcome {
            Outcome::Passed | Outcome::Flaky(_) | Outcome::Skipped(_) => ExitStatus::Passed,
            Outcome::Failed(_) | Outcome::NotRun(_) => ExitStatus::Failed,
            Outcome::TimedOut(_) => ExitStatus::OutOfTime,
            Outcome::Cancelled(_) => ExitStatus::Cancelled,
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn worst_outcome_decides() {
        let failed = Outcome::Failed("first".into());
        let table: [(&[Outcome], Option<Outcome>); 5] = [
            (&[], None),
            (&[Outcome::Passed, Outcome::Skipped("no".into())], Some(Outcome::Passed)),
            (&[Outcome::Passed, Outcome::NotRun("x".into())], Some(Outcome::NotRun("x".into()))),
            (&[failed.clone(), Outcome::Failed("second".into())], Some(failed.clone())),
            (
                &[failed.clone(), Outcome::Cancelled("signal".into()), Outcome::TimedOut("t".into())],
                Some(Outcome::Cancelled("signal".into())),
            ),
        ];
        for (given, wanted) in table {
            assert_eq!(Outcome::worst(given).cloned(), wanted, "{given:?}");
        }
    }

    #[test]
    fn serializes_outcome_and_reason() {
        let json = serde_json::to_string(&Outcome::NotRun("no machines".into())).unwrap();
        assert_eq!(json, r#"{"outcome":"not-run","reason":"no machines"}"#);
        assert_eq!(serde_json::to_string(&Outcome::Passed).unwrap(), r#"{"outcome":"passed"}"#);
    }

    #[test]
    fn exit_codes_are_unique() {
        let mut codes = ExitStatus::ALL.map(ExitStatus::code).to_vec();
        codes.dedup();
        assert_eq!(codes.len(), ExitStatus::ALL.len());
    }
}
