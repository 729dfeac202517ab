//! The full log of one command.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use agent_types::error::{Error, Result};

/// A log file that is written as well as it can be: once the command runs, its verdict matters more
/// than its log, so a full disk is told and survived.
#[derive(Debug)]
pub(super) struct Log {
    pub path: PathBuf,
    file: Option<fs::File>,
    /// What went wrong first, until it is taken.
    trouble: Option<String>,
    /// Bytes that could not be written.
    pub lost: u64,
}

impl Log {
    /// Makes `<name>.log` in `directory`, or `<name>-2.log` … when that exists already.
    ///
    /// # Errors
    /// When no file can be made there, for other reasons than a full disk.
    pub fn create(directory: &Path, name: &str) -> Result<Log> {
        let unwritten = |path: PathBuf, error: std::io::Error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Ok(Log { path, file: None, trouble: Some(error.to_string()), lost: 0 })
            }
            _ => Err(Error::from(error).hint("give a directory that the agent can write with --out")),
        };
        let name = file_name(name);
        if let Err(error) = fs::create_dir_all(directory) {
            return unwritten(directory.join(format!("{name}.log")), error);
        }
        let mut number = 1;
        loop {
            let path = match number {
                1 => directory.join(format!("{name}.log")),
                _ => directory.join(format!("{name}-{number}.log")),
            };
            // `create_new` follows no link that somebody may have put there.
            let made = fs::OpenOptions::new().mode(0o644).write(true).create_new(true).open(&path);
            match made {
                Ok(file) => return Ok(Log { path, file: Some(file), trouble: None, lost: 0 }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return unwritten(path, error),
            }
        }
    }

    /// Appends. What cannot be written is counted; the next call tries again, because the disk may
    /// have room by then.
    ///
    /// The file is written without the detour by tokio's thread pool: it goes to the page cache.
    pub fn write(&mut self, mut bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            while !bytes.is_empty() {
                match file.write(bytes) {
                    Ok(0) => break,
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        if self.lost == 0 {
                            self.trouble = Some(error.to_string());
                        }
                        break;
                    }
                }
            }
        }
        self.lost += bytes.len() as u64;
    }

    /// A log on a disk that is always full.
    #[cfg(test)]
    pub fn full() -> Log {
        let file = fs::OpenOptions::new().write(true).open("/dev/full").ok();
        Log { path: "/dev/full".into(), file, trouble: None, lost: 0 }
    }

    /// What is wrong with the log, once.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }
}

/// Names of logs hold names of layers and targets, which are other people's text.
fn file_name(name: &str) -> String {
    let tame = |c: char| if c == '/' || c == '\\' || c.is_control() || c.is_whitespace() { '_' } else { c };
    let mut tamed: String = name.chars().map(tame).collect();
    // 255 bytes are the limit of a name; the number and `.log` need their share.
    tamed.truncate(tamed.floor_char_boundary(200));
    if tamed.is_empty() || tamed.starts_with('.') {
        tamed.insert(0, '_');
    }
    tamed
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn names_stay_inside_the_directory_and_never_meet() {
        let base = tempfile::tempdir().unwrap();
        let logs = base.path().join("out/logs");
        let long = "é".repeat(300);
        for (name, file) in [
            ("check-meta-x", "check-meta-x.log"),
            ("check-meta-x", "check-meta-x-2.log"),
            ("check-meta-x", "check-meta-x-3.log"),
            ("../../x", "_.._.._x.log"),
            ("a\nb c", "a_b_c.log"),
            ("", "_.log"),
            (&long, &format!("{}.log", "é".repeat(100))),
        ] {
            let log = Log::create(&logs, name).unwrap();
            assert_eq!(log.path, logs.join(file));
            assert_eq!(fs::metadata(&log.path).unwrap().permissions().mode() & 0o777, 0o644);
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(base.path().join("target"), base.path().join("x.log")).unwrap();
        let mut log = Log::create(base.path(), "x").unwrap();
        log.write(b"text");
        assert_eq!(log.path, base.path().join("x-2.log"));
        assert!(!base.path().join("target").exists());
    }

    #[test]
    fn a_full_disk_is_told_once_and_counted() {
        let mut log = Log::full();
        log.write(b"one");
        let trouble = log.take_trouble().unwrap();
        assert!(trouble.contains("/dev/full"), "{trouble}");
        log.write(b"seven");
        assert_eq!((log.lost, log.take_trouble()), (8, None));
    }

    #[test]
    fn a_directory_that_cannot_be_is_an_error() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("logs"), "a file").unwrap();
        let error = Log::create(&base.path().join("logs"), "x").unwrap_err();
        assert!(error.message.contains("logs"), "{error}");
    }
}
