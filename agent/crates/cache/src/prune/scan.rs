//! Finds the units of a share and the rules that apply to each.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Options;
use super::name_spill::{NameSpill, SpilledNames};
use super::plan::{Candidate, Group, Sum};
use crate::areas::{self, Area, AreaKind, Layout, Measure};
use crate::lease::{self, Author, LiveLease};
use crate::stamp::nanoseconds;
use crate::units::{Class, Contents, Part, Unit};
use agent_fs::dir::{DirHandle, is_gone};
use agent_fs::pool::Ended;
use agent_fs::walk::{Seen, Trouble, Walk};

/// Unfinished files of this age are abandoned.
const UNFINISHED: Duration = Duration::from_secs(24 * 3600);

/// Units that were used within this time before a build began are kept while it runs, whatever the maximum
/// age: earlier builds most likely left them for this one.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// Index of the limit of the share itself, and of all tiers of pull requests together. They are separate, so
/// that pull requests cannot push out what trusted builds use.
const LIMITS: (usize, usize) = (0, 1);

/// The result of a scan.
pub struct Scan {
    pub candidates: Vec<Candidate>,
    /// The directories of its units are relative to the share.
    pub spilled: SpilledNames,
    /// The groups of the candidates.
    pub groups: Vec<Found>,
    pub limits: [u64; 2],
    /// Unknown paths, which are kept.
    pub unknown: Names,
    pub locks: u64,
    pub trouble: Names,
    /// Layers that leases name; kept at any age.
    pub named_by_leases: u64,
    pub ended: Ended,
}

/// Units with the same rules.
pub struct Found {
    /// The directory, relative to the share.
    pub label: String,
    pub rules: Group,
    /// The sum of all its units.
    pub all: Sum,
}

/// A count, and the first names.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Names {
    pub count: u64,
    pub first: Vec<String>,
}

impl Names {
    /// Maximum number of stored names; there may be a million.
    const TOLD: usize = 100;

    pub fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Names::TOLD {
            self.first.push(name());
        }
    }
}

pub struct Scanner<'a> {
    pub share: &'a DirHandle,
    pub options: &'a Options,
    pub now: SystemTime,
    /// Leases of the share, and by tier of pull requests.
    pub leases: &'a Leases,
    pub walk: Walk<'a>,
}

impl Scanner<'_> {
    /// # Errors
    /// If names cannot be stored on local disk.
    pub fn run(&self, mut layout: Layout) -> io::Result<Scan> {
        let mut gathering = Gathering {
            name_spill: NameSpill::new()?,
            candidates: Vec::new(),
            groups: Vec::new(),
            unknown: Names::default(),
            trouble: Names::default(),
            locks: 0,
            named_by_leases: 0,
            failed: None,
        };
        for number in std::mem::take(&mut layout.pull_requests) {
            if !self.pull_request(number, &mut gathering) {
                layout.read_tier(self.share, Some(number), &self.walk);
            }
        }
        layout.unknown.iter().for_each(|path| gathering.unknown.add(|| shown(path)));
        layout.trouble.iter().for_each(|trouble| gathering.trouble(Path::new(""), trouble));
        let mut ended = Ended::Complete;
        for area in &layout.areas {
            if self.area(area, &mut gathering) == Ended::Early {
                ended = Ended::Early;
            }
        }
        if let Some(error) = gathering.failed {
            return Err(error);
        }
        let endless = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Ok(Scan {
            candidates: gathering.candidates,
            spilled: gathering.name_spill.done()?,
            groups: gathering.groups,
            limits: [endless(self.options.max_size), endless(self.options.pull_requests_max_size)],
            unknown: gathering.unknown,
            locks: gathering.locks,
            trouble: gathering.trouble,
            named_by_leases: gathering.named_by_leases,
            ended,
        })
    }

    /// Adds the whole tier of a pull request as one unit if nothing in it changed for a long time. Otherwise
    /// returns whether its units must be scanned.
    fn pull_request(&self, number: u64, gathering: &mut Gathering) -> bool {
        let directory = areas::tier(Some(number));
        let too_old = before(self.now, self.options.pull_requests_max_age);
        let leased = self.leases.iter().any(|(tier, _)| *tier == Some(number));
        let measure = Measure::of(self.share, &directory, &self.walk);
        // Directories without read access do not count as changed, or they would be kept forever.
        let is_old = measure.complete && measure.used.is_some_and(|used| used < too_old);
        if leased || !is_old {
            return false;
        }
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return false };
        let looked = self.share.open_dir(parent).and_then(|parent| parent.metadata(name));
        let Ok(facts) = looked else { return false };
        let rules =
            Group { too_old: Some(too_old), too_old_by_leases: Some(too_old), leased: false, limit: None };
        let part = Part { suffix: 0, kind: facts.kind(), size: 0, inode: facts.inode, used: facts.used() };
        let unit = Unit {
            directory: parent.into(),
            name: number.to_string(),
            class: Class::Temporary,
            parts: vec![part],
        };
        let group = gathering.group(shown(&directory), rules);
        gathering.add(&unit, group, measure.bytes, measure.used.unwrap_or(i64::MAX));
        true
    }

    fn area(&self, area: &Area, gathering: &mut Gathering) -> Ended {
        let path = area.path();
        let group = gathering.group(shown(&path), self.rules(area));
        let unfinished = before(self.now, UNFINISHED);
        let leftovers = Group {
            too_old: Some(unfinished),
            too_old_by_leases: Some(unfinished),
            leased: false,
            limit: None,
        };
        let leftovers = gathering.group(format!("{}: unfinished", shown(&path)), leftovers);
        let mut directories = Vec::new();
        let ended = area.walk(self.share, &self.walk, |seen| match seen {
            Seen::Trouble(trouble) => gathering.trouble(&path, &trouble),
            Seen::Directory(Contents { units, unknown, locks }) => {
                gathering.locks += locks;
                unknown.iter().for_each(|name| gathering.unknown.add(|| shown(&path.join(name))));
                for mut unit in units {
                    if unit.is_directory() && unit.class != Class::Layer {
                        directories.push(unit);
                        continue;
                    }
                    if unit.class == Class::Layer && self.is_named(area, &unit) {
                        gathering.named_by_leases += 1;
                        continue;
                    }
                    let group = if unit.class == Class::Temporary { leftovers } else { group };
                    unit.directory = path.join(&unit.directory);
                    gathering.add(&unit, group, unit.size(), unit.used());
                }
            }
        });
        // Clones have the size and age of their files, unless a stamp has the time of the last use.
        for mut unit in directories {
            let measure = Measure::of_unit(self.share, &path, &unit, &self.walk);
            let stamped = unit.has(".done");
            let used = unit.used().max(measure.used.filter(|_| !stamped).unwrap_or(i64::MIN));
            let group = if unit.class == Class::Temporary { leftovers } else { group };
            unit.directory = path.join(&unit.directory);
            if measure.complete && measure.closed == 0 {
                gathering.add(&unit, group, unit.size() + measure.bytes, used);
            } else {
                gathering
                    .trouble
                    .add(|| format!("{}: not completely readable", shown(&unit.directory.join(&unit.name))));
            }
        }
        ended
    }

    /// Whether a lease names this entry of the layer store; an unreadable lease may name any.
    fn is_named(&self, area: &Area, unit: &Unit) -> bool {
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
    fn rules(&self, area: &Area) -> Group {
        let options = self.options;
        let age = match area.kind {
            AreaKind::Sstate(_) => options.sstate_max_age,
            AreaKind::Downloads => options.downloads_max_age,
            AreaKind::Layers => options.layers_max_age,
        };
        let concerns = |lease: &LiveLease| match &area.kind {
            AreaKind::Sstate(release) => lease.concerns(release),
            AreaKind::Downloads | AreaKind::Layers => true,
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
            leased: of_area().any(|(tier, lease)| *tier == area.pull_request && may_hold(area, lease)),
            // Only the age of layers counts. There are few, and reading all their files would cost more than
            // the rest of the scan.
            limit: (area.kind != AreaKind::Layers && sizes[limit].is_some()).then_some(limit),
        }
    }
}

