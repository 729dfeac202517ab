//! `build-agent report`: writes the reports of a job again, from its events or its result.

use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::config::AgentEnvironment;
use crate::job::DirLock;
use crate::report::{self, Recheck, Style, Summary, Torn};
use agent_types::error::{Error, Result};
use agent_types::job_id::JobId;
use agent_types::outcome::ExitStatus;

use super::arguments::{self, ReportFormat as Format};
use super::job::style;
use super::print;

/// Writes the reports again and returns the job's exit status.
pub fn command(args: &arguments::Report, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let formats = if args.format.is_empty() { &Format::ALL } else { &args.format[..] };
    let Some(source) = &args.source else {
        return Err(Error::internal("the command line names no events.jsonl"));
    };
    if !source.exists() {
        return Err(Error::usage(format!("`{}` does not exist", source.display())).hint(
            "name the events.jsonl or result.json of a job; its default directory is build-agent-out",
        ));
    }
    if let Some(holder) = DirLock::holder(source.parent().unwrap_or(Path::new(""))) {
        let message = format!("{holder} still writes `{}`", source.display());
        return Err(Error::machine(message).hint("wait until it ends; it then writes these reports itself"));
    }
    let job = args.job.as_deref().map(JobId::from);
    let reported = report(source, job.as_ref(), formats, args.out.as_deref(), style(environment))?;
    if let Some(torn) = &reported.torn {
        print::diagnostic(format_args!("warning: {torn}"));
    }
    if let Some(text) = &reported.text {
        print::text(text)?;
    }
    Ok(reported.summary.exit)
}

/// The result of [`report`].
#[derive(Clone, Debug)]
pub struct Reported {
    pub summary: Summary,
    /// The final summary, if it was requested.
    pub text: Option<String>,
    /// Set if the last line of the events file was incomplete; the lines before it were used.
    pub torn: Option<Torn>,
}

/// Reads an `events.jsonl` or a `result.json` and writes the reports into `out`, or else into the directory
/// of the file.
///
/// # Errors
/// If the file is neither, is damaged, has another schema or is not that of one job; if a result contradicts
/// itself; or if a report cannot be written. The reports show events that contradict themselves.
pub fn report(
    path: &Path,
    job: Option<&JobId>,
    formats: &[Format],
    out: Option<&Path>,
    style: Style,
) -> Result<Reported> {
    let (summary, torn) = summary(path, job)?;
    let out = out.or(path.parent()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(out)?;
    let mut text = None;
    for format in formats {
        match format {
            Format::Json => report::write_result(&summary, out)?,
            Format::Junit => report::write_junit(&summary, out)?,
            Format::Text => text = Some(report::final_summary(&summary, out, style)),
        }
    }
    Ok(Reported { summary, text, torn })
}

fn summary(path: &Path, job: Option<&JobId>) -> Result<(Summary, Option<Torn>)> {
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
    Ok((recheck.finish(), torn))
}

/// Whether the file has events: a `result.json` has several lines, and its first is only `{`.
fn holds_events(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let limit = 2 * 1024 * 1024;
    let file = BufReader::new(fs_err::File::open(path)?);
    std::io::Read::take(file, limit).read_until(b'\n', &mut start)?;
    Ok(start.trim_ascii() != b"{")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::*;
    use crate::report::sample::{failing_job, reduce};
    use crate::report::{EventsFile, Sink, prepare_out, write_all};

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
            let reported = report(&out.join(source), None, &Format::ALL, Some(&again), Style::PLAIN).unwrap();
            assert!(reported.text.unwrap().starts_with("ERROR  meta-x on scarthgap"));
            assert_eq!(reported.torn, None);
            for name in ["result.json", "junit.xml"] {
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
        let reported = report(&path, None, &Format::ALL, None, Style::PLAIN).unwrap();
        assert!(reported.text.unwrap().starts_with("INTERRUPTED  meta-x on scarthgap"));
        assert_eq!(reported.torn.map(|torn| torn.bytes), Some(11));
        let result = report::read_result(&directory.path().join("result.json")).unwrap();
        assert_eq!(result, reported.summary);
    }
}
