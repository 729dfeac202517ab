//! Files of `/proc` whose reading may take for ever.
//!
//! What shows a process's own memory (`cmdline`, `environ`) waits for whatever that memory waits for: a lost file
//! server, or a file system that the process itself serves. So these are read by a thread that can be given up,
//! and a process that made it wait is not read again while it waits. To be called where a wait of a second does
//! no harm.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A process that has a processor answers at once; on a busy machine it may take longer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The timeout while another process is stuck: all of them together must not take long.
const SHORT_TIMEOUT: Duration = Duration::from_millis(50);

/// While so many readers are stuck, nothing more is read.
const MAX_STUCK: usize = 32;

/// Pid and start time of a process: these name it for ever.
type Name = (i32, u64);

struct Request {
    path: PathBuf,
    answer: SyncSender<Option<Vec<u8>>>,
}

struct Thread {
    requests: Sender<Request>,
    /// Ends when nobody can send requests any more.
    handle: JoinHandle<()>,
}

pub(super) struct Reader {
    /// `None`: a thread has to be started.
    thread: Option<Thread>,
    /// The processes that gave no answer, and the threads that wait for them.
    stuck: BTreeMap<Name, JoinHandle<()>>,
}

static READER: Mutex<Reader> = Mutex::new(Reader::new());

/// The content of the file of this process; `None` also when it may not be read, or does not answer.
pub(super) fn read(name: Name, file: &str) -> Option<Vec<u8>> {
    let path = format!("/proc/{}/{file}", name.0).into();
    READER.lock().unwrap_or_else(PoisonError::into_inner).read(name, path)
}

impl Reader {
    const fn new() -> Reader {
        Reader { thread: None, stuck: BTreeMap::new() }
    }

    fn read(&mut self, name: Name, path: PathBuf) -> Option<Vec<u8>> {
        // A thread that had its answer after all, or whose process has ended, is gone.
        self.stuck.retain(|_, thread| !thread.is_finished());
        if self.stuck.len() >= MAX_STUCK || self.stuck.contains_key(&name) {
            return None;
        }
        let timeout = if self.stuck.is_empty() { TIMEOUT } else { SHORT_TIMEOUT };
        let (answer, received) = sync_channel(1);
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start()?,
        };
        thread.requests.send(Request { path, answer }).ok()?;
        match received.recv_timeout(timeout) {
            Ok(content) => {
                self.thread = Some(thread);
                content
            }
            Err(_) => {
                self.stuck.insert(name, thread.handle);
                None
            }
        }
    }
}

impl Thread {
    fn start() -> Option<Thread> {
        let (requests, received) = channel::<Request>();
        let work = move || {
            for request in received {
                let _ = request.answer.send(std::fs::read(request.path).ok());
            }
        };
        let handle = std::thread::Builder::new().name("proc-reader".into()).spawn(work).ok()?;
        Some(Thread { requests, handle })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A pipe that nobody writes is never read to its end, as the memory of a stuck process.
    #[test]
    fn a_process_that_does_not_answer_is_asked_once_and_again_when_it_does() {
        let base = tempfile::tempdir().unwrap();
        let (pipe, file) = (base.path().join("pipe"), base.path().join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&file, "words").unwrap();
        let mut reader = Reader::new();
        let words = Some(b"words".to_vec());
        assert_eq!(reader.read((2, 1), file.clone()), words);
        let since = Instant::now();
        assert_eq!(reader.read((3, 1), pipe.clone()), None);
        assert!(since.elapsed() >= TIMEOUT, "it was not waited for");
        // Others have an answer, also the next process with that number.
        assert_eq!(reader.read((2, 1), file.clone()), words);
        assert_eq!(reader.read((3, 2), file.clone()), words);
        for other in 4..1000 {
            assert_eq!(reader.read((other, 1), pipe.clone()), None);
            assert_eq!(reader.read((3, 1), file.clone()), None);
        }
        assert_eq!(reader.stuck.len(), MAX_STUCK);
        assert_eq!(reader.read((2, 1), file.clone()), None, "no thread is left for it");
        // One wait of the first, and short ones of the others; far less than if each had been waited for.
        assert!(since.elapsed() < TIMEOUT * 1000 / 10, "{:?}", since.elapsed());
        // The stuck ones get their answer, and nothing is held against them.
        drop(std::fs::File::options().read(true).write(true).open(&pipe).unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while reader.read((3, 1), file.clone()).is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(reader.read((3, 1), file), words);
    }

    #[test]
    fn a_file_that_cannot_be_read_does_not_count_as_stuck() {
        let mut reader = Reader::new();
        assert_eq!(reader.read((2, 1), "/nonexistent".into()), None);
        assert!(reader.stuck.is_empty());
        let own = std::process::id() as i32;
        assert!(read((own, 0), "cmdline").is_some_and(|line| !line.is_empty()));
    }
}
