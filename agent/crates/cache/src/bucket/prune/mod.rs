//! Prunes a share in a bucket, by the plan of [`crate::prune`].
//!
//! S3 keeps no access time: an object was used when it was written, or when a [usage record](super::usage) names it.
//! Nothing can be moved cheaply there, so there is no trash. Instead, a unit that was used within the grace period
//! stays, whatever the limits say. Right before units are deleted, leases, usage records and the objects themselves
//! are looked at again.
//!
//! The steps are: read leases and usage records, list everything ([`scan`]), plan, write the index without what goes
//! ([`index`]), delete ([`apply`]). Each run can be killed: the next one continues. Two runs at once delete what both
//! have planned; deleting an object twice is no error.

mod apply;
mod index;
mod leases;
mod scan;

use std::time::{Duration, Instant, SystemTime};

use object_store::path::Path;

use self::apply::{Applied, Apply, BATCH};
pub use self::index::Removed;
use self::leases::AllLeases;
use self::scan::{Scanner, Whose};
use super::BucketTier;
use super::layout::{Layout, directory, failed};
use super::usage::{self, LastUses};
use super::walk::shown;
use crate::prune::plan::{self, Sum};
use crate::prune::rules::{Rules, UNFINISHED};
use crate::prune::{Options, Pruned, PrunedArea};
use agent_fs::pool::Ended;
use agent_objects::{ListedObject, Objects};
use agent_process::Interrupt;
use agent_types::bucket_share::BucketShare;
use agent_types::error::Result;
use agent_types::tiers::TierKind;

/// Maximum number of usage records per release; a prune with very long maximum ages reads them all.
const MOST_RECORDS: usize = 20_000;

/// Prunes a share in a bucket. `interrupt` stops it between two requests.
///
/// # Errors
/// If the share, its leases or its usage records cannot be read, or its index cannot be written; internal, if
/// temporary files cannot be created. Failures of single units are in the result.
pub async fn prune(
    objects: &Objects,
    share: &BucketShare,
    options: &Options,
    interrupt: &Interrupt,
    now: SystemTime,
) -> Result<Pruned> {
    let begun = Instant::now();
    let mut pruned = Pruned { dry_run: options.dry_run, ..Pruned::default() };
    let stop = || interrupt.state().is_some();
    Run { objects, share, options, interrupt, now, stop: &stop }.all(&mut pruned).await?;
    let requests = objects.meter().so_far();
    pruned.operations = requests.writes_and_lists + requests.reads + requests.deletes;
    pruned.seconds = begun.elapsed().as_secs_f64();
    Ok(pruned)
}

/// The live leases of the share itself, for people.
///
/// # Errors
/// If they cannot be read.
pub async fn live_leases(objects: &Objects, share: &BucketShare, now: SystemTime) -> Result<Vec<String>> {
    let all = leases::read(objects, share, &[], (now, 1)).await?;
    Ok(all.live.iter().map(|(_, lease)| lease.to_string()).collect())
}

