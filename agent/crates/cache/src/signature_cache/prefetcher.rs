//! What is asked ahead, and when: at a question without an answer the next ones are known as well.
//!
//! Whether all recipes parse is asked before the world with the layer. BitBake's caches of the world serve
//! it, and not the other way round: so the world comes first. Side by side, the world (and then that
//! question) is asked in one scratch directory and the world with the class in another. One after another, the world
//! is asked in the check's own build directory, before the question that was asked.
//!
//! The world without the layer is asked alone: beside it no code of the layer may run, or its answer could not be
//! kept for later jobs.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};

use agent_process::{ExitReason, Interrupt};
use agent_yocto::check_layer::Kind;

use super::bitbake_runner::{Concurrency, ScratchBuildDir};
use super::insert::{Answered, Kept};
use super::key::{Inputs, Key};
use super::parse_cache::{self, Restored};
use super::progress::{FreshOutcome, Prediction, Prefetched};
use super::query_plan::{Next, OfLayer, QueryPlan};
use super::server::{LookupResult, Shared, lock};
use super::{CacheResult, CacheableQuery, Invocation, NotCacheable, difference};

/// Asking ahead in one run.
#[derive(Debug)]
pub struct Prefetcher {
    plan: QueryPlan,
    /// Ends all of it.
    stop: Interrupt,
    lanes: tokio::sync::Mutex<JoinSet<()>>,
}

/// A question to be asked ahead.
struct Planned {
    invocation: Invocation,
    query: CacheableQuery,
    inputs: Inputs,
    /// Dropped when it is over.
    done: watch::Sender<()>,
}

/// Questions for one scratch directory, one after another.
struct Lane {
    invocation: Vec<Invocation>,
    /// What is asked at the end when BitBake fails at the first one: the same without `-k`, which has another
    /// answer then.
    if_first_fails: Option<Invocation>,
}

impl Lane {
    fn of(invocation: Vec<Invocation>) -> Lane {
        Lane { invocation, if_first_fails: None }
    }
}

impl Prefetcher {
    pub fn new(plan: QueryPlan, stop: Interrupt) -> Prefetcher {
        Prefetcher { plan, stop, lanes: tokio::sync::Mutex::default() }
    }

    /// Ends what is under way.
    pub async fn close(&self) {
        self.stop.signal();
        let mut lanes = self.lanes.lock().await;
        while lanes.join_next().await.is_some() {}
    }
}

impl Shared {
    /// What there is for a question that had no answer, after the answers that are under way or can be
    /// had by asking ahead have been waited for.
    pub async fn prefetched(
        self: &Arc<Shared>,
        invocation: &Invocation,
        query: &CacheableQuery,
        looked: LookupResult,
    ) -> CacheResult<LookupResult> {
        let Some(prefetcher) = &self.prefetcher else { return Ok(looked) };
        let key = looked.inputs.key();
        let fresh = || lock(&self.progress).outcome(&key, invocation);
        if let Some(fresh) = fresh() {
            return Ok(LookupResult { fresh: Some(fresh), ..looked });
        }
        let since = Instant::now();
        let known = lock(&self.progress).receiver(&key);
        let answered = match known {
            Some(_) => true,
            None => {
                self.stop_what_is_not_asked(prefetcher, query, &looked.inputs).await;
                let begun = self.begin(prefetcher, invocation).await;
                if let Some(prefetched) = lock(&self.progress).prefetched.get_mut(&key) {
                    prefetched.why.clone_from(&looked.why);
                }
                begun
            }
        };
        let under_way = lock(&self.progress).receiver(&key);
        if let Some(mut under_way) = under_way {
            // An error is the end that is waited for.
            while under_way.changed().await.is_ok() {}
        }
        let looked = if answered { self.lookup(invocation, query).await? } else { looked };
        if looked.found.is_some() {
            return Ok(looked);
        }
        // Still of the same inputs.
        if looked.inputs.key() == key
            && let Some(fresh) = fresh()
        {
            return Ok(LookupResult { fresh: Some(fresh), ..looked });
        }
        let mut progress = lock(&self.progress);
        progress.debt += since.elapsed().as_secs_f64();
        let failure = progress.prefetched.get(&key).and_then(|prefetched| prefetched.failure.as_ref());
        let why = match failure {
            Some(reason) => format!("{}; asked ahead in vain: {reason}", looked.why),
            None => looked.why,
        };
        Ok(LookupResult { why, ..looked })
    }

    /// After the world without the layer had no answer to keep: the other worlds will have none either, so
    /// nothing more is asked ahead.
    pub async fn not_kept(&self, kind: Kind, reason: &NotCacheable) {
        // What a stop broke is no news.
        let Some(prefetcher) = self.prefetcher.as_ref().filter(|_| kind == Kind::Base) else { return };
        if prefetcher.stop.state().is_some() {
            return;
        }
        lock(&self.progress).begun = Prediction::ALL.into();
        self.events
            .info(format!("nothing more is asked ahead, because the first answer was not kept: {reason}"))
            .await;
    }

