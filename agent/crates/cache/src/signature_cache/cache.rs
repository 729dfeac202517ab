//! The door of the cache for one run of yocto-check-layer: [`SignatureCache::lookup`] finds the stored answer to a
//! query, [`SignatureCache::insert`] stores what BitBake answered, if later jobs may rely on it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::task::spawn_blocking;

use agent_yocto::check_layer::Kind;

use super::bitbake_runner::{BitbakeRunner, Ran};
use super::bucket_store::Published;
use super::key::{Inputs, Key};
use super::lock::lock;
use super::parse_cache::{Keeps, ParseCaches, Restored, Unpacked, Unpacking, Users};
use super::plausibility::{is_plain_failure, plausible};
use super::protocol::Answer;
use super::provenance::{Provenance, ProvenanceSummary, Rerun};
use super::stat_cache::StatCache;
use super::store::Found;
use super::stores::Stores;
use super::{
    Admission, CacheResult, CacheableQuery, Invocation, NotCacheable, Place, autorev, difference, inputs,
};

/// The umask of the agent and of what it starts (`prepare_process`).
const UMASK: u32 = 0o022;

/// What one run may use and store.
#[derive(Debug)]
pub struct CacheOptions {
    pub rerun: Rerun,
    pub admission: Admission,
    /// Whether BitBake's parse caches are stored for later jobs, in which other versions of the layers may use them.
    pub store_parse_caches: bool,
    /// Where the parse caches of this check are stored for its reruns: a directory that only the agent can write.
    pub own_parse_caches: PathBuf,
}

/// The stored answers and parse caches, as one run of yocto-check-layer sees them.
#[derive(Debug)]
pub struct SignatureCache {
    place: Place,
    stores: Stores,
    parse_caches: ParseCaches,
    admission: Admission,
    store_parse_caches: bool,
    rerun: Rerun,
    provenance: Mutex<Provenance>,
    /// Where the digests of files are stored between runs.
    stat_cache_file: PathBuf,
    stat_cache: StatCache,
    /// Why nothing more is looked up or stored in this run.
    off: Mutex<Option<NotCacheable>>,
}

/// What the stores have for a query.
pub struct LookupResult {
    pub inputs: Inputs,
    pub found: Option<Found>,
    /// Why nothing was found.
    pub why: String,
}

/// One run of BitBake for a query.
pub struct Answered {
    /// The build directory.
    pub at: PathBuf,
    pub invocation: Invocation,
    pub inputs: Inputs,
    pub query: CacheableQuery,
    pub ran: Ran,
    /// Nothing was asked before in this run of the tool.
    pub is_first: bool,
    /// BitBake found a parse cache of an earlier run.
    pub restored: bool,
}

/// What was stored of a run of BitBake.
pub enum Inserted {
    All,
    /// The answer without the parse cache, and why.
    AnswerOnly(NotCacheable),
    /// Nothing for later jobs, and why; but what BitBake gave is its answer in this run.
    Nothing(NotCacheable),
}

/// Lets `bitbake` rebase what was unpacked in this build directory, and puts it in place.
pub(super) async fn put_rebased(
    mut unpacked: Unpacked,
    invocation: &Invocation,
    at: &Path,
    bitbake: &BitbakeRunner,
) -> Restored {
    let mut rebased = Ok(());
    for rebase in unpacked.take_rebases() {
        if rebased.is_ok() {
            rebased = bitbake.rebase(invocation, at, rebase.input, &rebase.target).await;
        }
    }
    let put = spawn_blocking(move || match rebased {
        Ok(()) => unpacked.put(),
        Err(NotCacheable(reason)) => {
            unpacked.give_up();
            Restored::Refused(NotCacheable(format!("it cannot be rebased: {reason}")))
        }
    });
    put.await.unwrap_or_else(|error| Restored::Refused(NotCacheable(error.to_string())))
}

impl SignatureCache {
    pub fn open(
        place: Place,
        stores: Stores,
        stat_cache_file: PathBuf,
        options: CacheOptions,
    ) -> SignatureCache {
        let CacheOptions { rerun, admission, store_parse_caches, own_parse_caches } = options;
        SignatureCache {
            parse_caches: stores.parse_caches(own_parse_caches, &place.user),
            stat_cache: StatCache::load(&stat_cache_file),
            place,
            stores,
            admission,
            store_parse_caches,
            rerun,
            provenance: Mutex::default(),
            stat_cache_file,
            off: Mutex::default(),
        }
    }

    /// The check's own build directory.
    pub fn build_dir(&self) -> &Path {
        &self.place.build
    }

