//! Takes units out of the index before they are deleted, so that no new build expects them.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path as FilePath;
use std::time::SystemTime;

use super::super::BucketTier;
use super::super::index::BaseWriter;
use super::super::layout::{self, contents, failed, prefix};
use super::super::walk::{Folders, walk};
use crate::areas::{Area, AreaKind};
use crate::units::{SUFFIXES, Unit};
use agent_fs::pool::Ended;
use agent_objects::Objects;
use agent_types::bucket_share::BucketShare;
use agent_types::error::Result;
use agent_types::tiers::TierKind;

/// The units of shared state that are removed, by area. Hashes, because there may be a million.
#[derive(Debug, Default)]
pub struct Removed {
    by_area: BTreeMap<Area, HashSet<u64>>,
}

impl Removed {
    /// `directory`: of the unit, relative to the share.
    pub fn add(&mut self, area: &Area, directory: &FilePath, name: &str) {
        if matches!(area.kind, AreaKind::Sstate(_)) {
            self.by_area.entry(area.clone()).or_default().insert(hash(&directory.join(name)));
        }
    }

    /// Forgets the units but not their areas, whose index is written with everything that exists.
    pub fn keep_all(&mut self) {
        self.by_area.values_mut().for_each(HashSet::clear);
    }

    /// Writes each of these releases' index again, from a new list and without the removed units. So it also lacks
    /// what others removed meanwhile. Nothing may be deleted unless this is complete.
    ///
    /// # Errors
    /// If the bucket fails.
    pub async fn leave_index(
        &self,
        objects: &Objects,
        share: &BucketShare,
        width: usize,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Ended> {
        for (area, units) in &self.by_area {
            let AreaKind::Sstate(release) = &area.kind else { continue };
            let kind = if area.pull_request.is_some() { TierKind::PullRequest } else { TierKind::Shared };
            let share = layout::tier(share, area.pull_request);
            let tier = BucketTier { kind, share, objects: objects.clone() };
            if self.leave(&tier, area, release, units, (width, stop)).await? == Ended::Early {
                return Ok(Ended::Early);
            }
        }
        Ok(Ended::Complete)
    }

    async fn leave(
        &self,
        tier: &BucketTier,
        area: &Area,
        release: &str,
        units: &HashSet<u64>,
        (width, stop): (usize, &(dyn Fn() -> bool + Sync)),
    ) -> Result<Ended> {
        let cannot = |action| {
            let message = format!("cannot write the index of {area}; nothing was deleted");
            move |error: object_store::Error| failed(message, &error, action)
        };
        // The area's own place in its tier, and in the share.
        let own = Area { pull_request: None, kind: area.kind.clone() };
        let (place, top) = (area.path(), prefix(&tier.share, &own));
        let written = BaseWriter::new(tier, release, SystemTime::now());
        let mut written = written.map_err(cannot("s3:PutObject"))?;
        let mut failed = None;
        let each = |found| {
            for (path, entries) in &Folders::new(&top, found, |_| None).folders {
                for unit in contents(&area.kind, path, entries).units {
                    if !units.contains(&hash(&place.join(&unit.directory).join(&unit.name))) {
                        let added = names(&unit).try_for_each(|(path, size)| written.add(&path, size));
                        failed = failed.take().or(added.err());
                    }
                }
            }
        };
        let walked = walk(&tier.objects, top.clone(), width, stop, each).await;
        if walked.map_err(cannot("s3:ListBucket"))? == Ended::Early {
            return Ok(Ended::Early);
        }
        if let Some(error) = failed {
            return Err(cannot("s3:PutObject")(error));
        }
        written.finish().await.map_err(cannot("s3:PutObject"))?;
        Ok(Ended::Complete)
    }
}

/// The paths of a unit's files below the area, with their sizes. Files that the agent never reads are no units.
fn names(unit: &Unit) -> impl Iterator<Item = (String, u64)> {
    let stem = unit.directory.join(&unit.name).to_string_lossy().into_owned();
    let is_object = matches!(unit.class, crate::units::Class::Object { .. });
    let parts = unit.parts.iter().filter(move |_| is_object);
    parts.map(move |part| (format!("{stem}{}", SUFFIXES[usize::from(part.suffix)]), part.size))
}

fn hash(path: &FilePath) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.as_os_str().hash(&mut hasher);
    hasher.finish()
}
