//! Configure: who runs layer code, in which environment, and the build directory of the job.

mod build_dir;
mod buildtools;
mod computed;
mod devtool;
mod disk_space;
mod endpoint;
mod hash_server;
mod layer_order;
mod links;
mod recipe_credentials;
mod templates;

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;

use crate::config::{Settings, SharedCache};
use agent_cache::bucket::BucketTiers;
use agent_cache::bucket::endpoint::{Endpoint, ReadTier};
use agent_cache::dangling;
use agent_cache::signature_cache::WrittenConf;
use agent_fs::access::{Barrier, Credentials, Permission};
use agent_fs::remove::remove_tree;
use agent_fs::untrusted;
use agent_process::cgroup::{self, Limits};
use agent_process::{Environment, Prober, Runner, User};
use agent_types::error::{Error, Result};
use agent_types::events::Emitter;
use agent_types::tiers::Tiers;
use agent_yocto::base_layers::{BaseLayers, Candidate, base_layers};
use agent_yocto::conf::{self, LocalConf, Purpose};
use agent_yocto::environment::{
    HostTools, Tools, bitbake_environment, bitbake_version, with_direct_loopback,
};
use agent_yocto::hash_server::Serve;
use agent_yocto::layer_conf::LayerConf;
use agent_yocto::parallelism::{Parallelism, Resources};
use agent_yocto::unreadable::Unreadable;

use super::blocking;
use super::checkout::Checkout;
use super::share::OpenShare;

pub use build_dir::Reuse;
use build_dir::{BuildDir, MadeBy, hand_over};
pub use buildtools::{PrunedBuildtools, prune as prune_buildtools};
pub use devtool::Workspace;
pub use disk_space::free_bytes;
use links::Links;
pub use recipe_credentials::remove as remove_recipe_credentials;
pub use templates::Templates;

/// What the later stages need to run BitBake.
#[derive(Clone, Debug)]
pub struct BuildEnvironment {
    pub tools: Tools,
    /// Runs layer code; `None`: the agent's own user.
    pub user: Option<User>,
    /// That user's, or the agent's own.
    pub whoami: User,
    /// All layers of the repos, OE-Core first.
    pub repo_layers: Vec<PathBuf>,
    /// The directory of each repo, and its name.
    pub repos: Vec<(PathBuf, String)>,
    pub templates: Option<Templates>,
    /// OE-Core's `meta`.
    pub core: PathBuf,
    pub base_layers: BaseLayers,
    /// All layers of a build, in their order.
    pub layers: Vec<PathBuf>,
    /// The build directory with all layers.
    pub build: PathBuf,
    /// Those of the share that are really there.
    pub tiers: Tiers,
    /// Likewise of a share in a bucket.
    pub bucket: BucketTiers,
    /// From which BitBake reads the bucket.
    endpoint: Option<Arc<Endpoint>>,
    hash_server: Serve,
    network: Vec<(String, String)>,
    git: Vec<(OsString, OsString)>,
    /// `[config] env`
    own_variables: Vec<(String, String)>,
    /// How much BitBake runs at the same time.
    pub parallelism: Parallelism,
    /// Whether builds delete their work directories.
    rm_work: bool,
    /// Keeps the buildtools installed.
    _buildtools: Option<buildtools::Lease>,
}

impl BuildEnvironment {
    /// The environment for BitBake in `build_dir`.
    pub fn environment(&self, build_dir: &Path) -> Environment {
        bitbake_environment(
            &self.tools,
            build_dir,
            &self.whoami,
            &self.network,
            &self.git,
            &self.own_variables,
        )
    }

    /// The tiers of a bucket that BitBake reads, with what it read so far.
    pub fn served(&self) -> &[Arc<ReadTier>] {
        self.endpoint.as_ref().map_or(&[], |endpoint| endpoint.tiers())
    }

    /// Makes an empty build directory with the given layers, in place of what was there; what was written there.
    pub async fn empty_directory(
        &self,
        settings: &Settings,
        dir: &Path,
        layers: &[PathBuf],
        purpose: Purpose,
        runner: &Runner,
    ) -> Result<WrittenConf> {
        let conf = self.conf(settings, dir, layers, purpose)?;
        self.empty_with(settings, dir, &conf, runner).await?;
        Ok(conf)
    }

