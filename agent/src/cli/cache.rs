//! `build-agent cache stats|publish|prune|verify`: maintains a share.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{AgentEnvironment, ShareLocation, SharedCache};
use agent_cache::bucket;
use agent_cache::prune::{self, Names, Options, Pruned};
use agent_cache::stats::{self, Stats};
use agent_cache::verify::{self, Verified};
use agent_objects::prices::usd;
use agent_objects::retry::Retries;
use agent_objects::{Objects, Prices};
use agent_process::Interrupt;
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::s3_address::S3Address;
use agent_types::share::Share;
use agent_types::words::{bytes, count};

use super::arguments::{self, CacheCommand, ShareArgs};
use super::cache_publish;
use super::job::{listen_for_signals, load};
use super::print;

/// A scheduled prune has time: it outlives a restart of the server.
const RETRIES: Retries = Retries { within: Duration::from_secs(60), delay: Duration::from_millis(250) };

pub async fn command(command: CacheCommand, environment: &AgentEnvironment) -> Result<ExitStatus> {
    match command {
        CacheCommand::Stats(args) => stats(args, environment).await,
        CacheCommand::Publish(args) => {
            let share = share_at(&args.share)?;
            cache_publish::command(args, &share, environment).await
        }
        CacheCommand::Prune(args) => prune(args, environment).await,
        CacheCommand::Verify(args) => verify(args, environment).await,
    }
}

/// A share and what the manifest says about it.
struct ShareSettings {
    share: ShareLocation,
    sstate_max_age: Option<Duration>,
    downloads_max_age: Option<Duration>,
    prices: Prices,
}

async fn share_settings(args: &ShareArgs, environment: &AgentEnvironment) -> Result<ShareSettings> {
    if let (Some(share), None) = (&args.share, &args.manifest.manifest) {
        return Ok(ShareSettings {
            share: share_at(share)?,
            sstate_max_age: None,
            downloads_max_age: None,
            prices: Prices::default(),
        });
    }
    let settings = load(&args.manifest, environment).await?;
    let share = match (&args.share, settings.cache.share) {
        (Some(share), _) => share_at(share)?,
        (None, Some(SharedCache::Directory(shared))) => ShareLocation::Directory(shared.share),
        (None, Some(SharedCache::Bucket(shared))) => ShareLocation::Bucket(shared.share),
        (None, None) => {
            return Err(Error::usage("the manifest names no share")
                .hint("set `[cache] share`, or pass a directory or s3://BUCKET/PREFIX with --share"));
        }
    };
    let (sstate, downloads) = (settings.cache.sstate_max_age, settings.cache.downloads_max_age);
    let prices = settings.cache.prices;
    Ok(ShareSettings { share, sstate_max_age: Some(sstate), downloads_max_age: Some(downloads), prices })
}

/// The share with this name: `s3://BUCKET/PREFIX`, else a directory.
fn share_at(name: &Path) -> Result<ShareLocation> {
    if let Some(address) = name.to_str().filter(|name| name.starts_with("s3://")) {
        return Ok(ShareLocation::Bucket(BucketShare::new(S3Address::parse(address)?)));
    }
    let path = std::path::absolute(name)
        .map_err(|error| Error::usage(format!("`{}` is not a directory", name.display())).because(&error))?;
    Ok(ShareLocation::Directory(Share::new(path)))
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
    let ShareSettings { share, prices, .. } = share_settings(&args, environment).await?;
    let (width, now, interrupt) = (args.width, SystemTime::now(), interrupt(None)?);
    let stats = match share.clone() {
        ShareLocation::Directory(share) => {
            blocking(&interrupt, move |interrupt| stats::stats(&share, width, interrupt, now)).await?
        }
        ShareLocation::Bucket(share) => {
            on_bucket(&share, &interrupt, async |objects| {
                bucket::stats::stats(&objects, &share, (width, &prices), &interrupt, now).await
            })
            .await?
        }
    };
    match args.json {
        true => print::json(with_schema("stats", &share, &stats)?)?,
        false => print::text(&sanitize(&stats_text(&share, &stats)))?,
    }
    Ok(if interrupt.state().is_some() { ExitStatus::Cancelled } else { ExitStatus::Passed })
}

async fn prune(args: arguments::Prune, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let ShareSettings { share, sstate_max_age, downloads_max_age, .. } =
        share_settings(&args.share, environment).await?;
    let default = Options::default();
    let options = Options {
        sstate_max_age: args.sstate_max_age.or(sstate_max_age).unwrap_or(default.sstate_max_age),
        downloads_max_age: args.downloads_max_age.or(downloads_max_age).unwrap_or(default.downloads_max_age),
        layers_max_age: args.layers_max_age,
        results_max_age: args.results_max_age,
        pull_requests_max_age: args.pull_requests_max_age,
        max_size: args.max_size,
        pull_requests_max_size: args.pull_requests_max_size,
        grace: args.grace,
        ignore_leases: args.ignore_leases,
        dry_run: args.dry_run,
        width: args.share.width,
    };
    let (now, interrupt, shown) = (SystemTime::now(), interrupt(args.time_limit)?, options.clone());
    let pruned = match share.clone() {
        ShareLocation::Directory(share) => {
            blocking(&interrupt, move |interrupt| prune::prune(&share, &options, interrupt, now)).await?
        }
        ShareLocation::Bucket(share) => {
            on_bucket(&share, &interrupt, async |objects| {
                bucket::prune::prune(&objects, &share, &options, &interrupt, now).await
            })
            .await?
        }
    };
    match args.share.json {
        true => print::json(with_schema("prune", &share, &pruned)?)?,
        false => print::text(&sanitize(&prune_text(&share, &shown, &pruned)))?,
    }
    Ok(match pruned.stopped {
        Some("cancelled") => ExitStatus::Cancelled,
        Some(_) => ExitStatus::OutOfTime,
        None if pruned.failed > 0 => ExitStatus::Machine,
        None => ExitStatus::Passed,
    })
}

