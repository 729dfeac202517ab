//! `build-agent cache stats|publish|prune|verify`: maintains a share or the local caches.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{self, AgentEnvironment, ShareLocation};
use crate::stages::configure::prune_buildtools;
use agent_cache::areas::{BUILDTOOLS, TRUSTED};
use agent_cache::bucket;
use agent_cache::prune::{self, Options};
use agent_cache::stats;
use agent_cache::verify::{self, Verified};
use agent_objects::Objects;
use agent_objects::retry::Retries;
use agent_process::Interrupt;
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments::{self, CacheCommand, ShareArgs};
use super::cache_publish;
use super::cache_selection::{self, SelectedCaches};
use super::cache_text::{prune_text, stats_text, verify_text};
use super::cache_work_dirs::WorkDirs;
use super::current_dir::current_dir;
use super::job::listen_for_signals;
use super::print;

/// A scheduled prune has time: it outlives a restart of the server.
const RETRIES: Retries = Retries { within: Duration::from_secs(60), delay: Duration::from_millis(250) };

pub async fn command(command: CacheCommand, environment: &AgentEnvironment) -> Result<ExitStatus> {
    match command {
        CacheCommand::Stats(args) => stats(args, environment).await,
        CacheCommand::Publish(args) => {
            let share = cache_selection::share_at(&args.share)?;
            cache_publish::command(args, &share, environment).await
        }
        CacheCommand::Prune(args) => prune(args, environment).await,
        CacheCommand::Verify(args) => verify(args, environment).await,
    }
}

fn interrupt(limit: Option<Duration>) -> Result<Interrupt> {
    let mut interrupt = Interrupt::new(None);
    if let Some(limit) = limit {
        interrupt = interrupt.limited(limit);
    }
    listen_for_signals(&interrupt)?;
    Ok(interrupt)
}

/// Works on a bucket. A second signal returns at once.
async fn on_bucket<T>(
    share: &BucketShare,
    interrupt: &Interrupt,
    work: impl AsyncFnOnce(Objects) -> Result<T>,
) -> Result<T> {
    let bucket = Arc::new(agent_artifacts::aws::share_bucket(share.bucket()).await?);
    let keys = agent_artifacts::aws::BucketKeys::new(Arc::clone(&bucket))
        .map_err(|error| Error::machine(format!("cannot use {share}")).because(&error))?;
    let objects = Objects::new(bucket, RETRIES).listed_by(Arc::new(keys));
    tokio::select! {
        done = work(objects) => done,
        () = interrupt.force_kill() => Err(Error::new(agent_types::error::Class::Cancelled, "cancelled")),
    }
}

/// Runs blocking work. A second signal returns at once, because a file server may never answer.
async fn blocking<T: Send + 'static>(
    interrupt: &Interrupt,
    work: impl FnOnce(&Interrupt) -> Result<T> + Send + 'static,
) -> Result<T> {
    let inner = interrupt.clone();
    let work = tokio::task::spawn_blocking(move || work(&inner));
    tokio::select! {
        done = work => done.map_err(|error| Error::internal("the work on the share panicked").because(&error))?,
        () = interrupt.force_kill() => Err(Error::new(agent_types::error::Class::Cancelled, "cancelled")),
    }
}

async fn stats(args: ShareArgs, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let selected = cache_selection::find(&args, environment).await?;
    let (width, now, interrupt) = (args.width, SystemTime::now(), interrupt(None)?);
    let mut all = Vec::new();
    for share in &selected.shares {
        all.push(match share.clone() {
            ShareLocation::Directory(share) => {
                blocking(&interrupt, move |interrupt| stats::stats(&share, width, interrupt, now)).await?
            }
            ShareLocation::Bucket(share) => {
                on_bucket(&share, &interrupt, async |objects| {
                    bucket::stats::stats(&objects, &share, (width, &selected.prices), &interrupt, now).await
                })
                .await?
            }
        });
    }
    show(&selected, "stats", &all, args.json, stats_text)?;
    Ok(if interrupt.state().is_some() { ExitStatus::Cancelled } else { ExitStatus::Passed })
}

