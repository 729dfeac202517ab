//! The agent's side of one yocto-check-layer run: answers the shim's questions from the stores, or starts the
//! real BitBake, gives what that gave, and keeps it. Nobody else can tell what BitBake gave.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use agent_process::Interrupt;
use agent_types::events::{Emitter, EventKind, Memo, MemoOutcome, Recipes, Unit};
use agent_yocto::check_layer::Kind;

use super::bitbake_runner::BitbakeRunner;
use super::insert::{Answered, Kept};
use super::key::{Inputs, Key};
use super::parse_cache::{ParseCaches, Restored};
use super::prefetcher::Prefetcher;
use super::progress::{FreshOutcome, Progress};
use super::protocol::{Reply, length_of};
use super::provenance::{Provenance, ProvenanceSummary, Rerun};
use super::stat_cache::StatCache;
use super::store::{Found, Stores};
use super::{
    Admission, CacheResult, CacheableQuery, Invocation, NotCacheable, Place, QueryPlan, inputs, parse_cache,
};

/// The tool asks one question after the other. More concurrent callers can only be layer code.
const MAX_CALLERS: usize = 4;

/// The longest query: some words and an environment. A BitBake with more than this is started by its caller.
const MAX_QUERY_BYTES: usize = 1 << 20;

/// The pauses between two tries to accept a caller while the kernel refuses, for want of file descriptors or
/// memory: they grow from the first to the second of these.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A caller that says nothing for so long is hung up on.
const PATIENCE: Duration = Duration::from_secs(60);

/// The umask of the agent and of what it starts (`prepare_process`).
const UMASK: u32 = 0o022;

/// What is done about the questions of a run.
#[derive(Debug)]
pub struct RunOptions {
    pub bitbake: BitbakeRunner,
    /// `None`: nothing is asked ahead.
    pub plan: Option<QueryPlan>,
    pub rerun: Rerun,
    pub admission: Admission,
    /// Whether BitBake's parse caches are kept for later jobs, in which other versions of the layers may use them.
    pub keep_parses: bool,
    /// Where the parse caches of this check are kept for its reruns: a directory that only the agent can write.
    pub own_parses: PathBuf,
}

/// Open during one run.
#[derive(Debug)]
pub struct CacheServer {
    serving: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) place: Place,
    pub(super) stores: Stores,
    pub(super) parse_caches: ParseCaches,
    unit: Unit,
    pub(super) events: Emitter,
    pub(super) bitbake: BitbakeRunner,
    /// Ends what BitBake is asked.
    stop: Interrupt,
    /// Held while BitBake runs in the check's own build directory.
    own: tokio::sync::Mutex<()>,
    /// Held while a caller waits for BitBake there.
    caller: tokio::sync::Mutex<()>,
    pub(super) admission: Admission,
    pub(super) keep_parses: bool,
    pub(super) rerun: Rerun,
    /// `None`: nothing is asked ahead.
    pub(super) prefetcher: Option<Prefetcher>,
    pub(super) progress: Mutex<Progress>,
    pub(super) provenance: Mutex<Provenance>,
    /// Where the digests of files are kept between runs.
    stat_cache_file: PathBuf,
    pub(super) stat_cache: StatCache,
    /// Why nothing more is reused or kept in this run.
    pub(super) off: Mutex<Option<NotCacheable>>,
}

impl CacheServer {
    pub fn open(
        listener: UnixListener,
        place: Place,
        stores: Stores,
        stat_cache_file: PathBuf,
        options: RunOptions,
        unit: &Unit,
        events: &Emitter,
    ) -> CacheServer {
        let stat_cache = StatCache::load(&stat_cache_file);
        let RunOptions { bitbake, plan, rerun, admission, keep_parses, own_parses } = options;
        let parse_caches = ParseCaches::new(&stores, own_parses, &place.user);
        let stop = bitbake.interrupt();
        let prefetcher = plan.map(|plan| Prefetcher::new(plan, stop.child()));
        let shared = Arc::new(Shared {
            place,
            stores,
            parse_caches,
            unit: unit.clone(),
            events: events.clone(),
            bitbake,
            stop,
            own: tokio::sync::Mutex::default(),
            caller: tokio::sync::Mutex::default(),
            admission,
            keep_parses,
            progress: Mutex::new(Progress::after(rerun.wasted)),
            provenance: Mutex::default(),
            rerun,
            prefetcher,
            stat_cache_file,
            stat_cache,
            off: Mutex::new(None),
        });
        let serving = tokio::spawn(serve(listener, shared.clone()));
        CacheServer { serving, shared }
    }

