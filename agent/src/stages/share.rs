//! Which tiers of the share are really there: looked at before any stage that uses them. One that is
//! missing, hangs or cannot be written costs a warning, and the job goes on with what is left.

pub mod bucket;
pub mod notes;

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;

use crate::config::{Settings, Shared, SharedCache};
use agent_cache::bucket::BucketTiers;
use agent_cache::probe::{Judgement, Look, judge};
use agent_process::{Answer, Environment, PROBE_LIMIT, Prober, Runner, User};
use agent_types::error::Result;
use agent_types::events::{CacheTier, Emitter, EventKind};
use agent_types::share::Share;
use agent_types::tiers::State;
use agent_types::tiers::{Tier, TierKind, Tiers};
use agent_types::traffic::Traffic;

/// The agent itself, whatever lies at its path by now.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The hidden command that looks.
pub const COMMAND: &str = "probe-share";

/// How long a probe that gave no answer may take to end; one in uninterruptible sleep never does.
const GRACE: Duration = Duration::from_secs(1);

/// What the job may use of the share: the tiers that are really there. At most one of the two has any.
#[derive(Clone, Debug, Default)]
pub struct OpenShare {
    /// Those of a share in a directory.
    pub tiers: Tiers,
    /// Those of a share in a bucket.
    pub bucket: BucketTiers,
}

impl OpenShare {
    pub fn is_empty(&self) -> bool {
        self.tiers.read.is_empty() && self.bucket.read.is_empty()
    }

    /// The tier that is written, and its place.
    pub fn writes(&self) -> Option<(TierKind, String)> {
        let directory = self.tiers.write.as_ref().map(Tier::named);
        directory.or_else(|| self.bucket.write.as_ref().map(|tier| (tier.kind, tier.share.to_string())))
    }
}

/// Looks at all tiers at once; none without a share. Nobody waits longer than the limit of a probe and a
/// few seconds.
///
/// # Errors
/// Those of [`exec::build_user`].
pub async fn look(settings: &Settings, runner: &Runner) -> Result<OpenShare> {
    Ok(match &settings.cache.share {
        None => OpenShare::default(),
        Some(SharedCache::Directory(shared)) => {
            OpenShare { tiers: look_at_directories(settings, shared, runner).await?, ..OpenShare::default() }
        }
        Some(SharedCache::Bucket(shared)) => {
            OpenShare { bucket: bucket::look(shared, &runner.events).await, ..OpenShare::default() }
        }
    })
}

async fn look_at_directories(settings: &Settings, shared: &Shared<Share>, runner: &Runner) -> Result<Tiers> {
    let user = agent_process::build_user(settings.build_user.as_deref(), &settings.checkout)?;
    let prober = Prober {
        runner: Runner { grace: GRACE, ..runner.clone() },
        environment: Environment::default(),
        log: "probe",
    };
    let looks = shared.tiers.read.iter().map(|tier| {
        let wanted = shared.tiers.write.as_ref() == Some(tier);
        judged(shared, tier, wanted, user.as_ref(), &prober)
    });
    let judgements = join_all(looks).await;
    let mut left = Tiers::default();
    for (tier, judgement) in shared.tiers.read.iter().zip(judgements) {
        tell(tier.kind, tier.share.to_string(), &judgement, &runner.events).await;
        if judgement.state != State::Unusable {
            left.read.push(tier.clone());
        }
        if judgement.state == State::ReadWrite {
            left.write = Some(tier.clone());
        }
    }
    Ok(left)
}

/// Reports what a part of the job did on the tiers; a tier where nothing was done is skipped.
pub async fn tell_traffic(done: impl IntoIterator<Item = (TierKind, Traffic)>, events: &Emitter) {
    for (tier, traffic) in done {
        if traffic != Traffic::default() {
            events.emit(EventKind::CacheTraffic { tier, traffic }).await;
        }
    }
}

async fn judged(
    shared: &Shared<Share>,
    tier: &Tier,
    wanted: bool,
    user: Option<&User>,
    prober: &Prober,
) -> Judgement {
    let agent = ask(shared, tier, wanted, None, prober).await;
    let builder = match user {
        // A share that hangs for one hangs for the other.
        Some(_) if agent.is_ok() => ask(shared, tier, false, user, prober).await,
        _ => agent.clone(),
    };
    judge(tier, wanted, &agent, &builder)
}

/// One look, by a child as that user.
async fn ask(
    shared: &Shared<Share>,
    tier: &Tier,
    write: bool,
    user: Option<&User>,
    prober: &Prober,
) -> Result<Look, String> {
    let root = shared.share.root();
    let part = Path::new(".").join(tier.share.root().strip_prefix(root).unwrap_or(Path::new("")));
    let (root, part) = (root.to_string_lossy(), part.to_string_lossy());
    let mut argv = vec![OWN_PROGRAM, COMMAND, &root, &part];
    argv.extend(write.then_some("--write"));
    let who = if user.is_some() { "user" } else { "agent" };
    let log = format!("share-{}-{who}", tier.kind.word());
    let answer = prober.ask(&log, &argv, user, &prober.environment, PROBE_LIMIT).await;
    match &answer {
        Answer::Said { ok: true, lines } => lines
            .iter()
            .find_map(|line| serde_json::from_str(line).ok())
            .ok_or_else(|| format!("the probe said nothing of sense: {}", answer.complaint())),
        Answer::Said { .. } => Err(format!("the probe failed: {}", answer.complaint())),
        Answer::Nothing(why) => Err(why.replace(&format!("`{OWN_PROGRAM}`"), "it")),
    }
}

async fn tell(tier: TierKind, path: String, judgement: &Judgement, events: &Emitter) {
    let Judgement { state, reason, fix } = judgement;
    let event = CacheTier { tier, path: path.clone(), state: *state, reason: reason.clone() };
    events.emit(EventKind::CacheTier(event)).await;
    if let (Some(reason), Some(_)) = (reason, fix) {
        let message = format!("the {} cache {path} is {state}: {reason}", tier.word());
        events.warn(message, fix.clone()).await;
    }
}