    /// Makes an empty build directory for builds with the given layers, with these lines at the end of `local.conf`.
    pub async fn empty_directory_with(
        &self,
        settings: &Settings,
        dir: &Path,
        layers: &[PathBuf],
        lines: &str,
        runner: &Runner,
    ) -> Result<()> {
        let mut conf = self.conf(settings, dir, layers, Purpose::Build)?;
        conf.local += lines;
        self.empty_with(settings, dir, &conf, runner).await
    }

    /// The configuration of a build directory in which signatures of the job's builds are computed: with all layers of
    /// the repos and these.
    pub fn signatures_conf(
        &self,
        settings: &Settings,
        dir: &Path,
        under_test: &[PathBuf],
    ) -> Result<WrittenConf> {
        let layers = with_layers_under_test(&self.repo_layers, under_test);
        self.conf(settings, dir, &layers, Purpose::Signatures)
    }

    /// Makes an empty build directory with this configuration, in place of what was there.
    pub async fn empty_with(
        &self,
        settings: &Settings,
        dir: &Path,
        conf: &WrittenConf,
        runner: &Runner,
    ) -> Result<()> {
        let (dir, work, user) = (dir.to_owned(), settings.paths.work.clone(), self.user.clone());
        let conf = conf.clone();
        let empty = move || build_dir::empty(&dir, &work, &conf, user.as_ref());
        let aside = blocking(&runner.interrupt, "the build directory was emptied", empty).await?;
        if let Some(aside) = aside {
            runner.events.warn(aside.to_string(), Some(aside.hint())).await;
        }
        Ok(())
    }

    /// Makes an empty directory for `user`, in place of what was there; `None`: only the agent writes there.
    pub async fn scratch_directory(
        &self,
        settings: &Settings,
        dir: &Path,
        user: Option<&User>,
        runner: &Runner,
    ) -> Result<()> {
        empty_scratch(settings, dir, user, runner).await
    }

    /// Makes the build directory of the job ready: see [`build_dir`].
    async fn job_directory(
        &self,
        settings: &Settings,
        layers: &[PathBuf],
        reuse: Reuse,
        runner: &Runner,
    ) -> Result<()> {
        let (release, trust) = (settings.release.name, &settings.cache.trust);
        let (bitbake, user) = (self.tools.bitbake_version.clone(), self.user.clone());
        let layout = layout(&self.core);
        let build_dir = BuildDir {
            dir: self.build.clone(),
            work: settings.paths.work.clone(),
            made_by: MadeBy::new(release, &bitbake, layout, trust, user.as_ref()),
            conf: self.conf(settings, &self.build, layers, Purpose::Build)?,
            user,
            keeps_workspace: settings.build.keeps_workspace,
        };
        let fresh = settings.build.fresh;
        let prepare = move || build_dir.prepare(fresh, reuse);
        let notices = blocking(&runner.interrupt, "the build directory was made ready", prepare).await?;
        for info in notices.infos {
            runner.events.info(info).await;
        }
        for (warning, hint) in notices.warnings {
            runner.events.warn(warning, Some(hint)).await;
        }
        Ok(())
    }

    /// The configuration of a build directory.
    fn conf(
        &self,
        settings: &Settings,
        dir: &Path,
        layers: &[PathBuf],
        purpose: Purpose,
    ) -> Result<WrittenConf> {
        let (machine, distro) = match purpose {
            Purpose::Build | Purpose::Signatures => {
                (first_machine(settings), settings.config.distro.as_str())
            }
            Purpose::CheckLayer => (self.base_layers.machine.as_str(), self.base_layers.distro.as_str()),
        };
        // Signatures need neither. In the directory itself they are empty, and the same for all callers.
        let own = [dir.join("downloads"), dir.join("sstate-cache")];
        let [downloads, sstate] = match purpose {
            Purpose::Build => [&settings.cache.downloads, &settings.cache.sstate],
            Purpose::CheckLayer | Purpose::Signatures => [&own[0], &own[1]],
        };
        let bblayers = conf::bblayers_with(layers, &settings.config.bblayers_conf)?;
        let endpoint = self.endpoint.as_ref().map(|endpoint| endpoint::mirrors(endpoint, &self.bucket));
        let local = conf::local(&LocalConf {
            release: settings.release,
            purpose,
            config: &settings.config,
            template: self.templates.as_ref().map_or("", |templates| templates.local_conf.as_str()),
            machine,
            distro,
            downloads,
            sstate,
            git_mirrors: &settings.git_mirrors,
            tiers: &self.tiers,
            endpoint: endpoint.as_ref(),
            hash_server: &self.hash_server,
            parallelism: self.parallelism,
            rm_work: self.rm_work,
        })?;
        Ok(WrittenConf { bblayers, local })
    }

