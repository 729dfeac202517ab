//! Answers one query of the tool: from the cache, from what was prefetched, or by running BitBake, and says in an event
//! which it was.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_process::Interrupt;
use agent_types::events::{CacheOutcome, CacheQuery, Emitter, EventKind, Recipes, Unit};
use agent_yocto::check_layer::Kind;

use super::bitbake_runner::BitbakeRunner;
use super::cache::{Answered, Inserted, LookupResult, SignatureCache};
use super::key::Key;
use super::lock::lock;
use super::parse_cache::{self, Restored};
use super::prefetcher::{PrefetchResult, Prefetcher};
use super::protocol::Reply;
use super::query_log::QueryLog;
use super::{CacheResult, CacheableQuery, Invocation, NotCacheable, QueryPlan};

/// Answers the queries of one run of the tool.
#[derive(Debug)]
pub struct QueryHandler {
    cache: Arc<SignatureCache>,
    bitbake: Arc<BitbakeRunner>,
    /// `None`: nothing is prefetched.
    prefetcher: Option<Arc<Prefetcher>>,
    queries: Mutex<QueryLog>,
    /// Held while a caller waits for BitBake in the check's own build directory.
    waiting: tokio::sync::Mutex<()>,
    /// Ends every BitBake of this run.
    stop: Interrupt,
    unit: Unit,
    events: Emitter,
}

/// A query that BitBake has to answer.
struct Miss<'a> {
    invocation: Invocation,
    query: &'a CacheableQuery,
    kind: Kind,
    is_first: bool,
    looked: LookupResult,
}

/// What a miss came to.
struct Asked {
    /// `None`: the check is being stopped.
    reply: Option<Reply>,
    /// Why BitBake had to run, and what else is to be told.
    why: String,
    recipes: Option<Recipes>,
}

impl QueryHandler {
    pub fn new(
        cache: Arc<SignatureCache>,
        bitbake: BitbakeRunner,
        plan: Option<QueryPlan>,
        unit: &Unit,
        events: &Emitter,
    ) -> QueryHandler {
        let (stop, bitbake) = (bitbake.interrupt(), Arc::new(bitbake));
        let prefetcher = plan.map(|plan| {
            let (cache, bitbake) = (cache.clone(), bitbake.clone());
            Arc::new(Prefetcher::new(plan, cache, bitbake, events.clone(), stop.child()))
        });
        QueryHandler {
            queries: Mutex::new(QueryLog::after(cache.rerun().wasted)),
            cache,
            bitbake,
            prefetcher,
            waiting: tokio::sync::Mutex::default(),
            stop,
            unit: unit.clone(),
            events: events.clone(),
        }
    }

    /// Ends every BitBake of this run, and starts nothing more.
    pub fn stop(&self) {
        self.stop.signal();
    }

    /// Whether the job has to stop.
    pub fn job_stops(&self) -> bool {
        self.bitbake.job_stops()
    }

    /// Waits until no BitBake runs in the check's own build directory.
    pub async fn build_dir_is_free(&self) {
        drop(self.bitbake.lock_build_dir().await);
    }

