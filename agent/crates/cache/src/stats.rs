//! Shows what is on a share, how old it is, and its hit rate in the last builds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::areas::{self, Area, AreaKind, Layout, Measure};
use super::lease::{self, Author};
use super::names::DownloadKind;
use super::prune::{Names, Sum, TRASHES, open};
use super::stamp::nanoseconds;
use super::units::{Class, Contents, Unit, shown};
use super::usage::{self, Usage};
use agent_fs::dir::DirHandle;
use agent_fs::walk::{Seen, Walk};
use agent_process::Interrupt;
use agent_types::error::Result;
use agent_types::share::Share;

/// Number of builds whose records are summed up.
pub const BUILDS: usize = 20;

const DAY: u64 = 24 * 3600;

/// The last age range has no end.
const AGES: [(&str, u64); 5] = [
    ("within a day", DAY),
    ("within 7 days", 7 * DAY),
    ("within 30 days", 30 * DAY),
    ("within 90 days", 90 * DAY),
    ("before that", u64::MAX),
];

#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    pub sstate: Vec<Release>,
    /// By kind.
    pub downloads: BTreeMap<&'static str, Sum>,
    pub downloads_ages: Vec<Age>,
    /// Checkouts with all their files.
    pub layers: Sum,
    /// Results of jobs, by commit.
    pub results: Sum,
    pub pull_requests: Vec<PullRequest>,
    /// Files in the trash.
    pub trash: Sum,
    /// Unfinished files.
    pub temporary: Sum,
    pub leases: Vec<String>,
    /// Work directories of jobs, in the directory of the local caches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<String>,
    pub unknown: Names,
    pub locks: u64,
    pub trouble: Names,
    /// In a bucket: the objects of the signature cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Sum>,
    /// In a bucket: what storing everything costs per month, in USD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_month: Option<f64>,
    pub operations: u64,
    pub seconds: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Release {
    pub release: String,
    /// Objects with an archive, by `SSTATE_VERSION`; the bytes include the sidecar files.
    pub versions: BTreeMap<u8, Sum>,
    /// Objects that have only a `.siginfo`.
    pub siginfo_only: u64,
    pub ages: Vec<Age>,
    /// The last builds with a record, and their sum.
    pub builds: u64,
    pub usage: Usage,
    pub hit_rate: Option<f64>,
}

/// Units that were last used in a range of time.
#[derive(Clone, Debug, Serialize)]
pub struct Age {
    pub used: &'static str,
    #[serde(flatten)]
    pub sum: Sum,
}

#[derive(Clone, Debug, Serialize)]
pub struct PullRequest {
    pub number: u64,
    pub files: u64,
    pub bytes: u64,
    /// Time of the last change in it, RFC 3339.
    pub changed: Option<String>,
}

/// Collects statistics of a share. Blocks; an interrupt ends it with what was read so far.
///
/// # Errors
/// Machine, if the share cannot be opened. Unreadable directories are in the result.
pub fn stats(share: &Share, width: usize, interrupt: &Interrupt, now: SystemTime) -> Result<Stats> {
    let begun = Instant::now();
    let operations = AtomicU64::new(0);
    let stop = || interrupt.state().is_some();
    let walk = Walk { width, facts: true, operations: &operations, stop: &stop };
    let root = open(share)?;
    let layout = Layout::read(&root, &walk);
    let mut stats = Stats { downloads_ages: no_ages(), ..Stats::default() };
    stats.jobs = layout.jobs.iter().map(|name| shown(Path::new(name))).collect();
    layout.unknown.iter().for_each(|path| stats.unknown.add(|| shown(path)));
    for trouble in &layout.trouble {
        stats.trouble.add(|| format!("{}: {}", shown(&trouble.path), trouble.error));
    }
    for area in &layout.areas {
        stats.area(&root, area, &walk, now);
    }
    for number in layout.pull_requests {
        let measure = Measure::of(&root, &areas::tier(Some(number)), &walk);
        let changed = measure.used.map(super::stamp::time);
        let changed = changed.map(|time| humantime::format_rfc3339_seconds(time).to_string());
        stats.pull_requests.push(PullRequest { number, files: measure.files, bytes: measure.bytes, changed });
    }
    for home in TRASHES {
        let trash = Measure::of(&root, Path::new(home), &walk);
        stats.trash.units += trash.files;
        stats.trash.bytes = stats.trash.bytes.saturating_add(trash.bytes);
    }
    match lease::read(&root, Author::Trusted, now, &operations) {
        Ok(leases) => stats.leases = leases.live.iter().map(ToString::to_string).collect(),
        Err(error) => stats.trouble.add(|| format!("leases: {error}")),
    }
    stats.operations = operations.into_inner();
    stats.seconds = begun.elapsed().as_secs_f64();
    Ok(stats)
}

