//! Failures that are known and forgiven for a while.

use agent_types::events::{Finding, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::verdict::Verdict;

/// A test that may fail for a while, from the known-failures file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFailure {
    /// `class.test_name` or `test_name`.
    pub test: String,
    /// The stage whose test it is: check or test.
    pub stage: Stage,
    /// Restricts it to one layer, by its directory's name.
    pub layer: Option<String>,
    pub reason: String,
    /// The first day on which it fails again, `YYYY-MM-DD`.
    pub expires: String,
    /// Whether that day has come.
    pub expired: bool,
}

/// Prefix of the reason of a forgiven failure.
pub const KNOWN_FAILURE: &str = "known failure";

const REMOVE_ENTRY: &str = "remove the entry from the known failures";

impl KnownFailure {
    /// The outcome of a known failure that failed with this reason.
    pub fn forgive(&self, why: &str) -> Outcome {
        let KnownFailure { reason, expires, .. } = self;
        if self.expired {
            Outcome::Failed(format!("{why} (known failure, but expired on {expires}: {reason})"))
        } else {
            Outcome::Skipped(format!("{KNOWN_FAILURE} until {expires}: {reason}"))
        }
    }

    /// The finding for an entry whose test passes.
    pub fn passes(&self, unit: &Unit) -> Finding {
        let message = format!("`{}` is a known failure, but it passes now", self.test);
        Finding::warning(unit, "known-failure-passes", message, REMOVE_ENTRY)
    }
}

/// Applies the known failures to the verdict on the layer of that directory name. The tool's own
/// verdict stays beside it. The findings name entries that are of no use any more.
///
/// A failing test that is known becomes skipped; one whose entry has expired fails and says so. A
/// layer in which nothing else failed passes, although the tool's exit status says otherwise.
pub fn apply_known(
    mut verdict: Verdict,
    known: &[KnownFailure],
    layer_name: &str,
    unit: &Unit,
) -> (Verdict, Vec<Finding>) {
    let mut findings = Vec::new();
    for entry in known.iter().filter(|entry| is_for(entry, layer_name)) {
        let mut met = false;
        for case in verdict.cases.iter_mut().filter(|case| names_test(&entry.test, &case.id())) {
            met = true;
            match &case.outcome {
                Outcome::Failed(why) => case.outcome = entry.forgive(why),
                Outcome::Passed => findings.push(entry.passes(unit)),
                _ => {}
            }
        }
        if !met {
            let message =
                format!("`{}` is a known failure, but yocto-check-layer has no such test", entry.test);
            findings.push(Finding::warning(unit, "known-failure-unknown", message, REMOVE_ENTRY));
        }
    }
    if verdict.by_cases {
        verdict.outcome = Ok(outcome_of(&verdict.cases));
    }
    (verdict, findings)
}

/// The entry that forgives the failure of a test of the layer, by the test's whole id; an expired one
/// forgives nothing.
pub fn forgiving<'a>(known: &'a [KnownFailure], id: &str, layer_name: &str) -> Option<&'a KnownFailure> {
    known.iter().find(|entry| !entry.expired && is_for(entry, layer_name) && names_test(&entry.test, id))
}

fn is_for(entry: &KnownFailure, layer_name: &str) -> bool {
    entry.stage == Stage::Check && entry.layer.as_deref().is_none_or(|layer| layer == layer_name)
}

/// Whether an entry's test is this one: `test_readme`, `CommonCheckLayer.test_readme` or the whole id.
pub fn names_test(test: &str, id: &str) -> bool {
    id == test || id.strip_suffix(test).is_some_and(|before| before.ends_with('.'))
}

