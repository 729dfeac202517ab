//! The way of a child's output: bytes → redacted → text → log and lines. Memory stays flat whatever
//! the child prints.

use std::collections::VecDeque;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::yield_now;

use agent_types::events::{Emitter, EventKind};

use super::activity::Activity;
use super::decoder::Decoder;
use super::event_channel::EventChannel;
use super::log::Log;
use super::redact::{Redactor, Stream};

/// Listens to a child's output.
pub trait LineHandler: Send {
    /// One line without its end, decoded lossily and redacted. The events that it means are emitted
    /// in order; while the listeners are behind, the child waits. A carriage return ends a line,
    /// too, and a line of more than 64 KiB comes in pieces.
    fn line(&mut self, line: &str) -> Vec<EventKind>;

    /// Where the child is, for consoles. Asked after each read of many lines, so that a flood of lines is
    /// no flood of events.
    fn progress(&mut self) -> Option<EventKind> {
        None
    }

    /// A line of the child's event socket (see [`Command::listen_to_events`](super::Command::listen_to_events)),
    /// not redacted. The events that it means are emitted in order, as those of [`line`](LineHandler::line).
    fn event(&mut self, _: &str) -> Vec<EventKind> {
        Vec::new()
    }

    /// Output as the child printed it, before anything is decoded or redacted. For whoever has to hand
    /// it on unchanged; it must not reach a person or a report.
    fn raw(&mut self, _: &[u8]) {}

    /// What the child does now, for the word about its silence.
    fn status(&self) -> Option<String> {
        None
    }
}

/// For children whose output only goes to the log.
impl LineHandler for () {
    fn line(&mut self, _: &str) -> Vec<EventKind> {
        Vec::new()
    }
}

/// Read at once at most.
const BATCH: usize = 256 * 1024;

/// The longest piece of a line.
const PIECE: usize = 64 * 1024;

/// What the lines of one command may come to as events: hundreds of thousands of tasks. Reports and
/// listeners get no more, whatever layer code prints.
const EVENT_BYTES: u64 = 256 << 20;

/// What an event takes besides the words of its line.
const EVENT: u64 = 100;

/// Others have their turn after so many lines: signals and limits must not wait for the reader.
const TURN: u32 = 256;

/// The last lines that are kept, and how much of each.
const TAIL_LINES: usize = 30;
const TAIL_BYTES: usize = 1000;

/// The output of one child.
pub(super) struct Output {
    pub log: Log,
    /// Bytes that the child printed.
    pub bytes: u64,
    pub tail: Tail,
    secrets: Stream,
    decoder: Decoder,
    splitter: Splitter,
    /// Of events, against [`EVENT_BYTES`].
    told: u64,
    lines: u32,
}

impl Output {
    pub fn new(log: Log, redactor: &Redactor) -> Output {
        Output {
            log,
            bytes: 0,
            tail: Tail::default(),
            secrets: redactor.stream(),
            decoder: Decoder::default(),
            splitter: Splitter::default(),
            told: 0,
            lines: 0,
        }
    }

