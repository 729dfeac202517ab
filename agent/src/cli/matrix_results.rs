//! The results of the cells that ran on this machine, and their reports as one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{AgentEnvironment, Cell, Settings};
use crate::matrix_run::{self, CellEnd};
use crate::report::github_actions::{self, Annotations, WorkflowCommands};
use crate::report::markdown::{self, Options};
use crate::report::{self, CELLS, EventsFile, Report, Style, Summary, merged, sarif};
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::sanitize::sanitize_line;
use agent_types::words::count;

use super::arguments::Output;
use super::job::metrics;
use super::print;
use super::report::read_summary;

/// The events of a cell that passed for itself, although its process or the other cells contradict it.
const UNCONFIRMED: &str = "events-unconfirmed.jsonl";

/// The results of all cells.
pub struct CellResults<'a> {
    pub cells: &'a [(Cell, Settings)],
    /// In the order of the cells.
    pub jobs: Vec<Summary>,
    out: &'a Path,
}

/// The output directory of a cell.
pub fn cell_out(out: &Path, cell: &Cell) -> PathBuf {
    out.join(CELLS).join(&cell.id)
}

impl<'a> CellResults<'a> {
    /// Reads the results. If the cells have different sources, none of them passes.
    pub fn of(
        cells: &'a [(Cell, Settings)],
        ends: &[CellEnd],
        out: &'a Path,
        environment: &AgentEnvironment,
    ) -> CellResults<'a> {
        let mut jobs: Vec<Summary> = cells
            .iter()
            .zip(ends)
            .map(|((cell, settings), end)| matrix_run::of_cell(&settings.job, &cell_out(out, cell), end))
            .collect();
        if let Some(why) = merged::disagreement(&jobs).or_else(|| other_commit(&jobs)) {
            let error = Error::internal(format!("the cells have different sources: {why}"));
            let error = error.hint("run the matrix again");
            for job in jobs.iter_mut().filter(|job| job.exit == ExitStatus::Passed) {
                *job = report::without_run(job.job.clone(), error.clone());
            }
        }
        // A cell without a job has not read its commit.
        let commit = jobs.iter().find_map(|job| job.job.commit.clone());
        let commit = commit.or_else(|| environment.source_commit().map(str::to_owned));
        jobs.iter_mut()
            .filter(|job| job.job.commit.is_none())
            .for_each(|job| job.job.commit.clone_from(&commit));
        CellResults { cells, jobs, out }
    }

    /// The results as one.
    pub fn combined(&self) -> Summary {
        report::combined(&self.jobs)
    }

    /// Writes the reports of all cells as one, and returns the exit status. `all`: the results as one; it gets the errors of
    /// reports that could not be written.
    pub fn write(&self, all: &mut Summary) -> ExitStatus {
        let (jobs, out) = (&self.jobs, self.out);
        let placed = self.placed();
        let pages: Vec<(&Summary, &Path)> =
            placed.iter().map(|(job, place)| (*job, place.as_path())).collect();
        // With results.json, the reports can be made again from the cells, so these come first.
        let of_cells = placed.iter().map(|(job, place)| write_verdict(job, place));
        let mut written: Vec<Result<()>> = of_cells.collect();
        written.extend([
            merged::write(jobs, out),
            report::write_merged_junit(jobs, out),
            report::write_pages(&pages, out),
            sarif::write(jobs, out),
        ]);
        let mut lost: Vec<Error> = written.into_iter().filter_map(Result::err).collect();
        report::add_lost_reports(all, lost.clone());
        lost.extend(report::write_result(all, out).err());
        let mut exit = merged::exit(jobs);
        for error in lost {
            print::diagnostic(format_args!("error: a report is missing: {error}"));
            if exit == ExitStatus::Passed {
                exit = error.class.exit_status();
            }
        }
        exit
    }

    /// Gives the results to GitHub's runner, as one, and prints the metrics of each cell. The verdict does not depend on it.
    pub async fn give_to_services(
        &self,
        all: &Summary,
        commands: Option<&WorkflowCommands>,
        output: Output,
        environment: &AgentEnvironment,
    ) {
        let give = async |report: &dyn Report, summary: &Summary| {
            let _ = tokio::time::timeout(report.deadline(), report.write(Arc::new(summary.clone()))).await;
        };
        if let Some(commands) = commands {
            give(&Annotations { commands: commands.clone() }, all).await;
        }
        if let Some(path) = environment.github_actions.as_ref().and_then(|run| run.step_summary.as_ref()) {
            github_actions::append_markdown(path, &markdown::render_all(&self.jobs, &Options::default()));
        }
        for ((_, settings), job) in self.cells.iter().zip(&self.jobs) {
            if let Some(metrics) = metrics(settings, environment, output) {
                give(&*metrics, job).await;
            }
        }
    }

    /// The table of all cells, what did not pass, and where everything is.
    pub fn verdict(&self, exit: ExitStatus, style: Style) -> String {
        let mut text = String::new();
        for (job, place) in self.placed().iter().filter(|(job, _)| job.exit != ExitStatus::Passed) {
            text += &format!("\n{}", report::final_summary(job, place, style));
        }
        let (jobs, out) = (&self.jobs, self.out);
        let passed = jobs.iter().filter(|job| job.exit == ExitStatus::Passed).count();
        let word = match exit {
            ExitStatus::Passed => style.good("PASSED"),
            // A report is missing.
            _ if merged::exit(jobs) == ExitStatus::Passed => style.bad("ERROR"),
            _ => style.bad(merged::worst_word(jobs)),
        };
        let cells = count(jobs.len() as u64, "cell");
        text += &format!("\n{}\n{word}  {passed} of {cells} passed\n", merged::text(jobs));
        text += &format!("reports  {}\ncells    {}\n", out.display(), out.join(CELLS).display());
        text
    }

    /// Each result with the directory of its cell.
    fn placed(&self) -> Vec<(&Summary, PathBuf)> {
        let place = |((cell, _), job): (&(Cell, Settings), _)| (job, cell_out(self.out, cell));
        self.cells.iter().zip(&self.jobs).map(place).collect()
    }
}

