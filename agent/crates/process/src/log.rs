//! The full log of one command.

use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use agent_types::error::{Error, Result};

use agent_fs::remove::remove_file;

/// The largest log where no manifest says it.
pub const LOG_LIMIT: u64 = 2 << 30;

/// A log file that is written as well as it can be: once the command runs, its verdict matters more
/// than its log, so a full disk is told and survived.
///
/// Of a log that becomes larger than its limit the first half stays in the file. What follows goes to
/// two files beside it by turns, of which the older one is emptied when the newer one is full; in the
/// end they are appended.
#[derive(Debug)]
pub struct Log {
    pub path: PathBuf,
    file: Option<fs::File>,
    limit: u64,
    /// Bytes in the file.
    written: u64,
    /// What comes after the first half of the limit.
    rest: Option<Rest>,
    /// What went wrong first, until it is taken.
    trouble: Option<String>,
    /// Bytes that could not be written.
    pub lost: u64,
    /// Bytes that were cut out, because of the limit.
    pub cut: u64,
}

/// The last part of a long log.
#[derive(Debug)]
struct Rest {
    /// In the one that `newer` names is what came last.
    parts: [Part; 2],
    newer: usize,
}

/// A file beside the log.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: fs::File,
    bytes: u64,
}

impl Log {
    /// Makes `<name>.log` in `directory`, or `<name>-2.log` … when that exists already.
    ///
    /// # Errors
    /// When no file can be made there, for other reasons than a full disk.
    pub fn create(directory: &Path, name: &str, limit: u64) -> Result<Log> {
        let log = |path: PathBuf, file: Option<fs::File>, trouble: Option<String>| Log {
            path,
            file,
            // A part must hold a character.
            limit: limit.max(64),
            written: 0,
            rest: None,
            trouble,
            lost: 0,
            cut: 0,
        };
        let unwritten = |path: PathBuf, error: std::io::Error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Ok(log(path, None, Some(error.to_string()))),
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
            match make(&path) {
                Ok(file) => return Ok(log(path, Some(file), None)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return unwritten(path, error),
            }
        }
    }

    /// Appends. What cannot be written is counted; the next call tries again, because the disk may
    /// have space by then.
    ///
    /// The file is written without the detour by tokio's thread pool: it goes to the page cache.
    pub fn write(&mut self, mut text: &str) {
        while !text.is_empty() {
            let space = (self.limit / 2).saturating_sub(self.written);
            let (now, later) = text.split_at(fitting(text, space, self.written));
            let Some(file) = self.file.as_mut().filter(|_| !now.is_empty() && self.rest.is_none()) else {
                return self.write_rest(text);
            };
            let (written, error) = write_all(file, now.as_bytes());
            self.written += written;
            self.missing(now.len() as u64 - written, error);
            text = later;
        }
    }

    fn write_rest(&mut self, mut text: &str) {
        if self.file.is_none() {
            return self.missing(text.len() as u64, None);
        }
        if self.rest.is_none() {
            match Rest::make(&self.path) {
                Ok(rest) => self.rest = Some(rest),
                Err(error) => return self.missing(text.len() as u64, Some(error)),
            }
        }
        while let Some(rest) = self.rest.as_mut().filter(|_| !text.is_empty()) {
            let part = &mut rest.parts[rest.newer];
            let space = (self.limit / 4).saturating_sub(part.bytes);
            let (now, later) = text.split_at(fitting(text, space, part.bytes));
            let (written, error) = write_all(&mut part.file, now.as_bytes());
            part.bytes += written;
            let turned = if now.is_empty() { rest.turn() } else { Ok(0) };
            text = later;
            self.missing(now.len() as u64 - written, error);
            match turned {
                Ok(bytes) => self.cut += bytes,
                Err(error) => return self.missing(text.len() as u64, Some(error)),
            }
        }
    }

    fn missing(&mut self, bytes: u64, error: Option<std::io::Error>) {
        if self.lost == 0 && self.trouble.is_none() {
            self.trouble = error.map(|error| error.to_string());
        }
        self.lost += bytes;
    }

    /// Puts together what was kept. To be called once, after the last text.
    pub fn finish(&mut self) {
        let (Some(rest), Some(mut file)) = (self.rest.take(), self.file.take()) else { return };
        if self.cut > 0 {
            let line = format!(
                "\n[build-agent: {} bytes were cut out here, because the log is longer than {} bytes]\n",
                self.cut, self.limit
            );
            let (_, error) = write_all(&mut file, line.as_bytes());
            self.missing(0, error);
        }
        let Rest { parts: [first, second], newer } = rest;
        for mut part in if newer == 1 { [first, second] } else { [second, first] } {
            let copied = part.file.rewind().and_then(|()| std::io::copy(&mut part.file, &mut file));
            match copied {
                Ok(bytes) => self.missing(part.bytes.saturating_sub(bytes), None),
                Err(error) => self.missing(part.bytes, Some(error)),
            }
            let directory = part.path.parent().unwrap_or(&part.path);
            // It may be in the way of nobody.
            let _ = remove_file(&part.path, directory);
        }
    }

    /// A log on a disk that is always full.
    #[cfg(test)]
    pub fn full() -> Log {
        let file = fs::OpenOptions::new().write(true).open("/dev/full").ok();
        let path = "/dev/full".into();
        Log { path, file, limit: LOG_LIMIT, written: 0, rest: None, trouble: None, lost: 0, cut: 0 }
    }

