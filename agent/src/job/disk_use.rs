//! The disk space that a job takes: measured, stored in the work directory, and compared with what is free before the next
//! job of the same kind.
//!
//! A job measures by how much the free space shrinks. Jobs that run at the same time, such as the cells of a matrix, would
//! count each other: they measure by how much their build directories grow.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::config::Settings;
use crate::doctor::{PRUNE, SPACE_TO_CHECK};
use crate::stages::configure::free_bytes;
use agent_fs::read;
use agent_fs::remove::remove_file;
use agent_process::{Interrupt, blocking};
use agent_types::error::Result;
use agent_types::words::bytes;

use super::plan::builds;

const NAME: &str = "disk-use.json";

/// The maximum size of this file.
const SIZE_LIMIT: u64 = 4096;

/// How long a job may count the files of its build directory. A million takes some seconds.
const MEASURING: Duration = Duration::from_secs(20);

/// Bytes that the last jobs took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
    /// By a job that made the build directory.
    fresh: Option<u64>,
    /// By a job that continued in the build directory of an earlier one.
    continued: Option<u64>,
    /// The size of the build directory after the last job, if that job measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build_directory: Option<u64>,
}

/// The build directory at the start of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Missing,
    Continued,
    /// The job deletes what is there, which frees an unknown amount.
    Emptied,
}

/// What is free, and what an earlier job took.
#[derive(Clone, Debug)]
pub struct DiskUse {
    work: PathBuf,
    build: PathBuf,
    builds: bool,
    /// Other jobs use the disk at the same time.
    is_shared: bool,
    start: Start,
    /// When the job began.
    free: Option<u64>,
    measured: Measured,
}

impl DiskUse {
    /// Measures the free space before the job.
    pub fn of(settings: &Settings) -> DiskUse {
        let (work, build) = (settings.paths.work.clone(), settings.paths.build());
        let text = read::whole(&work.join(NAME), SIZE_LIMIT).ok();
        DiskUse {
            builds: builds(settings),
            is_shared: settings.machine_share > 1,
            start: match (build.exists(), settings.build.fresh) {
                (false, _) => Start::Missing,
                (true, false) => Start::Continued,
                (true, true) => Start::Emptied,
            },
            free: free_bytes(&work),
            measured: text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default(),
            work,
            build,
        }
    }

    /// Why the job may not fit on the disk, with a hint. If a build was never measured, configure compares the free space
    /// with what an image takes.
    pub fn warning(&self) -> Option<(String, String)> {
        let (needed, why) = self.needed()?;
        let free = self.free.filter(|free| *free < needed)?;
        let (free, needed, work) = (bytes(free), bytes(needed), self.work.display());
        let message = format!("{free} are free in {work}, and this job needs about {needed}: {why}");
        Some((message, hint()))
    }

    /// The same for jobs that run one after another or in parallel on one disk, and that keep their build directories.
    pub fn warning_of_all(all: &[DiskUse]) -> Option<(String, String)> {
        let needs: Vec<u64> = all.iter().filter_map(|one| Some(one.needed()?.0)).collect();
        // A file in the work directory may have any numbers.
        let needed = needs.iter().copied().fold(0, u64::saturating_add);
        let first = all.first()?;
        let free = first.free.filter(|free| *free < needed && needs.len() > 1)?;
        let work = first.work.parent().unwrap_or(&first.work);
        let (free, needed, work) = (bytes(free), bytes(needed), work.display());
        let message = format!("{free} are free in {work}, and {} jobs need about {needed}", needs.len());
        Some((message, hint()))
    }

    /// What the job probably takes, and why.
    fn needed(&self) -> Option<(u64, &'static str)> {
        let earlier = |measured: Option<u64>| Some((measured?, "an earlier one took as much"));
        match self.start {
            Start::Missing if self.measured.fresh.is_none() && !self.builds => {
                Some((SPACE_TO_CHECK, "a check takes as much"))
            }
            Start::Missing => earlier(self.measured.fresh),
            Start::Continued => earlier(self.measured.continued),
            Start::Emptied => None,
        }
    }

    /// The same as [`DiskUse::store`]. A stop of the job does not wait until all files are counted.
    pub async fn store_unless_stopped(self, passed: bool, interrupt: &Interrupt) -> Result<()> {
        let passed = passed && interrupt.state().is_none();
        let store = blocking(move || self.store(passed));
        // Only a job that passed counts files. Of any other, the next job must know that its size is unknown.
        if passed { interrupt.or(store).await.unwrap_or(Ok(())) } else { store.await }
    }

