//! One cell as a child process.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_process::{Command, CommandOutcome, Interrupted, LineHandler, Runner};
use agent_types::error::{Error, Result};
use agent_types::events::EventKind;
use agent_types::sanitize::sanitize_line;

/// Time limit of an agent for its reports, after its grace.
const REPORTS: Duration = Duration::from_secs(15);

/// A cell that is to run.
#[derive(Clone, Debug)]
pub struct CellChild {
    pub id: String,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    pub environment: Vec<(OsString, OsString)>,
    /// The secrets that it reads from its standard input.
    pub secrets: Vec<u8>,
    /// The limit of its job, and the time between its signals.
    pub limit: Duration,
    pub grace: Duration,
    pub status: Status,
}

/// How a cell ended.
#[derive(Clone, Debug)]
pub enum CellEnd {
    /// It did not start, because of a stop.
    NotStarted(Interrupted),
    /// `Err`: its process could not be started, or not ended.
    Ended(Result<CommandOutcome>),
}

/// The last line that a cell printed; shared with the console.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<String>>);

impl Status {
    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, line: &str) {
        // A command for GitHub's runner.
        if line.starts_with("::") {
            return;
        }
        let line = sanitize_line(line.trim());
        // `[   1m03s] build: …`: the console adds its own time.
        let text =
            line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(&*line, |(_, text)| text);
        if !text.is_empty() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text.chars().take(200).collect();
        }
    }
}

impl LineHandler for Status {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.set(line);
        Vec::new()
    }
}

impl CellChild {
    /// How long a stop may take. A quarter of it lies between the first signal and the second, which would cut the child's
    /// own grace; and as long may its reports take after a second signal to the job.
    pub fn stop_time(&self) -> Duration {
        (self.grace + REPORTS) * 6
    }

    /// Runs it to its end. Its whole output is in the log `cell-ID.log`. `left`: the time that the matrix has left.
    ///
    /// # Errors
    /// If it could not be started, or not ended.
    pub async fn run(&self, left: Option<Duration>, runner: &Runner) -> Result<CommandOutcome> {
        let mut words = self.argv.iter().cloned();
        let program = words.next().ok_or_else(|| Error::internal("a cell without a program"))?;
        let mut command = Command::new(program, &self.cwd, format!("cell-{}", self.id))
            .args(words)
            .args(left.map(|left| format!("--time-left={}ms", left.as_millis().max(1))))
            .status(format!("cell {}", self.id));
        command.is_agent = true;
        for (name, value) in &self.environment {
            command.environment.set(name, value);
        }
        if !self.secrets.is_empty() {
            command.stdin = Some(Arc::new(self.pipe()?));
        }
        // The child has its own limits; this one is for a child that hangs.
        let limit = left.map_or(self.limit, |left| left.min(self.limit));
        command.timeout = Some(limit.saturating_add(self.stop_time()));
        command.stall = Some(Duration::MAX);
        let runner = Runner { grace: self.stop_time(), ..runner.clone() };
        runner.run(command, &mut self.status.clone()).await
    }

    /// A pipe with the secrets. It is empty when the child has read it.
    fn pipe(&self) -> Result<OwnedFd> {
        let failed = |error: std::io::Error| Error::machine("cannot make a pipe").because(&error);
        let (reader, mut writer) = std::io::pipe().map_err(failed)?;
        let secrets = self.secrets.clone();
        // The secrets may be larger than the buffer of the pipe, so a thread writes them. It ends if there is no reader.
        std::thread::spawn(move || drop(writer.write_all(&secrets)));
        Ok(reader.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_last_line_with_text() {
        let mut status = Status::default();
        for (line, wanted) in [
            ("[   1m03s] build: core-image-minimal for 1m03s", "build: core-image-minimal for 1m03s"),
            ("", "build: core-image-minimal for 1m03s"),
            ("::error::x", "build: core-image-minimal for 1m03s"),
            ("  plain \u{1b}[31mred", "plain red"),
        ] {
            status.line(line);
            assert_eq!(status.get(), wanted);
        }
    }
}
