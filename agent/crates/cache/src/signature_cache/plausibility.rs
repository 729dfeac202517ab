//! Whether what BitBake answered can be relied on, judged by its exit status, its output and `locked-sigs.inc`.

use agent_process::ExitReason;

use super::bitbake_runner::Ran;
use super::protocol::Answer;
use super::{CacheResult, CacheableQuery, NotCacheable};

/// Words in BitBake's output after which nothing is stored although it ended well.
const DOUBTS: [&str; 5] = [
    "taskhash mismatch",
    "basehash value changed",
    "ERROR:",
    "Traceback (most recent",
    // With `-k` this alone is no error, without it is one.
    "is unbuildable, removing",
];

/// What a failed BitBake prints when something was missing that it has at other times.
const OF_MACHINE: [&str; 12] = [
    "Broken pipe",
    "Cannot allocate memory",
    "Connection re",
    "Input/output error",
    "Killed",
    "MemoryError",
    "No space left",
    "Resource temporarily unavailable",
    "SIGKILL",
    "Timeout",
    "Too many open files",
    "unexpectedly",
];

/// The answer, when BitBake ended well and printed nothing that raises a doubt.
///
/// # Errors
/// Why it is not to be relied on.
pub fn plausible(ran: &Ran, query: &CacheableQuery) -> CacheResult<Answer> {
    let refused = |why: &str| Err(NotCacheable(why.into()));
    let outcome = &ran.outcome;
    if outcome.end != ExitReason::Exited(0) {
        return refused("BitBake failed");
    }
    if !ran.whole {
        return refused("it printed too much");
    }
    let text = String::from_utf8_lossy(&outcome.stdout);
    if let Some(doubt) = DOUBTS.iter().find(|doubt| text.contains(**doubt)) {
        return Err(NotCacheable(format!("BitBake ended well, but printed `{doubt}`")));
    }
    let (stdout, stderr) = (outcome.stdout.clone(), outcome.stderr.clone());
    if !query.leaves_signatures {
        return Ok(Answer { stdout, stderr, signatures: Vec::new() });
    }
    match &outcome.signatures {
        Some(signatures) if signatures.windows(18).any(|words| words == b"SIGGEN_LOCKEDSIGS_") => {
            Ok(Answer { stdout, stderr, signatures: signatures.clone() })
        }
        _ => refused("BitBake wrote no signatures"),
    }
}

/// Whether BitBake failed and printed nothing that points to the machine: beside others it has less memory than alone.
pub fn is_plain_failure(ran: &Ran) -> bool {
    let failed = matches!(ran.outcome.end, ExitReason::Exited(status) if status != 0);
    let text = String::from_utf8_lossy(&ran.outcome.stdout);
    failed && ran.whole && text.contains("ERROR:") && !OF_MACHINE.iter().any(|words| text.contains(words))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::protocol::BitbakeOutcome;
    use super::*;

    #[test]
    fn an_answer_and_a_plain_failure_are_told_from_doubtful_runs() {
        let signatures = Some("SIGGEN_LOCKEDSIGS_t-x = \"x:do_build:1\"");
        let world = CacheableQuery { name: "world".into(), leaves_signatures: true };
        let parse = CacheableQuery { name: "parse".into(), leaves_signatures: false };
        let exited = ExitReason::Exited;
        // The end, the output, whether it is whole, locked-sigs.inc; answers to the world and to -p, plain failure.
        let table = [
            (exited(0), "NOTE: done", true, signatures, [true, true, false]),
            (exited(0), "NOTE: done", true, Some(""), [false, true, false]),
            (exited(0), "NOTE: done", true, None, [false, true, false]),
            (exited(0), "NOTE: done", false, signatures, [false, false, false]),
            (exited(0), "ERROR: x", true, signatures, [false, false, false]),
            (exited(0), "WARNING: x is unbuildable, removing...", true, signatures, [false, false, false]),
            (exited(1), "ERROR: x", true, signatures, [false, false, true]),
            (exited(1), "ERROR: x", false, signatures, [false, false, false]),
            (exited(1), "NOTE: x", true, signatures, [false, false, false]),
            (exited(1), "ERROR: No space left on device", true, signatures, [false, false, false]),
            (ExitReason::Signalled(9), "ERROR: x", true, signatures, [false, false, false]),
        ];
        for (end, stdout, whole, signatures, wanted) in table {
            let outcome = BitbakeOutcome {
                end,
                stdout: stdout.into(),
                stderr: Vec::new(),
                signatures: signatures.map(Into::into),
            };
            let ran = Ran { outcome, whole, seconds: 1.0 };
            let found =
                [plausible(&ran, &world).is_ok(), plausible(&ran, &parse).is_ok(), is_plain_failure(&ran)];
            assert_eq!(found, wanted, "{ran:?}");
        }
    }
}
