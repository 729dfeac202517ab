//! The cells of a batch, and its part of the store. All commands of a batch begin with them.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::batch::graph::CellIdentity;
use crate::batch::key::BatchKey;
use crate::batch::records::BatchStore;
use crate::batch::warm::WarmCell;
use crate::config::{AgentEnvironment, Cell, Destination, Request, Settings};
use crate::stages::checkout;
use agent_artifacts::records::RecordStore;
use agent_process::Redactor;
use agent_types::error::{Error, Result};
use agent_types::words::hexadecimal;

use super::arguments::{ManifestArgs, ReleaseArgs, RulesArgs};
use super::base_rules::with_rules;
use super::cells::{load_cells, matrix_cells};
use super::head::unrecorded_runner;
use super::job::request_with_rules;

/// Time limit of git, which reads the work tree.
const LIMIT: Duration = Duration::from_secs(120);

/// The cells and the store of a batch: each build computes them from its checkout and its command line.
pub struct BatchCells {
    /// Not empty.
    pub loaded: Vec<(Cell, Settings)>,
    /// The same, as the results name them.
    pub cells: Vec<CellIdentity>,
    pub store: BatchStore,
    /// The commit of the base branch whose rules apply, if it is a pull request.
    pub base: Option<String>,
}

impl BatchCells {
    /// The settings of the first cell, for values that all cells have in common.
    pub fn settings(&self) -> &Settings {
        &self.loaded[0].1
    }
}

/// Reads the manifest's cells and opens the store of the batch: the destination of the artifacts.
///
/// # Errors
/// Usage, with all problems of all cells, if there is no matrix, or if other machines could not have the checkout; upstream
/// or machine, if the base of a pull request cannot be read, or the store cannot be opened.
pub async fn batch_cells(
    manifest: &ManifestArgs,
    release: &ReleaseArgs,
    rules: &RulesArgs,
    id: &str,
    environment: &AgentEnvironment,
) -> Result<BatchCells> {
    let request = request_with_rules(manifest, release, rules).await?;
    let ruled = with_rules(Request { cell: None, ..request }, &[], environment).await?;
    let all = &ruled.request;
    let cells = matrix_cells(all, environment).await?.unwrap_or_default();
    let loaded = load_cells(cells, all, environment).await?;
    let Some((_, first)) = loaded.first() else {
        return Err(Error::usage("the manifest has no [matrix], so a batch has no cells")
            .hint("add a [matrix] (docs/matrix.md), or use `build-agent run` for a single job"));
    };
    let (runner, _logs) = unrecorded_runner(Redactor::new(environment.secrets()), LIMIT)?;
    let found = checkout::look(first, &runner).await?;
    let key = BatchKey::new(&first.job.name, found.commit.as_deref(), found.dirty, &digest(&loaded), id)?;
    let artifacts = &first.artifacts;
    if artifacts.destination == Destination::Directory(first.paths.out.clone()) {
        return Err(Error::usage(
            "the builds of a batch have no common store: there is no [artifacts] destination",
        )
        .hint("set [artifacts] destination to an s3:// address, or to a directory that all machines mount"));
    }
    let other = loaded.iter().find(|(_, settings)| settings.artifacts.destination != artifacts.destination);
    if let Some((cell, _)) = other {
        return Err(Error::usage(format!("the cell {} has another [artifacts] destination", cell.id))
            .hint("all builds of a batch use the same store, so all cells need the same destination"));
    }
    let kms_key_id = artifacts.kms_key_id.as_deref();
    let store = RecordStore::open(&artifacts.destination, false, kms_key_id, "index.json").await?;
    let cells = loaded.iter().map(|(cell, settings)| CellIdentity {
        id: cell.id.clone(),
        name: settings.job.name.clone(),
        release: settings.job.release.clone(),
        machines: settings.job.machines.clone(),
    });
    let base = all.rules.base_commit().map(str::to_owned);
    Ok(BatchCells { cells: cells.collect(), store: BatchStore { store, key }, base, loaded })
}

/// What the cells have for `warm`.
pub fn warm_cells(loaded: &[(Cell, Settings)]) -> Vec<WarmCell<'_>> {
    loaded.iter().map(|(cell, settings)| warm_cell(cell, settings)).collect()
}

pub fn warm_cell<'a>(cell: &'a Cell, settings: &'a Settings) -> WarmCell<'a> {
    WarmCell {
        id: &cell.id,
        release: settings.release.name,
        repos: &settings.repos,
        targets: &settings.build.targets,
        shares: settings.cache.share.as_ref().is_some_and(|shared| shared.writes().is_some()),
        is_trusted: settings.cache.trust.is_trusted(),
    }
}

/// The digest of the manifest's text and the values of each cell.
fn digest(loaded: &[(Cell, Settings)]) -> String {
    let mut hasher = Sha256::new();
    for (cell, settings) in loaded {
        let values = serde_json::Value::Object(cell.values());
        let manifest = settings.reproduction.manifest.as_deref().unwrap_or_default();
        let part = serde_json::json!([cell.id, values, settings.job.name, manifest]);
        hasher.update(part.to_string());
    }
    hexadecimal(&hasher.finalize())
}
