//! Checkout: every source lies ready at the commit that is wanted, and it is known where BitBake
//! and OE-Core are.
//!
//! Repos with a `url` become checkouts in a layer store, where the next job finds them; local
//! directories and the checkout under test are used as they are and nothing in them is changed.

mod asked;
mod blocking;
mod bucket;
mod completed;
mod contents;
mod patched;
mod signatures;
mod stored;
mod tree_copy;
mod usable;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use tracing::Instrument;

use crate::config::{GitSource, Repo, RepoSource, Settings};
use agent_cache::layers;
use agent_fs::untrusted::Reader;
use agent_git::Access;
use agent_process::Runner;
use agent_types::error::{Class, Error, Result};
use agent_types::events::{EventKind, RepoReady, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_types::tiers::TierKind;
use agent_types::traffic::Traffic;

use super::retry;
use super::share::OpenShare;
use completed::Completion;
use stored::Stores;

/// How many repos are fetched at once.
const PARALLEL: usize = 4;

/// Checkouts of this machine that no job has used for so long are removed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The sources of a job, ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// In the manifest's order.
    pub repos: Vec<ReadyRepo>,
    /// Holds `bin/bitbake`; absolute.
    pub bitbake: PathBuf,
    /// Holds `oe-init-build-env` and `meta/`; absolute.
    pub oe_core: PathBuf,
    /// Entries of the share's layer store that are used, as leases name them: `<repo>/<commit>`.
    pub shared_entries: Vec<String>,
}

/// A source that lies ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyRepo {
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
    /// Its layers, absolute.
    pub layers: Vec<PathBuf>,
    /// `None` for a local directory that is no git work tree.
    pub commit: Option<String>,
    /// Whether it lies in a layer store, this machine's or the share's.
    pub is_stored: bool,
    /// Where it lies in the share's layer store, if it does: `<repo>/<commit>`.
    pub shared_entry: Option<String>,
}

/// What git says of the checkout under test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderTest {
    pub commit: Option<String>,
    /// Git's id of all files of the commit.
    pub tree: Option<String>,
    /// Uncommitted changes or new files, other than the agent's own output.
    pub dirty: bool,
    pub branch: Option<String>,
}

/// Brings all sources into place. `share` is what the job may do with the share.
///
/// # Errors
/// The first repo's that could not be had, in the manifest's order, after all were tried; usage when
/// a layer, BitBake or OE-Core is not where the manifest says or is there twice.
pub async fn run(
    settings: &Settings,
    share: &OpenShare,
    runner: &Runner,
    access: &Access,
) -> Result<Checkout> {
    // Where there is none, configure says what is wrong.
    let layer_user =
        agent_process::build_user(settings.build_user.as_deref(), &settings.checkout).ok().flatten();
    let access = &access.for_source(settings.cache.trust.is_trusted());
    let stores = Stores::new(settings.cache.layers.clone(), share, layer_user)?;
    let jobs = settings.repos.iter().map(|repo| unit(settings, &stores, runner, access, repo));
    let mut answers: Vec<Result<ReadyRepo>> = stream::iter(jobs).buffered(PARALLEL).collect().await;
    if settings.completes_repos {
        complete(settings, &stores, runner, access, &mut answers).await?;
    }
    clear_away(&stores, runner).await;
    let traffic = stores.into_traffic();
    if traffic != Traffic::default() {
        runner.events.emit(EventKind::CacheTraffic { tier: TierKind::Shared, traffic }).await;
    }
    let mut repos = all_or_first_error(answers)?;
    signatures::verify(settings, &repos, runner, access).await?;
    patched::apply(settings, &mut repos, runner).await?;
    let found = contents::find(settings.release, &repos, &settings.checkout)?;
    if let Some(unknown) = contents::is_of_release(settings.release, &found.oe_core)? {
        runner.events.warn(unknown, None).await;
    }
    let shared_entries = repos.iter().filter_map(|repo| repo.shared_entry.clone()).collect();
    Ok(Checkout { repos, bitbake: found.bitbake, oe_core: found.oe_core, shared_entries })
}

/// Brings the wanted commit of one source into a layer store of this machine: the directory with its files, and the commit.
///
/// # Errors
/// As [`run`].
pub async fn one(
    store: PathBuf,
    runner: &Runner,
    access: &Access,
    name: &str,
    source: &GitSource,
) -> Result<(PathBuf, String)> {
    let stores = Stores::new(store, &OpenShare::default(), None)?;
    let obtained = stores.obtain(runner, access, name, source).await?;
    Ok((obtained.entry.tree(), obtained.entry.commit))
}

/// Maximum rounds of queries: a layer that was found in one round may compute its dependencies, too.
const MOST_ROUNDS: usize = 4;

