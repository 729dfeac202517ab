//! `events.jsonl`: one event a line, each on disk as soon as it happened, so that a job that was
//! killed can still be told.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::Value;

use agent_fs::untrusted;
use agent_types::error::{Error, Result};
use agent_types::events::{Event, EventKind, SCHEMA};
use agent_types::job_id::JobId;

use super::output_file;
use super::sink::Sink;

/// Maximum bytes of a line that is read: an event is smaller than the whole result.
const LONGEST_LINE: u64 = super::result::LARGEST;

/// Writes the file.
#[derive(Debug)]
pub struct EventsFile {
    file: fs_err::File,
}

impl EventsFile {
    pub const NAME: &str = "events.jsonl";

    /// Begins a new file in the output directory; that of an earlier job is gone then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(out: &Path) -> Result<EventsFile> {
        Ok(EventsFile { file: output_file::create(&out.join(Self::NAME))? })
    }
}

impl Sink for EventsFile {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn is_required(&self) -> bool {
        true
    }

    fn event(&mut self, event: &Event) -> std::io::Result<()> {
        // Progress is worth nothing a second later, and there is much of it.
        if matches!(event.what, EventKind::Progress { .. }) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        // One write for each line, without a buffer: a killed agent tears at most the last one.
        self.file.write_all(&line)
    }
}

/// The last line of a file whose writer was killed in the middle of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Counts from 1.
    pub line: u64,
    /// Of the remains.
    pub bytes: usize,
}

impl std::fmt::Display for Torn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "line {} was cut off after {} bytes and is skipped: its writer was killed, or its disk was full",
            self.line, self.bytes
        )
    }
}

/// Reads the file of one job from its start and hands over one event after the other.
///
/// # Errors
/// When the file cannot be read, is no event file or not that of one job, is of another layout, or is
/// damaged before its last line.
pub fn read(path: &Path, mut each: impl FnMut(&Event)) -> Result<Option<Torn>> {
    let mut reader = BufReader::new(untrusted::open(path)?);
    let mut line = Vec::new();
    let mut reading = OneJob::default();
    for number in 1u64.. {
        line.clear();
        if read_line(&mut reader, &mut line).map_err(|bad| bad.at(path, number))? == 0 {
            return match number {
                1 => Err(empty(path)),
                _ => Ok(None),
            };
        }
        let whole = line.ends_with(b"\n");
        let value = serde_json::from_slice(&line).map_err(Bad::Json);
        match value.and_then(|value| reading.next(value)) {
            Ok(event) => each(&event),
            Err(Bad::Json(_)) if !whole && number > 1 => {
                return Ok(Some(Torn { line: number, bytes: line.len() }));
            }
            Err(bad) => return Err(bad.at(path, number)),
        }
    }
    Ok(None)
}

/// The same for one job of a file with the merged events of several. They may be in any order, and an event may be
/// there twice: their numbers tell.
///
/// # Errors
/// As [`read`], and when the file has no events of the job.
pub fn read_job(path: &Path, job: &JobId, mut each: impl FnMut(&Event)) -> Result<Option<Torn>> {
    let mut reader = BufReader::new(untrusted::open(path)?);
    let mut line = Vec::new();
    let (mut offset, mut torn) = (0, None);
    let mut found: Vec<Place> = Vec::new();
    let mut others = BTreeSet::new();
    for number in 1u64.. {
        line.clear();
        let bytes = read_line(&mut reader, &mut line).map_err(|bad| bad.at(path, number))?;
        if bytes == 0 {
            break;
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(value) if id_of(&value) == Some(job.as_str()) => {
                let seq = value.get("seq").and_then(Value::as_u64).unwrap_or(number);
                found.push(Place { seq, offset, line: number });
            }
            Ok(value) => {
                let other = id_of(&value).filter(|_| others.len() < IDS_SHOWN);
                others.extend(other.map(str::to_owned));
            }
            Err(_) if !line.ends_with(b"\n") && number > 1 => {
                torn = Some(Torn { line: number, bytes: line.len() });
            }
            Err(error) => return Err(Bad::Json(error).at(path, number)),
        }
        offset += bytes as u64;
    }
    if found.is_empty() {
        return Err(no_such_job(path, job, &others));
    }
    found.sort_by_key(|place| place.seq);
    found.dedup_by_key(|place| place.seq);
    let mut reading = OneJob::default();
    for Place { offset, line: number, .. } in found {
        reader.seek(SeekFrom::Start(offset))?;
        line.clear();
        read_line(&mut reader, &mut line).map_err(|bad| bad.at(path, number))?;
        let value = serde_json::from_slice(&line).map_err(Bad::Json);
        let event = value.and_then(|value| reading.next(value)).map_err(|bad| bad.at(path, number))?;
        each(&event);
    }
    Ok(torn)
}

