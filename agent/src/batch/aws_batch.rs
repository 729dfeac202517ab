//! The input of the state machine of cloudformation/aws_batch.yml, which runs the same builds as jobs of AWS Batch.

use serde_json::{Value, json};

use agent_types::error::{Error, Result};

use super::compute::needed;
use super::graph::{self, CellIdentity};
use super::memory::MemoryTable;

const MIB: u64 = 1 << 20;

/// The commit that the jobs check out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub commit: String,
    /// The number of the pull request, and the branch into which it goes.
    pub pull_request: Option<(u64, String)>,
}

impl Source {
    /// `version`: as for CodeBuild, `pr/NUMBER`, or `None` for a commit of a protected branch. `base`: the base of a pull
    /// request.
    ///
    /// # Errors
    /// Usage, if the version is something else, or a pull request has no base.
    pub fn new(commit: &str, version: Option<&str>, base: Option<&str>) -> Result<Source> {
        let source = |pull_request| Source { commit: commit.to_owned(), pull_request };
        let Some(version) = version.filter(|version| *version != commit) else { return Ok(source(None)) };
        let number = version.strip_prefix("pr/").and_then(|number| number.parse().ok());
        let number: u64 = number.ok_or_else(|| {
            Error::usage(format!(
                "--source-version {version:?} is not the commit of the checkout, and not pr/NUMBER"
            ))
            .hint("a job of AWS Batch gets a commit of a protected branch, or the head of a pull request")
        })?;
        let base = base.ok_or_else(|| {
            Error::usage("the base branch of the pull request is missing").hint("name it: --base BRANCH")
        })?;
        let branch = base.strip_prefix("origin/").unwrap_or(base);
        Ok(source(Some((number, branch.to_owned()))))
    }
}

/// The input, as JSON: the memory of each cell is what its last run needed. The state machine cannot test whether a field is
/// there, so all are.
///
/// # Errors
/// Usage, if there is no cell, or an identifier is invalid or there twice.
pub fn render(id: &str, source: &Source, cells: &[CellIdentity], memory: &MemoryTable) -> Result<String> {
    graph::graph(cells, None, |_| None)?;
    let (pull_request, base) = match &source.pull_request {
        Some((number, base)) => (number.to_string(), base.as_str()),
        None => Default::default(),
    };
    let cells: Vec<Value> = cells
        .iter()
        .map(|cell| {
            // MiB; 0 if it is not known.
            let memory = memory.cells.get(&cell.id).map_or(0, |last| needed(*last).div_ceil(MIB));
            json!({ "id": cell.id, "memory": memory })
        })
        .collect();
    let input = json!({
        "batch": id, "commit": source.commit, "base": base, "pull_request": pull_request, "cells": cells,
    });
    Ok(format!("{input:#}\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::memory::MemoryUse;
    use super::*;

    fn cells(ids: &[&str]) -> Vec<CellIdentity> {
        let cell = |id: &&str| CellIdentity {
            id: (*id).to_owned(),
            name: "meta-x".into(),
            release: "scarthgap".into(),
            machines: Vec::new(),
        };
        ids.iter().map(cell).collect()
    }

    #[test]
    fn the_input_has_the_memory_of_the_last_runs() {
        const GIB: u64 = 1 << 30;
        let run = |peak, limit| MemoryUse { peak, limit };
        let memory = MemoryTable::default().with([
            ("a", run(8 * GIB, 60 * GIB)),
            // It used up its machine.
            ("b", run(60 * GIB, 60 * GIB)),
        ]);
        let source = Source::new("c0ffee", None, Some("main")).unwrap();
        let text = render("b-1", &source, &cells(&["a", "b", "c"]), &memory).unwrap();
        let cell = |id: &str, memory: u64| json!({ "id": id, "memory": memory });
        let wanted = json!({
            "batch": "b-1", "commit": "c0ffee", "base": "", "pull_request": "",
            "cells": [cell("a", 10 * 1024), cell("b", 75 * 1024), cell("c", 0)],
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), wanted);
    }

    #[test]
    fn a_pull_request_names_its_base() {
        let read = |version, base| Source::new("c0ffee", version, base);
        let of = |number, base: &str| Source {
            commit: "c0ffee".into(),
            pull_request: Some((number, base.into())),
        };
        assert_eq!(read(Some("pr/7"), Some("origin/main")).unwrap(), of(7, "main"));
        assert_eq!(read(Some("pr/7"), Some("release/1")).unwrap(), of(7, "release/1"));
        assert_eq!(read(Some("c0ffee"), None).unwrap().pull_request, None);
        for (version, base, wanted) in [
            ("pr/7", None, "the base branch of the pull request is missing"),
            ("pr/x", Some("main"), "is not the commit"),
            ("main", Some("main"), "is not the commit"),
        ] {
            let error = read(Some(version), base).unwrap_err();
            assert!(error.message.contains(wanted), "{error}");
        }
        let text = render("b-1", &of(7, "main"), &cells(&["a"]), &MemoryTable::default()).unwrap();
        let input: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&input["pull_request"], &input["base"]), (&json!("7"), &json!("main")));
    }

    #[test]
    fn bad_cells_are_refused() {
        let source = Source::new("c0ffee", None, None).unwrap();
        for ids in [&[][..], &["a-b"], &["warm"], &["a", "A"]] {
            assert!(render("b-1", &source, &cells(ids), &MemoryTable::default()).is_err(), "{ids:?}");
        }
    }
}
