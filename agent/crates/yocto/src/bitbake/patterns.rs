//! The lines of BitBake's console that a build follows.

use std::sync::LazyLock;

use regex::Regex;

/// The warning of `testimage.bbclass` at the end of `TEST_OVERALL_TIMEOUT`.
pub const TESTS_TIMED_OUT: &str = "Global test timeout reached";

pub static STARTED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^NOTE: recipe (\S+): task (do_\w+|\w+): (Started|Succeeded|Failed)$"));
pub static RUNNING: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^NOTE: Running (?:setscene )?task (\d+) of (\d+) \("));
pub static LOGFILE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^ERROR: Logfile of failure stored in: (/.*)$"));
pub static FAILED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^ERROR: Task (?:\d+ )?\((.*\.bb):(do_\w+)\) failed with exit code"));
pub static SETSCENE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^WARNING: (?:Logfile .*)?Setscene task (?:\d+ )?\(.*\) failed with exit code"));
pub static SETSCENE_ERROR: LazyLock<Regex> = LazyLock::new(|| regex(r"^ERROR: \S+ do_\w+_setscene: "));
pub static ERRORS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^Summary: There (?:was|were) (\d+) ERROR message"));
/// `meta/classes/sstate.bbclass` of OE-Core: `Found` up to gatesgarth, `Network` in hardknott and honister, `Mirrors` later.
pub static SSTATE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"Sstate summary: Wanted (\d+) (?:Local (\d+) (?:Mirrors|Network) (\d+)|Found (\d+)) Missed (\d+) Current (\d+)",
    )
});
pub static SUMMARY: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^NOTE: Tasks Summary: Attempted (\d+) tasks of which (\d+) didn't need to be rerun and (?:(\d+) failed|all succeeded)\.$",
    )
});
/// The closing lines of `lib/bb/ui/knotty.py`, dunfell to master.
pub static FAILED_END: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^(?:Summary: There (?:was|were) \d+ ERROR messages?(?: shown)?, returning a non-zero exit code\.|Summary: \d+ tasks? failed:?|Execution was interrupted, returning a non-zero exit code\.)$",
    )
});

#[allow(
    clippy::expect_used,
    reason = "the patterns are constants of this file, and the tests of the parent use each of them"
)]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}