    /// Ends what is under way when the same question comes with other inputs than were predicted.
    async fn stop_what_is_not_asked(&self, prefetcher: &Prefetcher, query: &CacheableQuery, inputs: &Inputs) {
        let other = {
            let progress = lock(&self.progress);
            let running = |prefetched: &&Prefetched| {
                prefetched.name == query.name && prefetched.under_way.has_changed().is_ok()
            };
            progress.prefetched.values().find(running).map(|prefetched| {
                difference::in_words(inputs, prefetched.inputs.parts(), prefetched.inputs.listings())
            })
        };
        if let Some(other) = other {
            prefetcher.stop.signal();
            let message = format!("{} was asked ahead with other inputs: {other}", query.name);
            self.events.info(message).await;
        }
    }

    /// Predicts what comes after this question and begins to ask it, once for each kind. Whether the
    /// question itself may have an answer then.
    async fn begin(self: &Arc<Shared>, prefetcher: &Prefetcher, invocation: &Invocation) -> bool {
        if prefetcher.stop.state().is_some() {
            return false;
        }
        let (next, kind) = {
            let mut progress = lock(&self.progress);
            let next = progress.first.as_ref().and_then(|first| prefetcher.plan.next(invocation, first));
            let Some(next) = next else { return false };
            let kind = match &next {
                Next::Layer(_) => Prediction::Layer,
                Next::Machines(_) => Prediction::Machines,
            };
            if !progress.begun.insert(kind) {
                return false;
            }
            (next, kind)
        };
        match (self.bitbake.concurrency(2).await, next) {
            (Concurrency::Parallel(most), Next::Layer(of_layer)) => {
                let OfLayer { world, strict_world, parse, class } = *of_layer;
                let mut lanes =
                    vec![Lane { invocation: vec![world, parse], if_first_fails: Some(strict_world) }];
                lanes.extend(class.map(|class| Lane::of(vec![class])));
                self.side_by_side(prefetcher, lanes, most).await;
                kind == Prediction::Layer
            }
            (Concurrency::Parallel(most), Next::Machines(all)) => {
                let lanes = all.into_iter().map(|one| Lane::of(vec![one])).collect();
                self.side_by_side(prefetcher, lanes, most).await;
                true
            }
            (Concurrency::Serial(why), Next::Layer(of_layer)) => {
                let _ = self.before(prefetcher, &of_layer.world, &why).await;
                false
            }
            (Concurrency::Serial(_), Next::Machines(_)) => false,
        }
    }

    /// Asks in the check's own build directory: what is asked next finds everything parsed.
    async fn before(
        self: &Arc<Shared>,
        prefetcher: &Prefetcher,
        world: &Invocation,
        why: &str,
    ) -> CacheResult<()> {
        let Some(planned) = self.plan(world, &self.place.build).await? else { return Ok(()) };
        let message = format!("{} is asked ahead, not side by side: {why}", planned.query.name);
        self.events.info(message).await;
        let _own = self.own_directory().await;
        self.ask_ahead(planned, None, &prefetcher.stop).await.map(drop)
    }

    /// Begins to ask each lane in a room of its own, `most` of them at once.
    async fn side_by_side(self: &Arc<Shared>, prefetcher: &Prefetcher, lanes: Vec<Lane>, most: usize) {
        let permits = Arc::new(Semaphore::new(most));
        let mut names = Vec::new();
        for lane in lanes {
            let scratch_dir = match self.bitbake.scratch_dir().await {
                Ok(scratch_dir) => scratch_dir,
                Err(reason) => {
                    self.events.info(format!("nothing is asked ahead: {reason}")).await;
                    break;
                }
            };
            let mut planned = Vec::new();
            for (place, invocation) in lane.invocation.iter().enumerate() {
                // Without the world before it a question is better asked by the check itself.
                if place == 0 || !planned.is_empty() {
                    planned.extend(self.plan(invocation, scratch_dir.path()).await.ok().flatten());
                }
            }
            if planned.is_empty() {
                self.bitbake.clear(scratch_dir).await;
                continue;
            }
            names.extend(planned.iter().map(|planned| planned.query.name.clone()));
            let (shared, permits, stop) = (self.clone(), permits.clone(), prefetcher.stop.child());
            prefetcher.lanes.lock().await.spawn(async move {
                let _permit = permits.acquire_owned().await;
                shared.lane(scratch_dir, planned, lane.if_first_fails, &stop).await;
            });
        }
        if !names.is_empty() {
            self.events.info(format!("asked ahead, side by side: {}", names.join("; "))).await;
        }
    }

    /// Takes note of a question that is to be asked ahead `at` this build directory; `None` when its answer
    /// is known or under way.
    async fn plan(self: &Arc<Shared>, invocation: &Invocation, at: &Path) -> CacheResult<Option<Planned>> {
        let Some(query) = CacheableQuery::recognise(invocation) else { return Ok(None) };
        let LookupResult { inputs, found, why, .. } = self.lookup_at(at, invocation, &query).await?;
        let mut progress = lock(&self.progress);
        let key = inputs.key();
        if found.is_some() || progress.prefetched.contains_key(&key) {
            return Ok(None);
        }
        let (done, under_way) = watch::channel(());
        let name = query.name.clone();
        let inputs_of = inputs.clone();
        let (recipes, failure, outcomes) = (None, None, Vec::new());
        let prefetched = Prefetched { name, inputs: inputs_of, under_way, why, recipes, failure, outcomes };
        progress.prefetched.insert(key, prefetched);
        Ok(Some(Planned { invocation: invocation.clone(), query, inputs, done }))
    }

