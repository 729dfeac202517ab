//! The socket on which a child tells what it does, beside its output: one JSON text a line.
//!
//! The child has its end as standard input. What comes is written by others and may be anything: a line has a
//! limit, and what is wrong with the socket is never an error of the command.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::Command;

/// A longer line is skipped.
const LONGEST: usize = 16 * 1024;

/// Read at once at most.
const BATCH: usize = 64 * 1024;

impl Command {
    /// Gives the child a socket as standard input. What it writes there goes to
    /// [`LineHandler::event`](super::LineHandler::event).
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn listen_to_events(&mut self) -> io::Result<()> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        self.stdin = Some(Arc::new(OwnedFd::from(theirs)));
        self.events = Some(Arc::new(ours));
        Ok(())
    }
}

/// The agent's end.
pub(super) struct EventChannel {
    /// `None` when nothing more comes.
    socket: Option<UnixStream>,
    lines: EventLines,
    buffer: Vec<u8>,
}

impl EventChannel {
    /// Of a command that was asked to listen to; otherwise one on which nothing ever comes.
    pub fn of(command: &Command) -> EventChannel {
        let socket = command.events.as_ref().and_then(|socket| socket.try_clone().ok());
        let socket = socket.and_then(|socket| UnixStream::from_std(socket).ok());
        EventChannel { socket, lines: EventLines::default(), buffer: vec![0; BATCH] }
    }

    /// The next lines, when there are some. Nothing is lost when it is dropped before.
    pub async fn next(&mut self) -> Vec<String> {
        loop {
            let Some(socket) = &mut self.socket else { return std::future::pending().await };
            match socket.read(&mut self.buffer).await {
                Ok(length) if length > 0 => {
                    let lines = self.lines.feed(&self.buffer[..length]);
                    if !lines.is_empty() {
                        return lines;
                    }
                }
                _ => self.socket = None,
            }
        }
    }

    /// What is there already, without waiting, so that an event comes before the output that follows it.
    pub fn ready(&mut self) -> Vec<String> {
        match self.socket.as_ref().map(|socket| socket.try_read(&mut self.buffer)) {
            Some(Ok(length)) => self.lines.feed(&self.buffer[..length]),
            _ => Vec::new(),
        }
    }

    /// What has come and was not read yet.
    pub fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        // The child has ended; nobody fills it without end.
        while let Some(socket) = &self.socket
            && let Ok(length) = socket.try_read(&mut self.buffer)
            && length > 0
        {
            lines.extend(self.lines.feed(&self.buffer[..length]));
        }
        self.socket = None;
        lines
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct EventLines {
    held: Vec<u8>,
    /// The line that comes is too long.
    skips: bool,
}

impl EventLines {
    fn feed(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.hold(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if !std::mem::take(&mut self.skips) && !self.held.is_empty() {
                lines.push(String::from_utf8_lossy(&self.held).into_owned());
            }
            self.held.clear();
        }
        self.hold(bytes);
        lines
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.skips |= self.held.len() + bytes.len() > LONGEST;
        if !self.skips {
            self.held.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_lines_however_they_are_cut() {
        let long = "x".repeat(LONGEST);
        let longer = "x".repeat(LONGEST + 1);
        for (text, wanted) in [
            ("", vec![]),
            ("a", vec![]),
            ("a\n", vec!["a"]),
            ("a\n\nb\nc", vec!["a", "b"]),
            (&format!("{long}\nb\n"), vec![&long, "b"]),
            (&format!("{longer}\nb\n"), vec!["b"]),
        ] {
            for size in [1, 2, 3, 1000, usize::MAX] {
                let mut lines = EventLines::default();
                let pieces = text.as_bytes().chunks(size.min(text.len().max(1)));
                let got: Vec<String> = pieces.flat_map(|piece| lines.feed(piece)).collect();
                assert_eq!(got, wanted, "by {size}");
            }
        }
        assert_eq!(EventLines::default().feed(b"\xff\n"), ["\u{fffd}"]);
    }
}