    /// Makes the local caches. What trusted builds left is closed to the build user while it runs code that
    /// nobody vouches for; an agent that is not root has no such means.
    fn local_caches(&self, settings: &Settings) -> Result<()> {
        let trusted = settings.paths.trusted();
        if self.user.is_some() && trusted.exists() {
            let mode = if settings.cache.trust.is_trusted() { 0o755 } else { 0o700 };
            fs::set_permissions(&trusted, std::fs::Permissions::from_mode(mode))?;
        }
        let database = match &self.hash_server {
            Serve::Own { database, .. } => database.as_ref(),
            _ => None,
        };
        for cache in [&settings.cache.downloads, &settings.cache.sstate].into_iter().chain(database) {
            if !cache.exists() {
                fs::create_dir_all(cache)?;
                hand_over(cache, self.user.as_ref())?;
            }
        }
        Ok(())
    }
}

/// Makes an empty directory for `user`, in place of what was there.
async fn empty_scratch(settings: &Settings, dir: &Path, user: Option<&User>, runner: &Runner) -> Result<()> {
    let (dir, work, user) = (dir.to_owned(), settings.paths.work.clone(), user.cloned());
    blocking(&runner.interrupt, "a directory was emptied", move || {
        remove_tree(&dir, &work)?;
        fs::create_dir_all(&dir)?;
        hand_over(&dir, user.as_ref())
    })
    .await
}

/// Each local link costs one look at the share; a hundred thousand of them on a slow one take this long.
const SWEEP_LIMIT: Duration = Duration::from_secs(120);