    /// Asks some questions one after another in a scratch directory of their own. After one that could not be asked the
    /// rest is not asked.
    async fn lane(
        self: &Arc<Shared>,
        scratch_dir: ScratchBuildDir,
        lane: Vec<Planned>,
        if_first_fails: Option<Invocation>,
        stop: &Interrupt,
    ) {
        let mut trouble = None;
        let mut last = None;
        for (place, planned) in lane.into_iter().enumerate() {
            if let Some(reason) = &trouble {
                self.failure(&planned.inputs.key(), NotCacheable::clone(reason));
                continue;
            }
            let (query, inputs) = (planned.query.clone(), planned.inputs.clone());
            match self.ask_ahead(planned, Some(&scratch_dir), stop).await {
                Ok(false) if place == 0 => {
                    let planned = if_first_fails.clone().map(|invocation| {
                        let done = self.under_way_again(&inputs.key());
                        Planned { invocation, query, inputs, done }
                    });
                    last = planned;
                }
                Ok(_) => {}
                Err(reason) => trouble = Some(reason),
            }
        }
        if let Some(planned) = last.filter(|_| trouble.is_none()) {
            let _ = self.ask_ahead(planned, Some(&scratch_dir), stop).await;
        }
        self.bitbake.clear(scratch_dir).await;
    }

    /// Asks BitBake; whether it ended well.
    async fn ask_ahead(
        self: &Arc<Shared>,
        planned: Planned,
        scratch_dir: Option<&ScratchBuildDir>,
        stop: &Interrupt,
    ) -> CacheResult<bool> {
        let Planned { invocation, query, inputs, done } = planned;
        let key = inputs.key();
        let at = scratch_dir.map_or(&*self.place.build, ScratchBuildDir::path).to_owned();
        let restored = self.restore_ahead(&key, &at, &inputs).await;
        let ran = match self.bitbake.ask(&invocation, &query.name, scratch_dir, stop).await {
            Ok(ran) => ran,
            Err(reason) => {
                self.failure(&key, reason.clone());
                return Err(reason);
            }
        };
        let is_well = ran.outcome.end == ExitReason::Exited(0);
        if restored && !is_well {
            lock(&self.provenance).failed_with_cache();
        }
        if let Some(prefetched) = lock(&self.progress).prefetched.get_mut(&key) {
            prefetched.recipes = parse_cache::count(&ran.outcome).or(prefetched.recipes);
        }
        let (argv, outcome, seconds) = (invocation.argv.clone(), ran.outcome.clone(), ran.seconds);
        let answered = Answered { at, invocation, inputs, query, ran, is_first: false, restored };
        let shared = self.clone();
        let kept = spawn_blocking(move || shared.insert(&answered)).await;
        match kept.unwrap_or_else(|error| Err(NotCacheable(error.to_string()))) {
            Ok(Kept::Whole) => {}
            Ok(Kept::Answer(reason)) => {
                self.add_to_why(&key, &format!("its parse cache was not kept: {reason}"));
            }
            Ok(Kept::Nothing(why)) => {
                if let Some(prefetched) = lock(&self.progress).prefetched.get_mut(&key) {
                    prefetched.outcomes.push(FreshOutcome { argv, outcome, seconds, why });
                }
            }
            Err(reason) => {
                self.failure(&key, reason.clone());
                return Err(reason);
            }
        }
        drop(done);
        Ok(is_well)
    }

    /// A question of these inputs is asked once more, in other words: whoever asks so waits for it.
    fn under_way_again(&self, key: &Key) -> watch::Sender<()> {
        let (done, under_way) = watch::channel(());
        if let Some(prefetched) = lock(&self.progress).prefetched.get_mut(key) {
            prefetched.under_way = under_way;
        }
        done
    }

    /// What was parsed before is not parsed again ahead either.
    async fn restore_ahead(self: &Arc<Shared>, key: &Key, at: &Path, inputs: &Inputs) -> bool {
        let (shared, at, inputs) = (self.clone(), at.to_owned(), inputs.clone());
        let restored = spawn_blocking(move || shared.restore(&at, &inputs)).await;
        match restored {
            Ok(Restored::Refused(reason)) => {
                self.add_to_why(key, &format!("the stored parse cache is not used: {reason}"));
                false
            }
            Ok(restored) => restored == Restored::Put,
            Err(_) => false,
        }
    }

    fn add_to_why(&self, key: &Key, words: &str) {
        if let Some(prefetched) = lock(&self.progress).prefetched.get_mut(key) {
            prefetched.why += "; ";
            prefetched.why += words;
        }
    }

    fn failure(&self, key: &Key, reason: NotCacheable) {
        if let Some(prefetched) = lock(&self.progress).prefetched.get_mut(key) {
            prefetched.failure = Some(reason);
        }
    }
}
