//! Programs that run in this process's own place: with its streams, its process group and its
//! terminal, as whoever started this process expects them. For the stand-in before BitBake.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::{SigSet, Signal, raise};

/// A program with its whole environment.
#[derive(Clone, Debug)]
pub struct InPlace {
    pub program: PathBuf,
    /// The first is what the program sees as its own name.
    pub argv: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
}

/// How a program ended, and what it printed.
#[derive(Debug)]
pub struct Accompanied {
    pub status: ExitStatus,
    /// `None` when it was longer than asked for.
    pub stdout: Option<Vec<u8>>,
    /// Empty when both streams are one.
    pub stderr: Option<Vec<u8>>,
}

impl InPlace {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        let mut words = self.argv.iter();
        if let Some(name) = words.next() {
            command.arg0(name);
        }
        command.args(words).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Becomes the program. Comes back only with the reason why it could not.
    pub fn replace(&self) -> io::Error {
        self.command().exec()
    }

    /// Runs the program and passes its output on byte for byte, keeping at most `limit` bytes of each
    /// stream. With `joined` both streams are one, so that their order is kept.
    ///
    /// Signals to the process group reach the program and are its business: they wait here until it
    /// has ended.
    pub fn accompany(&self, joined: bool, limit: usize) -> io::Result<Accompanied> {
        let (stdout, out_end) = io::pipe()?;
        let (stderr, err_end) = if joined {
            (None, out_end.try_clone()?)
        } else {
            io::pipe().map(|(read, write)| (Some(read), write))?
        };
        let mut command = self.command();
        command.stdin(Stdio::inherit()).stdout(out_end).stderr(err_end);
        let mut child = command.spawn()?;
        // It holds the pipes' other ends.
        drop(command);
        // Only now: the child would inherit it.
        let mut waiting = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            waiting.add(signal);
        }
        waiting.thread_block()?;
        let errors = stderr.map(|from| thread::spawn(move || pass_on(from, io::stderr(), limit)));
        let stdout = pass_on(stdout, io::stdout(), limit);
        let stderr = match errors {
            Some(thread) => thread.join().unwrap_or(None),
            None => Some(Vec::new()),
        };
        Ok(Accompanied { status: child.wait()?, stdout, stderr })
    }
}

/// Copies until the end, or until nobody reads any more: then the writer shall learn it, too.
fn pass_on(mut from: impl Read, mut to: impl Write, limit: usize) -> Option<Vec<u8>> {
    let mut kept = Some(Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return kept,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
            return None;
        }
        kept = kept.filter(|kept| kept.len() + count <= limit).map(|mut kept| {
            kept.extend_from_slice(&buffer[..count]);
            kept
        });
    }
}

/// Ends this process as another one ended: with its exit status or by its signal.
pub fn end_like(status: ExitStatus) -> ! {
    if let Some(signal) = status.signal().and_then(|number| Signal::try_from(number).ok()) {
        let mut set = SigSet::empty();
        set.add(signal);
        let _ = set.thread_unblock();
        let _ = raise(signal);
    }
    std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}
