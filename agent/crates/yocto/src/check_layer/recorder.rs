//! The second source of a verdict: what unittest itself counted, from the tool's own process.
//!
//! What yocto-check-layer prints holds text of the layer. So a small Python program (`recorder.py`) runs the
//! unmodified script, and tells unittest's own results on a socket that no other process has. They must agree
//! with the printed text and the exit status.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use agent_fs::untrusted;
use agent_process::{Command, ExitReason};
use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;
use agent_types::words::hexadecimal;

use super::output::{CaseVerdict, Parsed};
use super::verdict::Verdict;

const PROGRAM: &str = include_str!("recorder.py");
/// Takes the socket from stdin, away from all that the script starts, and gets the program from it.
const START: &str =
    "import os, socket; channel = socket.socket(fileno=os.dup(0)); exec(channel.makefile().read())";
/// Bytes that are read of what it tells: a few kilobytes are usual.
const LIMIT: usize = 4 << 20;

/// The agent's end of the socket, and the line that the tool's process prints last.
#[derive(Debug)]
pub struct Recorder {
    socket: UnixStream,
    pub sentinel: String,
}

/// What the tool's process told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    runs: Vec<TestRun>,
    ends: Vec<EndOfTool>,
    /// What came and was not understood.
    nonsense: bool,
}

/// One run of unittest. Tests are named by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct TestRun {
    ran: u64,
    successful: bool,
    failures: Vec<String>,
    errors: Vec<String>,
    skipped: Vec<String>,
    #[serde(rename = "expectedFailures")]
    expected_failures: Vec<String>,
    #[serde(rename = "unexpectedSuccesses")]
    unexpected_successes: Vec<String>,
    successes: Vec<String>,
}

/// How the script ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct EndOfTool {
    status: i32,
    /// Whether it is the original, which runs its tests by unittest.
    unittest: bool,
    /// What it logged after `Summary of results:`.
    summary: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Run(TestRun),
    ExitReason(EndOfTool),
}

impl Recorder {
    /// Lets the recorder run the script that the command names. `None` when that is no Python script: then there
    /// is the printed text only.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn attach(command: &mut Command) -> Result<Option<Recorder>> {
        if !command.argv.first().is_some_and(|script| is_python(Path::new(script))) {
            return Ok(None);
        }
        let failed = |error: io::Error| Error::machine("cannot make a socket").because(&error);
        let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
        let sentinel = format!("build-agent: the end of yocto-check-layer {}", nonce().map_err(failed)?);
        ours.write_all(format!("sentinel = '{sentinel}'\n{PROGRAM}").as_bytes()).map_err(failed)?;
        ours.shutdown(Shutdown::Write).map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        command.stdin = Some(Arc::new(OwnedFd::from(theirs)));
        command.launcher = ["python3", "-c", START].map(Into::into).to_vec();
        Ok(Some(Recorder { socket: ours, sentinel }))
    }

    /// All that was told, once the tool has ended.
    pub fn read(mut self) -> Record {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while bytes.len() < LIMIT {
            match self.socket.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        Record::parse(&bytes)
    }
}

/// Nobody can guess it.
fn nonce() -> io::Result<String> {
    let mut bytes = [0; 16];
    fs_err::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hexadecimal(&bytes))
}

fn is_python(script: &Path) -> bool {
    let Ok(text) = untrusted::read(script, untrusted::PAGE) else { return false };
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    first == b"#!/usr/bin/env python3"
}

impl Record {
    fn parse(bytes: &[u8]) -> Record {
        let mut record = Record::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Told::Run(run)) => record.runs.push(run),
                Ok(Told::ExitReason(end)) => record.ends.push(end),
                Err(_) => record.nonsense = true,
            }
        }
        record
    }
}

