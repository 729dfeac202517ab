//! Prunes a share: removes what was unused for a long time, and the least recently used units above a size
//! limit. It never removes a part of a unit, or a unit that a running build has a lease on, and never follows
//! links of other users.
//!
//! The steps are: read the leases, empty the trash of earlier runs, [`scan`], [`plan`], [`apply`]. Each can
//! be stopped or killed between two units; the next run continues.
//!
//! Two concurrent runs are safe without a lock, which a killed run would leave behind. Only one of them can
//! move a file; the other finds it gone. Each plans to remove the oldest units down to the limit of what it
//! has seen, so together they remove no more than the first alone.

mod apply;
pub(crate) mod name_spill;
pub(crate) mod plan;
pub(crate) mod rules;
mod scan;
mod trash;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use self::apply::{Applied, Apply};
use self::plan::{Plan, Why};
use self::rules::{Found, Leases};
use self::scan::{AllLeases, Scanner};
use self::trash::{Lying, Trashes};
use super::areas::Layout;
use super::lease::LiveLease;
use super::{stamp, usage};
use agent_fs::dir::DirHandle;
use agent_fs::pool::{self, Ended};
use agent_fs::walk::Walk;
use agent_process::{Interrupt, Interrupted};
use agent_types::error::{Error, Result};
use agent_types::share::Share;

pub use self::plan::Sum;
pub use self::rules::Names;
pub use self::trash::{HOMES as TRASHES, Trash};

/// The options of a prune.
#[derive(Clone, Debug)]
pub struct Options {
    pub sstate_max_age: Duration,
    pub downloads_max_age: Duration,
    pub layers_max_age: Duration,
    /// Results of jobs that are older.
    pub results_max_age: Duration,
    /// Tiers of pull requests without a change for this long are removed completely.
    pub pull_requests_max_age: Duration,
    /// Maximum bytes of shared state and downloads of the share itself.
    pub max_size: Option<u64>,
    /// Maximum bytes of all pull requests together.
    pub pull_requests_max_size: Option<u64>,
    /// How long units stay in the trash; in a bucket, which has none, how long units are kept after their last use.
    pub grace: Duration,
    pub ignore_leases: bool,
    /// Only report what would be removed.
    pub dry_run: bool,
    /// Maximum number of operations in flight.
    pub width: usize,
}

impl Default for Options {
    fn default() -> Options {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Options {
            sstate_max_age: 30 * DAY,
            downloads_max_age: 60 * DAY,
            layers_max_age: 30 * DAY,
            results_max_age: 180 * DAY,
            pull_requests_max_age: 14 * DAY,
            max_size: None,
            pull_requests_max_size: None,
            grace: DAY,
            ignore_leases: false,
            dry_run: false,
            width: pool::WIDTH,
        }
    }
}

/// What a prune found and did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pruned {
    pub dry_run: bool,
    /// `None`, if everything was done.
    pub stopped: Option<&'static str>,
    /// Live leases, described for people.
    pub leases: Vec<String>,
    pub unreadable_leases: Vec<String>,
    pub areas: Vec<PrunedArea>,
    /// Units that would be removed without leases.
    pub held_by_leases: Sum,
    /// In a bucket: units that would be removed if they had not been used within the grace period.
    pub held_by_grace: Sum,
    pub oldest_lease: Option<String>,
    /// Removed units; in a dry run those that would be removed.
    pub taken: Sum,
    /// Kept, because they were used after the plan was made.
    pub used_meanwhile: u64,
    /// Removed by another prune at the same time.
    pub gone_meanwhile: u64,
    pub failed: u64,
    pub failures: Vec<String>,
    pub trash: PrunedTrash,
    /// Work directories of jobs that were deleted; in a dry run those that would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub work_dirs: Vec<String>,
    /// Old ones that were kept, because devtool's workspace in them may have changes that are nowhere else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub work_dirs_kept: Vec<String>,
    /// Buildtools that were deleted, by the checksums of their installers; in a dry run those that would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buildtools: Vec<String>,
    /// Kept.
    pub unknown: Names,
    pub locks: u64,
    /// Paths that could not be read.
    pub trouble: Names,
    pub operations: u64,
    pub seconds: f64,
}

/// One area: its units, and those that the plan removes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PrunedArea {
    pub area: String,
    pub all: Sum,
    pub by_age: Sum,
    pub by_size: Sum,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct PrunedTrash {
    /// Runs whose grace period is over; in a dry run those that would be deleted.
    pub runs_deleted: u64,
    pub files_deleted: u64,
    pub runs_waiting: u64,
}

