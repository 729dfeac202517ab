//! `[matrix]`: one manifest for several jobs. Each combination of the axes is a cell: a set of values that override the
//! manifest's keys.

mod axes;
mod combine;
mod identifier;
mod overlay;

use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::problem::{Diagnostic, KeyPath, Problems};
use super::render;
use super::tree::{Node, Value};

use axes::Axes;
pub use overlay::{overlay, reject_flags};

/// The table of the manifest.
pub const KEY: &str = "matrix";

/// How many cells a matrix may have: as in GitHub Actions.
const MOST_CELLS: usize = 256;

/// The cells of a manifest, and how long all of them together may take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    pub cells: Vec<Cell>,
    /// `None`: each cell has only the limit of its job.
    pub limit: Option<Duration>,
}

/// One job of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Letters, digits and `_`; unique in the matrix, and the same whenever the values are the same.
    pub id: String,
    settings: Vec<Setting>,
}

/// A key of a cell and its value, both as the manifest has them.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    key: String,
    node: Node,
}

impl Setting {
    /// Whether both set the same key to the same value.
    fn is_same(&self, other: &Setting) -> bool {
        self.key == other.key && self.value() == other.value()
    }

    fn value(&self) -> Json {
        render::json(&self.node)
    }
}

impl Cell {
    /// The cell's values by key, for programs.
    pub fn values(&self) -> Map<String, Json> {
        self.settings.iter().map(|setting| (setting.key.clone(), setting.value())).collect()
    }

    /// `release = "scarthgap", machine = "qemuarm64"`, for people.
    pub fn shown(&self) -> String {
        let one = |setting: &Setting| format!("{} = {}", setting.key, render::inline(&setting.node));
        self.settings.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// Removes the matrix from a manifest's tree.
pub fn take(tree: &mut Node) -> Option<Node> {
    let Value::Table(entries) = &mut tree.value else { return None };
    let at = entries.iter().position(|entry| entry.key == KEY)?;
    Some(entries.remove(at).node)
}

/// Reads a matrix. Its cells are in the order of its axes. Reports what is wrong with it.
pub fn read(matrix: &Node, problems: &mut Problems) -> Matrix {
    let mut found = Problems::default();
    let axes = axes::read(matrix, &mut found);
    if !found.is_empty() {
        problems.append(found);
        return Matrix::default();
    }
    Matrix { limit: axes.limit, cells: cells(matrix, &axes, problems) }
}

fn cells(matrix: &Node, read: &Axes, problems: &mut Problems) -> Vec<Cell> {
    let mut problem = |mistake: Diagnostic| {
        let key = KeyPath::root().key(KEY).as_table();
        problems.add(matrix.place.clone(), Some(key), mistake);
    };
    let Some(combinations) = combine::combine(&read.axes, &read.exclude, &read.include) else {
        let mistake = Diagnostic::new(format!("has more than {} combinations", combine::MOST_COMBINATIONS));
        problem(mistake.hint("use fewer values, or write the cells as elements of `include`"));
        return Vec::new();
    };
    match combinations.len() {
        0 => {
            problem(Diagnostic::new("has no cell").hint("a job that does nothing never passes: exclude less"))
        }
        many if many > MOST_CELLS => {
            let message = format!("has {many} cells; at most {MOST_CELLS} are allowed");
            problem(Diagnostic::new(message).hint("split it into several manifests, or exclude more"));
            return Vec::new();
        }
        _ => {}
    }
    let axes: Vec<&str> = read.axes.iter().map(|axis| axis.key.as_str()).collect();
    let ids = identifier::identifiers(&combinations, &axes);
    let mut cells: Vec<Cell> = Vec::new();
    for (combination, id) in combinations.into_iter().zip(ids) {
        overlay::reject_conflicts(&combination, problems);
        let settings = combination.settings;
        if let (Some(first), true) = (settings.first(), cells.iter().any(|cell| cell.id == id)) {
            let mistake = Diagnostic::new("this cell is there twice");
            problems.add(first.node.place.clone(), Some(KeyPath::root().key(KEY).as_table()), mistake);
        }
        cells.push(Cell { id, settings });
    }
    cells
}

#[cfg(test)]
mod tests;