/// Turns a verdict that the tool's own process contradicts into an error of the agent's.
pub fn confirm(
    mut verdict: Verdict,
    parsed: &Parsed,
    record: &Record,
    end: ExitReason,
    layer_name: &str,
) -> Verdict {
    let ExitReason::Exited(status) = end else { return verdict };
    let is_verdict = match &verdict.outcome {
        Ok(Outcome::Passed) => true,
        Ok(_) => verdict.by_cases,
        Err(_) => false,
    };
    let what = if is_verdict { contradiction(parsed, record, status, layer_name) } else { None };
    if let Some(what) = what {
        let message = format!(
            "what yocto-check-layer printed about `{layer_name}` contradicts what its own process counted: {what}"
        );
        verdict.outcome = Err(Error::internal(message).hint(
            "the layer may print what looks like results; read the log of the run, nothing is concluded",
        ));
        verdict.by_cases = false;
    }
    verdict
}

fn contradiction(parsed: &Parsed, record: &Record, status: i32, layer_name: &str) -> Option<String> {
    let [end] = record.ends.as_slice() else { return Some("it did not tell how it ended".into()) };
    if record.nonsense {
        return Some("it told something else, too".into());
    }
    if end.status != status {
        return Some(format!("it ended with status {}, but the exit status is {status}", end.status));
    }
    if record.runs.is_empty() && !end.unittest {
        // Not OE-Core's program: the printed text is all there is.
        return None;
    }
    let [run] = record.runs.as_slice() else {
        return Some(format!("tests were run {} times", record.runs.len()));
    };
    if run.successful != (status == 0) {
        return Some(format!("the tests were {}successful", if run.successful { "" } else { "not " }));
    }
    if parsed.tests_run != Some(run.ran) {
        return Some(format!("{} tests ran", run.ran));
    }
    let said = if run.successful { "PASS" } else { "FAIL" };
    let line = format!("{layer_name} ... {said}");
    if end.unittest && !end.summary.contains(&line) {
        return Some(format!("its summary does not hold `{line}`"));
    }
    let (printed, counted) = (printed(parsed), run.results());
    let differs = counted.iter().find(|(id, kind)| printed.get(*id) != Some(*kind));
    if let Some((id, kind)) = differs {
        let instead = printed.get(id).copied().unwrap_or("missing");
        return Some(format!("{id} is {kind}, and {instead} in the text"));
    }
    let extra = printed.iter().find(|(id, _)| !counted.contains_key(*id));
    extra.map(|(id, kind)| format!("{id} did not run, and is {kind} in the text"))
}

/// Of the tests, and of classes that broke; a class that was skipped has no test that could be forged.
fn printed(parsed: &Parsed) -> BTreeMap<String, &'static str> {
    let cases = parsed.cases.iter().filter_map(|case| {
        let kind = match &case.verdict {
            CaseVerdict::Ok => "ok",
            CaseVerdict::Fail | CaseVerdict::Error => "failed",
            CaseVerdict::Skipped(_) => "skipped",
            CaseVerdict::ExpectedFailure => "expected to fail",
            CaseVerdict::UnexpectedSuccess => "an unexpected success",
            CaseVerdict::Unfinished => "without a result",
        };
        match case.is_set_up() {
            true if kind == "failed" => Some((format!("{} ({})", case.name, case.class), kind)),
            true => None,
            false => Some((format!("{}.{}", case.class, case.name), kind)),
        }
    });
    cases.collect()
}

impl TestRun {
    fn results(&self) -> BTreeMap<String, &'static str> {
        let is_set_up = |id: &str| id.starts_with("setUp") || id.starts_with("tearDown");
        let mut results = BTreeMap::new();
        for (ids, kind) in [
            (&self.successes, "ok"),
            (&self.unexpected_successes, "an unexpected success"),
            (&self.expected_failures, "expected to fail"),
            (&self.skipped, "skipped"),
            // Whatever else is said of a test, this counts.
            (&self.failures, "failed"),
            (&self.errors, "failed"),
        ] {
            for id in ids.iter().filter(|id| kind == "failed" || !is_set_up(id)) {
                // A subtest has its parameters behind the test's name.
                let name = if is_set_up(id) { id } else { id.split(' ').next().unwrap_or(id) };
                results.insert(name.to_owned(), kind);
            }
        }
        results
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "forgery_tests.rs"]
mod forgery_tests;
