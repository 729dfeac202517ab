//! `build-agent merge`: the verdict of a batch from what its cells left in the store. It waits for nothing.

use std::collections::BTreeMap;
use std::path::Path;

use crate::batch::codebuild::CellBuild;
use crate::batch::memory::{MemoryTable, MemoryUse};
use crate::batch::merge::{Merged, merge};
use crate::config::AgentEnvironment;
use crate::report;
use crate::report::merged as reports;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments::Merge;
use super::base_rules::with_rules;
use super::batch_cells::{BatchCells, batch_cells};
use super::job::{request, style, with_release, with_rules_args};
use super::output_dir::{OutputDir, directory};
use super::print;

/// The reports that are stored for people.
const STORED: [&str; 4] = [reports::NAME, "result.json", "report.html", "junit.xml"];

/// Maximum bytes of one of them.
const LARGEST: u64 = 64 << 20;

pub async fn command(args: Merge, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let out = directory(args.manifest.common.out.as_deref())?;
    OutputDir::invalidate(out.clone())?;
    let asked = with_rules_args(with_release(request(&args.manifest).await?, &args.release), &args.rules);
    let ruled = with_rules(asked, &[], environment).await?;
    let cells = batch_cells(&ruled.request, environment, &args.batch.id).await?;
    let merged = merged(&cells, None).await?;
    let exit = write_reports(&merged, &out, environment)?;
    // The verdict does not depend on these.
    for stored in [store_reports(&cells, &out).await, store_memory(&cells, &merged).await] {
        if let Err(error) = stored {
            print::diagnostic(format_args!("warning: {error}"));
        }
    }
    Ok(exit)
}

/// Reads the results of all cells and merges them. `said`: what CodeBuild says of their builds.
pub async fn merged(cells: &BatchCells, said: Option<&BTreeMap<String, CellBuild>>) -> Result<Merged> {
    let found = cells.store.read(&cells.cells).await?;
    Ok(merge(&cells.cells, &cells.store.key.commit, &found, said))
}

/// Writes the reports of all cells together, prints the verdict, and returns it.
pub fn write_reports(merged: &Merged, out: &Path, environment: &AgentEnvironment) -> Result<ExitStatus> {
    for warning in &merged.warnings {
        print::diagnostic(format_args!("warning: {warning}"));
    }
    fs_err::create_dir_all(out)?;
    let jobs = &merged.jobs;
    reports::write(jobs, out)?;
    report::write_result(&report::combined(jobs), out)?;
    report::write_merged_junit(jobs, out)?;
    let placed: Vec<_> = jobs.iter().map(|job| (job, out)).collect();
    report::write_pages(&placed, out)?;
    let style = style(environment);
    let mut text = reports::text(jobs);
    for job in jobs.iter().filter(|job| job.exit != ExitStatus::Passed) {
        text.push('\n');
        text += &report::final_summary(job, out, style);
    }
    print::text(&text)?;
    Ok(reports::exit(jobs))
}

async fn store_reports(cells: &BatchCells, out: &Path) -> Result<()> {
    for name in STORED {
        let content = agent_fs::read::whole(&out.join(name), LARGEST).map_err(Error::from)?;
        cells.store.store.write(&format!("{}/{name}", cells.store.key.merged()), content).await?;
    }
    print::line(format_args!("stored in {}", cells.store.store.shown(&cells.store.key.merged())))
}

/// Remembers what each cell needed, for the machines of the next batch.
async fn store_memory(cells: &BatchCells, merged: &Merged) -> Result<()> {
    let path = cells.store.key.memory();
    let known = cells.store.store.read(&path, MemoryTable::LARGEST).await?;
    let known = known.map(|bytes| MemoryTable::parse(&bytes)).unwrap_or_default();
    let runs = cells.cells.iter().zip(&merged.jobs);
    let runs = runs.filter_map(|(cell, job)| Some((cell.id.as_str(), MemoryUse::of(job)?)));
    cells.store.store.write(&path, known.with(runs).render().into_bytes()).await
}
