//! The signature cache for one run of yocto-check-layer: where its stores lie, what it may store, and its server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_cache::signature_cache::{
    Admission, BitbakeRunner, BucketStore, CacheOptions, CacheResult, CacheServer, Digest, NotCacheable,
    Place, QueryPlan, Rerun, ShimDir, SignatureCache, StatCache, Store, Stores, TaskQueries, WrittenConf,
    make_private, runs_code, trees_of,
};
use agent_process::{ActivityClock, Interrupt, Runner};
use agent_types::events::{EventKind, Unit};
use agent_types::tiers::Tier;

use super::super::configure::BuildEnvironment;
use super::super::{blocking, layers};
use crate::config::Settings;

/// The checkouts of the layers under test, as they were before any layer code ran.
pub struct Untouched(BTreeMap<String, Digest>);

impl Untouched {
    pub async fn of(settings: &Settings, configured: &BuildEnvironment, interrupt: &Interrupt) -> Untouched {
        if !settings.check.signature_cache || !settings.check.yocto_check_layer {
            return Untouched(BTreeMap::new());
        }
        let (place, layers) = (place(settings, configured, Path::new("")), settings.layers.clone());
        let around = configured.repo_layers.clone();
        let stat_cache = stat_cache(settings);
        let read = move || Ok(trees_of(&place, &layers, &around, &StatCache::load(&stat_cache)));
        // Without them nothing is stored.
        let trees = blocking(interrupt, "the layers were read", read).await;
        Untouched(trees.unwrap_or_default())
    }
}

/// Where digests of files are stored between runs of this job. Each job has its own: a run stores only the digests of the
/// files that it has read.
pub fn stat_cache(settings: &Settings) -> PathBuf {
    let job = settings.paths.work.file_name().unwrap_or_default().to_string_lossy().replace('.', "_");
    settings.paths.signatures(&settings.cache.trust).join(format!("stat-cache-{job}"))
}

/// Where BitBake runs for the check in this build directory.
pub fn place(settings: &Settings, configured: &BuildEnvironment, build: &Path) -> Place {
    Place {
        build: build.to_owned(),
        bitbake: configured.tools.bitbake.clone(),
        oe_core: configured.tools.oe_core.clone(),
        user: configured.whoami.clone(),
        own: own_directories(settings),
        immutable: immutable_stores(configured),
        replaced: None,
    }
}

/// Nested ones come after those that hold them.
fn own_directories(settings: &Settings) -> Vec<PathBuf> {
    let paths = &settings.paths;
    let caches = paths.shares_caches().then_some(&paths.caches);
    caches.into_iter().chain([&paths.work, &paths.out]).cloned().collect()
}

/// The local store of answers of sources with this trust.
fn local_store(settings: &Settings) -> std::io::Result<Store> {
    let root = settings.paths.signatures(&settings.cache.trust);
    let store = match settings.paths.shares_caches() {
        true => Store::shared(root, true),
        false => Store::local(root),
    };
    make_private(store.root())?;
    Ok(store)
}

/// The share's layer stores, as the paths of their checkouts begin.
fn immutable_stores(configured: &BuildEnvironment) -> Vec<PathBuf> {
    let stores = configured.tiers.read.iter().map(|tier| tier.share.layers());
    stores.filter_map(|store| fs_err::canonicalize(store).ok()).collect()
}

/// Opens the signature cache for the check of one layer.
pub struct CacheOpener<'a> {
    pub settings: &'a Settings,
    pub configured: &'a BuildEnvironment,
    pub runner: &'a Runner,
    pub layer: &'a Path,
    /// The layer directory's.
    pub name: &'a str,
    pub unit: &'a Unit,
    pub untouched: &'a Untouched,
}

