//! `build-agent cache stats|publish|prune|verify`: maintains a share.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{AgentEnvironment, SharedCache};
use agent_cache::prune::{self, Names, Options, Pruned};
use agent_cache::stats::{self, Stats};
use agent_cache::verify::{self, Verified};
use agent_process::Interrupt;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::share::Share;
use agent_types::words::{bytes, count};

use super::arguments::{self, CacheCommand, ShareArgs};
use super::cache_publish;
use super::job::{listen_for_signals, load};
use super::print;

pub async fn command(command: CacheCommand, environment: &AgentEnvironment) -> Result<ExitStatus> {
    match command {
        CacheCommand::Stats(args) => stats(args, environment).await,
        CacheCommand::Publish(args) => cache_publish::command(args, environment).await,
        CacheCommand::Prune(args) => prune(args, environment).await,
        CacheCommand::Verify(args) => verify(args, environment).await,
    }
}

/// A share and the maximum ages that the manifest sets for it.
struct ShareSettings {
    share: Share,
    sstate_max_age: Option<Duration>,
    downloads_max_age: Option<Duration>,
}

async fn share_settings(args: &ShareArgs, environment: &AgentEnvironment) -> Result<ShareSettings> {
    if let (Some(directory), None) = (&args.share, &args.manifest.manifest) {
        return Ok(ShareSettings {
            share: share_at(directory)?,
            sstate_max_age: None,
            downloads_max_age: None,
        });
    }
    let settings = load(&args.manifest, environment).await?;
    let share = match (&args.share, settings.cache.share) {
        (Some(directory), _) => share_at(directory)?,
        (None, Some(SharedCache::Directory(shared))) => shared.share,
        (None, Some(SharedCache::Bucket(shared))) => {
            return Err(Error::usage(format!("{} is maintained by its lifecycle rules", shared.share)));
        }
        (None, None) => {
            return Err(Error::usage("the manifest names no share")
                .hint("set `[cache] share`, or pass the directory with --share"));
        }
    };
    let (sstate, downloads) = (settings.cache.sstate_max_age, settings.cache.downloads_max_age);
    Ok(ShareSettings { share, sstate_max_age: Some(sstate), downloads_max_age: Some(downloads) })
}

fn share_at(directory: &PathBuf) -> Result<Share> {
    let path = std::path::absolute(directory).map_err(|error| {
        Error::usage(format!("`{}` is not a directory", directory.display())).because(&error)
    })?;
    Ok(Share::new(path))
}

/// Runs blocking work. A second signal returns at once, because a file server may never answer.
async fn blocking<T: Send + 'static>(
    limit: Option<Duration>,
    work: impl FnOnce(&Interrupt) -> Result<T> + Send + 'static,
) -> Result<(T, Interrupt)> {
    let mut interrupt = Interrupt::new(None);
    if let Some(limit) = limit {
        interrupt = interrupt.limited(limit);
    }
    listen_for_signals(&interrupt)?;
    let inner = interrupt.clone();
    let work = tokio::task::spawn_blocking(move || work(&inner));
    let done = tokio::select! {
        done = work => done.map_err(|error| Error::internal("the work on the share panicked").because(&error))??,
        () = interrupt.force_kill() => return Err(Error::new(agent_types::error::Class::Cancelled, "cancelled")),
    };
    Ok((done, interrupt))
}

async fn stats(args: ShareArgs, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let ShareSettings { share, .. } = share_settings(&args, environment).await?;
    let (root, width) = (share.clone(), args.width);
    let work = move |interrupt: &Interrupt| stats::stats(&share, width, interrupt, SystemTime::now());
    let (stats, interrupt) = blocking(None, work).await?;
    match args.json {
        true => print::json(with_schema("stats", &root, &stats)?)?,
        false => print::text(&sanitize(&stats_text(&root, &stats)))?,
    }
    Ok(if interrupt.state().is_some() { ExitStatus::Cancelled } else { ExitStatus::Passed })
}