impl Pruned {
    /// Records what a plan removes from these groups and what it keeps.
    pub(crate) fn planned(&mut self, groups: Vec<Found>, plan: &Plan, named_by_leases: u64) {
        let area = |found: Found| PrunedArea { area: found.label, all: found.all, ..PrunedArea::default() };
        self.areas = groups.into_iter().map(area).collect();
        for unit in &plan.take {
            if let Some(area) = self.areas.get_mut(unit.group as usize) {
                let sum = if unit.goes == Some(Why::Age) { &mut area.by_age } else { &mut area.by_size };
                sum.add(unit.size);
            }
        }
        self.areas.retain(|area| area.all.units > 0);
        (self.held_by_leases, self.held_by_grace) = (plan.held, plan.held_by_grace);
        self.held_by_leases.units += named_by_leases;
    }

    /// Describes live leases for people.
    pub(crate) fn tell_leases(&mut self, live: &Leases) {
        let told = |(tier, lease): &(Option<u64>, LiveLease)| match tier {
            Some(number) => format!("pull request {number}, {lease}"),
            None => lease.to_string(),
        };
        self.leases = live.iter().map(told).collect();
        self.leases.sort();
        let oldest = live.iter().map(|(_, lease)| stamp::time(lease.since)).min();
        self.oldest_lease = oldest.map(|since| humantime::format_rfc3339_seconds(since).to_string());
    }

    pub(crate) fn stop(&mut self, interrupt: &Interrupt) {
        self.stopped = Some(match interrupt.state() {
            Some(Interrupted::Cancelled) => "cancelled",
            _ => "out of time",
        });
    }
}

/// Prunes a share. Blocks; `interrupt` stops it between two units.
///
/// # Errors
/// Machine, if the share or its leases cannot be read, the trash cannot be written, or temporary files cannot
/// be created. Failures of single units are in the result.
pub fn prune(share: &Share, options: &Options, interrupt: &Interrupt, now: SystemTime) -> Result<Pruned> {
    let begun = Instant::now();
    let operations = AtomicU64::new(0);
    let stop = || interrupt.state().is_some();
    let walk = Walk { width: options.width, facts: true, operations: &operations, stop: &stop };
    let run = Run { share, options, interrupt, now, walk, root: open(share)? };
    let mut pruned = Pruned { dry_run: options.dry_run, ..Pruned::default() };
    run.all(&mut pruned)?;
    pruned.failures.sort();
    pruned.operations = operations.into_inner();
    pruned.seconds = begun.elapsed().as_secs_f64();
    Ok(pruned)
}

/// Opens the share that the user named.
///
/// # Errors
/// Machine, if it is not a readable directory.
pub fn open(share: &Share) -> Result<DirHandle> {
    DirHandle::open(share.root()).map_err(|error| {
        Error::machine(format!("cannot open the share `{}`", share.root().display()))
            .because(&error)
            .hint("check whether it is mounted and readable for this user")
    })
}

struct Run<'a> {
    share: &'a Share,
    options: &'a Options,
    interrupt: &'a Interrupt,
    now: SystemTime,
    walk: Walk<'a>,
    root: DirHandle,
}

