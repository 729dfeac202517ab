//! A sink on a thread of its own, so that neither a reader who does not read nor a disk that does not answer can
//! keep a job.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::report::sink::Sink;
use agent_process::Interrupt;
use agent_types::events::{Event, EventKind};

use super::output_timeout::{LOOK, OutputTimeout};

/// Events on their way to the sink.
const QUEUE_LENGTH: usize = 256;

/// The console can tell what runs although nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// Passes events on to another sink, in order. While the job goes on, it waits for that sink as long
/// as it takes, or as its deadline allows; a job that has to stop does not.
pub struct ThreadedSink {
    name: &'static str,
    required: bool,
    /// For a sink that stands still.
    deadline: Option<Duration>,
    /// `None` after the last event.
    sender: Option<SyncSender<Event>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Events that were passed on, and those that the sink has taken.
    passed_on: u64,
    taken: Arc<AtomicU64>,
    interrupt: Interrupt,
}

impl ThreadedSink {
    pub fn new(mut sink: Box<dyn Sink>, interrupt: Interrupt) -> ThreadedSink {
        let (name, required) = (sink.name(), sink.is_required());
        let (sender, receiver) = sync_channel::<Event>(QUEUE_LENGTH);
        let taken = Arc::new(AtomicU64::new(0));
        let count = taken.clone();
        let thread = thread::spawn(move || {
            loop {
                match receiver.recv_timeout(TICK) {
                    Ok(event) => sink.event(&event)?,
                    Err(RecvTimeoutError::Timeout) => {
                        sink.tick()?;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        ThreadedSink {
            name,
            required,
            deadline: None,
            sender: Some(sender),
            thread: Some(thread),
            passed_on: 0,
            taken,
            interrupt,
        }
    }

    /// Gives the sink up when it takes nothing for so long.
    pub fn with_deadline(self, deadline: Duration) -> ThreadedSink {
        ThreadedSink { deadline: Some(deadline), ..self }
    }

    fn pass_on(&mut self, mut event: Event) -> io::Result<()> {
        let Some(sender) = &self.sender else { return Ok(()) };
        let mut timeout = self.timeout();
        loop {
            event = match sender.try_send(event) {
                Ok(()) => break,
                Err(TrySendError::Full(event)) => event,
                Err(TrySendError::Disconnected(_)) => return Err(ErrorKind::BrokenPipe.into()),
            };
            self.wait(&mut timeout)?;
        }
        self.passed_on += 1;
        Ok(())
    }

    fn timeout(&self) -> OutputTimeout<'_> {
        OutputTimeout::new(&self.interrupt).with_deadline(self.deadline)
    }

    fn wait(&self, timeout: &mut OutputTimeout) -> io::Result<()> {
        if !timeout.lasts(self.taken.load(Ordering::Relaxed)) {
            let why = match self.deadline {
                Some(deadline) if self.interrupt.state().is_none() => {
                    format!("nothing could be written for {}", humantime::format_duration(deadline))
                }
                _ => "nobody reads it, and the job has to stop".to_owned(),
            };
            return Err(io::Error::new(ErrorKind::TimedOut, why));
        }
        thread::sleep(LOOK);
        Ok(())
    }

    /// Waits until the sink has taken all, and says what went wrong with it.
    fn end(&mut self) -> io::Result<()> {
        self.sender = None;
        let mut timeout = self.timeout();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            self.wait(&mut timeout)?;
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(_)) => Err(io::Error::other("its thread broke")),
            None => Ok(()),
        }
    }
}

impl Sink for ThreadedSink {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_required(&self) -> bool {
        self.required
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut timeout = self.timeout();
        while self.taken.load(Ordering::Relaxed) < self.passed_on {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return self.end().and_then(|()| Err(ErrorKind::BrokenPipe.into()));
            }
            self.wait(&mut timeout)?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        match self.pass_on(event.clone()) {
            Ok(()) if matches!(event.what, EventKind::JobFinished { .. }) => self.end(),
            // What broke the sink says more than that it is gone.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.end().and(Err(error)),
            done => done,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;
    use agent_types::events::Level;
    use agent_types::outcome::{ExitStatus, Outcome};

    fn notice(message: &str) -> Event {
        let what = EventKind::Notice { level: Level::Info, message: message.into(), hint: None };
        Event::now(what)
    }

    fn last() -> Event {
        let what = EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed };
        Event::now(what)
    }

    struct Slow {
        heard: Arc<Mutex<Vec<Event>>>,
        go_on: mpsc::Receiver<()>,
    }

    impl Sink for Slow {
        fn name(&self) -> &'static str {
            "the slow one"
        }

        fn event(&mut self, event: &Event) -> io::Result<()> {
            self.go_on.recv().map_err(|_| io::Error::other("the sink broke"))?;
            self.heard.lock().unwrap().push(event.clone());
            Ok(())
        }
    }

    #[test]
    fn all_events_come_in_order_and_the_end_waits_for_them() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (go, go_on) = mpsc::channel();
        let mut sink =
            ThreadedSink::new(Box::new(Slow { heard: heard.clone(), go_on }), Interrupt::new(None));
        let mut events: Vec<Event> =
            (0..3 * QUEUE_LENGTH).map(|number| notice(&number.to_string())).collect();
        events.push(last());
        let going = thread::spawn(move || (0..=3 * QUEUE_LENGTH).for_each(|_| go.send(()).unwrap()));
        events.iter().for_each(|event| sink.event(event).unwrap());
        going.join().unwrap();
        assert_eq!(*heard.lock().unwrap(), events);
    }

    #[test]
    fn a_reader_who_does_not_read_cannot_keep_a_stopped_job() {
        let (_go, go_on) = mpsc::channel();
        let interrupt = Interrupt::new(None);
        let mut sink = ThreadedSink::new(Box::new(Slow { heard: Arc::default(), go_on }), interrupt.clone());
        // One is with the sink, the others wait; the queue is full.
        (0..=QUEUE_LENGTH).for_each(|_| sink.event(&notice("x")).unwrap());
        interrupt.signal();
        interrupt.signal();
        let error = (0..2).find_map(|_| sink.event(&notice("y")).err()).expect("it gives up");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn what_broke_the_sink_is_told() {
        let (go, go_on) = mpsc::channel();
        let mut sink =
            ThreadedSink::new(Box::new(Slow { heard: Arc::default(), go_on }), Interrupt::new(None));
        drop(go);
        let error = (0..).find_map(|_| sink.event(&notice("x")).err()).unwrap();
        assert_eq!(error.to_string(), "the sink broke");
    }
}
