//! Deletes the units of a plan, a thousand at a time, after a last check of each.

use futures_util::{StreamExt, stream};
use object_store::path::Path;

use super::super::layout::{directory, failed, is_denied};
use super::super::usage::{self, LastUses};
use super::super::walk::{identity, shown};
use super::leases;
use super::scan::Whose;
use crate::prune::name_spill::SpilledNames;
use crate::prune::plan::{Candidate, Sum, Why};
use crate::prune::rules::Rules;
use crate::stamp::nanoseconds;
use crate::units::{SUFFIXES, Unit};
use agent_fs::pool::Ended;
use agent_objects::Objects;
use agent_types::bucket_share::BucketShare;
use agent_types::error::Result;

/// Maximum number of objects that S3 deletes with one request.
pub const BATCH: usize = 1000;

/// Maximum number of failures that are reported by name.
const SHOWN: usize = 20;

/// The results for the units of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    pub taken: Sum,
    /// Kept, because they were used after the plan was made.
    pub used: u64,
    /// Removed by another process.
    pub gone: u64,
    pub failed: u64,
    /// The first reasons of failures.
    pub failures: Vec<String>,
    /// Whether these credentials may not delete; the rest was not tried.
    pub denied: bool,
}

pub struct Apply<'a> {
    pub objects: &'a Objects,
    pub share: &'a BucketShare,
    /// The directories of its units are relative to the share.
    pub spilled: &'a SpilledNames,
    /// By group.
    pub whose: &'a [Whose],
    /// Those of the plan; the leases are read again.
    pub rules: Rules<'a>,
    pub releases: &'a [String],
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// The existing objects of a unit that is about to be deleted: keys and sizes, the archive first.
type UnitObjects = Vec<(Path, u64)>;

