//! The results of several jobs of one change, such as its machines and releases, as one.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use agent_types::error::{Error, Result};
use agent_types::events::JobIdentity;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::sanitize::sanitize_line;

use super::console::{failures, plain_verdict};
use super::output_file::replace;
use super::result;
use super::summary::Summary;
use super::totals::suites;
use super::verdict;

/// Names the layout of the merged file.
pub const SCHEMA: &str = "build-agent/results/v1";

/// The name of the merged file.
pub const NAME: &str = "results.json";

/// `meta-x scarthgap qemux86-64`
pub fn label(job: &JobIdentity) -> String {
    let parts = [job.name.clone(), job.release.clone(), machines(job)];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    sanitize_line(&parts.join(" ")).into_owned()
}

fn machines(job: &JobIdentity) -> String {
    job.machines.join(", ")
}

/// The exit status of all jobs together: that of the worst one.
pub fn exit(jobs: &[Summary]) -> ExitStatus {
    verdict::worst_of(jobs.iter().map(|job| job.exit)).unwrap_or(ExitStatus::Internal)
}

/// The outcome of the worst job, with its label.
fn outcome(jobs: &[Summary]) -> Outcome {
    let exit = exit(jobs);
    let worst = jobs.iter().find(|job| job.exit == exit);
    let outcome = worst.map_or(Outcome::NotRun("there is no job".into()), |job| {
        job.outcome.map_reason(|why| format!("{}: {why}", label(&job.job)))
    });
    // A flaky job is a success that must be visible.
    let flaky = jobs.iter().find(|job| matches!(job.outcome, Outcome::Flaky(_)));
    match (&outcome, flaky) {
        (Outcome::Passed, Some(flaky)) => flaky.outcome.clone(),
        _ => outcome,
    }
}

/// Keeps one result of each job of the matrix: of several attempts the last one. The second value are warnings.
///
/// # Errors
/// Usage, if one result is there twice, or they belong to different commits.
pub fn attempts(jobs: Vec<Summary>) -> Result<(Vec<Summary>, Vec<String>)> {
    let mut kept: Vec<Summary> = Vec::new();
    let mut warnings = Vec::new();
    let commits: BTreeSet<_> = jobs.iter().filter_map(|job| job.job.commit.clone()).collect();
    if commits.len() > 1 {
        let commits: Vec<String> = commits.into_iter().collect();
        return Err(Error::usage(format!(
            "the results belong to different commits: {}",
            sanitize_line(&commits.join(", "))
        ))
        .hint("merge only the results of one commit"));
    }
    for job in jobs {
        if !job.job.id.is_empty() && kept.iter().any(|known| known.job.id == job.job.id) {
            return Err(Error::usage(format!("the result of {} is named twice", label(&job.job)))
                .hint("name each result once"));
        }
        let same = kept.iter().position(|known| label(&known.job) == label(&job.job));
        let Some(place) = same else {
            kept.push(job);
            continue;
        };
        warnings.push(format!("there are several results of {}; the latest one counts", label(&job.job)));
        let time = |job: &Summary| job.started.map(super::summary::At::unix_milliseconds);
        if let Some(known) = kept.get_mut(place)
            && time(&job) >= time(known)
        {
            *known = job;
        }
    }
    Ok((kept, warnings))
}

/// The verdict of a job in a word, and its place in the list of jobs; `None` where no job ran.
type Cell = Option<(&'static str, usize)>;

/// The verdicts as a matrix: a row for each machine, a column for each release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub releases: Vec<String>,
    /// The machines, with a cell for each release.
    pub rows: Vec<(String, Vec<Cell>)>,
}

impl Matrix {
    /// In the order of the jobs.
    pub fn of(jobs: &[Summary]) -> Matrix {
        let names: BTreeSet<&str> = jobs.iter().map(|job| job.job.name.as_str()).collect();
        let row_name = |job: &JobIdentity| match names.len() {
            0 | 1 => machines(job),
            _ => format!("{} {}", job.name, machines(job)),
        };
        let mut matrix = Matrix { releases: Vec::new(), rows: Vec::new() };
        for (place, job) in jobs.iter().enumerate() {
            let column = match matrix.releases.iter().position(|known| *known == job.job.release) {
                Some(column) => column,
                None => {
                    matrix.releases.push(job.job.release.clone());
                    matrix.releases.len() - 1
                }
            };
            let name = row_name(&job.job);
            let row = match matrix.rows.iter().position(|(known, _)| *known == name) {
                Some(row) => row,
                None => {
                    matrix.rows.push((name, Vec::new()));
                    matrix.rows.len() - 1
                }
            };
            let cells = &mut matrix.rows[row].1;
            if cells.len() <= column {
                cells.resize(column + 1, None);
            }
            cells[column] = Some((word(job), place));
        }
        let columns = matrix.releases.len();
        matrix.rows.iter_mut().for_each(|(_, cells)| cells.resize(columns, None));
        matrix
    }
}

