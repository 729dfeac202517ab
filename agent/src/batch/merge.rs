//! The verdict of a batch, from the results of its cells: pure.
//!
//! A cell passes only by a result of its latest attempt that is complete, agrees with itself, and is about this cell and this
//! commit. Everything else is red: no result, a damaged one, or one that CodeBuild contradicts. If the cells have different
//! sources, none of them passes.

use std::collections::BTreeMap;

use agent_types::error::Error;
use agent_types::events::JobIdentity;
use agent_types::outcome::ExitStatus;
use agent_types::sanitize::sanitize_line;

use crate::report::{self, Summary, merged as reports};

use super::codebuild::{BuildStatus, CellBuild};
use super::graph::CellIdentity;
use super::records::{Attempts, Found};

/// The results of all cells, in the order of the cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    pub jobs: Vec<Summary>,
    pub warnings: Vec<String>,
}

/// Merges the results of the cells in the store. `builds`: the build of each cell as CodeBuild reports it, if it was queried.
pub fn merge(
    cells: &[CellIdentity],
    commit: &str,
    found: &Found,
    builds: Option<&BTreeMap<String, CellBuild>>,
) -> Merged {
    let mut merged = Merged::default();
    for cell in cells {
        let attempts = found.cells.get(&cell.id);
        if let Some(attempts) = attempts.filter(|attempts| attempts.number > 1) {
            merged.warnings.push(format!("{} ran {} times; the last time counts", cell.id, attempts.number));
        }
        let build = builds.map(|builds| builds.get(&cell.id));
        let job = checked_result(cell, commit, attempts, build).unwrap_or_else(|why| {
            merged.warnings.push(format!("{}: {why}", cell.id));
            lost(cell, commit, &why)
        });
        merged.jobs.push(job);
    }
    if let Some(why) = reports::disagreement(&merged.jobs) {
        let why = format!("the cells have different sources: {why}");
        for (cell, job) in cells.iter().zip(&mut merged.jobs) {
            if job.exit == ExitStatus::Passed {
                *job = lost(cell, commit, &why);
            }
        }
        merged.warnings.push(why);
    }
    if let Some(first) = found.unexpected.first() {
        merged.warnings.push(format!(
            "{} of the store are of no cell of this batch and were not read, such as `{first}`",
            agent_types::words::count(found.unexpected.len() as u64, "file")
        ));
    }
    merged
}

/// The result of a cell, if all checks agree with it; else the reason. `build`: as CodeBuild reports it, if it was queried.
fn checked_result(
    cell: &CellIdentity,
    commit: &str,
    attempts: Option<&Attempts>,
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
    let bytes = match &attempts.result {
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
fn lost(cell: &CellIdentity, commit: &str, why: &str) -> Summary {
    let error = Error::machine(format!("the cell {} has no result: {why}", cell.id))
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
