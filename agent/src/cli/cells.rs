//! The cells of a manifest's matrix, for the commands that are about all of them.

use std::time::SystemTime;

use crate::config::{self, AgentEnvironment, Cell, Matrix, Request, Settings};
use agent_types::error::{Error, Result};

use super::current_dir::current_dir;
use super::included_repos::with_included_repos;
use super::limited_reading::limit_reading;
use super::print;

/// The matrix of the request's manifest; `None` if it has none, or if the request names a cell.
///
/// # Errors
/// Usage, with all problems of the matrix.
pub async fn matrix(request: &Request, environment: &AgentEnvironment) -> Result<Option<Matrix>> {
    if request.cell.is_some() {
        return Ok(None);
    }
    limit_reading(request, environment)?;
    config::load_matrix(request, environment, &current_dir()?)
}

/// The same, for commands that need only the cells.
///
/// # Errors
/// Those of [`matrix`].
pub async fn matrix_cells(request: &Request, environment: &AgentEnvironment) -> Result<Option<Vec<Cell>>> {
    Ok(matrix(request, environment).await?.map(|matrix| matrix.cells))
}

/// The settings of all cells.
///
/// # Errors
/// Those of one cell; usage, with the problems of all cells.
pub async fn load_cells(
    cells: Vec<Cell>,
    request: &Request,
    environment: &AgentEnvironment,
) -> Result<Vec<(Cell, Settings)>> {
    let (here, now) = (current_dir()?, SystemTime::now());
    let mut loaded = Vec::new();
    for cell in cells {
        let request = Request { cell: Some(cell.id.clone()), ..request.clone() };
        let load = |request: &Request| config::load_or_problems(request, environment, &here, now);
        let settings =
            with_included_repos(&request, environment, load).await.map_err(|error| of_cell(error, &cell))?;
        if let Ok(settings) = &settings {
            print::hide(&settings.secrets);
        }
        loaded.push((cell, settings));
    }
    config::without_problems(loaded, request)
}

/// An error of one cell.
pub fn of_cell(error: Error, cell: &Cell) -> Error {
    let message = format!("cell {}: {}", cell.id, error.message);
    Error { message, ..error }
}