/// Adds the repos and layers that only BitBake can name.
async fn complete(
    settings: &Settings,
    stores: &Stores,
    runner: &Runner,
    access: &Access,
    answers: &mut Vec<Result<ReadyRepo>>,
) -> Result<()> {
    let mut asked = BTreeSet::new();
    for _ in 0..MOST_ROUNDS {
        // What could not be had is told by the caller.
        let Ok(repos) = all_or_first_error(answers.clone()) else { return Ok(()) };
        let Ok(found) = contents::find(settings.release, &repos, &settings.checkout) else { return Ok(()) };
        let more = asked::more(settings, &repos, &found.bitbake, &mut asked, runner).await?;
        if more.is_empty() {
            return Ok(());
        }
        for repo in &more {
            let there = answers.iter_mut().flatten().find(|ready| ready.name == repo.name);
            match there {
                Some(ready) => {
                    let layers = contents::layers(repo, &ready.path, settings.release)?;
                    ready.layers.extend(layers);
                }
                None => answers.push(unit(settings, stores, runner, access, repo).await),
            }
        }
    }
    Ok(())
}

/// Removes what this machine does not use any more.
async fn clear_away(stores: &Stores, runner: &Runner) {
    let root = stores.local().root().to_owned();
    let removed = tokio::task::spawn_blocking(move || layers::expire(&root, UNUSED, SystemTime::now())).await;
    match removed {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(count)) => {
            let message = format!("{count} stored checkouts were not used for 30 days and are removed");
            runner.events.info(message).await;
        }
        Ok(Err(error)) => runner.events.warn(error.message, error.hint).await,
    }
}

/// One repo, as a unit of the stage.
async fn unit(
    settings: &Settings,
    stores: &Stores,
    runner: &Runner,
    access: &Access,
    repo: &Repo,
) -> Result<ReadyRepo> {
    let unit = Unit::new(Stage::Checkout, format!("repo {}", repo.name));
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let attempt = async || ready(settings, stores, runner, access, repo).await;
    let answer = retry::once(&unit, &runner.events, &runner.interrupt, attempt);
    let answer = answer.instrument(super::step(&unit)).await;
    let outcome = match &answer {
        Ok((_, event)) => {
            runner.events.emit(EventKind::Repo(event.clone())).await;
            Outcome::Passed
        }
        Err(error) => super::error_outcome(error),
    };
    runner.events.emit(EventKind::UnitFinished { unit, outcome, log: None, excerpt: Vec::new() }).await;
    answer.map(|(ready, _)| ready)
}

async fn ready(
    settings: &Settings,
    stores: &Stores,
    runner: &Runner,
    access: &Access,
    repo: &Repo,
) -> Result<(ReadyRepo, RepoReady)> {
    let (event, shared_entry) = match &repo.source {
        RepoSource::Path(path) => (local(settings, runner, access, &repo.name, path).await?, None),
        RepoSource::Git(source) => obtained(settings, stores, runner, access, repo, source).await?,
    };
    let layers = contents::layers(repo, &event.path, settings.release)?;
    let (name, path, commit) = (repo.name.clone(), event.path.clone(), event.commit.clone());
    let is_stored = matches!(repo.source, RepoSource::Git(_));
    Ok((ReadyRepo { name, path, layers, commit, is_stored, shared_entry }, event))
}

async fn local(
    settings: &Settings,
    runner: &Runner,
    access: &Access,
    name: &str,
    path: &Path,
) -> Result<RepoReady> {
    if !path.is_dir() {
        let message = format!("`repos.{name}.path`: {} is not a directory", path.display());
        return Err(Error::usage(message).hint("paths are relative to the manifest's directory"));
    }
    if let Some(user) = &access.reader {
        let reader = Reader { uid: user.uid, gid: user.gid, own: Vec::new() };
        reader.may_enter(path).map_err(|error| {
            let message = format!("`repos.{name}.path`: {} cannot read {}", user.name, path.display());
            Error::usage(message).because(&error).hint(format!(
                "nobody vouches for this source, so what it names is read as the build user: let {} read it",
                user.name
            ))
        })?;
    }
    let own = own_output(settings);
    let tree = agent_git::inspect(runner, name, path, &own, access.reader.as_ref()).await?;
    if let Some(trouble) = tree.trouble {
        runner.events.warn(format!("the commit of repo {name} is not known: {trouble}"), None).await;
    }
    if let Some(notice) = empty_submodules(&format!("repo {name}"), &tree.empty_submodules) {
        runner
            .events
            .warn(notice, Some(format!("run `git submodule update --init` in {}", path.display())))
            .await;
    }
    if let Some(notice) = agent_git::lfs_notice(&format!("repo {name}"), &tree.lfs_pointers) {
        runner.events.warn(notice, Some(format!("run `git lfs pull` in {}", path.display()))).await;
    }
    Ok(RepoReady {
        name: name.to_string(),
        url: None,
        commit: tree.commit,
        wanted: tree.branch,
        path: path.to_path_buf(),
        how: "local".into(),
        patches: Vec::new(),
        patches_sha256: None,
    })
}

