//! `build-agent report`: writes the reports of a job again, from its events or its result; or those of several jobs of one
//! change as one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::config::{self, AgentEnvironment};
use crate::job::{DirLock, LastAttempt};
use crate::report::{self, EventsFile, Recheck, Style, Summary, Torn, markdown, merged, sarif};
use agent_fs::untrusted;
use agent_types::error::{Error, Result};
use agent_types::events::{Event, EventKind};
use agent_types::job_id::JobId;
use agent_types::outcome::ExitStatus;

use super::arguments::{self, ReportFormat as Format};
use super::expected_cells::ExpectedCells;
use super::job::style;
use super::print;

/// The result of a job in its directory.
const RESULT: &str = "result.json";

/// Writes the reports again and returns the exit status of the job, or of the worst one.
pub fn command(args: &arguments::Report, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let formats = if args.format.is_empty() { &Format::DEFAULT } else { &args.format[..] };
    let attempts = killed_jobs(environment);
    let sources: Vec<PathBuf> = args.sources.iter().flat_map(|source| in_directory(source)).collect();
    for source in &sources {
        if !source.exists() {
            let is_of =
                |attempt: &&LastAttempt| source.parent().is_some_and(|out| is_same(out, &attempt.out));
            let error = Error::usage(format!("`{}` does not exist", source.display()));
            return Err(match attempts.iter().find(is_of) {
                Some(attempt) => error.hint(format!("the flight recorder knows: {}", attempt.message())),
                None => error.hint(
                    "name the events.jsonl or result.json of a job; its default directory is build-agent-out",
                ),
            });
        }
        if let Some(holder) = DirLock::holder(source.parent().unwrap_or(Path::new(""))) {
            let message = format!("{holder} still writes `{}`", source.display());
            return Err(
                Error::machine(message).hint("wait until it ends; it then writes these reports itself")
            );
        }
    }
    let job = args.job.as_deref().map(JobId::from);
    let (style, out) = (style(environment), args.out.as_deref());
    let expected = args.cells.as_deref().map(ExpectedCells::parse).transpose()?;
    let expects = expected.as_ref();
    let reported = report(&sources, job.as_ref(), expects, &attempts, formats, out, style)?;
    for torn in &reported.torn {
        print::diagnostic(format_args!("warning: {torn}"));
    }
    for warning in &reported.warnings {
        print::diagnostic(format_args!("warning: {warning}"));
    }
    for text in &reported.texts {
        print::text(text)?;
    }
    Ok(merged::exit(&reported.jobs))
}

/// The events or the result in a job's directory, or those of the cells of a matrix. Any other path is a source itself.
fn in_directory(path: &Path) -> Vec<PathBuf> {
    let of_job = |path: &Path| {
        let files = [EventsFile::NAME, RESULT].map(|name| path.join(name));
        files.into_iter().find(|file| file.exists())
    };
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let cells = fs_err::read_dir(path.join(report::CELLS)).into_iter().flatten().flatten();
    let mut cells: Vec<PathBuf> = cells.filter_map(|cell| of_job(&cell.path())).collect();
    cells.sort();
    let is_matrix = path.join(merged::NAME).exists();
    match of_job(path) {
        found if !cells.is_empty() && (is_matrix || found.is_none()) => cells,
        found => vec![found.unwrap_or_else(|| path.join(RESULT))],
    }
}

/// What the flight recorders of this machine know of jobs that were killed.
fn killed_jobs(environment: &AgentEnvironment) -> Vec<LastAttempt> {
    let top = config::work_dir(None, environment, Path::new("/"));
    top.map(|top| LastAttempt::below(&top)).unwrap_or_default()
}

/// Whether both are the same directory, of which one may be gone.
fn is_same(one: &Path, other: &Path) -> bool {
    std::path::absolute(one).is_ok_and(|one| one == other)
}

/// The result of [`report`].
#[derive(Clone, Debug)]
pub struct Reported {
    pub jobs: Vec<Summary>,
    /// What was requested on standard output.
    pub texts: Vec<String>,
    /// The events files whose last line was incomplete; the lines before it were used.
    pub torn: Vec<Torn>,
    pub warnings: Vec<String>,
}

/// Reads an `events.jsonl` or a `result.json`, or several, and writes the reports into `out`, or else into the directory
/// of the file.
///
/// # Errors
/// If a file is neither, is damaged, has another schema or is not that of one job; if a result contradicts
/// itself; if several belong to different commits, or to none of the expected cells; or if a report cannot be written. The reports show events that
/// contradict themselves.
pub fn report(
    sources: &[PathBuf],
    job: Option<&JobId>,
    expected: Option<&ExpectedCells>,
    attempts: &[LastAttempt],
    formats: &[Format],
    out: Option<&Path>,
    style: Style,
) -> Result<Reported> {
    if let (Some(job), [_, _, ..]) = (job, sources) {
        return Err(Error::usage(format!("--job {job}: several files are named"))
            .hint("name the one file that holds the job, or remove --job"));
    }
    let (mut jobs, mut torn, mut directories) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        let (summary, incomplete) = summary(source, job, attempts)?;
        directories.push((summary.job.id.clone(), source.parent().unwrap_or(Path::new(".")).to_owned()));
        jobs.push(summary);
        torn.extend(incomplete);
    }
    let (mut jobs, warnings) = merged::attempts(jobs)?;
    if let Some(expected) = expected {
        jobs = expected.complete(jobs)?;
    }
    let out = match (out, sources) {
        (Some(out), _) => out,
        (None, [source]) if expected.is_none() => source.parent().unwrap_or(Path::new(".")),
        (None, _) if formats.iter().any(|format| format.is_file()) => {
            return Err(Error::usage("the reports of several jobs need a directory of their own")
                .hint("add --out DIR, or ask only for --format text or markdown"));
        }
        (None, _) => Path::new("."),
    };
    if formats.iter().any(|format| format.is_file()) {
        fs_err::create_dir_all(out)?;
    }
    let mut texts = Vec::new();
    for format in formats {
        match format {
            Format::Json => match &jobs[..] {
                [summary] => report::write_result(summary, out)?,
                jobs => merged::write(jobs, out)?,
            },
            Format::Junit => report::write_merged_junit(&jobs, out)?,
            Format::Html => {
                let placed: Vec<_> =
                    jobs.iter().map(|job| (job, directory_of(job, &directories, out))).collect();
                report::write_pages(&placed, out)?;
            }
            Format::Sarif => sarif::write(&jobs, out)?,
            Format::Text => texts.push(text(&jobs, out, &directories, style)),
            Format::Markdown => texts.push(markdown::render_all(&jobs, &short(&jobs))),
        }
    }
    Ok(Reported { jobs, texts, torn, warnings })
}