async fn prune(args: arguments::Prune, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let selected = cache_selection::find(&args.share, environment).await?;
    if args.work_max_age.is_some() && !selected.is_local {
        let error = Error::usage("--work-max-age needs the local caches: a share has no work directories");
        return Err(error.hint("add --local"));
    }
    let default = Options::default();
    // Local space is wanted at once, and the leases protect what running jobs use.
    let grace = if selected.is_local { Duration::ZERO } else { default.grace };
    let options = Options {
        sstate_max_age: args.sstate_max_age.or(selected.sstate_max_age).unwrap_or(default.sstate_max_age),
        downloads_max_age: args
            .downloads_max_age
            .or(selected.downloads_max_age)
            .unwrap_or(default.downloads_max_age),
        layers_max_age: args.layers_max_age,
        results_max_age: args.results_max_age,
        pull_requests_max_age: args.pull_requests_max_age,
        max_size: args.max_size,
        pull_requests_max_size: args.pull_requests_max_size,
        grace: args.grace.unwrap_or(grace),
        ignore_leases: args.ignore_leases,
        dry_run: args.dry_run,
        width: args.share.width,
    };
    let (now, interrupt) = (SystemTime::now(), interrupt(args.time_limit)?);
    let mut all = Vec::new();
    for share in &selected.shares {
        let options = options.clone();
        all.push(match share.clone() {
            ShareLocation::Directory(share) => {
                blocking(&interrupt, move |interrupt| prune::prune(&share, &options, interrupt, now)).await?
            }
            ShareLocation::Bucket(share) => {
                on_bucket(&share, &interrupt, async |objects| {
                    bucket::prune::prune(&objects, &share, &options, &interrupt, now).await
                })
                .await?
            }
        });
    }
    if let (Some(max_age), Some(pruned)) = (args.work_max_age, all.first_mut()) {
        let work_dir = args.share.manifest.common.work_dir.as_deref();
        let directory = config::work_dir(work_dir, environment, &current_dir()?)?;
        let prune = WorkDirs { directory, max_age, dry_run: args.dry_run, now };
        let work_dirs = blocking(&interrupt, move |_| prune.run()).await?;
        pruned.failed += work_dirs.failures.len() as u64;
        pruned.failures.extend(work_dirs.failures);
        (pruned.work_dirs, pruned.work_dirs_kept) = (work_dirs.deleted, work_dirs.kept);
    }
    if let (true, Some(ShareLocation::Directory(local)), Some(pruned)) =
        (selected.is_local, selected.shares.first(), all.first_mut())
    {
        let (store, age) = (local.root().join(BUILDTOOLS), options.downloads_max_age);
        let prune = move |_: &Interrupt| prune_buildtools(&store, age, now, args.dry_run);
        let buildtools = blocking(&interrupt, prune).await?;
        pruned.failed += buildtools.failures.len() as u64;
        pruned.failures.extend(buildtools.failures);
        pruned.buildtools = buildtools.deleted;
    }
    show(&selected, "prune", &all, args.share.json, |share, pruned| prune_text(share, &options, pruned))?;
    let is_stopped = |why: &str| all.iter().any(|pruned| pruned.stopped == Some(why));
    Ok(if is_stopped("cancelled") {
        ExitStatus::Cancelled
    } else if all.iter().any(|pruned| pruned.stopped.is_some()) {
        ExitStatus::OutOfTime
    } else if all.iter().any(|pruned| pruned.failed > 0) {
        ExitStatus::Machine
    } else {
        ExitStatus::Passed
    })
}

async fn verify(args: arguments::Verify, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let selected = cache_selection::find(&args.share, environment).await?;
    let (now, interrupt) = (SystemTime::now(), interrupt(args.time_limit)?);
    let mut all = Vec::new();
    for share in &selected.shares {
        let options =
            verify::Options { full: args.full, remove_bad: args.remove_bad, width: args.share.width };
        all.push(match share.clone() {
            ShareLocation::Directory(share) => {
                blocking(&interrupt, move |interrupt| verify::verify(&share, &options, interrupt, now))
                    .await?
            }
            ShareLocation::Bucket(share) => {
                on_bucket(&share, &interrupt, async |objects| {
                    bucket::verify::verify(&objects, &share, &options, &interrupt).await
                })
                .await?
            }
        });
    }
    show(&selected, "verify", &all, args.share.json, verify_text)?;
    Ok(match interrupt.state() {
        Some(agent_process::Interrupted::Cancelled) => ExitStatus::Cancelled,
        Some(agent_process::Interrupted::OutOfTime) if !all.iter().all(|one| one.complete) => {
            ExitStatus::OutOfTime
        }
        _ if all.iter().all(Verified::is_good) => ExitStatus::Passed,
        _ => ExitStatus::Failed,
    })
}

/// Prints what a command found in each directory. In JSON, what it found in the caches of trusted sources is part of what
/// it found in the local caches.
fn show<T: Serialize>(
    selected: &SelectedCaches,
    command: &str,
    all: &[T],
    as_json: bool,
    text: impl Fn(&ShareLocation, &T) -> String,
) -> Result<()> {
    let each = selected.shares.iter().zip(all);
    if as_json {
        let mut values = each.map(|(share, one)| with_schema(command, share, one));
        let mut first = values.next().transpose()?.unwrap_or_default();
        if let (Some(object), Some(more)) = (first.as_object_mut(), values.next().transpose()?) {
            object.insert(TRUSTED.into(), more);
        }
        return print::json(first);
    }
    let what = if selected.is_local { "local caches" } else { "share" };
    let texts = each.map(|(share, one)| format!("{what} {share}\n{}", text(share, one)));
    print::text(&sanitize(&texts.collect::<Vec<_>>().join("\n")))
}

fn with_schema(command: &str, share: &ShareLocation, value: &impl Serialize) -> Result<Value> {
    let mut value = serde_json::to_value(value)
        .map_err(|error| Error::internal("the result cannot be written as JSON").because(&error))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".into(), json!(format!("build-agent/cache-{command}/v1")));
        object.insert("share".into(), json!(share.to_string()));
    }
    Ok(value)
}

/// Removes control characters: other users choose the names of files on the share.
fn sanitize(text: &str) -> String {
    text.lines().map(|line| agent_types::sanitize::sanitize(line) + "\n").collect()
}
