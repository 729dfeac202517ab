//! The rules for the units of a share, by its leases, and the units that the rules may remove.

use std::io;
use std::time::{Duration, SystemTime};

use super::Options;
use super::name_spill::NameSpill;
use super::plan::{Candidate, Group, Sum};
use crate::areas::{Area, AreaKind};
use crate::first_names;
use crate::lease::{Author, LiveLease};
use crate::stamp::nanoseconds;
use crate::units::Unit;

/// Unfinished files of this age are abandoned.
pub const UNFINISHED: Duration = Duration::from_secs(24 * 3600);

/// Units that were used within this time before a build began are kept while it runs, whatever the maximum
/// age: earlier builds most likely left them for this one.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// Index of the limit of the share itself, and of all tiers of pull requests together. They are separate, so
/// that pull requests cannot push out what trusted builds use.
const LIMITS: (usize, usize) = (0, 1);

/// Live leases, each with the pull request whose tier contains it.
pub type Leases = Vec<(Option<u64>, LiveLease)>;

/// The rules of one prune.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub options: &'a Options,
    pub now: SystemTime,
    /// Leases of the share, and by tier of pull requests.
    pub leases: &'a Leases,
    /// Units that were used within this time stay; `None`, if removed units wait in a trash instead.
    pub kept_for: Option<Duration>,
}

impl Rules<'_> {
    /// The rules for unfinished files.
    pub fn unfinished(&self) -> Group {
        self.only_age(before(self.now, UNFINISHED))
    }

    /// The rules for the whole tier of a pull request, whose units were all used before this time.
    pub fn only_age(&self, too_old: i64) -> Group {
        Group {
            too_old: Some(too_old),
            too_old_by_leases: Some(too_old),
            kept_since: None,
            leased: false,
            limit: None,
        }
    }

    /// Whether the whole tier of a pull request goes, in which nothing changed since `used`.
    pub fn takes_tier(&self, number: u64, used: i64) -> bool {
        let leased = self.leases.iter().any(|(tier, _)| *tier == Some(number));
        !leased && used < before(self.now, self.options.pull_requests_max_age)
    }

    /// Whether a lease names this entry of the layer store; an unreadable lease may name any.
    pub fn is_named(&self, area: &Area, unit: &Unit) -> bool {
        let entry = unit.directory.join(&unit.name);
        let entry = entry.to_str().unwrap_or_default();
        let mut of_tier = self.leases.iter().filter(|(tier, _)| *tier == area.pull_request);
        of_tier.any(|(_, lease)| match &lease.layers {
            Some(layers) => layers.contains(entry),
            None => lease.author == Author::Trusted,
        })
    }

    /// The rules for an area, with its leases applied.
    ///
    /// Builds of pull requests read the share, too, but their leases are not trusted: they only make ages
    /// count from their start, which is at most two days ago, and never stop the size rule.
    pub fn of_area(&self, area: &Area) -> Group {
        let options = self.options;
        let age = match area.kind {
            AreaKind::Sstate(_) => options.sstate_max_age,
            AreaKind::Downloads => options.downloads_max_age,
            AreaKind::Layers => options.layers_max_age,
            // They serve the same builds as the shared state.
            AreaKind::Signatures => options.sstate_max_age,
            AreaKind::Results => options.results_max_age,
        };
        let concerns = |lease: &LiveLease| match &area.kind {
            AreaKind::Sstate(release) => lease.concerns(release),
            AreaKind::Downloads | AreaKind::Layers | AreaKind::Signatures => true,
            // A build reads them within a minute.
            AreaKind::Results => false,
        };
        let reads = |tier: Option<u64>| tier == area.pull_request || area.pull_request.is_none();
        let of_area = || self.leases.iter().filter(|(tier, lease)| reads(*tier) && concerns(lease));
        let since = of_area().map(|(_, lease)| lease.since).min().unwrap_or(i64::MAX);
        let (own, others) = LIMITS;
        let limit = if area.pull_request.is_none() { own } else { others };
        let sizes = [options.max_size, options.pull_requests_max_size];
        let too_old = before(self.now, age);
        Group {
            too_old: Some(too_old),
            too_old_by_leases: Some(too_old.min(since.saturating_sub(span(age.max(RECENT))))),
            kept_since: self.kept_for.map(|time| before(self.now, time)),
            leased: of_area().any(|(tier, lease)| *tier == area.pull_request && may_hold(area, lease)),
            // Only the age of layers counts. There are few, and reading all their files would cost more than
            // the rest of the scan.
            limit: (counts(&area.kind) && sizes[limit].is_some()).then_some(limit),
        }
    }
}

/// Whether an area counts against the limits of size.
fn counts(kind: &AreaKind) -> bool {
    matches!(kind, AreaKind::Sstate(_) | AreaKind::Downloads)
}

/// Whether a lease of the same tier protects an area from the size rule.
fn may_hold(area: &Area, lease: &LiveLease) -> bool {
    area.pull_request.is_some() || lease.author == Author::Trusted
}

fn span(age: Duration) -> i64 {
    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}

pub fn before(now: SystemTime, age: Duration) -> i64 {
    nanoseconds(now).saturating_sub(span(age))
}

/// Units with the same rules.
pub struct Found {
    /// The directory, relative to the share.
    pub label: String,
    pub rules: Group,
    /// The sum of all its units.
    pub all: Sum,
}

/// A count, and the first names in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Names {
    pub count: u64,
    pub first: Vec<String>,
}

impl Names {
    /// Maximum number of stored names; there may be a million.
    const SHOWN: usize = 100;

    pub fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        first_names::insert(&mut self.first, name(), Names::SHOWN);
    }
}

pub struct Gathering {
    pub name_spill: NameSpill,
    pub candidates: Vec<Candidate>,
    pub groups: Vec<Found>,
    pub unknown: Names,
    pub trouble: Names,
    pub locks: u64,
    pub named_by_leases: u64,
    pub failed: Option<io::Error>,
}

impl Gathering {
    /// # Errors
    /// If names cannot be stored on local disk.
    pub fn new() -> io::Result<Gathering> {
        Ok(Gathering {
            name_spill: NameSpill::new()?,
            candidates: Vec::new(),
            groups: Vec::new(),
            unknown: Names::default(),
            trouble: Names::default(),
            locks: 0,
            named_by_leases: 0,
            failed: None,
        })
    }

    pub fn group(&mut self, label: String, rules: Group) -> usize {
        self.groups.push(Found { label, rules, all: Sum::default() });
        self.groups.len() - 1
    }

    pub fn add(&mut self, unit: &Unit, group: usize, size: u64, used: i64) {
        let Some(found) = self.groups.get_mut(group) else { return };
        found.all.add(size);
        let Group { too_old, limit, .. } = found.rules;
        let may_go = limit.is_some() || too_old.is_some_and(|time| used < time);
        let Some(group) = u32::try_from(group).ok().filter(|_| may_go && self.failed.is_none()) else {
            return;
        };
        match self.name_spill.push(unit) {
            Ok(key) => self.candidates.push(Candidate { key, size, used, group, goes: None }),
            Err(error) => self.failed = Some(error),
        }
    }
}
