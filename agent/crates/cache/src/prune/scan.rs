//! Finds the units of a share and the rules that apply to each.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Options;
use super::name_spill::SpilledNames;
use super::plan::Candidate;
use super::rules::{Found, Gathering, Leases, Names, Rules, before};
use crate::areas::{self, Area, Layout, Measure};
use crate::lease::{self, Author};
use crate::units::{Class, Contents, Part, Unit};
use agent_fs::dir::{DirHandle, is_gone};
use agent_fs::pool::Ended;
use agent_fs::walk::{Seen, Trouble, Walk};

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
        let mut gathering = Gathering::new()?;
        for number in std::mem::take(&mut layout.pull_requests) {
            if !self.pull_request(number, &mut gathering) {
                layout.read_tier(self.share, Some(number), &self.walk);
            }
        }
        layout.unknown.iter().for_each(|path| gathering.unknown.add(|| shown(path)));
        layout.trouble.iter().for_each(|found| trouble(&mut gathering, Path::new(""), found));
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

    fn rules(&self) -> Rules<'_> {
        Rules { options: self.options, now: self.now, leases: self.leases, kept_for: None }
    }

    /// Adds the whole tier of a pull request as one unit if nothing in it changed for a long time. Otherwise
    /// returns whether its units must be scanned.
    fn pull_request(&self, number: u64, gathering: &mut Gathering) -> bool {
        let directory = areas::tier(Some(number));
        let measure = Measure::of(self.share, &directory, &self.walk);
        // Directories without read access do not count as changed, or they would be kept forever.
        let goes = measure.complete && measure.used.is_some_and(|used| self.rules().takes_tier(number, used));
        if !goes {
            return false;
        }
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return false };
        let looked = self.share.open_dir(parent).and_then(|parent| parent.metadata(name));
        let Ok(facts) = looked else { return false };
        let rules = self.rules().only_age(before(self.now, self.options.pull_requests_max_age));
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
        let group = gathering.group(shown(&path), self.rules().of_area(area));
        let leftovers = gathering.group(format!("{}: unfinished", shown(&path)), self.rules().unfinished());
        let mut directories = Vec::new();
        let ended = area.walk(self.share, &self.walk, |seen| match seen {
            Seen::Trouble(found) => trouble(gathering, &path, &found),
            Seen::Directory(Contents { units, unknown, locks }) => {
                gathering.locks += locks;
                unknown.iter().for_each(|name| gathering.unknown.add(|| shown(&path.join(name))));
                for mut unit in units {
                    if unit.is_directory() && unit.class != Class::Layer {
                        directories.push(unit);
                        continue;
                    }
                    if unit.class == Class::Layer && self.rules().is_named(area, &unit) {
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
}

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
        self.dead.extend(leases.dead.into_iter().map(|name| (directory.clone(), name)));
    }
}

fn trouble(gathering: &mut Gathering, area: &Path, trouble: &Trouble) {
    if !is_gone(&trouble.error) {
        gathering.trouble.add(|| format!("{}: {}", shown(&area.join(&trouble.path)), trouble.error));
    }
}

fn shown(path: &Path) -> String {
    crate::units::shown(path)
}
