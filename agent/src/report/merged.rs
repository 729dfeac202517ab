//! The results of several jobs of one change, such as its machines and releases, as one.

use std::collections::{BTreeMap, BTreeSet};
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

/// `meta-x scarthgap qemux86-64`; a cell of a matrix has its identifier instead.
pub fn label(job: &JobIdentity) -> String {
    let parts = match &job.cell {
        Some(cell) => [job.name.clone(), cell.clone(), String::new()],
        None => [job.name.clone(), job.release.clone(), machines(job)],
    };
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    sanitize_line(&parts.join(" ")).into_owned()
}

fn machines(job: &JobIdentity) -> String {
    job.machines.join(", ")
}

/// What distinguishes a job from the others of its release: its machines, or its cell if others have the same machines.
pub fn configuration<'a>(job: &JobIdentity, jobs: impl Iterator<Item = &'a JobIdentity>) -> String {
    let is_same = |other: &JobIdentity| {
        other.name == job.name && other.release == job.release && other.machines == job.machines
    };
    match &job.cell {
        Some(cell) if jobs.filter(|other| is_same(other)).count() > 1 => cell.clone(),
        _ => machines(job),
    }
}

/// Why cells of one matrix do not belong together: they were built with different commits of one branch, or judged by the
/// rules of different base commits. All cells must use the same pins.
pub fn disagreement(jobs: &[Summary]) -> Option<String> {
    let mut commits: BTreeMap<(&str, &str, &str), (&str, &str)> = BTreeMap::new();
    let cells = jobs.iter().filter_map(|job| Some((job.job.cell.as_deref()?, job)));
    for (cell, job) in cells {
        let repos = job.repos.iter().filter_map(|repo| {
            let key = (repo.name.as_str(), repo.url.as_deref()?, repo.wanted.as_deref()?);
            Some((key, repo.commit.as_deref()?))
        });
        let base = job.reproduction.as_ref().and_then(|known| known.base.as_deref());
        let base = base.map(|base| (("the base of the change", "", ""), base));
        for (key, commit) in repos.chain(base) {
            let (first, known) = *commits.entry(key).or_insert((cell, commit));
            if known != commit {
                let (name, _, wanted) = key;
                let of = if wanted.is_empty() { String::new() } else { format!(" ({wanted})") };
                let text =
                    format!("{name}{of} is {known} in the cell {first}, and {commit} in the cell {cell}");
                return Some(sanitize_line(&text).into_owned());
            }
        }
    }
    None
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
    if let Some(why) = disagreement(&jobs) {
        return Err(Error::usage(format!("the cells have different sources: {why}"))
            .hint("give all cells the same commits: commit build-agent.lock, or use --pins"));
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
        let identities = || jobs.iter().map(|job| &job.job);
        let row_name = |job: &JobIdentity| match names.len() {
            0 | 1 => configuration(job, identities()),
            _ => format!("{} {}", job.name, configuration(job, identities())),
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

/// The verdict of the worst job in one word.
pub fn worst_word(jobs: &[Summary]) -> &'static str {
    let exit = exit(jobs);
    jobs.iter().find(|job| job.exit == exit).map_or("ERROR", word)
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
    use crate::report::sample::{failing_job, passed, reduce};

    fn job(release: &str, machine: &str, good: bool) -> Summary {
        let mut summary = if good { passed() } else { reduce(&failing_job()) };
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

    /// A table with one row for both would hide one verdict.
    #[test]
    fn cells_with_the_same_machine_and_release_have_rows_of_their_own() {
        let mut jobs = [job("scarthgap", "a", true), job("scarthgap", "a", false)];
        for (job, cell) in jobs.iter_mut().zip(["a_main", "a_next"]) {
            job.job.cell = Some(cell.into());
            job.job.id = cell.into();
        }
        assert_eq!(text(&jobs), "        scarthgap\na_main  PASSED\na_next  ERROR\n");
        assert_eq!(attempts(jobs.to_vec()).unwrap().0.len(), 2);
        assert_eq!(label(&jobs[0].job), "meta-x a_main");
    }

    #[test]
    fn cells_with_different_commits_of_one_branch_are_not_merged() {
        let mut jobs = [job("scarthgap", "a", true), job("scarthgap", "b", true)];
        let repo = |commit: &str| agent_types::events::RepoReady {
            name: "poky".into(),
            url: Some("https://h/poky".into()),
            commit: Some(commit.into()),
            wanted: Some("scarthgap".into()),
            path: "/poky".into(),
            how: "cloned".into(),
            patches: Vec::new(),
            patches_sha256: None,
        };
        for (job, commit) in jobs.iter_mut().zip(["1", "2"]) {
            job.repos = vec![repo(commit)];
        }
        assert_eq!(disagreement(&jobs), None, "they are no cells");
        for (job, cell) in jobs.iter_mut().zip(["x", "y"]) {
            job.job.cell = Some(cell.into());
        }
        let why = disagreement(&jobs).unwrap();
        assert_eq!(why, "poky (scarthgap) is 1 in the cell x, and 2 in the cell y");
        assert!(attempts(jobs.to_vec()).is_err());
        jobs[1].repos = vec![repo("1")];
        assert_eq!(disagreement(&jobs), None);
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