/// Reads the next line; 0 bytes at the end of the file.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<usize, Bad> {
    let bytes = reader.take(LONGEST_LINE + 1).read_until(b'\n', line).map_err(Bad::Read)?;
    if bytes as u64 > LONGEST_LINE { Err(Bad::TooLong) } else { Ok(bytes) }
}

/// Where a job's event stands in a file.
struct Place {
    seq: u64,
    offset: u64,
    /// Counts from 1.
    line: u64,
}

fn empty(path: &Path) -> Error {
    Error::usage(format!("{}: empty", path.display()))
        .hint("the agent was killed before its first event; the job has to run again")
}

/// Ids of other jobs that a message lists.
const IDS_SHOWN: usize = 20;

fn no_such_job(path: &Path, job: &JobId, others: &BTreeSet<String>) -> Error {
    let error = Error::usage(format!("{}: no event of the job `{job}`", path.display()));
    match others.len() {
        0 => error.hint("the events have no job ids; leave out --job"),
        _ => error.hint(format!(
            "it holds events of {}",
            others.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        )),
    }
}

fn id_of(value: &Value) -> Option<&str> {
    value.get("job_id")?.as_str()
}

/// What was read of one job.
#[derive(Default)]
struct OneJob {
    lines: u64,
    id: Option<String>,
    ended: bool,
}

impl OneJob {
    /// The event of the next line, if it can be one of the job that the first line began. After its end there are
    /// only words about listeners that broke.
    fn next(&mut self, value: Value) -> Result<Event, Bad> {
        self.lines += 1;
        let id = id_of(&value).map(str::to_owned);
        let event = parse(value, self.lines == 1)?;
        match &event.what {
            EventKind::JobStarted(_) if self.lines > 1 => {
                return Err(Bad::SecondJob([self.id.take(), id].into_iter().flatten().collect()));
            }
            EventKind::Notice { .. } => {}
            _ if self.ended => return Err(Bad::AfterTheEnd),
            _ => {}
        }
        if self.lines == 1 {
            self.id = id;
        }
        self.ended |= matches!(event.what, EventKind::JobFinished { .. });
        Ok(event)
    }
}

/// What is wrong with a line.
enum Bad {
    Read(std::io::Error),
    TooLong,
    Json(serde_json::Error),
    NoHead,
    Schema(String),
    Event(String, serde_json::Error),
    /// With the ids of both.
    SecondJob(Vec<String>),
    AfterTheEnd,
}

fn parse(value: Value, first: bool) -> Result<Event, Bad> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, schema) = (text("event"), text("schema"));
    if first && kind != "job-started" {
        return Err(Bad::NoHead);
    }
    if first && schema != SCHEMA {
        return Err(Bad::Schema(schema));
    }
    serde_json::from_value(value).map_err(|error| Bad::Event(kind, error))
}

