//! What the commands of `build-agent cache` found, for people.

use std::time::Duration;

use crate::config::ShareLocation;
use agent_cache::prune::{self, Names, Options, Pruned};
use agent_cache::stats::{self, Stats};
use agent_cache::verify::{self, Verified};
use agent_objects::prices::usd;
use agent_types::words::{bytes, count};

fn many(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

fn units(sum: prune::Sum, thing: &str) -> String {
    format!("{}, {}", count(sum.units, thing), bytes(sum.bytes))
}

fn age(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

pub fn prune_text(share: &ShareLocation, options: &Options, pruned: &Pruned) -> String {
    let mut text = String::new();
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
    let verb = if place.is_some() && !options.grace.is_zero() { moved } else { trash };
    text += &format!("\n{} {verb}\n", units(pruned.taken, "unit"));
    let waits = format!("; its new files are deleted after {}", age(options.grace));
    if pruned.trash.runs_deleted > 0 {
        let files = match pruned.dry_run {
            true => String::new(),
            false => format!(" ({})", count(pruned.trash.files_deleted, "file")),
        };
        text += &format!("trash of {} {trash}{files}\n", count(pruned.trash.runs_deleted, "run"));
    }
    if let Some(place) =
        place.filter(|_| pruned.taken.units > 0 && !pruned.dry_run && !options.grace.is_zero())
    {
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
    let kept = "kept: devtool's workspace in it may have changes that are nowhere else";
    let work_dirs = ("work directory", "work directories");
    for (names, (one, more), what) in [
        (&pruned.work_dirs, work_dirs, trash),
        (&pruned.work_dirs_kept, work_dirs, kept),
        (&pruned.buildtools, ("installation of buildtools", "installations of buildtools"), trash),
    ] {
        if !names.is_empty() {
            text += &format!("{} {what}:\n", many(names.len(), one, more));
        }
        for name in names {
            text += &format!("  {name}\n");
        }
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

pub fn stats_text(share: &ShareLocation, stats: &Stats) -> String {
    let mut text = String::new();
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
    if !stats.jobs.is_empty() {
        text += &format!("work directories       {}\n", stats.jobs.len());
        for job in &stats.jobs {
            text += &format!("  {job}\n");
        }
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

pub fn verify_text(share: &ShareLocation, verified: &Verified) -> String {
    let mut text = format!("{} checked", count(verified.files, "file"));
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
