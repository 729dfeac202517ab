//! The cells of a request's manifest, and the settings of all of them.

use std::path::Path;

use agent_types::error::Result;

use super::cell;
use super::environment::AgentEnvironment;
use super::include;
use super::load;
use super::matrix::{Cell, Matrix};
use super::paths;
use super::problem::Problems;
use super::request::Request;
use super::settings::Settings;
use super::whole_manifest;

/// The matrix of the request's manifest; `None`, if it has none. Fetches nothing: a matrix is in the manifest, or in a
/// file of the checkout that it includes.
///
/// # Errors
/// Usage, if the manifest cannot be read, or with all problems of the matrix.
pub fn load_matrix(request: &Request, env: &AgentEnvironment, cwd: &Path) -> Result<Option<Matrix>> {
    if request.definition.is_some() || request.definition_files().is_some() {
        return Ok(None);
    }
    let project_root = paths::find(request, env, cwd)?;
    let bytes = whole_manifest::text(request, &project_root)?;
    // Loading the manifest reports what is wrong with the rest of it.
    let Some(top) = whole_manifest::parse(&bytes, &project_root, &mut Problems::default()) else {
        return Ok(None);
    };
    let included = include::read(top, &project_root, &[], &mut Problems::default());
    let mut problems = Problems::default();
    let matrix = cell::of_tree(&included.tree, request, &mut problems);
    if problems.is_empty() { Ok(matrix) } else { Err(problems.into()) }
}

/// The settings of all cells, in their order.
///
/// # Errors
/// Usage, with the problems of all cells: each once, with the cells that have it.
pub fn without_problems(
    cells: Vec<(Cell, std::result::Result<Settings, Problems>)>,
    request: &Request,
) -> Result<Vec<(Cell, Settings)>> {
    let (mut settings, mut found) = (Vec::new(), Vec::new());
    let count = cells.len();
    for (cell, loaded) in cells {
        match loaded {
            Ok(loaded) => settings.push((cell, loaded)),
            Err(problems) => found.push((cell.id, problems)),
        }
    }
    match found.is_empty() {
        true => Ok(settings),
        false => Err(load::refused(Problems::of_cells(found, count), &request.rules)),
    }
}