/// Prepares everything that BitBake needs. `share`: what is really there; `reuse`: how the build directory
/// is used that an earlier job left.
pub async fn run(
    settings: &Settings,
    checkout: &Checkout,
    share: &OpenShare,
    reuse: Reuse,
    runner: &Runner,
) -> Result<BuildEnvironment> {
    let events = &runner.events;
    let user = agent_process::build_user(settings.build_user.as_deref(), &settings.checkout)?;
    let whoami = match &user {
        Some(user) => user.clone(),
        None => agent_process::agent_user()?,
    };
    if let Some(user) = &user {
        events.info(format!("layer code runs as {} (uid {}), not as root", user.name, user.uid)).await;
    }
    let core = checkout.oe_core.join("meta");
    let repo_layers = core_first(&core, checkout);
    let needed = [&settings.paths.work, &settings.paths.caches, &checkout.oe_core, &checkout.bitbake];
    for path in needed.into_iter().chain(&settings.layers) {
        reachable(path, &whoami)?;
    }

    let mut candidates = Vec::new();
    for path in &repo_layers {
        let conf = LayerConf::read(path).map_err(|unreadable| unreadable.of_dependency())?;
        candidates.push(Candidate { path: path.clone(), conf, computed: Vec::new() });
    }
    let plain = base_layers(&core, &candidates, first_machine(settings), &settings.config.distro);
    for notice in &plain.notices {
        events.info(notice).await;
    }

    let users = buildtools::Users { user: user.as_ref(), whoami: &whoami };
    let (host, lease) = buildtools::host_tools(settings, users, &settings.network, runner).await?;
    let tools = tools(checkout, host)?;
    let prober = prober(settings, &tools, &whoami, runner);
    let hash_server =
        hash_server::choose(settings, &tools.bitbake_version, user.as_ref(), &prober, events).await;

    let endpoint = endpoint::start(settings, &share.bucket, events).await;
    let network = match &endpoint {
        Some(_) => with_direct_loopback(&settings.network),
        None => settings.network.clone(),
    };

    let mut configured = BuildEnvironment {
        tools,
        git: git_access(settings, checkout, &whoami),
        own_variables: settings.config.env.clone(),
        user,
        whoami,
        repo_layers,
        repos: checkout.repos.iter().map(|repo| (repo.path.clone(), repo.name.clone())).collect(),
        templates: templates::read(settings, checkout)?,
        layers: Vec::new(),
        core,
        base_layers: plain,
        build: settings.paths.build(),
        tiers: share.tiers.clone(),
        bucket: share.bucket.clone(),
        endpoint,
        hash_server,
        network,
        parallelism: Parallelism::of(resources(settings.machine_share)),
        rm_work: disk_space::is_short(settings, runner).await?,
        _buildtools: lease,
    };
    if builds(settings) {
        report_parallelism(configured.parallelism, events).await;
    }
    if let Some(home) = recipe_credentials::make(settings, configured.user.as_ref())? {
        configured.whoami.home = home;
    }
    configured.local_caches(settings)?;
    sweep(settings, &share.tiers, events).await?;
    let (work, repos) = (settings.paths.clone(), checkout.repos.clone());
    let links =
        blocking(&runner.interrupt, "links to the checkouts were made", move || Links::make(&work, &repos))
            .await?;
    let repo_layers: Vec<PathBuf> = configured.repo_layers.iter().map(|layer| links.through(layer)).collect();
    let all = with_layers_under_test(&configured.repo_layers, &settings.layers);
    let sorted = layer_order::sort(all, settings, &checkout.repos);
    let layers: Vec<PathBuf> = sorted.iter().map(|layer| links.through(layer)).collect();
    let is_unclear =
        |one: &Candidate| configured.base_layers.layers.contains(&one.path) && one.conf.may_depend_on_more();
    if candidates.iter().any(is_unclear) {
        // Without the layers under test: their code must not run before the check looks at their trees.
        let dir = settings.paths.dependencies();
        configured.empty_directory(settings, &dir, &repo_layers, Purpose::Build, runner).await?;
        computed::add(&configured, &dir, &mut candidates, runner).await?;
        let (core, machine, distro) = (&configured.core, first_machine(settings), &settings.config.distro);
        configured.base_layers = base_layers(core, &candidates, machine, distro);
    }
    configured.job_directory(settings, &layers, reuse, runner).await?;
    configured.layers = layers;
    Ok(configured)
}

/// What a build may use of this machine, which so many jobs share.
fn resources(jobs: usize) -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(jobs);
    let (root, limits) = (Path::new("/"), Limits::read(Path::new("/")));
    let host = cgroup::host_memory(root);
    let bytes = [host, limits.bytes].into_iter().flatten().min();
    let is_limited = limits.bytes.is_some() && bytes == limits.bytes && bytes != host;
    Resources { cores, bytes: bytes.map(|bytes| bytes / jobs as u64), is_limited }
}

/// Whether the job builds anything.
fn builds(settings: &Settings) -> bool {
    settings.build.changed || !settings.build.targets.is_empty()
}

/// Reports if memory, and not the processors, limits the build.
async fn report_parallelism(parallelism: Parallelism, events: &Emitter) {
    let Resources { cores, bytes, .. } = parallelism.resources;
    if let Some(bytes) = bytes.filter(|_| parallelism.jobs < cores) {
        let what = parallelism.describe();
        let gib = bytes as f64 / f64::from(1 << 30);
        let message = format!("{gib:.1} GiB of memory limit the build on {cores} processors: {what}");
        events.info(message).await;
    }
}

/// Clears the local caches of links to what is no longer in the share.
async fn sweep(settings: &Settings, tiers: &Tiers, events: &Emitter) -> Result<()> {
    let Some(SharedCache::Directory(shared)) = &settings.cache.share else { return Ok(()) };
    let (share, tiers) = (shared.share.clone(), tiers.clone());
    let local = [settings.cache.sstate.clone(), settings.cache.downloads.clone()];
    let all = move || local.iter().map(|local| dangling::sweep(local, &share, &tiers)).sum::<Result<u64>>();
    let work = tokio::task::spawn_blocking(all);
    match tokio::time::timeout(SWEEP_LIMIT, work).await {
        // The share was well a moment ago and hangs by now; the job's limits look after what comes.
        Err(_) => events.warn("the share hangs while local links to it are looked at", None).await,
        Ok(Err(error)) => return Err(Error::internal("the sweep of the local caches broke").because(&error)),
        Ok(Ok(swept)) => match swept? {
            0 => {}
            swept => {
                events.info(format!("{swept} local links led to what the share no longer has; removed")).await
            }
        },
    }
    Ok(())
}

