//! Records on their way to a thread that writes them. Whoever records never waits for a disk or a terminal.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::record::Record;

/// Bytes of records that may wait. What comes faster than it can be written is dropped, and counted.
const MAX_QUEUE_BYTES: usize = 4 << 20;

/// Takes records on the queue's thread.
pub trait Writer: Send + 'static {
    fn write(&mut self, record: &Record);

    /// So many records were dropped since the last ones.
    fn dropped(&mut self, count: u64);

    /// From now on this file is written.
    fn open(&mut self, _file: fs_err::File) {}
}

/// The waiting records.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    dropped: u64,
}

enum Message {
    Record(Box<Record>),
    Open(fs_err::File),
    /// The last one; dropping the sender tells that all before it is written.
    End(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that hands records over to the writer.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(writer: impl Writer) -> std::io::Result<Arc<Queue>> {
        let queue = Arc::new(Queue::default());
        let shared = queue.clone();
        thread::Builder::new().name("diagnostics".into()).spawn(move || shared.write_all(writer))?;
        Ok(queue)
    }

    /// Adds a record, or drops it when too many wait.
    pub fn push(&self, record: Record) {
        let bytes = record.bytes();
        let mut waiting = self.lock();
        if waiting.bytes + bytes > MAX_QUEUE_BYTES {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes += bytes;
        waiting.messages.push_back(Message::Record(Box::new(record)));
        self.changed.notify_one();
    }

    /// Lets the writer write this file from now on.
    pub fn open(&self, file: fs_err::File) {
        self.lock().messages.push_back(Message::Open(file));
        self.changed.notify_one();
    }

    /// Asks for the end. Nothing is written after it.
    pub fn end(&self) -> Ending {
        let (sender, ended) = sync_channel(0);
        self.lock().messages.push_back(Message::End(sender));
        self.changed.notify_one();
        Ending(ended)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut writer: impl Writer) {
        loop {
            let Waiting { messages, dropped, .. } = self.take();
            for message in messages {
                match message {
                    Message::Record(record) => writer.write(&record),
                    Message::Open(file) => writer.open(file),
                    Message::End(done) => {
                        if dropped > 0 {
                            writer.dropped(dropped);
                        }
                        return drop(done);
                    }
                }
            }
            if dropped > 0 {
                writer.dropped(dropped);
            }
        }
    }

    fn take(&self) -> Waiting {
        let nothing = |waiting: &mut Waiting| waiting.messages.is_empty() && waiting.dropped == 0;
        let mut waiting =
            self.changed.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut waiting)
    }
}

/// The end of a queue, which is under way.
pub struct Ending(Receiver<()>);

impl Ending {
    /// Waits until all is written, or until the deadline: a disk or a terminal may take nothing any more.
    pub fn wait(self, deadline: Instant) {
        let _ = self
            .0
            .recv_timeout(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use tracing::Level;

    use super::*;

    /// Writes into a list, each record only when it is let.
    struct Slow {
        go_on: Receiver<()>,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl Writer for Slow {
        fn write(&mut self, record: &Record) {
            let _ = self.go_on.recv();
            self.written.lock().unwrap().push(format!("{:?}", record.message));
        }

        fn dropped(&mut self, count: u64) {
            self.written.lock().unwrap().push(format!("dropped {count}"));
        }
    }

    #[test]
    fn who_records_never_waits_and_what_is_dropped_is_counted() {
        let (go, go_on) = sync_channel(0);
        let written: Arc<Mutex<Vec<String>>> = Arc::default();
        let queue = Queue::start(Slow { go_on, written: written.clone() }).unwrap();
        // The writer stands still. One of these may be with it already; of the others, 4 MiB fit.
        let record = || Record::own(Level::INFO, "x".repeat(1 << 16));
        (0..200).for_each(|_| queue.push(record()));
        drop(go);
        queue.end().wait(Instant::now() + Duration::from_secs(60));
        let written = written.lock().unwrap();
        let dropped: Vec<u64> =
            written.iter().filter_map(|line| line.strip_prefix("dropped ")?.parse().ok()).collect();
        let kept = written.len() - dropped.len();
        assert!((60..=130).contains(&kept), "{kept}");
        assert_eq!(kept as u64 + dropped.iter().sum::<u64>(), 200);
    }

    #[test]
    fn a_writer_that_hangs_does_not_keep_the_end() {
        let (_go, go_on) = sync_channel(0);
        let queue = Queue::start(Slow { go_on, written: Arc::default() }).unwrap();
        queue.push(Record::own(Level::INFO, "x".into()));
        // It comes back at all: the writer never does.
        queue.end().wait(Instant::now() + Duration::from_millis(50));
    }
}