/// All tests count; those that should have run and did not count as failures.
fn outcome_of(cases: &[super::JudgedCase]) -> Outcome {
    let first = cases.iter().find(|case| !case.outcome.is_success());
    match first {
        Some(case) => {
            Outcome::Failed(format!("{}: {}", case.name, case.outcome.reason().unwrap_or("failed")))
        }
        None if cases.iter().any(|case| case.outcome == Outcome::Passed) => Outcome::Passed,
        None => Outcome::Failed("no test passed: all are skipped or known failures".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::verdict::JudgedCase;
    use super::*;
    use agent_types::error::Error;
    use agent_types::stage::Stage;

    fn case(name: &str, outcome: Outcome) -> JudgedCase {
        JudgedCase {
            class: "common.CommonCheckLayer".into(),
            name: name.into(),
            outcome,
            message: "words".into(),
        }
    }

    #[test]
    fn only_a_living_entry_for_this_layer_forgives() {
        let entry = |test: &str, layer: Option<&str>, expired| KnownFailure {
            test: test.into(),
            stage: Stage::Check,
            layer: layer.map(str::to_owned),
            reason: "r".into(),
            expires: "2030-01-01".into(),
            expired,
        };
        let id = "common.CommonCheckLayer.test_readme";
        for (entry, wanted) in [
            (entry("test_readme", None, false), true),
            (entry("CommonCheckLayer.test_readme", Some("meta-x"), false), true),
            (entry("test_readme", None, true), false),
            (entry("test_readme", Some("meta-y"), false), false),
            (entry("readme", None, false), false),
        ] {
            assert_eq!(forgiving(std::slice::from_ref(&entry), id, "meta-x").is_some(), wanted, "{entry:?}");
        }
    }

    fn verdict(cases: Vec<JudgedCase>) -> Verdict {
        Verdict {
            outcome: Ok(Outcome::Failed("test_readme: x".into())),
            cases,
            tool_verdict: "FAIL, exit status 2".into(),
            by_cases: true,
        }
    }

    fn known(test: &str, expired: bool) -> KnownFailure {
        KnownFailure {
            test: test.into(),
            stage: Stage::Check,
            layer: None,
            reason: "waits for upstream".into(),
            expires: "2030-01-01".into(),
            expired,
        }
    }

    fn apply(verdict: Verdict, known: &[KnownFailure]) -> (Verdict, Vec<String>) {
        let (verdict, findings) = apply_known(verdict, known, "meta-x", &Unit::new(Stage::Check, "u"));
        (verdict, findings.into_iter().map(|finding| finding.rule).collect())
    }

    fn mixed() -> Verdict {
        verdict(vec![
            case("test_parse", Outcome::Passed),
            case("test_readme", Outcome::Failed("no README".into())),
        ])
    }

    #[test]
    fn a_known_failure_is_skipped_and_the_layer_passes() {
        for name in ["test_readme", "CommonCheckLayer.test_readme", "common.CommonCheckLayer.test_readme"] {
            let (verdict, findings) = apply(mixed(), &[known(name, false)]);
            assert_eq!(verdict.outcome, Ok(Outcome::Passed), "{name}");
            let why = "known failure until 2030-01-01: waits for upstream";
            assert_eq!(verdict.cases[1].outcome, Outcome::Skipped(why.into()));
            assert_eq!(verdict.cases[1].message, "words");
            assert_eq!(verdict.tool_verdict, "FAIL, exit status 2");
            assert_eq!(findings, Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_not_known_any_more_fails() {
        let (expired, _) = apply(mixed(), &[known("test_readme", true)]);
        let Ok(Outcome::Failed(why)) = expired.outcome else { panic!("{:?}", expired.outcome) };
        assert!(why.contains("no README") && why.contains("expired on 2030-01-01"), "{why}");

        // `readme` is not a test's name, nor is a part of one.
        for name in ["readme", "est_readme", "test_read"] {
            let (other, findings) = apply(mixed(), &[known(name, false)]);
            assert!(matches!(other.outcome, Ok(Outcome::Failed(_))), "{name}");
            assert_eq!(findings, ["known-failure-unknown"], "{name}");
        }

        let mut elsewhere = known("test_readme", false);
        elsewhere.layer = Some("meta-y".into());
        let (verdict, findings) = apply(mixed(), &[elsewhere]);
        assert!(matches!(verdict.outcome, Ok(Outcome::Failed(_))));
        assert_eq!(findings, Vec::<String>::new());
    }

    #[test]
    fn an_entry_for_a_test_that_passes_should_go() {
        let (_, findings) = apply(mixed(), &[known("test_parse", false), known("test_readme", false)]);
        assert_eq!(findings, ["known-failure-passes"]);
    }

    #[test]
    fn it_forgives_neither_what_did_not_run_nor_what_is_no_test() {
        let not_run = verdict(vec![
            case("test_parse", Outcome::Passed),
            case("test_world", Outcome::NotRun("ended".into())),
        ]);
        let (not_run, _) = apply(not_run, &[known("test_world", false)]);
        assert!(matches!(not_run.outcome, Ok(Outcome::Failed(_))));

        let nothing = verdict(vec![case("test_readme", Outcome::Failed("x".into()))]);
        let (nothing, _) = apply(nothing, &[known("test_readme", false)]);
        assert!(matches!(nothing.outcome, Ok(Outcome::Failed(_))));

        let mut skipped = mixed();
        skipped.by_cases = false;
        let (skipped, _) = apply(skipped, &[known("test_readme", false)]);
        assert!(matches!(skipped.outcome, Ok(Outcome::Failed(_))));

        let mut broken = mixed();
        broken.by_cases = false;
        broken.outcome = Err(Error::internal("x"));
        assert!(apply(broken, &[known("test_readme", false)]).0.outcome.is_err());
    }
}