impl Bad {
    fn at(self, path: &Path, line: u64) -> Error {
        let place = format!("{}:{line}", path.display());
        let this = env!("CARGO_PKG_VERSION");
        match self {
            Bad::Read(error) => Error::machine(format!("{place}: cannot read this line")).because(&error),
            Bad::TooLong => {
                Error::usage(format!("{place}: this line is longer than {LONGEST_LINE} bytes"))
                    .hint("the file is damaged; name an events.jsonl as build-agent has written it")
            }
            Bad::Json(error) => Error::usage(format!("{place}: this is not a line of JSON"))
                .because(&error)
                .hint("the file is damaged; name an events.jsonl as build-agent has written it"),
            Bad::NoHead => Error::usage(format!("{place}: the first event is not `job-started`"))
                .hint("name an events.jsonl or a result.json that build-agent has written"),
            Bad::Schema(schema) => Error::usage(format!(
                "{place}: its schema is `{schema}`, and this build-agent {this} reads `{SCHEMA}`"
            ))
            .hint("use the build-agent that wrote it, or a newer one"),
            Bad::SecondJob(ids) => Error::usage(format!("{place}: a second job begins here")).hint(match &ids[..] {
                [first, second] if first != second => format!("choose one: --job {first} or --job {second}"),
                _ => "an event file has one job: cut the file before this line, and report on each part".into(),
            }),
            Bad::AfterTheEnd => Error::usage(format!("{place}: this line comes after the end of the job"))
                .hint("the file was put together or changed; name an events.jsonl as build-agent has written it"),
            Bad::Event(kind, error) => Error::usage(format!(
                "{place}: build-agent {this} does not understand this `{kind}` event"
            ))
            .because(&error)
            .hint(format!(
                "a newer build-agent with the same schema `{SCHEMA}` wrote it, or the line is damaged; \
                         use the version that the first line names"
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::*;
    use crate::report::sample::{failing_job, passing_job, reduce};
    use crate::report::{Summary, result};

    fn lines(events: &[Event]) -> String {
        events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect()
    }

    fn read_text(text: &[u8]) -> Result<(Summary, Option<Torn>)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        fs_err::write(&path, text).unwrap();
        let mut summary = Summary::default();
        let torn = read(&path, |event| summary.apply(event))?;
        Ok((summary, torn))
    }

    #[test]
    fn what_was_written_is_read_back_without_progress() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = EventsFile::create(directory.path()).unwrap();
        failing_job().iter().for_each(|event| file.event(event).unwrap());
        let mut found = Vec::new();
        let torn = read(&directory.path().join(EventsFile::NAME), |event| found.push(event.clone())).unwrap();
        let progress = |event: &Event| matches!(event.what, EventKind::Progress { .. });
        let wanted: Vec<Event> = failing_job().into_iter().filter(|event| !progress(event)).collect();
        assert_eq!((found, torn), (wanted, None));
    }

    /// The file may be cut at any byte, also inside a character.
    #[test]
    fn a_file_that_was_cut_anywhere_is_read_as_far_as_it_goes() {
        let mut events = failing_job();
        events.truncate(4);
        if let EventKind::JobStarted(job) = &mut events[0].what {
            job.job.name = "größer".into();
        }
        let text = lines(&events).into_bytes();
        let first = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in first..text.len() {
            let (summary, torn) = read_text(&text[..cut]).unwrap();
            let whole = text[..cut].iter().filter(|byte| **byte == b'\n').count();
            // A last line that only lacks its end is whole all the same.
            let read = if text[cut] == b'\n' { whole + 1 } else { whole };
            assert_eq!(summary, reduce(&events[..read]), "cut at {cut}");
            let remains = text[..cut].rsplit(|byte| *byte == b'\n').next().unwrap().len();
            let wanted = (remains > 0 && text[cut] != b'\n')
                .then_some(Torn { line: whole as u64 + 1, bytes: remains });
            assert_eq!(torn, wanted, "cut at {cut}");
        }
    }

    /// The console may break when the job is over.
    #[test]
    fn words_about_a_listener_may_come_after_the_end() {
        let notice =
            EventKind::Notice { level: agent_types::events::Level::Warning, message: "x".into(), hint: None };
        let text = lines(&failing_job()) + &lines(&[crate::report::sample::at(200_000, notice)]);
        let (summary, torn) = read_text(text.as_bytes()).unwrap();
        assert!(summary.complete && torn.is_none());
    }

    #[test]
    fn zeros_after_a_power_cut_are_a_torn_line() {
        let mut text = lines(&failing_job()[..2]).into_bytes();
        text.extend([0; 100]);
        let (_, torn) = read_text(&text).unwrap();
        assert_eq!(torn, Some(Torn { line: 3, bytes: 100 }));
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        fs_err::write(&path, lines(&failing_job()[..2])).unwrap();
        fs_err::OpenOptions::new().append(true).open(&path).unwrap().set_len(20 << 30).unwrap();
        let mut events = 0;
        for error in [read(&path, |_| events += 1), read_job(&path, &"x".into(), |_| {})] {
            let error = error.unwrap_err();
            assert!(error.message.contains("events.jsonl:3: this line is longer than"), "{error}");
        }
        assert_eq!(events, 2);
        // Nor does a pipe make it wait.
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&pipe, |_| {}).unwrap_err().message.contains("not a regular file"));
    }