struct Run<'a> {
    objects: &'a Objects,
    share: &'a BucketShare,
    options: &'a Options,
    interrupt: &'a Interrupt,
    now: SystemTime,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl Run<'_> {
    async fn all(&self, pruned: &mut Pruned) -> Result<()> {
        let layout = Layout::read(self.objects, self.share).await?;
        let leases = self.leases(&layout, pruned).await?;
        let live = if self.options.ignore_leases { Vec::new() } else { leases.live };
        let (mut uses, old_records) = self.uses(&layout).await?;
        let kept_for = Some(self.options.grace).filter(|grace| !grace.is_zero());
        let rules = Rules { options: self.options, now: self.now, leases: &live, kept_for };
        let scanner =
            Scanner { objects: self.objects, share: self.share, rules, uses: &uses, stop: self.stop };
        let scan = scanner.run(&layout).await?;
        let whose = scan.whose;
        let found = scan.gathering;
        let groups: Vec<_> = found.groups.iter().map(|found| found.rules).collect();
        let endless = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let limits = [endless(self.options.max_size), endless(self.options.pull_requests_max_size)];
        let plan = plan::plan(found.candidates, &groups, &limits);
        pruned.planned(found.groups, &plan, found.named_by_leases);
        pruned.unknown = found.unknown;
        pruned.trouble = found.trouble;
        pruned.locks = found.locks;
        let uploads = self.uploads(pruned).await;
        if scan.ended == Ended::Early || (self.stop)() {
            pruned.stop(self.interrupt);
            return Ok(());
        }
        if self.options.dry_run {
            plan.take.iter().for_each(|unit| pruned.taken.add(unit.size));
            return Ok(());
        }
        self.remove_notes(leases.dead, old_records).await;
        for upload in uploads {
            // A completed upload is no leftover.
            let _ = self.objects.abort(&upload).await;
        }
        if !plan.take.is_empty() {
            let spilled = found.name_spill.done().map_err(agent_types::error::Error::from)?;
            let mut take = plan.take;
            take.sort_unstable_by_key(|unit| unit.key);
            let mut removed = Removed::default();
            for candidate in &take {
                if let Some(Whose::Area(area)) = whose.get(candidate.group as usize)
                    && let Ok(unit) = spilled.get(candidate.key)
                {
                    removed.add(area, &unit.directory, &unit.name);
                }
            }
            let width = self.options.width;
            if removed.leave_index(self.objects, self.share, width, self.stop).await? == Ended::Early {
                pruned.stop(self.interrupt);
                return Ok(());
            }
            let releases: Vec<String> = layout.releases.iter().cloned().collect();
            let apply = Apply {
                objects: self.objects,
                share: self.share,
                spilled: &spilled,
                whose: &whose,
                rules,
                releases: &releases,
                stop: self.stop,
            };
            let (applied, ended) = apply.run(take, &mut uses).await?;
            let Applied { taken, used, gone, failed, failures, denied: _ } = applied;
            pruned.taken = taken;
            (pruned.used_meanwhile, pruned.gone_meanwhile) = (used, gone);
            (pruned.failed, pruned.failures) = (failed, failures);
            pruned.failures.sort();
            if used + failed > 0 {
                // They are not in the index any more, but still there.
                removed.keep_all();
                let _ = removed.leave_index(self.objects, self.share, width, &|| false).await;
            }
            if ended == Ended::Early {
                pruned.stop(self.interrupt);
            }
        }
        self.remove_old_index(&layout).await;
        Ok(())
    }

    /// Reads the leases and reports them.
    async fn leases(&self, layout: &Layout, pruned: &mut Pruned) -> Result<AllLeases> {
        let at = (self.now, self.options.width);
        let all = match leases::read(self.objects, self.share, &layout.pull_requests, at).await {
            Err(_) if self.options.ignore_leases => return Ok(AllLeases::default()),
            read => read?,
        };
        pruned.tell_leases(&all.live);
        pruned.unreadable_leases.clone_from(&all.unreadable);
        Ok(all)
    }

    /// When objects were used, and the records that are too old to matter.
    async fn uses(&self, layout: &Layout) -> Result<(LastUses, Vec<Path>)> {
        let (mut uses, mut old) = (LastUses::default(), Vec::new());
        let ages = [self.options.sstate_max_age, self.options.downloads_max_age, self.options.layers_max_age];
        let longest = ages.into_iter().max().unwrap_or_default();
        let matters = |record: &ListedObject| {
            // A day more: clocks, and builds that began before.
            let age = self.now.duration_since(record.modified).unwrap_or(Duration::ZERO);
            age <= longest.saturating_add(Duration::from_secs(24 * 3600))
        };
        for release in &layout.releases {
            let failed = |error| {
                failed(format!("cannot read the usage records of {}", self.share), &error, "s3:GetObject")
            };
            let records = usage::records(self.objects, self.share, release).await.map_err(failed)?;
            let surplus = records.len().saturating_sub(MOST_RECORDS);
            let is_old = |index: usize, record: &ListedObject| index < surplus || !matters(record);
            let (past, new): (Vec<_>, Vec<_>) =
                records.into_iter().enumerate().partition(|(index, record)| is_old(*index, record));
            // Statistics show the last builds, however old they are.
            let shown = crate::usage::KEPT.saturating_sub(new.len());
            let past: Vec<Path> = past
                .iter()
                .rev()
                .skip(shown)
                .filter_map(|(_, record)| Path::parse(&record.key).ok())
                .collect();
            old.extend(past);
            let new: Vec<_> = new.into_iter().map(|(_, record)| record).collect();
            uses.read(self.objects, &new, self.options.width).await.map_err(failed)?;
        }
        Ok((uses, old))
    }

    /// Finds multipart uploads that nobody will complete. A lifecycle rule does the same.
    async fn uploads(&self, pruned: &mut Pruned) -> Vec<agent_objects::Upload> {
        let found = match self.objects.uploads(&directory(self.share.root())).await {
            Ok(found) => found,
            Err(error) => {
                pruned.trouble.add(|| format!("unfinished uploads: {}", shown(&error.to_string())));
                return Vec::new();
            }
        };
        let old = |begun: SystemTime| self.now.duration_since(begun).is_ok_and(|age| age > UNFINISHED);
        let (old, all): (Vec<_>, u64) =
            (found.iter().filter(|one| old(one.begun)).cloned().collect(), found.len() as u64);
        if all > 0 {
            let sum = |units| Sum { units, bytes: 0 };
            pruned.areas.push(PrunedArea {
                area: "unfinished uploads".into(),
                all: sum(all),
                by_age: sum(old.len() as u64),
                by_size: Sum::default(),
            });
        }
        old
    }

    /// Expired leases and old usage records. The next run tries again after a failure.
    async fn remove_notes(&self, leases: Vec<Path>, records: Vec<Path>) {
        let notes: Vec<Path> = leases.into_iter().chain(records).collect();
        for batch in notes.chunks(BATCH) {
            let _ = self.objects.delete_batch(batch.to_vec()).await;
        }
    }

    async fn remove_old_index(&self, layout: &Layout) {
        for release in &layout.releases {
            let tier = BucketTier {
                kind: TierKind::Shared,
                share: self.share.clone(),
                objects: self.objects.clone(),
            };
            let Ok(obsolete) = super::index::obsolete(&tier, release).await else { continue };
            for batch in obsolete.chunks(BATCH) {
                let _ = self.objects.delete_batch(batch.to_vec()).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
