//! The builds of a batch and what each waits for.

use std::collections::BTreeSet;

use agent_types::error::{Error, Result};

use super::compute::ComputeType;

/// The build that stores the lock and fills the caches.
pub const WARM: &str = "warm";

/// The build that merges the results.
pub const MERGE: &str = "merge";

/// Maximum length of an identifier. CodeBuild documents none; the names of its logs and pages contain it.
const LONGEST: usize = 100;

/// One job of the matrix, as its result names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellIdentity {
    /// Letters, digits and `_`.
    pub id: String,
    pub name: String,
    pub release: String,
    pub machines: Vec<String>,
}

/// One build of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    pub depends_on: Vec<String>,
    /// `None`: the compute type of the project.
    pub compute_type: Option<ComputeType>,
    /// Whether builds that wait for it run although it failed.
    pub ignore_failure: bool,
}

/// The builds of a batch: `warm`, then all cells at once, then `merge`. The failure of a build stops no other one, because
/// `merge` must always report.
///
/// # Errors
/// Usage, if there is no cell, or an identifier is invalid or there twice.
pub fn graph(
    cells: &[CellIdentity],
    warm: Option<ComputeType>,
    of_cell: impl Fn(&CellIdentity) -> Option<ComputeType>,
) -> Result<Vec<Node>> {
    if cells.is_empty() {
        return Err(Error::usage("the manifest has no [matrix], so a batch has no cells")
            .hint("add a [matrix], or use `build-agent run` for a single job"));
    }
    let mut seen = BTreeSet::new();
    for cell in cells {
        let id = &cell.id;
        let is_good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if id.is_empty() || id.len() > LONGEST || !id.chars().all(is_good) {
            return Err(Error::usage(format!("the cell `{id}` cannot be a build of CodeBuild"))
                .hint("identifiers have 1 to 100 letters, digits and `_`"));
        }
        if [WARM, MERGE].contains(&id.as_str()) {
            return Err(Error::usage(format!("a cell must not be named `{id}`"))
                .hint("add an axis to the [matrix], so that the cell gets a longer name"));
        }
        // In file systems and on pages, letters may differ only in their case.
        if !seen.insert(id.to_ascii_lowercase()) {
            return Err(Error::usage(format!("two cells are named `{id}`")));
        }
    }
    let mut nodes =
        vec![Node { id: WARM.into(), depends_on: Vec::new(), compute_type: warm, ignore_failure: true }];
    nodes.extend(cells.iter().map(|cell| Node {
        id: cell.id.clone(),
        depends_on: vec![WARM.into()],
        compute_type: of_cell(cell),
        ignore_failure: true,
    }));
    nodes.push(Node {
        id: MERGE.into(),
        depends_on: nodes.iter().map(|node| node.id.clone()).collect(),
        compute_type: Some(ComputeType::Small).filter(|_| warm.is_some()),
        ignore_failure: false,
    });
    Ok(nodes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    pub fn cell(id: &str) -> CellIdentity {
        CellIdentity {
            id: id.into(),
            name: "meta-x".into(),
            release: "scarthgap".into(),
            machines: vec![id.into()],
        }
    }

    #[test]
    fn merge_waits_for_all_and_no_failure_stops_it() {
        let large = Some(ComputeType::Large);
        let cells = [cell("scarthgap_a"), cell("scarthgap_b")];
        let nodes = graph(&cells, large, |cell| large.filter(|_| cell.id.ends_with('b'))).unwrap();
        let ids: Vec<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids, ["warm", "scarthgap_a", "scarthgap_b", "merge"]);
        assert_eq!(nodes[1].depends_on, ["warm"]);
        assert_eq!(nodes[3].depends_on, ids[..3]);
        assert_eq!((nodes[1].compute_type, nodes[2].compute_type), (None, large));
        for node in &nodes {
            assert_eq!(node.ignore_failure, node.id != MERGE);
        }
    }

    #[test]
    fn bad_cells_are_refused() {
        let table: [(&[&str], &str); 7] = [
            (&[], "no [matrix]"),
            (&[""], "cannot be a build"),
            (&["a-b"], "cannot be a build"),
            (&["a\nb"], "cannot be a build"),
            (&["warm"], "must not be named"),
            (&["a", "merge"], "must not be named"),
            (&["a", "A"], "two cells"),
        ];
        for (ids, wanted) in table {
            let cells: Vec<CellIdentity> = ids.iter().map(|id| cell(id)).collect();
            let error = graph(&cells, None, |_| None).unwrap_err();
            assert!(error.message.contains(wanted), "{ids:?}: {error}");
        }
        assert!(graph(&[cell(&"a".repeat(LONGEST + 1))], None, |_| None).is_err());
    }
}
