//! Shows what is on a share in a bucket, how old it is, and what it costs. See [`crate::stats`].

use std::time::{Instant, SystemTime};

use super::layout::{self, Layout, contents, directory, failed, prefix};
use super::prune::live_leases;
use super::usage::{self, LastUses};
use super::walk::{Folders, shown, walk};
use crate::areas::{Area, AreaKind};
use crate::stamp::{nanoseconds, time};
use crate::stats::{BUILDS, PullRequest, Release, Stats, no_ages};
use agent_objects::{ListedObject, Objects, Prices};
use agent_process::Interrupt;
use agent_types::bucket_share::BucketShare;
use agent_types::error::Result;

/// Collects statistics. An interrupt ends it with what was read so far.
///
/// # Errors
/// If the share cannot be listed. What else cannot be read is in the result.
pub async fn stats(
    objects: &Objects,
    share: &BucketShare,
    (width, prices): (usize, &Prices),
    interrupt: &Interrupt,
    now: SystemTime,
) -> Result<Stats> {
    let begun = Instant::now();
    let stop = || interrupt.state().is_some();
    let layout = Layout::read(objects, share).await?;
    let mut stats = Stats { downloads_ages: no_ages(), ..Stats::default() };
    layout.unknown.iter().for_each(|key| stats.unknown.add(|| key.clone()));
    let reading = Reading { objects, share, width, stop: &stop, now };
    let (mut uses, mut stored) = (LastUses::default(), 0);
    for release in &layout.releases {
        if let Err(error) = reading.uses(release, &mut uses).await {
            stats.trouble.add(|| format!("usage/{release}: {}", shown(&error.to_string())));
        }
    }
    for area in &layout.areas {
        stored += reading.area(area, &uses, &mut stats).await?;
    }
    for number in layout.pull_requests {
        match reading.pull_request(number).await {
            Ok(request) => {
                stored += request.bytes;
                stats.pull_requests.push(request);
            }
            Err(error) => stats.trouble.add(|| format!("pr/{number}: {}", shown(&error.to_string()))),
        }
    }
    match live_leases(objects, share, now).await {
        Ok(leases) => stats.leases = leases,
        Err(error) => stats.trouble.add(|| format!("leases: {error}")),
    }
    stats.usd_per_month = Some(prices.month(stored));
    let requests = objects.meter().so_far();
    stats.operations = requests.writes_and_lists + requests.reads;
    stats.seconds = begun.elapsed().as_secs_f64();
    Ok(stats)
}

struct Reading<'a> {
    objects: &'a Objects,
    share: &'a BucketShare,
    width: usize,
    stop: &'a (dyn Fn() -> bool + Sync),
    now: SystemTime,
}

impl Reading<'_> {
    async fn uses(&self, release: &str, uses: &mut LastUses) -> object_store::Result<()> {
        let records = usage::records(self.objects, self.share, release).await?;
        uses.read(self.objects, &records, self.width).await.map(|_| ())
    }

    /// Counts the units of an area; returns all its bytes.
    async fn area(&self, area: &Area, uses: &LastUses, stats: &mut Stats) -> Result<u64> {
        let (prefix, top) = (prefix(self.share, area), directory(self.share.root()));
        let mut release = Release { ages: no_ages(), ..Release::default() };
        let mut stored = 0;
        let path = area.path();
        let each = |found: Vec<ListedObject>| {
            stored += found.iter().map(|object| object.size).sum::<u64>();
            let used = |object: &ListedObject| uses.of(object.key.strip_prefix(&top)?);
            let Folders { folders, odd } = Folders::new(&prefix, found, used);
            odd.iter().for_each(|key| stats.unknown.add(|| key.clone()));
            for (folder, entries) in &folders {
                let found = contents(&area.kind, folder, entries);
                // Nothing in a bucket is a directory.
                let _ = stats.contents(found, &mut release, &path, self.now);
            }
        };
        let walked = walk(self.objects, prefix.clone(), self.width, self.stop, each).await;
        // An interrupt ends it early.
        let _ended =
            walked.map_err(|error| failed(format!("cannot list {area}"), &error, "s3:ListBucket"))?;
        if let AreaKind::Sstate(name) = &area.kind {
            match usage::last(self.objects, self.share, name, BUILDS).await {
                Ok(builds) => release.used_by(name, builds),
                Err(error) => {
                    release.used_by(name, Vec::new());
                    stats.trouble.add(|| format!("usage/{name}: {}", shown(&error.to_string())));
                }
            }
            stats.sstate.push(release);
        }
        Ok(stored)
    }

    async fn pull_request(&self, number: u64) -> object_store::Result<PullRequest> {
        let mut request = PullRequest { number, files: 0, bytes: 0, changed: None };
        let mut newest = None;
        let each = |found: Vec<ListedObject>| {
            for object in found {
                request.files += 1;
                request.bytes = request.bytes.saturating_add(object.size);
                newest = newest.max(Some(nanoseconds(object.modified)));
            }
        };
        let top = directory(layout::tier(self.share, Some(number)).root());
        let _ended = walk(self.objects, top, self.width, self.stop, each).await?;
        let changed = newest.map(|newest| humantime::format_rfc3339_seconds(time(newest)).to_string());
        Ok(PullRequest { changed, ..request })
    }
}
