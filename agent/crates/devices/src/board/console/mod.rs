//! The console of a device during one attempt: a bounded log, the last lines, and what the kernel said about itself.

mod lines;
pub mod tcp;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_process::{Log, Redactor};
use agent_types::error::Result;
use tokio_util::sync::CancellationToken;

use lines::Meaning;

/// Lines before a failure that the report shows.
const LAST_LINES: usize = 200;

/// Different warnings of the kernel that are reported.
const MOST_WARNINGS: usize = 20;

/// A longer line is cut in pieces.
const PIECE: usize = 4096;

/// The console. Cheap to clone; all clones are the same console.
#[derive(Clone, Debug)]
pub struct Console(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    log: PathBuf,
    redactor: Redactor,
    state: Mutex<State>,
    /// Cancelled by the first crash.
    crashed: Mutex<CancellationToken>,
}

#[derive(Debug)]
struct State {
    log: Option<Log>,
    /// The start of a line that has not ended.
    piece: Vec<u8>,
    last: VecDeque<String>,
    crash: Option<String>,
    warnings: Vec<String>,
    bytes: u64,
}

impl Console {
    /// A console whose log is `NAME.log` in `directory`, with at most `limit` bytes: its start and its end.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(
        directory: &std::path::Path,
        name: &str,
        limit: u64,
        redactor: &Redactor,
    ) -> Result<Console> {
        let log = Log::create(directory, name, limit)?;
        let state = State {
            piece: Vec::new(),
            last: VecDeque::new(),
            crash: None,
            warnings: Vec::new(),
            bytes: 0,
            log: None,
        };
        Ok(Console(Arc::new(Shared {
            log: log.path.clone(),
            redactor: redactor.clone(),
            state: Mutex::new(State { log: Some(log), ..state }),
            crashed: Mutex::default(),
        })))
    }

    /// The path of its log.
    pub fn log(&self) -> &std::path::Path {
        &self.0.log
    }

    /// Takes what the device printed.
    pub fn feed(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.bytes += bytes.len() as u64;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            for piece in text.chunks(PIECE) {
                if state.piece.len() + piece.len() > PIECE {
                    self.end_line(&mut state);
                }
                state.piece.extend_from_slice(piece);
            }
            if ends {
                self.end_line(&mut state);
            }
        }
    }

    /// Writes a line of the agent into the log, such as a change of the power.
    pub fn note(&self, what: &str) {
        let mut state = self.state();
        if !state.piece.is_empty() {
            self.end_line(&mut state);
        }
        state.keep(format!("[build-agent: {what}]"));
    }

    fn end_line(&self, state: &mut State) {
        let piece = std::mem::take(&mut state.piece);
        let line = lines::clean(&piece);
        let line = self.0.redactor.redact(&line).into_owned();
        match lines::meaning(&line) {
            Some(Meaning::Crash) if state.crash.is_none() => {
                state.crash = Some(line.clone());
                self.crashed().cancel();
            }
            Some(Meaning::Warning) => state.warn(&line),
            Some(Meaning::Crash) | None => {}
        }
        state.keep(line);
    }

    /// Ends as soon as the kernel crashes, or has crashed since the last unit began.
    pub async fn crashed_line(&self) -> String {
        let token = self.crashed().clone();
        token.cancelled().await;
        self.state().crash.clone().unwrap_or_default()
    }

    /// A unit begins: what was said before does not count against it.
    pub fn begin(&self) {
        let mut state = self.state();
        state.crash = None;
        state.warnings.clear();
        *self.crashed() = CancellationToken::new();
    }

    /// The line of a crash of the kernel.
    pub fn crash_line(&self) -> Option<String> {
        self.state().crash.clone()
    }

    /// The kernel's warnings, each once.
    pub fn kernel_warnings(&self) -> Vec<String> {
        self.state().warnings.clone()
    }

    /// The last lines.
    pub fn last(&self) -> Vec<String> {
        self.state().last.iter().cloned().collect()
    }

    /// Bytes that came so far.
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Completes the log. What comes later is not kept.
    pub fn finish(&self) {
        let mut state = self.state();
        if !state.piece.is_empty() {
            self.end_line(&mut state);
        }
        if let Some(mut log) = state.log.take() {
            log.finish();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the lines whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crashed(&self) -> MutexGuard<'_, CancellationToken> {
        self.0.crashed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, line: String) {
        if let Some(log) = &mut self.log {
            log.write(&line);
            log.write("\n");
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn warn(&mut self, line: &str) {
        let message = lines::message(line);
        let is_known = self.warnings.iter().any(|known| known == message);
        if !is_known && self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(message.to_owned());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn console(limit: u64) -> (tempfile::TempDir, Console) {
        let directory = tempfile::tempdir().unwrap();
        let console = Console::create(directory.path(), "console", limit, &Redactor::new(&[])).unwrap();
        (directory, console)
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let text = b"one\r\ntwo\n\nKernel panic - not syncing: x\n[ 1.0] WARNING: y\n[ 2.0] WARNING: y\nlast";
        for size in [1, 3, 7, 1000] {
            let (_directory, console) = console(1 << 20);
            text.chunks(size).for_each(|piece| console.feed(piece));
            console.note("power off");
            console.finish();
            let wanted = [
                "one",
                "two",
                "",
                "Kernel panic - not syncing: x",
                "[ 1.0] WARNING: y",
                "[ 2.0] WARNING: y",
                "last",
                "[build-agent: power off]",
            ];
            assert_eq!(console.last(), wanted, "by {size}");
            assert_eq!(fs_err::read_to_string(console.log()).unwrap(), wanted.join("\n") + "\n");
            assert_eq!(console.crash_line().as_deref(), Some("Kernel panic - not syncing: x"));
            assert_eq!(console.kernel_warnings(), ["WARNING: y"]);
            console.begin();
            assert_eq!((console.crash_line(), console.kernel_warnings().len()), (None, 0));
        }
    }

    #[test]
    fn a_flood_fills_neither_disk_nor_memory() {
        let (_directory, console) = console(64 << 10);
        console.feed(b"the first line\n");
        let long = [b'x'; 100_000];
        for number in 0..200 {
            console.feed(&long);
            console.feed(format!("\nline {number}\n").as_bytes());
        }
        console.feed(b"the last line\n");
        console.finish();
        let log = fs_err::read_to_string(console.log()).unwrap();
        assert!(log.len() < 80 << 10, "{}", log.len());
        assert!(log.starts_with("the first line\n") && log.ends_with("the last line\n"), "{log}");
        assert!(log.contains("bytes were cut out here"), "{log}");
        assert_eq!(console.last().len(), LAST_LINES);
        assert!(console.bytes() > 200 * 100_000);
    }

    #[tokio::test]
    async fn a_crash_wakes_who_waits_for_it() {
        let (_directory, console) = console(1 << 20);
        let waits = console.clone();
        let waiting = tokio::spawn(async move { waits.crashed_line().await });
        tokio::task::yield_now().await;
        console.feed(b"[ 1.0] Kernel panic - not syncing: x\n");
        assert_eq!(waiting.await.unwrap(), "[ 1.0] Kernel panic - not syncing: x");
    }
}