    /// Reads to the end of the output, which is when nobody holds the other end any more.
    pub async fn pump(
        &mut self,
        mut from: pipe::Receiver,
        mut channel: EventChannel,
        lines: &mut dyn LineHandler,
        events: &Emitter,
        activity: &Activity,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; BATCH];
        loop {
            let mut length = None;
            // Neither may keep the other waiting, whatever layer code sends.
            let told = tokio::select! {
                read = from.read(&mut buffer) => {
                    length = Some(read?);
                    if length == Some(0) { channel.rest() } else { channel.ready() }
                }
                told = channel.next() => told,
            };
            activity.clock.touch();
            // It is not the child that is slow while its output waits for the listeners.
            let held = activity.clock.hold();
            let (told_bytes, count) = (&mut self.told, &mut self.lines);
            let mut to = Listener { lines, tail: &mut self.tail, events, told: told_bytes, count };
            for line in told {
                to.pass_event(&line).await;
            }
            if let Some(length @ 1..) = length {
                self.bytes += length as u64;
                lines.raw(&buffer[..length]);
                let clear = self.secrets.feed(&buffer[..length]);
                let text = self.decoder.feed(&clear);
                self.log.write(&text);
                tell_trouble(&mut self.log, events).await;
                let (told, count) = (&mut self.told, &mut self.lines);
                let mut to = Listener { lines, tail: &mut self.tail, events, told, count };
                self.splitter.feed(&text, &mut to).await;
            }
            if let Some(progress) = lines.progress() {
                events.emit(progress).await;
            }
            activity.set_status(lines.status());
            drop(held);
            if length == Some(0) {
                return Ok(());
            }
            // A child that prints without end is always ready to be read.
            yield_now().await;
        }
    }

    /// Passes on what was held back: the last line may have no end.
    pub async fn finish(&mut self, lines: &mut dyn LineHandler, events: &Emitter) {
        let clear = self.secrets.finish();
        let mut text = self.decoder.feed(&clear).into_owned();
        text.push_str(self.decoder.finish());
        self.log.write(&text);
        self.log.finish();
        tell_trouble(&mut self.log, events).await;
        let (told, count) = (&mut self.told, &mut self.lines);
        let mut to = Listener { lines, tail: &mut self.tail, events, told, count };
        self.splitter.feed(&text, &mut to).await;
        self.splitter.finish(&mut to).await;
        if let Some(progress) = lines.progress() {
            events.emit(progress).await;
        }
    }

    pub async fn tell_trouble(&mut self, events: &Emitter) {
        tell_trouble(&mut self.log, events).await;
    }
}

async fn tell_trouble(log: &mut Log, events: &Emitter) {
    if let Some(trouble) = log.take_trouble() {
        let message = format!("the log {} is incomplete: {trouble}", log.path.display());
        let hint = "the command goes on and its outcome counts; free space on that disk";
        events.warn(message, Some(hint.into())).await;
    }
}

/// Where whole lines go.
struct Listener<'a> {
    lines: &'a mut dyn LineHandler,
    tail: &'a mut Tail,
    events: &'a Emitter,
    told: &'a mut u64,
    count: &'a mut u32,
}

impl Listener<'_> {
    async fn pass(&mut self, line: &str) {
        self.tail.push(line);
        let events = self.lines.line(line);
        self.emit(line, events).await;
    }

    async fn pass_event(&mut self, line: &str) {
        let events = self.lines.event(line);
        self.emit(line, events).await;
    }

    async fn emit(&mut self, line: &str, events: Vec<EventKind>) {
        for what in events {
            let before = *self.told;
            *self.told += line.len() as u64 + EVENT;
            if *self.told <= EVENT_BYTES {
                self.events.emit(what).await;
            } else if before <= EVENT_BYTES {
                let message = "a command printed so many messages that reports leave out the rest of them";
                self.events.warn(message, Some("its log has all of them".into())).await;
            }
        }
        *self.count = self.count.wrapping_add(1);
        if self.count.is_multiple_of(TURN) {
            yield_now().await;
        }
    }
}

/// Cuts text into lines.
#[derive(Default)]
struct Splitter {
    /// The beginning of a line whose end is still to come: one piece at most.
    held: String,
    /// The last line ended with `\r`, so that a `\n` right behind belongs to it.
    after_return: bool,
}

impl Splitter {
    async fn feed(&mut self, mut text: &str, to: &mut Listener<'_>) {
        while !text.is_empty() {
            let end = text.bytes().position(|byte| byte == b'\n' || byte == b'\r');
            let (part, rest) = match end {
                Some(end) => (&text[..end], &text[end + 1..]),
                None => (text, ""),
            };
            let is_second_half = self.after_return && end == Some(0) && text.starts_with('\n');
            self.after_return = end.is_some_and(|end| text.as_bytes()[end] == b'\r');
            text = rest;
            if is_second_half {
                continue;
            }
            let part = self.pieces(part, to).await;
            if end.is_none() {
                self.held.push_str(part);
            } else if self.held.is_empty() {
                to.pass(part).await;
            } else {
                self.held.push_str(part);
                to.pass(&self.held).await;
                self.held.clear();
            }
        }
    }

