//! Finds the units of a share in a bucket, and the rules that apply to each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::layout::{self, Layout, contents, directory, failed, prefix};
use super::super::usage::LastUses;
use super::super::walk::{Folders, MOST, shown, walk};
use crate::areas::Area;
use crate::prune::plan::Group;
use crate::prune::rules::{Gathering, Rules, before};
use crate::stamp::nanoseconds;
use crate::units::{self, Class, Contents, Folder};
use agent_fs::pool::Ended;
use agent_objects::{ListedObject, Objects};
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};

/// What a group of units is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Units of an area.
    Area(Area),
    /// Unfinished files.
    Leftovers,
    /// Everything in the tier of a pull request.
    Tier(u64),
}

/// The units that were found.
pub struct Scan {
    pub gathering: Gathering,
    /// By group.
    pub whose: Vec<Whose>,
    pub ended: Ended,
}

pub struct Scanner<'a> {
    pub objects: &'a Objects,
    pub share: &'a BucketShare,
    pub rules: Rules<'a>,
    /// Of the share itself.
    pub uses: &'a LastUses,
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl Scanner<'_> {
    /// # Errors
    /// Machine, if names cannot be stored on local disk; else see [`failed`].
    pub async fn run(&self, layout: &Layout) -> Result<Scan> {
        let mut scan = Scan {
            gathering: Gathering::new().map_err(|error| no_disk(&error))?,
            whose: Vec::new(),
            ended: Ended::Complete,
        };
        for key in &layout.unknown {
            scan.gathering.unknown.add(|| key.clone());
        }
        for area in &layout.areas {
            let groups = self.groups(area, &mut scan);
            let top = directory(self.share.root());
            let each = |found: Vec<ListedObject>| {
                let used = |object: &ListedObject| self.uses.of(object.key.strip_prefix(&top)?);
                self.add(
                    area,
                    groups,
                    Folders::new(&prefix(self.share, area), found, used),
                    &mut scan.gathering,
                );
            };
            let walked = walk(self.objects, prefix(self.share, area), self.width(), self.stop, each).await;
            match walked.map_err(|error| failed(format!("cannot list {area}"), &error, "s3:ListBucket"))? {
                Ended::Complete => {}
                Ended::Early => scan.ended = Ended::Early,
            }
        }
        for number in &layout.pull_requests {
            if self.pull_request(*number, &mut scan).await == Ended::Early {
                scan.ended = Ended::Early;
            }
        }
        match scan.gathering.failed.take() {
            Some(error) => Err(no_disk(&error)),
            None => Ok(scan),
        }
    }

    fn width(&self) -> usize {
        self.rules.options.width
    }

    /// Reads the whole tier of a pull request. Its failures hide only this tier.
    async fn pull_request(&self, number: u64, scan: &mut Scan) -> Ended {
        let tier = layout::tier(self.share, Some(number));
        let top = directory(tier.root());
        let mut found: Vec<ListedObject> = Vec::new();
        // Strangers may fill their tier: listing all of it takes hours, and money.
        let too_many = AtomicBool::new(false);
        let each = |part: Vec<ListedObject>| {
            let room = MOST.saturating_sub(found.len());
            too_many.fetch_or(part.len() > room, Ordering::Relaxed);
            found.extend(part.into_iter().take(room));
        };
        let stop = || (self.stop)() || too_many.load(Ordering::Relaxed);
        match walk(self.objects, top.clone(), self.width(), &stop, each).await {
            Ok(Ended::Early) if (self.stop)() => return Ended::Early,
            Ok(_) => {}
            Err(error) => {
                scan.gathering.trouble.add(|| format!("pr/{number}: {}", shown(&error.to_string())));
                return Ended::Complete;
            }
        }
        if too_many.into_inner() {
            scan.gathering
                .trouble
                .add(|| format!("pr/{number}: too many objects, the rest was not looked at"));
        }
        // A prune writes the index itself, which is no use of the tier.
        let index = format!("{top}index/");
        let is_index = |object: &ListedObject| object.key.starts_with(&index);
        let others = found.iter().filter(|object| !is_index(object));
        let newest = others.map(|object| nanoseconds(object.modified)).max().unwrap_or(i64::MIN);
        if !found.is_empty() && self.rules.takes_tier(number, newest) {
            // Those of the index first.
            found.sort_by_key(|object| !is_index(object));
            self.whole_tier(number, newest, &top, found, scan);
            return Ended::Complete;
        }
        let mut areas: BTreeMap<Area, Vec<ListedObject>> = BTreeMap::new();
        for object in found {
            let below = object.key.strip_prefix(&top).unwrap_or_default();
            match layout::area_of(number, below) {
                Some((area, _)) => areas.entry(area).or_default().push(object),
                None if layout::is_note(below) => {}
                None => scan.gathering.unknown.add(|| format!("pr/{number}/{}", shown(below))),
            }
        }
        for (area, objects) in areas {
            let groups = self.groups(&area, scan);
            let folders = Folders::new(&prefix(self.share, &area), objects, |_| None);
            self.add(&area, groups, folders, &mut scan.gathering);
        }
        Ended::Complete
    }

    /// Adds all objects of a tier that nobody uses any more, in this order.
    fn whole_tier(&self, number: u64, newest: i64, top: &str, found: Vec<ListedObject>, scan: &mut Scan) {
        let too_old = before(self.rules.now, self.rules.options.pull_requests_max_age);
        let group = scan.group(format!("pr/{number}"), self.rules.only_age(too_old), Whose::Tier(number));
        let tier = PathBuf::from(format!("pr/{number}"));
        for object in found {
            let folders = Folders::new(top, vec![object], |_| None);
            for odd in folders.odd {
                scan.gathering.unknown.add(|| odd);
            }
            for (path, entries) in folders.folders {
                let contents = units::signatures_in(&Folder::in_bucket(&path, &entries));
                for mut unit in contents.units {
                    unit.directory = tier.join(&unit.directory);
                    scan.gathering.add(&unit, group, unit.size(), unit.used().min(newest));
                }
            }
        }
    }

    /// The groups of an area's units and of its unfinished files.
    fn groups(&self, area: &Area, scan: &mut Scan) -> (usize, usize) {
        let units = scan.group(area.to_string(), self.rules.of_area(area), Whose::Area(area.clone()));
        let leftovers = self.rules.unfinished();
        (units, scan.group(format!("{area}: unfinished"), leftovers, Whose::Leftovers))
    }

    fn add(
        &self,
        area: &Area,
        (group, leftovers): (usize, usize),
        folders: Folders,
        gathering: &mut Gathering,
    ) {
        let place = area.path();
        folders.odd.iter().for_each(|key| gathering.unknown.add(|| key.clone()));
        for (path, entries) in &folders.folders {
            let Contents { units, unknown, locks } = contents(&area.kind, path, entries);
            gathering.locks += locks;
            unknown.iter().for_each(|name| gathering.unknown.add(|| units::shown(&place.join(name))));
            for mut unit in units {
                if unit.class == Class::Layer && self.rules.is_named(area, &unit) {
                    gathering.named_by_leases += 1;
                    continue;
                }
                let group = if unit.class == Class::Temporary { leftovers } else { group };
                unit.directory = place.join(&unit.directory);
                gathering.add(&unit, group, unit.size(), unit.used());
            }
        }
    }
}

impl Scan {
    fn group(&mut self, label: String, rules: Group, whose: Whose) -> usize {
        self.whose.push(whose);
        self.gathering.group(label, rules)
    }
}

fn no_disk(error: &std::io::Error) -> Error {
    Error::machine("cannot store the names of the share's objects in the directory for temporary files")
        .because(error)
}
