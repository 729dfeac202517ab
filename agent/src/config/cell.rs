//! `--cell ID`: finds the cell of a manifest's matrix.

use agent_types::error::{Error, Result};

use super::include;
use super::matrix::{self, Cell, Matrix};
use super::paths::ProjectRoot;
use super::problem::{Diagnostic, KeyPath, Problems};
use super::request::Request;
use super::tree::Node;
use super::{flags, structure};

/// The matrix of a manifest's tree; flags may change it.
pub fn of_tree(tree: &Node, request: &Request, problems: &mut Problems) -> Option<Matrix> {
    let mut tree = tree.clone();
    // What is wrong with the flags is reported when they are applied to the cells.
    flags::apply(&mut tree, &request.set, &mut Problems::default());
    tree.child(matrix::KEY).map(|matrix| matrix::read(matrix, problems))
}

/// The cell that the request names; `None` for a manifest without a matrix.
///
/// # Errors
/// Usage, if there is no such cell, or if it names none of several.
pub fn of_request(tree: &Node, request: &Request, problems: &mut Problems) -> Result<Option<Cell>> {
    let mut found = Problems::default();
    let cells = of_tree(tree, request, &mut found).map(|matrix| matrix.cells);
    let is_valid = found.is_empty();
    problems.append(found);
    match (cells, &request.cell) {
        (None, None) => Ok(None),
        (None, Some(id)) => Err(no_matrix(id)),
        // The problems say why.
        (Some(_), _) if !is_valid => Ok(None),
        (Some(cells), None) => {
            let message = "the manifest has a matrix, and this command needs one of its cells";
            Err(Error::usage(message).hint(format!("add --cell ID with one of: {}", names(&cells))))
        }
        (Some(cells), Some(id)) => match cells.iter().find(|cell| cell.id == *id) {
            Some(cell) => Ok(Some(cell.clone())),
            None => {
                let nearest = structure::nearest(id, cells.iter().map(|cell| cell.id.as_str()));
                let hint = match nearest {
                    Some(nearest) => format!("did you mean `{nearest}`?"),
                    None => format!("its cells are: {}", names(&cells)),
                };
                Err(Error::usage(format!("--cell {id}: the matrix has no such cell")).hint(hint))
            }
        },
    }
}

/// The error for a cell of a manifest that has no matrix.
pub fn no_matrix(id: &str) -> Error {
    Error::usage(format!("--cell {id}: the manifest has no [{}]", matrix::KEY)).hint("remove --cell")
}

/// Reports a matrix that comes from a repository: the cells must be known before anything is fetched, because the
/// repository's own branch may depend on the cell.
pub fn reject_foreign_matrix(top: &Node, all: &Node, project_root: &ProjectRoot, problems: &mut Problems) {
    let own = include::read(top.clone(), project_root, &[], &mut Problems::default());
    let matrix = all.child(matrix::KEY);
    if let Some(foreign) = matrix.filter(|matrix| own.tree.child(matrix::KEY) != Some(matrix)) {
        let key = KeyPath::root().key(matrix::KEY).as_table();
        let mistake = Diagnostic::new("a file of a repository must not change the matrix");
        let hint = "write it into the manifest, or into a file of the checkout that the manifest includes";
        problems.add(foreign.place.clone(), Some(key), mistake.hint(hint));
    }
}

/// A list of cells for people, of bounded length.
fn names(cells: &[Cell]) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = cells.iter().take(SHOWN).map(|cell| cell.id.as_str()).collect();
    let rest = cells.len().saturating_sub(SHOWN);
    let more = if rest > 0 { format!(" and {rest} more (build-agent plan)") } else { String::new() };
    names.join(", ") + &more
}