async fn prune(args: arguments::Prune, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let ShareSettings { share, sstate_max_age, downloads_max_age } =
        share_settings(&args.share, environment).await?;
    let default = Options::default();
    let options = Options {
        sstate_max_age: args.sstate_max_age.or(sstate_max_age).unwrap_or(default.sstate_max_age),
        downloads_max_age: args.downloads_max_age.or(downloads_max_age).unwrap_or(default.downloads_max_age),
        layers_max_age: args.layers_max_age,
        pull_requests_max_age: args.pull_requests_max_age,
        max_size: args.max_size,
        pull_requests_max_size: args.pull_requests_max_size,
        grace: args.grace,
        ignore_leases: args.ignore_leases,
        dry_run: args.dry_run,
        width: args.share.width,
    };
    let (root, shown) = (share.clone(), options.clone());
    let work = move |interrupt: &Interrupt| prune::prune(&share, &options, interrupt, SystemTime::now());
    let (pruned, _) = blocking(args.time_limit, work).await?;
    match args.share.json {
        true => print::json(with_schema("prune", &root, &pruned)?)?,
        false => print::text(&sanitize(&prune_text(&root, &shown, &pruned)))?,
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
    let root = share.clone();
    let work = move |interrupt: &Interrupt| verify::verify(&share, &options, interrupt, SystemTime::now());
    let (verified, interrupt) = blocking(args.time_limit, work).await?;
    match args.share.json {
        true => print::json(with_schema("verify", &root, &verified)?)?,
        false => print::text(&sanitize(&verify_text(&root, &verified)))?,
    }
    Ok(match interrupt.state() {
        Some(agent_process::Interrupted::Cancelled) => ExitStatus::Cancelled,
        Some(agent_process::Interrupted::OutOfTime) if !verified.complete => ExitStatus::OutOfTime,
        _ if verified.is_good() => ExitStatus::Passed,
        _ => ExitStatus::Failed,
    })
}

fn with_schema(command: &str, share: &Share, value: &impl Serialize) -> Result<Value> {
    let mut value = serde_json::to_value(value)
        .map_err(|error| Error::internal("the result cannot be written as JSON").because(&error))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".into(), json!(format!("build-agent/cache-{command}/v1")));
        object.insert("share".into(), json!(share.root()));
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

fn prune_text(share: &Share, options: &Options, pruned: &Pruned) -> String {
    let mut text = format!("share {}\n", share.root().display());
    for area in &pruned.areas {
        text += &format!("  {:<28} {}", area.area, units(area.all, "unit"));
        for (sum, why) in [(area.by_age, "too old"), (area.by_size, "above the limit")] {
            if sum.units > 0 {
                text += &format!("; {} {why} ({})", sum.units, bytes(sum.bytes));
            }
        }
        text += "\n";
    }
    let (verb, trash) = match pruned.dry_run {
        true => ("would be moved to the trash", "would be deleted"),
        false => ("moved to the trash", "deleted"),
    };
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
    if pruned.taken.units > 0 && !pruned.dry_run {
        text += &format!("the trash is `{}`{waits}\n", share.trash().display());
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

fn stats_text(share: &Share, stats: &Stats) -> String {
    let mut text = format!("share {}\n", share.root().display());
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
    text += &format!(
        "trash                  {}, {}\n",
        count(stats.trash.units, "file"),
        bytes(stats.trash.bytes)
    );
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

fn verify_text(share: &Share, verified: &Verified) -> String {
    let mut text = format!("share {}\n{} checked", share.root().display(), count(verified.files, "file"));
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
        text += &format!("{} moved to `{}`\n", count(verified.moved, "unit"), share.trash().display());
    }
    for failure in &verified.failures {
        text += &format!("error: {failure}\n");
    }
    if verified.can_be_removed() {
        text += &format!("fix: build-agent cache verify --share {} --remove-bad\n", share.root().display());
    }
    if verified.bad.contains_key(verify::CLOSED) {
        text += &format!("fix: chmod -R a+rX {}\n", share.root().display());
    }
    text += &format!("{} in {:.1} s\n", count(verified.operations, "operation"), verified.seconds);
    if !verified.complete {
        text += "stopped early: not all files were checked\n";
    }
    text
}
