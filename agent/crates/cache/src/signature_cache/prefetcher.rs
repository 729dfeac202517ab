//! Runs BitBake for queries before the tool makes them: a query without a stored answer tells which ones come next.
//!
//! Whether all recipes parse is queried before the world with the layer. BitBake's parse caches of the world serve
//! it, and not the other way round: so the world comes first. In parallel, the world (and then that query) runs in one
//! scratch directory and the world with the class in another. In series, the world runs in the check's own build
//! directory, before the query that came.
//!
//! Nothing runs beside the world without the layer: it would be code of the layer, and the answer could not be stored
//! for later jobs.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use agent_process::{ExitReason, Interrupt};
use agent_types::events::{Emitter, Recipes};

use super::bitbake_runner::{BitbakeRunner, ScratchBuildDir};
use super::cache::{Answered, Inserted, LookupResult, SignatureCache};
use super::concurrency::Concurrency;
use super::key::{Inputs, Key};
use super::lock::lock;
use super::parse_cache::{self, Restored};
use super::prefetch_table::{FreshOutcome, Prediction, PrefetchTable, Prefetched};
use super::query_plan::{Next, OfLayer, QueryPlan};
use super::{CacheResult, CacheableQuery, Invocation, NotCacheable};

/// Prefetching in one run of the tool.
#[derive(Debug)]
pub struct Prefetcher {
    plan: QueryPlan,
    cache: Arc<SignatureCache>,
    bitbake: Arc<BitbakeRunner>,
    events: Emitter,
    /// Ends all of it.
    stop: Interrupt,
    lanes: tokio::sync::Mutex<JoinSet<()>>,
    table: Mutex<PrefetchTable>,
}

/// What prefetching brought for a query.
pub struct PrefetchResult {
    pub looked: LookupResult,
    /// What BitBake gave in this run and is in no store.
    pub fresh: Option<FreshOutcome>,
    /// How long the query waited without an answer.
    pub wasted: Duration,
}

impl PrefetchResult {
    /// Nothing was waited for.
    pub fn at_once(looked: LookupResult) -> PrefetchResult {
        PrefetchResult { looked, fresh: None, wasted: Duration::ZERO }
    }
}

/// A query to be prefetched.
struct Planned {
    invocation: Invocation,
    query: CacheableQuery,
    inputs: Inputs,
    /// Dropped when BitBake has answered.
    done: watch::Sender<()>,
}

/// Queries for one scratch directory, one after another.
struct Lane {
    invocations: Vec<Invocation>,
    /// What runs at the end when BitBake fails at the first one: the same without `-k`, which has another
    /// answer then.
    if_first_fails: Option<Invocation>,
}

impl Lane {
    fn of(invocations: Vec<Invocation>) -> Lane {
        Lane { invocations, if_first_fails: None }
    }
}

impl Prefetcher {
    pub fn new(
        plan: QueryPlan,
        cache: Arc<SignatureCache>,
        bitbake: Arc<BitbakeRunner>,
        events: Emitter,
        stop: Interrupt,
    ) -> Prefetcher {
        Prefetcher { plan, cache, bitbake, events, stop, lanes: Default::default(), table: Mutex::default() }
    }

    /// Ends what is under way.
    pub async fn close(&self) {
        self.stop.signal();
        let mut lanes = self.lanes.lock().await;
        while lanes.join_next().await.is_some() {}
    }

    /// What there is for a query that had no stored answer, after prefetches that are under way or begin now have
    /// been waited for. `first` is the first query for signatures.
    ///
    /// # Errors
    /// Why nothing more is looked up.
    pub async fn wait_for(
        self: &Arc<Self>,
        first: Option<&Invocation>,
        invocation: &Invocation,
        query: &CacheableQuery,
        looked: LookupResult,
    ) -> CacheResult<PrefetchResult> {
        let key = looked.inputs.key();
        let fresh = || lock(&self.table).outcome(&key, invocation);
        if let Some(fresh) = fresh() {
            return Ok(PrefetchResult { fresh: Some(fresh), ..PrefetchResult::at_once(looked) });
        }
        let since = Instant::now();
        let is_known = lock(&self.table).contains(&key);
        let may_be_answered = is_known || {
            self.stop_on_other_inputs(query, &looked.inputs).await;
            let begun = self.begin(first, invocation).await;
            lock(&self.table).update(&key, |prefetched| prefetched.why.clone_from(&looked.why));
            begun
        };
        let under_way = lock(&self.table).receiver(&key);
        if let Some(mut under_way) = under_way {
            // An error is the end that is waited for.
            while under_way.changed().await.is_ok() {}
        }
        let looked = if may_be_answered { self.cache.lookup(invocation, query).await? } else { looked };
        if looked.found.is_some() {
            return Ok(PrefetchResult::at_once(looked));
        }
        // Still of the same inputs.
        if looked.inputs.key() == key
            && let Some(fresh) = fresh()
        {
            return Ok(PrefetchResult { fresh: Some(fresh), ..PrefetchResult::at_once(looked) });
        }
        let why = match lock(&self.table).failure(&key) {
            Some(reason) => format!("{}; prefetch failed: {reason}", looked.why),
            None => looked.why,
        };
        let looked = LookupResult { why, ..looked };
        Ok(PrefetchResult { looked, fresh: None, wasted: since.elapsed() })
    }