    #[test]
    fn bad_files_are_refused_with_their_place() {
        let all = failing_job();
        let head = lines(&all[..1]);
        let next = lines(&all[1..3]);
        let (whole, end) = (lines(&all), lines(&all[all.len() - 1..]));
        let second = format!("events.jsonl:{}: a second job begins here", all.len() + 1);
        let after = format!("events.jsonl:{}: this line comes after the end of the job", all.len() + 1);
        let table: [(String, &str); 13] = [
            (String::new(), "events.jsonl: empty"),
            (head[..20].to_owned(), "events.jsonl:1: this is not a line of JSON"),
            (next.clone(), "events.jsonl:1: the first event is not `job-started`"),
            (format!("{head}oops\n{next}"), "events.jsonl:2: this is not a line of JSON"),
            (format!("{head}oops\n"), "events.jsonl:2: this is not a line of JSON"),
            (head.replace("events/v1", "events/v2"), "events.jsonl:1: its schema is `build-agent/events/v2`"),
            (
                format!("{head}{}", next.replace("stage-started", "moon-landed")),
                "events.jsonl:2: build-agent 0.1.0 does not understand this `moon-landed` event",
            ),
            (head.replace("\"plan\"", "\"plain\""), "does not understand this `job-started` event"),
            // Two jobs in one file: whole, cut, and of which the second has lost its head.
            (whole.repeat(2), &second),
            (format!("{head}{next}{whole}"), "events.jsonl:4: a second job begins here"),
            (format!("{head}{head}"), "events.jsonl:2: a second job begins here"),
            (format!("{whole}{next}"), &after),
            (format!("{whole}{end}"), &after),
        ];
        for (text, wanted) in table {
            let error = read_text(text.as_bytes()).unwrap_err();
            assert!(error.message.contains(wanted), "{wanted}: {error}");
            assert!(error.hint.is_some(), "{error}");
        }
    }

    /// Two jobs that ran at the same time, and whose events were sorted by time.
    #[test]
    fn the_merged_events_of_several_jobs_are_told_apart() {
        let stamped = |mut events: Vec<Event>, id: &str| {
            for (number, event) in (1..).zip(&mut events) {
                (event.job_id, event.seq) = (Some(id.into()), Some(number));
                if let EventKind::JobStarted(job) = &mut event.what {
                    job.job.id = id.into();
                }
            }
            events
        };
        let (first, second) = (stamped(failing_job(), "a"), stamped(passing_job(), "b"));
        let mut both = [first.clone(), second.clone()].concat();
        both.sort_by_key(|event| event.time);
        assert_ne!(both[..first.len()], first[..], "they are mixed");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("merged.jsonl");
        let one_job = |id: &str| {
            let mut summary = Summary::default();
            read_job(&path, &id.into(), |event| summary.apply(event)).map(|torn| (summary, torn))
        };
        let (wanted_first, wanted_second) = (reduce(&first), reduce(&second));
        // In this order or another, and with lines that come twice.
        let mut shuffled = both.clone();
        shuffled.reverse();
        shuffled.extend_from_slice(&both[3..9]);
        for events in [&both, &shuffled] {
            fs_err::write(&path, lines(events)).unwrap();
            assert_eq!(one_job("a").unwrap(), (wanted_first.clone(), None));
            assert_eq!(one_job("b").unwrap(), (wanted_second.clone(), None));
        }
        let error = one_job("c").unwrap_err();
        assert!(error.message.ends_with("no event of the job `c`"), "{error}");
        assert_eq!(error.hint.as_deref(), Some("it holds events of a, b"));
        let error = read_text(lines(&both).as_bytes()).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("choose one: --job a or --job b"));
        fs_err::write(&path, lines(&both) + "{\"ti").unwrap();
        assert_eq!(one_job("b").unwrap().1, Some(Torn { line: both.len() as u64 + 1, bytes: 4 }));
        // Its first event is missing.
        fs_err::write(&path, lines(&first[1..])).unwrap();
        assert!(one_job("a").unwrap_err().message.contains("the first event is not `job-started`"));
    }

    #[test]
    fn the_result_comes_back_from_the_events_to_the_byte() {
        let live = reduce(&failing_job());
        let (rebuilt, _) = read_text(lines(&failing_job()).as_bytes()).unwrap();
        assert_eq!(result::render(&rebuilt).unwrap(), result::render(&live).unwrap());
    }
}