    /// Ends the prefetcher and removes what is left on disk. Whether BitBake left its signature files empty.
    pub async fn close(&self) -> bool {
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.close().await;
        }
        // The next run removes them in any case.
        let _ = self.bitbake.remove_scratch_dirs().await;
        self.bitbake.discards_signature_files()
    }

    /// The reply to a query. `hung_up` ends when nobody waits for it any more. `None`: the check is being stopped,
    /// and no reply is given.
    pub async fn answer(&self, invocation: Invocation, hung_up: impl Future<Output = ()>) -> Option<Reply> {
        let Some(query) = CacheableQuery::recognise(&invocation) else { return Some(Reply::Pass) };
        // The tool is silent while the agent answers, and the agent may have to read whole layers for that.
        self.bitbake.touch();
        let since = Instant::now();
        let (kind, is_first) = lock(&self.queries).record(&invocation, &query);
        let told = |outcome, why, seconds_saved| CacheQuery {
            query: query.name.clone(),
            outcome,
            why,
            seconds_saved,
            recipes: None,
            rerun: self.cache.rerun().attempt,
        };
        let (reply, report) = match self.lookup(kind, &invocation, &query).await {
            Err(reason) => (Some(Reply::Pass), told(CacheOutcome::Off, Some(reason.0), None)),
            Ok(PrefetchResult { looked: LookupResult { inputs, found: Some(found), .. }, .. }) => {
                let (origin, saved) = self.record_hit(kind, &inputs.key(), found.seconds, since.elapsed());
                let report = match origin {
                    Some((why, recipes)) => {
                        CacheQuery { recipes, ..told(CacheOutcome::Prefetched, Some(why), Some(saved)) }
                    }
                    None => told(CacheOutcome::Hit, None, Some(saved)),
                };
                (Some(Reply::Outcome(found.outcome(&query))), report)
            }
            Ok(PrefetchResult { looked, fresh: Some(fresh), .. }) => {
                let key = looked.inputs.key();
                let (origin, saved) = self.record_hit(kind, &key, fresh.seconds, since.elapsed());
                let (why, recipes) = origin.unwrap_or((looked.why, None));
                let why = format!("{why}; it is not stored: {}", fresh.why);
                let report = CacheQuery { recipes, ..told(CacheOutcome::Prefetched, Some(why), Some(saved)) };
                (Some(Reply::Outcome(fresh.outcome)), report)
            }
            Ok(PrefetchResult { looked, .. }) => {
                let miss = Miss { invocation, query: &query, kind, is_first, looked };
                let Asked { reply, why, recipes } = self.ask_bitbake(miss, pin!(hung_up)).await;
                (reply, CacheQuery { recipes, ..told(CacheOutcome::Miss, Some(why), None) })
            }
        };
        self.events.emit(EventKind::CacheQuery { unit: self.unit.clone(), query: report }).await;
        self.bitbake.touch();
        reply
    }

    /// What the stores have for a query, or prefetching brings.
    async fn lookup(
        &self,
        kind: Kind,
        invocation: &Invocation,
        query: &CacheableQuery,
    ) -> CacheResult<PrefetchResult> {
        let looked = self.cache.lookup(invocation, query).await?;
        let looked = self.cache.apply_bypass(kind, looked);
        let Some(prefetcher) = self.prefetcher.as_ref().filter(|_| looked.found.is_none()) else {
            return Ok(PrefetchResult::at_once(looked));
        };
        let first = lock(&self.queries).first().cloned();
        let result = prefetcher.wait_for(first.as_ref(), invocation, query, looked).await?;
        lock(&self.queries).add_debt(result.wasted);
        Ok(result)
    }

    /// Records an answer that is given. If it was prefetched, why BitBake had to run and what it parsed; and the
    /// seconds that the answer saves.
    fn record_hit(
        &self,
        kind: Kind,
        key: &Key,
        seconds: f64,
        waited: Duration,
    ) -> (Option<(String, Option<Recipes>)>, f64) {
        self.cache.record_hit(kind, key);
        let origin = self.prefetcher.as_ref().and_then(|prefetcher| prefetcher.origin(key));
        (origin, lock(&self.queries).saved(seconds, waited))
    }

    /// Runs BitBake in the check's own build directory, and inserts its answer into the cache.
    async fn ask_bitbake(&self, miss: Miss<'_>, hung_up: Pin<&mut impl Future<Output = ()>>) -> Asked {
        let Miss { invocation, query, kind, is_first, looked: LookupResult { inputs, mut why, .. } } = miss;
        let without_answer = |reply, why| Asked { reply, why, recipes: None };
        // The tool makes one query after the other. Whoever asks in between is layer code, and must not
        // disturb the answer that the tool waits for.
        let Ok(_waiting) = self.waiting.try_lock() else {
            return without_answer(Some(Reply::Pass), format!("{why}; another call waits for BitBake"));
        };
        let _build_dir = self.bitbake.lock_build_dir().await;
        if self.stop.state().is_some() {
            return without_answer(None, format!("{why}; the check is being stopped"));
        }
        let at = self.cache.build_dir();
        let restored = self.cache.restore(at, (&inputs, &invocation, query), &self.bitbake).await;
        if let Restored::Refused(reason) = &restored {
            why += &format!("; the stored parse cache is not used: {reason}");
        }
        let stop = self.stop.child();
        let ran = {
            let mut asking = pin!(self.bitbake.ask(&invocation, &query.name, None, &stop));
            tokio::select! {
                ran = &mut asking => ran,
                () = hung_up => {
                    stop.signal();
                    asking.await
                }
            }
        };
        let not_stored =
            |why: &str, reason: &NotCacheable| format!("{why}; what BitBake gave was not stored: {reason}");
        let ran = match ran {
            Ok(ran) => ran,
            Err(reason) => {
                let reply = if stop.state().is_some() { None } else { Some(Reply::Pass) };
                return without_answer(reply, not_stored(&why, &reason));
            }
        };
        let (recipes, reply) = (parse_cache::count(&ran.outcome), Reply::Outcome(ran.outcome.clone()));
        let (at, query) = (self.cache.build_dir().to_owned(), query.clone());
        let is_restored = restored == Restored::Put;
        let answered = Answered {
            at: at.clone(),
            invocation,
            inputs,
            query: query.clone(),
            ran,
            is_first,
            restored: is_restored,
        };
        let inserted = self.cache.insert(answered).await;
        if let Err(reason) = self.cache.remove_restored(&restored, &query, &at).await {
            why += &format!("; the next query parses everything: {reason}");
        }
        let why = match inserted {
            Ok(Inserted::All) => why,
            Ok(Inserted::AnswerOnly(reason)) => format!("{why}; its parse cache was not stored: {reason}"),
            Ok(Inserted::Nothing(reason)) => not_stored(&why, &reason),
            Err(reason) => {
                if let Some(prefetcher) = self.prefetcher.as_ref().filter(|_| kind == Kind::Base) {
                    prefetcher.give_up(&reason).await;
                }
                not_stored(&why, &reason)
            }
        };
        Asked { reply: Some(reply), why, recipes }
    }
}
