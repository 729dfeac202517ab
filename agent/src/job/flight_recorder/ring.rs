//! The file of the flight recorder: lines of equal length, of which the oldest is overwritten. The first line says which
//! job it is and whether it ended.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use serde::{Deserialize, Serialize};

use agent_fs::read::{NO_FOLLOW, whole};
use agent_fs::remove::remove_file;
use agent_types::error::Result;
use agent_types::job_id::JobId;
use agent_types::machine_use::MachineSample;
use agent_types::truncate;

/// Its name in the work directory.
const NAME: &str = "flight-recorder.jsonl";

/// Names the layout.
const SCHEMA: &str = "build-agent/flight-recorder/v1";

/// Bytes of a line, with its end.
const LINE: usize = 1024;

/// Samples that are kept: those of 85 minutes.
const SAMPLES: u64 = 512;

/// Bytes of the text about what runs.
const RUNNING: usize = 200;

/// Bytes of a path in the first line.
const PATH: usize = 600;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    schema: String,
    pub job: JobId,
    /// The output directory.
    pub out: PathBuf,
    /// The job came to its own end, and its reports are made.
    pub ended: bool,
}

impl Head {
    pub fn new(job: JobId, out: &Path) -> Head {
        let mut out = out.to_string_lossy().into_owned();
        truncate::middle(&mut out, PATH);
        Head { schema: SCHEMA.into(), job, out: out.into(), ended: false }
    }

    /// The same of a job that has ended.
    #[must_use]
    pub fn at_the_end(&self) -> Head {
        Head { ended: true, ..self.clone() }
    }
}

/// Each other line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up from 1.
    pub number: u64,
    #[serde(with = "agent_types::events::time")]
    pub time: SystemTime,
    /// What the job was doing.
    pub running: String,
    #[serde(flatten)]
    pub sample: MachineSample,
}

/// The file of the job that runs.
#[derive(Debug)]
pub struct Ring {
    file: File,
    last: u64,
}

impl Ring {
    /// Begins a new file in the work directory; that of an earlier job is gone then.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(work: &Path, head: &Head) -> Result<Ring> {
        let path = work.join(NAME);
        remove_file(&path, work)?;
        let mut options = fs::OpenOptions::new();
        let (file, _) = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(NO_FOLLOW)
            .open(&path)?
            .into_parts();
        let ring = Ring { file, last: 0 };
        ring.head(head)?;
        Ok(ring)
    }

    /// The file that is there, to write its first line.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(work: &Path) -> Result<Ring> {
        let mut options = fs::OpenOptions::new();
        let (file, _) = options.write(true).custom_flags(NO_FOLLOW).open(work.join(NAME))?.into_parts();
        Ok(Ring { file, last: 0 })
    }

    /// Writes the first line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn head(&self, head: &Head) -> std::io::Result<()> {
        self.line(0, &serde_json::to_string(head)?)
    }

    /// Writes a sample in the place of the oldest one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(
        &mut self,
        time: SystemTime,
        mut running: String,
        sample: &MachineSample,
    ) -> std::io::Result<()> {
        self.last += 1;
        truncate::middle(&mut running, RUNNING);
        let mut entry = Entry { number: self.last, time, running, sample: sample.clone() };
        let mut text = serde_json::to_string(&entry)?;
        if text.len() >= LINE {
            // Escapes in names can make it as long as this.
            (entry.running, entry.sample.largest) = (String::new(), Vec::new());
            text = serde_json::to_string(&entry)?;
        }
        self.line(1 + (self.last - 1) % SAMPLES, &text)
    }

    /// One write: a killed agent leaves the line as it was or as it will be.
    fn line(&self, place: u64, text: &str) -> std::io::Result<()> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(LINE - 1, b' ');
        bytes.push(b'\n');
        // Not synced: a killed process loses nothing, and waiting for a busy disk would hold the next sample.
        self.file.write_all_at(&bytes, place * LINE as u64)
    }
}

