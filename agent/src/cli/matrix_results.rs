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

    /// Writes the reports of all cells as one, and returns the exit status. `all`: the results as one.
    pub fn write(&self, all: &Summary) -> ExitStatus {
        let (jobs, out) = (&self.jobs, self.out);
        let placed = self.placed();
        let pages: Vec<(&Summary, &Path)> =
            placed.iter().map(|(job, place)| (*job, place.as_path())).collect();
        let mut written = vec![
            merged::write(jobs, out),
            report::write_result(all, out),
            report::write_merged_junit(jobs, out),
            report::write_pages(&pages, out),
            sarif::write(jobs, out),
        ];
        written.extend(placed.iter().map(|(job, place)| write_lost(job, place)));
        let mut exit = merged::exit(jobs);
        for error in written.into_iter().filter_map(Result::err) {
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

/// Writes the result of a cell that has no events, so that the reports can be written again with all cells.
fn write_lost(job: &Summary, place: &Path) -> Result<()> {
    if place.join(EventsFile::NAME).exists() {
        return Ok(());
    }
    fs_err::create_dir_all(place)?;
    report::write_result(job, place)
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