/// The verdict of a job in one word.
pub fn word(job: &Summary) -> &'static str {
    plain_verdict(job, &failures(job, &suites(job))).0
}

/// The matrix as lines of text.
pub fn text(jobs: &[Summary]) -> String {
    let matrix = Matrix::of(jobs);
    let sanitized = |name: &str| sanitize_line(name).into_owned();
    let first = matrix.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut lines = vec![format!("{:<first$}", "")];
    for release in &matrix.releases {
        lines[0] += &format!("  {:<12}", sanitized(release));
    }
    for (name, cells) in &matrix.rows {
        let mut line = format!("{:<first$}", sanitized(name));
        for cell in cells {
            line += &format!("  {:<12}", cell.map_or("", |(word, _)| word));
        }
        lines.push(line);
    }
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    exit: ExitStatus,
    exit_code: u8,
    #[serde(flatten)]
    outcome: Outcome,
    jobs: Vec<result::Document<'a>>,
}

/// Writes [`NAME`].
///
/// # Errors
/// When it cannot be written.
pub fn write(jobs: &[Summary], out: &Path) -> Result<()> {
    let exit = exit(jobs);
    let document = Document {
        schema: SCHEMA,
        exit,
        exit_code: exit.code(),
        outcome: outcome(jobs),
        jobs: jobs.iter().map(result::Document::of).collect(),
    };
    let text = serde_json::to_string_pretty(&document)
        .map_err(|error| Error::internal(format!("cannot render {NAME}")).because(&error))?;
    replace(&out.join(NAME), (text + "\n").as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::report::sample::{at, failing_job, passing_job, reduce};
    use agent_types::events::EventKind;

    fn job(release: &str, machine: &str, good: bool) -> Summary {
        let mut events = if good { passing_job() } else { failing_job() };
        if good {
            events.push(at(
                9000,
                EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed },
            ));
        }
        let mut summary = reduce(&events);
        summary.job.release = release.into();
        summary.job.machines = vec![machine.into()];
        summary.job.id = format!("{release}-{machine}").as_str().into();
        summary
    }

    #[test]
    fn the_worst_job_decides() {
        let jobs = [job("scarthgap", "a", true), job("scarthgap", "b", false), job("walnascar", "a", true)];
        assert_eq!(exit(&jobs), ExitStatus::Upstream);
        assert_eq!(exit(&jobs[..1]), ExitStatus::Passed);
        let wanted = "meta-x scarthgap b: check: yocto-check-layer meta-x failed";
        assert_eq!(outcome(&jobs), Outcome::Failed(wanted.into()));
        assert_eq!(exit(&[]), ExitStatus::Internal);
        let mut flaky = jobs.clone();
        flaky[1] = job("scarthgap", "b", true);
        flaky[1].outcome = Outcome::Flaky("test: x".into());
        assert_eq!(outcome(&flaky), Outcome::Flaky("test: x".into()));
    }

    #[test]
    fn machines_are_rows_and_releases_are_columns() {
        let jobs = [job("scarthgap", "a", true), job("scarthgap", "b", false), job("walnascar", "b", true)];
        let matrix = Matrix::of(&jobs);
        assert_eq!(matrix.releases, ["scarthgap", "walnascar"]);
        assert_eq!(
            matrix.rows,
            [
                ("a".to_owned(), vec![Some(("PASSED", 0)), None]),
                ("b".to_owned(), vec![Some(("ERROR", 1)), Some(("PASSED", 2))]),
            ]
        );
        assert_eq!(text(&jobs), "   scarthgap     walnascar\na  PASSED\nb  ERROR         PASSED\n");
    }

    #[test]
    fn the_last_attempt_counts_and_commits_are_not_mixed() {
        let (mut first, mut second) = (job("scarthgap", "a", false), job("scarthgap", "a", true));
        second.job.id = "another".into();
        first.started = None;
        for jobs in [vec![first.clone(), second.clone()], vec![second.clone(), first.clone()]] {
            let (kept, warnings) = attempts(jobs).unwrap();
            assert_eq!((kept.len(), warnings.len()), (1, 1));
            assert_eq!(kept[0].job.id, second.job.id);
        }
        assert!(attempts(vec![first.clone(), first.clone()]).is_err(), "the same job");
        second.job.commit = Some("f".repeat(40));
        let error = attempts(vec![first, second]).unwrap_err();
        assert!(error.message.contains("different commits"), "{error}");
    }
}
