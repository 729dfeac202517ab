//! What the build left in the local caches, to the share: a unit of its own, beside the artifacts.
//!
//! A share is a help and no part of the verdict: what goes wrong there is told and the job goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument;

use crate::stages;
use crate::stages::share::OpenShare;
use agent_artifacts::aws;
use agent_cache::bucket::endpoint::ReadTier;
use agent_cache::bucket::{self, BucketTiers};
use agent_cache::publish::{self, Published, Tally, TroubleKind};
use agent_process::Interrupt;
use agent_types::events::{Emitter, EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_types::sanitize::sanitize;
use agent_types::stage::Stage;
use agent_types::tiers::Tiers;
use agent_types::words::{bytes, count};

pub use agent_cache::publish::Sources;

/// For the operations under way when the job has to stop. A share that hangs never ends them.
const LAST: Duration = Duration::from_secs(10);

/// Publishes to the tier that may be written and counts what was used from those that are read in a directory.
/// `served` are the tiers of a bucket that BitBake read. What it returns is all that was done, also when the share
/// hung and not everything is known.
pub async fn run(
    sources: Sources,
    share: &OpenShare,
    served: &[Arc<ReadTier>],
    events: &Emitter,
    interrupt: &Interrupt,
) -> Published {
    let unit = Unit::new(Stage::Publish, "cache publish");
    let writes = share.writes();
    if writes.is_some() {
        events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    }
    let begun = Instant::now();
    let tally = Arc::new(Tally::default());
    let working = async {
        match share.bucket.write {
            Some(_) => to_bucket(&sources, &share.bucket, served, interrupt, &tally).await,
            None => to_directory(sources, share.tiers.clone(), interrupt, &tally).await,
        }
    };
    let hung = working.instrument(stages::step(&unit)).await.err();
    let published = tally.so_far();
    if let Some(why) = &hung {
        let look = if share.bucket.write.is_some() { "check the network" } else { "look at the mount" };
        events.warn(why, Some(format!("{look}; the next build publishes what is missing"))).await;
    }
    stages::share::tell_traffic(published.traffic.iter().map(|(tier, traffic)| (*tier, *traffic)), events)
        .await;
    if let Some((tier, place)) = writes {
        let counts = published.counts;
        events.emit(EventKind::CachePublished { tier, counts }).await;
        tell(&published, &place, begun.elapsed(), events).await;
        let outcome = outcome(&published, hung);
        events.emit(EventKind::UnitFinished { unit, outcome, log: None, excerpt: Vec::new() }).await;
    }
    published
}

/// # Errors
/// Why the end was not waited for, in a sentence.
async fn to_bucket(
    sources: &Sources,
    tiers: &BucketTiers,
    served: &[Arc<ReadTier>],
    interrupt: &Interrupt,
    tally: &Arc<Tally>,
) -> Result<(), String> {
    let timeout = async {
        interrupt.interrupted().await;
        tokio::time::sleep(interrupt.last_wait(LAST)).await;
    };
    tokio::select! {
        () = bucket::publish::publish(sources, tiers, served, interrupt, tally) => Ok(()),
        () = timeout => Err("the share did not answer in time".into()),
    }
}

/// # Errors
/// Why the end was not waited for, in a sentence.
async fn to_directory(
    sources: Sources,
    tiers: Tiers,
    interrupt: &Interrupt,
    tally: &Arc<Tally>,
) -> Result<(), String> {
    let (theirs, stop) = (Arc::clone(tally), interrupt.clone());
    let mut working = tokio::task::spawn_blocking(move || publish::publish(&sources, &tiers, &stop, &theirs));
    let timeout = async {
        interrupt.interrupted().await;
        tokio::time::sleep(interrupt.last_wait(LAST)).await;
    };
    tokio::select! {
        done = &mut working => done.map_err(|error| format!("publishing to the share broke: {error}")),
        () = timeout => Err("the share did not answer in time".into()),
    }
}

/// A share that took nothing of what there was is not called a success, and not a failure either.
fn outcome(published: &Published, hung: Option<String>) -> Outcome {
    let counts = published.counts;
    let nothing = counts.published + counts.present + counts.differing == 0;
    let wanted = counts.failed + counts.left > 0;
    match hung.or_else(|| published.trouble.as_ref().map(|trouble| trouble.reason.clone())) {
        Some(why) if nothing && wanted => Outcome::Skipped(sanitize(&why).into_owned()),
        _ => Outcome::Passed,
    }
}

async fn tell(published: &Published, share: &str, took: Duration, events: &Emitter) {
    let counts = published.counts;
    let rest = counts.failed + counts.left;
    let mut message = format!(
        "{} ({}) published to {share} in {:.1} s, {} there already",
        count(counts.published, "object"),
        bytes(counts.bytes),
        took.as_secs_f64(),
        counts.present,
    );
    if counts.differing > 0 {
        message.push_str(&format!(", {} there with other content, which stays", counts.differing));
    }
    if rest > 0 {
        message.push_str(&format!(", {} failed, {} left", counts.failed, counts.left));
    }
    match &published.trouble {
        Some(trouble) => {
            let message = format!("the share did not take all: {message}; {}", trouble.reason);
            let hint = match trouble.kind {
                TroubleKind::Denied => {
                    aws::refusal_hint(&trouble.reason, &format!("s3:PutObject on {share}/*"))
                }
                kind => kind.hint().to_owned(),
            };
            events.warn(sanitize(&message), Some(hint)).await;
        }
        None if counts.left > 0 => {
            let hint = "the next build publishes the rest; [limits] grace is the time for it after a stop";
            events.warn(format!("the time was over: {message}"), Some(hint.into())).await;
        }
        None => events.info(message).await,
    }
    tell_alarms(published, events).await;
}

async fn tell_alarms(published: &Published, events: &Emitter) {
    if published.alarms > 0 {
        let message = format!(
            "{} of other content than the share's of the same name, which stays: {}",
            count(published.alarms, "download"),
            some(&published.alarming, published.alarms)
        );
        let hint = "compare them: either upstream has changed a released file, or one of the two is wrong";
        events.warn(sanitize(&message), Some(hint.into())).await;
    }
    if published.refusals > 0 {
        let message = format!(
            "{} not published: {}",
            count(published.refusals, "local file"),
            some(&published.refused, published.refusals)
        );
        events.warn(sanitize(&message), None).await;
    }
}

fn some(names: &[String], all: u64) -> String {
    let mut text = names.join(", ");
    if all > names.len() as u64 {
        text.push_str(&format!(" and {} more", all - names.len() as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_cache::publish::{Trouble, TroubleKind};
    use agent_types::events::CacheCounts;

    #[test]
    fn a_share_never_changes_the_verdict_and_nothing_is_no_success() {
        let full = Trouble { kind: TroubleKind::Full, reason: "x: No space left".into() };
        let hung = || Some("the share does not answer".to_owned());
        let table = [
            (0, 0, None, None, Outcome::Passed),
            (5, 0, None, None, Outcome::Passed),
            (5, 3, Some(full.clone()), None, Outcome::Passed),
            (0, 3, Some(full), None, Outcome::Skipped("x: No space left".into())),
            (0, 3, None, None, Outcome::Passed),
            (0, 3, None, hung(), Outcome::Skipped("the share does not answer".into())),
            (5, 3, None, hung(), Outcome::Passed),
        ];
        for (published, left, trouble, hung, wanted) in table {
            let counts = CacheCounts { published, left, ..CacheCounts::default() };
            let published = Published { counts, trouble, ..Published::default() };
            let found = outcome(&published, hung);
            assert!(found.is_success());
            assert_eq!(found, wanted, "{published:?}");
        }
    }
}
