//! The verdict of a batch, from the results of its cells: pure.
//!
//! A cell passes only by a result of its latest attempt that is complete, agrees with itself, and is about this cell and this
//! commit. Everything else is red: no result, a damaged one, or one that CodeBuild contradicts. If the cells have different
//! sources, none of them passes.

use std::collections::BTreeMap;

use agent_types::error::{Class, Error};
use agent_types::events::JobIdentity;
use agent_types::outcome::ExitStatus;
use agent_types::sanitize::sanitize_line;

use crate::report::{self, Summary, merged as reports};

use super::codebuild::{BuildStatus, CellBuild};
use super::graph::CellIdentity;
use super::records::{Attempts, Stored};
use super::shortened;

/// The results of all cells, in the order of the cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    pub jobs: Vec<Summary>,
    pub warnings: Vec<String>,
}

/// Merges the results of the cells, one after another, so that only one is in memory as a whole.
pub struct Merger<'a> {
    cells: &'a [CellIdentity],
    commit: &'a str,
    /// The build of each cell as CodeBuild reports it, if it was queried.
    builds: Option<&'a BTreeMap<String, CellBuild>>,
    merged: Merged,
}

impl<'a> Merger<'a> {
    pub fn new(
        cells: &'a [CellIdentity],
        commit: &'a str,
        builds: Option<&'a BTreeMap<String, CellBuild>>,
    ) -> Merger<'a> {
        Merger { cells, commit, builds, merged: Merged::default() }
    }

    /// Adds the next cell. `attempts`: those in the store; `stored`: the result of the latest one.
    pub fn add(&mut self, cell: &CellIdentity, attempts: Option<&Attempts>, stored: &Stored) {
        let warnings = &mut self.merged.warnings;
        if let Some(attempts) = attempts.filter(|attempts| attempts.number > 1) {
            warnings.push(format!("{} ran {} times; the last time counts", cell.id, attempts.number));
        }
        let build = self.builds.map(|builds| builds.get(&cell.id));
        let checked = checked_result(cell, self.commit, attempts, stored, build);
        let limit = shortened::part_of(self.cells.len());
        let shortened =
            checked.and_then(|job| shortened::shortened(job, limit).map_err(|error| error.message));
        let job = shortened.unwrap_or_else(|why| {
            warnings.push(format!("{}: {why}", cell.id));
            let class = match build.flatten() {
                Some(CellBuild { status: BuildStatus::Stopped, .. }) => Class::Cancelled,
                _ => Class::Machine,
            };
            lost(cell, self.commit, class, &why)
        });
        self.merged.jobs.push(job);
    }

    /// The results of all cells. `unexpected`: files in the store of no cell.
    pub fn finish(self, unexpected: &[String]) -> Merged {
        let mut merged = self.merged;
        if let Some(why) = reports::disagreement(&merged.jobs) {
            let why = format!("the cells have different sources: {why}");
            for (cell, job) in self.cells.iter().zip(&mut merged.jobs) {
                if job.exit == ExitStatus::Passed {
                    *job = lost(cell, self.commit, Class::Machine, &why);
                }
            }
            merged.warnings.push(why);
        }
        if let Some(first) = unexpected.first() {
            merged.warnings.push(format!(
                "{} of the store are of no cell of this batch and were not read, such as `{first}`",
                agent_types::words::count(unexpected.len() as u64, "file")
            ));
        }
        merged
    }
}

/// The result of a cell, if all checks agree with it; else the reason. `build`: as CodeBuild reports it, if it was queried.
fn checked_result(
    cell: &CellIdentity,
    commit: &str,
    attempts: Option<&Attempts>,
    stored: &Stored,
    build: Option<Option<&CellBuild>>,
) -> Result<Summary, String> {
    let ended = match build.flatten() {
        Some(build) => format!("; CodeBuild says {} about its build", build.status.word()),
        None => String::new(),
    };
    let Some(attempts) = attempts else { return Err(format!("it has not run{ended}")) };
    if let Some(id) = build.flatten().and_then(|build| build.id.as_deref())
        && attempts.latest.build() != id
    {
        return Err(format!("its last build has no result{ended}"));
    }
    let bytes = match stored {
        Some(read) => read.as_ref().map_err(|why| sanitize_line(why).into_owned())?,
        None => return Err(format!("it began, and its machine was lost or stopped{ended}")),
    };
    let read = report::parse_result(bytes, "result.json").and_then(report::recheck_result);
    let summary = read.map_err(|error| sanitize_line(&error.message).into_owned())?;
    let job = &summary.job;
    let is_same = (&job.name, &job.release, &job.machines) == (&cell.name, &cell.release, &cell.machines);
    if !is_same || job.cell.as_ref() != Some(&cell.id) {
        return Err("its result is that of another job".to_owned());
    }
    if job.commit.as_deref() != Some(commit) || job.dirty {
        return Err("its result is not that of this commit".to_owned());
    }
    let is_good = matches!(build, None | Some(Some(CellBuild { status: BuildStatus::Succeeded, .. })));
    if summary.exit == ExitStatus::Passed && !is_good {
        let word = build.flatten().map_or("nothing", |build| build.status.word());
        return Err(format!("its result says that it passed, and CodeBuild says {word}"));
    }
    Ok(summary)
}

/// The result of a cell that has none.
fn lost(cell: &CellIdentity, commit: &str, class: Class, why: &str) -> Summary {
    let error = Error::new(class, format!("the cell {} has no result: {why}", cell.id))
        .hint("read the log of its build, then retry the batch");
    let job = JobIdentity {
        name: cell.name.clone(),
        release: cell.release.clone(),
        machines: cell.machines.clone(),
        cell: Some(cell.id.clone()),
        commit: Some(commit.to_owned()),
        ..JobIdentity::default()
    };
    report::without_run(job, error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "merge_tests.rs"]
mod tests;
