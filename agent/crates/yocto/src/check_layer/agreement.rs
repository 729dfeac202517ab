//! Whether all that yocto-check-layer printed about its tests agrees.
//!
//! What a layer prints can stand in the message of a failing test, and may imitate the tool's own lines. But the
//! tool's own lines are printed all the same: each imitation makes one of these counts wrong, or is there twice.

use super::output::{CaseVerdict, Parsed, TestCase, Totals};

/// The first disagreement, for people. `None`: tests, headings, counts and unittest's result tell one story.
pub fn disagreement(parsed: &Parsed) -> Option<String> {
    if let Some(conflict) = parsed.conflicts.first() {
        return Some(conflict.clone());
    }
    if !parsed.traceback.is_empty() {
        return Some("its output ends with a traceback".into());
    }
    let Some(ran) = parsed.tests_run else { return Some("no line says how many tests ran".into()) };
    let Some(totals) = parsed.totals else {
        return Some("unittest's result (`OK` or `FAILED`) is missing".into());
    };
    let tests = || parsed.cases.iter().filter(|case| !case.is_set_up());
    let shown = tests().filter(|case| case.started).count() as u64;
    if ran != shown {
        return Some(format!("`Ran {ran} tests`, but {shown} are shown"));
    }
    tests().find_map(lonely).or_else(|| headings(parsed, totals))
}

/// A test without a result, or whose headings contradict its result.
fn lonely(case: &TestCase) -> Option<String> {
    let id = format!("{}.{}", case.class, case.name);
    let listed = !case.headings.is_empty();
    match &case.verdict {
        _ if !case.started => Some(format!("{id} is listed as a failure, but it never started")),
        CaseVerdict::Unfinished => Some(format!("{id} has no result")),
        verdict if verdict.is_failure() && !listed => {
            Some(format!("{id} failed, but it is not in the list of failures"))
        }
        _ => None,
    }
}

/// The list of failures against unittest's counts.
fn headings(parsed: &Parsed, totals: Totals) -> Option<String> {
    let count = |wanted: &CaseVerdict| {
        parsed.cases.iter().flat_map(|case| &case.headings).filter(|heading| *heading == wanted).count()
            as u64
    };
    let (failures, errors) = (count(&CaseVerdict::Fail), count(&CaseVerdict::Error));
    if (totals.failures, totals.errors) != (failures, errors) {
        return Some(format!(
            "unittest counts {} failures and {} errors, but {failures} and {errors} are listed",
            totals.failures, totals.errors
        ));
    }
    let failed = parsed.cases.iter().any(|case| case.verdict.is_failure());
    match (totals.failed, failed, failures + errors > 0) {
        (false, false, false) | (true, true, true) => None,
        (true, ..) => Some("unittest says FAILED, but no test did".into()),
        (false, ..) => Some("unittest says OK, but a test failed".into()),
    }
}
