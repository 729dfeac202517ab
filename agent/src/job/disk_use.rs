//! The disk space that a job takes: measured, stored in the work directory, and compared with what is free before the next
//! job of the same kind.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::doctor::{PRUNE, SPACE_TO_CHECK};
use crate::stages::configure::free_bytes;
use agent_fs::read;
use agent_fs::remove::remove_file;
use agent_types::error::Result;
use agent_types::words::bytes;

use super::plan::builds;

const NAME: &str = "disk-use.json";

/// The maximum size of this file.
const SIZE_LIMIT: u64 = 4096;

/// Bytes that the last jobs took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
    /// By a job that made the build directory.
    fresh: Option<u64>,
    /// By a job that continued in the build directory of an earlier one.
    continued: Option<u64>,
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
    builds: bool,
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
            start: match (build.exists(), settings.build.fresh) {
                (false, _) => Start::Missing,
                (true, false) => Start::Continued,
                (true, true) => Start::Emptied,
            },
            free: free_bytes(&work),
            measured: text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default(),
            work,
        }
    }

    /// Why the job may not fit on the disk, with a hint. If a build was never measured, configure compares the free space
    /// with what an image takes.
    pub fn warning(&self) -> Option<(String, String)> {
        let earlier = |measured: Option<u64>| Some((measured?, "an earlier one took as much"));
        let (needed, why) = match self.start {
            Start::Missing if self.measured.fresh.is_none() && !self.builds => {
                (SPACE_TO_CHECK, "a check takes as much")
            }
            Start::Missing => earlier(self.measured.fresh)?,
            Start::Continued => earlier(self.measured.continued)?,
            Start::Emptied => return None,
        };
        let free = self.free.filter(|free| *free < needed)?;
        let (free, needed, work) = (bytes(free), bytes(needed), self.work.display());
        let message = format!("{free} are free in {work}, and this job needs about {needed}: {why}");
        Some((message, format!("{PRUNE} frees space; or use another disk with --work-dir")))
    }

    /// Stores what the job took. `passed`: a job that stopped early took less than the next one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn store(mut self, passed: bool) -> Result<()> {
        let now = free_bytes(&self.work);
        let Some(taken) = self.free.zip(now).map(|(before, now)| before.saturating_sub(now)) else {
            return Ok(());
        };
        let last = match self.start {
            Start::Missing => &mut self.measured.fresh,
            Start::Continued => &mut self.measured.continued,
            Start::Emptied => return Ok(()),
        };
        if !passed && last.is_none_or(|last| taken < last) {
            return Ok(());
        }
        *last = Some(taken);
        write(&self.work, &self.measured)
    }
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
        let measured = Measured { fresh, continued };
        DiskUse { work: "/w".into(), builds, start, free: Some(10 * GB), measured }
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