    /// If an answer was prefetched in this run: why BitBake had to run for it, and what it parsed.
    pub fn origin(&self, key: &Key) -> Option<(String, Option<Recipes>)> {
        lock(&self.table).origin(key)
    }

    /// After the answer for the world without the layer could not be stored: those for the other worlds could not
    /// be stored either, so nothing more is prefetched.
    pub async fn give_up(&self, reason: &NotCacheable) {
        // A stop breaks things, and that is no news.
        if self.stop.state().is_some() {
            return;
        }
        lock(&self.table).begin_nothing_more();
        self.events.info(format!("prefetch stopped: the first answer was not stored: {reason}")).await;
    }

    /// Ends what is under way when the same query comes with other inputs than were predicted.
    async fn stop_on_other_inputs(&self, query: &CacheableQuery, inputs: &Inputs) {
        let difference = lock(&self.table).difference_from_running(&query.name, inputs);
        if let Some(difference) = difference {
            self.stop.signal();
            let message = format!("prefetch stopped: {} came with other inputs: {difference}", query.name);
            self.events.info(message).await;
        }
    }

    /// Predicts what comes after this query and begins to prefetch it, once for each prediction. Whether the
    /// query itself may have an answer then.
    async fn begin(self: &Arc<Self>, first: Option<&Invocation>, invocation: &Invocation) -> bool {
        if self.stop.state().is_some() {
            return false;
        }
        let Some(next) = first.and_then(|first| self.plan.next(invocation, first)) else { return false };
        let prediction = match &next {
            Next::Layer(_) => Prediction::Layer,
            Next::Machines(_) => Prediction::Machines,
        };
        if !lock(&self.table).begin(prediction) {
            return false;
        }
        match (self.bitbake.concurrency(2).await, next) {
            (Concurrency::Parallel(most), Next::Layer(of_layer)) => {
                let OfLayer { world, strict_world, parse, class } = *of_layer;
                let mut lanes =
                    vec![Lane { invocations: vec![world, parse], if_first_fails: Some(strict_world) }];
                lanes.extend(class.map(|class| Lane::of(vec![class])));
                self.begin_lanes(lanes, most).await;
                true
            }
            (Concurrency::Parallel(most), Next::Machines(all)) => {
                let lanes = all.into_iter().map(|one| Lane::of(vec![one])).collect();
                self.begin_lanes(lanes, most).await;
                true
            }
            (Concurrency::Serial(why), Next::Layer(of_layer)) => {
                let _ = self.prefetch_in_series(&of_layer.world, &why).await;
                false
            }
            (Concurrency::Serial(_), Next::Machines(_)) => false,
        }
    }

    /// Prefetches in the check's own build directory: the query that came finds everything parsed.
    async fn prefetch_in_series(self: &Arc<Self>, world: &Invocation, why: &str) -> CacheResult<()> {
        let Some(planned) = self.plan(world, self.cache.build_dir()).await? else { return Ok(()) };
        self.events.info(format!("prefetching {}, not in parallel: {why}", planned.query.name)).await;
        let _build_dir = self.bitbake.lock_build_dir().await;
        self.prefetch(planned, None, &self.stop).await.map(drop)
    }

    /// Begins each lane in a scratch directory of its own, `most` of them at once.
    async fn begin_lanes(self: &Arc<Self>, lanes: Vec<Lane>, most: usize) {
        let permits = Arc::new(Semaphore::new(most));
        let mut names = Vec::new();
        for lane in lanes {
            let scratch_dir = match self.bitbake.scratch_dir().await {
                Ok(scratch_dir) => scratch_dir,
                Err(reason) => {
                    self.events.info(format!("nothing is prefetched: {reason}")).await;
                    break;
                }
            };
            let mut planned = Vec::new();
            for (index, invocation) in lane.invocations.iter().enumerate() {
                // Without the world before it a query is better left to the check itself.
                if index == 0 || !planned.is_empty() {
                    planned.extend(self.plan(invocation, scratch_dir.path()).await.ok().flatten());
                }
            }
            if planned.is_empty() {
                self.bitbake.clear(scratch_dir).await;
                continue;
            }
            names.extend(planned.iter().map(|planned| planned.query.name.clone()));
            let (prefetcher, permits, stop) = (self.clone(), permits.clone(), self.stop.child());
            self.lanes.lock().await.spawn(async move {
                let _permit = permits.acquire_owned().await;
                prefetcher.run_lane(scratch_dir, planned, lane.if_first_fails, &stop).await;
            });
        }
        if !names.is_empty() {
            self.events.info(format!("prefetching in parallel: {}", names.join("; "))).await;
        }
    }

