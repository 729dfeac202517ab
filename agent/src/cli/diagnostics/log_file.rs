//! `agent.log`: one record a line, as JSON, up to a size.

use std::io::Write;

use tracing::Level;

use agent_process::Redactor;

use super::queue::Writer;
use super::record::Record;

/// The largest file.
const LIMIT: u64 = 16 << 20;

/// Of that for the last line, which tells of the limit.
const LAST_LINE: u64 = 512;

/// Bytes of records that wait for the file to be opened: a job has no output directory at first.
const MAX_EARLY_BYTES: usize = 1 << 20;

/// Writes the file, and keeps the first records until there is one.
pub struct LogFile {
    /// Without secrets that the agent learns meanwhile.
    redactor: fn() -> Redactor,
    limit: u64,
    file: Option<fs_err::File>,
    early: Vec<Record>,
    early_bytes: usize,
    written: u64,
    is_full: bool,
    /// Lines that could not be written, and why the first of them could not.
    lost: u64,
    trouble: String,
}

impl LogFile {
    pub fn new(redactor: fn() -> Redactor) -> LogFile {
        LogFile {
            redactor,
            limit: LIMIT,
            file: None,
            early: Vec::new(),
            early_bytes: 0,
            written: 0,
            is_full: false,
            lost: 0,
            trouble: String::new(),
        }
    }

    fn line(&mut self, record: &Record) {
        if self.is_full {
            return;
        }
        let line = record.json(&(self.redactor)());
        if self.written + line.len() as u64 + LAST_LINE > self.limit {
            let message = format!(
                "this file is cut off here: it has reached its limit of {} bytes; record less with \
                 --log-level or BUILD_AGENT_LOG",
                self.limit
            );
            let last = Record::own(Level::WARN, message).json(&Redactor::default());
            self.append(&last);
            self.is_full = true;
            return;
        }
        if self.lost > 0 {
            // The disk may have space again.
            let message = format!("{} lines could not be written: {}", self.lost, self.trouble);
            let told = Record::own(Level::WARN, message).json(&Redactor::default());
            if !self.append(&told) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.append(&line) {
            self.lost += 1;
        }
    }

    /// Whether the line was written.
    fn append(&mut self, line: &str) -> bool {
        let Some(file) = &mut self.file else { return true };
        // One write for each line, without a buffer: a killed agent tears at most the last one.
        match file.write_all(line.as_bytes()) {
            Ok(()) => {
                self.written += line.len() as u64;
                true
            }
            Err(error) => {
                self.trouble = error.to_string();
                // A part of the line may be there.
                let _ = file.set_len(self.written);
                false
            }
        }
    }
}

impl Writer for LogFile {
    fn write(&mut self, record: &Record) {
        if self.file.is_some() {
            return self.line(record);
        }
        self.early_bytes += record.bytes();
        if self.early_bytes > MAX_EARLY_BYTES {
            self.lost += 1;
            self.trouble = "there was no file yet, and too much was recorded".into();
        } else {
            self.early.push(record.clone());
        }
    }

    fn dropped(&mut self, count: u64) {
        let message = format!("{count} records were dropped: they came faster than they could be written");
        self.write(&Record::own(Level::WARN, message));
    }

    fn open(&mut self, file: fs_err::File) {
        self.file = Some(file);
        // Those that are lost came after these.
        let lost = std::mem::take(&mut self.lost);
        std::mem::take(&mut self.early).iter().for_each(|record| self.line(record));
        self.lost += lost;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn info(message: &str) -> Record {
        Record::own(Level::INFO, message.into())
    }

    fn lines(path: &std::path::Path) -> Vec<Value> {
        let text = fs_err::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn the_file_is_bounded_and_its_last_line_tells() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let mut log = LogFile { limit: 4096, ..LogFile::new(Redactor::default) };
        log.open(fs_err::File::create(&path).unwrap());
        (0..1000).for_each(|number| log.write(&info(&format!("number {number}"))));
        log.dropped(7);
        let size = fs_err::metadata(&path).unwrap().len();
        assert!((3000..=4096).contains(&size), "{size}");
        let lines = lines(&path);
        let last = lines.last().unwrap();
        assert!(last["message"].as_str().unwrap().contains("limit of 4096 bytes"), "{last}");
        assert_eq!((&last["level"], &lines[1]["message"]), (&"warn".into(), &"number 1".into()));
    }

    #[test]
    fn what_comes_before_the_file_is_kept_up_to_a_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let mut log = LogFile::new(Redactor::default);
        log.write(&info("first"));
        (0..100).for_each(|_| log.write(&info(&"x".repeat(60_000))));
        log.open(fs_err::File::create(&path).unwrap());
        log.write(&info("last"));
        let lines = lines(&path);
        let kept = lines.iter().filter(|line| line["message"].as_str().unwrap().starts_with('x')).count();
        assert!((10..=17).contains(&kept), "{kept}");
        let said: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
        let told = format!("{} lines could not be written: there was no file yet", 100 - kept);
        assert!(said.iter().any(|line| line.starts_with(&told)), "{told}");
        assert_eq!((said[0], said[said.len() - 1]), ("first", "last"));
    }

    #[test]
    fn a_full_disk_is_survived() {
        let mut log = LogFile::new(Redactor::default);
        log.open(fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap());
        (0..3).for_each(|_| log.write(&info("x")));
        assert_eq!((log.lost, log.written), (3, 0));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        log.file = Some(fs_err::File::create(&path).unwrap());
        log.write(&info("space again"));
        let said: Vec<Value> = lines(&path).iter().map(|line| line["message"].clone()).collect();
        assert!(said[0].as_str().unwrap().starts_with("3 lines could not be written: "), "{said:?}");
        assert_eq!(said[1], "space again");
    }
}