    /// Stores what the job took. `passed`: a job that stopped early took less than the next one.
    ///
    /// # Errors
    /// If the file cannot be written.
    fn store(mut self, passed: bool) -> Result<()> {
        let taken = self.taken(passed);
        let last = match self.start {
            Start::Missing => Some(&mut self.measured.fresh),
            Start::Continued => Some(&mut self.measured.continued),
            // The free space does not show it.
            Start::Emptied => Some(&mut self.measured.fresh).filter(|_| self.is_shared),
        };
        if let Some((taken, last)) = taken.zip(last)
            && (passed || last.is_some_and(|last| taken >= last))
        {
            *last = Some(taken);
        }
        write(&self.work, &self.measured)
    }

    /// What the job took. The size of the build directory that the last job left is replaced.
    fn taken(&mut self, passed: bool) -> Option<u64> {
        let before = self.measured.build_directory.take();
        if !self.is_shared {
            let now = free_bytes(&self.work);
            return self.free.zip(now).map(|(before, now)| before.saturating_sub(now));
        }
        // To measure it takes time, and a job that failed took less.
        let now = passed.then(|| size_of_tree(&self.build, MEASURING)).flatten()?;
        self.measured.build_directory = Some(now);
        match self.start {
            Start::Missing | Start::Emptied => Some(now),
            Start::Continued => before.map(|before| now.saturating_sub(before)),
        }
    }
}

fn hint() -> String {
    format!("{PRUNE} frees space; or use another disk with --work-dir")
}

/// The bytes that the files below a directory take on the disk; `None`, if to count them takes too long. Blocks.
fn size_of_tree(top: &Path, limit: Duration) -> Option<u64> {
    let began = Instant::now();
    let mut linked = HashSet::new();
    let mut taken: u64 = 0;
    for entry in WalkDir::new(top).same_file_system(true) {
        if began.elapsed() > limit {
            return None;
        }
        // What vanishes meanwhile takes nothing.
        let Some(found) = entry.ok().and_then(|entry| entry.metadata().ok()) else { continue };
        let has_links = !found.is_dir() && found.nlink() > 1;
        if !has_links || linked.insert((found.dev(), found.ino())) {
            // The unit is 512 bytes on every file system.
            taken = taken.saturating_add(found.blocks().saturating_mul(512));
        }
    }
    Some(taken)
}