async fn verify(args: arguments::Verify, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let ShareSettings { share, .. } = share_settings(&args.share, environment).await?;
    let options = verify::Options { full: args.full, remove_bad: args.remove_bad, width: args.share.width };
    let (now, interrupt) = (SystemTime::now(), interrupt(args.time_limit)?);
    let verified = match share.clone() {
        ShareLocation::Directory(share) => {
            blocking(&interrupt, move |interrupt| verify::verify(&share, &options, interrupt, now)).await?
        }
        ShareLocation::Bucket(share) => {
            on_bucket(&share, &interrupt, async |objects| {
                bucket::verify::verify(&objects, &share, &options, &interrupt).await
            })
            .await?
        }
    };
    match args.share.json {
        true => print::json(with_schema("verify", &share, &verified)?)?,
        false => print::text(&sanitize(&verify_text(&share, &verified)))?,
    }
    Ok(match interrupt.state() {
        Some(agent_process::Interrupted::Cancelled) => ExitStatus::Cancelled,
        Some(agent_process::Interrupted::OutOfTime) if !verified.complete => ExitStatus::OutOfTime,
        _ if verified.is_good() => ExitStatus::Passed,
        _ => ExitStatus::Failed,
    })
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

fn units(sum: prune::Sum, thing: &str) -> String {
    format!("{}, {}", count(sum.units, thing), bytes(sum.bytes))
}

fn age(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

fn prune_text(share: &ShareLocation, options: &Options, pruned: &Pruned) -> String {
    let mut text = format!("share {share}\n");
    for area in &pruned.areas {
        text += &format!("  {:<28} {}", area.area, units(area.all, "unit"));
        for (sum, why) in [(area.by_age, "too old"), (area.by_size, "above the limit")] {
            if sum.units > 0 {
                text += &format!("; {} {why} ({})", sum.units, bytes(sum.bytes));
            }
        }
        text += "\n";
    }
    let place = match share {
        ShareLocation::Directory(share) => Some(share.trash()),
        ShareLocation::Bucket(_) => None,
    };
    let (moved, trash) = match pruned.dry_run {
        true => ("would be moved to the trash", "would be deleted"),
        false => ("moved to the trash", "deleted"),
    };
    let verb = if place.is_some() { moved } else { trash };
    text += &format!("\n{} {verb}\n", units(pruned.taken, "unit"));
    let waits = match options.grace.is_zero() {
        true => String::new(),
        false => format!("; its new files are deleted after {}", age(options.grace)),
    };
    if pruned.trash.runs_deleted > 0 {
        let files = match pruned.dry_run {
            true => String::new(),
            false => format!(" ({})", count(pruned.trash.files_deleted, "file")),
        };
        text += &format!("trash of {} {trash}{files}\n", count(pruned.trash.runs_deleted, "run"));
    }
    if let Some(place) = place.filter(|_| pruned.taken.units > 0 && !pruned.dry_run) {
        text += &format!("the trash is `{}`{waits}\n", place.display());
    }
    if pruned.held_by_grace.units > 0 {
        text += &format!(
            "{} above the limits kept, because they were used within {}\n",
            units(pruned.held_by_grace, "unit"),
            age(options.grace)
        );
    }
    if let Some(oldest) = pruned.oldest_lease.as_ref().filter(|_| pruned.held_by_leases.units > 0) {
        let held = units(pruned.held_by_leases, "unit");
        text += &format!(
            "{held} above the limits kept because of {}, the oldest since {oldest}\n",
            count(pruned.leases.len() as u64, "lease")
        );
    }
    for (number, what) in [
        (pruned.used_meanwhile, "kept: used while this ran"),
        (pruned.gone_meanwhile, "skipped: removed by another process"),
    ] {
        if number > 0 {
            text += &format!("{} {what}\n", count(number, "unit"));
        }
    }
    for lease in &pruned.unreadable_leases {
        text += &format!("warning: the lease `{lease}` is not readable, so it is honoured for two days\n");
    }
    text += &names(&pruned.unknown, "unknown, kept");
    text += &names(&pruned.trouble, "not readable, kept");
    if pruned.failed > 0 {
        text += &format!("error: {} failed\n", pruned.failed);
        for failure in &pruned.failures {
            text += &format!("  {failure}\n");
        }
    }
    text += &format!("{} in {:.1} s\n", count(pruned.operations, "operation"), pruned.seconds);
    if let Some(why) = pruned.stopped {
        text += &format!("stopped: {why}; the next run continues\n");
    }
    text
}

fn names(names: &Names, what: &str) -> String {
    const SHOWN: usize = 20;
    if names.count == 0 {
        return String::new();
    }
    let mut text = format!("{} {what}:\n", names.count);
    for name in names.first.iter().take(SHOWN) {
        text += &format!("  {name}\n");
    }
    if names.count > SHOWN as u64 {
        text += &format!("  and {} more\n", names.count - SHOWN as u64);
    }
    text
}

fn stats_text(share: &ShareLocation, stats: &Stats) -> String {
    let mut text = format!("share {share}\n");
    for release in &stats.sstate {
        text += &format!("\nsstate {}\n", release.release);
        for (version, sum) in &release.versions {
            text += &format!("  version {version:<12} {}\n", units(*sum, "object"));
        }
        text += &ages(&release.ages);
        if release.siginfo_only > 0 {
            text += &format!("  {:<20} {}\n", "siginfo only", count(release.siginfo_only, "siginfo"));
        }
        if let Some(rate) = release.hit_rate {
            text += &format!(
                "  {:<20} {:.0}% of {} (local {}, share {}, missed {}) in the last {}\n",
                "hit rate",
                rate * 100.0,
                count(release.usage.wanted, "wanted object"),
                release.usage.local,
                release.usage.mirrors,
                release.usage.missed,
                count(release.builds, "build"),
            );
        }
    }
    text += "\ndownloads\n";
    for (kind, sum) in &stats.downloads {
        text += &format!("  {kind:<20} {}\n", units(*sum, "file"));
    }
    text += &ages(&stats.downloads_ages);
    text += &format!(
        "\nlayers                 {}, {}\n",
        count(stats.layers.units, "checkout"),
        bytes(stats.layers.bytes)
    );
    text += &format!(
        "pull requests          {}, {}\n",
        stats.pull_requests.len(),
        bytes(stats.pull_requests.iter().map(|pr| pr.bytes).sum())
    );
    for request in &stats.pull_requests {
        text +=
            &format!("  {:<20} {}, {}\n", request.number, count(request.files, "file"), bytes(request.bytes));
    }
    if stats.results.units > 0 {
        text += &format!("results                {}\n", units(stats.results, "result"));
    }
    if let Some(signatures) = stats.signatures {
        text += &format!("signatures             {}\n", units(signatures, "object"));
    }
    if let ShareLocation::Directory(_) = share {
        text += &format!("trash                  {}\n", units(stats.trash, "file"));
    }
    if let Some(amount) = stats.usd_per_month {
        text += &format!("storage costs about    {} a month\n", usd(amount));
    }
    text += &format!("leases                 {}\n", stats.leases.len());
    for lease in &stats.leases {
        text += &format!("  {lease}\n");
    }
    text += &names(&stats.unknown, "unknown");
    text += &names(&stats.trouble, "not readable");
    text += &format!("{} in {:.1} s\n", count(stats.operations, "operation"), stats.seconds);
    text
}

fn ages(ages: &[stats::Age]) -> String {
    let used = ages.iter().filter(|age| age.sum.units > 0);
    used.map(|age| format!("  used {:<15} {}\n", age.used, units(age.sum, "unit"))).collect()
}

fn verify_text(share: &ShareLocation, verified: &Verified) -> String {
    let mut text = format!("share {share}\n{} checked", count(verified.files, "file"));
    if verified.unpacked > 0 {
        text += &format!(", {} decompressed", count(verified.unpacked, "archive"));
    }
    text += "\n";
    if verified.siginfo_only > 0 {
        text += &format!(
            "{} without an archive, which is normal for fetch and unpack\n",
            count(verified.siginfo_only, "siginfo")
        );
    }
    if verified.without_siginfo > 0 {
        text += &format!(
            "warning: {} without siginfo: `bitbake-diffsigs` cannot explain a rebuild\n",
            count(verified.without_siginfo, "archive")
        );
    }
    for (problem, found) in &verified.bad {
        text += &names(found, problem);
    }
    text += &names(&verified.unknown, "unknown");
    text += &names(&verified.trouble, "not readable by this user");
    if verified.moved > 0 {
        let verb = match share {
            ShareLocation::Directory(share) => format!("moved to `{}`", share.trash().display()),
            ShareLocation::Bucket(_) => "deleted".into(),
        };
        text += &format!("{} {verb}\n", count(verified.moved, "unit"));
    }
    for failure in &verified.failures {
        text += &format!("error: {failure}\n");
    }
    if verified.can_be_removed() {
        text += &format!("fix: build-agent cache verify --share {share} --remove-bad\n");
    }
    if verified.bad.contains_key(verify::CLOSED) {
        text += &format!("fix: chmod -R a+rX {share}\n");
    }
    text += &format!("{} in {:.1} s\n", count(verified.operations, "operation"), verified.seconds);
    if !verified.complete {
        text += "stopped early: not all files were checked\n";
    }
    text
}