    /// The user id of the callers.
    pub fn user(&self) -> u32 {
        self.place.user.uid
    }

    pub fn rerun(&self) -> &Rerun {
        &self.rerun
    }

    /// The stored answer to a query in the check's own build directory.
    ///
    /// # Errors
    /// Why the query cannot have one, or nothing more is looked up.
    pub async fn lookup(
        self: &Arc<Self>,
        invocation: &Invocation,
        query: &CacheableQuery,
    ) -> CacheResult<LookupResult> {
        self.lookup_at(&self.place.build, invocation, query).await
    }

    /// The same for a BitBake that finds the directory `at` in the place of the build directory.
    ///
    /// # Errors
    /// Like [`SignatureCache::lookup`].
    pub async fn lookup_at(
        self: &Arc<Self>,
        at: &Path,
        invocation: &Invocation,
        query: &CacheableQuery,
    ) -> CacheResult<LookupResult> {
        let (cache, at, invocation, query) = (self.clone(), at.to_owned(), invocation.clone(), query.clone());
        let looked = spawn_blocking(move || cache.lookup_blocking(&at, &invocation, &query)).await;
        looked.unwrap_or_else(|error| Err(NotCacheable(error.to_string())))
    }

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
        let wrong = match self.stores.find(&key) {
            Ok(Some(found)) => {
                return Ok(LookupResult { inputs, found: Some(found), why: String::new() });
            }
            Ok(None) => None,
            Err(why) => Some(why),
        };
        let nearest = || self.stores.why_not(&inputs, &query.name);
        let why = wrong.or_else(nearest).unwrap_or_else(|| "no answer for these layers is stored yet".into());
        Ok(LookupResult { inputs, found: None, why })
    }

    /// Withholds the stored answer if BitBake must answer this kind of query itself in this run, and has not yet.
    pub fn apply_bypass(&self, kind: Kind, looked: LookupResult) -> LookupResult {
        if !self.rerun.bypass.contains(&kind) || lock(&self.provenance).is_here(&looked.inputs.key()) {
            return looked;
        }
        LookupResult { found: None, why: "what failed depends on it".into(), ..looked }
    }

    /// The tool gets an answer that BitBake gave before.
    pub fn record_hit(&self, kind: Kind, key: &Key) {
        lock(&self.provenance).answered(kind, key);
    }

    /// BitBake failed with a stored parse cache. From now on it gets none.
    pub fn record_failure_with_parse_cache(&self) {
        lock(&self.provenance).failed_with_cache();
    }

    /// What the answers of this run depend on so far.
    pub fn provenance(&self) -> ProvenanceSummary {
        lock(&self.provenance).given()
    }

    /// Gives the real BitBake `at` this build directory what was parsed before: in a rerun only what BitBake parsed
    /// in this very check, and nothing after it failed with what was stored earlier. Where files have other stat data
    /// than then, `bitbake` rebases it with the environment of the call.
    pub async fn restore(
        self: &Arc<Self>,
        at: &Path,
        (inputs, invocation, query): (&Inputs, &Invocation, &CacheableQuery),
        bitbake: &BitbakeRunner,
    ) -> Restored {
        let lost = |error: tokio::task::JoinError| Restored::Refused(NotCacheable(error.to_string()));
        let (cache, to, inputs) = (self.clone(), at.to_owned(), inputs.clone());
        let keeps = if query.leaves_signatures { Keeps::RecipesAndSignatures } else { Keeps::Recipes };
        let unpacking = spawn_blocking(move || cache.unpack_blocking(&to, &inputs, keeps)).await;
        let restored = match unpacking {
            Ok(Unpacking::Done(restored)) => restored,
            Ok(Unpacking::Unpacked(unpacked)) => put_rebased(unpacked, invocation, at, bitbake).await,
            Err(error) => lost(error),
        };
        if restored == Restored::Put && at == self.place.build {
            lock(&self.provenance).restored();
        }
        restored
    }

    /// After a query that does not update signature data, removes the parse cache that was restored for it: the next query
    /// gets a complete one.
    ///
    /// # Errors
    /// When it cannot be removed. Then BitBake parses everything for the next query.
    pub async fn remove_restored(
        self: &Arc<Self>,
        restored: &Restored,
        query: &CacheableQuery,
        at: &Path,
    ) -> CacheResult<()> {
        if query.leaves_signatures || !matches!(restored, Restored::Put | Restored::Own) {
            return Ok(());
        }
        let (cache, at) = (self.clone(), at.to_owned());
        let removed = spawn_blocking(move || cache.parse_caches.remove_restored(&at)).await;
        removed.unwrap_or_else(|error| Err(NotCacheable(error.to_string())))
    }

    fn unpack_blocking(&self, at: &Path, inputs: &Inputs, keeps: Keeps) -> Unpacking {
        if self.rerun.attempt > 0 {
            return Unpacking::Done(self.parse_caches.restore_own(inputs, at, keeps));
        }
        if lock(&self.provenance).has_failed_with_cache() {
            return Unpacking::Done(Restored::Nothing);
        }
        self.parse_caches.unpack(inputs, at, keeps)
    }

    /// Stores what the real BitBake answered, if it would answer so again.
    ///
    /// # Errors
    /// When it is not sure that it is BitBake's answer to these inputs and would be again.
    pub async fn insert(self: &Arc<Self>, answered: Answered) -> CacheResult<Inserted> {
        let cache = self.clone();
        let inserted = spawn_blocking(move || cache.insert_blocking(&answered)).await;
        inserted.unwrap_or_else(|error| Err(NotCacheable(error.to_string())))
    }

    fn insert_blocking(&self, answered: &Answered) -> CacheResult<Inserted> {
        let Answered { at, invocation, inputs: before, query, ran, is_first, restored } = answered;
        // Whatever came of it, later runs may not ask the server again: they take the recipe from the
        // parse cache of this one.
        let no_autorev = autorev::asked_nobody(&self.place.bitbake, at);
        if let Err(reason) = &no_autorev {
            *lock(&self.off) = Some(reason.clone());
        }
        let answer = plausible(ran, query);
        no_autorev.and_then(|()| match &answer {
            Err(reason) if *restored || !is_plain_failure(ran) => Err(reason.clone()),
            _ => Ok(()),
        })?;
        let after = inputs::collect_at(at, &self.place, invocation, &self.stat_cache)?;
        if after.key() != before.key() {
            let what = difference::in_words(&after, before.parts(), before.listings());
            return Err(NotCacheable(format!("an input changed while BitBake ran: {what}")));
        }
        if *at == self.place.build {
            lock(&self.provenance).answered_here(before.key());
        } else if !restored {
            lock(&self.provenance).answered_in_scratch_dir(before.key());
        }
        let (answer, admitted) = (answer, self.admission.check(*is_first, at, invocation, before));
        let answer = match answer.and_then(|answer| admitted.map(|()| answer)) {
            Ok(answer) => answer,
            Err(reason) => return Ok(Inserted::Nothing(reason)),
        };
        if self.rerun.attempt > 0 {
            self.check_consistency(&before.key(), &answer)?;
        }
        if let Err(error) = self.stores.insert(before, &query.name, &answer, ran.seconds) {
            return Ok(Inserted::Nothing(NotCacheable(error.message)));
        }
        // `-p` alone leaves a parse cache that is not whole. A file that was only touched is the same input, but
        // BitBake may have seen either time.
        // What depends on a stored parse cache is not this check's own.
        let users = Users { later_jobs: self.store_parse_caches, reruns: !restored };
        if users.is_any() && query.leaves_signatures && after == *before {
            return Ok(match self.parse_caches.insert(before, &self.place.bitbake, at, users) {
                Err(reason) if self.store_parse_caches => Inserted::AnswerOnly(reason),
                // At the worst a rerun parses everything.
                _ => Inserted::All,
            });
        }
        Ok(Inserted::All)
    }

    /// What BitBake answers in a rerun may contradict what is stored. Then nothing more is looked up or stored.
    fn check_consistency(&self, key: &Key, answer: &Answer) -> CacheResult<()> {
        if !self.stores.contradicts(key, answer) {
            return Ok(());
        }
        let reason = NotCacheable("BitBake gave another answer to the same query before".into());
        *lock(&self.off) = Some(reason.clone());
        Err(reason)
    }

    /// Publishes in a bucket what this run stored; what was done there.
    pub async fn publish(&self) -> Published {
        self.stores.publish().await
    }

    /// Stores the digests of the files that were read. Without them the next run reads all files again.
    pub async fn close(self: &Arc<Self>) {
        let cache = self.clone();
        let _ = spawn_blocking(move || cache.write_stat_cache()).await;
    }

    fn write_stat_cache(&self) -> std::io::Result<()> {
        if !self.stat_cache.is_used() {
            return Ok(());
        }
        let beside = self.stat_cache_file.with_extension("new");
        fs_err::write(&beside, self.stat_cache.encode())?;
        fs_err::rename(&beside, &self.stat_cache_file)
    }
}