/// Whether a lease of the same tier protects an area from the size rule.
fn may_hold(area: &Area, lease: &LiveLease) -> bool {
    area.pull_request.is_some() || lease.author == Author::Trusted
}

fn span(age: Duration) -> i64 {
    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}

fn before(now: SystemTime, age: Duration) -> i64 {
    nanoseconds(now).saturating_sub(span(age))
}

/// Live leases, each with the pull request whose tier contains it.
pub type Leases = Vec<(Option<u64>, LiveLease)>;

/// The leases of a share and of its pull requests.
#[derive(Default)]
pub struct AllLeases {
    pub live: Leases,
    /// Expired leases: their directories, relative to the share, and names.
    pub dead: Vec<(PathBuf, OsString)>,
    pub unreadable: Vec<String>,
}

impl AllLeases {
    /// # Errors
    /// If the leases of the share cannot be read. A pull request with unreadable leases has none.
    pub fn read(
        share: &DirHandle,
        layout: &Layout,
        now: SystemTime,
        walk: &Walk<'_>,
    ) -> io::Result<AllLeases> {
        let mut all = AllLeases::default();
        let own = lease::read(share, Author::Trusted, now, walk.operations)?;
        all.unreadable.clone_from(&own.unreadable);
        all.add(None, own);
        for number in &layout.pull_requests {
            let tier = share.open_dir(areas::tier(Some(*number)));
            let read = tier.and_then(|tier| lease::read(&tier, Author::Stranger, now, walk.operations));
            all.add(Some(*number), read.unwrap_or_default());
        }
        Ok(all)
    }

    fn add(&mut self, tier: Option<u64>, leases: lease::Leases) {
        let directory = areas::tier(tier).join("leases");
        self.live.extend(leases.live.into_iter().map(|lease| (tier, lease)));
        self.dead.extend(leases.dead.into_iter().map(|(name, _)| (directory.clone(), name)));
    }
}

struct Gathering {
    name_spill: NameSpill,
    candidates: Vec<Candidate>,
    groups: Vec<Found>,
    unknown: Names,
    trouble: Names,
    locks: u64,
    named_by_leases: u64,
    failed: Option<io::Error>,
}

impl Gathering {
    fn group(&mut self, label: String, rules: Group) -> usize {
        self.groups.push(Found { label, rules, all: Sum::default() });
        self.groups.len() - 1
    }

    fn add(&mut self, unit: &Unit, group: usize, size: u64, used: i64) {
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

    fn trouble(&mut self, area: &Path, trouble: &Trouble) {
        if !is_gone(&trouble.error) {
            self.trouble.add(|| format!("{}: {}", shown(&area.join(&trouble.path)), trouble.error));
        }
    }
}

fn shown(path: &Path) -> String {
    crate::units::shown(path)
}