    /// What is wrong with the log, once.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }
}

impl Rest {
    fn make(log: &Path) -> std::io::Result<Rest> {
        let part = |number: u32| {
            let mut path = log.as_os_str().to_owned();
            path.push(format!(".rest-{number}"));
            let path = PathBuf::from(path);
            make(&path).map(|file| Part { path, file, bytes: 0 })
        };
        Ok(Rest { parts: [part(1)?, part(2)?], newer: 0 })
    }

    /// Goes on with the older part; says how many bytes were in it.
    fn turn(&mut self) -> std::io::Result<u64> {
        let older = 1 - self.newer;
        let part = &mut self.parts[older];
        part.file.set_len(0)?;
        part.file.rewind()?;
        self.newer = older;
        Ok(std::mem::take(&mut part.bytes))
    }
}

/// Makes a new file. `create_new` follows no link that somebody may have put there.
fn make(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().mode(0o644).read(true).write(true).create_new(true).open(path)
}

/// How much of the text fits behind what was written, in bytes. A line that does not fit goes on to the
/// next part, unless it would not fit there either.
fn fitting(text: &str, space: u64, written: u64) -> usize {
    let Some(space) = usize::try_from(space).ok().filter(|space| *space < text.len()) else {
        return text.len();
    };
    let end = text.floor_char_boundary(space);
    let otherwise = if written == 0 { end } else { 0 };
    text[..end].rfind('\n').map_or(otherwise, |line| line + 1)
}

/// Writes what can be written; says how much that was, and what went wrong.
fn write_all(file: &mut fs::File, mut bytes: &[u8]) -> (u64, Option<std::io::Error>) {
    let mut done = 0;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return (done, None),
            Ok(written) => {
                bytes = &bytes[written..];
                done += written as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
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
            let log = Log::create(&logs, name, LOG_LIMIT).unwrap();
            assert_eq!(log.path, logs.join(file));
            assert_eq!(fs::metadata(&log.path).unwrap().permissions().mode() & 0o777, 0o644);
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(base.path().join("target"), base.path().join("x.log")).unwrap();
        let mut log = Log::create(base.path(), "x", LOG_LIMIT).unwrap();
        log.write("text");
        assert_eq!(log.path, base.path().join("x-2.log"));
        assert!(!base.path().join("target").exists());
    }

    #[test]
    fn a_full_disk_is_told_once_and_counted() {
        let mut log = Log::full();
        log.write("one");
        let trouble = log.take_trouble().unwrap();
        assert!(trouble.contains("/dev/full"), "{trouble}");
        log.write("seven");
        assert_eq!((log.lost, log.take_trouble()), (8, None));
    }

    #[test]
    fn a_directory_that_cannot_be_is_an_error() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("logs"), "a file").unwrap();
        let error = Log::create(&base.path().join("logs"), "x", LOG_LIMIT).unwrap_err();
        assert!(error.message.contains("logs"), "{error}");
    }

    /// First and last part, and what was said of the middle.
    fn capped(texts: &[&str], limit: u64) -> (String, u64) {
        let base = tempfile::tempdir().unwrap();
        let mut log = Log::create(base.path(), "x", limit).unwrap();
        texts.iter().for_each(|text| log.write(text));
        log.finish();
        assert_eq!((log.lost, log.take_trouble()), (0, None));
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1, "nothing is left beside the log");
        (fs::read_to_string(&log.path).unwrap(), log.cut)
    }

    #[test]
    fn of_a_long_log_first_and_last_part_are_kept() {
        let lines: Vec<String> = (0..1000).map(|number| format!("line {number:04}\n")).collect();
        let all = lines.concat();
        for limit in [1000, 1001, 2048, 5000, 9999] {
            for pieces in [vec![&*all], lines.iter().map(|line| &**line).collect()] {
                let (text, cut) = capped(&pieces, limit);
                let mut parts = text.split("\n[build-agent: ");
                let (first, rest) = (parts.next().unwrap(), parts.next().unwrap());
                let (said, last) = rest.split_once("]\n").unwrap();
                assert!(parts.next().is_none(), "one line tells of it");
                assert!(all.starts_with(first) && all.ends_with(last), "{limit}");
                // Each line has 10 bytes, and no line is cut.
                let half = limit as usize / 2 / 10 * 10;
                assert_eq!(first.len(), half);
                assert!((half / 2 - 10..=half).contains(&last.len()), "{} of {limit}", last.len());
                assert_eq!((first.len() + last.len()) as u64 + cut, all.len() as u64);
                let told =
                    format!("{cut} bytes were cut out here, because the log is longer than {limit} bytes");
                assert_eq!(said, told);
            }
        }
    }

    #[test]
    fn a_log_that_fits_is_whole() {
        for text in ["", "x", "0123456789", "no end of lines at all, and é é é é é é é é"] {
            for limit in [text.len() as u64 * 4 / 3 + 4, 1000] {
                assert_eq!(capped(&[text], limit), (text.to_owned(), 0), "{limit}");
            }
        }
    }

    #[test]
    fn characters_stay_whole_where_a_log_without_lines_is_cut() {
        let text = "é".repeat(1000);
        let (kept, cut) = capped(&[&text], 301);
        assert_eq!(kept.matches('é').count() as u64 * 2 + cut, 2000);
        assert!(!kept.contains('\u{fffd}') && kept.contains("bytes were cut out here"), "{kept}");
    }
}