fn write(work: &Path, measured: &Measured) -> Result<()> {
    let (file, new) = (work.join(NAME), work.join(format!("{NAME}.new")));
    remove_file(&new, work)?;
    fs::write(&new, serde_json::to_vec(measured).unwrap_or_default())?;
    Ok(fs::rename(&new, file)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn disk_use(builds: bool, start: Start, measured: [Option<u64>; 2]) -> DiskUse {
        let [fresh, continued] = measured.map(|gb| gb.map(|gb| gb * GB));
        let measured = Measured { fresh, continued, build_directory: None };
        let (work, build) = ("/w/job".into(), "/w/job/build".into());
        DiskUse { work, build, builds, is_shared: false, start, free: Some(10 * GB), measured }
    }

    #[test]
    fn a_job_that_took_more_than_is_free_causes_a_warning() {
        let table = [
            (disk_use(true, Start::Missing, [Some(40), Some(1)]), Some("37.3 GiB: an earlier one")),
            (disk_use(true, Start::Continued, [Some(40), Some(1)]), None),
            (disk_use(true, Start::Continued, [Some(1), Some(11)]), Some("an earlier one")),
            (disk_use(true, Start::Missing, [None, Some(40)]), None),
            (disk_use(false, Start::Missing, [None, None]), None),
            (
                DiskUse { free: Some(GB), ..disk_use(false, Start::Missing, [None, None]) },
                Some("a check takes"),
            ),
            (DiskUse { free: Some(GB), ..disk_use(false, Start::Continued, [None, None]) }, None),
            (disk_use(true, Start::Emptied, [Some(40), Some(40)]), None),
            (DiskUse { free: None, ..disk_use(true, Start::Missing, [Some(40), None]) }, None),
        ];
        for (number, (disk_use, wanted)) in table.into_iter().enumerate() {
            let (message, hint) = disk_use.warning().unzip();
            match wanted {
                None => assert_eq!(message, None, "{number}"),
                Some(words) => {
                    assert!(
                        message.as_ref().is_some_and(|said| said.contains(words)),
                        "{number}: {message:?}"
                    );
                    assert!(hint.unwrap().contains("cache prune --local"));
                }
            }
        }
    }

    #[test]
    fn all_jobs_together_may_not_fit() {
        let small = || disk_use(true, Start::Missing, [Some(4), None]);
        let unknown = || disk_use(true, Start::Missing, [None, None]);
        for (all, wanted) in [
            (vec![], None),
            (vec![small(), unknown(), small()], None),
            (vec![disk_use(true, Start::Missing, [Some(40), None]), unknown()], None),
            (vec![small(), small(), small()], Some("9.3 GiB are free in /w, and 3 jobs need about 11.2 GiB")),
        ] {
            assert_eq!(DiskUse::warning_of_all(&all).map(|(message, _)| message).as_deref(), wanted);
        }
        let huge = || disk_use(true, Start::Missing, [Some(u64::MAX / GB), None]);
        assert!(DiskUse::warning_of_all(&[huge(), huge()]).is_some());
    }

    #[test]
    fn jobs_at_the_same_time_measure_their_own_build_directories() {
        let work = tempfile::tempdir().unwrap();
        let build = work.path().join("build");
        fs::create_dir(&build).unwrap();
        let file = |name: &str, mib: usize| fs::write(build.join(name), vec![1; mib << 20]).unwrap();
        let store = |start: Start, passed: bool, is_shared: bool| {
            let measured = read::whole(&work.path().join(NAME), SIZE_LIMIT).ok();
            let measured = measured.map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or_default();
            // The others have used everything.
            let free = Some(u64::MAX);
            let one = disk_use(true, start, [None, None]);
            let one =
                DiskUse { work: work.path().into(), build: build.clone(), is_shared, free, measured, ..one };
            one.store(passed).unwrap();
            let stored = read::whole(&work.path().join(NAME), SIZE_LIMIT).unwrap();
            let stored: Measured = serde_json::from_slice(&stored).unwrap();
            let mib = |bytes: Option<u64>| bytes.map(|bytes| bytes >> 20);
            (mib(stored.fresh), mib(stored.continued))
        };
        file("a", 8);
        fs::hard_link(build.join("a"), build.join("b")).unwrap();
        assert_eq!(store(Start::Missing, true, true), (Some(8), None), "hard links count once");
        file("c", 4);
        assert_eq!(store(Start::Continued, true, true), (Some(8), Some(4)));
        // The next job does not know what a failed one left.
        file("d", 2);
        assert_eq!(store(Start::Continued, false, true), (Some(8), Some(4)));
        file("e", 1);
        assert_eq!(store(Start::Continued, true, true), (Some(8), Some(4)));
        assert_eq!(store(Start::Emptied, true, true), (Some(15), Some(4)));
        assert_eq!(size_of_tree(&build, Duration::ZERO), None);
        // A job alone measures by the free space.
        let (fresh, _) = store(Start::Missing, true, false);
        assert!(fresh > Some(1 << 20));
    }

    /// The size that an earlier job left is not that of the build directory any more.
    #[tokio::test]
    async fn a_stopped_job_leaves_no_size() {
        for (passed, is_stopped, wanted) in
            [(true, false, Some(0)), (true, true, None), (false, false, None), (false, true, None)]
        {
            let work = tempfile::tempdir().unwrap();
            let mut one = disk_use(true, Start::Continued, [None, None]);
            (one.work, one.build, one.is_shared) = (work.path().into(), work.path().join("build"), true);
            one.measured.build_directory = Some(7 * GB);
            let interrupt = Interrupt::new(None);
            if is_stopped {
                interrupt.signal();
            }
            one.store_unless_stopped(passed, &interrupt).await.unwrap();
            let stored = read::whole(&work.path().join(NAME), SIZE_LIMIT).unwrap();
            let stored: Measured = serde_json::from_slice(&stored).unwrap();
            assert_eq!(stored.build_directory, wanted, "{passed} {is_stopped}");
        }
    }

    #[test]
    fn a_job_that_failed_only_raises_the_measure() {
        let work = tempfile::tempdir().unwrap();
        let free = free_bytes(work.path()).unwrap();
        let took = |gb: u64, passed: bool| {
            let measured = read::whole(&work.path().join(NAME), SIZE_LIMIT).ok();
            let measured: Measured =
                measured.map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or_default();
            let one = disk_use(true, Start::Missing, [None, None]);
            let one = DiskUse { work: work.path().into(), free: Some(free + gb * GB), measured, ..one };
            one.store(passed).unwrap();
            let stored = read::whole(&work.path().join(NAME), SIZE_LIMIT).ok();
            stored.and_then(|text| serde_json::from_slice::<Measured>(&text).unwrap().fresh)
        };
        // Other programs use the disk at the same time.
        let is_about = |found: Option<u64>, gb: u64| {
            found.is_some_and(|found| (gb * GB).saturating_sub(5 * GB) <= found && found < (gb + 5) * GB)
        };
        assert_eq!(took(20, false), None);
        assert!(is_about(took(20, true), 20));
        assert!(is_about(took(60, false), 60));
        assert!(is_about(took(20, false), 60));
        assert!(is_about(took(20, true), 20));
    }
}