/// Writes the result of a cell that has no events, or that passed for itself only, so that reports that are written again
/// have all cells and the same verdict.
fn write_verdict(job: &Summary, place: &Path) -> Result<()> {
    let events = place.join(EventsFile::NAME);
    if !events.exists() {
        fs_err::create_dir_all(place)?;
        return report::write_result(job, place);
    }
    let passes = || read_summary(&events, None).is_ok_and(|(own, _)| own.exit == ExitStatus::Passed);
    if job.exit == ExitStatus::Passed || !passes() {
        return Ok(());
    }
    fs_err::rename(&events, place.join(UNCONFIRMED))?;
    report::write_all(job, place)
}

/// Why the cells do not belong to one commit.
fn other_commit(jobs: &[Summary]) -> Option<String> {
    let mut commits = jobs.iter().filter_map(|job| job.job.commit.as_deref());
    let first = commits.next()?;
    let other = commits.find(|commit| *commit != first)?;
    Some(
        sanitize_line(&format!("the checkout is at {first} in one cell, and at {other} in another"))
            .into_owned(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::report::report;
    use super::*;
    use crate::report::Sink;
    use crate::report::sample::{at, failing_job, passed, passing_job, reduce};
    use agent_types::events::EventKind;
    use agent_types::outcome::Outcome;

    /// Reports that are made again from the files of a cell.
    fn again(place: &Path) -> ExitStatus {
        let files = [EventsFile::NAME, "result.json"].map(|name| place.join(name));
        let source = files.into_iter().find(|file| file.exists()).unwrap();
        let made = report(&[source], None, None, &[], &[], Some(place), Style::PLAIN).unwrap();
        merged::exit(&made.jobs)
    }

    #[test]
    fn the_files_of_a_cell_agree_with_its_verdict() {
        let ended = EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed };
        let passing = [passing_job(), vec![at(9000, ended)]].concat();
        let lost = report::without_run(passed().job, Error::machine("its process ended with signal 9"));
        for (events, job, wanted) in [
            (Some(&passing), passed(), ExitStatus::Passed),
            (Some(&passing), lost.clone(), ExitStatus::Machine),
            (Some(&failing_job()), reduce(&failing_job()), reduce(&failing_job()).exit),
            (None, lost, ExitStatus::Machine),
        ] {
            let place = tempfile::tempdir().unwrap();
            let place = place.path().join("cell");
            if let Some(events) = events {
                fs_err::create_dir(&place).unwrap();
                let mut file = EventsFile::create(&place).unwrap();
                events.iter().for_each(|event| file.event(event).unwrap());
            }
            write_verdict(&job, &place).unwrap();
            assert_eq!(again(&place), wanted, "{:?}", job.errors);
        }
    }
}
