//! Whether what BitBake gave can be had again, and keeping it for later jobs.

use std::path::PathBuf;

use agent_process::ExitReason;

use super::bitbake_runner::Ran;
use super::key::Inputs;
use super::parse_cache::OfUse;
use super::protocol::Answer;
use super::server::{Shared, lock};
use super::store::Store;
use super::{CacheResult, CacheableQuery, Invocation, NotCacheable, autorev, difference, inputs};

/// Words in BitBake's output after which nothing is kept although it ended well.
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

/// One run of BitBake for a question.
pub(super) struct Answered {
    pub(super) at: PathBuf,
    pub(super) invocation: Invocation,
    pub(super) inputs: Inputs,
    pub(super) query: CacheableQuery,
    pub(super) ran: Ran,
    /// Nothing was asked before in this run of the tool.
    pub(super) is_first: bool,
    /// BitBake found what was parsed before.
    pub(super) restored: bool,
}

/// What was kept of a run.
pub(super) enum Kept {
    Whole,
    /// The answer alone, and why.
    Answer(NotCacheable),
    /// Nothing for later jobs, and why; but what BitBake gave is its answer in this run.
    Nothing(NotCacheable),
}

impl Shared {
    /// Keeps what the real BitBake gave, if it can be had again. Blocks.
    ///
    /// # Errors
    /// When it is not sure that it is BitBake's answer to these inputs and would be again.
    pub(super) fn insert(&self, answered: &Answered) -> CacheResult<Kept> {
        let Answered { at, invocation, inputs: before, query, ran, is_first, restored } = answered;
        // Whatever came of it, later runs may not ask the server again: they take the recipe from the
        // cache of this one.
        let floating = autorev::asked_nobody(&self.place.bitbake, at);
        if let Err(reason) = &floating {
            *lock(&self.off) = Some(reason.clone());
        }
        let answer = plausible(ran, query);
        floating.and_then(|()| match &answer {
            Err(reason) if *restored || !is_plain_failure(ran) => Err(reason.clone()),
            _ => Ok(()),
        })?;
        let after = inputs::collect_at(at, &self.place, invocation, &self.stat_cache)?;
        if after.key() != before.key() {
            let what = difference::in_words(&after, before.parts(), before.listings());
            return Err(NotCacheable(format!("an input changed while BitBake ran: {what}")));
        }
        if *at == self.place.build {
            lock(&self.provenance).asked_here(before.key());
        } else if !restored {
            lock(&self.provenance).asked_apart(before.key());
        }
        let (answer, admitted) = (answer, self.admission.check(*is_first, at, invocation, before));
        let answer = match answer.and_then(|answer| admitted.map(|()| answer)) {
            Ok(answer) => answer,
            Err(reason) => return Ok(Kept::Nothing(reason)),
        };
        if self.rerun.attempt > 0 {
            self.check_consistency(&before.key(), &answer)?;
        }
        // One store may be full or gone; the others still get it.
        let insert = |store: &Store| store.insert(before, &query.name, &answer, ran.seconds);
        let kept: Vec<_> = self.stores.write.iter().map(insert).collect();
        if let Err(error) = kept.into_iter().collect::<Result<(), _>>() {
            return Ok(Kept::Nothing(NotCacheable(error.message)));
        }
        // `-p` alone leaves a cache that is not whole. A file that was only touched is no other input, but
        // BitBake may have seen either time.
        // What rests on a stored parse cache is not this check's own.
        let of_use = OfUse { for_later_jobs: self.keep_parses, for_reruns: !restored };
        if of_use.is_any() && query.leaves_signatures && after == *before {
            let kept = self.parse_caches.insert(before, at, of_use);
            return Ok(match kept {
                Err(reason) if self.keep_parses => Kept::Answer(reason),
                // At the worst a rerun parses everything.
                _ => Kept::Whole,
            });
        }
        Ok(Kept::Whole)
    }
}

/// The answer, when BitBake ended well and said nothing that makes one doubt.
fn plausible(ran: &Ran, query: &CacheableQuery) -> CacheResult<Answer> {
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

/// Whether BitBake failed, and said nothing that looks as if the machine was to blame: beside others it has less
/// memory than alone.
fn is_plain_failure(ran: &Ran) -> bool {
    let failed = matches!(ran.outcome.end, ExitReason::Exited(status) if status != 0);
    let text = String::from_utf8_lossy(&ran.outcome.stdout);
    failed && ran.whole && text.contains("ERROR:") && !OF_MACHINE.iter().any(|words| text.contains(words))
}