    /// Ends what BitBake is asked, and starts nothing more.
    pub fn stop(&self) {
        self.shared.stop.signal();
    }

    /// Ends what BitBake is asked and hangs up on everybody; what the answers of this run stood on.
    pub async fn close(mut self) -> ProvenanceSummary {
        self.stop();
        // What runs in the check's own build directory has its end.
        drop(self.shared.own.lock().await);
        self.serving.abort();
        let _ = (&mut self.serving).await;
        if let Some(prefetcher) = &self.shared.prefetcher {
            prefetcher.close().await;
        }
        // The next run removes them in any case.
        let _ = self.shared.bitbake.remove_scratch_dirs().await;
        let shared = self.shared.clone();
        // Without it the next run reads all files again, and nothing else.
        let _ = spawn_blocking(move || {
            let cache = &shared.stat_cache;
            if !cache.is_used() {
                return Ok(());
            }
            let bytes = cache.encode();
            let beside = shared.stat_cache_file.with_extension("new");
            fs_err::write(&beside, bytes).and_then(|()| fs_err::rename(&beside, &shared.stat_cache_file))
        })
        .await;
        let discarded = self.shared.bitbake.discards_signature_files();
        ProvenanceSummary { discarded, ..lock(&self.shared.provenance).given() }
    }
}