impl Stats {
    fn area(&mut self, root: &DirHandle, area: &Area, walk: &Walk<'_>, now: SystemTime) {
        let path = area.path();
        let mut release = Release { ages: no_ages(), ..Release::default() };
        let mut directories: Vec<Unit> = Vec::new();
        let _ = area.walk(root, walk, |seen| match seen {
            Seen::Trouble(trouble) => {
                self.trouble.add(|| format!("{}: {}", shown(&path.join(&trouble.path)), trouble.error));
            }
            Seen::Directory(contents) => {
                directories.extend(self.contents(contents, &mut release, &path, now))
            }
        });
        for unit in directories {
            let measure = Measure::of_unit(root, &path, &unit, walk);
            self.add(&unit, unit.size() + measure.bytes, now);
        }
        if let AreaKind::Sstate(name) = &area.kind {
            release.used_by(name, usage::last(root, name, BUILDS, walk.operations));
            self.sstate.push(release);
        }
    }

    /// Counts the units of a directory; returns those whose size is not known yet.
    pub(crate) fn contents(
        &mut self,
        contents: Contents,
        release: &mut Release,
        area: &Path,
        now: SystemTime,
    ) -> Vec<Unit> {
        let Contents { units, unknown, locks } = contents;
        self.locks += locks;
        unknown.iter().for_each(|name| self.unknown.add(|| shown(&area.join(name))));
        let mut directories = Vec::new();
        for unit in units {
            match unit.class {
                Class::Object { .. } => release.add(&unit, now),
                _ if unit.is_directory() => directories.push(unit),
                _ => self.add(&unit, unit.size(), now),
            }
        }
        directories
    }

    fn add(&mut self, unit: &Unit, bytes: u64, now: SystemTime) {
        match unit.class {
            Class::Download(kind) => {
                self.downloads.entry(word(kind)).or_default().add(bytes);
                add_age(&mut self.downloads_ages, unit, bytes, now);
            }
            Class::Layer => self.layers.add(bytes),
            Class::Result => self.results.add(bytes),
            Class::Signature => self.signatures.get_or_insert_default().add(bytes),
            Class::Temporary | Class::Object { .. } => self.temporary.add(bytes),
        }
    }
}

impl Release {
    /// Sums up the last builds of the release with this name.
    pub(crate) fn used_by(&mut self, name: &str, builds: Vec<Usage>) {
        name.clone_into(&mut self.release);
        self.builds = builds.len() as u64;
        builds.into_iter().for_each(|record| self.usage += record);
        self.hit_rate = self.usage.hit_rate();
    }

    fn add(&mut self, unit: &Unit, now: SystemTime) {
        if let Class::Object { version } = unit.class
            && unit.has("")
        {
            self.versions.entry(version).or_default().add(unit.size());
        } else {
            self.siginfo_only += 1;
        }
        add_age(&mut self.ages, unit, unit.size(), now);
    }
}

pub(crate) fn no_ages() -> Vec<Age> {
    AGES.iter().map(|(used, _)| Age { used, sum: Sum::default() }).collect()
}

fn add_age(ages: &mut [Age], unit: &Unit, bytes: u64, now: SystemTime) {
    let nanos = nanoseconds(now).saturating_sub(unit.used()).max(0).unsigned_abs();
    let age = Duration::from_nanos(nanos).as_secs();
    let index = AGES.iter().position(|(_, end)| age < *end).unwrap_or(AGES.len() - 1);
    ages[index].sum.add(bytes);
}

fn word(kind: DownloadKind) -> &'static str {
    match kind {
        DownloadKind::File => "files",
        DownloadKind::GitTarball => "git tarballs",
        DownloadKind::ShallowTarball => "shallow git tarballs",
        DownloadKind::Clone => "clones",
        DownloadKind::BadChecksum => "bad checksums",
    }
}