fn prober(settings: &Settings, tools: &Tools, whoami: &User, runner: &Runner) -> Prober {
    Prober {
        runner: runner.clone(),
        environment: bitbake_environment(tools, &settings.paths.build(), whoami, &settings.network, &[], &[]),
        log: "probe",
    }
}

/// `OELAYOUT_ABI`
fn layout(core: &Path) -> Option<String> {
    let text = untrusted::read_text(&core.join("conf/abi_version.conf"), untrusted::PAGE).ok()?;
    let value =
        text.lines().find_map(|line| line.strip_prefix("OELAYOUT_ABI")?.trim_start().strip_prefix('='));
    value.map(|value| value.trim().trim_matches('"').to_owned())
}

fn first_machine(settings: &Settings) -> &str {
    // Settings always hold at least one machine.
    settings.config.machines.first().map_or("qemux86-64", String::as_str)
}

/// The repos' layers without repetition; OE-Core first, as its templates have it.
fn core_first(core: &Path, checkout: &Checkout) -> Vec<PathBuf> {
    let mut layers = vec![core.to_path_buf()];
    for layer in checkout.repos.iter().flat_map(|repo| &repo.layers) {
        if !layers.contains(layer) {
            layers.push(layer.clone());
        }
    }
    layers
}

fn with_layers_under_test(repo_layers: &[PathBuf], under_test: &[PathBuf]) -> Vec<PathBuf> {
    let new = under_test.iter().filter(|layer| !repo_layers.contains(layer));
    repo_layers.iter().chain(new).cloned().collect()
}

fn tools(checkout: &Checkout, host: HostTools) -> Result<Tools> {
    let init = checkout.bitbake.join("lib/bb/__init__.py");
    let text = untrusted::read_text(&init, untrusted::PAGE)
        .map_err(|error| Unreadable::new(&init, error).of_dependency())?;
    let version = bitbake_version(&text).ok_or_else(|| {
        Error::usage(format!("`{}` does not tell BitBake's version", init.display()))
            .hint("is this really a BitBake tree? `__version__ = \"…\"` is expected there")
    })?;
    Ok(Tools {
        bitbake: checkout.bitbake.clone(),
        bitbake_version: version.to_owned(),
        oe_core: checkout.oe_core.clone(),
        host,
    })
}

/// Lets git read the checkouts that belong to somebody else than the build user: exactly these.
fn git_access(settings: &Settings, checkout: &Checkout, whoami: &User) -> Vec<(OsString, OsString)> {
    let roots = checkout.repos.iter().map(|repo| repo.path.clone()).chain([settings.checkout.clone()]);
    let foreign = |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.uid() != whoami.uid);
    let paths: Vec<PathBuf> = roots.filter(foreign).collect();
    if paths.is_empty() { Vec::new() } else { agent_git::safe_directories(&paths) }
}

/// Checks that the user can get to the path: a closed directory above it gives BitBake errors that
/// name everything but the cause.
fn reachable(path: &Path, user: &User) -> Result<()> {
    let user_rights = Credentials::of(user.uid, user.gid);
    if let Some(Barrier { path: closed, mode }) = user_rights.barrier(path, Permission::EXECUTE)
        && closed.is_dir()
    {
        return Err(Error::machine(format!(
            "the build user {} cannot get to `{}`: `{}` is closed to it (mode {:04o})",
            user.name,
            path.display(),
            closed.display(),
            mode.unwrap_or_default()
        ))
        .hint(format!(
            "move it to a place that {} may enter, or `chmod o+x {}`; --work-dir moves the agent's own directories",
            user.name,
            closed.display()
        )));
    }
    Ok(())
}