impl Drop for CacheServer {
    fn drop(&mut self) {
        self.serving.abort();
        self.stop();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a reader leaves entries that are each whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until it is aborted, and all callers with it.
async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let mut callers = JoinSet::new();
    loop {
        let (stream, _) = next_caller(|| listener.accept()).await;
        while callers.try_join_next().is_some() {}
        let known = stream.peer_cred().is_ok_and(|peer| peer.uid() == shared.place.user.uid);
        if known && callers.len() < MAX_CALLERS {
            callers.spawn(caller(stream, shared.clone()));
        } else if known {
            // One that hears nothing would take it for the end.
            callers.spawn(turn_away(stream));
        }
    }
}

async fn next_caller<T, F: Future<Output = io::Result<T>>>(mut accept: impl FnMut() -> F) -> T {
    let (mut pause, longest) = ACCEPT_BACKOFF;
    loop {
        if let Ok(caller) = accept().await {
            return caller;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn caller(stream: UnixStream, shared: Arc<Shared>) {
    // A caller that makes no sense, or hangs up, gets no answer and runs the real BitBake.
    let _ = answer(stream, &shared).await;
}

async fn turn_away(mut stream: UnixStream) {
    let _ = tokio::time::timeout(PATIENCE, send(&mut stream, &Reply::Pass)).await;
}

async fn answer(mut stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let Some(message) = tokio::time::timeout(PATIENCE, receive_query(&mut stream)).await?? else {
        return send(&mut stream, &Reply::Pass).await;
    };
    let invocation = Invocation::decode(&message)?;
    drop(message);
    let Some(query) = CacheableQuery::recognise(&invocation) else {
        return send(&mut stream, &Reply::Pass).await;
    };
    // The tool is silent while the agent answers, and the agent may have to read whole layers for that.
    shared.bitbake.touch();
    let since = Instant::now();
    let (kind, is_first) = lock(&shared.progress).note(&invocation, &query);
    let looked =
        match shared.lookup(&invocation, &query).await.map(|looked| shared.apply_bypass(kind, looked)) {
            Ok(looked) if looked.found.is_none() => shared.prefetched(&invocation, &query, looked).await,
            looked => looked,
        };
    let told = |outcome, why, seconds_saved| Memo {
        unit: shared.unit.clone(),
        question: query.name.clone(),
        outcome,
        why,
        seconds_saved,
        recipes: None,
        repeat: shared.rerun.attempt,
    };
    let (reply, memo) = match looked {
        Err(reason) => (Reply::Pass, told(MemoOutcome::Off, Some(reason.0), None)),
        Ok(LookupResult { inputs, found: Some(found), .. }) => {
            let (bitbake, saved) = shared.record_hit(kind, &inputs.key(), found.seconds, since.elapsed());
            let memo = match bitbake {
                Some((why, recipes)) => Memo { recipes, ..told(MemoOutcome::Ahead, Some(why), Some(saved)) },
                None => told(MemoOutcome::Hit, None, Some(saved)),
            };
            (Reply::Outcome(found.outcome(&query)), memo)
        }
        Ok(LookupResult { inputs, fresh: Some(fresh), why, .. }) => {
            let (bitbake, saved) = shared.record_hit(kind, &inputs.key(), fresh.seconds, since.elapsed());
            let (why, recipes) = bitbake.unwrap_or((why, None));
            let why = format!("{why}; it is not kept: {}", fresh.why);
            let memo = Memo { recipes, ..told(MemoOutcome::Ahead, Some(why), Some(saved)) };
            (Reply::Outcome(fresh.outcome), memo)
        }
        Ok(looked) => {
            let call = Caller { invocation, query: query.clone(), kind, is_first };
            match shared.ask_here(&mut stream, call, looked).await? {
                (Some(reply), why, recipes) => {
                    (reply, Memo { recipes, ..told(MemoOutcome::Miss, Some(why), None) })
                }
                // The check is being stopped; the shim ends when it hears nothing.
                (None, why, _) => {
                    shared.events.emit(EventKind::Memo(told(MemoOutcome::Miss, Some(why), None))).await;
                    return Ok(());
                }
            }
        }
    };
    shared.events.emit(EventKind::Memo(memo)).await;
    shared.bitbake.touch();
    // Whoever does not take it must not hold it in memory for ever.
    tokio::time::timeout(PATIENCE, send(&mut stream, &reply)).await?
}

/// A question that BitBake has to answer.
struct Caller {
    invocation: Invocation,
    query: CacheableQuery,
    kind: Kind,
    is_first: bool,
}

/// Until the other side closes the connection, or says something although it is not its turn.
async fn hung_up(stream: &mut UnixStream) {
    let _ = stream.read(&mut [0]).await;
}

/// What the stores have for a question.
pub(super) struct LookupResult {
    pub(super) inputs: Inputs,
    pub(super) found: Option<Found>,
    /// What BitBake gave in this run and is in no store.
    pub(super) fresh: Option<FreshOutcome>,
    /// Why there was none.
    pub(super) why: String,
}

impl Shared {
    pub(super) async fn lookup(
        self: &Arc<Shared>,
        invocation: &Invocation,
        query: &CacheableQuery,
    ) -> CacheResult<LookupResult> {
        self.lookup_at(&self.place.build, invocation, query).await
    }

    /// The same for a BitBake that finds the directory `at` in the place of the build directory.
    pub(super) async fn lookup_at(
        self: &Arc<Shared>,
        at: &Path,
        invocation: &Invocation,
        query: &CacheableQuery,
    ) -> CacheResult<LookupResult> {
        let (shared, at, invocation, query) =
            (self.clone(), at.to_owned(), invocation.clone(), query.clone());
        let looked = spawn_blocking(move || shared.lookup_blocking(&at, &invocation, &query)).await;
        looked.unwrap_or_else(|error| Err(NotCacheable(error.to_string())))
    }

    /// Asks BitBake in the check's own build directory. What to reply, why it had to be, and what BitBake parsed.
    async fn ask_here(
        self: &Arc<Shared>,
        stream: &mut UnixStream,
        call: Caller,
        looked: LookupResult,
    ) -> io::Result<(Option<Reply>, String, Option<Recipes>)> {
        let Caller { invocation, query, kind, is_first } = call;
        let LookupResult { inputs, mut why, .. } = looked;
        // The tool asks one question after the other. Whoever asks in between is layer code, and must not
        // disturb the answer that the tool waits for.
        let Ok(_caller) = self.caller.try_lock() else {
            return Ok((Some(Reply::Pass), format!("{why}; another call waits for BitBake"), None));
        };
        let _own = self.own.lock().await;
        if self.stop.state().is_some() {
            return Ok((None, format!("{why}; the check is being stopped"), None));
        }
        let restored = {
            let (shared, inputs) = (self.clone(), inputs.clone());
            spawn_blocking(move || shared.restore(&shared.place.build, &inputs)).await?
        };
        if let Restored::Refused(reason) = &restored {
            why += &format!("; the stored parse cache is not used: {reason}");
        }
        let stop = self.stop.child();
        let ran = {
            let mut asking = pin!(self.bitbake.ask(&invocation, &query.name, None, &stop));
            tokio::select! {
                ran = &mut asking => ran,
                () = hung_up(stream) => {
                    stop.signal();
                    asking.await
                }
            }
        };
        let ran = match ran {
            Ok(ran) => ran,
            Err(reason) => {
                let reply = if stop.state().is_some() { None } else { Some(Reply::Pass) };
                return Ok((reply, format!("{why}; what BitBake gave was not kept: {reason}"), None));
            }
        };
        let (recipes, reply) = (parse_cache::count(&ran.outcome), Reply::Outcome(ran.outcome.clone()));
        let restored = restored == Restored::Put;
        let at = self.place.build.clone();
        let answered = Answered { at, invocation, inputs, query, ran, is_first, restored };
        let shared = self.clone();
        let why = match spawn_blocking(move || shared.insert(&answered)).await? {
            Ok(Kept::Whole) => why,
            Ok(Kept::Answer(reason)) => format!("{why}; its parse cache was not kept: {reason}"),
            Ok(Kept::Nothing(reason)) => format!("{why}; what BitBake gave was not kept: {reason}"),
            Err(reason) => {
                self.not_kept(kind, &reason).await;
                format!("{why}; what BitBake gave was not kept: {reason}")
            }
        };
        Ok((Some(reply), why, recipes))
    }

    /// Asks BitBake in the check's own build directory before the tool does. Blocks others from there.
    pub(super) async fn own_directory(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.own.lock().await
    }

    /// Takes note of an answer that is given. If it was asked ahead, why it had to be and what BitBake
    /// parsed; and the seconds that it saves.
    fn record_hit(
        &self,
        kind: Kind,
        key: &Key,
        seconds: f64,
        waited: Duration,
    ) -> (Option<(String, Option<Recipes>)>, f64) {
        lock(&self.provenance).answered(kind, key);
        let mut progress = lock(&self.progress);
        let bitbake = progress.of_prefetched(key);
        (bitbake, progress.saved(seconds, waited.as_secs_f64()))
    }

    /// Blocks.
    fn lookup_blocking(
        &self,
        at: &Path,
        invocation: &Invocation,
        query: &CacheableQuery,
    ) -> CacheResult<LookupResult> {
        if let Some(reason) = lock(&self.off).clone() {
            return Err(reason);
        }
        if !invocation.joined || invocation.umask != UMASK {
            return Err(NotCacheable("BitBake was called in another way than yocto-check-layer does".into()));
        }
        let inputs = inputs::collect_at(at, &self.place, invocation, &self.stat_cache)?;
        let key = inputs.key();
        let mut damaged = None;
        for store in &self.stores.read {
            match store.find(&key) {
                Ok(Some(found)) => {
                    return Ok(LookupResult { inputs, found: Some(found), fresh: None, why: String::new() });
                }
                Ok(None) => {}
                Err(error) => damaged = Some(error.message),
            }
        }
        let nearest = || self.stores.read.iter().find_map(|store| store.why_not(&inputs, &query.name));
        let why =
            damaged.or_else(nearest).unwrap_or_else(|| "it was not asked of these layers before".into());
        Ok(LookupResult { inputs, found: None, fresh: None, why })
    }

    /// Gives the real BitBake `at` this build directory what was parsed before: in a rerun only what BitBake parsed
    /// in this very check, and nothing after it failed with what was stored earlier. Blocks.
    pub(super) fn restore(&self, at: &Path, inputs: &Inputs) -> Restored {
        if self.rerun.attempt > 0 {
            return self.parse_caches.restore_own(inputs, at);
        }
        if lock(&self.provenance).has_failed_with_cache() {
            return Restored::Nothing;
        }
        let restored = self.parse_caches.restore(inputs, at);
        if restored == Restored::Put && at == self.place.build {
            lock(&self.provenance).restored();
        }
        restored
    }
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let message = reply.encode();
    stream.write_all(&length_of(&message)?).await?;
    stream.write_all(&message).await
}

/// A query; `None` when it is too long to be one. Memory grows with what comes and not with what is promised.
async fn receive_query(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    let mut from = stream.take(length as u64);
    let mut message = Vec::new();
    let received = if length <= MAX_QUERY_BYTES {
        from.read_to_end(&mut message).await?
    } else {
        // The caller hears the reply only when it has said all.
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await? as usize
    };
    if received < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((length <= MAX_QUERY_BYTES).then_some(message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "server_tests.rs"]
mod tests;