    /// Enters a query that is to be prefetched `at` this build directory into the table; `None` when its answer
    /// is known or under way.
    async fn plan(&self, invocation: &Invocation, at: &Path) -> CacheResult<Option<Planned>> {
        let Some(query) = CacheableQuery::recognise(invocation) else { return Ok(None) };
        let LookupResult { inputs, found, why } = self.cache.lookup_at(at, invocation, &query).await?;
        let mut table = lock(&self.table);
        let key = inputs.key();
        if found.is_some() || table.contains(&key) {
            return Ok(None);
        }
        let (prefetched, done) = Prefetched::begin(query.name.clone(), inputs.clone(), why);
        table.insert(key, prefetched);
        Ok(Some(Planned { invocation: invocation.clone(), query, inputs, done }))
    }

    /// Prefetches some queries one after another in a scratch directory. After one for which BitBake could not run
    /// the rest is skipped.
    async fn run_lane(
        &self,
        scratch_dir: ScratchBuildDir,
        lane: Vec<Planned>,
        if_first_fails: Option<Invocation>,
        stop: &Interrupt,
    ) {
        let mut trouble = None;
        let mut last = None;
        for (index, planned) in lane.into_iter().enumerate() {
            if let Some(reason) = &trouble {
                lock(&self.table).fail(&planned.inputs.key(), NotCacheable::clone(reason));
                continue;
            }
            let (query, inputs) = (planned.query.clone(), planned.inputs.clone());
            match self.prefetch(planned, Some(&scratch_dir), stop).await {
                Ok(false) if index == 0 => {
                    last = if_first_fails.clone().map(|invocation| {
                        let done = lock(&self.table).begin_again(&inputs.key());
                        Planned { invocation, query, inputs, done }
                    });
                }
                Ok(_) => {}
                Err(reason) => trouble = Some(reason),
            }
        }
        if let Some(planned) = last.filter(|_| trouble.is_none()) {
            let _ = self.prefetch(planned, Some(&scratch_dir), stop).await;
        }
        self.bitbake.clear(scratch_dir).await;
    }

    /// Runs BitBake for one query, and inserts its answer into the cache; whether it ended well.
    async fn prefetch(
        &self,
        planned: Planned,
        scratch_dir: Option<&ScratchBuildDir>,
        stop: &Interrupt,
    ) -> CacheResult<bool> {
        let Planned { invocation, query, inputs, done } = planned;
        let key = inputs.key();
        let at = scratch_dir.map_or(self.cache.build_dir(), ScratchBuildDir::path).to_owned();
        let restored = self.cache.restore(&at, (&inputs, &invocation, &query), &self.bitbake).await;
        if let Restored::Refused(reason) = &restored {
            lock(&self.table).add_to_why(&key, &format!("the stored parse cache is not used: {reason}"));
        }
        let is_restored = restored == Restored::Put;
        let ran = match self.bitbake.ask(&invocation, &query.name, scratch_dir, stop).await {
            Ok(ran) => ran,
            Err(reason) => {
                lock(&self.table).fail(&key, reason.clone());
                return Err(reason);
            }
        };
        let is_well = ran.outcome.end == ExitReason::Exited(0);
        if is_restored && !is_well {
            self.cache.record_failure_with_parse_cache();
        }
        let recipes = parse_cache::count(&ran.outcome);
        lock(&self.table).update(&key, |prefetched| prefetched.recipes = recipes.or(prefetched.recipes));
        let (argv, outcome, seconds) = (invocation.argv.clone(), ran.outcome.clone(), ran.seconds);
        let answered = Answered {
            at: at.clone(),
            invocation,
            inputs,
            query: query.clone(),
            ran,
            is_first: false,
            restored: is_restored,
        };
        let inserted = self.cache.insert(answered).await;
        if let Err(reason) = self.cache.remove_restored(&restored, &query, &at).await {
            lock(&self.table).add_to_why(&key, &format!("the next query parses everything: {reason}"));
        }
        match inserted {
            Ok(Inserted::All) => {}
            Ok(Inserted::AnswerOnly(reason)) => {
                lock(&self.table).add_to_why(&key, &format!("its parse cache was not stored: {reason}"));
            }
            Ok(Inserted::Nothing(why)) => {
                let fresh = FreshOutcome { argv, outcome, seconds, why };
                lock(&self.table).update(&key, |prefetched| prefetched.outcomes.push(fresh));
            }
            Err(reason) => {
                lock(&self.table).fail(&key, reason.clone());
                return Err(reason);
            }
        }
        drop(done);
        Ok(is_well)
    }
}