async fn obtained(
    settings: &Settings,
    stores: &Stores,
    runner: &Runner,
    access: &Access,
    repo: &Repo,
    source: &GitSource,
) -> Result<(RepoReady, Option<String>)> {
    let obtained = stores.obtain(runner, access, &repo.name, source).await?;
    let stored = obtained.entry.tree();
    let completion = Completion { settings, stores, runner, access, repo };
    let completed = completion.tree(source, &stored, &obtained.entry.commit).await?;
    let is_stored = completed.is_none();
    let path = completed.unwrap_or(stored);
    let wanted = source.wanted.branch().or(source.wanted.tag()).map(str::to_owned);
    let shared_entry = (obtained.is_shared && is_stored).then(|| obtained.entry.key());
    let ready = RepoReady {
        name: repo.name.clone(),
        url: Some(agent_git::display_url(&source.url)),
        commit: Some(obtained.entry.commit),
        wanted,
        path,
        how: obtained.how.word().into(),
        patches: Vec::new(),
        patches_sha256: None,
    };
    Ok((ready, shared_entry))
}

/// What git says of the checkout under test; it is used as it is. Quick, so that a job can name the
/// commit from its first line on.
///
/// # Errors
/// When git cannot be started.
pub async fn look(settings: &Settings, runner: &Runner) -> Result<UnderTest> {
    let tree =
        agent_git::inspect(runner, "under-test", &settings.checkout, &own_output(settings), None).await?;
    let place = settings.checkout.display();
    if let Some(notice) =
        empty_submodules(&format!("the checkout under test {place}"), &tree.empty_submodules)
    {
        runner
            .events
            .warn(notice, Some("run `git submodule update --init` there before the agent".into()))
            .await;
    }
    if let Some(notice) =
        agent_git::lfs_notice(&format!("the checkout under test {place}"), &tree.lfs_pointers)
    {
        runner.events.warn(notice, Some("run `git lfs pull` there before the agent".into())).await;
    }
    // CodePipeline hands over a source without git, and CodeBuild tells its commit.
    let resolved = settings.cache.commit.clone().filter(|_| tree.commit.is_none());
    match (&tree.trouble, &tree.commit) {
        (Some(trouble), _) => {
            let message = format!("the commit of the checkout under test {place} is not known: {trouble}");
            runner.events.warn(message, Some("run `build-agent doctor`".into())).await;
        }
        (None, None) if resolved.is_some() => {
            let message = format!(
                "the checkout under test {place} has no git commit; reports name the build service's commit"
            );
            runner.events.info(message).await;
        }
        (None, None) => {
            let message =
                format!("the checkout under test {place} has no git commit; reports cannot name one");
            let hint = "a CodePipeline source has git only with `full clone`";
            runner.events.warn(message, Some(hint.into())).await;
        }
        (None, Some(_)) => {}
    }
    Ok(UnderTest {
        commit: tree.commit.or(resolved),
        tree: tree.tree,
        dirty: tree.dirty,
        branch: tree.branch,
    })
}

/// The notice about submodules that a local directory lacks.
fn empty_submodules(whose: &str, paths: &[String]) -> Option<String> {
    let shown = agent_git::shown_paths(paths);
    (!paths.is_empty()).then(|| format!("{whose} has submodules that are empty: {shown}"))
}

/// Directories that the agent itself fills: they do not make a checkout dirty.
fn own_output(settings: &Settings) -> Vec<PathBuf> {
    vec![
        settings.paths.out.clone(),
        settings.paths.work.clone(),
        settings.cache.layers.clone(),
        // The default of `--out`, from a run that had another one.
        settings.checkout.join("build-agent-out"),
    ]
}

/// All repos, or the first error that carries the others' messages.
fn all_or_first_error(answers: Vec<Result<ReadyRepo>>) -> Result<Vec<ReadyRepo>> {
    let mut repos = Vec::new();
    let mut errors = Vec::new();
    for answer in answers {
        match answer {
            Ok(repo) => repos.push(repo),
            Err(error) => errors.push(error),
        }
    }
    let mut errors = errors.into_iter();
    let Some(mut first) = errors.next() else { return Ok(repos) };
    // The same stop for all is told once.
    let others = errors.filter(|other| !matches!(other.class, Class::Cancelled | Class::OutOfTime));
    first.causes.extend(others.map(|other| format!("also: {other}")));
    Err(first)
}

#[cfg(test)]
pub(crate) mod tests;