/// Where the logs of a job lie.
fn directory_of<'a>(job: &Summary, directories: &'a [(JobId, PathBuf)], out: &'a Path) -> &'a Path {
    directories.iter().find(|(id, _)| *id == job.job.id).map_or(out, |(_, directory)| directory)
}

/// The final summary of a job; of several, the matrix first. `directories`: where the logs of each job lie.
fn text(jobs: &[Summary], out: &Path, directories: &[(JobId, PathBuf)], style: Style) -> String {
    if let [summary] = jobs {
        return report::final_summary(summary, out, style);
    }
    let mut text = merged::text(jobs);
    for summary in jobs {
        text.push('\n');
        text += &report::final_summary(summary, directory_of(summary, directories, out), style);
    }
    text
}

fn short(jobs: &[Summary]) -> markdown::Options {
    let link = match jobs {
        [summary] => summary.report_url().or(summary.job.url.as_deref()).map(str::to_owned),
        _ => None,
    };
    markdown::Options { link, ..markdown::Options::default() }
}

/// Reads an `events.jsonl` or a `result.json`.
///
/// # Errors
/// As [`report`].
pub fn read_summary(path: &Path, job: Option<&JobId>) -> Result<(Summary, Option<Torn>)> {
    summary(path, job, &[])
}

fn summary(path: &Path, job: Option<&JobId>, attempts: &[LastAttempt]) -> Result<(Summary, Option<Torn>)> {
    if !holds_events(path)? {
        if let Some(job) = job {
            return Err(Error::usage(format!("--job {job}: `{}` is a result of one job", path.display()))
                .hint("leave out --job, or name an events.jsonl"));
        }
        return Ok((report::recheck_result(report::read_result(path)?)?, None));
    }
    let mut recheck = Recheck::default();
    let torn = match job {
        None => report::read_events(path, |event| recheck.take(event))?,
        Some(job) => report::read_job(path, job, |event| recheck.take(event))?,
    };
    // A killed agent's last samples may not have become events.
    if let Some((job, last)) = recheck.unfinished()
        && let Some(attempt) = attempts.iter().find(|attempt| attempt.job == job)
    {
        for (time, sample) in attempt.samples_after(last) {
            recheck.take(&Event::at(time, None, EventKind::MachineSample(sample.clone())));
        }
    }
    Ok((recheck.finish(), torn))
}

/// Whether the file has events: a `result.json` has several lines, and its first is only `{`.
fn holds_events(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let limit = 2 * 1024 * 1024;
    let file = BufReader::new(untrusted::open(path)?);
    std::io::Read::take(file, limit).read_until(b'\n', &mut start)?;
    Ok(start.trim_ascii() != b"{")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::*;
    use crate::report::sample::{failing_job, reduce};
    use crate::report::{Sink, prepare_out, write_all};

    fn recorded(out: &Path, events: usize) {
        prepare_out(out).unwrap();
        let mut file = EventsFile::create(out).unwrap();
        failing_job().iter().take(events).for_each(|event| file.event(event).unwrap());
    }

    #[test]
    fn rewrites_reports_of_a_finished_job_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        let (out, again) = (directory.path().join("out"), directory.path().join("again"));
        recorded(&out, usize::MAX);
        write_all(&reduce(&failing_job()), &out).unwrap();
        for source in ["events.jsonl", "result.json"] {
            let sources = [out.join(source)];
            let reported =
                report(&sources, None, None, &[], &Format::DEFAULT, Some(&again), Style::PLAIN).unwrap();
            assert!(reported.texts[0].starts_with("ERROR  meta-x on scarthgap"));
            assert_eq!(reported.torn, []);
            for name in ["result.json", "junit.xml", "report.html"] {
                let read = |out: &Path| fs_err::read_to_string(out.join(name)).unwrap();
                assert_eq!(read(&again), read(&out), "{name} from {source}");
            }
        }
    }

    #[test]
    fn writes_reports_of_a_killed_job_into_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        recorded(directory.path(), 10);
        let path = directory.path().join("events.jsonl");
        let mut text = fs_err::read_to_string(&path).unwrap();
        text.push_str("{\"time\":\"20");
        fs_err::write(&path, text).unwrap();
        let reported = report(&[path], None, None, &[], &Format::DEFAULT, None, Style::PLAIN).unwrap();
        assert!(reported.texts[0].starts_with("INTERRUPTED  meta-x on scarthgap"));
        assert_eq!(reported.torn.iter().map(|torn| torn.bytes).collect::<Vec<_>>(), [11]);
        let result = report::read_result(&directory.path().join("result.json")).unwrap();
        assert_eq!([result], reported.jobs[..]);
    }
}