/// The first line and the samples, the newest last. `None` if there is no such file, or it is damaged. Layer code may have
/// written it.
pub fn read(work: &Path) -> Option<(Head, Vec<Entry>)> {
    let bytes = whole(&work.join(NAME), (1 + SAMPLES) * LINE as u64).ok()?;
    let mut lines = bytes.chunks(LINE);
    let head: Head = serde_json::from_slice(lines.next()?).ok()?;
    if head.schema != SCHEMA {
        return None;
    }
    // The machine may have stopped in the middle of a line.
    let mut entries: Vec<Entry> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    entries.sort_by_key(|entry| entry.number);
    Some((head, entries))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use agent_types::machine_use::ProgramUse;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn sample(used: u64, name: &str) -> MachineSample {
        let program = ProgramUse { name: name.into(), processes: 2, memory: used };
        MachineSample { memory_used: used, largest: vec![program], ..MachineSample::default() }
    }

    #[test]
    fn the_newest_samples_stay_and_the_file_does_not_grow() {
        let work = tempfile::tempdir().unwrap();
        let head = Head::new("job-1".into(), Path::new("/out"));
        let mut ring = Ring::create(work.path(), &head).unwrap();
        assert_eq!(read(work.path()), Some((head.clone(), Vec::new())));
        for number in 1..=SAMPLES + 10 {
            ring.write(at(number), format!("task {number}"), &sample(number, "cc1plus")).unwrap();
        }
        let (found, entries) = read(work.path()).unwrap();
        assert_eq!((found, entries.len() as u64), (head.clone(), SAMPLES));
        let numbers: Vec<u64> = entries.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, (11..=SAMPLES + 10).collect::<Vec<u64>>());
        let last = entries.last().unwrap();
        let wanted = (at(SAMPLES + 10), "task 522", &sample(SAMPLES + 10, "cc1plus"));
        assert_eq!((last.time, last.running.as_str(), &last.sample), wanted);
        assert_eq!(fs::metadata(work.path().join(NAME)).unwrap().len(), (1 + SAMPLES) * LINE as u64);
        ring.head(&Head { ended: true, ..head }).unwrap();
        assert!(read(work.path()).unwrap().0.ended);
        // A new job begins a new file.
        Ring::create(work.path(), &Head::new("job-2".into(), Path::new("/out"))).unwrap();
        assert_eq!(read(work.path()).unwrap().1, []);
    }

    #[test]
    fn hostile_names_fit_into_a_line() {
        let work = tempfile::tempdir().unwrap();
        let mut ring =
            Ring::create(work.path(), &Head::new("x".into(), Path::new(&"/o".repeat(5000)))).unwrap();
        let name = "\u{1}\"\\".repeat(5000);
        ring.write(at(1), name.clone(), &sample(1, &name)).unwrap();
        ring.write(at(2), "x".into(), &sample(2, "y")).unwrap();
        let (_, entries) = read(work.path()).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.sample.memory_used).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_damaged_file_is_read_as_far_as_it_goes() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join(NAME);
        let mut ring = Ring::create(work.path(), &Head::new("x".into(), Path::new("/o"))).unwrap();
        for number in 1..=3 {
            ring.write(at(number), String::new(), &sample(number, "y")).unwrap();
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes[2 * LINE..2 * LINE + 10].fill(0);
        fs::write(&path, &bytes).unwrap();
        let used = |work: &Path| -> Option<Vec<u64>> {
            Some(read(work)?.1.iter().map(|entry| entry.sample.memory_used).collect())
        };
        assert_eq!(used(work.path()), Some(vec![1, 3]));
        fs::write(&path, &bytes[..LINE + 20]).unwrap();
        assert_eq!(used(work.path()), Some(vec![]));
        for text in ["", "{}", "{\"schema\":\"build-agent/flight-recorder/v9\"}", &"x".repeat(2_000_000)] {
            fs::write(&path, text).unwrap();
            assert_eq!(used(work.path()), None, "{}", text.len());
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(used(work.path()), None);
        // The link is replaced, and not followed.
        Ring::create(work.path(), &Head::new("x".into(), Path::new("/o"))).unwrap();
        assert_eq!(used(work.path()), Some(vec![]));
        assert!(!path.is_symlink());
    }
}
