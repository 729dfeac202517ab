//! Files of `/proc` whose reading may take for ever.
//!
//! What shows a process's own memory (`cmdline`, `environ`) waits for whatever that memory waits for: a lost file
//! server, or a file system that the process itself serves. So these are read by a thread that can be given up,
//! and whoever made it wait is not read again. To be called where a wait of a second does no harm.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A process that has a processor answers at once; on a busy machine it may take longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// When somebody has made a reader wait already: all of them together must not take long.
const LESS: Duration = Duration::from_millis(50);

/// So many readers may wait for ever. Then nothing more is read.
const MOST: usize = 32;

/// Pid and start time of a process: these name it for ever.
type Name = (i32, u64);

struct Request {
    path: PathBuf,
    answer: SyncSender<Option<Vec<u8>>>,
}

pub(super) struct Reader {
    /// `None`: a thread has to be started.
    requests: Option<Sender<Request>>,
    /// Those that gave no answer.
    silent: BTreeSet<Name>,
}

static READER: Mutex<Reader> = Mutex::new(Reader::new());

/// What the file of this process holds; `None` also when it may not be read, or does not answer.
pub(super) fn read(name: Name, file: &str) -> Option<Vec<u8>> {
    let path = format!("/proc/{}/{file}", name.0).into();
    READER.lock().unwrap_or_else(PoisonError::into_inner).read(name, path)
}

impl Reader {
    const fn new() -> Reader {
        Reader { requests: None, silent: BTreeSet::new() }
    }

    fn read(&mut self, name: Name, path: PathBuf) -> Option<Vec<u8>> {
        if self.silent.len() >= MOST || self.silent.contains(&name) {
            return None;
        }
        let patience = if self.silent.is_empty() { PATIENCE } else { LESS };
        let (answer, received) = sync_channel(1);
        let requests = match self.requests.take() {
            Some(requests) => requests,
            None => start()?,
        };
        requests.send(Request { path, answer }).ok()?;
        match received.recv_timeout(patience) {
            Ok(content) => {
                self.requests = Some(requests);
                content
            }
            // The thread ends when it has its answer, because nobody asks it any more.
            Err(_) => {
                self.silent.insert(name);
                None
            }
        }
    }
}

fn start() -> Option<Sender<Request>> {
    let (requests, received) = channel::<Request>();
    let work = move || {
        for request in received {
            let _ = request.answer.send(std::fs::read(request.path).ok());
        }
    };
    std::thread::Builder::new().name("proc-reader".into()).spawn(work).ok()?;
    Some(requests)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A pipe that nobody writes is never read to its end, as the memory of a stuck process.
    #[test]
    fn a_process_that_does_not_answer_is_asked_once() {
        let base = tempfile::tempdir().unwrap();
        let (pipe, file) = (base.path().join("pipe"), base.path().join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&file, "words").unwrap();
        let mut reader = Reader::new();
        let words = Some(b"words".to_vec());
        assert_eq!(reader.read((2, 1), file.clone()), words);
        let since = Instant::now();
        assert_eq!(reader.read((3, 1), pipe.clone()), None);
        assert!(since.elapsed() >= PATIENCE, "it was not waited for");
        // Others have an answer, also from the next process with that number.
        assert_eq!(reader.read((2, 1), file.clone()), words);
        assert_eq!(reader.read((3, 2), file.clone()), words);
        for other in 4..1000 {
            assert_eq!(reader.read((other, 1), pipe.clone()), None);
            assert_eq!(reader.read((3, 1), file.clone()), None);
        }
        assert_eq!(reader.silent.len(), MOST);
        // One wait of the first, and short ones of the others; far less than if each had been waited for.
        assert!(since.elapsed() < PATIENCE * 1000 / 10, "{:?}", since.elapsed());
        // The threads go.
        let writer = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        drop(writer);
    }

    #[test]
    fn what_cannot_be_read_is_no_silence() {
        let mut reader = Reader::new();
        assert_eq!(reader.read((2, 1), "/nonexistent".into()), None);
        assert!(reader.silent.is_empty());
        let own = std::process::id() as i32;
        assert!(read((own, 0), "cmdline").is_some_and(|line| !line.is_empty()));
    }
}