impl Apply<'_> {
    /// # Errors
    /// If it is not known any more what running builds use.
    pub async fn run(&self, units: Vec<Candidate>, uses: &mut LastUses) -> Result<(Applied, Ended)> {
        let mut applied = Applied::default();
        for batch in units.chunks(BATCH) {
            if (self.stop)() {
                return Ok((applied, Ended::Early));
            }
            let units = self.check(batch, uses, &mut applied).await?;
            self.delete(units, &mut applied).await;
            if applied.denied {
                break;
            }
        }
        Ok((applied, Ended::Complete))
    }

    /// Leaves out what is gone, or may be used since the plan was made.
    async fn check(
        &self,
        batch: &[Candidate],
        uses: &mut LastUses,
        applied: &mut Applied,
    ) -> Result<Vec<UnitObjects>> {
        let leases = match self.rules.options.ignore_leases {
            true => Vec::new(),
            false => {
                let mut tiers: Vec<u64> = batch.iter().filter_map(|unit| self.whose(unit)?.tier()).collect();
                tiers.sort_unstable();
                tiers.dedup();
                let at = (self.rules.now, self.rules.options.width);
                leases::read(self.objects, self.share, &tiers, at).await?.live
            }
        };
        self.read_uses(uses).await?;
        let rules = Rules { leases: &leases, ..self.rules };
        let mut wanted = Vec::new();
        for candidate in batch {
            let unit = match self.spilled.get(candidate.key) {
                Ok(unit) => unit,
                Err(error) => {
                    applied.fail(error.to_string());
                    continue;
                }
            };
            match self.may_go(candidate, &unit, &rules, uses) {
                true => wanted.push(unit),
                false => applied.used += 1,
            }
        }
        let look = wanted.into_iter().map(|unit| self.look(unit));
        let mut looked = stream::iter(look).buffered(self.rules.options.width.max(1));
        let mut units = Vec::new();
        while let Some(fate) = looked.next().await {
            match fate {
                Ok(Some(unit)) if unit.is_empty() => applied.gone += 1,
                Ok(Some(unit)) => units.push(unit),
                Ok(None) => applied.used += 1,
                Err(why) => applied.fail(why),
            }
        }
        Ok(units)
    }

    fn whose(&self, candidate: &Candidate) -> Option<&Whose> {
        self.whose.get(candidate.group as usize)
    }

    /// Whether the rules still remove the unit.
    fn may_go(&self, candidate: &Candidate, unit: &Unit, rules: &Rules<'_>, uses: &LastUses) -> bool {
        let Some(whose) = self.whose(candidate) else { return false };
        match whose {
            Whose::Leftovers => true,
            Whose::Tier(number) => rules.takes_tier(*number, candidate.used),
            Whose::Area(area) => {
                let group = rules.of_area(area);
                let by_rules = match candidate.goes {
                    Some(Why::Age) => group.too_old_by_leases.is_some_and(|time| candidate.used < time),
                    Some(Why::Size) => !group.leased,
                    None => false,
                };
                let below = self.keys(unit);
                let used = below.filter_map(|key| uses.of(&key)).max();
                let unused = area.pull_request.is_some() || used.is_none_or(|used| used <= candidate.used);
                by_rules && unused && !rules.is_named(area, &relative(unit, area))
            }
        }
    }

    /// Reads the records that builds wrote since the last look.
    async fn read_uses(&self, uses: &mut LastUses) -> Result<()> {
        for release in self.releases {
            let failed = |error| {
                failed(format!("cannot read the usage records of {}", self.share), &error, "s3:GetObject")
            };
            let records = usage::records(self.objects, self.share, release).await.map_err(failed)?;
            uses.read(self.objects, &records, self.rules.options.width).await.map_err(failed)?;
        }
        Ok(())
    }

    /// The keys of a unit's objects, relative to the share.
    fn keys<'a>(&self, unit: &'a Unit) -> impl Iterator<Item = String> + 'a {
        let stem = unit.directory.join(&unit.name).to_string_lossy().into_owned();
        unit.parts.iter().map(move |part| format!("{stem}{}", SUFFIXES[usize::from(part.suffix)]))
    }

    /// Looks at each object of a unit. `None`, if one was written again since it was listed.
    async fn look(&self, unit: Unit) -> Result<Option<UnitObjects>, String> {
        let mut keys = Vec::new();
        for (below, part) in self.keys(&unit).zip(&unit.parts) {
            let key = agent_objects::key::exact(&self.share.key(&below))?;
            match self.objects.head(&key).await {
                Ok(None) => {}
                Ok(Some(meta)) => {
                    let written = nanoseconds(meta.last_modified.into());
                    if identity(meta.e_tag.as_deref(), written) != part.inode {
                        return Ok(None);
                    }
                    keys.push((key, meta.size));
                }
                Err(error) => return Err(format!("{}: {}", shown(&below), shown(&error.to_string()))),
            }
        }
        Ok(Some(keys))
    }

    /// Deletes the archives, and then the sidecar files of those that are gone: no build may find an archive whose
    /// sidecar files are missing.
    async fn delete(&self, units: Vec<UnitObjects>, applied: &mut Applied) {
        let first = units.iter().filter_map(|unit| Some(unit.first()?.0.clone())).collect();
        let refused = self.delete_batch(first, applied).await;
        let is_deleted = |unit: &UnitObjects| !unit.first().is_some_and(|(key, _)| refused.contains(key));
        let (deleted, kept): (Vec<_>, Vec<_>) = units.into_iter().partition(is_deleted);
        applied.failed += kept.len() as u64;
        let rest: Vec<Path> =
            deleted.iter().flat_map(|unit| unit.iter().skip(1).map(|(key, _)| key.clone())).collect();
        for batch in rest.chunks(BATCH) {
            // The next run finds them as units without an archive.
            let refused = self.delete_batch(batch.to_vec(), applied).await.len();
            applied.failed += refused as u64;
        }
        for unit in deleted {
            applied.taken.add(unit.iter().map(|(_, size)| size).sum());
        }
    }

    async fn delete_batch(&self, keys: Vec<Path>, applied: &mut Applied) -> std::collections::BTreeSet<Path> {
        if keys.is_empty() {
            return std::collections::BTreeSet::new();
        }
        let refused = self.objects.delete_batch(keys).await;
        for (key, error) in &refused {
            applied.denied |= is_denied(error);
            // A request for many objects has all their names in its error.
            let why = match is_denied(error) {
                true => "access denied: allow s3:DeleteObject on the share to the role of these credentials"
                    .into(),
                false => shown(&error.to_string()).chars().take(300).collect::<String>(),
            };
            if applied.failures.len() < SHOWN {
                let below = key
                    .as_ref()
                    .strip_prefix(&directory(self.share.root()))
                    .unwrap_or(key.as_ref())
                    .to_owned();
                applied.failures.push(format!("{}: {why}", shown(&below)));
            }
        }
        refused.into_iter().map(|(key, _)| key).collect()
    }
}

/// The unit with its directory relative to its area.
fn relative(unit: &Unit, area: &crate::areas::Area) -> Unit {
    let directory = unit.directory.strip_prefix(area.path()).unwrap_or(&unit.directory).to_owned();
    Unit { directory, ..unit.clone() }
}

impl Whose {
    fn tier(&self) -> Option<u64> {
        match self {
            Whose::Area(area) => area.pull_request,
            Whose::Tier(number) => Some(*number),
            Whose::Leftovers => None,
        }
    }
}

impl Applied {
    fn fail(&mut self, why: String) {
        self.failed += 1;
        if self.failures.len() < SHOWN {
            self.failures.push(why);
        }
    }
}