    /// Passes on full pieces while the line is longer than one; gives the rest.
    async fn pieces<'a>(&mut self, mut part: &'a str, to: &mut Listener<'_>) -> &'a str {
        while self.held.len() + part.len() > PIECE {
            let (fits, rest) = part.split_at(cut(part, PIECE - self.held.len()));
            self.held.push_str(fits);
            to.pass(&self.held).await;
            self.held.clear();
            part = rest;
        }
        part
    }

    async fn finish(&mut self, to: &mut Listener<'_>) {
        if !self.held.is_empty() {
            to.pass(&std::mem::take(&mut self.held)).await;
        }
    }
}

/// Where to cut a text so that no more than that many bytes stay, and no character breaks.
pub(super) fn cut(text: &str, bytes: usize) -> usize {
    (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0)
}

/// The last lines.
#[derive(Default)]
pub(super) struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        // The oldest one's memory is used again: this happens for every line of gigabytes.
        let mut kept = if self.0.len() < TAIL_LINES { None } else { self.0.pop_front() }.unwrap_or_default();
        kept.clear();
        kept.push_str(&line[..cut(line, TAIL_BYTES)]);
        self.0.push_back(kept);
    }

    pub fn into_lines(self) -> Vec<String> {
        self.0.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::log::LOG_LIMIT;
    use crate::{ActivityClock, Command};
    use agent_types::events::{Event, channel};
    use agent_types::secret::Secret;
    use tokio::sync::mpsc;

    #[derive(Default)]
    struct Collect(Vec<String>);

    impl LineHandler for Collect {
        fn line(&mut self, line: &str) -> Vec<EventKind> {
            self.0.push(line.to_owned());
            Vec::new()
        }
    }

    /// Sends the pieces through a real pipe; gives the lines, the output and the events.
    async fn through(
        log: Log,
        secrets: &[Secret],
        pieces: Vec<Vec<u8>>,
    ) -> (Vec<String>, Output, mpsc::Receiver<Event>) {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let feeder = std::thread::spawn(move || {
            for piece in pieces {
                std::io::Write::write_all(&mut writer, &piece).unwrap();
            }
        });
        let (events, received) = channel();
        let mut output = Output::new(log, &Redactor::new(secrets));
        let mut lines = Collect::default();
        let from = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
        let activity = Activity::new(ActivityClock::default());
        let channel = EventChannel::of(&Command::new("x", "/", "x"));
        output.pump(from, channel, &mut lines, &events, &activity).await.unwrap();
        output.finish(&mut lines, &events).await;
        feeder.join().unwrap();
        (lines.0, output, received)
    }

    async fn logged(secrets: &[Secret], pieces: Vec<Vec<u8>>) -> (Vec<String>, Vec<u8>) {
        let base = tempfile::tempdir().unwrap();
        let log = Log::create(base.path(), "x", LOG_LIMIT).unwrap();
        let (lines, output, _) = through(log, secrets, pieces).await;
        (lines, std::fs::read(&output.log.path).unwrap())
    }

    #[tokio::test]
    async fn lines_end_at_line_feeds_and_carriage_returns() {
        for (text, wanted) in [
            ("", &[][..]),
            ("a\nb\n", &["a", "b"][..]),
            ("a\nb", &["a", "b"]),
            ("\n\na", &["", "", "a"]),
            ("1%\r2%\r\n3\n", &["1%", "2%", "3"]),
            ("a\r\r\nb\n\rc", &["a", "", "b", "", "c"]),
        ] {
            for size in [1, 2, 3, 100] {
                let (events, _received) = channel();
                let (mut lines, mut splitter) = (Collect::default(), Splitter::default());
                let (mut tail, mut told, mut count) = (Tail::default(), 0, 0);
                let mut to = Listener {
                    lines: &mut lines,
                    tail: &mut tail,
                    events: &events,
                    told: &mut told,
                    count: &mut count,
                };
                for piece in text.as_bytes().chunks(size) {
                    let piece = std::str::from_utf8(piece).unwrap();
                    splitter.feed(piece, &mut to).await;
                }
                splitter.finish(&mut to).await;
                assert_eq!(lines.0, wanted, "{text:?} by {size}");
            }
        }
    }

    #[tokio::test]
    async fn a_line_without_end_comes_in_pieces_and_is_whole_in_the_log() {
        let line = "é".repeat(150_000);
        let (lines, log) = logged(&[], vec![line.clone().into_bytes()]).await;
        assert_eq!(log, line.as_bytes());
        assert_eq!(lines.concat(), line);
        assert!(lines.iter().all(|piece| piece.len() <= PIECE));
    }

    #[tokio::test]
    async fn secrets_are_in_neither_lines_nor_log() {
        let secrets = [Secret { origin: "x".into(), value: "hunter2-hunter2".into() }];
        // Around the ends of reads and of pieces.
        for before in [0, 1, 9, PIECE - 7, BATCH - 7, BATCH - 1] {
            let text = format!("{}hunter2-hunter2 end", "x".repeat(before));
            let (lines, log) = logged(&secrets, vec![text.clone().into_bytes()]).await;
            let wanted = text.replace("hunter2-hunter2", "[redacted]");
            assert_eq!(lines.concat(), wanted);
            assert_eq!(String::from_utf8(log).unwrap(), wanted);
        }
    }

    #[tokio::test]
    async fn a_full_disk_loses_the_log_only() {
        let (lines, output, mut events) =
            through(Log::full(), &[], vec![b"one\n".to_vec(), b"two\n".to_vec()]).await;
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(output.log.lost, 8);
        let EventKind::Notice { message, .. } = events.recv().await.unwrap().what else { panic!() };
        assert!(message.contains("/dev/full"), "{message}");
        drop(output);
        assert!(events.recv().await.is_none(), "one warning is enough");
    }

    #[tokio::test]
    async fn the_tail_is_the_last_lines_cut_short() {
        let text = (0..100).map(|n| format!("{n} {}\n", "x".repeat(2000))).collect::<String>();
        let base = tempfile::tempdir().unwrap();
        let (_, output, _) =
            through(Log::create(base.path(), "x", LOG_LIMIT).unwrap(), &[], vec![text.into_bytes()]).await;
        let tail = output.tail.into_lines();
        assert_eq!((tail.len(), tail[0].len()), (TAIL_LINES, TAIL_BYTES));
        assert!(tail[0].starts_with("70 ") && tail[29].starts_with("99 "));
    }

    /// Each line is an event of its size.
    struct Echo;

    impl LineHandler for Echo {
        fn line(&mut self, _: &str) -> Vec<EventKind> {
            vec![EventKind::Heartbeat { silent_seconds: 0, running: String::new() }]
        }
    }

    #[tokio::test]
    async fn what_is_told_of_one_command_is_bounded() {
        let (events, mut received) = channel();
        let count = tokio::spawn(async move {
            let mut warnings = Vec::new();
            let mut number = 0u64;
            while let Some(event) = received.recv().await {
                match event.what {
                    EventKind::Notice { message, .. } => warnings.push(message),
                    _ => number += 1,
                }
            }
            (number, warnings)
        });
        let (mut tail, mut told, mut count_of_lines) = (Tail::default(), 0, 0);
        let mut to = Listener {
            lines: &mut Echo,
            tail: &mut tail,
            events: &events,
            told: &mut told,
            count: &mut count_of_lines,
        };
        let line = "x".repeat(PIECE);
        let fits = EVENT_BYTES / (PIECE as u64 + EVENT);
        for _ in 0..fits + 100 {
            to.pass(&line).await;
        }
        drop(events);
        let (number, warnings) = count.await.unwrap();
        assert_eq!((number, warnings.len()), (fits, 1), "{warnings:?}");
    }
}