impl CacheOpener<'_> {
    /// The shim and the cache server, where they can be of use.
    pub async fn open(
        &self,
        rerun: &Rerun,
        conf: WrittenConf,
        alone: bool,
        tool: &ActivityClock,
    ) -> Option<(ShimDir, CacheServer)> {
        match self.try_open(rerun, conf, alone, tool).await {
            Ok(opened) => Some(opened),
            Err(reason) => {
                if self.settings.check.signature_cache {
                    let message = format!("the signature cache is not used for {}: {reason}", self.name);
                    self.runner.events.info(message).await;
                }
                None
            }
        }
    }

    async fn try_open(
        &self,
        rerun: &Rerun,
        conf: WrittenConf,
        alone: bool,
        tool: &ActivityClock,
    ) -> CacheResult<(ShimDir, CacheServer)> {
        if !self.settings.check.signature_cache {
            return Err(NotCacheable("--no-signature-cache".into()));
        }
        let known = &self.settings.check.known_failures;
        let is_here = |layer: &Option<String>| layer.as_ref().is_none_or(|layer| *layer == self.name);
        if known.iter().any(|known| !known.expired && is_here(&known.layer)) {
            return Err(NotCacheable("it has known failures, so that its verdict is no plain pass".into()));
        }
        let settings = self.settings;
        let trust = &settings.cache.trust;
        let local = local_store(settings)?;
        let place = place(settings, self.configured, &settings.paths.check(self.name));
        let stores = stores(self.configured, local);
        let first = rerun.attempt == 0;
        let user = self.configured.user.as_ref();
        let (shim_dir, listener) = ShimDir::make(&settings.paths.work, user)?;
        let admission = self.admission(&place, conf, alone)?;
        let prefetches = first && settings.check.prefetch;
        let plan = prefetches.then(|| QueryPlan::read(&place.oe_core, &settings.check.machines));
        let scratch_root = settings.paths.ahead(self.name);
        let most = settings.check.max_parallel_bitbakes;
        let work = &settings.paths.work;
        let mut bitbake = BitbakeRunner::new(self.runner, &place, user, scratch_root, work, self.name, most)
            .on_behalf_of(tool);
        bitbake.remove_scratch_dirs().await?;
        if first
            && !settings.check.write_signatures
            && let Err(reason) = bitbake.discard_signature_files()
        {
            let message = format!("BitBake writes its signature files, which takes longer: {reason}");
            self.runner.events.info(message).await;
        }
        // Other versions of a layer use them: what one version's code wrote must be trusted with the next one.
        let store_parse_caches = trust.is_trusted() || user.is_none();
        let own_parse_caches = settings.paths.own_parses(self.name);
        let options = CacheOptions { rerun: rerun.clone(), admission, store_parse_caches, own_parse_caches };
        let cache = Arc::new(SignatureCache::open(place, stores, stat_cache(settings), options));
        let events = &self.runner.events;
        let cache_server = CacheServer::open(listener, cache, bitbake, plan, self.unit, events);
        Ok((shim_dir, cache_server))
    }

    /// What must be so of an answer that is stored.
    fn admission(&self, place: &Place, conf: WrittenConf, alone: bool) -> std::io::Result<Admission> {
        let settings = self.settings;
        let given = self.configured.environment(&place.build);
        let environment = given.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut may_add = BTreeSet::new();
        let mut runs_early = Vec::new();
        for layer in layers::dependencies(settings, self.configured, self.layer)
            .iter()
            .map(PathBuf::as_path)
            .chain([self.layer])
        {
            let layer = fs_err::canonicalize(layer)?;
            let conf =
                agent_fs::untrusted::read_text(&layer.join("conf/layer.conf"), agent_fs::untrusted::PAGE);
            let why = match conf {
                Ok(text) => runs_code(&text),
                Err(error) => Some(error.to_string()),
            };
            runs_early.extend(why.map(|why| (layer.clone(), why)));
            may_add.insert(layer);
        }
        Ok(Admission {
            layer: fs_err::canonicalize(self.layer)?,
            conf,
            may_add,
            environment,
            oe_core: place.oe_core.clone(),
            machines: settings.check.machines.clone(),
            runs_early,
            not_alone: (!alone).then(|| "something that an earlier step started was still running".into()),
            trees: self.untouched.0.clone(),
        })
    }
}

/// The local store first, then the tiers of the share that are really there, by their rules of trust.
pub fn stores(configured: &BuildEnvironment, local: Store) -> Stores {
    let tiers = &configured.tiers;
    let shared = |tier: &Tier| Store::shared(tier.share.signatures(), tiers.write.as_ref() == Some(tier));
    let bucket = BucketStore::new(configured.bucket.clone());
    Stores::new(local, tiers.read.iter().map(shared).collect(), bucket)
}

/// Opens the stored answers and parse caches for BitBakes that the agent itself runs. `own`: names the directory of the
/// parse caches that only this job uses.
///
/// # Errors
/// When the stores cannot be used.
pub async fn open_queries(
    settings: &Settings,
    configured: &BuildEnvironment,
    place: &Place,
    own: &str,
) -> CacheResult<Arc<TaskQueries>> {
    let trust = &settings.cache.trust;
    let local = local_store(settings)?;
    let store_parse_caches = trust.is_trusted() || configured.user.is_none();
    let why = "something that an earlier step started was still running";
    let not_alone = (!super::is_alone().await).then(|| NotCacheable(why.into()));
    let files = (stat_cache(settings), settings.paths.own_parses(own));
    let stores = stores(configured, local);
    Ok(Arc::new(TaskQueries::open(place, stores, files, store_parse_caches, not_alone)))
}

/// Publishes in a bucket what these queries stored.
pub async fn close_queries(queries: &Arc<TaskQueries>, runner: &Runner) {
    let closing = queries.clone();
    let _ = tokio::task::spawn_blocking(move || closing.close()).await;
    if runner.interrupt.state().is_some() {
        return;
    }
    let published = queries.publish().await;
    for (tier, traffic) in published.traffic {
        runner.events.emit(EventKind::CacheTraffic { tier, traffic }).await;
    }
    for why in published.trouble {
        let message = format!("the signature cache of the share was not used in full: {why}");
        runner.events.warn(message, None).await;
    }
}
