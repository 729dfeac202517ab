//! What the flight recorder of a job knows that was killed.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agent_types::job_id::JobId;
use agent_types::machine_use::MachineSample;

use super::ring::{self, Entry};

/// Work directories in which is looked.
const DIRECTORIES: usize = 1000;

/// A job that did not come to its own end.
#[derive(Clone, Debug, PartialEq)]
pub struct LastAttempt {
    pub job: JobId,
    /// Its output directory, which may be lost.
    pub out: PathBuf,
    /// The newest last; at least one.
    entries: Vec<Entry>,
}

impl LastAttempt {
    /// The last job in this work directory, if it was killed. The caller holds the directory, or the job is not running.
    pub fn of(work: &Path) -> Option<LastAttempt> {
        let (head, entries) = ring::read(work)?;
        (!head.ended && !entries.is_empty()).then_some(LastAttempt { job: head.job, out: head.out, entries })
    }

    /// Those of all work directories below this one.
    pub fn below(top: &Path) -> Vec<LastAttempt> {
        let entries = std::fs::read_dir(top).into_iter().flatten().flatten();
        entries.take(DIRECTORIES).filter_map(|entry| LastAttempt::of(&entry.path())).collect()
    }

    /// The samples after this moment.
    pub fn samples_after(&self, moment: SystemTime) -> impl Iterator<Item = (SystemTime, &MachineSample)> {
        let later = self.entries.iter().filter(move |entry| entry.time > moment);
        later.map(|entry| (entry.time, &entry.sample))
    }

    /// `the last attempt of this job died at about 2026-01-02 14:02 UTC with 71.8 of 72.0 GiB of memory used, …, while
    /// core-image-minimal ran`.
    pub fn message(&self) -> String {
        let Some(last) = self.entries.last() else { return String::new() };
        let time = humantime::format_rfc3339_seconds(last.time).to_string();
        // Minutes: the last sample is some seconds old.
        let (day, minute) = (time.get(..10).unwrap_or_default(), time.get(11..16).unwrap_or_default());
        let running = match last.running.as_str() {
            "" => String::new(),
            running => format!(", while {running} ran"),
        };
        format!(
            "the last attempt of this job died at about {day} {minute} UTC with {}{running}",
            last.sample.describe()
        )
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let last = self.entries.last().map(|entry| &entry.sample);
        if last.is_some_and(MachineSample::is_short_of_memory) {
            "memory probably ran out: use a machine with more, or set lower BB_NUMBER_THREADS and PARALLEL_MAKE in \
             [config] local_conf"
                .into()
        } else if last.is_some_and(MachineSample::is_short_of_disk) {
            "the disk was nearly full: use a larger one, or add `INHERIT += \"rm_work\"` to [config] local_conf".into()
        } else {
            "memory and disk space were not short: look for who ended it in the log of the kernel (dmesg) or of the \
             build service"
                .into()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::super::ring::{Head, Ring};
    use super::*;
    use agent_types::machine_use::ProgramUse;

    /// 2026-01-02T14:02:11Z
    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_362_531 + seconds)
    }

    fn recorded(work: &Path, memory_used: u64, disk_free: u64) -> Ring {
        fs_err::create_dir_all(work).unwrap();
        let mut ring = Ring::create(work, &Head::new("job-1".into(), Path::new("/out"))).unwrap();
        let largest = vec![ProgramUse { name: "cc1plus".into(), processes: 9, memory: memory_used / 2 }];
        let sample = MachineSample {
            memory_used,
            memory_limit: 72 << 30,
            disk_free,
            largest,
            ..MachineSample::default()
        };
        ring.write(at(0), "checkout".into(), &MachineSample::default()).unwrap();
        ring.write(at(10), "core-image-minimal".into(), &sample).unwrap();
        ring
    }

    #[test]
    fn a_killed_job_is_told_with_its_last_sample() {
        let gib = |number: u64| number << 30;
        for (used, disk, wanted, hint) in [
            (
                gib(71),
                gib(9),
                "the last attempt of this job died at about 2026-01-02 14:02 UTC with 71.0 of 72.0 GiB of memory used, most \
                 of it by 9 × cc1plus (35.5 GiB), while core-image-minimal ran",
                "memory probably ran out",
            ),
            (
                gib(8),
                1024,
                "the last attempt of this job died at about 2026-01-02 14:02 UTC with 8.0 of 72.0 GiB of memory used, most \
                 of it by 9 × cc1plus (4.0 GiB), 1.0 KiB of disk space free, while core-image-minimal ran",
                "the disk was nearly full",
            ),
            (gib(8), gib(9), "8.0 of 72.0 GiB", "memory and disk space were not short"),
        ] {
            let top = tempfile::tempdir().unwrap();
            let work = top.path().join("meta-x-scarthgap");
            recorded(&work, used, disk);
            let last = LastAttempt::of(&work).unwrap();
            assert!(last.message().contains(wanted), "{}", last.message());
            assert!(last.hint().starts_with(hint), "{}", last.hint());
            assert_eq!(last.samples_after(at(5)).map(|(time, _)| time).collect::<Vec<_>>(), [at(10)]);
            assert_eq!(last.samples_after(at(10)).count(), 0);
            fs_err::create_dir(top.path().join("another")).unwrap();
            assert_eq!(LastAttempt::below(top.path()), [last]);
        }
    }

    #[test]
    fn a_job_that_ended_or_has_no_sample_is_not_told() {
        let work = tempfile::tempdir().unwrap();
        let ring = recorded(work.path(), 1, 1);
        ring.head(&Head::new("job-1".into(), Path::new("/out")).at_the_end()).unwrap();
        assert_eq!(LastAttempt::of(work.path()), None);
        Ring::create(work.path(), &Head::new("job-2".into(), Path::new("/out"))).unwrap();
        assert_eq!(LastAttempt::of(work.path()), None);
    }
}