impl Run<'_> {
    fn all(&self, pruned: &mut Pruned) -> Result<()> {
        let layout = Layout::read(&self.root, &self.walk);
        let mut leases = self.leases(&layout, pruned)?;
        if self.options.ignore_leases {
            leases.live.clear();
        }
        if self.empty_trash(pruned)? == Ended::Early {
            pruned.stop(self.interrupt);
            return Ok(());
        }
        let scanner = Scanner {
            share: &self.root,
            options: self.options,
            now: self.now,
            leases: &leases.live,
            walk: self.walk,
        };
        let scan = scanner.run(layout).map_err(|error| {
            Error::machine("cannot store the names of the share's files in the directory for temporary files")
                .because(&error)
        })?;
        let rules: Vec<_> = scan.groups.iter().map(|found| found.rules).collect();
        let plan = plan::plan(scan.candidates, &rules, &scan.limits);
        pruned.planned(scan.groups, &plan, scan.named_by_leases);
        pruned.unknown = scan.unknown;
        pruned.locks = scan.locks;
        pruned.trouble = scan.trouble;
        // Check again: an incomplete scan would make an incomplete plan.
        if scan.ended == Ended::Early || (self.walk.stop)() {
            pruned.stop(self.interrupt);
            return Ok(());
        }
        if self.options.dry_run {
            plan.take.iter().for_each(|unit| pruned.taken.add(unit.size));
            return Ok(());
        }
        self.remove_leases(&leases.dead);
        self.remove_usage();
        if plan.take.is_empty() {
            return Ok(());
        }
        let trash = Trashes::begin(&self.root, self.now).map_err(|error| {
            Error::machine(format!("cannot move files to `{}`", self.share.trash().display()))
                .because(&error)
                .hint("a prune needs write permission on the whole share")
        })?;
        let apply = Apply {
            share: &self.root,
            spilled: &scan.spilled,
            trash: &trash,
            delete: self.options.grace.is_zero(),
            width: self.options.width,
            operations: self.walk.operations,
            stop: self.walk.stop,
        };
        // Keep the order of the walk, so that neighbours stay together.
        let mut take = plan.take;
        take.sort_unstable_by_key(|unit| unit.key);
        let (applied, ended) = apply.run(take);
        let Applied { taken, used, gone, failed, failures } = applied;
        pruned.taken = taken;
        (pruned.used_meanwhile, pruned.gone_meanwhile) = (used, gone);
        (pruned.failed, pruned.failures) = (failed, failures);
        if ended == Ended::Early || (apply.delete && self.empty_trash(pruned)? == Ended::Early) {
            pruned.stop(self.interrupt);
        }
        Ok(())
    }

    /// Reads the leases and reports them.
    fn leases(&self, layout: &Layout, pruned: &mut Pruned) -> Result<AllLeases> {
        let all = match AllLeases::read(&self.root, layout, self.now, &self.walk) {
            Err(_) if self.options.ignore_leases => return Ok(AllLeases::default()),
            read => read.map_err(|error| {
                let place = self.share.leases();
                Error::machine(format!("cannot read the leases in `{}`", place.display()))
                    .because(&error)
                    .hint("it is unknown what running builds use; --ignore-leases prunes anyway")
            })?,
        };
        pruned.tell_leases(&all.live);
        pruned.unreadable_leases.clone_from(&all.unreadable);
        Ok(all)
    }

    fn empty_trash(&self, pruned: &mut Pruned) -> Result<Ended> {
        pruned.trash.runs_waiting = 0;
        for home in trash::HOMES {
            if self.empty_one(home, pruned)? == Ended::Early {
                return Ok(Ended::Early);
            }
        }
        Ok(Ended::Complete)
    }

    fn empty_one(&self, home: &str, pruned: &mut Pruned) -> Result<Ended> {
        let lying = match Lying::read(&self.root, home, self.options.grace, self.now, &self.walk) {
            Ok(lying) => lying,
            // Other users write in `pr/`: an error there must not stop a prune, and this user may have no
            // access.
            Err(error) if home != trash::SHARED => {
                pruned.trouble.add(|| format!("{home}: {error}"));
                return Ok(Ended::Complete);
            }
            Err(error) => {
                let place = self.share.root().join(home);
                return Err(Error::machine(format!("cannot read `{}`", place.display())).because(&error));
            }
        };
        pruned.trash.runs_waiting += lying.waiting;
        for name in &lying.unknown {
            let name = super::units::shown(&Path::new(home).join(name));
            pruned.trouble.add(|| format!("{name}: not a trash of a prune, kept"));
        }
        for run in &lying.over {
            pruned.trash.runs_deleted += 1;
            if self.options.dry_run {
                continue;
            }
            let (emptied, ended) = trash::empty(&self.root, self.share.root(), home, run, &self.walk);
            pruned.trash.files_deleted += emptied.files;
            pruned.failed += emptied.failed.len() as u64;
            pruned.failures.extend(emptied.failed);
            if ended == Ended::Early {
                return Ok(ended);
            }
        }
        Ok(Ended::Complete)
    }

    /// Removes expired leases. The next run tries again after a failure.
    fn remove_leases(&self, dead: &[(PathBuf, OsString)]) {
        for (directory, name) in dead {
            let _ = self.root.open_dir(directory).and_then(|directory| directory.remove_file(name));
        }
    }

    /// All but the last records of each release.
    fn remove_usage(&self) {
        let Ok(top) = self.root.open_dir("usage") else { return };
        let mut releases = Vec::new();
        let names_only = Walk { facts: false, ..self.walk };
        let _ = names_only.run(
            &top,
            |_| false,
            |listing| listing.entries,
            |seen| {
                if let agent_fs::walk::Seen::Directory(entries) = seen {
                    releases.extend(entries.into_iter().map(|entry| entry.name));
                }
            },
        );
        for release in releases {
            let Ok(directory) = top.open_dir(&release) else { continue };
            let records = usage::records(&directory, self.walk.operations).unwrap_or_default();
            for name in records.iter().skip(usage::KEPT) {
                let _ = directory.remove_file(name);
            }
        }
    }
}
