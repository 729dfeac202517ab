//! `build-agent merge`: the verdict of a batch from the results of its cells in the store. It does not wait for them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::batch::codebuild::CellBuild;
use crate::batch::memory::{MemoryTable, MemoryUse};
use crate::batch::merge::{Merged, Merger};
use crate::batch::records::{BatchStore, LARGEST_RESULT};
use crate::config::AgentEnvironment;
use crate::report;
use crate::report::{merged as reports, sarif};
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments::Merge;
use super::batch_cells::{BatchCells, batch_cells};
use super::job::style;
use super::output_dir::{OutputDir, directory};
use super::print;

/// The reports that are stored for people.
const STORED: [&str; 5] = [reports::NAME, "result.json", "report.html", "junit.xml", sarif::NAME];

pub async fn command(args: Merge, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let mut out = OutputDir::invalidate(directory(args.manifest.common.out.as_deref())?)?;
    let cells = batch_cells(&args.manifest, &args.release, &args.rules, &args.batch.id, environment).await?;
    let merged = merged(&cells, None).await?;
    let exit = write_reports(&merged, &mut out, environment)?;
    // The verdict does not depend on these.
    for stored in [store_reports(&cells.store, out.path()).await, store_memory(&cells, &merged).await] {
        if let Err(error) = stored {
            print::diagnostic(format_args!("warning: {error}"));
        }
    }
    Ok(exit)
}

/// Reads the results of all cells and merges them. `builds`: those of the cells, as CodeBuild reports them.
pub async fn merged(cells: &BatchCells, builds: Option<&BTreeMap<String, CellBuild>>) -> Result<Merged> {
    let found = cells.store.list(&cells.cells).await?;
    let mut merge = Merger::new(&cells.cells, &cells.store.key.commit, builds);
    for cell in &cells.cells {
        let attempts = found.cells.get(&cell.id);
        let stored = match attempts {
            Some(attempts) => cells.store.result(&cell.id, &attempts.latest).await,
            None => None,
        };
        merge.add(cell, attempts, &stored);
    }
    Ok(merge.finish(&found.unexpected))
}

/// Writes the reports of all cells together, prints the verdict, and returns it.
pub fn write_reports(
    merged: &Merged,
    out: &mut OutputDir,
    environment: &AgentEnvironment,
) -> Result<ExitStatus> {
    for warning in &merged.warnings {
        print::diagnostic(format_args!("warning: {warning}"));
    }
    let out = out.begin_merged()?;
    let jobs = &merged.jobs;
    reports::write(jobs, &out)?;
    report::write_result(&report::combined(jobs), &out)?;
    report::write_merged_junit(jobs, &out)?;
    let placed: Vec<_> = jobs.iter().map(|job| (job, out.as_path())).collect();
    report::write_pages(&placed, &out)?;
    sarif::write(jobs, &out)?;
    let style = style(environment);
    let mut text = reports::text(jobs);
    for job in jobs.iter().filter(|job| job.exit != ExitStatus::Passed) {
        text.push('\n');
        text += &report::final_summary(job, &out, style);
    }
    print::text(&text)?;
    Ok(reports::exit(jobs))
}

/// Stores the reports. One that is too large does not keep the others away.
async fn store_reports(batch: &BatchStore, out: &Path) -> Result<()> {
    let mut failed = None;
    for name in STORED {
        if let Err(error) = store_report(batch, out, name).await {
            failed.get_or_insert(error);
        }
    }
    match failed {
        Some(error) => Err(error),
        None => print::line(format_args!("stored in {}", batch.store.shown(&batch.key.merged()))),
    }
}

async fn store_report(batch: &BatchStore, out: &Path, name: &str) -> Result<()> {
    let content = agent_fs::read::whole(&out.join(name), LARGEST_RESULT).map_err(Error::from)?;
    batch.store.write(&format!("{}/{name}", batch.key.merged()), content).await
}

/// Stores the peak memory of each cell, for the machines of the next batch.
async fn store_memory(cells: &BatchCells, merged: &Merged) -> Result<()> {
    let path = cells.store.key.memory();
    let known = cells.store.store.read(&path, MemoryTable::LARGEST).await?;
    let known = known.map(|bytes| MemoryTable::parse(&bytes)).unwrap_or_default();
    let runs = cells.cells.iter().zip(&merged.jobs);
    let runs = runs.filter_map(|(cell, job)| Some((cell.id.as_str(), MemoryUse::of(job)?)));
    cells.store.store.write(&path, known.with(runs).render().into_bytes()).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use agent_artifacts::records::RecordStore;
    use agent_types::artifact::Destination;

    use super::*;
    use crate::batch::key::BatchKey;

    #[tokio::test]
    async fn a_report_that_is_too_large_does_not_keep_the_others_away() {
        let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let destination = Destination::Directory(root.path().to_owned());
        let store = RecordStore::open(&destination, false, None, "index.json").await.unwrap();
        let key = BatchKey::new("x", Some("c0ffee"), false, "d1", "b-1").unwrap();
        let batch = BatchStore { store, key };
        for name in STORED {
            std::fs::write(out.path().join(name), name).unwrap();
        }
        let large = std::fs::OpenOptions::new().write(true).open(out.path().join(STORED[0])).unwrap();
        large.set_len(LARGEST_RESULT + 1).unwrap();
        assert!(store_reports(&batch, out.path()).await.is_err());
        for (place, name) in STORED.iter().enumerate() {
            let stored = batch.store.read(&format!("{}/{name}", batch.key.merged()), 100).await.unwrap();
            assert_eq!(stored.is_some(), place > 0, "{name}");
        }
    }
}
